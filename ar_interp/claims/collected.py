"""`Claims`: those about one model, as a table and as JSON; of several models together."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ar_interp._checks import check_seed
from ar_interp._files import faults_of, name_of, read_text
from ar_interp._shown import table_html
from ar_interp._writing import write_file
from ar_interp.claims.core import Claim, check_words
from ar_interp.claims.rows import MAX_BYTES, SCHEMA, check, parsed
from ar_interp.claims.verdicts import FAILS, VERDICTS


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
        check_words("name of the model", self.name)
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
            check_seed(self.seed)

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
        rows = table_html(self.to_frame().sort_values("verdict", kind="stable")[columns]) if self.claims else ""
        return f"<b>{escape(repr(self))}</b>{rows}"  # those that fail first

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
