"""`Claim`: prediction, measurement, a tolerance set beforehand, a control that must fail; its verdict by interval."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil, inf, isnan
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ar_interp._writing import write_file
from ar_interp.claims.estimate import Estimate, as_estimate
from ar_interp.claims.tolerances import TOLERANCES, Tolerance

Evidence = Literal["weights", "activations", "behaviour", "causal", "training"]
Side = Literal["equal to", "at least", "at most"]
Interval = tuple[float, float]

HOLDS, FAILS, UNDECIDED, VOID = VERDICTS = ("holds", "fails", "undecided", "void")
INSIDE, OUTSIDE, ACROSS = "inside", "outside", "across"
SCHEMA = 1
MOST = 1000  # times as many contexts: what needs more sits on the bound


@dataclass(frozen=True, kw_only=True)
class Control:
    """The same measurement where the structure must be absent."""

    description: str
    estimate: Estimate

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
        evidence: where it was read. A structure is believed when it was read from the weights, seen in activations or
            behaviour, and used causally: each of the three can fail where the others do not.
        source: of the statement.
        predicted: by theory; side says whether the value must be equal to it, at least, or at most it.
        estimate: the measurement: value, 95 % interval, what it rests on.
        tolerance: set beforehand.
        reason: why this tolerance.
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
        """What is predicted and how far the measurement may be from it."""
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
        """What leaves the claim undecided and how many would decide it; empty where it is decided."""
        if self.verdict != UNDECIDED:
            return ""
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
        return {key: _finite(value) for key, value in fields.items()}


@dataclass(frozen=True)
class Claims:
    """The claims about one model, in reading order.

    Attributes:
        seed: that the contexts of all measurements were drawn with.
        why_not: why theory makes none, a clause; empty where it makes some.
    """

    name: str
    claims: tuple[Claim, ...]
    why_not: str = ""
    seed: int = 0

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    @property
    def passed(self) -> bool:
        """No claim fails. (A void or undecided claim is no failure: it says that the measurement cannot tell.)"""
        return all(claim.verdict != FAILS for claim in self.claims)

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have which verdict."""
        verdicts = [claim.verdict for claim in self.claims]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    def __getitem__(self, name: str) -> Claim:
        """The claim of this name.

        Raises:
            KeyError: it is not made of this model.
        """
        for found in self.claims:
            if found.name == name:
                return found
        made = ", ".join(c.name for c in self.claims) or f"none, since {self.why_not}"
        raise KeyError(f"no claim {name!r} is made of {self.name}; made are {made}.")

    def to_frame(self) -> pd.DataFrame:
        """A row per claim; the control as its description and its value."""
        rows = [claim.to_dict() for claim in self.claims]
        for row, claim in zip(rows, self.claims, strict=True):
            row["control"] = f"{claim.control.description}: {claim.control.measured:.4g}"
        return pd.DataFrame(rows)

    def to_json(self, path: str | Path | None = None) -> str:
        """The claims as JSON text (see `claims_json`), also written to `path` where given."""
        text = claims_json({self.name: self}, seed=self.seed)
        if path is not None:
            write_file(path, text)
        return text


def claims_json(claims: Mapping[str, Claims], *, seed: int, **more: object) -> str:
    """The claims about several models as JSON: schema, seed, versions, and checkpoints by name.

    Args:
        more: further fields of the same level.
    """
    content = {
        "schema": SCHEMA,
        "seed": seed,
        "versions": {name: version(name) for name in ("ar_interp", "torch", "numpy")},
        **more,
        "checkpoints": {name: [claim.to_dict() for claim in found] for name, found in claims.items()},
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


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


def _finite(value: Any) -> Any:
    """Numbers that JSON cannot hold, as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < inf:
        return str(value)
    return value
