"""Errors outside the training law: tokens of another norm, W off the unit circle, noise, for what training finds.

All are E|prediction - s_{T+1}|^2, summed over coordinates, for s_1 = norm 1_dim in the eigenbasis and eigenvalues
radius exp(i theta) with uniform phases, independent or in conjugate pairs. What is trained has no way to learn of the
norm or the radius: its step and its positional weights stay.
Source: by counting Fourier modes of the phases, as for the losses of Sander et al. 2024; for noise by the moments of a
Gaussian.
"""

import numpy as np

from ar_interp._checks import check_integer, check_number
from ar_interp.theory.diagonal import check_sizes


def recurrence_error(
    *, dim: int, covered: int, length: int, kappa: float = 0.0, norm: float = 1.0, radius: float = 1.0
) -> float:
    """Error of diagonal heads at their minimum, which use the conjugate of s_{T-1} as if it were the inverse.

    With kappa = 0 the prediction is s_T conj(s_{T-1}) s_T = norm^2 radius^{2T-4} s_{T+1}, in each coordinate that is
    covered; with a partner kappa it is norm^2 radius^{2T-4} (s_{T+1} + kappa (radius^2 - 1) s_{T-1}).

    Args:
        dim, length: size of s_t; T, >= 2.
        covered: coordinates that the heads can carry, 0..dim; the others are predicted as 0.
        kappa: of the blocks of C, 0 for independent eigenvalues.
        norm, radius: of the coordinates of s_1, of the eigenvalues; > 0.
    """
    check_sizes(dim=dim, length=length)
    check_integer("covered", covered, low=0, high=dim)
    _check(norm, radius)
    factor, target = norm**2 * radius ** (2 * length - 4), norm**2 * radius ** (2 * length)
    partner = kappa * factor * (1 - radius**-2)
    return target * (covered * ((factor - 1) ** 2 + partner**2) + dim - covered)


def step_error(*, dim: int, length: int, step_size: float, norm: float = 1.0, radius: float = 1.0) -> float:
    """Error of one gradient step from W = 0; `one_step_loss` at norm = radius = 1.

    dim norm^2 [(radius^T - eta norm^2 sum_t w_t)^2 + (dim - 1) (eta norm^2)^2 sum_t w_t^2], w_t = radius^{2t+T-2} for
    t = 1..T-1: the target's own mode, and those of the other coordinates.
    """
    check_sizes(dim=dim, length=length)
    _check(norm, radius)
    eta = norm**2 * check_number("step_size", step_size, low=-float("inf"))
    w = radius ** (2.0 * np.arange(1, length) + length - 2)
    return float(dim * norm**2 * ((radius**length - eta * w.sum()) ** 2 + (dim - 1) * eta**2 * (w**2).sum()))


def last_pair_noise_error(*, dim: int, length: int, noise: float) -> float:
    """Error of s_T conj(s_{T-1}) s_T where s_{t+1} = W s_t + noise xi_t, independent eigenvalues; 2 dim (T - 1) noise^2
    for weak noise.

    With v = (T - 2) noise^2 and r = |s_{T-1,j}|^2, of which the moments are 1 + v, 1 + 4 v + 2 v^2 and
    1 + 9 v + 18 v^2 + 6 v^3, it is dim times E (r - 1)^2 r + noise^2 E (2 r - 1)^2 + 2 noise^4 E r + noise^2.
    """
    check_sizes(dim=dim, length=length)
    check_number("noise", noise, low=0.0)
    v, power = (length - 2) * noise**2, noise**2
    first, second, third = 1 + v, 1 + 4 * v + 2 * v**2, 1 + 9 * v + 18 * v**2 + 6 * v**3
    bias = third - 2 * second + first
    return dim * (bias + power * (4 * second - 4 * first + 1) + 2 * power**2 * first + power)


def least_squares_noise_error(*, dim: int, length: int, noise: float) -> float:
    """Error of least squares over all T - 1 pairs in each coordinate, for weak noise: dim noise^2 (1 + 1 / (T - 1))."""
    check_sizes(dim=dim, length=length)
    return dim * check_number("noise", noise, low=0.0) ** 2 * (1 + 1 / (length - 1))


def _check(norm: float, radius: float) -> None:
    for name, value in (("norm", norm), ("radius", radius)):
        check_number(name, value, low=0.0, strict=True)
