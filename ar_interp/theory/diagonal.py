"""Diagonal heads on commuting processes: exact population losses, their minima and scale.

The model is prediction_j = sum_t p_t sum_i C_ji conj(s_{T-1,i}) s_{t,i} s_{t,j} with target s_{T+1}, and
s_1 = 1_dim in the eigenbasis (Sander et al. 2024, non-augmented tokens). Losses are sums over the dim coordinates.
All of them take leading ensemble axes, tensors or arrays, and are differentiable in tensors.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_tensor, check_choice, check_integer, check_number

Array = Tensor | np.ndarray
FAMILIES = ("unitary", "orthogonal")
LEAST = {"dim": 1, "n_heads": 1, "length": 2, "max_length": 2}


class KeySums(NamedTuple):
    """Statistics of p that a loss depends on, for each context length T."""

    u: Tensor  # p_{T-1}
    v: Tensor  # p_T
    others: Tensor  # sum of p_t over t != T-1
    squares: Tensor  # sum of p_t^2 over t != T-1

    @classmethod
    def of_row(cls, p: Tensor) -> "KeySums":
        if p.shape[-1] < 2:
            raise ValueError(f"p must hold the weights of a context of length T >= 2, got {p.shape[-1]} entries.")
        u, v = p[..., -2], p[..., -1]
        return cls(u, v, p.sum(-1) - u, p.square().sum(-1) - u.square())

    @classmethod
    def of_matrix(cls, P: Tensor) -> "KeySums":
        """One entry for each T = 2..n_ctx; what lies right of p_T, and the last row, is ignored."""
        n_ctx = P.shape[-1]
        if P.ndim < 2 or P.shape[-2] != n_ctx or n_ctx < 2:
            raise ValueError(f"P must be [n_ctx n_ctx] with n_ctx >= 2, got {list(P.shape)}.")
        used = torch.ones(n_ctx - 1, n_ctx, dtype=P.dtype, device=P.device).tril(1)
        rows = P[..., :-1, :] * used
        u = P.diagonal(0, -2, -1)[..., :-1]
        v = P.diagonal(1, -2, -1)
        return cls(u, v, rows.sum(-1) - u, rows.square().sum(-1) - u.square())


def _loss(C: Tensor, weights: KeySums, *, conjugate_pairs: bool) -> Tensor:
    dim = C.shape[-1]
    if C.ndim < 2 or C.shape[-2] != dim:
        raise ValueError(f"C must be [dim dim], got {list(C.shape)}.")
    u, v, others, squares = weights
    rows = C.sum(-1)
    trace = C.diagonal(0, -2, -1).sum(-1)
    loss = (
        _over(C.square().sum((-1, -2)), v) * squares
        + _over(rows.square().sum(-1), v) * u.square()
        - 2 * v * _over(trace, v)
        + dim
    )
    if not conjugate_pairs:
        return loss
    partners = partners_of(C)
    return (
        loss
        + 2 * u * others * _over((partners * rows).sum(-1), v)
        + (others.square() - squares) * _over(partners.square().sum(-1), v)
    )


def _over(statistic: Tensor, rows: Tensor) -> Tensor:
    """A number per C, broadcast over the context lengths that `rows` may hold beyond it."""
    return statistic[..., None] if rows.ndim > statistic.ndim else statistic


def partners_of(C: Tensor) -> Tensor:
    """C_jj' with j' = j xor 1, the coordinate of the conjugate eigenvalue: [... dim]."""
    dim = C.shape[-1]
    if dim % 2:
        raise ValueError(f"C must have even size for conjugate pairs, got {dim}.")
    j = torch.arange(dim, device=C.device)
    return C[..., j, j ^ 1]


def unitary_loss(C: Float[Array, "*ensemble dim dim"], p: Float[Array, "*ensemble pos"]) -> Float[Tensor, "*ensemble"]:
    """Population loss for one context length, unitary family.

    E|prediction - s_{T+1}|^2 = |C|^2 Q2 + u^2 sum_j R_j^2 - 2 v tr C + dim, with R_j = sum_i C_ji, u = p_{T-1},
    v = p_T, Q2 = sum_{t != T-1} p_t^2.
    Source: Sander et al. 2024, non-augmented tokens, unitary case. (The authors' script counts t = T-1 twice and
    exceeds this by u^2 |C|^2.)

    Args:
        C: B^T A.
        p: weights of the keys 1..T, T >= 2.
    Raises:
        ValueError: C is not square, p has fewer than two entries.
    """
    C, p = as_tensor(C), as_tensor(p)
    return _loss(C, KeySums.of_row(p), conjugate_pairs=False)


def orthogonal_loss(
    C: Float[Array, "*ensemble dim dim"], p: Float[Array, "*ensemble pos"]
) -> Float[Tensor, "*ensemble"]:
    """Population loss for one context length, conjugate pairs.

    u^2 t1 + Q2 t2 + 2 u Qs t3 + (Qs^2 - Q2) t4 - 2 v tr C + dim, with t1 = sum R_j^2, t2 = |C|^2,
    t3 = sum C_jj' R_j, t4 = sum C_jj'^2, Qs = sum_{t != T-1} p_t and j' the partner of j.
    Source: Sander et al. 2024, non-augmented tokens, orthogonal case.

    Args, Raises: as `unitary_loss`; C of odd size is refused.
    """
    C, p = as_tensor(C), as_tensor(p)
    return _loss(C, KeySums.of_row(p), conjugate_pairs=True)


def orthogonal_loss_as_squares(
    C: Float[Array, "*ensemble dim dim"], p: Float[Array, "*ensemble pos"]
) -> Float[Tensor, "*ensemble"]:
    """`orthogonal_loss` as a sum of squares, by Parseval in the independent phases; free of cancellation.

    sum_j (v C_jj - 1)^2 + (sum_{t<=T-2} p_t^2) sum_j C_jj^2 + Q2 sum_j sum_{i not in {j,j'}} C_ji^2
    + sum_j (u R_j + Qs C_jj')^2.
    """
    C, p = as_tensor(C), as_tensor(p)
    u, v, others, squares = KeySums.of_row(p)
    diagonal, partners, rows = C.diagonal(0, -2, -1), partners_of(C), C.sum(-1)
    blocks = torch.block_diag(*[C.new_ones(2, 2)] * (C.shape[-1] // 2))
    elsewhere = (C * (1 - blocks)).square().sum((-1, -2))
    return (
        (v[..., None] * diagonal - 1).square().sum(-1)
        + p[..., :-2].square().sum(-1) * diagonal.square().sum(-1)
        + squares * elsewhere
        + (u[..., None] * rows + others[..., None] * partners).square().sum(-1)
    )


def population_loss(
    C: Float[Array, "*ensemble dim dim"], P: Float[Array, "*ensemble query key"], *, family: str
) -> Float[Tensor, "*ensemble"]:
    """The training loss: the sum over T = 2..n_ctx of `unitary_loss` or `orthogonal_loss`.

    Args:
        C: B^T A.
        P: [n_ctx n_ctx]; row r holds p for T = r + 2, the rest is ignored.
        family: `unitary` or `orthogonal`.
    """
    check_choice("family", family, FAMILIES)
    C, P = as_tensor(C), as_tensor(P)
    return _loss(C, KeySums.of_matrix(P), conjugate_pairs=family == "orthogonal").sum(-1)


def largest_error_bound(
    C: Float[Array, "*ensemble dim dim"], P: Float[Array, "*ensemble query key"], *, family: str
) -> Float[Tensor, "*ensemble"]:
    """An upper bound of |prediction_j - lambda_j^T| over all eigenvalues, coordinates j and T = 2..n_ctx.

    The error is a trigonometric polynomial in the independent phases: no angle makes it larger than the sum of the
    moduli of its coefficients, the terms of `orthogonal_loss_as_squares`,

        |v C_jj - 1| + sum_{t<=T-2} |p_t C_jj| + |u R_j + Qs C_jj'| + sum_{t!=T-1} |p_t| sum_{i not in {j,j'}} |C_ji|,

    without the partner j' for the unitary family.

    Args:
        C, P, family: as in `population_loss`.
    """
    check_choice("family", family, FAMILIES)
    C, P = as_tensor(C), as_tensor(P)
    n_ctx = P.shape[-1]
    rows = P[..., :-1, :] * torch.ones(n_ctx - 1, n_ctx, dtype=P.dtype, device=P.device).tril(1)
    u, v = (P.diagonal(k, -2, -1)[..., : n_ctx - 1, None] for k in (0, 1))  # [... length 1]
    others, sizes = (x.sum(-1, keepdim=True) - y for x, y in ((rows, u), (rows.abs(), u.abs())))
    own = C.diagonal(0, -2, -1)[..., None, :]  # [... 1 dim]
    partners = partners_of(C)[..., None, :] if family == "orthogonal" else torch.zeros_like(own)
    outside = C.abs().sum(-1)[..., None, :] - own.abs() - partners.abs()
    target = (v * own - 1).abs() + (sizes - v.abs()) * own.abs()
    partner = (u * C.sum(-1)[..., None, :] + others * partners).abs()
    return (target + partner + sizes * outside).amax((-2, -1))


def unitary_minimum(*, dim: int, n_heads: int) -> float:
    """Smallest loss per context length over rank(C) <= n_heads: dim - min(n_heads, dim).

    Attained at C = c Pi, p_T = 1 / c, all other p_t = 0, with Pi an orthogonal projector of rank min(n_heads, dim).
    Source: Sander et al. 2024, non-augmented tokens, unitary case.
    """
    check_sizes(dim=dim, n_heads=n_heads)
    return float(dim - min(n_heads, dim))


def orthogonal_minimum(*, dim: int, n_heads: int) -> float:
    """Smallest loss per context length over rank(C) <= n_heads, conjugate pairs: max(dim - 2 n_heads, 0).

    Below dim / 2 heads each head takes one whole pair. Source: Sander et al. 2024, orthogonal case; the value for
    few heads by bounding each pair with the projector on the rows of C.
    """
    check_sizes(dim=dim, n_heads=n_heads, pairs=True)
    return float(max(dim - 2 * n_heads, 0))


def kappa_to_ratio(kappa: float) -> float:
    """p_{T-1} / p_T = -kappa / (1 + kappa) at zero loss; kappa = -1 is not attained."""
    if kappa == -1:
        raise ValueError("kappa must differ from -1: that end of the family is reached only at infinite p_{T-1}/p_T.")
    return -kappa / (1 + kappa)


def ratio_to_kappa(ratio: float) -> float:
    """kappa = -ratio / (1 + ratio), the inverse of `kappa_to_ratio`."""
    if ratio == -1:
        raise ValueError("ratio p_{T-1}/p_T must differ from -1: no finite kappa gives it.")
    return -ratio / (1 + ratio)


def gradient_descent_scale(*, dim: int, n_heads: int, max_length: int, init_scale: float, family: str) -> float:
    """|c| at which gradient flow from small Gaussian weights ends, on average.

    Gradient flow conserves |A|^2 - |P|^2 (over the trained entries of P) and |A|^2 - |B|^2. At the minimum these
    give c m - g n / c^2 = init_scale^2 (n_heads dim - #P), with m = tr C / c, n = max_length - 1, #P the number of
    trained positional weights, and g = |p|^2 c^2: 1 for the unitary family (m = min(n_heads, dim)), 5/4 for
    kappa = 1 (m = dim).

    Args:
        family: `unitary`, or `orthogonal` for the kappa = 1 solution (dim / 2 <= n_heads < dim).
    """
    check_sizes(dim=dim, n_heads=n_heads, max_length=max_length)
    check_number("init_scale", init_scale, low=0.0, strict=True)
    check_choice("family", family, FAMILIES)
    mass, weight = (min(n_heads, dim), 1.0) if family == "unitary" else (min(2 * n_heads, dim), 1.25)
    n = max_length - 1
    n_positional = sum(range(2, max_length + 1))
    conserved = init_scale**2 * (n_heads * dim - n_positional)
    roots = np.roots([mass, -conserved, 0.0, -weight * n])  # one positive root, by Descartes' rule of signs
    return float(roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real[0])


def check_sizes(*, pairs: bool = False, **sizes: int) -> None:
    """Every size is an integer of at least `LEAST`, and dim is even where eigenvalues come in conjugate pairs."""
    for name, size in sizes.items():
        check_integer(name, size, low=LEAST[name])
    if pairs:
        check_even(sizes["dim"])


def check_even(dim: int) -> None:
    """Conjugate pairs need an even dim."""
    if dim % 2:
        raise ValueError(f"dim must be even for conjugate pairs, got {dim}.")


def check_scale(scale: float) -> None:
    """C is c times something, and p_T is 1 / c: no theory holds at c = 0."""
    if check_number("scale", scale, low=-float("inf")) == 0:
        raise ValueError("scale must not be zero.")
