"""A pytest plugin: `pytest --ar-checkpoint=DIR` makes tests of the claims about a checkpoint.

The option can be repeated, and takes shipped names as well as folders. Each checkpoint is one item, which is measured
when it runs, and reports every claim as a test: one that holds passes, one that fails or is undecided fails, a void one
(its control passes too) is skipped; what is known to fail of a shipped checkpoint is an expected failure. A checkpoint
that cannot be read or measured is one failed test.

`--ar-claims=FILE` adds claims of your own: a Python file with a function `claims`. With an argument it is called with
the `Subject` of every checkpoint, as the `claims` of a `Study` are; without one it is called once. It returns or yields
`Claim`s. `--ar-claims-only`, or the marker `ar_claims`, leaves all other tests out.

Every run of pytest loads this file, so nothing heavy is imported before an option is used.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from ar_interp.claims import Claim

CHECKPOINT, CLAIMS, ONLY = "--ar-checkpoint", "--ar-claims", "--ar-claims-only"
MARKER = "ar_claims"
BARE = {"ar_interp", __name__}
KNOWN = "known to fail, which is a finding: see the model card"
OF = "ar_claim"  # property of a report: which claim of how many


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ar_interp", "ar_interp")
    group.addoption(
        CHECKPOINT,
        action="append",
        default=[],
        metavar="DIR",
        help="test the claims that theory makes of this checkpoint, a folder or a shipped name (repeatable)",
    )
    group.addoption(
        CLAIMS,
        action="append",
        default=[],
        metavar="FILE",
        help="test claims of your own: a Python file with a function claims(subject) or claims() (repeatable)",
    )
    group.addoption(ONLY, action="store_true", default=False, help="run the claims, and no other test")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Leave the package unimported, as other plugins expect: type checkers that work by import hook refuse the rest.

    Raises:
        UsageError: a folder in the form with a space, which pytest has already taken for a place of tests.
    """
    if {name for name in sys.modules if name.partition(".")[0] == "ar_interp"} <= BARE:
        for name in BARE:
            sys.modules.pop(name, None)
    arguments = [str(argument) for argument in early_config.invocation_params.args]
    for option, value in pairwise(arguments):
        if option in (CHECKPOINT, CLAIMS) and (early_config.invocation_params.dir / value).exists():
            raise pytest.UsageError(
                f"write {option}={value}, with an equals sign: after a space pytest takes {value!r} for the place of "
                "your tests and looks for your configuration there."
            )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: claims about checkpoints, see {CHECKPOINT} and {CLAIMS}")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist reports its items by their own names
        config.pluginmanager.register(_Naming())


class _Naming:
    """Gives the report of a claim its own name, and counts it as a test, where reports are shown."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get(OF)
        if found is not None:
            name, number, n = found  # type: ignore[misc] - a list, once it went through pytest-xdist
            report.nodeid = f"{report.nodeid}::{name}"
            self.session.testscollected += (n - 1) * (number == 0)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        option = collector.config.option
        files = {name: _function_of(name, collector.config) for name in option.ar_claims}
        apart = [(name, function) for name, function in files.items() if not signature(function).parameters]
        with_subject = tuple(function for function in files.values() if signature(function).parameters)
        if with_subject and not option.ar_checkpoint:
            raise pytest.UsageError(
                f"{CLAIMS}: claims(subject) is called with each checkpoint; name one, {CHECKPOINT}=DIR."
            )
        measures: dict[str, Callable[[], Iterable[tuple[Claim, bool]]]] = {
            name: lambda name=name: _about(name, with_subject) for name in option.ar_checkpoint
        }
        measures |= {
            name: lambda function=function: ((claim, False) for claim in function()) for name, function in apart
        }
        own: list[pytest.Item | pytest.Collector] = [
            ClaimsItem.from_parent(collector, name=name, nodeid=name, measure=measure)
            for name, measure in measures.items()
        ]
        report.result = own if option.ar_claims_only else [*report.result, *own]
    return report


def _function_of(name: str, config: pytest.Config) -> Callable[..., Iterable["Claim"]]:
    """The function `claims` of a file."""
    path = config.invocation_params.dir / name
    spec = spec_from_file_location(path.stem, path) if path.suffix == ".py" and path.is_file() else None
    if spec is None or spec.loader is None:
        raise pytest.UsageError(f"{CLAIMS}={name}: there is no such Python file.")
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "claims", None)):
        raise pytest.UsageError(f"{CLAIMS}={name}: the file must have a function claims(subject) or claims().")
    return module.claims


def _about(name: str, more: Iterable[Callable[..., Iterable["Claim"]]]) -> Iterator[tuple["Claim", bool]]:
    """The claims about a checkpoint, ours and then those of `more`, and whether each is known to fail."""
    from ar_interp.checkpoints import load
    from ar_interp.claims import Claims, subject_of
    from ar_interp.recipes import known_failure
    from ar_interp.seeds import STATED
    from ar_interp.studies import verify

    checkpoint = load(name)
    claims = verify(checkpoint, seed=STATED)
    for function in more:
        claims += Claims(claims.name, tuple(function(subject_of(checkpoint, seed=STATED))))
    return ((claim, known_failure(checkpoint, claim)) for claim in claims)


class ClaimsItem(pytest.Item):
    """The claims about a checkpoint, or of a file of one's own; they are measured when it runs."""

    def __init__(self, *, measure: Callable[[], Iterable[tuple["Claim", bool]]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = measure
        self.add_marker(MARKER)

    def runtest(self) -> None:
        self.claims = tuple(self.measure())

    def reports(self, report: pytest.TestReport) -> Iterator[pytest.TestReport]:
        """A report for each claim, in place of the one on all that were measured."""
        for number, (claim, known) in enumerate(self.claims):
            outcome, longrepr, more = "passed", None, {}
            if claim.verdict == "void":
                outcome, longrepr = "skipped", (self.name, 0, f"Skipped: {claim.describe().splitlines()[0]}")
            elif known:
                outcome, longrepr, more = "skipped", claim.describe(), {"wasxfail": KNOWN}
            elif claim.verdict != "holds":
                outcome, longrepr = "failed", claim.describe()
            yield pytest.TestReport(
                nodeid=self.nodeid,
                location=(self.name, 0, f"{claim.name} of {self.name}"),
                keywords=report.keywords,
                outcome=outcome,
                longrepr=longrepr,
                when="call",
                sections=report.sections if number == 0 else (),
                duration=report.duration if number == 0 else 0,
                start=report.start,
                stop=report.stop,
                user_properties=[(OF, (claim.name, number, len(self.claims)))],
                **more,
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ValueError | OSError):
            return f"{self.name}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[PathLike[str] | str, int, str]:
        return Path(self.name), 0, f"claims of {self.name}"


@pytest.hookimpl
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Every claim is reported as a test."""
    if not isinstance(item, ClaimsItem):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        one_by_one = report.when == "call" and report.passed and item.claims
        for shown in item.reports(report) if one_by_one else [report]:
            item.ihook.pytest_runtest_logreport(report=shown)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
