"""`Sabotage`, a model that must be caught, and what the verdicts on it are worth beside what theory expects of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from ar_interp._shown import Shown
from ar_interp.checkpoints import Checkpoint
from ar_interp.claims import Claims

Make = Callable[[Checkpoint, int], Any]  # checkpoint, seed -> what `verify` is asked about

FAIL, HOLD, FREE, UNCHANGED = EXPECTED = ("fail", "hold", "free", "unchanged")
OK, FALSE_POSITIVE, MISS, UNDECIDED, VOID, UNCOUNTED = OUTCOMES = (
    "ok",
    "false positive",
    "miss",
    "undecided",
    "void",
    "free",
)
NOT_HOLDING = {"holds": FALSE_POSITIVE, "fails": OK, "undecided": UNDECIDED, "void": VOID}
HOLDING = {"holds": OK, "fails": MISS, "undecided": UNDECIDED, "void": VOID}


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """A model made from a shipped one, and what theory says of the claims about it, derived before any run.

    Claims are named by structure, `heads`, or one by one, `heads/rank`, which counts more. Every claim that is not
    named must hold: what is left out is a prediction too.

    Attributes:
        base: the checkpoint it is made from.
        description: what was done, and what of the theory is gone with it.
        make: (checkpoint, seed) -> a model, or a run where claims need to know how it was trained.
        must_fail: claims of what is gone; a void claim does not hold either, and is counted apart.
        but: claims about these structures that must hold all the same.
        undecided: claims of which theory says nothing here, with the reason; not counted.
        healthy: where nothing is gone: the innocent model beside which nothing may change; None for a sabotaged one.
    """

    base: str
    description: str
    make: Make
    must_fail: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    undecided: Mapping[str, str] = field(default_factory=dict)
    healthy: Make | None = None

    def __post_init__(self) -> None:
        named = [*self.must_fail, *self.but, *self.undecided]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"must_fail, but and undecided must not overlap, two name {twice}.")

    @property
    def innocent(self) -> bool:
        return self.healthy is not None

    def expected(self, claim: str) -> str:
        """`fail`, `free`, `unchanged` beside the healthy model, or `hold`."""
        for name in (claim, claim.partition("/")[0]):
            for names, expected in ((self.but, HOLD), (self.undecided, FREE), (self.must_fail, FAIL)):
                if name in names:
                    return expected
        return UNCHANGED if self.innocent else HOLD


@dataclass(frozen=True, kw_only=True)
class BatteryResult(Shown):
    """Claims by models, beside what theory expects.

    Attributes:
        frame: a row per model and claim: model, base, innocent, claim, evidence, verdict (holds, fails, void), before
            (the verdict of the healthy model, of innocent ones), expected (fail, hold, free, unchanged), and outcome:
            `false positive` (holds where it must not), `miss` (fails where it must hold, or where it did not fail
            before), `void` (cannot tell, where it must fail or hold), `free` (not counted), else `ok`.
    """

    frame: pd.DataFrame

    def matrix(self, values: str = "verdict") -> pd.DataFrame:
        """Models by claims, in the order of the battery; empty where a claim is not made of a model."""
        rows, columns = (self.frame[name].drop_duplicates() for name in ("model", "claim"))
        return self.frame.pivot_table(values, "model", "claim", aggfunc="first").reindex(index=rows, columns=columns)

    def _of(self, outcome: str) -> pd.DataFrame:
        rows: Any = self.frame[self.frame["outcome"] == outcome]
        return rows.reset_index(drop=True)

    @property
    def false_positives(self) -> pd.DataFrame:
        """The rows of claims that hold where they must not."""
        return self._of(FALSE_POSITIVE)

    @property
    def misses(self) -> pd.DataFrame:
        """The rows of claims that fail where the structure is there."""
        return self._of(MISS)

    @cached_property
    def counts(self) -> pd.DataFrame:
        """Cells by what is expected of them (rows) and outcome (columns)."""
        table = pd.crosstab(self.frame["expected"], self.frame["outcome"])
        return table.reindex(index=list(EXPECTED), columns=list(OUTCOMES), fill_value=0)

    @property
    def never_failed(self) -> tuple[str, ...]:
        """Claims that no sabotage takes down: of none that must fail is the verdict other than `holds`."""
        failed = self.frame[(self.frame["expected"] == FAIL) & (self.frame["verdict"] != "holds")]
        return tuple(self.frame["claim"].drop_duplicates()[lambda names: ~names.isin(failed["claim"])])


def cells(name: str, sabotage: Sabotage, claims: Claims, before: Mapping[str, str]) -> list[dict[str, object]]:
    """The rows of one model; `before` are the verdicts of its healthy model, none of a sabotaged one.

    Raises:
        ValueError: an expectation of a claim that is not made of the model.
    """
    made = {part for claim in claims for part in (claim.name, claim.structure)}
    stray = {*sabotage.must_fail, *sabotage.but, *sabotage.undecided} - made
    if stray:
        raise ValueError(f"expectations of {name!r} name claims that are not made of it: {sorted(stray)}.")
    rows = []
    for claim in claims:
        expected = sabotage.expected(claim.name)
        rows.append(
            {
                "model": name,
                "base": sabotage.base,
                "innocent": sabotage.innocent,
                "claim": claim.name,
                "evidence": claim.evidence,
                "verdict": claim.verdict,
                "before": before.get(claim.name, ""),
                "expected": expected,
                "outcome": _outcome(expected, claim.verdict, before.get(claim.name, "")),
            }
        )
    return rows


def _outcome(expected: str, verdict: str, before: str) -> str:
    if expected == FREE:
        return UNCOUNTED
    if expected == FAIL:
        return NOT_HOLDING[verdict]
    return OK if verdict == before else HOLDING[verdict]
