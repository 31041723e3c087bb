"""`pytest --ar-checkpoint=DIR`, run by a project that is not ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import ar_interp as ari
import ar_interp.testing  # TransformerLens with it, which cannot be loaded again once pytester has taken it away
from ar_interp.checkpoints import FILES
from ar_interp.claims import Claim, Claims, Control, Estimate
from ar_interp.recipes import RECIPES

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
SHIPPED = "positional-mu100"
BY_HAND = ("-p", "no:ar_interp", "-p", "no:cacheprovider")  # installed or not
LIGHT = """
import sys

def test_nothing_heavy_is_loaded_and_the_package_can_still_be_instrumented():
    assert not {"torch", "transformer_lens", "ar_interp"} & set(sys.modules)
"""
CHECKED = """
import jaxtyping
import pytest

def test_types():
    import ar_interp as ari
    with pytest.raises(jaxtyping.TypeCheckError):
        ari.theory.optimal_step_size(dim="two", max_length=3)
"""
pytestmark = pytest.mark.usefixtures("few_contexts", "known_function")


@pytest.fixture
def run(pytester):
    """The plugin in this process, whatever is installed, and without the suite's run-time type checks: they hide from
    pytest that a hook is a generator."""
    found = spec_from_file_location("plugin_as_shipped", ROOT / "ar_interp" / "pytest_plugin.py")
    plugin = module_from_spec(found)
    found.loader.exec_module(plugin)
    return lambda *options: pytester.runpytest_inprocess(*BY_HAND, *options, plugins=[plugin])


@pytest.fixture
def broken(pytester) -> str:
    """A copy of a shipped checkpoint whose P is one key too early; its name is the folder's."""
    folder = Path(shutil.copytree(ari.checkpoints.trained_folder() / SHIPPED, pytester.path / "runs" / "broken"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: P.roll(-1, 1).contiguous() for name, P in weights.items()}, folder / "model.safetensors")
    return "runs/broken"


def made(name: str, measured: float, control: float) -> Claim:
    return Claim(
        name=name, evidence="weights", statement="A statement", source="a source", predicted=1.0,
        estimate=Estimate(measured, {"contexts": 0.01}, 7), tolerance=0.1, reason="a reason",
        control=Control(description="a control", estimate=Estimate(control)),
    )  # fmt: skip


@pytest.fixture
def claims(monkeypatch):
    """Claims of every verdict in place of what `verify` says."""
    pretend(monkeypatch)


def pretend(monkeypatch, blow_ups: float = 0.014) -> None:
    recipe = replace(RECIPES["augmented-haar-l2"], known_failures={"loss/blow-ups": (0.01, 0.02)})
    monkeypatch.setitem(RECIPES, "augmented-haar-l2", recipe)
    blow_up = made("loss/blow-ups", blow_ups, 5)
    found = (
        made("heads/holds", 1.05, 3),
        made("heads/void", 1.05, 0.95),
        made("heads/fails", 2.5, 3),
        made("heads/undecided", 1.095, 3),
        blow_up,
    )
    monkeypatch.setattr(ari.studies, "verify", lambda checkpoint, seed: Claims(checkpoint.name, found))


def test_every_claim_of_a_checkpoint_is_a_test(run):
    names = [claim.name for claim in ari.verify(ari.load(SHIPPED), n=16)]
    result = run(f"--ar-checkpoint={SHIPPED}", "-v")
    result.assert_outcomes(passed=len(names))
    result.stdout.fnmatch_lines([f"{SHIPPED}::{name} PASSED*" for name in names])
    assert result.ret == pytest.ExitCode.OK


def test_a_claim_that_fails_says_what_was_measured_and_shows_no_traceback(run, broken):
    result = run(f"--ar-checkpoint={broken}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    rows = ari.verify(ari.load(broken), seed=0)["filter/rows"]
    result.stdout.fnmatch_lines(
        [
            "*filter/rows of runs/broken*",
            f"The claim fails: {rows.statement.replace('[', '[[]')}",
            "  predicted 0 (tolerance 1e-08): the filter is exact; rounding over about a thousand steps",
            f"  measured   {rows.measured:.6g} (n = 1, from weights)",
            f"  control    {rows.control.measured:.6g}, untrained",
            "  source     Sander et al. 2024, positional encoding only; *",
            "FAILED runs/broken::filter/rows - The claim fails: *",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_verdicts_become_outcomes(run, claims, broken):
    result = run(f"--ar-checkpoint={broken}", "-v", "-rs")
    result.assert_outcomes(passed=1, skipped=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "runs/broken::heads/holds PASSED*",
            "runs/broken::heads/void SKIPPED*",
            "runs/broken::heads/fails FAILED*",
            "  measured   2.5 ± 0.01 (n = 7, from weights)",
            "The claim is undecided: A statement",
            "  undecided  limited by contexts, n = 7: about 31 would decide it",
            "SKIPPED*The claim is void, its control passes too: A statement",
        ]
    )


@pytest.mark.parametrize("copied", [False, True])
def test_what_is_known_to_fail_is_expected_of_the_shipped_checkpoint_alone(run, claims, pytester, copied):
    name = "augmented-haar-l2"
    if copied:
        shutil.copytree(ari.checkpoints.trained_folder() / name, pytester.path / "runs" / name)
        name = f"runs/{name}"
    result = run(f"--ar-checkpoint={name}", "-rx")
    result.assert_outcomes(passed=1, skipped=1, failed=2 + int(copied), xfailed=int(not copied))
    if not copied:
        result.stdout.fnmatch_lines([f"XFAIL {name}::loss/blow-ups - known to fail, which is a finding*"])


def test_checkpoints_stand_beside_the_project_s_own_tests_and_are_measured_when_they_run(
    run, pytester, broken, monkeypatch
):
    pytester.makepyfile(test_mine="def test_mine(): pass")
    names = [f"--ar-checkpoint={name}" for name in (broken, SHIPPED, broken)]
    with monkeypatch.context() as patch:
        patch.setattr(ari.studies, "verify", None)
        result = run(*names, "--collect-only", "-q")
    collected = result.outlines[:3]
    assert collected == ["test_mine.py::test_mine", broken, SHIPPED]
    pretend(monkeypatch)
    counts = {"passed": 2, "skipped": 2, "failed": 6}
    run(*names, "-m", "ar_claims").assert_outcomes(**counts, deselected=1)
    run(*names, "--ar-claims-only").assert_outcomes(**counts)
    run(*names, "-m", "not ar_claims").assert_outcomes(passed=1, deselected=2)


def test_without_the_option_nothing_is_added(run, pytester):
    pytester.makepyfile("def test_mine(): pass")
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no checkpoint 'runs/broken': neither a shipped name nor a folder."),
        (lambda folder: (folder / "config.json").write_text("{"), "broken/config.json is not valid JSON: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"?"), "broken/model.safetensors cannot be read: "),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_one_failed_test_in_a_line(run, pytester, broken, spoil, message):
    spoil(pytester.path / broken)
    pytester.makepyfile("def test_mine(): pass")
    result = run(f"--ar-checkpoint={broken}")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"runs/broken: {message}*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_folder_after_a_space_is_refused_since_pytest_looks_for_its_configuration_there(run, pytester, broken):
    result = run("--ar-checkpoint", broken)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: write --ar-checkpoint={broken}, with an equals sign: *"])


OWN = """
import ar_interp as ari

def claims({argument}):
    control = ari.Control(description="zero", estimate=0)
    fields = dict(evidence="weights", source="mine", predicted=1.0, tolerance=0.1, reason="a tenth", control=control)
    yield ari.Claim(name="mine/good", statement="A", estimate=1.05, **fields)
    yield ari.Claim(name="mine/bad", statement="B", estimate=2, **fields)
"""


def test_claims_of_a_file_of_one_s_own_are_tests(run, claims, pytester, without_type_checks):
    (pytester.path / "mine.py").write_text(OWN.format(argument="subject"))
    (pytester.path / "apart.py").write_text(OWN.format(argument=""))
    result = run("--ar-claims=mine.py", "--ar-claims=apart.py", f"--ar-checkpoint={SHIPPED}", "-v")
    result.assert_outcomes(passed=3, skipped=1, failed=5)
    result.stdout.fnmatch_lines(
        [f"{SHIPPED}::heads/holds PASSED*", f"{SHIPPED}::mine/good PASSED*", "apart.py::mine/bad FAILED*100%*"]
    )
    result = run("--ar-claims=mine.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ar-claims: claims(subject) is called with each checkpoint; name one, *"])
    run("--ar-claims=none.py").stderr.fnmatch_lines(["ERROR: --ar-claims=none.py: there is no such Python file."])


def test_what_is_known_to_fail_fails_at_another_value(run, monkeypatch):
    pretend(monkeypatch, blow_ups=0.5)
    run("--ar-checkpoint=augmented-haar-l2").assert_outcomes(passed=1, skipped=1, failed=3)


def test_of_a_checkpoint_that_theory_does_not_speak_of_the_function_is_tested(run, pytester):
    checkpoint = ari.load("augmented-unitary")
    noisy = replace(checkpoint, process=ari.CommutingUnitary(10, noise=0.1))
    ari.checkpoints.save(noisy, pytester.path / "noisy")
    result = run("--ar-checkpoint=noisy", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*noisy::model/function PASSED*"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a project that has installed our wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}


def test_the_wheel_carries_the_checkpoints(installed):
    trained = Path(installed["PYTHONPATH"]) / "ar_interp" / "trained"
    lacking = [(name, file) for name in ari.available() for file in FILES if not (trained / name / file).is_file()]
    assert lacking == []


def outside(project: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_an_outside_project_verifies_on_two_workers(installed, tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import ar_interp as ari\n\n"
        "def test_where():\n"
        f"    assert ari.__file__.startswith({installed['PYTHONPATH']!r})\n"
    )
    result = outside(tmp_path, installed, f"--ar-checkpoint={SHIPPED}", "-n", "2", "-W", "error", "--strict-markers")
    n_claims = len(ari.verify(ari.load(SHIPPED), n=16))
    assert f"{n_claims + 1} passed" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 0


def test_an_assertion_that_fails_shows_the_cause_and_no_frame_of_ours(run, pytester, without_type_checks):
    call = "ari.testing.assert_heads_orthogonal('diagonal-orthogonal-h10')"
    pytester.makepyfile(f"import ar_interp as ari\n\ndef test_heads():\n    {call}\n")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: heads are not orthogonal: E_M = 0.05122, expected 0 within 1e-05*",
            "*Likely cause: kappa = -0.0511: M has the eigenvalues*",
        ]
    )
    result.stdout.no_fnmatch_line("*testing.py*")


def test_every_run_of_pytest_stays_light_and_run_time_type_checkers_of_the_package_still_work(installed, tmp_path):
    (tmp_path / "test_first.py").write_text(LIGHT)
    (tmp_path / "test_then.py").write_text(CHECKED)
    result = outside(tmp_path, installed, "--jaxtyping-packages=ar_interp,beartype.beartype")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
    assert "plugins:" in result.stdout
    assert "ar-interp-" in result.stdout
