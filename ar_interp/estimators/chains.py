"""Estimators on chains: elimination over GF(2), which learns a parity that no gradient finds, and counts of n-grams."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.processes.chains import Chains, check_ids


class Solution(NamedTuple):
    """Solutions of equations over GF(2).

    Attributes:
        x: one solution, with 0 where they leave a choice.
        rank: of the equations; the solution is the only one where it is the number of unknowns.
        consistent: there is a solution; else x solves those equations alone that elimination kept.
    """

    x: Bool[Tensor, "column"]
    rank: int
    consistent: bool


def eliminate(A: Bool[Tensor, "row column"], b: Bool[Tensor, "row"]) -> Solution:
    """Solve A x = b modulo 2 by Gauss-Jordan elimination.

    Raises:
        ValueError: other than booleans, or not one of b for each row of A.
    """
    if not isinstance(A, Tensor) or not isinstance(b, Tensor):
        raise ValueError(f"A and b must be tensors of booleans, got {type(A).__name__} and {type(b).__name__}.")
    if A.dtype != torch.bool or b.dtype != torch.bool or A.ndim != 2 or b.shape != A.shape[:1]:
        raise ValueError(
            f"A and b must be booleans [row column] and [row], got {A.dtype} {list(A.shape)} and {b.dtype} "
            f"{list(b.shape)}: pass them by .bool()."
        )
    rows = torch.cat([A, b[:, None]], dim=1)
    n_columns, pivots = A.shape[1], []
    for column in range(n_columns):
        below = rows[len(pivots) :, column].nonzero()
        if len(below) == 0:
            continue
        rank, pivot = len(pivots), len(pivots) + int(below[0])
        rows[[rank, pivot]] = rows[[pivot, rank]]
        others = rows[:, column].clone()
        others[rank] = False
        rows[others] ^= rows[rank]
        pivots.append(column)
    x = torch.zeros(n_columns, dtype=torch.bool, device=A.device)
    x[pivots] = rows[: len(pivots), -1]
    return Solution(x, len(pivots), not bool(rows[len(pivots) :, -1].any()))


@dataclass(frozen=True)
class ParityElimination:
    """The parity of the subset of bits that explains answers, by elimination: n + O(1) chains are enough for n bits.

    From m uniform prompts it is unique with probability prod_{i=m-n+1}^m (1 - 2^-i). Descent on any loss needs
    exponentially many: that parity is hard to learn without a chain is a statement on gradients, not on information.

        subset = ParityElimination.fit(task.contexts(30, seed=0)).subset

    Attributes:
        solution: of the equations, an unknown for each bit of a prompt.
    """

    solution: Solution

    @classmethod
    def fit(cls, chains: Chains) -> "ParityElimination":
        """Find the subset from prompts of bits and their answers; tokens between them are not looked at.

        Raises:
            ValueError: prompts or answers that are no bits, the ids 0 and 1.
        """
        if not isinstance(chains, Chains):
            raise ValueError(
                f"chains must be those of a task, as process.contexts(n, seed=0) gives, got {chains!r:.60}."
            )
        prompts, answers = chains.tokens[:, : chains.n_prompt], chains.answers
        if max(prompts.max(), answers.max()) > 1:
            raise ValueError("chains must have bits, the ids 0 and 1, as prompts and answers, as those of Parity(...).")
        return cls(eliminate(prompts.bool(), answers.bool()))

    @property
    def subset(self) -> tuple[int, ...]:
        """The places of the bits that count, ascending."""
        return tuple(self.solution.x.nonzero().flatten().tolist())

    def __call__(self, prompts: Int[Tensor, "batch prompt"]) -> Int[Tensor, "batch"]:
        """The answers.

        Raises:
            ValueError: prompts of other than the bits that it was fitted to.
        """
        n_bits = len(self.solution.x)
        if check_ids("prompts", prompts, 2, ndim=2).shape[1] != n_bits:
            raise ValueError(
                f"prompts must be of {n_bits} bits, as those that it was fitted to, got {prompts.shape[1]}."
            )
        return (prompts * self.solution.x.to(prompts)).sum(1) % 2


@dataclass(frozen=True)
class NGrams:
    """p(next | the n - 1 tokens before) from counts, each raised by `add`.

    Its loss on what it counted is the conditional entropy of the sample, the least that any function of n - 1 tokens
    has.

    Attributes:
        probabilities: [symbol ... symbol], n axes; the last one sums to 1.
    """

    probabilities: Float[Tensor, "..."]

    @classmethod
    def fit(cls, tokens: Int[Tensor, "pos"], *, n: int, n_symbols: int, add: float = 0.05) -> "NGrams":
        """Count the n-grams of one sequence of ids.

        Args:
            tokens: ids below n_symbols, at least n.
            n: tokens of a gram; n_symbols**n at most 10**7.
            n_symbols: size of the vocabulary.
            add: >= 0, to every count; with 0 what never occurs before a token has the uniform law.
        Raises:
            ValueError: tokens that are no such ids, or a size out of range.
        """
        check_integer("n", n, low=1)
        check_integer("n_symbols", n_symbols, low=1, high=int(10 ** (7 / n) + 1e-9))
        check_integer("the number of tokens", len(check_ids("tokens", tokens, n_symbols, ndim=1)), low=n)
        grams = _places(tokens.unfold(0, n, 1), n_symbols)
        counts = torch.bincount(grams, minlength=n_symbols**n).double() + check_number("add", add, low=0.0)
        counts = counts.view(-1, n_symbols)
        total = counts.sum(1, keepdim=True)
        laws = torch.where(total > 0, counts / total, 1 / n_symbols)
        return cls(laws.view([n_symbols] * n))

    def losses(self, tokens: Int[Tensor, "pos"]) -> Float[Tensor, "predicted"]:
        """-log p of each token that has n - 1 before it, in nats.

        Raises:
            ValueError: tokens that are no ids below n_symbols, or fewer than n.
        """
        n, n_symbols = self.probabilities.ndim, self.probabilities.shape[-1]
        check_integer("the number of tokens", len(check_ids("tokens", tokens, n_symbols, ndim=1)), low=n)
        return -self.probabilities.flatten()[_places(tokens.unfold(0, n, 1), n_symbols)].log()


def _places(grams: Int[Tensor, "gram n"], n_symbols: int) -> Int[Tensor, "gram"]:
    """Where each gram stands in a flat table."""
    powers = n_symbols ** torch.arange(grams.shape[1] - 1, -1, -1, device=grams.device)
    return (grams * powers).sum(1)
