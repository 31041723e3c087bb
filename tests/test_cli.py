"""The command line: what it prints, what it writes, how it exits."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from zoo import claim

import ar_interp as ari
from ar_interp import cli
from ar_interp._command import each
from ar_interp._shipped import LISTING
from ar_interp.claims import Claims
from ar_interp.claims.rows import MAX_BYTES
from ar_interp.recipes import RECIPES, known_failure, listing

pytestmark = pytest.mark.usefixtures("few_contexts", "known_function")


def test_list_names_every_recipe(capsys):
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in RECIPES)


def test_what_list_reads_is_what_the_studies_say():
    """`python docs/results.py --tables` writes it anew."""
    assert json.loads(LISTING.read_text("utf-8")) == listing()


def test_every_recipe_is_shipped():
    assert set(RECIPES) <= set(ari.available())


@pytest.mark.parametrize("name", list(RECIPES))
def test_shipped_checkpoints_are_what_their_recipe_says(name):
    checkpoint, recipe = ari.load(name), RECIPES[name]
    assert (checkpoint.config, checkpoint.process, checkpoint.training) == (
        recipe.config,
        recipe.process,
        recipe.training,
    )
    card = (checkpoint.path / "README.md").read_text()
    assert recipe.summary in card
    assert "What was verified" in card


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_card_of_a_shipped_checkpoint_reports_no_failure_but_the_known_ones(name):
    """`make verify` measures the claims about all of them."""
    card = (ari.load(name).path / "README.md").read_text()
    verdicts = re.findall(r"\| (holds|fails|undecided|void) \|$", card, re.MULTILINE)
    assert len(verdicts) > 0
    assert verdicts.count("fails") == len(RECIPES[name].known_failures)


def test_training_a_recipe_writes_a_verified_checkpoint(tmp_path, capsys):
    arguments = ["train", "positional-mu300", "--output", str(tmp_path), "--quiet"]
    assert cli.main(arguments) == 0
    assert "every claim holds or is void" in capsys.readouterr().out
    again = ari.load(tmp_path / "positional-mu300")
    shipped = ari.load("positional-mu300")
    assert again.steps == shipped.steps == 473
    assert (again.model.P - shipped.model.P).abs().max() < 1e-12
    assert "| predicted | measured |" in (tmp_path / "positional-mu300" / "README.md").read_text()


def test_overrides_reach_the_training(tmp_path):
    overrides = ["--steps", "3", "--seed", "5", "--n-seeds", "2", "--lr", "0.001", "--device", "cpu"]
    assert cli.main(["train", "positional-mu300", "-o", str(tmp_path), "--quiet", *overrides]) == 0
    training = ari.load(tmp_path / "positional-mu300").training
    assert (training.steps, training.seed, training.n_seeds, training.lr) == (3, 5, 2, 1e-3)


def test_verify_writes_json_and_exits_by_the_verdicts(tmp_path, capsys):
    file = tmp_path / "claims.json"
    assert cli.main(["verify", "positional-mu50", "--seed", "0", "--json", str(file)]) == 0
    assert re.search(
        r"(\d+) claims about 1 checkpoint\(s\), seed 0: \1 holds, 0 fails, 0 undecided", capsys.readouterr().out
    )
    content = json.loads(file.read_text())
    assert content["seed"] == 0
    assert {row["verdict"] for row in content["checkpoints"]["positional-mu50"]} == {"holds"}

    assert cli.main(["train", "positional-mu300", "-o", str(tmp_path), "--quiet", "--steps", "3"]) == 0
    assert cli.main(["verify", "positional-mu50", str(tmp_path / "positional-mu300"), "--json", str(file)]) == 1
    checkpoints = json.loads(file.read_text())["checkpoints"]
    assert set(checkpoints) == {"positional-mu50", str(tmp_path / "positional-mu300")}


def one_failure(name: str) -> Claims:
    """A claim that fails."""
    return Claims(name, (claim(name="loss/blow-ups", predicted=0, measured=0.26),))


@pytest.fixture
def known(monkeypatch):
    """The recipe of this checkpoint says that blow-ups fail, within a range."""
    recipe = replace(RECIPES["augmented-haar-l2"], known_failures={"loss/blow-ups": (0.2, 0.3)})
    monkeypatch.setitem(RECIPES, "augmented-haar-l2", recipe)
    return "augmented-haar-l2"


def test_a_shipped_checkpoint_is_the_same_by_name_and_by_path_and_a_copy_is_not(tmp_path, monkeypatch, capsys, known):
    name = known
    monkeypatch.setattr("ar_interp.studies.verify", lambda checkpoint, seed: one_failure(checkpoint.name))
    shipped = ari.checkpoints.trained_folder() / name
    assert cli.main(["verify", name]) == 0
    assert "(known)" in capsys.readouterr().out
    monkeypatch.chdir(shipped.parent)
    assert cli.main(["verify", f"./{name}"]) == 0
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shipped, name)
    assert cli.main(["verify", str(shipped)]) == 0
    capsys.readouterr()
    assert cli.main(["verify", f"./{name}"]) == 1
    assert "(known)" not in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_a_folder_of_a_shipped_name_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ar_interp.studies.verify", lambda checkpoint, seed: Claims(checkpoint.name, (claim(),)))
    shutil.copytree(ari.checkpoints.trained_folder() / "positional-mu300", "positional-mu50")
    assert cli.main(["verify", "positional-mu50"]) == 0
    said = capsys.readouterr().err
    assert said == (
        "ar-interp: 'positional-mu50' is the shipped checkpoint of that name; for the folder here write "
        "'./positional-mu50'.\n"
    )
    assert cli.main(["verify", "./positional-mu50"]) == 0
    printed = capsys.readouterr().out
    assert "./positional-mu50 (this folder, not the shipped checkpoint of that name)" in printed


@pytest.mark.parametrize(("measured", "expected"), [(0.25, True), (0.5, False), (0.19, False), (float("nan"), False)])
def test_a_failure_is_known_within_its_range(measured, expected, known):
    blow_ups = claim(name="loss/blow-ups", predicted=-1, measured=measured)
    assert blow_ups.verdict == "fails"
    assert known_failure(ari.load(known), blow_ups) == expected
    assert not known_failure(ari.load("augmented-haar-l3"), blow_ups)


def test_silence_is_no_failure(tmp_path, capsys):
    config, process = ari.ModelConfig.augmented(dim=3, n_ctx=4, biases=True), ari.HaarOrthogonal(3)
    run = ari.train(config, process, ari.TrainConfig(objective="sampled", steps=2, batch=2), progress=False)
    run.save(tmp_path / "mine")
    assert cli.main(["verify", str(tmp_path / "mine")]) == 0
    printed = capsys.readouterr().out
    assert "theory makes no claims: no part of theory speaks of" in printed
    assert "1 claims about 1 checkpoint(s)" in printed


def test_a_report_is_a_page_and_the_same_as_json_also_of_claims_that_fail(tmp_path, capsys):
    name, files = "positional-mu50", ("page.html", "page.json", "mine.json")
    page, content, mine = (tmp_path / file for file in files)
    page.write_text("what was there before")
    Claims(name, (claim(name="mine/two", measured=2.0),)).to_json(mine)
    arguments = ["report", name, "-o", str(page), "--json", str(content), "--date", "2026-01-31", "--extra", str(mine)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"page\.html: \d+\.\d MB\n.*page\.json: 0\.\d MB\n\d+ claims about 1 checkpoint", printed)
    assert " 1 fails" in printed
    assert page.read_text().startswith("<!doctype html>")
    assert "31 January 2026" in page.read_text()
    assert "mine" in page.read_text()
    (found,) = json.loads(content.read_text())["checkpoints"]
    assert found["name"] == name
    assert {"mine/two", "model/function"} <= {row["name"] for row in found["claims"]}


def test_claims_of_one_s_own_stand_beside_those_measured(tmp_path, capsys):
    """Those that fail make verify fail; what is no such file, or about another model, is refused before anything."""
    name, both, page = "positional-mu50", tmp_path / "both.json", tmp_path / "report.html"
    files = {verdict: tmp_path / f"{verdict}.json" for verdict in ("holds", "fails", "strange", "text", "large")}
    Claims(name, (claim(name="mine/one"),), seed=3).to_json(files["holds"])
    Claims(name, (claim(name="mine/two", measured=2.0),)).to_json(files["fails"])
    Claims("x", (claim(name="mine/one"),)).to_json(files["strange"])
    files["text"].write_text("holds")
    files["large"].write_text(f"{' ' * MAX_BYTES}{{}}")
    extra = ["--seed", "0", "--json", str(both), "--extra", str(files["holds"])]
    assert cli.main(["verify", name, *extra]) == 0
    assert {"mine/one", "model/function"} <= {row["name"] for row in json.loads(both.read_text())["checkpoints"][name]}
    assert cli.main(["verify", name, *extra, str(files["fails"])]) == 1
    capsys.readouterr()
    for verdict, message in {
        "strange": "extra holds claims about 'x', which is none of 'positional-mu50': see Claims.name.",
        "text": "text.json is not valid JSON",
        "large": "large.json is larger than",
    }.items():
        for command in (["verify", name], ["report", name, "-o", str(page)]):
            assert cli.main([*command, "--extra", str(files[verdict])]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "report.pdf"], r"--output must be a file that ends in \.html, got report\.pdf\.$"),
        (["-o", "folder.html"], r"--output must be a file that ends in \.html, got folder\.html \(a folder\)\.$"),
        (["-o", "nowhere/report.html"], "--output: there is no folder nowhere; make it first"),
        (["-o", "report.html", "--json", "report"], r"--json must be a file that ends in \.json, got report\."),
    ],
)
def test_report_refuses_files_that_it_cannot_write(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    assert cli.main(["report", "no-such-checkpoint", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error, re.MULTILINE)


def test_divergence_keeps_the_last_good_state(tmp_path, capsys):
    assert cli.main(["train", "diagonal-unitary-h5", "-o", str(tmp_path), "--quiet", "--lr", "10"]) == 1
    assert "training diverged" in capsys.readouterr().err
    assert ari.load(tmp_path / "diagonal-unitary-h5-diverged").model.A.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "diagonal-unitary-h11"], "Did you mean 'diagonal-unitary-h10"),
        (["train", "nothing"], "no recipe nothing"),
        (["train", "diagonal-unitary-h5", "--steps", "3"], "--steps departs from the recipe: say with --output"),
        (["train"], r"no recipe \(none given\)"),
        (["report", "diagonal-unitary-h11", "-o", "report.html"], "Did you mean 'diagonal-unitary-h10"),
        (["verify", "--sed", "0"], r"Unrecognized options: --sed, 0\. Did you mean --seed\? For full"),
        (["verify", "positional-mu50", "--device", "meta"], "on the device 'meta', which holds no values"),
        (["landscapes", "--seed", str(2**31)], "seed must be at most 2147483647"),
        (["verfy"], r"Unrecognized options: verfy\. Available subcommands: list, train, verify"),
        (["train", "--seed", "x"], r"--seed must be an integer, got 'x'\. For full help"),
        (["verify", "--jobs", "2.5"], r"--jobs must be an integer, got '2\.5'\."),
        (["verify", "--seed", "9" * 5000], r"--seed must be an integer, got '9.{,350}$"),
        (["text", "--dim", "9" * 5000], r"--dim must be an integer, got 5000 digits\."),
        (["train", "--lr", "", "x"], r"--lr must be a number, got ''\."),
        (["report", "x", "-o", "x.html", "--date", "1"], r"--date must be a date, year-month-day, got '1'\."),
        (["sweep", "x.toml", "-o", "x", "--dry-run", "--jobs", "0"], "jobs must be at least 1, got 0"),
        ([], r"Expected one of \{list, train, verify"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


# ---- surroundings


def refuse(*_, **__):
    pytest.fail("work began")


def said(capsys) -> str:
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("ar-interp: ")
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "positional-mu50", "--json", "nowhere/x.json"], "nowhere/x.json: No such file or directory"),
        (["verify", "positional-mu50", "--json", "file/x.json"], "file/x.json: Not a directory"),
        (["verify", "positional-mu50", "--json", "theirs"], "theirs: Is a directory"),
        (["verify", "positional-mu50", "--json", "n" * 300], "File name too long"),
        (["train", "positional-mu50", "-o", "file"], "file/positional-mu50: Not a directory"),
        (["train", "positional-mu100", "positional-mu50", "-o", "theirs"], "theirs/positional-mu50 is there already"),
        (["train", "positional-mu50", "-o", "n" * 300], "File name too long"),
        (["report", "positional-mu50", "-o", "/proc/x.html"], "/proc/x.html: No such file or directory"),
    ],
)
def test_places_are_tried_before_work_begins(arguments, message, tmp_path, monkeypatch, capsys):
    for work in ("studies.verify", "training.loop.train", "report.build"):
        monkeypatch.setattr(f"ar_interp.{work}", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "theirs" / "positional-mu50").mkdir(parents=True)
    (tmp_path / "theirs" / "positional-mu50" / "notes.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(arguments) == 2
    assert message in said(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def refuge(tmp_path, monkeypatch):
    """Where things are kept that cannot be written where they belong."""
    (tmp_path / "refuge").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "refuge"))
    return tmp_path / "refuge"


def spoiled_by(work, place):
    """`work`, after which a file lies where the folder `place` was."""

    def spoil(*arguments, **options):
        result = work(*arguments, **options)
        shutil.rmtree(place, ignore_errors=True)
        place.write_text("in the way")
        return result

    return spoil


def test_claims_that_cannot_be_written_are_kept_elsewhere(tmp_path, monkeypatch, capsys, refuge):
    place = tmp_path / "place"
    place.mkdir()
    verify = spoiled_by(lambda checkpoint, seed: one_failure(checkpoint.name), place)
    monkeypatch.setattr("ar_interp.studies.verify", verify)
    assert cli.main(["verify", "positional-mu50", "--json", str(place / "x.json")]) == 2
    (kept,) = refuge.glob("*/x.json")
    assert f"x.json: Not a directory. What was computed is kept as {kept}." in said(capsys)
    assert list(json.loads(kept.read_text())["checkpoints"]) == ["positional-mu50"]


def test_a_model_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch, capsys, refuge):
    monkeypatch.setattr("ar_interp.training.loop.train", spoiled_by(ari.train, tmp_path / "place"))
    arguments = ["train", "positional-mu50", "--steps", "2", "-o", str(tmp_path / "place"), "--quiet"]
    assert cli.main(arguments) == 2
    (kept,) = refuge.glob("*/positional-mu50")
    assert f"What was computed is kept as {kept}." in said(capsys)
    assert ari.load(kept).steps == 2


def test_a_model_whose_claims_cannot_be_written_is_there(tmp_path, monkeypatch, capsys):
    def fill(*_):
        raise OSError(28, "No space left on device", "claims.json")

    monkeypatch.setattr("ar_interp.records.write", fill)
    assert cli.main(["train", "positional-mu50", "--steps", "2", "-o", str(tmp_path), "--quiet"]) == 2
    place = tmp_path / "positional-mu50"
    assert f"No space left on device. The model is kept as {place}, without its claims" in said(capsys)
    assert ari.load(place).steps == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_keeps_what_was_measured(number, code, tmp_path, monkeypatch, capsys):
    def interrupted(checkpoint, seed):
        if checkpoint.name == "positional-mu100":
            os.kill(os.getpid(), number)
            time.sleep(10)
        return one_failure(checkpoint.name)

    monkeypatch.setattr("ar_interp.studies.verify", interrupted)
    before, file = signal.getsignal(signal.SIGTERM), tmp_path / "x.json"
    assert cli.main(["verify", "positional-mu50", "positional-mu100", "--json", str(file)]) == code
    assert re.search(rf"(interrupted|terminated)\. What was measured until then is in {file}\.", said(capsys))
    assert list(json.loads(file.read_text())["checkpoints"]) == ["positional-mu50"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_there_are_no_more_processes_than_things_to_do():
    assert list(each(len, ["ab"], 10**23)) == [2]
    assert list(each(len, [], 10**23)) == []


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr("ar_interp.cli._listing", lambda: [{"name": "ŵ", "question": "?", "recipes": {"λ": "κ"}}])
    assert cli.main(["list"]) == 0
    assert b"\\u0175: ?\n  recipe   \\u03bb" in screen.buffer.getvalue()


def test_a_current_folder_that_was_removed_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["verify", "positional-mu50"]) == 2
    assert "the current folder cannot be used: No such file or directory. Change to another one." in said(capsys)


@pytest.mark.parametrize("closed", [">&-", "<&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(closed, tmp_path):
    """No file takes their number: what libraries print does not end up in it."""
    code = "import os, ar_interp.__main__ as ours; ours.main(); print(os.open('x', os.O_CREAT), file=open('y', 'w'))"
    command = f'exec "$0" -c "$1" list {closed}'
    result = subprocess.run(["sh", "-c", command, sys.executable, code], cwd=tmp_path, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert bool(result.stdout) == (closed != ">&-")
    assert int((tmp_path / "y").read_text()) > 2


def test_a_full_disk_behind_stdout_is_one_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["list"]) == 2
    assert "No space left on device" in said(capsys)


@pytest.mark.parametrize(
    ("error", "one_line"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate 8 bytes"), True),
        (MemoryError(), True),
        (ZeroDivisionError("a fault of ours"), False),
    ],
)
def test_no_fault_looks_like_a_claim_that_fails(error, one_line, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("ar_interp.studies.verify", fail)
    assert cli.main(["verify", "positional-mu50"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ar-interp: ")
    assert (said.count("\n") == 1) == one_line


def test_the_file_of_the_command_can_be_run():
    by_file = [sys.executable, "-m", "ar_interp.cli", "list"]
    assert b"shipped" in subprocess.run(by_file, capture_output=True, check=True).stdout
