"""The cost of removing a head or a key from diagonal heads on commuting processes, exactly.

Three ablations of a part z of the prediction: `zero` leaves it out; `mean` puts E z over the family in its place, at
each T; `resample` puts the z of an independent sequence. With e the error that is left without z they cost

    zero      E|e|^2 - E|e + z|^2
    mean      the same + 2 Re <E e, E z> + |E z|^2
    resample  the same + 2 Re <E e, E z> + E|z|^2.

Where training has settled (any minimum, any trap) scaling z changes nothing to first order, 2 Re E<e + z, z> = 0: then
`zero` costs E|z|^2, the power of what was removed, and `resample` twice that where E z = 0.
All costs are sums over coordinates and means over T = 2..n_ctx, for s_1 = 1_dim and no noise.
Source: the model is that of Sander et al. 2024, non-augmented tokens; the costs are derived here.
"""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import as_tensor, check_choice, check_number
from ar_interp.theory.diagonal import FAMILIES, Array, check_even, check_scale, kappa_to_ratio, population_loss
from ar_interp.theory.positional import positional_population_loss

METHODS = ("zero", "mean", "resample")


def head_removal_cost(
    A: Float[Array, "*ensemble head dim"],
    B: Float[Array, "*ensemble head dim"],
    P: Float[Array, "*ensemble query key"],
    *,
    family: str,
    mu: float = 1.0,
    method: str = "zero",
) -> Float[Tensor, "*ensemble head"]:
    """The loss without each head minus the loss with it, at any weights.

    Head h is the part b_h a_h^T of C: `zero` costs population_loss(C - b_h a_h^T, P) - population_loss(C, P) over
    n_ctx - 1. The mean of its output z is not always 0: at even T it is E z_j = a_j b_j p_{T/2}, and at T = 2
    b_j p_1 sum_i a_i, plus b_j p_2 a_j' for conjugate pairs (j' the partner of j).

    Args:
        A, B: key and value diagonals.
        P: [n_ctx n_ctx]; row r holds p for T = r + 2.
        family: `unitary` or `orthogonal`.
        mu: the process's; 1 unless dim = 1.
        method: `zero`, `mean` or `resample`.
    Raises:
        ValueError: an unknown family or method, mu that is not 1 where dim > 1, odd dim for conjugate pairs.
    """
    A, B, P = as_tensor(A), as_tensor(B), as_tensor(P)
    _check(family, mu, method, dim=A.shape[-1])
    parts = B[..., :, None] * A[..., None, :]  # [... head dim dim]
    C = (B.mT @ A)[..., None, :, :].expand_as(parts)
    P = P[..., None, :, :].expand(*parts.shape[:-2], -1, -1)
    zero = _loss(C - parts, P, family, mu) - _loss(C, P, family, mu)
    if method == "zero":
        return zero
    means, target = _head_means(A, B, P[..., 0, :, :], family, mu)
    left = means.sum(-2, keepdim=True) - means - target[:, None, None]
    cross = 2 * (left.conj() * means).real.sum(-1).mean(-2)
    power = means.abs().square().sum(-1).mean(-2) if method == "mean" else _power(parts, P, family, mu)
    return zero + cross + power


def position_removal_cost(
    C: Float[Array, "*ensemble dim dim"],
    P: Float[Array, "*ensemble query key"],
    *,
    family: str,
    mu: float = 1.0,
    method: str = "zero",
) -> Float[Tensor, "*ensemble offset"]:
    """The loss without the key s_{T-k} minus the loss with it, k = 0 (s_T), 1 (s_{T-1}), ..., n_ctx - 1.

    `zero` costs population_loss(C, P without p_{T-k}) - population_loss(C, P) over n_ctx - 1. The other methods replace
    the attention pattern p_{T-k} <s_{T-1} | a_h * s_{T-k}>, not the value. At k = 1 it is p_{T-1} sum_i a_hi for every
    W, so that both cost nothing however much `zero` does: the weight of s_{T-1} holds no estimate of W. At other k its
    mean is 0 and `mean` costs what `zero` does (for mu = 1).

    Args, Raises: as `head_removal_cost`, with C = B^T A.
    Returns:
        means over all T; contexts that are too short to have a key there cost nothing.
    """
    C, P = as_tensor(C), as_tensor(P)
    _check(family, mu, method, dim=C.shape[-1])
    offsets = torch.arange(P.shape[-1], device=P.device)
    removed = offsets[:, None] + 1 - offsets == offsets[:, None, None]  # [offset query key]: key index of s_{T-k}
    C = C[..., None, :, :].expand(*C.shape[:-2], len(offsets), -1, -1)
    P = P[..., None, :, :].expand(*C.shape[:-2], -1, -1)
    zero = _loss(C, P * ~removed, family, mu) - _loss(C, P, family, mu)
    if method == "zero":
        return zero
    power = _power(C, P * removed, family, mu)
    if mu == 1:
        return (zero if method == "mean" else zero + power) * (offsets != 1)
    p = C[..., 0] * (P * removed)[..., :-1, :].sum(-1)  # [... offset length]
    k = offsets[:, None]
    mean = _moment(1 - k, mu) * p  # of the pattern, p lambda^{1-k}; its value is lambda^{T-k-1}
    left = _moment(2 * offsets - k - 1, mu) @ p.to(mean.dtype) - _moment(k - 1, mu) * p - _moment(-k - 1, mu)
    cross = 2 * (mean * left).real.mean(-1)
    return zero + cross + (mean.abs().square().mean(-1) if method == "mean" else power)


def removal_cost_at_minimum(
    A: Float[Array, "*ensemble head dim"], B: Float[Array, "*ensemble head dim"], *, scale: float, kappa: float = 0.0
) -> Float[Tensor, "*ensemble"]:
    """The cost of removing these heads together at a global minimum: the power of what they write.

    With E = B^T A / c of the removed heads it is |E|^2 where kappa = 0. For one head of the unitary family with
    n_heads <= dim, where <a_h, b_h> = c, that is

        |a_h|^2 |b_h|^2 / c^2 = 1 / cos^2(a_h, b_h) >= 1,

    and k heads cost k if each a_h is a multiple of b_h. Since A B^T = c I these are the gauges whose heads are
    orthogonal, a_h = (c / |b_h|^2) b_h. `factor_heads` gives one, a_h = sign(c) b_h, and so is every balanced gauge.

    For conjugate pairs with kappa, r = p_{T-1} / p_T = -kappa / (1 + kappa) and j' the partner of j, it is

        sum_j E_jj^2 + sum_j sum_{i not in {j, j'}} E_ji^2 + sum_j (E_jj' + r sum_i E_ji)^2.

    At kappa = 1 with n_heads <= dim / 2 a head is constant on pairs and costs at least 2: its coordinates, if it takes
    one pair alone and a_h is a multiple of b_h, and more in every other gauge, rotations of balanced heads among them.

    Args:
        A, B: the removed heads.
        scale: c = 1 / p_T.
        kappa: the minimum's; 0 for the unitary family.
    Raises:
        ValueError: scale is 0; kappa is -1; odd dim for kappa that is not 0.
    """
    check_scale(scale)
    check_number("kappa", kappa, low=-float("inf"))
    E = as_tensor(B).mT @ as_tensor(A) / scale
    if kappa == 0:
        return E.square().sum((-1, -2))
    check_even(E.shape[-1])
    j = torch.arange(E.shape[-1], device=E.device)
    partners = E[..., j, j ^ 1]
    lag = (partners + kappa_to_ratio(kappa) * E.sum(-1)).square().sum(-1)
    return E.square().sum((-1, -2)) - partners.square().sum(-1) + lag


def _check(family: str, mu: float, method: str, dim: int) -> None:
    check_choice("family", family, FAMILIES)
    check_choice("method", method, METHODS)
    if check_number("mu", mu, low=0.0, strict=True) != 1 and dim != 1:
        raise ValueError(f"mu must be 1 for {dim} coordinates, got {mu:g}: others have closed forms for dim = 1 only.")


def _loss(C: Tensor, P: Tensor, family: str, mu: float) -> Float[Tensor, "..."]:
    """Mean over T."""
    total = population_loss(C, P, family=family) if mu == 1 else positional_population_loss(C * P, mu=mu)
    return total / (P.shape[-1] - 1)


def _power(C: Tensor, P: Tensor, family: str, mu: float) -> Float[Tensor, "..."]:
    """E|prediction|^2, what is even in C of the loss."""
    return (_loss(C, P, family, mu) + _loss(-C, P, family, mu)) / 2 - C.shape[-1]


def _head_means(
    A: Tensor, B: Tensor, P: Tensor, family: str, mu: float
) -> tuple[Inexact[Tensor, "... length head dim"], Inexact[Tensor, "length"]]:
    """E of each head's output and of the target (of each coordinate), for T = 2..n_ctx."""
    n_ctx = P.shape[-1]
    lengths = torch.arange(2, n_ctx + 1, device=P.device)
    if mu != 1:
        t = torch.arange(1, n_ctx + 1, device=P.device)
        p = P[..., :-1, :].tril(1)
        summed = (p * _moment(2 * t - lengths[:, None], mu)).sum(-1)
        return summed[..., None, None] * (A * B)[..., None, :, :], _moment(lengths, mu)
    middle = P[..., lengths - 2, lengths // 2 - 1] * (lengths % 2 == 0)
    means = middle[..., None, None] * (A * B)[..., None, :, :]
    first = P[..., 0, 0, None, None] * A.sum(-1, keepdim=True)
    if family == "orthogonal":
        j = torch.arange(A.shape[-1], device=A.device)
        first = first + P[..., 0, 1, None, None] * A[..., j ^ 1]
    return torch.cat([(B * first)[..., None, :, :], means[..., 1:, :, :]], dim=-3), P.new_zeros(n_ctx - 1)


def _moment(power: Tensor, mu: float) -> Inexact[Tensor, "..."]:
    """E lambda^power for lambda = exp(i theta / mu)."""
    share = power.double() / mu
    return torch.sinc(share) * torch.exp(1j * torch.pi * share)
