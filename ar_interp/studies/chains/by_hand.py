"""Weights by hand that write chains of sums without a mistake: argmax_v (v S - v^2 / 2) is the integer S."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ar_interp.models.next_token import HookedNextToken
from ar_interp.models.next_token_config import NEVER, NextTokenConfig
from ar_interp.processes import Parity, Products

Term = tuple[int, Int[Tensor, "symbol"], Float[Tensor, "symbol"]]  # a position, symbols there, what each adds to S


def counting(task: Parity) -> HookedNextToken:
    """Counts the ones of the subset and looks their parity up: the chain `count`."""
    ones = torch.arange(len(task.subset) + 1, device="cpu")
    bits = torch.arange(2, device="cpu")
    model = _empty(task)
    _write_sum(model, 0, [(place, bits, bits.double()) for place in task.subset], symbols=2 + ones)
    model.W[1, task.n_bits, 2 + ones, ones % 2] = 1
    return model


def summing_columns(task: Products) -> HookedNextToken:
    """Writes all pairs of digits, the sum of each column with the carry of the one before, and the digits.

    A pair gets one from each of its two digits and no other pair gets two; a sum adds units, tens and the carry.
    """
    n, first = task.n_digits, task.n_numbers
    digits, hundred, model = torch.arange(10, device="cpu"), torch.arange(100, device="cpu"), _empty(task)
    places = [(i, j) for i in range(n) for j in range(n)]  # units first, as the task writes them
    columns: list[list[Term]] = [[] for _ in range(2 * n)]
    for step, (i, j) in enumerate(places):
        pairs = first + hundred.view(10, 10)
        model.W[step, n - 1 - i, digits[:, None], pairs] = 1
        model.W[step, 2 * n - 1 - j, digits[:, None], pairs.T] = 1
        products, position = (hundred // 10) * (hundred % 10), task.n_prompt + step
        columns[i + j].append((position, pairs.flatten(), (products % 10).double()))
        columns[i + j + 1].append((position, pairs.flatten(), (products // 10).double()))
    step, sums = len(places), torch.arange(first, device="cpu")
    units = [columns[0]]
    for column, following in pairwise(columns[1:]):
        _write_sum(model, step, column, symbols=sums)
        position = task.n_prompt + step
        units.append([(position, sums, (sums % 10).double())])
        following.append((position, sums, (sums // 10).double()))
        step += 1
    for terms in reversed([*units, columns[-1]]):
        _write_sum(model, step, terms, symbols=digits)
        step += 1
    return model


def _empty(task: Parity | Products) -> Any:
    return NextTokenConfig.of(task, alphabets=()).build(task).requires_grad_(False)


def _write_sum(model: Any, step: int, terms: list[Term], *, symbols: Int[Tensor, "value"]) -> None:
    """The step writes the symbol of the sum of the terms, symbols[v] for v; other symbols have no chance."""
    values = torch.arange(len(symbols), device="cpu", dtype=torch.float64)
    for position, read, adds in terms:
        model.W[step, position, read[:, None], symbols] += adds[:, None] * values
    model.b[step] = len(values) * NEVER
    model.b[step, symbols] = -values.square() / 2
