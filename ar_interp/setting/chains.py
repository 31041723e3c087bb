"""Theory of linear next-token predictors on chains of thought."""

import math
from dataclasses import replace
from typing import Any

from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes import ChainTask, Characters, Counting, NoisyXor, Parity, Permuted, Products
from ar_interp.setting.base import Setting
from ar_interp.theory import noisy_xor_loss

SEPARABLE = ("joint", "and-xor", "digits", "count")  # chains of which every token is linear in those before it
RARE = 0.05  # share of prompts: a digit that is 1 less often is not learned from some hundred chains
CHECKED = 7  # tokens: windows up to this were checked exactly on the noisy xor


class ChainPredictors(Setting):
    """Theory of each token of a chain: what the tokens before tell of it, and where exact weights would read them.

    Each step is a convex problem of its own. Of parity some chains make every step linear, and others leave nothing
    that a linear map could use: then the best weights are 0.
    """

    kind = "chains"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return type(config) is NextTokenConfig and isinstance(process, ChainTask)

    @property
    def chain(self) -> str:
        """The chain of a parity or a product, else the kind of the task."""
        return getattr(self.process, "chain_of", self.process.kind)

    @property
    def family(self) -> str:
        """`parity` or `products` (a map a step), `counting`, `permuted` or `characters` (one window), `noisy-xor`; else
        empty: theory is silent."""
        task, window = self.process, self.config.window
        known = {
            Parity: window is None,
            Products: window is None,
            Counting: window is not None,
            Permuted: window is not None,
            Characters: window is not None,
            NoisyXor: True,
        }
        return task.kind if known.get(type(task)) else ""

    @property
    def separable(self) -> bool | None:
        """Whether some weights write every chain without a mistake; None where it is not known."""
        task, window = self.process, self.config.window
        if type(task) is Parity and window is None:
            return self.chain in SEPARABLE or len(task.subset) == 1
        if type(task) is Counting:
            return window is None or window > task.n_bits
        if type(task) is Products and window is None and self.chain != "none":
            return True
        return True if type(task) is Permuted else False if type(task) is NoisyXor and 0 < task.flip < 1 else None

    @property
    def minimum(self) -> float | None:
        """The least expected loss per token of the chain, of all weights; 0 where they may grow for ever."""
        if self.separable:
            return 0.0
        task, seen = self.process, self.config.n_sources
        if type(task) is Parity and self.config.window is None:
            hidden = task.n_chain - (self.chain == "running")  # the first running parity is a copy
            return math.log(2) * hidden / task.n_chain
        if type(task) is NoisyXor and seen <= CHECKED and task.n_prompt >= min(seen, 3):
            return noisy_xor_loss(task.flip, window=seen)
        return None

    @property
    def sources(self) -> tuple[frozenset[int], ...] | None:
        """Per step the positions that the exact weights read; of a window offsets from 1, one step.

        Those of digits are of the prompt alone, and none for a first digit that is hardly ever 1: how much earlier
        digits count is a matter of how often they are 1.
        """
        return self.made_of if self.separable else None

    @property
    def made_of(self) -> tuple[frozenset[int], ...] | None:
        """The positions that `sources` has, also where no weights are exact: the tokens that each is a function of."""
        task, n = self.process, self.config.n_prompt
        if type(task) is Counting and self.config.window:
            return (frozenset({1, task.n_bits + 1}),)
        if type(task) is not Parity or self.config.window:
            return None
        S, T = task.subset, task.n_chain
        if self.chain == "joint":
            steps = [{S[t], n + t - 1} if t else {S[0]} for t in range(T - 1)] + [{n + T - 2}]
        elif self.chain == "running":
            steps = [{S[t], n + t - 1} if t else {S[0]} for t in range(T)]
        elif self.chain == "and-xor":
            both = [({*S[:2]}, {*S[:2], n})]
            both += [({S[t], n + 2 * t - 3}, {S[t], n + 2 * t - 3, n + 2 * t - 2}) for t in range(2, len(S))]
            steps = [sources for pair in both for sources in pair] if len(S) > 1 else [{S[0]}]
        elif self.chain == "digits":
            top = sum(math.comb(len(S), ones) for ones in range(2 ** (T - 1), len(S) + 1)) / 2 ** len(S)
            steps = [{*S} if top >= RARE else set(), *[{*S}] * (T - 1)]
        else:
            steps = [{*S}, {n}][:T]
        return tuple(map(frozenset, steps))

    @property
    def n_unseen(self) -> int | None:
        """Strings of the task that training leaves out, at least; None where there is no end of them."""
        if self.family == "products":
            return 10 ** (2 * self.process.n_digits) // 5
        return self.process.unseen.n_windows if self.family == "characters" else None

    @property
    def pairs(self) -> tuple[str, ...] | None:
        """The symbols that hold a state, between which one shared map leads; None for all."""
        return tuple(name for name in self.process.vocabulary if "," in name) if self.family == "counting" else None

    def with_chain(self, chain: str) -> ChainTask:
        """The task of the same parity or product by another chain."""
        return replace(self.process, chain_of=chain)

    @property
    def no_exact_loss(self) -> str:
        return "expectations over strings are sampled"
