"""All block scalars of one augmented linear-attention layer: its exact population loss, a quadratic, and its minimum.

The prediction of the layer of `gradient_step` is linear in the eight products g = (a1 b1, a1 b2, a2 b1, ..., a4 b2).
Losses and arguments are those of that module, for the same scalars at every T = 2..max_length.
Source: the layer is that of Sander et al. 2024, augmented tokens; the values here by counting Fourier modes.
"""

from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_tensor
from ar_interp._shown import shown, shown_html
from ar_interp.theory.diagonal import Array, check_sizes

_LAGS = [(key, query, value) for query, key, value in product((0, 1), repeat=3)]  # of the tokens, in the order of g
A_NAMES, B_NAMES = ("a1", "a2", "a3", "a4"), ("b1", "b2")


def product_place(name: str) -> tuple[int, int]:
    """The place of a product of block scalars, `a2 b1` say, among (a1, a2, a3, a4) times (b1, b2), [4 2].

    Raises:
        ValueError: no such product.
    """
    a, _, b = name.partition(" ")
    if a not in A_NAMES or b not in B_NAMES:
        raise ValueError(
            f"a product must be one of {', '.join(A_NAMES)} and one of {', '.join(B_NAMES)}, got {name!r}."
        )
    return A_NAMES.index(a), B_NAMES.index(b)


class BlockScalarQuadratic(NamedTuple):
    """The summed loss constant - 2 h . g + g^T G g; arrays are read-only and hold integers.

    h [8] are the features' products with the target, G [8 8] their Gram matrix, both summed over T.
    """

    h: np.ndarray
    G: np.ndarray
    constant: float

    __repr__ = shown
    _repr_html_ = shown_html


class BlockScalarMinimum(NamedTuple):
    """The block scalars a [4] and b [2] with the smallest loss, its mean over T = 2..max_length; b1 = 1, b2 >= 0."""

    a: np.ndarray
    b: np.ndarray
    loss: float


def block_scalar_quadratic(*, dim: int, max_length: int, conjugate_pairs: bool) -> BlockScalarQuadratic:
    """The sum over T = 2..max_length of the layer's loss, as a quadratic in g = (a1 b1, a1 b2, a2 b1, ..., a4 b2).

    dim n - 2 h . g + g^T G g, n = max_length - 1. Coordinate j of a feature is a sum of modes
    lambda_i^m lambda_j^l, with l = t - 1 - value lag and m = T - t + key lag - query lag. Distinct modes of the
    independent phases are orthonormal, so that h and G are counts of coinciding modes.
    For g = a2 b1 alone it is the sum of `one_step_loss`.

    Args:
        conjugate_pairs: True for the orthogonal family (even dim), False for the unitary one.
    Raises:
        ValueError: dim < 1, odd dim for conjugate pairs or max_length < 2.
    """
    check_sizes(dim=dim, max_length=max_length, pairs=conjugate_pairs)
    return _count_modes(dim, max_length, bool(conjugate_pairs))


def block_scalar_loss(
    a: Float[Array, "*ensemble 4"], b: Float[Array, "*ensemble 2"], *, dim: int, max_length: int, conjugate_pairs: bool
) -> Float[Tensor, "*ensemble"]:
    """The sum over T = 2..max_length of the layer's loss: `block_scalar_quadratic` at g = a b^T, row by row.

    Takes leading ensemble axes, tensors or arrays, and is differentiable in tensors.

    Args:
        a: key-query scalars a1..a4.
        b: value scalars b1, b2.
        dim, max_length, conjugate_pairs: as in `block_scalar_quadratic`.
    Raises:
        ValueError: as `block_scalar_quadratic`; a or b of other shapes.
    """
    a, b = as_tensor(a), as_tensor(b)
    if a.shape[-1:] != (4,) or b.shape[-1:] != (2,) or a.shape[:-1] != b.shape[:-1]:
        raise ValueError(f"a must be [... 4] and b [... 2] with the same leading axes, got {[*a.shape]}, {[*b.shape]}.")
    h, G, constant = block_scalar_quadratic(dim=dim, max_length=max_length, conjugate_pairs=conjugate_pairs)
    g = (a[..., :, None] * b[..., None, :]).flatten(-2)
    return constant + (g * (g @ g.new_tensor(G) - 2 * g.new_tensor(h))).sum(-1)


def block_scalar_minimum(*, dim: int, max_length: int, conjugate_pairs: bool) -> BlockScalarMinimum:
    """Smallest mean loss over all block scalars, with b1 = 1: the scale of b against a is free.

    For fixed b the loss is quadratic in a; what is left is a search in b2 alone. The loss is even in b2, since -W has
    the law of W: (-a1, a2, a3, -a4; b1, -b2) has the loss of (a; b), and the minimum with b2 >= 0 is returned.
    Unitary: a2 = eta alone, `optimal_step_size`. Conjugate pairs: `block_scalar_optimum`, except that few coordinates
    or long contexts call for some b2. At max_length = 2 a line of minima runs through b2 = 0, which is returned.
    Source: derived here; the unitary case is that of Sander et al. 2024, augmented tokens.

    Args, Raises: as `block_scalar_quadratic`.
    """
    check_sizes(dim=dim, max_length=max_length, pairs=conjugate_pairs)
    a, b, loss = _minimum(dim, max_length, bool(conjugate_pairs))
    return BlockScalarMinimum(a.copy(), b.copy(), loss)


@cache
def _minimum(dim: int, max_length: int, conjugate_pairs: bool) -> BlockScalarMinimum:
    return minimum_of_quadratic(_count_modes(dim, max_length, conjugate_pairs), n_lengths=max_length - 1)


def minimum_of_quadratic(
    quadratic: BlockScalarQuadratic, *, n_lengths: int, near: float | None = None
) -> BlockScalarMinimum:
    """The minimum over g = a b^T of any such quadratic, exact or estimated from sequences; see `block_scalar_minimum`.

    Args:
        n_lengths: context lengths that the quadratic is the sum over.
        near: |b2 / b1| from which to go downhill, to a local minimum; the lowest of all if left out.
    """
    h, G, constant = quadratic

    def best(share: float) -> BlockScalarMinimum:
        """The best a for b2^2 / (b1^2 + b2^2) = share, in which the loss is smooth."""
        b = np.sqrt([1 - share, share])
        M = np.kron(np.eye(4), b[:, None])  # g = M a
        a = np.linalg.lstsq(M.T @ G @ M, M.T @ h, rcond=1e-12)[0]  # the smallest a: features coincide at dim = 1
        g = M @ a
        return BlockScalarMinimum(a * b[0], b / b[0], float(constant + g @ (G @ g - 2 * h)) / n_lengths)

    def loss(share: float) -> float:
        return best(share).loss

    shares = np.linspace(0, 1, 200, endpoint=False).tolist()  # without b1 nothing correlates with the target
    step = shares[1]
    if near is None:
        place = int(np.argmin([loss(share) for share in shares]))
    else:
        place = min(int(near**2 / (1 + near**2) / step), len(shares) - 1)
        while (lower := min(shares[max(place - 1, 0) : place + 2], key=loss)) != shares[place]:
            place = shares.index(lower)
    coarse = shares[place]
    bounds = (max(coarse - step, 0.0), min(coarse + step, shares[-1]))
    search: Any = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    polished = float(search.x)
    gain = loss(0) - loss(polished)
    return best(polished if gain > 1e-12 * constant / n_lengths else 0)  # b2 only for a gain beyond rounding


@cache
def _count_modes(dim: int, max_length: int, conjugate_pairs: bool) -> BlockScalarQuadratic:
    h, G = np.zeros(8), np.zeros((8, 8))
    n_others = dim // 2 - 1 if conjugate_pairs else dim - 1  # independent phases beside the one of lambda_j
    for T in range(2, max_length + 1):
        others = np.zeros((8, 2 * T + 1, 2 * T + 1))  # [feature, power of one other phase, power of lambda_j]
        own = np.zeros((8, 2 * T + 1))  # [feature, power of lambda_j]; index -l is the power -l, in both
        for feature, (key, query, value) in enumerate(_LAGS):
            t = np.arange(1 + max(key, value), T + 1)
            m, l = T - t + key - query, t - 1 - value  # noqa: E741
            own[feature, m[0] + l[0]] = len(t)  # i = j: the same power for all t
            others[feature, m, l] += 1
            if conjugate_pairs:
                own[feature, l - m] += 1  # i the partner of j
                others[feature, -m, l] += 1  # both coordinates of a pair
        own += n_others * others[:, 0]  # whatever i, these are powers of lambda_j alone
        others = np.delete(others, 0, axis=1).reshape(8, -1)
        h += dim * own[:, T]  # the target is lambda_j^T
        G += dim * (own @ own.T + n_others * others @ others.T)
    for array in (h, G):
        array.flags.writeable = False  # the cache hands the same arrays to all
    return BlockScalarQuadratic(h, G, float(dim * (max_length - 1)))
