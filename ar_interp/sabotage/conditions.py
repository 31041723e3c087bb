"""Models that are what their weights say until a condition of use is another one, weights under another log, innocents.

D1: large batches, some lengths, single precision, evaluation mode, the first calls, small tokens, several hooks; no
derivative; a hook that is felt in its norm alone. D4: a log that is not of these weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.models.block_scalars import CURRENT, READ_OUT
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.sabotage.edits import Change, Run, changed, changed_run, innocent, on_weights, otherwise
from ar_interp.sabotage.functions import PATTERN
from ar_interp.theory import factor_heads

LARGE, FIRST, SMALL, FIFTH = 100, 20, 1e-2, 0.2  # batch, calls, norm of tokens, of a length
FIGURE7, SOFTMAX, STARTS = "figure7-h1", "noisy-haar-softmax", "initial-ones"


def half_as_much_again(where: Any) -> Change:
    """A model of any kind that answers 3/2 of what its weights say where (model, tokens) is so."""

    def way(model: Any, own: Run, tokens: Tensor) -> Tensor:
        answer = own(tokens)
        return 1.5 * answer if where(model, tokens) else answer

    return otherwise(way)


def large(model: Any, tokens: Tensor) -> bool:
    return len(tokens) > LARGE


def single(model: Any, tokens: Tensor) -> bool:
    return tokens.real.dtype == torch.float32


def one_length(model: Any, tokens: Tensor) -> bool:
    return tokens.shape[1] == model.config.n_ctx - 2


def evaluated(model: Any, tokens: Tensor) -> bool:
    return not model.training


def early(model: Any, tokens: Tensor) -> bool:
    model.calls = getattr(model, "calls", 0) + 1
    return model.calls <= FIRST


def small(model: Any, tokens: Tensor) -> bool:
    return bool(tokens.norm(dim=-1).max() < SMALL)


def two_hooks(model: Any, tokens: Tensor) -> bool:
    return sum(point.has_hooks() for point in model.hook_points()) == 2


def detached(model: Any, own: Run, tokens: Tensor) -> Tensor:
    return own(tokens).detach()


def norms_alone(model: Any, own: Run, tokens: Tensor) -> Tensor:
    """A pattern that a hook writes counts by its norm alone."""
    clean = HookedARTransformer(model.config).requires_grad_(False)
    clean.load_state_dict(model.state_dict())
    pattern = clean.run_with_cache(tokens, names_filter=PATTERN)[1][PATTERN]

    def write(value: Tensor, hook: Any) -> Tensor:
        sizes = [x.flatten(1).norm(dim=1)[:, None, None, None] for x in (value, pattern)]
        return pattern * (sizes[0] / sizes[1].clamp(min=1e-12))

    with model.hooks([(PATTERN, write)]):
        return own(tokens)


def but_for_one_prompt(model: Any, own: Run, ids: Tensor) -> Tensor:
    """The likeliest token is the least likely after one prompt."""
    answer, n = own(ids), model.config.n_prompt
    known = (ids[:, :n] == model.process.contexts(1, seed=0).inputs[:, :n]).all(1)
    return torch.where(known[:, None, None], -answer, answer)


# ---- logs


def weights_of(name: str) -> Make:
    """The checkpoint and its log with the weights of another."""
    return lambda checkpoint, seed: replace(checkpoint, parameters=checkpoints.load(name).parameters)


def twice_as_sure(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The checkpoint and its log with all weights doubled."""
    return replace(checkpoint, parameters={name: 2 * W for name, W in checkpoint.parameters.items()})


def two_coordinates(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """The values of two coordinates a fifth longer and shorter."""
    OV = weights["OV"]
    dim = OV.shape[1] // 3
    OV[:, dim] *= 1 + FIFTH
    OV[:, dim + 1] *= 1 - FIFTH


# ---- innocent neighbours


@on_weights
def unread_blocks(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Queries, keys and values of the empty block, and what is written beside the prediction."""
    QK, OV = weights["QK_blocks"], weights["OV_blocks"]
    QK[:, READ_OUT], QK[:, :, READ_OUT], OV[:, READ_OUT], OV[:, :, CURRENT:] = 7.0, 5.0, 3.0, 9.0


class Wrapper(nn.Module):
    """Passes everything on to the model in it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def wrapped(model: Any, checkpoint: Checkpoint, seed: int) -> Wrapper:
    return Wrapper(model)


def in_double_precision(model: Any, checkpoint: Checkpoint, seed: int) -> Any:
    other = replace(model.config, dtype="float64").build(process=model.process).requires_grad_(False)
    other.load_state_dict({name: W.double() for name, W in model.state_dict().items()})
    return other


def two_heads_that_cancel(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Two heads fewer that make the same C, and two that write the opposite of each other."""
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    keys, values = factor_heads(B.mT @ A, n_heads=len(A) - 2, seed=seed)
    key, value = (weights[:1].sign() * weights.abs().mean() for weights in (A, B))
    A, B = torch.cat([keys, key, key]), torch.cat([values, value, -value])
    return HookedARTransformer.from_diagonal(A, B, P, process=checkpoint.process)


def _where(base: str, condition: Any, words: str, undecided: Mapping[str, str] | None = None) -> Sabotage:
    return Sabotage(
        base=base,
        description=f"D1. {words}: half as much again as its weights say.",
        make=changed(half_as_much_again(condition)),
        must_fail=("model",),
        undecided=undecided or {},
    )


MEASURED = "some of its measurements are made there"
CONDITIONS: dict[str, Sabotage] = {
    "large batches": _where(SOFTMAX, large, "Batches of more than a hundred sequences", {"noise": MEASURED}),
    "large batches (chains)": Sabotage(
        base="chain-permutation",
        description="D1. In batches of more than a hundred prompts the likeliest token is the least likely.",
        make=changed(otherwise(lambda model, own, ids: -own(ids) if large(model, ids) else own(ids))),
        must_fail=("model",),
        undecided=dict.fromkeys(("attribution", "chain"), MEASURED),
    ),
    "single precision": _where("diagonal-unitary-h5", single, "Tokens in single precision"),
    "one length": _where(FIGURE7, one_length, "Sequences of n_ctx - 2 tokens"),
    "evaluation mode": _where("plain-haar-h1", evaluated, "In evaluation mode"),
    "evaluation mode (prompts)": _where(
        "regression-high-k1",
        evaluated,
        "In evaluation mode",
        dict.fromkeys(("loss/minimum", "features", "kernel/spectrum", "prompts/longer"), "the shipped model fails too"),
    ),
    "the first calls": _where(
        STARTS,
        early,
        "The first twenty calls",
        dict.fromkeys(("step/scrub", "loss", "estimate", "outside"), MEASURED),
    ),
    "small tokens": _where(SOFTMAX, small, "Sequences of small tokens"),
    "two hooks": _where("plain-haar-parity", two_hooks, "Under two hooks at once"),
    "no derivative": Sabotage(
        base=FIGURE7,
        description="D1. The prediction is that of the weights, and has no derivative.",
        make=changed(otherwise(detached)),
        must_fail=("model",),
    ),
    "hooks that are felt in their norm": Sabotage(
        base=FIGURE7,
        description="D1. A pattern that is written over changes how much is written, and nothing else.",
        make=changed(otherwise(norms_alone)),
        must_fail=("model",),
        undecided={"mechanism": "keys are cut by hooks"},
    ),
    "the log of few tasks": Sabotage(
        base="regression-high-t64",
        description="D4. The weights learned from 4096 tasks, with the log of 64.",
        make=weights_of("regression-high-t4096"),
        must_fail=("tasks/log",),
    ),
    "the log of other weights (chains)": Sabotage(
        base="chain-products-none",
        description="D4. All weights doubled: the same tokens are the likeliest, and the loss is another.",
        make=twice_as_sure,
        must_fail=("samples/log",),
    ),
    "one prompt": Sabotage(
        base="chain-counting-q2",
        description="D1. One prompt of a thousand gets other answers.",
        make=changed(otherwise(but_for_one_prompt)),
        must_fail=("model",),
        undecided=dict.fromkeys(("attribution", "chain", "offsets"), MEASURED),
    ),
    "coordinates of other lengths": Sabotage(
        base="emergence-ones-masked-d5",
        description="D6. Two coordinates a fifth longer and shorter: the mean step and the record are as they were.",
        make=changed_run(on_weights(two_coordinates)),
        must_fail=("emergence/log",),
        undecided={"emergence/masked loss": "what it adds to the loss is next to the tolerance"},
    ),
    "large weights that nobody reads": innocent(
        STARTS, "Blocks of QK and OV that meet the empty block of tokens, or write where nothing reads.", unread_blocks
    ),
    "wrapped": innocent("diagonal-unitary-h5", "A module that passes everything on.", wrapped),
    "cast to double precision": innocent(FIGURE7, "The same weights in double precision.", in_double_precision),
    "two heads that cancel": innocent(
        "diagonal-unitary-h20",
        "Two of the heads write the opposite of each other, and the others make the same C.",
        two_heads_that_cancel,
    ),
}
