"""`Claim`: prediction, measurement, a tolerance set beforehand, a control that must fail; its verdict by interval."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version
from math import inf, isnan
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp._files import faults_of, name_of, read_text
from ar_interp._writing import write_file
from ar_interp.claims.estimate import Estimate, as_estimate
from ar_interp.claims.rows import MAX_BYTES, SCHEMA, check, check_row, finite, parsed
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
    """The same measurement where the structure must be absent.

    Attributes:
        description: of what was measured instead, e.g. `untrained`.
        estimate: the measurement; a number is one that is exact.
    """

    description: str
    estimate: Estimate

    def __post_init__(self) -> None:
        _check_words("description of a control", self.description)
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
        structure, _, what = _check_words("name of a claim", self.name).partition("/")
        if not (structure.strip() and what.strip()):
            raise ValueError(
                f"name of a claim must be structure/what, e.g. 'estimate/damped', got {self.name!r}: report and "
                "explorer put claims about one structure together."
            )
        check_choice("evidence", self.evidence, get_args(Evidence))
        check_choice("side", self.side, get_args(Side))
        for field in ("statement", "source", "reason"):
            _check_words(f"{field} of the claim {self.name!r}", getattr(self, field))
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


@dataclass(frozen=True)
class Claims:
    """The claims about one model, in reading order.

    `verify(subject) + Claims(name, [claim, ...])` are both together.

    Args:
        name: of the model, as a checkpoint is called.
        claims: any number, each name once.
        why_not: why theory makes none, a clause; empty where it makes some.
        seed: that the contexts of all measurements were drawn with; None where the claims say nothing of it.
    Raises:
        ValueError: two claims of one name, something else than claims.
    """

    name: str
    claims: tuple[Claim, ...]
    why_not: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_words("name of the model", self.name)
        if isinstance(self.claims, Claim) or not isinstance(self.claims, Iterable):
            raise ValueError(f"claims must be several claims, got {type(self.claims).__name__}; write [claim].")
        object.__setattr__(self, "claims", tuple(self.claims))
        for one in self.claims:
            if not isinstance(one, Claim):
                raise ValueError(f"claims must be of type Claim, got {type(one).__name__}.")
        names = [one.name for one in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"claims must have names of their own, got {twice[0]!r} {names.count(twice[0])} times.")
        if self.seed is not None:
            check_integer("seed", self.seed, low=0)

    def __add__(self, other: "Claims") -> "Claims":
        """The claims of both about the same model.

        Raises:
            ValueError: another model's, measured with another seed, or claims that both make.
        """
        if not isinstance(other, Claims):
            return NotImplemented
        if other.name != self.name:
            raise ValueError(
                f"claims about {self.name!r} and {other.name!r} are no claims about one model: give Claims(name, ...) "
                "the same name, or keep them apart."
            )
        if None not in (self.seed, other.seed) and self.seed != other.seed:
            raise ValueError(f"claims were measured with the seeds {self.seed} and {other.seed}: measure with one.")
        seed = other.seed if self.seed is None else self.seed
        return Claims(self.name, (*self.claims, *other.claims), why_not=self.why_not or other.why_not, seed=seed)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        return f"Claims({self.name!r}, seed {self.seed}: {counts}{'; ' * bool(self.why_not)}{self.why_not})"

    def _repr_html_(self) -> str:
        columns = ["statement", "predicted", "measured", "control", "verdict"]
        rows = self.to_frame()[columns].to_html(index=False) if self.claims else ""
        return f"<b>{escape(repr(self))}</b>{rows}"

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

    @classmethod
    def from_json(cls, text_or_path: str | Path, name: str | None = None) -> "Claims":
        """The claims in JSON text or in a file of it, as `to_json` and `ar-interp verify --json` write them.

        Args:
            text_or_path: text begins with a brace, all else is a path.
            name: of the model, where there are several.
        Raises:
            CheckpointError: it is no such file or text, or holds several models and no name says which.
        """
        raw, where = _parsed(text_or_path)
        lists = raw["checkpoints"]
        check(name is not None or len(lists) == 1, where, f"name one of {', '.join(map(repr, lists))}: name=...")
        name = next(iter(lists)) if name is None else name
        check(name in lists, where, f"no claims about {name!r}; there are some about {', '.join(map(repr, lists))}")
        return cls._of_rows(name, lists[name], raw["seed"], where)

    @classmethod
    def every_of(cls, text_or_path: str | Path) -> "tuple[Claims, ...]":
        """The claims about each model in JSON text or in a file of it, see `from_json`."""
        raw, where = _parsed(text_or_path)
        return tuple(cls._of_rows(name, rows, raw["seed"], where) for name, rows in raw["checkpoints"].items())

    @classmethod
    def _of_rows(cls, name: str, rows: list[Any], seed: int | None, where: str) -> "Claims":
        with faults_of(where):
            return cls(name, tuple(Claim.from_dict(row, where) for row in rows), seed=seed)


def _parsed(text_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """The checked JSON, and what messages call where it is from."""
    if isinstance(text_or_path, str) and text_or_path.lstrip().startswith("{"):
        return parsed(text_or_path, "claims"), "claims"
    where = name_of(Path(text_or_path))
    return parsed(read_text(Path(text_or_path), MAX_BYTES), where), where


def by_model(extra: Iterable[Claims], names: Iterable[str]) -> dict[str, Claims]:
    """Claims of one's own by the name of the model that they are about, whatever they were measured with.

    Args:
        names: of the models that there are.
    Raises:
        ValueError: claims about something else, or of one name.
    """
    found: dict[str, Claims] = {name: Claims(name, ()) for name in names}
    for claims in extra:
        if claims.name not in found:
            known = ", ".join(map(repr, found))
            raise ValueError(f"extra holds claims about {claims.name!r}, which is none of {known}: see Claims.name.")
        found[claims.name] += replace(claims, seed=None)
    return found


def claims_json(claims: Mapping[str, Claims], *, seed: int | None, **more: object) -> str:
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


def _check_words(name: str, value: object) -> str:
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
