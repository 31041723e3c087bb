"""A training that dies goes on from its newest whole state and ends with the bits of one that was never stopped."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

import ar_interp as ari
from ar_interp import cli
from ar_interp._tensors import to_bytes
from ar_interp.training import objectives, states
from ar_interp.training.batched import OwnModel
from ar_interp.training.states import States

CONFIG, PROCESS = ari.ModelConfig.diagonal(dim=3, n_heads=2, n_ctx=4), ari.CommutingUnitary(3)
STOP = 1.003  # a loss that the descent of "stops" falls below after two states
MERGED = ari.ModelConfig.augmented(dim=3, n_ctx=4, heads="merged", attention="linear/pairs")
SAMPLED = {"objective": "sampled", "optimizer": "adam", "batch": 4, "lr": 1e-3}
HOW = {
    "gd": {"steps": 402, "n_seeds": 2},  # two between rows of the history
    "adam": {"steps": 25, "optimizer": "adam"},
    "sampled": SAMPLED | {"steps": 25, "n_seeds": 2, "schedule": "cosine", "warmup": 9, "clip": 1.0},
    "own model": SAMPLED | {"steps": 4, "n_seeds": 2},
    "lbfgs": {"steps": 20, "optimizer": "lbfgs", "n_seeds": 4},
    "stops": {"steps": 402, "stop_below": STOP},
    "followed": {"steps": 25, "n_seeds": 2},
    "one is lost": {"steps": 25, "lr": 0.03, "n_seeds": 3, "init_scales": [0.1, 9.0, 0.3]},
}
EVERY = {"gd": 133, "stops": 133, "own model": 1, "lbfgs": 1}


class DiesError(BaseException):
    pass


@pytest.fixture
def dying(monkeypatch):
    """dying(): the next training dies after its second state."""
    keep, left = States.keep, [0]

    def counted(self, *arguments):
        keep(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise DiesError

    monkeypatch.setattr(States, "keep", counted)
    return lambda: left.__setitem__(0, 2)


@pytest.fixture(autouse=True)
def without_a_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fit(how, **options):
    training = ari.TrainConfig(device="cpu", **HOW[how] | options.pop("training", {}))
    config = MERGED if how == "followed" else CONFIG
    return ari.train(config, PROCESS, training, progress=False, **options)


@cache
def whole(how):
    """A run that is never stopped."""
    return fit(how)


def begun(place, dying, how="adam"):
    """A training that has died, and its states."""
    dying()
    with pytest.raises(DiesError):
        fit(how, resume=place, every=EVERY.get(how, 11))
    found = States(place).found()
    assert len(found) == 2
    return found


def same(a, b) -> bool:
    along = [(run.snapshots | {-1: run.parameters}) for run in (a, b)]
    equal = all(torch.equal(x, along[1][step][name]) for step, own in along[0].items() for name, x in own.items())
    tables = a.history.equals(b.history) and a.members.equals(b.members)
    return equal and tables and along[0].keys() == along[1].keys() and (a.steps, a.seed) == (b.steps, b.seed)


@pytest.mark.filterwarnings("ignore:1 of 3 members diverged")
@pytest.mark.parametrize("how", HOW)
def test_what_dies_ends_with_the_same_bits(how, tmp_path, dying, monkeypatch):
    if how == "own model":
        monkeypatch.setattr(objectives, "form_of", lambda config, real: OwnModel(config))
    expected, place = fit(how), tmp_path / "x"
    _, newest = begun(place, dying, how)
    os.utime(newest, (0, 0))  # the clock went backwards
    said = []
    with States(place, say=said.append) as kept:
        assert same(expected, fit(how, resume=kept))
    assert f"training goes on from {'seed' if how == 'lbfgs' else 'step'} {int(newest.name[:12])} of" in said[0]
    assert how != "stops" or EVERY[how] * 2 < expected.steps < HOW[how]["steps"]
    assert (how == "one is lost") == ("diverged" in expected.members)
    assert same(expected, fit(how, resume=place))  # from the last state
    assert len(os.listdir(place)) == 2


# ---- what lies in the folder


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "both"])
def test_a_damaged_state_gives_way_to_the_one_before(damage, tmp_path, dying):
    older, newest = begun(tmp_path, dying)
    content = newest.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    newest.write_bytes({"cut": content[:-1], "flipped": flipped}.get(damage, b""))
    if damage == "both":
        older.write_bytes(b"")
    said = []
    with (
        pytest.warns(UserWarning, match=rf"({newest.name}|{older.name}) is damaged.* goes on from the state before it"),
        States(tmp_path, say=said.append) as kept,
    ):
        assert same(whole("adam"), fit("adam", resume=kept))
    assert said == ([] if damage == "both" else ["training goes on from step 11 of 25"])
    assert newest not in States(tmp_path).found()


def forged(path, change):
    """Put something else into a state, with the checksum that goes with it."""
    with safe_open(path, "pt") as file:
        facts, tensors = json.loads(file.metadata()["facts"]), load(path.read_bytes())
    change(facts, tensors)
    data = to_bytes(tensors, facts)
    path.unlink()
    path = path.with_name(f"{path.name[:12]}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors")
    path.write_bytes(data)
    return path


def put(key, value):
    return lambda facts, tensors: facts.__setitem__(key, value)


def put_tensor(name, change):
    return lambda facts, tensors: tensors.__setitem__(name, change(tensors.get(name)))


def beyond_its_numbers(states):
    states.view(torch.int32)[:, 2] = states.view(torch.int32)[:, 4] = 624  # which torch takes, and reads beyond them
    return states


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("step", 10**6), "step must be at most 25"),
        (put("step", True), "step must be an integer"),
        (put("step", 23), r"history must have shape \[23, 3\]|snapshots"),
        (put("last_good_step", -1), "last_good_step must be at least 0"),
        (put("more", 1), "unknown key 'more'"),
        (lambda facts, tensors: facts.pop("diverged_by"), "'diverged_by' is missing"),
        (lambda facts, tensors: tensors.pop("mean"), "'mean' is missing"),
        (put_tensor("more", lambda _: torch.zeros(1)), "'more' is unknown"),
        (put_tensor("weights", lambda x: x[:, 1:].contiguous()), "weights must have shape"),
        (put_tensor("losses", lambda x: x.float()), "losses must be F64, got F32"),
        (put_tensor("history", lambda x: x / 0), "history must be finite"),
        (put_tensor("diverged", torch.ones_like), "all members have diverged"),
        (put_tensor("generators", beyond_its_numbers), "generators are in no state that they could be in"),
        (put_tensor("generators", torch.zeros_like), "generators are in no state that they could be in"),
    ],
)
def test_every_field_of_a_state_is_checked(change, message, tmp_path, dying):
    _, newest = begun(tmp_path, dying, "sampled")
    path = forged(newest, change)
    with pytest.warns(UserWarning, match=rf"{path.name[:20]}.*{message}"):
        assert same(whole("sampled"), fit("sampled", resume=tmp_path))


def put_deep(*keys):
    def change(facts, tensors):
        *above, last, value = keys
        for key in above:
            facts = facts[key]
        facts[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_deep("schema", 2), "written by another version of ar_interp"),
        (put_deep("training", None), "another training: the description is None there"),
        (put_deep("training", "training", "lr", 1.0), r"another training: training\.lr is 1\.0 there and 0\.01 here"),
        (put_deep("training", "model", "dim", 3.0), r"another training: model\.dim is 3\.0 there and 3 here"),
        (
            put_deep("training", "device", "cuda"),
            "the same bits here: device is 'cuda' there and 'cpu' here",
        ),
        (put_deep("training", "threads", 7), "not end in the same bits here: threads is 7 there and 1 here"),
        (put_deep("training", "versions", "torch", "1.0"), r"the same bits here: versions\.torch is '1\.0' there"),
    ],
)
def test_a_state_of_another_training_or_machine_is_refused(change, message, tmp_path, dying):
    _, newest = begun(tmp_path, dying)
    forged(newest, change)
    with pytest.raises(ValueError, match=message):
        fit("adam", resume=tmp_path)


def test_other_calls_in_the_same_place_are_refused(tmp_path, dying):
    begun(tmp_path, dying)
    with pytest.raises(ValueError, match=r"another training: training\.lr is 0\.01 there and 0\.02 here\. Go on with"):
        fit("adam", resume=tmp_path, training={"lr": 0.02})
    with pytest.raises(ValueError, match="another training: initial weights is"):
        fit("adam", resume=tmp_path, init=whole("adam"))
    with States(tmp_path), pytest.raises(BlockingIOError, match=rf"process \({os.getpid()}\) is at work in it"):
        fit("adam", resume=tmp_path)
    with pytest.raises(ValueError, match=r"every goes with resume"):
        fit("adam", every=3)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        fit("adam", resume=tmp_path, every=0)
    with pytest.raises(ValueError, match="resume must be a folder for states of a training, got the checkpoint"):
        fit("adam", resume=whole("adam").save(tmp_path / "saved"))


def test_where_no_state_can_be_written_training_goes_on_and_says_so_once(tmp_path, dying, monkeypatch):
    older, newest = begun(tmp_path, dying)

    def fill(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr(states, "write_file", fill)
        with pytest.warns(
            UserWarning, match="No space left on device.* goes on; the newest state is that of 22"
        ) as said:
            assert same(whole("adam"), fit("adam", resume=tmp_path, every=1))
    assert len(said) == 1
    assert States(tmp_path).found() == [older, newest]


def test_states_come_by_time_and_cost_a_small_part_of_it(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(states.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(states, "write_file", lambda path, data: now.__setitem__(0, now[0] + 10.0))
    with States(tmp_path / "x") as kept:
        for step in range(1000):
            now[0] += 1.0
            if kept.due(step):
                kept.keep(step, {}, {"weights": torch.zeros(1)})
                written.append(step)
    assert written[0] == 59
    assert set(np.diff(written)) == {200}  # each took 10 s


# ---- the command


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr("ar_interp.studies.verify", lambda run, seed: ari.Claims("x", (), seed=seed))


def test_a_command_that_was_ended_goes_on_and_then_is_done(tmp_path, unmeasured, monkeypatch, capsys):
    name, options = "diagonal-unitary-h5", ["--steps", "600", "--quiet", "-o", str(tmp_path)]
    folder, arguments = tmp_path / f".{name}.training", ["train", name, *options]
    command = [sys.executable, "-m", "ar_interp", *arguments, "--every", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not States(folder).found():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 143
    assert f"training stopped at {int(States(folder).found()[-1].name[:12])}; the newest state is that of" in said

    assert cli.main([*arguments, "--lr", "0.02"]) == 2
    assert "another training: training.lr is 0.01 there and 0.02 here" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert "training goes on from step" in capsys.readouterr().out
    recipe = ari.recipes.RECIPES[name]
    expected = ari.train(recipe.config, recipe.process, replace(recipe.training, steps=600), progress=False)
    assert same(expected, ari.load(tmp_path / name))
    assert os.listdir(tmp_path) == [name]

    trained = []
    monkeypatch.setattr("ar_interp.training.loop.train", lambda *_, **__: trained.append(1) or expected)
    assert cli.main(arguments) == 0
    assert "done already" in capsys.readouterr().out
    assert cli.main([*arguments, "--lr", "0.02"]) == 2
    assert "is a checkpoint of another training: training.lr is 0.01 there and 0.02 here" in capsys.readouterr().err
    (tmp_path / name / "claims.json").unlink()
    assert cli.main(arguments) == 0
    assert (tmp_path / name / "claims.json").exists()
    assert not trained
    assert cli.main([*arguments, "--again"]) == 0
    assert trained
