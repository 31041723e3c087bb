"""A pytest plugin: `pytest --ar-checkpoint DIR` makes a test of every claim about a checkpoint.

The option can be repeated, and takes shipped names as well as folders. A claim that holds passes, one that fails fails,
a void one (its control passes too) is skipped, as is a checkpoint of which theory is silent; what is known to fail of a
shipped checkpoint is an expected failure. Every run of pytest loads this file, so nothing heavy is imported before the
option is used.
"""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ar_interp.claims import Claim

OPTION = "--ar-checkpoint"
BARE = {"ar_interp", __name__}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("ar_interp", "ar_interp").addoption(
        OPTION,
        action="append",
        default=[],
        metavar="DIR",
        help="test the claims that theory makes of this checkpoint, a folder or a shipped name (repeatable)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Leave the package unimported, as other plugins expect: type checkers that work by import hook refuse the rest."""
    if {name for name in sys.modules if name.partition(".")[0] == "ar_interp"} <= BARE:
        for name in BARE:
            sys.modules.pop(name, None)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        names = dict.fromkeys(collector.config.option.ar_checkpoint)
        report.result = [
            *report.result,
            *(CheckpointClaims.from_parent(collector, name=name, nodeid=name) for name in names),
        ]
    return report


class CheckpointClaims(pytest.Collector):
    """A checkpoint; its claims are measured once, when they are collected."""

    def collect(self) -> Iterator["ClaimItem"]:
        from ar_interp.checkpoints import load
        from ar_interp.recipes import known_failure
        from ar_interp.seeds import STATED
        from ar_interp.studies import verify

        try:
            checkpoint = load(self.name)
            claims = verify(checkpoint, seed=STATED)
        except (ValueError, OSError) as error:
            raise self.CollectError(f"{OPTION} {self.name}: {error}") from error
        for claim in claims:
            item = ClaimItem.from_parent(self, name=claim.name, claim=claim)
            if known_failure(checkpoint, claim):
                item.add_marker(pytest.mark.xfail(reason="known to fail, which is a finding: see the model card"))
            yield item


class ClaimFailedError(Exception):
    """A claim that fails or is undecided, in words."""


class ClaimItem(pytest.Item):
    """One claim."""

    def __init__(self, *, claim: "Claim", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim = claim

    def runtest(self) -> None:
        if self.claim.verdict == "void":
            pytest.skip(f"void, the control passes too: {self.claim.statement}")
        if self.claim.verdict in ("fails", "undecided"):
            raise ClaimFailedError(describe(self.claim))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ClaimFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return Path(self.parent.name if self.parent else self.name), 0, self.nodeid


def describe(claim: "Claim") -> str:
    """A claim in five lines, and what would decide it."""
    return "\n".join(
        [
            f"The claim {'fails' if claim.verdict == 'fails' else 'is undecided'}: {claim.statement}",
            f"  {claim.prediction}: {claim.reason}",
            f"  measured   {claim.estimate:.6g} (n = {claim.n}, from {claim.evidence})",
            f"  control    {claim.control.estimate:.6g}, {claim.control.description}",
            f"  source     {claim.source}",
            *([f"  undecided  {claim.limit}"] if claim.limit else []),
        ]
    )
