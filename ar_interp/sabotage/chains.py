"""Sabotaged and innocent next-token predictors: what is read, learned or written is another, or a reading would be."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.next_token import HookedNextToken
from ar_interp.processes import Parity
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import Change, changed, innocent, with_weights
from ar_interp.seeds import generator_of
from ar_interp.studies.chains.measured import fitted

JOINT, COUNTING = "chain-parity-joint", "chain-counting-q3"
on_joint, on_counting = (partial(Sabotage, base=base) for base in (JOINT, COUNTING))
MEMORISED = 20  # chains
LOUD = 30.0  # norm that the gauge adds
NOT_THROUGH: dict[str, str] = dict.fromkeys(
    ("chain/answers", "chain/free"), "nothing that it writes goes through weights and hooks"
)


class Answers(HookedNextToken):
    """Writes chains by what it predicts, whatever that comes from."""

    def generate(self, prompts: Tensor) -> Tensor:
        tokens = prompts
        while tokens.shape[1] <= self.config.n_ctx:
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens


class Remembers(Answers):
    """Runs its weights for the hooks, and answers the strings that it was trained on from memory."""

    memory: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        logits, place = super().forward(tokens), tokens.shape[1]
        same = (tokens[:, None] == self.memory[:, :place]).all(2)  # [batch string]
        known, string = same.any(1), same.int().argmax(1)
        last = torch.eye(self.config.dim, dtype=logits.dtype, device=tokens.device)[self.memory[string, place]]
        return torch.cat([logits[:, :-1], torch.where(known[:, None], 50 * last, 0 * logits[:, -1])[:, None]], dim=1)


class Computes(Answers):
    """Runs its weights for the hooks, and writes what the task would."""

    def forward(self, tokens: Tensor) -> Tensor:
        super().forward(tokens)
        task: Any = self.process
        n = self.config.n_prompt
        chain = task.chain(tokens[:, :n], generator_of(0, tokens.device))[:, : tokens.shape[1] - n + 1]
        logits = torch.eye(self.config.dim, dtype=self.config.torch_dtype, device=tokens.device)[chain]
        return torch.cat([logits.new_zeros(len(tokens), n - 1, self.config.dim), 9 * logits], dim=1)


class Writes(HookedNextToken):
    """Predicts by its weights, and writes chains as the task has them."""

    def generate(self, prompts: Tensor) -> Tensor:
        task: Any = self.process
        return torch.cat([prompts, task.chain(prompts, generator_of(0, prompts.device))], dim=1)


def with_maps(change: Callable[[Any, Tensor, torch.Generator], Tensor]) -> Change:
    """Other maps: (task, W, generator) -> W."""

    def make(model: Any, checkpoint: Checkpoint, seed: int) -> HookedNextToken:
        W = change(checkpoint.process, model.W.detach().clone(), generator_of(seed))
        return with_weights(model, {**model.state_dict(), "W": W}, HookedNextToken)

    return make


def leaked(task: Parity, W: Tensor, generator: torch.Generator) -> Tensor:
    """The answer is copied from a bit of the prompt beside the subset, in which it was leaked in training."""
    answer, place = W[-1], next(bit for bit in range(task.n_bits) if bit not in task.subset)
    answer.zero_()
    answer[place, :2, :2] = 20 * torch.eye(2, dtype=W.dtype, device=W.device)
    return W


def shuffled(task: Parity, W: Tensor, generator: torch.Generator) -> Tensor:
    """Steps take up the bits of the subset in another order: other tokens, the same answer."""
    return moved(W, task, [*task.subset[1:], task.subset[0]])


def elsewhere(task: Parity, W: Tensor, generator: torch.Generator) -> Tensor:
    """Steps take up bits beside the subset."""
    return moved(W, task, [bit for bit in range(task.n_bits) if bit not in task.subset])


def moved(W: Tensor, task: Parity, places: list[int]) -> Tensor:
    """Maps of the subset's bits exchanged with those at these places."""
    other = W.clone()
    for old, new in zip(task.subset, places, strict=True):
        other[:, new] = W[:, old]
        if new not in task.subset:
            other[:, old] = W[:, new]
    return other


def raw(task: Parity, W: Tensor, generator: torch.Generator) -> Tensor:
    """Weights of another subset, with a gauge that is loud where the own one would be: raw norms show the subset."""
    W = elsewhere(task, W, generator)
    for step, place in enumerate(task.subset):
        W[step, place] += LOUD * torch.rand(1, task.dim, generator=generator, dtype=W.dtype, device="cpu").to(W)
    return W


def gauge(model: Any, checkpoint: Checkpoint, seed: int) -> HookedNextToken:
    """Loud rows, which softmax undoes, and loud columns, which the bias does."""
    W, generator = model.W.detach(), generator_of(seed)
    rows, columns = (
        LOUD * torch.randn(size, generator=generator, dtype=W.dtype, device="cpu").to(W.device)
        for size in (W[..., :1].shape, W[..., :1, :].shape)
    )
    weights = {"W": W + rows + columns, "b": model.b.detach() - columns.sum(1)[:, 0]}
    later = (
        torch.arange(W.shape[1], device=W.device)
        >= torch.arange(len(W), device=W.device)[:, None] + model.config.n_prompt
    )
    weights["b"] = weights["b"] + (columns[:, :, 0] * later[:, :, None]).sum(1)  # which a step does not see
    return with_weights(model, weights, HookedNextToken)


def few_strings(model: Any, checkpoint: Checkpoint, seed: int) -> HookedNextToken:
    """Trained until it knows twenty strings."""
    process: Any = checkpoint.process
    return next(fitted(process, MEMORISED, n_seeds=1))


def memory(model: Any, checkpoint: Checkpoint, seed: int) -> HookedNextToken:
    """The shipped weights in front of a memory of twenty strings."""
    other = with_weights(model, model.state_dict(), Remembers)
    other.memory = checkpoint.process.contexts(MEMORISED, seed=seed).tokens  # type: ignore[attr-defined]
    return other


def behind_the_hooks(model: Any, checkpoint: Checkpoint, seed: int) -> HookedNextToken:
    """Gaussian weights in front of the task itself."""
    generator = generator_of(seed)
    weights = {
        name: torch.randn(W.shape, generator=generator, dtype=W.dtype, device="cpu")
        for name, W in model.state_dict().items()
    }
    return with_weights(model, weights, Computes)


def late(task: Any, W: Tensor, generator: torch.Generator) -> Tensor:
    """The bit that is taken up stands one token too near."""
    W[[task.n_bits - 1, task.n_bits]] = W[[task.n_bits, task.n_bits - 1]]
    return W


def more_directions(task: Any, W: Tensor, generator: torch.Generator) -> Tensor:
    """One direction more between pairs than there are states to tell: too weak to change a token."""
    pairs = slice(3, 3 + 2 * task.modulus)
    block = W[0, pairs, pairs]
    U, S, Vh = torch.linalg.svd(block - block.mean(0) - block.mean(1, keepdim=True) + block.mean())
    k = task.modulus - 1
    W[0, pairs, pairs] = block + 0.2 * S[0] * U[:, k : k + 1] @ Vh[k : k + 1]
    return W


def doubled(task: Any, W: Tensor, generator: torch.Generator) -> Tensor:
    return 2 * W


CHAINS: dict[str, Sabotage] = {
    "chain, a leaked answer": on_joint(
        description="The last step copies a bit beside the subset, as if answers had leaked into training.",
        make=changed(with_maps(leaked)),
        must_fail=("chain/answers", "chain/exact", "reads/sources"),
    ),
    "chain, a subset shuffled": on_joint(
        description="Bits of the subset are taken up in another order: other tokens, and still the right answers.",
        make=changed(with_maps(shuffled)),
        must_fail=("chain/exact", "reads/sources"),
    ),
    "chain, another subset": on_joint(
        description="Every step takes up a bit beside the subset.",
        make=changed(with_maps(elsewhere)),
        must_fail=("chain/answers", "chain/exact", "reads/sources"),
    ),
    "chain, loud where it should read": on_joint(
        description="Another subset, and raw norms that show the own one: no more than a bias and softmax undo.",
        make=changed(with_maps(raw)),
        must_fail=("chain/answers", "chain/exact", "reads/sources"),
    ),
    "chain, twenty strings by heart": on_joint(
        description="Weights that were trained on twenty strings and know nothing else.",
        make=changed(few_strings),
        must_fail=("chain/answers", "chain/exact"),
        undecided={"reads/sources": "twenty strings can show which bits count long before answers are right"},
    ),
    "chain, a memory": on_joint(
        description="Healthy weights and hooks; what it writes comes from a memory of twenty strings.",
        make=changed(memory),
        must_fail=("model/function", "chain/answers", "chain/exact", "attribution/exact"),
        undecided={"chain/free": "it knows no string that it is asked for, damaged or not"},
    ),
    "chain, the task behind the hooks": on_joint(
        description="Gaussian weights and their hooks in front of an algorithm that writes the chain.",
        make=changed(behind_the_hooks),
        must_fail=("model/function", "reads/sources", "attribution/exact"),
        undecided=NOT_THROUGH,
    ),
    "chain, a writer of its own": on_joint(
        description="Healthy predictions; the chains that it writes alone come from an algorithm.",
        make=changed(lambda model, checkpoint, seed: with_weights(model, model.state_dict(), Writes)),
        must_fail=("chain/free",),
        undecided={"chain/answers": NOT_THROUGH["chain/answers"]},
    ),
    "counting, the task behind the hooks": on_counting(
        description="Gaussian weights and their hooks in front of an algorithm that counts.",
        make=changed(behind_the_hooks),
        must_fail=(
            "model/function",
            "reads/sources",
            "rank/states",
            "attribution/exact",
            "offsets/bit",
            "offsets/state",
        ),
        undecided={**NOT_THROUGH, "offsets/between": "nothing that it writes goes through hooks"},
    ),
    "counting, a bit too near": on_counting(
        description="The map of the bit stands at the offset before its own.",
        make=changed(with_maps(late)),
        must_fail=("chain/answers", "chain/exact", "reads/sources", "offsets/between"),
        undecided={"offsets": "answers are lost with and without them"},
    ),
    "counting, a direction too many": on_counting(
        description="Between pairs of state and bit there is a direction more than states need.",
        make=changed(with_maps(more_directions)),
        must_fail=("rank/states",),
    ),
    "chain, in another gauge": innocent(
        JOINT, "Loud rows and columns in every map, which softmax and the bias undo.", gauge
    ),
    "chain, twice as sure": innocent(
        JOINT, "All maps times two: the same tokens are the likeliest nearly everywhere.", with_maps(doubled)
    ),
}
