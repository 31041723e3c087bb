"""Products of two numbers as chains of thought: digits at once, column sums, or one table look-up after another."""

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_choice, check_integer
from ar_interp.processes.chains import PARTS, ChainTask, check_ids, without_repetition

MAX_DIGITS = 6  # of both numbers together
CHAINS = ("none", "columns", "lookups")
HASH = 2654435761  # Knuth's multiplier
QUARTER = 2**30  # of 2^32


@dataclass(frozen=True)
class Products(ChainTask):
    """a times b, the digits of a and b in, those of the product out, top first, with zeros in front.

        none        the digits of the product at once
        columns     all pairs `a_i,b_j`, the sum of each column with the carry of the one before, the digits
        lookups     all pairs, each unpacked into the two digits of its product; these are added two at a time, by their
                    pair and the digit and carry of its sum; a column's carries are added for the next; the digits

    Each token is linear in those before it: a pair, a sum or a function of one token. Sums of many numbers make a short
    chain with a small margin.

    Args:
        n_digits: of each number.
        chain_of: one of those above.
        part: `held-out`, a fixed quarter of all pairs (a, b) by a hash, `train`, the others, or `all`. Every pair of
            digits occurs in both. Contexts are drawn without repetition as far as there are pairs.
    """

    kind: ClassVar[str] = "products"
    meaning: ClassVar[str] = "two numbers by their digits; the answer is the digits of their product"

    n_digits: int = 2
    chain_of: str = field(default="lookups", kw_only=True)
    part: str = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        check_integer("n_digits", self.n_digits, low=1, high=MAX_DIGITS // 2)
        check_choice("chain_of", self.chain_of, CHAINS)
        check_choice("part", self.part, PARTS)

    @property
    def n_numbers(self) -> int:
        """Symbols that are numbers, from 0 on; digits are the first ten of them."""
        return max(end for first, end in self.alphabets if first == 0)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        pairs = () if self.chain_of == "none" else tuple(f"{i},{j}" for i in range(10) for j in range(10))
        return (*map(str, range(self.n_numbers)), *pairs)

    @property
    def n_prompt(self) -> int:
        return 2 * self.n_digits

    @property
    def n_chain(self) -> int:
        return len(self.alphabets) - self.n_prompt

    @property
    def n_answer(self) -> int:
        return 2 * self.n_digits

    @property
    def alphabets(self) -> tuple[tuple[int, int], ...]:
        return _alphabets(self)

    @property
    def unseen(self) -> "Products":
        part = "held-out" if self.part == "train" else self.part
        return Products(self.n_digits, chain_of=self.chain_of, part=part)

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        numbers = torch.arange(10 ** (2 * self.n_digits), device=generator.device)
        held_out = numbers * HASH % 2**32 < QUARTER
        numbers = {"all": numbers, "train": numbers[~held_out], "held-out": numbers[held_out]}[self.part]
        return _digits(numbers[without_repetition(len(numbers), n, generator)], 2 * self.n_digits)

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        tokens = [values + self.n_numbers * pair for values, _, pair in self._written(prompts)]
        return torch.stack(tokens, dim=1)

    def prompt(self, a: int, b: int) -> Int[Tensor, "prompt"]:
        """The digits of two numbers.

        Raises:
            ValueError: a number that has more digits.
        """
        numbers = [check_integer(name, x, low=0, high=10**self.n_digits - 1) for name, x in (("a", a), ("b", b))]
        return torch.cat([_digits(torch.tensor(x, dtype=torch.int64, device="cpu"), self.n_digits) for x in numbers])

    def product(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch"]:
        """The number that the last digits of prompts with their chains spell.

        Raises:
            ValueError: tokens that end in no digits, or are fewer.
        """
        check_integer("the tokens of a row", check_ids("tokens", tokens, self.dim, ndim=2).shape[1], low=self.n_answer)
        check_ids("the answer in tokens", tokens[:, -self.n_answer :], 10, ndim=2)
        powers = 10 ** torch.arange(self.n_answer - 1, -1, -1, device=tokens.device)
        return (tokens[:, -self.n_answer :] * powers).sum(1)

    def _written(self, prompts: Int[Tensor, "batch prompt"]) -> list[tuple[Tensor, int, bool]]:
        """(values, end, pair) of each token of the chain: numbers below `end`, or places among the pairs."""
        n, found = self.n_digits, []

        def put(values: Tensor, end: int = 10, *, pair: bool = False) -> Tensor:
            found.append((values, end, pair))
            return values

        powers = 10 ** torch.arange(n - 1, -1, -1, device=prompts.device)
        product = (prompts[:, :n] * powers).sum(1) * (prompts[:, n:] * powers).sum(1)
        a, b = prompts[:, :n].flip(1).T, prompts[:, n:].flip(1).T  # units first
        places = [(i, j) for i in range(n) for j in range(n) if self.chain_of != "none"]
        for i, j in places:
            put(10 * a[i] + b[j], 100, pair=True)
        columns: list[list[tuple[Tensor, int]]] = [[] for _ in range(2 * n)]  # (number, end)
        for i, j in places:
            units, tens = a[i] * b[j] % 10, a[i] * b[j] // 10
            if self.chain_of == "lookups":
                units, tens = put(units), put(tens)
            columns[i + j].append((units, 10))
            columns[i + j + 1].append((tens, 10))
        if self.chain_of == "columns":
            carry, end = torch.zeros_like(product), 1
            for column in columns[1:-1]:
                end += sum(high - 1 for _, high in column)
                carry = put(sum((values for values, _ in column), carry), end) // 10
                end = (end - 1) // 10 + 1
        if self.chain_of == "lookups":
            for column, following in pairwise([*columns, []]):
                digit, carries = column[0][0], []
                for item, end in column[1:]:
                    put(10 * item + digit, 10 * end, pair=True)
                    if column is not columns[-1]:
                        carries.append(put((item + digit) // 10, 2))
                    digit = put((item + digit) % 10)
                if len(carries) > 1:
                    put(torch.stack(carries).sum(0), len(carries) + 1)
                if carries:
                    following.append((torch.stack(carries).sum(0), len(carries) + 1))
        for digit in _digits(product, 2 * n).T:
            put(digit)
        return found


@cache
def _alphabets(task: Products) -> tuple[tuple[int, int], ...]:
    written = task._written(torch.zeros(1, task.n_prompt, dtype=torch.int64, device="cpu"))
    n_numbers = max(end for _, end, pair in written if not pair)
    of_chain = ((n_numbers * pair, n_numbers * pair + end) for _, end, pair in written)
    return ((0, 10),) * task.n_prompt + tuple(of_chain)


def _digits(numbers: Int[Tensor, "*batch"], n: int) -> Int[Tensor, "*batch digit"]:
    """The last n digits, top first."""
    return numbers[..., None] // 10 ** torch.arange(n - 1, -1, -1, device=numbers.device) % 10
