"""`Claim`: predicted and measured value, a tolerance set beforehand, a control that must fail."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ar_interp.claims.tolerances import TOLERANCES, Tolerance

Evidence = Literal["weights", "activations", "behaviour", "causal", "training"]
VERDICTS = ("holds", "fails", "void")


@dataclass(frozen=True, kw_only=True)
class Control:
    """The same measurement where the structure must be absent."""

    description: str
    measured: float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement, measured.

    It passes where |measured - predicted| <= tolerance + uncertainty. It `holds` if it passes and its control does
    not, it is `void` if both pass (the measurement cannot tell), else it `fails`.

    Attributes:
        name: of the measurement, `structure/what`; unique within a model, the same for every model it applies to.
        evidence: where it was read. A structure is believed when it was read from the weights, seen in activations or
            behaviour, and used causally: each of the three can fail where the others do not.
        source: of the statement.
        predicted: by theory.
        uncertainty: half-width of the 95 % interval of `measured`; 0 where it is exact.
        n: sequences, seeds or angles that `measured` rests on.
        tolerance: set beforehand.
        reason: why this tolerance.
    """

    name: str
    evidence: Evidence
    statement: str
    source: str
    predicted: float
    measured: float
    uncertainty: float
    n: int
    tolerance: float
    reason: str
    control: Control

    @property
    def structure(self) -> str:
        """The first half of the name: what is claimed to be there."""
        return self.name.partition("/")[0]

    @property
    def verdict(self) -> str:
        if not self._passes(self.measured):
            return "fails"
        return "void" if self._passes(self.control.measured) else "holds"

    def _passes(self, value: float) -> bool:
        return abs(value - self.predicted) <= self.tolerance + self.uncertainty  # False for nan

    def to_dict(self) -> dict[str, object]:
        """The fields and the verdict, ready for JSON."""
        fields = asdict(self)
        fields["control"] = {**fields["control"], "passes": self._passes(self.control.measured)}
        fields["verdict"] = self.verdict
        return {key: _finite(value) for key, value in fields.items()}


@dataclass(frozen=True)
class Claims:
    """The claims about one model, in reading order.

    Attributes:
        why_not: why there are none, a clause; empty where there are some.
    """

    name: str
    claims: tuple[Claim, ...]
    why_not: str = ""

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    @property
    def passed(self) -> bool:
        """No claim fails. (A void claim is no failure: it says that the measurement cannot tell.)"""
        return all(claim.verdict != "fails" for claim in self.claims)

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
        """The list of claims as JSON text, also written to `path` where given."""
        text = json.dumps([claim.to_dict() for claim in self.claims], indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text


def claim(
    name: str,
    statement: str,
    *,
    evidence: Evidence,
    source: str,
    tolerance: str | Tolerance,
    predicted: float = 0.0,
    measured: float,
    control: tuple[str, float],
    n: int = 1,
    uncertainty: float = 0.0,
) -> Claim:
    """A claim of plain values.

    Args:
        tolerance: a name of `TOLERANCES`, or one of your own with its reason.
        control: description and value.
    """
    value, reason = TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance
    return Claim(
        name=name,
        evidence=evidence,
        statement=statement,
        source=source,
        predicted=float(predicted),
        measured=float(measured),
        uncertainty=float(uncertainty),
        n=n,
        tolerance=value,
        reason=reason,
        control=Control(description=control[0], measured=float(control[1])),
    )


def _finite(value: object) -> object:
    """Numbers that JSON cannot hold, as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
