"""`Claim`: prediction, measurement, a tolerance set beforehand, a control that must fail; its verdict by interval."""

from dataclasses import dataclass
from html import escape
from math import inf, isnan
from typing import Any, Literal, get_args

from ar_interp._checks import check_choice, check_number
from ar_interp._files import faults_of
from ar_interp.claims.estimate import Estimate, as_estimate
from ar_interp.claims.rows import check, check_row, finite
from ar_interp.claims.tolerances import TOLERANCES, Tolerance
from ar_interp.claims.verdicts import (
    ACROSS,
    FAILS,
    HOLDS,
    INSIDE,
    OUTSIDE,
    UNDECIDED,
    VERDICTS,
    VOID,
    Interval,
    Side,
    band,
    place,
    what_decides,
)

Evidence = Literal["weights", "activations", "behaviour", "causal", "training"]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A claim's measurement repeated where the structure must be absent.

    Attributes:
        description: of what was measured instead, e.g. `untrained`.
        estimate: the measurement; a number is one that is exact.
    """

    description: str
    estimate: Estimate

    def __post_init__(self) -> None:
        check_words("description of a control", self.description)
        object.__setattr__(self, "estimate", _as_estimate("estimate of a control", self.estimate))

    @property
    def measured(self) -> float:
        """The value of the estimate."""
        return self.estimate.value


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement, measured.

    The band is predicted +- tolerance, or for one-sided claims all from predicted - tolerance up, or to predicted +
    tolerance. With the 95 % intervals of the measurement and of its control the verdict is

    - `fails`: the interval lies wholly outside the band, or the measurement is nan,
    - `undecided`: the interval, or the control's, reaches over a bound of the band (or the control is nan),
    - `void`: the interval and the control's lie wholly inside: the measurement cannot tell,
    - `holds`: the interval lies wholly inside and the control's wholly outside.

    Attributes:
        name: of the measurement, `structure/what`; unique within a model, the same for every model it applies to.
        evidence: where it was read: `weights`, `activations`, `behaviour`, `causal` or `training`. A structure is
            believed when it was read from the weights, seen in activations or behaviour, and used causally: each of
            the three can fail where the others do not.
        source: of the statement.
        predicted: by theory; side says whether the value must be equal to it, at least, or at most it. Where it is
            itself measured and could not be, nan, which leaves the claim undecided.
        estimate: the measurement: value, 95 % interval, what it rests on; a number is one that is exact.
        tolerance: set beforehand.
        reason: why this tolerance.
    Raises:
        ValueError: a name without its two halves, an unknown kind of evidence or side, empty words, a prediction or
            tolerance that is not finite, a control that is none.
    """

    name: str
    evidence: Evidence
    statement: str
    source: str
    predicted: float
    side: Side = "equal to"
    estimate: Estimate
    tolerance: float
    reason: str
    control: Control

    def __post_init__(self) -> None:
        structure, _, what = check_words("name of a claim", self.name).partition("/")
        if not (structure.strip() and what.strip()):
            raise ValueError(
                f"name of a claim must be structure/what, e.g. 'estimate/damped', got {self.name!r}: report and "
                "explorer put claims about one structure together."
            )
        check_choice("evidence", self.evidence, get_args(Evidence))
        check_choice("side", self.side, get_args(Side))
        for field in ("statement", "source", "reason"):
            check_words(f"{field} of the claim {self.name!r}", getattr(self, field))
        predicted = self.predicted
        if not (isinstance(predicted, float) and isnan(predicted)):  # a reference that could not be measured
            predicted = check_number(f"predicted of the claim {self.name!r}", predicted, low=-inf)
        tolerance = check_number(f"tolerance of the claim {self.name!r}", self.tolerance, low=0.0)
        estimate = _as_estimate(f"estimate of the claim {self.name!r}", self.estimate)
        if not isinstance(self.control, Control):
            raise ValueError(
                f"control of the claim {self.name!r} must be a Control, got {self.control!r}: the same measurement "
                "where the structure must be absent, e.g. ari.Control(description='untrained', estimate=...)."
            )
        for field, value in (("predicted", predicted), ("tolerance", tolerance), ("estimate", estimate)):
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        side = "" if self.side == "equal to" else f"{self.side} "
        return (
            f"Claim({self.name!r} {self.verdict}: measured {self.estimate:.4g}, predicted {side}{self.predicted:.4g} "
            f"(tolerance {self.tolerance:.2g}), control {self.control.measured:.4g})"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.describe())}</pre>"

    @property
    def structure(self) -> str:
        """The first half of the name: what is claimed to be there."""
        return self.name.partition("/")[0]

    @property
    def measured(self) -> float:
        """The value of the estimate."""
        return self.estimate.value

    @property
    def interval(self) -> Interval:
        """The 95 % interval of `measured`; a point where it is exact."""
        return self.estimate.interval

    @property
    def n(self) -> int:
        """Contexts, pairs, seeds or angles that `measured` rests on."""
        return self.estimate.n

    @property
    def prediction(self) -> str:
        """The prediction and how far the measurement may be from it, in words."""
        side = "" if self.side == "equal to" else f"{self.side} "
        return f"predicted {side}{self.predicted:.6g} (tolerance {self.tolerance:g})"

    @property
    def uncertainty(self) -> float:
        """Half-width of the interval."""
        return (self.interval[1] - self.interval[0]) / 2

    @property
    def band(self) -> Interval:
        """The values that agree with the prediction."""
        return band(self.predicted, self.tolerance, self.side)

    @property
    def verdict(self) -> str:
        """`holds`, `fails`, `undecided` or `void`."""
        here = place(self.interval, self.band)
        there = place(self.control.estimate.interval, self.band)
        if isnan(self.measured) or here == OUTSIDE:
            return FAILS
        if ACROSS in (here, there):
            return UNDECIDED
        return VOID if there == INSIDE else HOLDS

    @property
    def limit(self) -> str:
        """The source that leaves the claim undecided and how many would decide it; empty where it is decided."""
        if self.verdict != UNDECIDED:
            return ""
        if isnan(self.predicted):
            return "the prediction could not be measured"
        if place(self.interval, self.band) != ACROSS:
            low, high = self.control.estimate.interval
            return f"the control's interval, {low:.3g} to {high:.3g}, reaches over a bound of the band"
        return what_decides(self.estimate, self.band)

    def to_dict(self) -> dict[str, object]:
        """The fields and the verdict, ready for JSON."""
        fields = {
            "name": self.name,
            "evidence": self.evidence,
            "statement": self.statement,
            "source": self.source,
            "predicted": self.predicted,
            "side": self.side,
            "measured": self.measured,
            "interval": list(self.interval),
            "uncertainty": self.uncertainty,
            "spread": dict(self.estimate.spread),
            "n": self.n,
            "tolerance": self.tolerance,
            "reason": self.reason,
            "control": {
                "description": self.control.description,
                "measured": self.control.measured,
                "interval": list(self.control.estimate.interval),
            },
            "verdict": self.verdict,
            "limit": self.limit,
        }
        return {key: finite(value) for key, value in fields.items()}

    @classmethod
    def from_dict(cls, row: Any, where: str = "claim") -> "Claim":
        """The claim of which `to_dict` gave these fields, all of them checked.

        Args:
            where: what messages call their place.
        Raises:
            CheckpointError: other fields, or a verdict that the numbers do not give.
        """
        check_row(row, where)
        control = row["control"]
        known = row["verdict"] in VERDICTS
        check(known, where, f"verdict must be one of {', '.join(VERDICTS)}, got {row['verdict']!r}")
        with faults_of(where):
            widths = {source: float(width) for source, width in row["spread"].items()}
            found = cls(
                **{key: row[key] for key in ("name", "evidence", "statement", "source", "side", "reason", "tolerance")},
                predicted=float(row["predicted"]),
                estimate=_estimate_of(row["measured"], row["interval"], widths, row["n"]),
                control=Control(
                    description=control["description"],
                    estimate=_estimate_of(control["measured"], control["interval"], {}, 1),
                ),
            )
        check(
            found.verdict == row["verdict"],
            where,
            f"verdict of {found.name!r} is {row['verdict']!r}, and its numbers say {found.verdict!r}",
        )
        return found

    def describe(self) -> str:
        """The claim in five lines, and what would decide it."""
        said = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "is undecided", VOID: "is void, its control passes too"}
        lines = [
            f"The claim {said[self.verdict]}: {self.statement}",
            f"  {self.prediction}: {self.reason}",
            f"  measured   {self.estimate:.6g} (n = {self.n}, from {self.evidence})",
            f"  control    {self.control.estimate:.6g}, {self.control.description}",
            f"  source     {self.source}",
            *([f"  undecided  {self.limit}"] if self.limit else []),
        ]
        return "\n".join(lines)


def claim(
    name: str,
    statement: str,
    *,
    evidence: Evidence,
    source: str,
    tolerance: str | Tolerance,
    predicted: Estimate | float = 0.0,
    side: Side = "equal to",
    measured: Estimate | float,
    control: tuple[str, Estimate | float],
) -> Claim:
    """A claim of measured numbers.

    Args:
        tolerance: a name of `TOLERANCES`, or one of your own with its reason.
        predicted: where it was itself estimated its uncertainty widens both intervals.
        measured: an `Estimate`, or a number that is exact.
        control: description and value.
    """
    value, reason = TOLERANCES[tolerance][:2] if isinstance(tolerance, str) else tolerance[:2]
    reference = as_estimate(predicted)
    found, against = (as_estimate(x).widened(reference.half_width) for x in (measured, control[1]))
    return Claim(
        name=name,
        evidence=evidence,
        statement=statement,
        source=source,
        predicted=reference.value,
        side=side,
        estimate=found,
        tolerance=value,
        reason=reason,
        control=Control(description=control[0], estimate=against),
    )


def check_words(name: str, value: object) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be words, got {value!r}.")
    return value


def _as_estimate(name: str, value: object) -> Estimate:
    if isinstance(value, bool) or not isinstance(value, Estimate | int | float):
        raise ValueError(
            f"{name} must be an Estimate, e.g. ari.Estimate.mean(values), or a number that is exact, got "
            f"{type(value).__name__}."
        )
    return as_estimate(value)


def _estimate_of(value: Any, interval: list[Any], spread: dict[str, float], n: Any) -> Estimate:
    """The estimate with this interval, whose bounds are said only where they do not follow from the rest."""
    value, bounds = float(value), (float(interval[0]), float(interval[1]))
    alone = Estimate(value, spread, n)
    return alone if repr(alone.interval) == repr(bounds) else Estimate(value, spread, n, bounds)
