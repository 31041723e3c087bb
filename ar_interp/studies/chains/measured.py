"""Readings of next-token predictors that claims are made of, and the trainings that they are compared with."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_choice, check_integer
from ar_interp.claims import Estimate, Measured
from ar_interp.claims.estimate import SEEDS
from ar_interp.models.next_token import HookedNextToken
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.probes.chains import Attributions, ChainAccuracy, ReadSources, attribute, chain_accuracy, read_sources
from ar_interp.processes import Chains, ChainTask, Parity
from ar_interp.theory import noisy_xor_loss
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

ENOUGH = 0.99  # of the answers
LEAST_SEEDS = 8
NEEDED = 4000
DAMAGED = 1000
PART = 500  # chains at once
NUMBERS = 2**22  # contributions at once
FEW = 200  # chains on which weights are read
RIDGE, STEPS = 1e-4, 40
SHOWN = (25, 50, 100, 200, 400)  # chains to train on, in a figure
WIDTH, NETWORK_LR, NETWORK_STEPS = 128, 3e-3, 400  # of a network without a chain
LISTED = 20  # bits of which all prompts are listed
LEVELS = (0.5, 1.0, 2.0, 4.0)  # of noise on weights, over their own root mean square


def fitted(task: ChainTask, n_samples: int, *, n_seeds: int, steps: int = STEPS) -> Iterator[HookedNextToken]:
    """Absolute predictors of n chains each, by L-BFGS with a ridge, each seed with chains of its own."""
    config = NextTokenConfig.of(task)
    training = TrainConfig(
        objective="sampled", fresh=False, optimizer="lbfgs", ridge=RIDGE, batch=n_samples, steps=steps,
        first_length=task.n_prompt, n_seeds=n_seeds, device="cpu",
    )  # fmt: skip
    run = train(config, task, training, progress=False)
    for k in range(n_seeds):
        model = config.build(task).requires_grad_(False)
        model.load_state_dict({name: W[k] for name, W in run.ensemble.items()})
        yield model


@dataclass(frozen=True, kw_only=True)
class Record:
    """The seeds of a training.

    Attributes:
        n_samples: chains that each was trained on.
        exact_by_seed: the share of fresh chains without a mistake.
    """

    n_samples: int
    exact_by_seed: Float[np.ndarray, "seed"]

    @property
    def n_seeds(self) -> int:
        return len(self.exact_by_seed)

    @property
    def exact(self) -> Estimate:
        """The mean over seeds."""
        return Estimate.mean(self.exact_by_seed, SEEDS)

    def reaching(self, enough: float = ENOUGH) -> Estimate:
        """The share of seeds that write so many of the chains without a mistake."""
        return Estimate.share(int((self.exact_by_seed >= enough).sum()), self.n_seeds, SEEDS)


def few(config: NextTokenConfig) -> int:
    """Number of chains whose contributions fit into memory some times."""
    return max(4, min(FEW, NUMBERS // (config.n_chain * config.n_sources * config.dim)))


class ChainsMeasured(Measured):
    """A next-token predictor: the chains that it writes, and what its weights read."""

    SOURCE = "Malach 2023, arXiv 2309.06979; derived here"
    NEEDED = NEEDED

    @cached_property
    def contexts(self) -> Chains:
        """Fresh chains, of what training has not seen."""
        drawn = self.process.unseen.contexts(self.subject.size(self.needed), seed=self.subject.seed_of(seeds.CLAIMS))
        return drawn.to(self.device)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def needed(self) -> int:
        """Chains that errors are planned with: every one of a task that has fewer."""
        return min(NEEDED, self.setting.n_unseen or NEEDED)

    @cached_property
    def few(self) -> Chains:
        """The chains on which weights are read: they say which symbols occur where."""
        return self.contexts[: few(self.config)]

    @cached_property
    def accuracy(self) -> ChainAccuracy:
        """Accuracy of the model as it is."""
        return chain_accuracy(self.model, self.contexts)

    def share(self, accuracy: ChainAccuracy, of: str = "answer") -> Estimate:
        """A share of chains that are right, with its interval."""
        return Estimate.share(round(getattr(accuracy, of) * accuracy.n), accuracy.n)

    def without(self, *sources: int) -> Estimate:
        """The share of right answers with the contribution of some sources set to 0."""
        return self.share(chain_accuracy(self.model, self.contexts, without=sources))

    @cached_property
    def read(self) -> ReadSources:
        """Norms of the centred maps."""
        return read_sources(self.model, self.few)

    @property
    def reads_where_exact(self) -> float:
        """The share of steps whose largest maps are at exactly the sources of the exact weights.

        A token that says the same as one of these is read as much but for rounding: it does not count.
        """
        wanted: Any = self.setting.made_of
        table = self.read.singular_values.norm(dim=-1).cpu().numpy()
        first = 0 if self.config.window is None else 1
        hits = []
        for norms, want in ((norms, want) for norms, want in zip(table, wanted, strict=True) if want):
            seen = norms[: self.config.n_prompt] if max(want) < self.config.n_prompt and not first else norms
            own = [source - first for source in want]
            left_out = own if first else [*own, *self._copies(own)]
            hits.append(seen[own].min() > np.delete(seen, [k for k in left_out if k < len(seen)]).max(initial=0))
        return sum(hits) / len(hits)

    def _copies(self, sources: list[int]) -> list[int]:
        """The places whose token follows from that of one of the sources, and the other way round."""
        columns = self.few.inputs.T.tolist()

        def same(a: list[int], b: list[int]) -> bool:
            return len({*zip(a, b, strict=True)}) == len({*a}) == len({*b})

        return [k for k, column in enumerate(columns) if any(same(column, columns[source]) for source in sources)]

    @cached_property
    def running(self) -> "ChainsMeasured":
        """Predictor of the running parity after `FEW` chains, none of whose tokens but the first can be read."""
        task = self.setting.with_chain("running")
        model = next(fitted(task, FEW, n_seeds=1))
        return ChainsMeasured(replace(self.subject, model=model, config=model.config, process=task, run=None))

    @cached_property
    def attributed(self) -> Attributions:
        """Direct attribution, ablation and patching of every logit."""
        return attribute(self.in_double, self.few)

    @cached_property
    def in_double(self) -> HookedNextToken:
        """A copy of the model in double precision, in which rounding is told from a difference."""
        model = deepcopy(self.model).double()
        model.process = self.process
        return model

    @torch.no_grad()
    def attribution_of_probabilities(self) -> float:
        """Attribution of log-probabilities, which are no sums: the loss without a source less what its logits add."""
        contexts, first = self.few, self.config.n_prompt - 1
        whole = contexts.errors(self.in_double(contexts.inputs))[:, first:]
        place = 0

        def cut(value: Tensor, hook: object) -> Tensor:
            value = value.clone()
            value[:, :, place] = 0
            return value

        with self.in_double.hooks(fwd_hooks=[("hook_contributions", cut)]):
            without = contexts.errors(self.in_double(contexts.inputs))[:, first:]
        return ((without - whole) - self.attributed.direct[:, :, place]).abs().max().item()

    @cached_property
    @torch.no_grad()
    def damaged(self) -> ChainAccuracy:
        """Accuracy with as much noise on the weights as leaves fewer than nine in ten chains."""
        generator, found = seeds.generator_of(seeds.UNTRAINED), self.accuracy
        noise = [
            torch.randn(W.shape, generator=generator, dtype=W.dtype, device="cpu") for W in self.model.parameters()
        ]
        for level in LEVELS:
            model = deepcopy(self.model).requires_grad_(False)
            for W, drawn in zip(model.parameters(), noise, strict=True):
                W += level * W.square().mean().sqrt() * drawn.to(W.device)
            found = chain_accuracy(model, self.contexts[:DAMAGED])
            if found.teacher_forced < 0.9:
                break
        return found

    def grams(self, n: int, *, part: str = "held-out", add: float = 0.05) -> float:
        """The loss of the table of n characters, counted on what is trained on, on a part of the text."""
        from ar_interp.estimators.chains import NGrams

        task = self.process
        parts = {"train": task, "held-out": task.unseen}
        table = NGrams.fit(task.ids, n=n, n_symbols=task.dim, add=add)
        return table.losses(parts[part].ids).mean().item()

    @property
    def held_out_loss(self) -> Estimate:
        """Nats per character of the text that is held out."""
        return Estimate.mean(self._losses(self.contexts))

    @property
    def training_loss(self) -> float:
        """Nats per character of all that is trained on."""
        task = self.process
        return self._losses(task.contexts(task.n_windows, seed=0).to(self.device)).mean().item()

    @torch.no_grad()
    def _losses(self, contexts: Chains) -> Float[Tensor, "batch"]:
        return torch.cat([part.losses(self.model(part.inputs)) for part in contexts.split(PART)])

    def elimination(self) -> Estimate:
        """The share of answers that elimination over GF(2) gets right, from a few more strings than there are bits."""
        from ar_interp.estimators.chains import ParityElimination

        task = self.process
        found = ParityElimination.fit(task.contexts(2 * task.n_bits, seed=self.subject.seed_of(seeds.ESTIMATES)))
        right = found(self.contexts.tokens[:, : task.n_bits]) == self.contexts.tokens[:, -1]
        return Estimate.share(int(right.sum()), len(right))

    def next_singular_value(self, W: Float[Tensor, "source in_ out"]) -> float:
        """The q-th singular value of the newest token's map over the one before, from pairs (state, bit) to such."""
        model = self.config.build(self.process).requires_grad_(False)
        model.load_state_dict({**self.model.state_dict(), "W": W})
        pairs = self.setting.pairs
        values = read_sources(model.to(W.device), self.few, symbols=pairs, written=pairs).singular_values[0, 0]
        q = self.process.modulus
        return (values[q - 1] / values[q - 2]).item()

    @cached_property
    def gaussian(self) -> HookedNextToken:
        """Weights of a Gaussian law in the same architecture."""
        generator = seeds.generator_of(seeds.UNTRAINED)
        model = self.config.build(self.process).requires_grad_(False)
        for W in model.state_dict().values():
            W.copy_(torch.randn(W.shape, generator=generator, dtype=torch.float64, device="cpu"))
        return model.to(self.device)

    @cached_property
    def newest(self) -> Float[Tensor, "in_ out"]:
        """The map of the newest token of a window, centred."""
        W = self.model.W.detach()[0]
        return W - W.mean(0) - W.mean(1, keepdim=True) + W.mean()

    @property
    def successors(self) -> list[int]:
        """The likeliest symbol after each."""
        return self.newest.argmax(-1).tolist()

    @property
    def angles(self) -> Float[Tensor, "eigenvalue"]:
        """Angles of the eigenvalues of the map of the newest token, but for 0, that of the gauge; sorted."""
        return _angles(self.newest.cpu())

    def angles_of(self, permutation: tuple[int, ...]) -> Float[Tensor, "eigenvalue"]:
        """Angles of the permutation's eigenvalues, less one eigenvalue of 1."""
        n = len(permutation)
        P = torch.eye(n, dtype=torch.float64, device="cpu")[list(permutation)]
        return _angles(P - 1 / n)

    @property
    def rule(self) -> float:
        """The loss of the noisy xor for who knows its rule."""
        return noisy_xor_loss(self.process.flip, window=None)

    @property
    def share_of_third(self) -> float:
        """The share of the third newest token in the squared norm of the centred maps of a window."""
        squares = self.read.singular_values[0].square().sum(-1)
        return (squares[2] / squares.sum()).item()

    @property
    def weight_of_third(self) -> float:
        """Half of what the third newest bit changes in the difference of the logits of 1 and 0."""
        W = self.model.W.detach()[2]
        return ((W[1, 1] - W[1, 0] - W[0, 1] + W[0, 0]) / 2).item()

    @property
    def record(self) -> "Record | None":
        """Record of the seeds of its training; None for a model alone."""
        run = self.subject.run
        if run is None or "exact" not in run.members or len(run.members) < LEAST_SEEDS:
            return None
        return Record(n_samples=run.training.batch, exact_by_seed=run.members["exact"].to_numpy())

    def reaching(self, task: ChainTask, n_samples: int, enough: float = ENOUGH) -> Estimate:
        """The share of ten seeds that write `enough` of the chains without a mistake after training on so many."""
        fresh = task.unseen.contexts(self.subject.size(NEEDED) // 2, seed=self.subject.seed_of(seeds.CLAIMS))
        exact = [chain_accuracy(model, fresh).teacher_forced for model in fitted(task, n_samples, n_seeds=10)]
        return Record(n_samples=n_samples, exact_by_seed=np.array(exact)).reaching(enough)

    def mean_answer(self, task: ChainTask, n_samples: int, n_seeds: int) -> Estimate:
        """The mean share of right answers over seeds of training on so many chains."""
        fresh = task.unseen.contexts(self.subject.size(self.needed), seed=self.subject.seed_of(seeds.CLAIMS))
        found = [chain_accuracy(model, fresh).answer for model in fitted(task, n_samples, n_seeds=n_seeds)]
        return Estimate.mean(np.array(found), SEEDS)


def answers_by_samples(
    task: Parity, samples: tuple[int, ...] = SHOWN, n_seeds: int = 2, chains: tuple[str, ...] = ("running", "none")
) -> pd.DataFrame:
    """Right answers on fresh prompts after training, by chain: columns chain, n_samples, seed, answer.

    Raises:
        ValueError: another task than parity, an unknown chain, or no number of samples.
    """
    if not isinstance(task, Parity) or not samples:
        raise ValueError(f"task must be a Parity and samples several numbers, got {task!r} and {samples!r}.")
    rows = []
    for chain in dict.fromkeys((task.chain_of, *chains)):
        of_chain = Parity(task.n_bits, task.subset, chain_of=chain)
        fresh = of_chain.contexts(NEEDED // 2, seed=seeds.EXHIBITS)
        for n in samples:
            for seed, model in enumerate(fitted(of_chain, n, n_seeds=n_seeds, steps=STEPS // 2)):
                answer = chain_accuracy(model, fresh).answer
                rows.append({"chain": chain, "n_samples": n, "seed": seed, "answer": answer})
    return pd.DataFrame(rows)


def _angles(W: Float[Tensor, "in_ out"]) -> Float[Tensor, "eigenvalue"]:
    values = torch.linalg.eigvals(W)
    return values[values.abs().argsort(descending=True)[:-1]].angle().sort().values  # noqa: PD011 - of torch


def hardest_margin(task: Parity) -> float:
    """(R / gamma)^2 of the hardest token of a chain of two symbols, at the widest margin on all prompts of its bits.

    Raises:
        ValueError: a chain of more symbols, or one with a token that is no halfspace.
    """
    from sklearn.svm import SVC

    check_choice("the chain of the task", task.chain_of, ("and-xor", "digits"))
    whole = Parity(len(task.subset), chain_of=task.chain_of)
    tokens = 2 * all_strings(whole).double() - 1
    labels = torch.tensor([1, -1], dtype=torch.int64, device="cpu").repeat_interleave(len(tokens)).numpy()
    found = []
    for place in range(whole.n_bits, tokens.shape[1]):
        x = torch.cat([tokens[:, :place], torch.ones_like(tokens[:, :1])], dim=1) * tokens[:, place, None]
        fit = SVC(kernel="linear", C=1e7, tol=1e-6).fit(torch.cat([x, -x]).numpy(), labels)  # no threshold: x and -x
        w = torch.tensor(fit.coef_[0], dtype=torch.float64, device="cpu")
        found.append((place + 1) / ((x @ w).min() / w.norm()).item() ** 2)
    return max(found)


def all_strings(task: Parity) -> Tensor:
    """Every prompt with its chain.

    Raises:
        ValueError: another task than parity, or prompts of more bits than can be listed.
    """
    if not isinstance(task, Parity):
        raise ValueError(f"task must be a Parity, got {task!r}.")
    check_integer("n_bits", task.n_bits, low=1, high=LISTED)
    numbers = torch.arange(2**task.n_bits, device="cpu")
    prompts = numbers[:, None] >> torch.arange(task.n_bits, device="cpu") & 1
    return torch.cat([prompts, task.chain(prompts, seeds.generator_of(0))], dim=1)


def gradient_at_zero(task: Parity, first: int = 0) -> float:
    """The largest gradient of the expected loss at W = 0, over all prompts and the tokens of the chain from `first` on.

    The loss is convex: where this is 0 no weights do better than a guess.

    Raises:
        ValueError: another task than parity, too many bits, or a token that the chain does not have.
    """
    check_integer("first", first, low=0, high=task.n_chain - 1)
    tokens = all_strings(task)
    one_hot = torch.eye(task.dim, dtype=torch.float64, device="cpu")[tokens]
    largest = 0.0
    for place in range(task.n_bits + first, tokens.shape[1]):
        missed = one_hot[:, place] - 1 / task.dim
        gradient = one_hot[:, :place].flatten(1).T @ missed / len(tokens)
        largest = max(largest, gradient.abs().max().item())
    return largest


def network_answers(task: Parity, n_samples: int, n_seeds: int) -> Estimate:
    """The share of right answers of a network that is given the prompt alone, over seeds: one layer of ReLUs, Adam."""
    fresh = task.contexts(NEEDED, seed=seeds.CLAIMS)
    found = []
    for seed in range(n_seeds):
        generator = seeds.generator_of(seed)
        x, y = _signs(task.contexts(n_samples, generator=generator))
        sizes = ((task.n_bits, WIDTH), (WIDTH, 1))
        draws = [torch.randn(size, generator=generator, device="cpu", dtype=torch.float32) for size in sizes]
        W_in, W_out, b = (
            *((2 / len(W)) ** 0.5 * W for W in draws),
            torch.zeros(WIDTH, device="cpu", dtype=torch.float32),
        )
        weights = [W.requires_grad_() for W in (W_in, W_out, b)]
        optimizer = torch.optim.Adam(weights, lr=NETWORK_LR)
        with torch.enable_grad():
            for _ in range(NETWORK_STEPS):
                optimizer.zero_grad()
                logits = torch.relu(x @ W_in + b) @ W_out
                torch.nn.functional.softplus(-y * logits[:, 0]).mean().backward()
                optimizer.step()
        x, y = _signs(fresh)
        found.append((y * (torch.relu(x @ W_in + b) @ W_out)[:, 0] > 0).double().mean().item())
    return Estimate.mean(np.array(found), SEEDS)


def _signs(contexts: Chains) -> tuple[Tensor, Tensor]:
    """Prompts and answers as +-1."""
    prompts, answers = contexts.tokens[:, : contexts.n_prompt], contexts.tokens[:, -1]
    return (2.0 * prompts - 1).float(), (2.0 * answers - 1).float()
