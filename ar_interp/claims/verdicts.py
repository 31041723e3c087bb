"""Verdicts by interval: where an interval lies to the band of a prediction, and what would decide it."""

from math import ceil, inf
from typing import Literal

from ar_interp.claims.estimate import Estimate

Side = Literal["equal to", "at least", "at most"]
Interval = tuple[float, float]

HOLDS, FAILS, UNDECIDED, VOID = VERDICTS = ("holds", "fails", "undecided", "void")
INSIDE, OUTSIDE, ACROSS = "inside", "outside", "across"
MOST = 1000  # times as many contexts: what needs more sits on the bound


def band(predicted: float, tolerance: float, side: Side = "equal to") -> Interval:
    """The values that agree with a prediction."""
    low, high = predicted - tolerance, predicted + tolerance
    return (low if side != "at most" else -inf, high if side != "at least" else inf)


def place(interval: Interval, within: Interval) -> str:
    """`inside`, `outside` or `across` a band; one that is not known is across."""
    (low, high), (lowest, highest) = interval, within
    if high < lowest or low > highest:
        return OUTSIDE
    return INSIDE if lowest <= low and high <= highest else ACROSS


def what_decides(found: Estimate, within: Interval) -> str:
    """The source that limits a measurement whose interval reaches over a bound, and the n that would decide it."""
    distance = min(abs(found.value - bound) for bound in within)
    low, high = found.interval
    wanted = ((high - low) / 2 / distance) ** 2 if distance else inf
    if not wanted <= MOST:
        return f"the measurement sits on a bound of the band: no number of {found.limited_by} would decide it"
    return f"limited by {found.limited_by}, n = {found.n}: about {ceil(found.n * max(wanted, 1) * 1.1)} would decide it"
