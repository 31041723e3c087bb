"""How training finds the gradient step: flow and plain descent of one layer on augmented tokens, in closed form.

The layer of `initial_token`, pred_t = B M_t A x_t with M_t = sum_{i<t} x_{i+1} x_i^* / (t - 1), is trained on
L = 1/2 sum_{t=2}^{max_length-1} E|pred_t - x_{t+1}|^2, summed over coordinates, and the entries of the matrices A and B
are the parameters (the official code; two shared scalars in their place learn dim times faster). From A = a I, B = b I
all of it stays in the plane of (a, b) for signed, exchangeable laws of x_1, and with y = a b

    L = dim (constant - slope y + curvature y^2 / 2),    da/dt = b r,  db/dt = a r,  r = slope - curvature y
    slope = n kappa1,  curvature = n kappa2 + kappa3 H,  n = max_length - 2,  H = sum_{t=2}^{max_length-1} 1 / (t - 1)

The flow conserves m = a^2 - b^2; descent with step size lr multiplies p = a + b and q = a - b by 1 +- lr r, and so
m = p q by 1 - lr^2 r^2 at each step.

Arguments are named alike everywhere: a and b, where training starts; max_length >= 3, tokens in a training sequence;
lr > 0, the step size for the loss L.
Source: Zheng et al. 2024 (arXiv 2405.16845), setting and conserved quantity; the closed forms are derived here.
"""

from collections.abc import Callable, Sequence
from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ar_interp._checks import as_real_array, check_integer, check_number
from ar_interp._shown import shown, shown_html
from ar_interp.theory.initial_token import TokenMoments, check_moments, initial_token_product


class PlaneLoss(NamedTuple):
    """The training loss over dim, in y = a b: constant - slope y + curvature y^2 / 2."""

    constant: float
    slope: float
    curvature: float

    __repr__ = shown
    _repr_html_ = shown_html

    def at(self, product: float) -> float:
        """The loss over dim at y = `product`."""
        return self.constant - self.slope * product + self.curvature * product**2 / 2


class StepSizes(NamedTuple):
    """Step sizes at which plain descent in the plane changes.

    Attributes:
        monotone: below it y approaches its end from one side (balanced a = b).
        stable: below it the minimum attracts; for any a^2 - b^2.
        bounded: up to it no balanced descent that starts at y <= `largest_start` diverges.
    """

    monotone: float
    stable: float
    bounded: float

    __repr__ = shown
    _repr_html_ = shown_html


class OnesOptimum(NamedTuple):
    """The best A = (a - a_off) I + a_off 11^T and B = (b - b_off) I + b_off 11^T where x_1 = 1_dim, and their loss."""

    a: float
    a_off: float
    b: float
    b_off: float
    loss: float

    __repr__ = shown
    _repr_html_ = shown_html


def plane_loss(moments: TokenMoments, *, max_length: int) -> PlaneLoss:
    """The coefficients of the training loss over dim on the plane A = a I, B = b I."""
    check_moments(moments)
    n, harmonic = _lengths(max_length)
    return PlaneLoss(n * moments.kappa0 / 2, n * moments.kappa1, n * moments.kappa2 + harmonic * moments.kappa3)


def descent_path(
    moments: TokenMoments, *, a: float, b: float, max_length: int, lr: float, steps: int
) -> Float[np.ndarray, "step 2"]:
    """(a, b) before each step of plain gradient descent and after the last, exactly: steps + 1 rows.

    a, b <- a + lr b r, b + lr a r with r = slope - curvature a b. Rows of a descent that diverges end in inf and nan.

    Args:
        steps: >= 0.
    """
    loss = plane_loss(moments, max_length=max_length)
    a, b = _start(a, b)
    check_number("lr", lr, low=0.0, strict=True)
    path = [(a, b)]
    for _ in range(check_integer("steps", steps, low=0)):
        pull = lr * (loss.slope - loss.curvature * a * b)
        a, b = a + pull * b, b + pull * a
        path.append((a, b))
    return np.array(path)


def flow_path(
    moments: TokenMoments, *, a: float, b: float, max_length: int, times: Sequence[float] | Float[np.ndarray, "time"]
) -> Float[np.ndarray, "time 2"]:
    """(a, b) of gradient flow at these times; one of lr k is what k steps of descent tend to as lr -> 0.

    u = (a + b)^2 and v = (a - b)^2 have a constant product m^2, and u' = 2 slope u - curvature (u^2 - m^2) / 2 is a
    Riccati equation with roots u+ = (2 slope + D) / curvature and -m^2 / u+, D = sqrt(4 slope^2 + curvature^2 m^2):

        u(t) / u(0) = [u+ + m^2/u+ e + v(0) (1 - e)] / [u+ e + m^2/u+ + u(0) (1 - e)],   e = exp(-D t)

    Args:
        times: >= 0, in units of 1 / loss.
    """
    loss = plane_loss(moments, max_length=max_length)
    a, b = _start(a, b)
    t = as_real_array("times", times, shape=("time",)).cpu().numpy()
    if t.min() < 0:
        raise ValueError(f"times must be at least 0, got {t.min()}: flow is followed from its start on.")
    p, q = a + b, a - b
    D = np.hypot(2 * loss.slope, loss.curvature * p * q)
    root = (2 * loss.slope + D) / loss.curvature
    other, left, gone = (p * q) ** 2 / root, np.exp(-D * t), -np.expm1(-D * t)
    above = root + other * left + q**2 * gone
    below = root * left + other + p**2 * gone
    # a start with p = 0 is the stable line of the saddle, on which `below` may fall to 0
    p, q = p * np.sqrt(above / np.where(below > 0, below, 1.0)), q * np.sqrt(below / above)
    return np.stack([p + q, p - q], axis=1) / 2


def flow_limit(moments: TokenMoments, *, a: float, b: float, max_length: int) -> tuple[float, float]:
    """(a, b) that gradient flow tends to: a b is `initial_token_product` and a^2 - b^2 that of the start.

    a^2 = (m + sqrt(m^2 + 4 y^2)) / 2 with the sign of a + b at the start; (0, 0), a saddle, where a = -b.
    """
    y = initial_token_product(moments, max_length=max_length)
    a, b = _start(a, b)
    if a + b == 0:
        return 0.0, 0.0
    m, sign = (a - b) * (a + b), np.sign(a + b)
    size = np.hypot(m, 2 * y)
    larger = sqrt((abs(m) + size) / 2)
    smaller = y / larger
    first, second = (larger, smaller) if m >= 0 else (smaller, larger)
    return float(sign * first), float(sign * second)


def half_time(moments: TokenMoments, *, product: float, max_length: int) -> float:
    """Time at which a b of balanced gradient flow, a = b, is half its end y*: ln(y* / y - 1) / (2 slope).

    A plateau that grows with ln(1 / y) and then a drop; over lr it is a number of small steps.

    Args:
        product: y, a b at the start; above 0 and below y*, negative times beyond y* / 2.
    """
    end = initial_token_product(moments, max_length=max_length)
    check_number("product", product, low=0.0, strict=True)
    if product >= end:
        raise ValueError(f"product must be below its end {end:.6g}, got {product}: from above it is never half of it.")
    return log(end / product - 1) / (2 * plane_loss(moments, max_length=max_length).slope)


def step_sizes(moments: TokenMoments, *, max_length: int, difference: float = 0.0) -> StepSizes:
    """Step sizes where plain descent changes: 1 / (2 slope), 2 / (curvature (a^2 + b^2)), 2 / slope.

    All shrink as 1 / max_length.

    Args:
        difference: a^2 - b^2 at the minimum; 0 where a = b.
    """
    loss = plane_loss(moments, max_length=max_length)
    check_number("difference", difference, low=-np.inf)
    size = np.hypot(difference, 2 * loss.slope / loss.curvature)  # a^2 + b^2
    return StepSizes(1 / (2 * loss.slope), float(2 / (loss.curvature * size)), 2 / loss.slope)


def largest_start(moments: TokenMoments, *, max_length: int, lr: float) -> float:
    """The largest a b from which balanced descent, a = b, stays bounded: (2 + lr slope) / (lr curvature).

    Raises:
        ValueError: lr above `step_sizes(...).bounded`, where almost every start diverges.
    """
    loss = plane_loss(moments, max_length=max_length)
    mu = check_number("lr", lr, low=0.0, strict=True) * loss.slope
    if mu > 2:
        raise ValueError(f"lr must be at most {2 / loss.slope:.6g}, got {lr}: beyond, almost every start diverges.")
    return (2 + mu) / (lr * loss.curvature)


def squared_gradient(moments: TokenMoments, *, a: float, b: float, dim: int, max_length: int) -> float:
    """|grad L|^2 over all entries of A and B in the plane: 2 curvature (a^2 + b^2) (L - min L), an identity.

    So descent can stall at the origin alone. Where the law of x_1 does not leave the plane invariant, as for 1_dim, it
    is the square of the gradient's part in the plane.
    """
    loss = plane_loss(moments, max_length=max_length)
    a, b = _start(a, b)
    above = loss.curvature * (a * b - loss.slope / loss.curvature) ** 2 / 2
    return 2 * loss.curvature * (a**2 + b**2) * check_integer("dim", dim, low=1) * above


# ---- the sign gauge


def one_step_share(dim: int) -> float:
    """Share of random starts that end as a gradient step and not as a reflected one, 2^(1 - dim).

    For independent phases, any law of x_1 and main blocks A, B trained alone from symmetric starts: the loss of
    (B D, A D) is that of (B, A) for every diagonal D of signs, and only D = +-I is a gradient step.
    """
    return 2.0 ** (1 - check_integer("dim", dim, low=1))


def equal_phase_gain(
    signs: Sequence[float] | Float[np.ndarray, "dim"],
    first: Sequence[float] | Float[np.ndarray, "dim"],
    *,
    product: float,
) -> Float[np.ndarray, "dim"]:
    """pred_t / x_{t+1} by coordinate where W = lambda I and A = a D, B = b D: a b D_j sum_r D_r |x_1r|^2.

    A gradient step, D = +-I, has a b |x_1|^2 in all of them.

    Args:
        signs: the diagonal of D, each 1 or -1.
        first: x_1, or the moduli of its coordinates.
        product: a b.
    """
    D = as_real_array("signs", signs, shape=("dim",)).cpu().numpy()
    if not (np.abs(D) == 1).all():
        raise ValueError(f"signs must be 1 or -1 each, got {D.tolist()}.")
    x = as_real_array("first", first, shape=(len(D),)).cpu().numpy()
    return check_number("product", product, low=-np.inf) * D * (D @ x**2)


# ---- coordinates of unequal size: stages


def anisotropic_loss(
    a: Float[np.ndarray, "dim"],
    b: Float[np.ndarray, "dim"],
    *,
    scales: Sequence[float] | Float[np.ndarray, "dim"],
    max_length: int,
) -> float:
    """L at A = diag(a), B = diag(b) where x_1j ~ N(0, scales_j^2), independent.

    1/2 sum_j [n E w_j - 2 n a_j b_j E w_j^2 + n a_j^2 b_j^2 E w_j^3 + b_j^2 H sum_{r != j} a_r^2 E w_j E w_r^2] with
    w = x_1^2 entrywise.
    """
    n, harmonic, w1, w2, w3, A, B = _anisotropic(a, b, scales, max_length)
    y, cross = A * B, (B**2 @ w1) * (A**2 @ w2) - (A * B) ** 2 @ (w1 * w2)
    return float(n * (w1 - 2 * y * w2 + y**2 * w3).sum() + harmonic * cross) / 2


def anisotropic_path(
    *,
    a: Sequence[float] | Float[np.ndarray, "dim"],
    b: Sequence[float] | Float[np.ndarray, "dim"],
    scales: Sequence[float] | Float[np.ndarray, "dim"],
    max_length: int,
    lr: float,
    steps: int,
) -> Float[np.ndarray, "step 2 dim"]:
    """The diagonals of A and B before each step of plain descent on `anisotropic_loss` and after the last, exactly.

    A and B stay diagonal, since the signs of all coordinates are free; every coordinate has a plateau of its own.
    """
    n, harmonic, w1, w2, w3, A, B = _anisotropic(a, b, scales, max_length)
    check_number("lr", lr, low=0.0, strict=True)
    path = [np.stack([A, B])]
    for _ in range(check_integer("steps", steps, low=0)):
        pull = n * (w2 - w3 * A * B)
        drag_a = harmonic * A * w2 * (B**2 @ w1 - B**2 * w1)
        drag_b = harmonic * B * w1 * (A**2 @ w2 - A**2 * w2)
        A, B = A + lr * (pull * B - drag_a), B + lr * (pull * A - drag_b)
        path.append(np.stack([A, B]))
    return np.array(path)


def stage_half_times(
    scales: Sequence[float] | Float[np.ndarray, "dim"], *, product: float, max_length: int
) -> Float[np.ndarray, "dim"]:
    """Times at which coordinates would emerge alone: ln(1/(5 s^2 y) - 1) / (6 (max_length - 2) s^4).

    The time at which a_j b_j of balanced flow from y = `product` is half of its long-context end 1 / (5 s_j^2).
    Coordinates that emerge later are held up by those before, a few percent at max_length = 100.
    """
    s, (n, _) = _variances(scales), _lengths(max_length)
    y = check_number("product", product, low=0.0, strict=True)
    if y >= 1 / (5 * s.max()):
        raise ValueError(f"product must be below every 1 / (5 scale^2), {1 / (5 * s.max()):.6g}, got {product}.")
    return np.log(1 / (5 * s * y) - 1) / (6 * n * s**2)


# ---- laws for which the plane is not invariant


def off_plane_gradient(
    *, a: float, b: float, dim: int, max_length: int, correlation: float | None = None
) -> tuple[float, float]:
    """dL/dA_rs and dL/dB_jk of unequal indices at A = a I, B = b I, equal for all of them; the plane is left at once.

    b (a^2 H m33) for B; for A, a b^2 [H (m33 + m51) + H2 (dim - 2) m213] - b H m31, with m33 = E x^3 y^3,
    m51 = E x^5 y, m31 = E x^3 y, m213 = E z^2 x y^3 of distinct coordinates, H2 = sum_t 1 / (t - 1)^2.

    Args:
        correlation: of every two coordinates of standard Gaussian first tokens, from -1 / (dim - 1) to 1; x_1 = 1_dim
            if left out.
    """
    check_integer("dim", dim, low=2)
    a, b = _start(a, b)
    n, harmonic = _lengths(max_length)
    squares = sum(1 / pairs**2 for pairs in range(1, n + 1))
    m33 = m51 = m31 = m213 = 1.0
    if correlation is not None:
        rho, least = check_number("correlation", correlation, low=-np.inf), -1 / (dim - 1)
        if not least <= rho <= 1:
            raise ValueError(
                f"correlation of every two of {dim} coordinates must be from {least:.6g} to 1, got {correlation}."
            )
        m33, m51, m31, m213 = 9 * rho + 6 * rho**3, 15 * rho, 3 * rho, 3 * rho + 6 * rho**2 + 6 * rho**3
    of_A = a * b**2 * (harmonic * (m33 + m51) + squares * (dim - 2) * m213) - b * harmonic * m31
    return of_A, a**2 * b * harmonic * m33


def ones_loss(*, a: float, a_off: float, b: float, b_off: float, dim: int, max_length: int) -> float:
    """L at A = (a - a_off) I + a_off 11^T, B = (b - b_off) I + b_off 11^T where x_1 = 1_dim, by counting modes."""
    check_integer("dim", dim, low=1)
    rows = b**2 + (dim - 1) * b_off**2  # of a row of B, the sum of squares and of products of unequal entries
    unequal = (b + (dim - 1) * b_off) ** 2 - rows
    both = (dim - 1) * rows + unequal  # sum over pairs of (B_kj + B_ks)^2
    total, losses = a + (dim - 1) * a_off, []
    for t in range(2, _lengths(max_length)[0] + 2):
        own, across = total + (t - 2) * a, total + (t - 2) * a_off
        if t == 2:
            power = total**2 * (rows + both)
        else:
            power = rows * own**2 + (dim - 1) * rows * (across**2 + a**2) + 2 * across * a * unequal
            power += (t - 3) * a**2 * both + (t - 2) * (dim - 1) * a_off**2 * rows
            power += (dim - 1) * (dim - 2) * (t - 3) * a_off**2 * rows + (dim - 2) * a_off**2 * both
        losses.append(1 - 2 * b * own / (t - 1) + power / (t - 1) ** 2)
    return dim * sum(losses) / 2


def ones_optimum(*, dim: int, max_length: int, difference: float = 0.0) -> OnesOptimum:
    """The minimum of `ones_loss`: off-diagonal entries of the opposite sign appear, which masked training cannot have.

    a_off / a and b_off / b do not depend on the start. Alternating minimisation, exact in each of A and B.

    Args:
        dim: >= 2.
        difference: a^2 - b^2 of a start at a_off = b_off = 0, which flow keeps as (|A|^2 - |B|^2) / dim.
    """
    check_integer("dim", dim, low=2)
    check_number("difference", difference, low=-np.inf)

    def loss(A: np.ndarray, B: np.ndarray) -> float:
        return ones_loss(a=A[0], a_off=A[1], b=B[0], b_off=B[1], dim=dim, max_length=max_length)

    def best(of: Callable[[np.ndarray], float]) -> np.ndarray:
        """The minimum of a quadratic in two numbers, from its values."""
        zero, first, second = np.zeros(2), *np.eye(2)
        none, here, there = of(zero), [of(x) for x in (first, second)], [of(-x) for x in (first, second)]
        slope = np.subtract(here, there) / 2
        curves = np.add(here, there) - 2 * none
        mixed = of(first + second) - none - slope.sum() - curves.sum() / 2
        return -np.linalg.solve([[curves[0], mixed], [mixed, curves[1]]], slope)

    A, B = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for _ in range(10_000):
        before = np.array([A[1] / A[0], B[1] / B[0]])
        A = best(lambda x, B=B: loss(x, B))
        A = A / A[0]
        B = best(lambda x, A=A: loss(A, x))
        if np.abs(before - [A[1] / A[0], B[1] / B[0]]).max() < 1e-13:
            break
    weight = np.array([1.0, dim - 1])
    m, size = difference, sqrt((A**2 @ weight) * (B**2 @ weight))  # |A| |B| / dim
    larger = sqrt((abs(m) + np.hypot(m, 2 * size)) / 2)
    norm = larger if m >= 0 else size / larger  # |A| / sqrt(dim)
    scale = norm / sqrt(A**2 @ weight)
    A, B = A * scale, B / scale
    return OnesOptimum(float(A[0]), float(A[1]), float(B[0]), float(B[1]), loss(A, B))


def _lengths(max_length: int) -> tuple[int, float]:
    """Terms of the loss, and sum_{t=2}^{max_length-1} 1 / (t - 1)."""
    n = check_integer("max_length", max_length, low=3) - 2
    return n, sum(1 / pairs for pairs in range(1, n + 1))


def _start(a: float, b: float) -> tuple[float, float]:
    return check_number("a", a, low=-np.inf), check_number("b", b, low=-np.inf)


def _anisotropic(a: object, b: object, scales: object, max_length: int) -> tuple[Any, ...]:
    """n, H, E w, E w^2, E w^3 and the diagonals, w_j the square of N(0, scales_j^2)."""
    variances = _variances(scales)
    a, b = (as_real_array(name, x, shape=(len(variances),)).cpu().numpy() for name, x in (("a", a), ("b", b)))
    return *_lengths(max_length), variances, 3 * variances**2, 15 * variances**3, a, b


def _variances(scales: object) -> Float[np.ndarray, "dim"]:
    """The squares of positive scales."""
    found = as_real_array("scales", scales, shape=("dim",)).cpu().numpy()
    if found.min() <= 0:
        raise ValueError(f"scales must be above 0 each, got {found.tolist()}: they are standard deviations.")
    return np.square(found)
