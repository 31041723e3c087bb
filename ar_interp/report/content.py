"""The content of a report: per checkpoint the claims, the figures that bear on them, and how it all was made."""

import datetime
import json
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from ar_interp._moods import calm
from ar_interp._shown import Shown, watched
from ar_interp.checkpoints import VERSIONED, Checkpoint, is_shipped, load
from ar_interp.claims import Claim, Claims, Evidence, by_model
from ar_interp.claims.verdicts import VERDICTS
from ar_interp.processes import Sequences
from ar_interp.recipes import RECIPES, known_failure
from ar_interp.report import words
from ar_interp.report.exhibits import Drawn, draw
from ar_interp.report.page import page
from ar_interp.seeds import EXHIBITS, STATED
from ar_interp.setting import setting_of
from ar_interp.studies import any_model, structures, studies_of, verify
from ar_interp.studies.base import Study
from ar_interp.studies.controls import N
from ar_interp.studies.exhibit import N_FITTED

SCHEMA = 1
SAMPLED = {"contexts": N, "contexts_where_fitted": N_FITTED, "seed": EXHIBITS}  # for figures


@dataclass(frozen=True, kw_only=True)
class Part(Shown):
    """Claims and figures of one kind of evidence about one structure."""

    evidence: Evidence
    claims: tuple[Claim, ...]
    exhibits: tuple[Drawn, ...]


@dataclass(frozen=True, kw_only=True)
class Section(Shown):
    """All that bears on one structure, in the order of `words.KINDS`."""

    structure: str
    parts: tuple[Part, ...]

    @property
    def n_ways(self) -> int:
        """Number of the three ways (`words.WAYS`) in which some claim holds and none fails."""
        verdicts = [{claim.verdict for part in self.parts if part.evidence in way for claim in part.claims}
                    for way in words.WAYS]  # fmt: skip
        return sum("holds" in found and "fails" not in found for found in verdicts)


@dataclass(frozen=True, kw_only=True)
class Examined(Shown):
    """A checkpoint, its claims, and the figures that bear on them.

    Attributes:
        number: its place in the report, from 1.
        name: as it was asked for, a shipped name or a folder; text from outside, like all that the checkpoint says.
        summary: of its recipe; empty for a folder.
        n_extra: how many of the claims are none of the studies'.
        known: names of the claims that fail, of which the recipe says so.
    """

    number: int
    name: str
    summary: str
    checkpoint: Checkpoint
    claims: Claims
    known: frozenset[str]
    exhibits: tuple[Drawn, ...]
    n_extra: int = 0

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """A section per structure: those of the studies first, in their order."""
        found = dict.fromkeys([claim.structure for claim in self.claims] + [e.structure for e in self.exhibits])
        return tuple(self._section(name) for name in sorted(found, key=_place))

    def _section(self, structure: str) -> Section:
        parts = []
        for kind in words.KINDS:
            claims = tuple(c for c in self.claims if (c.structure, c.evidence) == (structure, kind))
            exhibits = tuple(e for e in self.exhibits if (e.structure, e.evidence) == (structure, kind))
            if claims or exhibits:
                parts.append(Part(evidence=kind, claims=claims, exhibits=exhibits))
        return Section(structure=structure, parts=tuple(parts))

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        checkpoint = self.checkpoint
        return {
            "name": self.name,
            "summary": self.summary,
            "verdicts": tally(self.claims),
            "structures": {
                section.structure: {
                    "ways": section.n_ways,
                    **{part.evidence: tally(part.claims) for part in section.parts},
                }
                for section in self.sections
            },
            "claims": [claim.to_dict() for claim in self.claims],
            "known_failures": sorted(self.known),
            "evidence": [
                {
                    "structure": section.structure,
                    "evidence": part.evidence,
                    "claims": [claim.name for claim in part.claims],
                    "figures": [{"name": e.name, "look": e.look, "figure": e.to_dict()} for e in part.exhibits],
                }
                for section in self.sections
                for part in section.parts
            ],
            "model": checkpoint.config.to_dict(),
            "process": checkpoint.process.to_dict(),
            "training": {
                **checkpoint.training.to_dict(),
                "seed_kept": checkpoint.seed,
                "steps_made": checkpoint.steps,
                "device_used": checkpoint.device,
                "versions": checkpoint.versions,
            },
        }


@dataclass(frozen=True, kw_only=True)
class Report(Shown):
    """Claims, evidence and methods of some checkpoints.

    Attributes:
        date: printed on the report.
        versions: of Python and the libraries that measured it.
    """

    examined: tuple[Examined, ...]
    date: datetime.date
    versions: dict[str, str]

    @property
    def claims(self) -> list[tuple[Examined, Claim]]:
        """Every claim with its checkpoint, in reading order."""
        return [(one, claim) for one in self.examined for claim in one.claims]

    @property
    def exhibits(self) -> list[Drawn]:
        """Every figure in reading order."""
        return [e for one in self.examined for section in one.sections for part in section.parts for e in part.exhibits]

    def failures(self, *, known: bool) -> list[tuple[Examined, Claim]]:
        """The claims that fail and are known to, or those that are not."""
        return [
            (one, claim)
            for one, claim in self.claims
            if claim.verdict == "fails" and (claim.name in one.known) == known
        ]

    def sharing(self, *attributes: str) -> list[tuple[Any, list[tuple[Examined, Claim]]]]:
        """Values that claims have in common, and the claims that do; in the order of the values of these attributes."""
        value = attrgetter(*attributes)
        ordered = sorted(self.claims, key=lambda pair: value(pair[1]))
        return [(shared, list(pairs)) for shared, pairs in groupby(ordered, key=lambda pair: value(pair[1]))]

    @property
    def summary(self) -> str:
        """How many claims have which verdict, in a line."""
        counts = tally(claim for _, claim in self.claims)
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        n_known = len(self.failures(known=True))
        known = f"; {n_known} of those that fail are known" if n_known else ""
        return f"{sum(counts.values())} claims about {len(self.examined)} checkpoint(s): {said}{known}"

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands that make this report again."""
        names = shlex.join(one.name for one in self.examined)
        n_extra = sum(one.n_extra for one in self.examined)
        own = f"# with {n_extra} claim(s) from elsewhere: their file goes after --extra"
        return (
            *([own] if n_extra else []),
            f"ar-interp verify {names} --seed {STATED}",
            f"ar-interp report {names} -o report.html --json report.json --date {self.date}",
        )

    def to_html(self) -> str:
        """The report as one page that needs nothing else."""
        return page(self.exhibits, report=self, words=words, structures=structures(), sampled=SAMPLED)

    @property
    def of_sequences(self) -> bool:
        """Whether any of the models predicts sequences, in which a W is found."""
        return any(one.checkpoint.process.makes is Sequences for one in self.examined)

    @property
    def introduction(self) -> tuple[str, ...]:
        """Paragraphs on what the models are for."""
        others = not all(one.checkpoint.process.makes is Sequences for one in self.examined)
        return words.SEQUENCES * self.of_sequences + words.PROMPTS * others + words.INTRODUCTION

    @property
    def studies(self) -> tuple[Study, ...]:
        """The studies of these kinds of models."""
        settings = [setting_of(one.checkpoint.config, one.checkpoint.process) for one in self.examined]
        found = {study.name: study for setting in settings for study in studies_of(setting)}
        return tuple(found.values())

    @property
    def formulas(self) -> dict[str, tuple[str, ...]]:
        """Theory in formulas by structure; what is said of any model is said of sequences."""
        own = {name for study in self.studies if study is not any_model.STUDY for name in study.structures}
        seen = {section.structure for one in self.examined for section in one.sections}
        shown = seen if self.of_sequences else seen & own
        return {structure.title: structure.formulas for name, structure in structures().items() if name in shown}

    @property
    def processes(self) -> dict[str, str]:
        """The laws of W by the kind of process."""
        found = [one.checkpoint.process for one in self.examined]
        return {process.kind: process.meaning for process in found}

    def to_json(self) -> str:
        """The report's content as JSON."""
        content = {
            "schema": SCHEMA,
            "date": self.date.isoformat(),
            "versions": self.versions,
            "introduction": self.introduction,
            "verdicts": tally(claim for _, claim in self.claims),
            "checkpoints": [one.to_dict() for one in self.examined],
            "methods": {
                "verdicts": {name: meaning for name, (_, meaning) in words.VERDICTS.items()},
                "evidence": {name: kind.meaning for name, kind in words.KINDS.items()},
                "structures": {name: asdict(structure) for name, structure in structures().items()},
                "uncertainty": words.UNCERTAINTY,
                "controls": words.CONTROLS,
                "symbols": words.SYMBOLS,
                "processes": self.processes,
                "figures": SAMPLED,
                "commands": self.commands,
            },
        }
        return json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n"


@calm()
def build(
    names: Sequence[str | Path | Checkpoint],
    *,
    date: datetime.date | None = None,
    device: str | torch.device = "cpu",
    extra: Sequence[Claims] = (),
) -> Report:
    """Verify checkpoints and draw what their claims rest on. The same names and date give the same report.

    Args:
        names: shipped names, folders or checkpoints; given twice, it is reported once.
        date: to print on it; today if left out.
        device: where to measure.
        extra: claims of your own about some of them, by name; they stand beside those of the studies.
    Raises:
        CheckpointError: a name that is neither, or a checkpoint that cannot be read; before anything is measured.
        ValueError: no names; extra claims about something else, or of a name that is taken.
    """
    if not names:
        raise ValueError(f"names is empty: name a checkpoint or its folder. Recipes: {', '.join(RECIPES)}.")
    checkpoints = dict(_checkpoint(name, device) for name in ([names] if isinstance(names, str | Path) else names))
    own = by_model(extra, [one.name for one in checkpoints.values()])
    with watched(iterable=checkpoints.items(), unit=" checkpoints", desc="report") as bar:
        examined = tuple(_examine(i, name, one, own[one.name]) for i, (name, one) in enumerate(bar, start=1))
    return Report(
        examined=examined,
        date=date or datetime.date.today(),
        versions={"Python": platform.python_version(), **{name: version(name) for name in (*VERSIONED, "plotly")}},
    )


def _checkpoint(given: object, device: str | torch.device) -> tuple[str, Checkpoint]:
    """A checkpoint, and what it was asked for by."""
    if isinstance(given, Checkpoint):
        return given.name if is_shipped(given) else str(given.path), given
    if not isinstance(given, str | Path):
        raise ValueError(
            f"a report is about checkpoints, got {type(given).__name__}: save the run, run.save(path), and name its "
            "folder."
        )
    return str(given), load(given, device=device)


def tally(claims: Iterable[Claim]) -> dict[str, int]:
    """How many have which verdict."""
    counts = Counter(claim.verdict for claim in claims)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _examine(number: int, name: str, checkpoint: Checkpoint, extra: Claims) -> Examined:
    claims = verify(checkpoint, seed=STATED) + extra
    return Examined(
        number=number,
        name=name,
        summary=RECIPES[name].summary if name in RECIPES else "",
        checkpoint=checkpoint,
        claims=claims,
        n_extra=len(extra),
        known=frozenset(claim.name for claim in claims if known_failure(checkpoint, claim)),
        exhibits=draw(checkpoint),
    )


def _place(structure: str) -> int:
    """In the order of reading; what has no words there comes last."""
    order = list(structures())
    return order.index(structure) if structure in order else len(order)
