"""Full orthogonal W, uniform (Haar) on O(dim), and |s_1| = 1: one gradient step and least squares, exactly.

Everything is a function of r_m = <s_1, W^m s_1>. The gradient step predicts eta (sum_{t=2}^T s_t s_{t-1}^T) s_T, and

    E|prediction - s_{T+1}|^2 = 1 - 2 eta h_T + eta^2 G_T,
    h_T = sum_{m<T} E r_m^2,    G_T = sum_{m,m'<T} E r_m r_m' r_{|m-m'|},    m, m' >= 1.

It is the same for a fixed and for a random s_1, as W and Q W Q^T have the same law. Averaging over the sphere leaves
moments of the traces t_m = tr W^m. These are exact too: on each of the two components of O(dim) the free eigenangles
are a determinantal point process (Weyl's integration formula), the projection on a few sines or cosines, and its
joint cumulants are traces of products of small matrices. No quadrature, any dim and T.

Arguments are named alike everywhere: dim >= 1, the size of s_t; length >= 2, T; max_length >= 2, the longest context
trained on; step_size, eta, any number. Others are a ValueError. Step sizes are for |s_1| = 1, errors are summed over
coordinates.
Source: the model is the augmented-token layer of Sander et al. 2024; the values are derived here.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ar_interp._checks import check_integer, check_number


def second_moment(*, dim: int, power: int) -> float:
    """E r_m^2 = E[t_m^2 + t_{2m} + dim] / (dim (dim + 2)), r_m = <s_1, W^m s_1>, m = `power`.

    (dim + 2 + 2 floor(m / 2)) / (dim (dim + 2)) for 1 <= m <= dim. Beyond, the numerator stays at 2 dim + 1 for odd
    dim; for even dim it is 2 dim + 2 at even and 2 dim at odd m.
    Source: fourth moments of the sphere, moments of traces by Weyl's integration formula.

    Args:
        power: m; >= 0.
    """
    check_integer("dim", dim, low=1)
    check_integer("power", power, low=0)
    return _second(dim, power)


def haar_step_size(*, dim: int, max_length: int) -> float:
    """Best step size of one gradient step shared by T = 2..max_length: sum_T h_T / sum_T G_T.

    max_length eta tends to `haar_step_limit`. Source: by minimising the mean of `haar_one_step_loss`, a parabola.
    """
    h, G = _sums(dim, check_integer("max_length", max_length, low=2))
    return float(h.sum() / G.sum())


def haar_step_size_at(*, dim: int, length: int) -> float:
    """Best step size for one context length T alone: h_T / G_T.

    Its loss is 1 - h_T^2 / G_T; T eta tends to 2/3 of `haar_step_limit`.
    Source: by minimising `haar_one_step_loss`, a parabola.
    """
    h, G = _sums(dim, check_integer("length", length, low=2))
    return float(h[-1] / G[-1])


def haar_one_step_loss(*, dim: int, length: int, step_size: float) -> float:
    """Loss of one gradient step from W = 0 on a context of T tokens: 1 - 2 eta h_T + eta^2 G_T.

    Predicting 0 costs 1.
    Source: sixth moments of the sphere, moments of traces by Weyl's integration formula; exact at every T.
    """
    eta = check_number("step_size", step_size, low=-float("inf"))
    h, G = _sums(dim, check_integer("length", length, low=2))
    return float(1 - 2 * eta * h[-1] + eta**2 * G[-1])


def haar_one_step_minimum(*, dim: int, max_length: int) -> float:
    """Mean over T = 2..max_length of `haar_one_step_loss` at `haar_step_size`: 1 - eta mean_T h_T."""
    h, G = _sums(dim, check_integer("max_length", max_length, low=2))
    return float(1 - h.sum() ** 2 / (G.sum() * len(h)))


def haar_step_limit(*, dim: int) -> float:
    """Limit of max_length times `haar_step_size`: (dim + 4) (2 dim + 1) / (2 (2 dim + 3)).

    Neither 3/2 nor 3 dim / 2, what one coordinate or dim commuting ones give.
    Source: h_T ~ T (2 dim + 1) / (dim (dim + 2)), G_T ~ 3 T^2 (2 dim + 3) / (dim (dim + 2) (dim + 4)).
    """
    check_integer("dim", dim, low=1)
    return (dim + 4) * (2 * dim + 1) / (2 * (2 * dim + 3))


def haar_error_limit(*, dim: int) -> float:
    """Limit of `haar_one_step_minimum`, one step size for all T: 1 - (3/4) x, x = 1 - `haar_error_limit_at`.

    Source: the leading orders of h_T and G_T, averaged over T.
    """
    return 1 - 0.75 * (1 - haar_error_limit_at(dim=dim))


def haar_error_limit_at(*, dim: int) -> float:
    """Limit of the loss at `haar_step_size_at`: 1 - (2 dim + 1)^2 (dim + 4) / (3 dim (dim + 2) (2 dim + 3)).

    One gradient step never becomes exact for dim > 1; the limit grows to 1/3 with dim.
    Source: the leading orders of h_T and G_T.
    """
    check_integer("dim", dim, low=1)
    return 1 - (2 * dim + 1) ** 2 * (dim + 4) / (3 * dim * (dim + 2) * (2 * dim + 3))


def ols_error(*, dim: int, length: int) -> float:
    """Error of least squares of minimum norm on the T - 1 pairs of a context: max(0, dim - T + 1) / dim.

    The mean squared distance of s_T from the span of s_1..s_{T-1}; no predictor has a smaller error.
    Source: given s_1..s_{T-1}, the part of s_T off the span of s_2..s_{T-1} is uniform on a sphere; recursion over T.

    Args:
        length: T; >= 1 here.
    """
    check_integer("dim", dim, low=1)
    check_integer("length", length, low=1)
    return max(0, dim - length + 1) / dim


# ---- moments of r_m, from those of the traces


def _sums(dim: int, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """h_T and G_T for T = 2..max_length."""
    check_integer("dim", dim, low=1)
    lags = range(1, max_length)
    return np.cumsum([_second(dim, m) for m in lags]), np.cumsum([_second(dim, m) + _triples(dim, m) for m in lags])


@cache
def _second(dim: int, m: int) -> float:
    """E r_m^2."""
    a = np.array([m])
    moments = [part.two(a, a) + part.one(2 * a) + dim for part in _components(dim)]
    return float(np.mean(moments)) / (dim * (dim + 2))


@cache
def _triples(dim: int, m: int) -> float:
    """2 sum_{b=1}^{m-1} E r_m r_b r_{m-b}: what the lag m adds to G beside E r_m^2.

    The 15 pairings of the sphere's sixth moment with S_a = (W^a + W^-a) / 2:
    t_a t_b t_c + 2 (t_a tr S_b S_c + ...) + 8 tr S_a S_b S_c over dim (dim + 2) (dim + 4), here for a = b + c.
    """
    b = np.arange(1, m)
    a, c = np.full_like(b, m), m - b
    total = 0.0
    for part in _components(dim):
        pairs = part.two(a, a) + part.two(b, b) + part.two(c, c)
        pairs += part.two(a, b - c) + part.two(b, a + c) + part.two(c, a + b)
        singles = part.one(2 * a) + part.one(2 * b) + part.one(2 * c) + dim
        total += (part.three(a, b, c) + pairs + 2 * singles).sum()  # half the weight, twice the terms
    return float(total) / (dim * (dim + 2) * (dim + 4))


# ---- moments of the traces t_m


@dataclass(frozen=True, kw_only=True)
class _Component:
    """One component of O(dim): det W = 1 or -1.

    Its free eigenangles are the projection process on cos(k theta) (sign 1) or sin(k theta) (sign -1), k in
    `frequencies`. All methods take arrays of integers [lag].
    """

    fixed: tuple[int, ...]  # eigenvalues that every W of the component has
    frequencies: np.ndarray
    sign: int

    def times(self, m: np.ndarray) -> np.ndarray:
        """Multiplication by 2 cos(m theta) between the orthonormal functions, [lag k k]."""
        k, m = self.frequencies, m[:, None, None]
        norm = np.where(k == 0, 0.5**0.5, 1.0)
        sums, differences = k[:, None] + k, k[:, None] - k
        hits = sum(self.sign * (sums == x) + (differences == x) for x in (m, -m))
        return np.outer(norm, norm) * hits

    def one(self, a: np.ndarray) -> np.ndarray:
        """E t_a."""
        return sum(np.where(a % 2, value, 1) for value in self.fixed) + _trace(self.times(a))

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Second cumulant tr fgK - tr fKgK, with 2 cos a 2 cos b = 2 cos(a + b) + 2 cos(a - b)."""
        return _trace(self.times(a + b) + self.times(a - b)) - _trace(self.times(a) @ self.times(b))

    def two(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """E t_a t_b."""
        return self.covariance(a, b) + self.one(a) * self.one(b)

    def three(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """E t_a t_b t_c, from the third cumulant tr fghK - (tr fgKhK + ...) + tr fKgKhK + tr fKhKgK."""
        cumulant = sum(_trace(self.times(m)) for m in (a + b + c, a + b - c, a - b + c, -a + b + c))
        for x, y, z in ((a, b, c), (a, c, b), (b, c, a)):
            cumulant = cumulant - _trace((self.times(x + y) + self.times(x - y)) @ self.times(z))
        cumulant = cumulant + 2 * _trace(self.times(a) @ self.times(b) @ self.times(c))  # symmetric matrices
        products = [self.covariance(x, y) * self.one(z) for x, y, z in ((a, b, c), (a, c, b), (b, c, a))]
        return cumulant + sum(products) + self.one(a) * self.one(b) * self.one(c)


@cache
def _components(dim: int) -> tuple[_Component, _Component]:
    half = np.arange(dim // 2)
    if dim % 2:
        return (
            _Component(fixed=(1,), frequencies=half + 0.5, sign=-1),
            _Component(fixed=(-1,), frequencies=half + 0.5, sign=1),
        )
    return (
        _Component(fixed=(), frequencies=half, sign=1),
        _Component(fixed=(1, -1), frequencies=half[1:], sign=-1),
    )


def _trace(matrices: np.ndarray) -> np.ndarray:
    return np.trace(matrices, axis1=-2, axis2=-1)
