"""Noise: what it leaves of the gradient step and of the two newest keys, and how well anything can predict.

s_1 = 1_dim in the eigenbasis of a commuting family, s_{t+1} = W s_t + eps, and what is observed is y_t = s_t + nu.
Arguments are named alike everywhere: process_variance, q = E|eps_j|^2, and observation_variance, r = E|nu_j|^2, of a
complex coordinate of the eigenbasis, circular (conjugate in each conjugate pair): the squares of `process_noise` and
`observation_noise` of a process; dim, length and max_length as in `ar_interp.theory.gradient_step`.

x_t = lambda^{-(t-1)} y_t does not depend on lambda: it is complex Gaussian of mean 1 with
cov(x_s, x_t) = q (min(s, t) - 1) + r [s = t]. Stationary, s_{t+1} = sqrt(1 - q) W s_t + eps and E|s_t,j|^2 = 1, it has
mean 0 and cov(x_s, x_t) = (1 - q)^{|s-t|/2} + r [s = t]. Every loss is a sum of moments of x.

Losses are E|prediction - s_{T+1}|^2 of the clean target, its own eps included, summed over the dim coordinates: add
dim r for those of the observed target y_{T+1}.
Source: not in Sander et al. 2024; by counting modes and Wick's theorem.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_tensor, check_integer, check_number
from ar_interp.theory.diagonal import Array, KeySums, check_sizes, partners_of


class NoisyKeys(NamedTuple):
    """The best positional weights of diagonal heads at one T, for C with a diagonal of ones, see `noisy_keys`.

    Attributes:
        p: [T], that of the newest key last.
        loss: their error.
    """

    p: Float[np.ndarray, "key"]
    loss: float


def noisy_step_size(
    *,
    dim: int,
    max_length: int,
    process_variance: float = 0.0,
    observation_variance: float = 0.0,
    stationary: bool = False,
) -> float:
    """Step size of the one gradient step that a layer trained on noisy T = 2..max_length takes, unitary family.

    eta = sum_T h / sum_T (G_s + (dim - 1) G_x), see `noisy_step_loss`. It is the optimum over all block scalars: noise
    changes the step alone. q = r = 0 gives `optimal_step_size`; with r alone eta max_length -> 3 / (2 (1 + r)).
    """
    check_sizes(dim=dim, max_length=max_length)
    _check_variances(process_variance, observation_variance, stationary)
    gains, powers = _steps(dim, range(2, max_length + 1), process_variance, observation_variance, stationary)
    return float(gains.sum() / powers.sum())


def step_gains(
    *,
    dim: int,
    max_length: int,
    process_variance: float = 0.0,
    observation_variance: float = 0.0,
    stationary: bool = False,
) -> Float[np.ndarray, "length"]:
    """h of `noisy_step_loss` for T = 2..max_length: E Re <prediction, target> = dim eta h."""
    return _steps(dim, range(2, max_length + 1), process_variance, observation_variance, stationary)[0]


def noisy_step_loss(
    *,
    dim: int,
    length: int,
    step_size: float,
    process_variance: float = 0.0,
    observation_variance: float = 0.0,
    stationary: bool = False,
) -> float:
    """Error of one gradient step from W = 0 on a context of T noisy tokens, unitary family.

    dim [E|s_{T+1,j}|^2 - 2 eta h + eta^2 (G_s + (dim - 1) G_x)], with sums over t, t' < T and the moments
    h = E conj(u_{T+1}) x_{t+1} conj(x_t) x_T (u_t: the clean x_t),
    G_s = E x_{t+1} conj(x_t) x_T conj(x_{t'+1} conj(x_{t'}) x_T), G_x = E|x_{t+1}|^2 E|x_t x_T|^2.
    """
    check_sizes(dim=dim, length=length)
    eta = check_number("step_size", step_size, low=-float("inf"))
    _check_variances(process_variance, observation_variance, stationary)
    gains, powers = _steps(dim, [length], process_variance, observation_variance, stationary)
    energy = 1.0 if stationary else 1 + process_variance * length
    return float(dim * (energy - 2 * eta * gains[0] + eta**2 * powers[0]))


def noisy_step_minimum(
    *,
    dim: int,
    max_length: int,
    process_variance: float = 0.0,
    observation_variance: float = 0.0,
    stationary: bool = False,
) -> float:
    """Mean over T = 2..max_length of `noisy_step_loss` at `noisy_step_size`, the minimum over all block scalars."""
    noise = {
        "process_variance": process_variance,
        "observation_variance": observation_variance,
        "stationary": stationary,
    }
    eta = noisy_step_size(dim=dim, max_length=max_length, **noise)
    lengths = range(2, max_length + 1)
    return float(np.mean([noisy_step_loss(dim=dim, length=T, step_size=eta, **noise) for T in lengths]))


def noisy_keys(
    *,
    dim: int,
    length: int,
    kappa: float = 0.0,
    mixing: float = 0.0,
    process_variance: float = 0.0,
    observation_variance: float = 0.0,
) -> NoisyKeys:
    """The best positional weights for conjugate pairs whose heads have C = I + kappa J + mixing elsewhere, at one T.

    With conj(y_{T-1}) y_t^2 + kappa y_{T-1} |y_t|^2 of every key t, only the newest key's first term reaches the
    target, p_T x_{T-1}^* x_T^2; of what is left, x_{T-1} sum_t w_t |x_t|^2 with w_t = kappa p_t (and
    (1 + kappa) p_{T-1}) is one mode, to which other pairs i add mixing p_{T-1} sum_i |x_{T-1,i}|^2, and each
    p_t x_{T-1}^* x_t^2, t < T - 1, another. kappa = mixing = 0 is the minimum of at least dim heads, of the unitary
    family too: the newest key alone, p_T = 1 / ((1 + r) (1 + 4 r + 2 r^2)) for q = 0. kappa = 1 with `noisy_mixing` is
    that of dim / 2 heads.

    Args:
        dim: even, where kappa or mixing is not 0.
        kappa, mixing: any numbers.
    """
    kappa, mixing = (check_number(name, x, low=-float("inf")) for name, x in (("kappa", kappa), ("mixing", mixing)))
    check_sizes(dim=dim, length=length, pairs=bool(kappa or mixing))
    _check_variances(process_variance, observation_variance)
    mean, C = _law(length, process_variance, observation_variance)
    newest, before, target = length - 1, length - 2, length
    keys = np.arange(length)
    a, b = keys[:, None], keys
    M = _moment(mean, C, [before, a, b], [before, a, b])
    both, single = _moment(mean, C, [before, keys], [before, keys]), _moment(mean, C, [keys], [keys])
    own = kappa * np.eye(length)
    own[before, before] += 1
    others, weight = dim // 2 - 1, 2 * mixing  # pairs, each of two coordinates of one |x|^2
    level = weight * others * single[before]  # E of what they add, and below of its square
    square = weight**2 * others * (both[before] + (others - 1) * single[before] ** 2) * single[before]
    G = own.T @ M @ own
    G[before] += level * (both @ own)
    G[:, before] += level * (both @ own)
    G[before, before] += square
    apart = M.diagonal() * (keys != newest) + 2 * others * mixing**2 * single * both
    gain = float(_moment(mean, C, [newest, newest], [target, before]))
    wanted = np.where(keys == newest, gain, 0.0)
    G += np.diag(np.where(keys == before, 0.0, apart))
    G[newest, newest] += M[newest, newest]
    p = np.linalg.lstsq(G, wanted, rcond=None)[0]
    return NoisyKeys(p, float(dim * (1 + process_variance * length - wanted @ p)))


def noisy_mixing(
    *, dim: int, max_length: int, process_variance: float = 0.0, observation_variance: float = 0.0
) -> float:
    """How far the best dim / 2 heads mix the pairs: C_ji / C_jj for i of another pair, kappa = 1.

    Noise of |x_{T-1}|^2 is shared out: a little of the other pairs' squares beside the own one averages it. The same
    for all pairs, and at all T; 0 without noise, and for a pair alone. By minimising the mean of `noisy_keys` over T.
    """
    check_sizes(dim=dim, max_length=max_length, pairs=True)
    _check_variances(process_variance, observation_variance)
    if dim == 2:
        return 0.0
    noise = {"process_variance": process_variance, "observation_variance": observation_variance}
    lengths = range(2, max_length + 1)

    def loss(mixing: float) -> float:
        return sum(noisy_keys(dim=dim, length=T, kappa=1.0, mixing=mixing, **noise).loss for T in lengths)

    best: Any = scipy.optimize.minimize_scalar(loss, bounds=(-0.5, 0.5), method="bounded", options={"xatol": 1e-10})
    return float(best.x)


def noisy_heads_loss(
    C: Float[Array, "*ensemble dim dim"], P: Float[Array, "*ensemble query key"], *, observation_variance: float
) -> Float[Tensor, "*ensemble"]:
    """The error of diagonal heads on conjugate pairs, sum over T = 2..n_ctx, under noise of observation alone.

    With m_k = E|x|^{2k}, p the weights of one T, u = p_{T-1}, v = p_T, sums over t != T - 1 and, for coordinate j, over
    pairs i other than its own (j, j'), it is the sum over j and T of
    1 - 2 v C_jj + C_jj^2 sum p_t^2 m_1 m_2 + sum p_t^2 sum_i C_ji^2 m_1^3
    + E|x_{T-1,j}|^2 (C_jj' sum p_t |x_t,j|^2 + u (C_jj + C_jj') |x_{T-1,j}|^2 + u sum_i C_ji |x_{T-1,i}|^2)^2:
    modes in the phases as without noise, where every |x|^2 is 1; `orthogonal_loss` for r = 0.

    Args:
        C: B^T A.
        P: as in `population_loss`.
    """
    C, P = as_tensor(C), as_tensor(P)
    _check_variances(0.0, observation_variance)
    r = observation_variance
    m1, m2, m3 = 1 + r, 1 + 4 * r + 2 * r**2, 1 + 9 * r + 18 * r**2 + 6 * r**3
    u, v, others, squares = (x[..., None] for x in KeySums.of_matrix(P))  # [... T 1]
    diagonal, partner = C.diagonal(0, -2, -1)[..., None, :], partners_of(C)[..., None, :]  # [... 1 dim]
    blocks = torch.block_diag(*[C.new_ones(2, 2)] * (C.shape[-1] // 2))
    apart = C * (1 - blocks)
    paired = apart.unflatten(-1, (-1, 2)).sum(-1)  # partners have the same |x|
    rest, rest_squares = apart.sum(-1)[..., None, :], paired.square().sum(-1)[..., None, :]
    level = partner * others + u * rest  # of the terms that do not know |x_{T-1,j}|
    spread = partner.square() * squares + u.square() * rest_squares
    own = u * (diagonal + partner)
    loss = (
        1
        - 2 * v * diagonal
        + diagonal.square() * squares * m1 * m2
        + squares * apart.square().sum(-1)[..., None, :] * m1**3
        + m1 * (m1**2 * level.square() + (m2 - m1**2) * spread)
        + 2 * own * level * m1 * m2
        + own.square() * m3
    )
    return loss.sum((-2, -1))


def kappa_penalty(*, kappa: float, scale: float, observation_variance: float) -> float:
    """Growth of the error per coordinate, at any T, when heads keep kappa under noise of observation.

    kappa^2 v^2 4 r (1 + 3 r + r^2) = kappa^2 v^2 E|x_{T-1}|^2 (|x_T|^2 - |x_{T-1}|^2)^2: without noise kappa is free
    once p_{T-1} / p_T = -kappa / (1 + kappa); with it the term that this leaves no longer vanishes. Its curvature at
    kappa = 0 is 8 v^2 r (1 + 3 r + r^2). Without process noise; conjugate pairs, at least dim heads.

    Args:
        kappa: off-diagonal over diagonal of the blocks of C = c [[1, kappa], [kappa, 1]].
        scale: v = c p_T, what the newest key writes.
    """
    kappa, scale = (check_number(name, x, low=-float("inf")) for name, x in (("kappa", kappa), ("scale", scale)))
    _check_variances(0.0, observation_variance)
    r = observation_variance
    return (kappa * scale) ** 2 * 4 * r * (1 + 3 * r + r**2)


def bent_ratio(*, observation_variance: float) -> float:
    """p_{T-1} / p_T of dim / 2 heads where no older key is used: -1/2 (1+r)(1+4r+2r^2) / (1+9r+18r^2+6r^3).

    Noise bends the identity s_{T+1} = 2 cos(theta) s_T - s_{T-1}: s_{T-1} is subtracted less, -1/2 (1 - 4 r + ...).
    Older keys that are free as well take over a part; then `noisy_keys` with kappa = 1 has the ratio.
    """
    _check_variances(0.0, observation_variance)
    r = observation_variance
    return -0.5 * (1 + r) * (1 + 4 * r + 2 * r**2) / (1 + 9 * r + 18 * r**2 + 6 * r**3)


def last_token_error(
    *, dim: int, square: float, process_variance: float = 0.0, observation_variance: float = 0.0
) -> float:
    """The least error of a multiple of W y_T: however well W is known, the noise of y_T remains.

    dim q + square dim r / (square + dim r): r / (1 + r) of each coordinate of modulus 1. Below it are only predictors
    that estimate s_T from more than y_T. (A matrix of low rank is one: it projects on what it takes s_T to be.)

    Args:
        square: E|s_T|^2; dim for the commuting families with q = 0, 1 for Haar W with first tokens of norm 1.
    """
    check_sizes(dim=dim)
    square = check_number("square", square, low=0.0, strict=True)
    _check_variances(process_variance, observation_variance)
    blur = dim * observation_variance
    return dim * process_variance + square * blur / (square + blur)


def kalman_error(*, dim: int, length: int, process_variance: float = 0.0, observation_variance: float = 0.0) -> float:
    """The least error of any prediction that knows W and s_1: dim P_T, P_t = P_{t-1} r / (P_{t-1} + r) + q, P_0 = 0.

    Each coordinate is filtered alone, since W keeps norms and the noise has no direction. P_T tends to
    (q + sqrt(q^2 + 4 q r)) / 2.

    Args:
        length: T; >= 1.
    """
    check_sizes(dim=dim)
    check_integer("length", length, low=1)
    _check_variances(process_variance, observation_variance)
    q, r, P = process_variance, observation_variance, 0.0
    for _ in range(length):
        P = (P * r / (P + r) if P else 0.0) + q
    return dim * P


def phase_information(*, length: int, process_variance: float = 0.0, observation_variance: float) -> float:
    """Fisher information of y_1..y_T about a phase: one over it is the variance of the phase that they leave.

    With N = diag(0..T-1), S = cov(x) and 1 = (1..1) it is 2 (1 N S^-1 N 1 + tr N S^-1 N S - tr N^2); for q = 0
    2 sum_{t<T} t^2 / r.

    Args:
        observation_variance: > 0.
    """
    check_sizes(length=length)
    _check_variances(process_variance, observation_variance)
    check_number("observation_variance", observation_variance, low=0.0, strict=True)
    times = np.arange(length)
    S = process_variance * np.minimum.outer(times, times) + observation_variance * np.eye(length)
    inverse = np.linalg.inv(S)
    return float(2 * (times @ inverse @ times + np.trace((times[:, None] * inverse * times) @ S) - times @ times))


def phase_error(*, dim: int, length: int, process_variance: float = 0.0, observation_variance: float) -> float:
    """Error of the best prediction that knows s_1 and the noise but not the phases, to leading order of their variance.

    `kalman_error` + dim E|d prediction / d theta|^2 / I, I the `phase_information`. For q = 0 it is
    dim r T^2 / (2 sum_{t<T} t^2), about 3 r / (2 T) of each coordinate. The larger T, the better it holds.

    Args:
        observation_variance: > 0.
    """
    check_sizes(dim=dim, length=length)
    information = phase_information(
        length=length, process_variance=process_variance, observation_variance=observation_variance
    )
    times = np.arange(length)
    S = process_variance * np.minimum.outer(times, times) + observation_variance * np.eye(length)
    inverse = np.linalg.inv(S)
    gain = process_variance * times @ inverse  # of the filter: s_T from y
    slope = length * gain - gain * times
    change = (length - gain @ times) ** 2 + slope @ S @ slope
    known = kalman_error(
        dim=dim, length=length, process_variance=process_variance, observation_variance=observation_variance
    )
    return float(known + dim * change / information)


def _check_variances(process_variance: float, observation_variance: float, stationary: bool = False) -> None:
    check_number("process_variance", process_variance, low=0.0)
    check_number("observation_variance", observation_variance, low=0.0)
    if stationary and process_variance >= 1:
        raise ValueError(f"process_variance must be below 1 where stationary, got {process_variance:g}.")


def _law(length: int, q: float, r: float, stationary: bool = False) -> tuple[float, np.ndarray]:
    """Mean and covariance of x_1..x_T and, last, of the clean u_{T+1}."""
    times = np.arange(length + 1)
    if stationary:
        clean = (1 - q) ** (np.abs(np.subtract.outer(times, times)) / 2)
    else:
        clean = q * np.minimum.outer(times, times)
    return float(not stationary), clean + r * np.diag(times < length)


def _moment(mean: float, C: np.ndarray, above: list[Any], below: list[Any]) -> Any:
    """E prod x_a prod conj(x_b), a in above, b in below, numbers or arrays that broadcast.

    Wick: each x_a is its mean, or it is paired with one conj(x_b), which counts C_ab.
    """
    if not above:
        return mean ** len(below)
    first, *rest = above
    total = mean * _moment(mean, C, rest, below)
    for k, b in enumerate(below):
        total = total + C[first, b] * _moment(mean, C, rest, below[:k] + below[k + 1 :])
    return total


def _steps(
    dim: int, lengths: Sequence[int], q: float, r: float, stationary: bool
) -> tuple[Float[np.ndarray, "length"], Float[np.ndarray, "length"]]:
    """h and G_s + (dim - 1) G_x of `noisy_step_loss` for each T; not stationary, as polynomials in m = T - 1."""
    if stationary:
        h, same, others = np.array([step_moments(T, q, r, stationary) for T in lengths]).T
        return h, same + (dim - 1) * others
    m = np.array(lengths, dtype=np.float64) - 1
    h = m + q * m * (5 * m - 1) / 2 + q**2 * m * (m - 1) * (5 * m + 2) / 6
    same = (
        m**2 + m * (m + 4) * r + 3 * (m + 1) * r**2 + (m + 1) * r**3
        + q * (m * (14 * m**2 - 3 * m + 1) / 3 + m * (5 * m**2 + 27 * m - 8) / 3 * r + (2 * m**2 + 3 * m - 1) * r**2)
        + q**2 * (m**2 * (61 * m**2 - 30 * m - 7) / 12 + m * (5 * m**3 + 34 * m**2 - 23 * m + 8) / 12 * r)
        + q**3 * m * (m - 1) * (61 * m**3 + 11 * m**2 - 24 * m - 4) / 60
    )  # fmt: skip
    others = (
        m * (1 + r) ** 3
        + q * (m * (3 * m - 1) + m * (5 * m - 1) * r + 2 * m**2 * r**2)
        + q**2 * (m * (2 * m + 1) * (7 * m - 5) / 6 + m * (2 * m - 1) * (5 * m + 1) / 6 * r)
        + q**3 * m * (m - 1) * (m + 1) * (7 * m - 2) / 12
    )
    return h, same + (dim - 1) * others


def step_moments(length: int, q: float, r: float, stationary: bool) -> tuple[float, float, float]:
    """h, G_s and G_x of `noisy_step_loss`, by Wick's theorem."""
    mean, C = _law(length, q, r, stationary)
    newest, target = length - 1, length
    t = np.arange(newest)
    s = t[:, None]
    h = _moment(mean, C, [t + 1, newest], [target, t])
    same = _moment(mean, C, [t + 1, newest, s], [t, s + 1, newest])
    others = _moment(mean, C, [t + 1], [t + 1]) * _moment(mean, C, [t, newest], [t, newest])
    return float(np.sum(h)), float(np.sum(same)), float(np.sum(others))
