"""`Estimate`: a measured number with its 95 % interval, and which source of uncertainty makes it how wide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, isfinite, sqrt

import numpy as np
import scipy
from torch import Tensor

from ar_interp._checks import check_integer

CONTEXTS, SEEDS, REFERENCE = "contexts", "training seeds", "an estimated reference"
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the number; nan where it could not be measured.
        spread: source of uncertainty -> half-width of the 95 % interval that it alone would make; empty where the
            number is exact.
        n: how many contexts, pairs, seeds or angles it rests on.
        bounds: the interval where it is not symmetric; else value +- the root of the summed squares of the spread.
    Raises:
        ValueError: a half-width below zero, an n below 1, an upper bound below the lower one.
    """

    value: float
    spread: Mapping[str, float] = field(default_factory=dict)
    n: int = 1
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1, high=None)
        for source, width in self.spread.items():
            if width < 0:
                raise ValueError(f"half-width of {source!r} must not be negative, got {width}.")
        if self.bounds and self.bounds[0] > self.bounds[1]:
            raise ValueError(f"bounds must be (low, high), got {self.bounds}.")

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return sqrt(sum(width**2 for width in self.spread.values()))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; a point where the number is exact."""
        return self.bounds or (self.value - self.half_width, self.value + self.half_width)

    @property
    def limited_by(self) -> str:
        """The source that makes the interval widest; empty where there is none."""
        return max(self.spread, key=lambda source: self.spread[source], default="")

    @classmethod
    def mean(cls, values: Tensor | np.ndarray, source: str = CONTEXTS) -> "Estimate":
        """The mean of independent values, with Student's interval (of infinite width for a single one)."""
        values = _array(values)
        n = len(values)
        width = scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / sqrt(n) if n > 1 else float("inf")
        return cls(float(values.mean()), {source: float(width)}, n)

    @classmethod
    def ratio(cls, above: Tensor | np.ndarray, below: Tensor | np.ndarray, source: str = CONTEXTS) -> "Estimate":
        """The mean of one value over the mean of another, measured together, by the delta method; nan over zero."""
        above, below = _array(above), _array(below)
        if not below.mean():
            return cls(float("nan"), n=len(above))
        value = above.mean() / below.mean()
        deviation = cls.mean((above - value * below) / below.mean(), source)
        return cls(float(value), deviation.spread, len(above))

    @classmethod
    def share(cls, successes: int, n: int, source: str = CONTEXTS) -> "Estimate":
        """A share of n independent cases, with Wilson's interval; nan of none."""
        if not n:
            return cls(float("nan"))
        found = scipy.stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
        return cls(successes / n, {source: (found.high - found.low) / 2}, n, (found.low, found.high))

    @classmethod
    def largest(
        cls, deviations: Tensor | np.ndarray, standard_errors: Tensor | np.ndarray, n: int, source: str = CONTEXTS
    ) -> "Estimate":
        """The largest |deviation| of several, with an interval that holds for all of them at once (Bonferroni).

        No deviation exceeds its upper end, and one at least its lower end, with a probability of 95 %.
        """
        size, error = (np.abs(_array(x)).ravel() for x in (deviations, standard_errors))
        width = scipy.stats.norm.ppf(1 - (1 - LEVEL) / (2 * len(size))) * error
        bounds = float(max((size - width).max(), 0.0)), float((size + width).max())
        return cls(float(size.max()), {source: (bounds[1] - bounds[0]) / 2}, n, bounds)

    def over(self, reference: "Estimate | float") -> "Estimate":
        """The ratio to a reference that was measured apart from it."""
        other = as_estimate(reference)
        value = self.value / other.value if other.value else float("nan")
        scaled = {source: width / abs(other.value or 1) for source, width in self.spread.items()}
        return Estimate(value, _joined(scaled, abs(value) * other.half_width / abs(other.value or 1)), self.n)

    def less(self, reference: "Estimate | float") -> "Estimate":
        """The difference to a reference that was measured apart from it."""
        other = as_estimate(reference)
        return Estimate(self.value - other.value, _joined(self.spread, other.half_width), self.n)

    def root(self) -> "Estimate":
        """The square root, of a number that is not negative."""
        low, high = (max(bound, 0.0) ** 0.5 for bound in self.interval)
        return Estimate(self.value**0.5, {self.limited_by or CONTEXTS: (high - low) / 2}, self.n, (low, high))

    def exp(self) -> "Estimate":
        """The exponential."""
        low, high = (exp(bound) for bound in self.interval)
        return Estimate(exp(self.value), {self.limited_by or CONTEXTS: (high - low) / 2}, self.n, (low, high))

    def distance(self, reference: float) -> "Estimate":
        """|value - reference|."""
        low, high = (bound - reference for bound in self.interval)
        least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return Estimate(abs(self.value - reference), self.spread, self.n, (least, max(abs(low), abs(high))))

    def widened(self, half_width: float) -> "Estimate":
        """The estimate beside a reference that is itself known to +- half_width: the same number, less certain."""
        if not half_width:
            return self
        low, high = self.interval
        spread = _joined(self.spread, half_width)
        return Estimate(self.value, spread, self.n, (low - half_width, high + half_width) if self.bounds else None)

    def __format__(self, form: str) -> str:
        spread = f" ± {self.half_width:.2g}" if self.half_width else ""
        return f"{self.value:{form or '.4g'}}{spread}"

    def __str__(self) -> str:
        return format(self)


def as_estimate(value: "Estimate | float") -> Estimate:
    """A plain number as one that is exact."""
    return value if isinstance(value, Estimate) else Estimate(float(value))


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    """In float64, from whatever device."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _joined(spread: Mapping[str, float], reference: float) -> dict[str, float]:
    if not reference or not isfinite(reference):
        return dict(spread)
    return {**spread, REFERENCE: sqrt(spread.get(REFERENCE, 0.0) ** 2 + reference**2)}
