"""Augmented tokens (0, s_t, s_{t-1}) and one linear-attention layer: its optimum is one gradient step on the context.

With key, query and value blocks that are multiples of the identity, the layer predicts
sum_t (a1 <s_t, s_T> + a2 <s_{t-1}, s_T> + a3 <s_t, s_{T-1}> + a4 <s_{t-1}, s_{T-1}>) (b1 s_t + b2 s_{t-1}), t = 1..T,
s_0 = 0, with the key conjugated: <x, y> = sum_i conj(x_i) y_i. With a2 b1 = eta alone this is

    eta (sum_{t=2}^T s_t s_{t-1}^*) s_T = W_1 s_T,    W_1 = -eta grad L(0),    L(W) = 1/2 sum_{t<T} |s_{t+1} - W s_t|^2.

Losses are E|prediction - s_{T+1}|^2, sums over the dim coordinates, for s_1 = 1_dim in the eigenbasis and training on
T = 2..max_length with the same weights. For s_1 = 1_dim / sqrt(dim) step sizes grow and losses shrink by dim.

Arguments are named alike everywhere: dim >= 1, the size of s_t; length >= 2, T; max_length >= 2, the longest context
trained on; step_size, eta, any number. Others are a ValueError.
Source: Sander et al. 2024, augmented tokens; every value here by counting Fourier modes of the phases.
"""

from typing import NamedTuple

import numpy as np

from ar_interp._checks import check_number
from ar_interp.theory.diagonal import check_sizes


class BlockScalarOptimum(NamedTuple):
    """The best block scalars for conjugate pairs with b1 = 1, b2 = 0 and their mean loss over T = 2..max_length.

    a1 = a4 = 0 there.
    """

    a2: float
    a3: float
    loss: float


def optimal_step_size(*, dim: int, max_length: int) -> float:
    """Step size of the one gradient step that a layer trained on T = 2..max_length takes.

    eta = sum_T (T - 1) / sum_T [(T - 1)^2 + (dim - 1) (T - 1)] = 3 / (2 max_length + 3 dim - 4) -> 3 / (2 max_length).
    In the unitary family it is the optimum over all block scalars, and for max_length > 2 no other product of them is
    then non-zero; for conjugate pairs it is the best pure gradient step, see `block_scalar_optimum`.
    Source: Sander et al. 2024, augmented tokens; here with the T - 1 pairs that a context of T tokens holds.
    """
    check_sizes(dim=dim, max_length=max_length)
    return 3 / (2 * max_length + 3 * dim - 4)


def optimal_step_size_at(*, dim: int, length: int) -> float:
    """Best step size for one context length T alone: 1 / (T + dim - 2).

    Its loss dim (dim - 1) / (T + dim - 2) vanishes with long contexts, unlike that of one step size for all T.
    """
    check_sizes(dim=dim, length=length)
    return 1 / (length + dim - 2)


def one_step_loss(*, dim: int, length: int, step_size: float) -> float:
    """Loss of one gradient step from W = 0 on a context of T tokens, for both commuting families.

    dim [(1 - (T - 1) eta)^2 + (dim - 1) (T - 1) eta^2]: the target's own mode, and T - 1 others for each other
    coordinate.
    """
    check_sizes(dim=dim, length=length)
    eta = check_number("step_size", step_size, low=-float("inf"))
    pairs = length - 1
    return dim * ((1 - pairs * eta) ** 2 + (dim - 1) * pairs * eta**2)


def one_step_minimum(*, dim: int, max_length: int) -> float:
    """Mean over T = 2..max_length of `one_step_loss` at `optimal_step_size`.

    dim (1 - 3 max_length / (2 (2 max_length + 3 dim - 4))), which tends to dim / 4 and not to 0: one step size cannot
    suit all T.
    """
    return dim * (1 - max_length * optimal_step_size(dim=dim, max_length=max_length) / 2)


def block_scalar_optimum(*, dim: int, max_length: int) -> BlockScalarOptimum:
    """Best block scalars for conjugate pairs with b1 = 1, b2 = 0: one gradient step and a small negative a3.

    For conjugate pairs the feature a3 also reaches the target, through the partner's key at t = T. With sums over
    T = 2..max_length, (a2, a3) = G^{-1} h and the sum of the losses is dim (n - h . G^{-1} h), where
    G22 = sum [(T - 1)^2 + (dim - 1) (T - 1)], G33 = sum [(T + dim - 1)^2 + (dim - 1) (T - 1)],
    G23 = sum (3 T + 2 dim - 6), h = (sum (T - 1), n), n = max_length - 1. The gain over the pure step vanishes with
    long contexts. For few coordinates or long contexts a non-zero b2 does a little better still, with other signs; see
    `block_scalar_minimum`.
    Source: not in Sander et al. 2024.

    Args:
        dim: even.
    """
    check_sizes(dim=dim, max_length=max_length, pairs=True)
    T = np.arange(2, max_length + 1, dtype=np.float64)
    others = (dim - 1) * (T - 1)
    G22, G33 = ((T - 1) ** 2 + others).sum(), ((T + dim - 1) ** 2 + others).sum()
    G23 = (3 * T + 2 * dim - 6).sum()
    h = np.array([(T - 1).sum(), len(T)])
    a2, a3 = weights = np.linalg.solve([[G22, G23], [G23, G33]], h)
    return BlockScalarOptimum(a2=float(a2), a3=float(a3), loss=float(dim * (1 - h @ weights / len(T))))
