"""`claims.json`: what is written is read, and nothing else is."""

import json
import shutil

import pytest
import torch
from zoo import claim

import ar_interp as ari
from ar_interp import records
from ar_interp.checkpoints import CheckpointError

CLAIMS = ari.Claims("mine", (claim(), claim(name="heads/b", measured=float("nan"))), seed=3)


@pytest.fixture
def checkpoint(tmp_path):
    shutil.copytree(ari.checkpoints.trained_folder() / "positional-mu50", tmp_path / "mine")
    (tmp_path / "mine" / records.FILE).unlink(missing_ok=True)
    return ari.load(tmp_path / "mine")


def test_what_is_written_is_read(checkpoint):
    assert records.read(checkpoint) is None
    records.write(checkpoint, CLAIMS, checkpoint.path)
    found = records.read(checkpoint)
    assert found is not None
    assert (found.seed, found.shipped) == (3, False)
    assert [row["name"] for row in found.rows] == ["heads/a", "heads/b"]
    assert found.rows[1]["measured"] == "nan"
    assert [row["verdict"] for row in found.rows] == ["holds", "fails"]


def test_the_fingerprint_is_of_every_bit_of_the_weights(checkpoint):
    records.write(checkpoint, CLAIMS, checkpoint.path)
    name = next(iter(checkpoint.parameters))
    value = checkpoint.parameters[name].flatten()[0]
    checkpoint.parameters[name].flatten()[0] = torch.nextafter(value, torch.tensor(9.0, dtype=value.dtype))
    with pytest.raises(CheckpointError, match=r"mine/claims\.json: it is about other weights"):
        records.read(checkpoint)


def edited(content, path, value):
    *way, last = path
    for key in way:
        content = content[key]
    content[last] = value


ROW = ("checkpoints", "mine", 0)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("schema",), 9, "schema must be 1, got 9"),
        (("seed",), "x", "seed must be an integer, got 'x'"),
        (("versions",), {"torch": 2}, "versions must map names to strings"),
        (("checkpoints",), {}, "checkpoints must map names to lists of claims"),
        (("checkpoints",), {"mine": [], "yours": []}, "checkpoints must hold one list of claims"),
        ((*ROW, "verdict"), "splendid", "verdict must be one of holds, fails, undecided, void, got 'splendid'"),
        ((*ROW, "statement"), ["<b>"], "statement of a claim must be a string"),
        ((*ROW, "measured"), "one", "measured of a claim must be a number, got 'one'"),
        ((*ROW, "n"), True, "n of a claim must be a number, got True"),
        ((*ROW, "control", "measured"), None, "measured of a control must be a number"),
        ((*ROW, "more"), 1, "unknown key 'more'"),
        ((*ROW, "interval"), [1, {}], "interval of a claim must be two numbers"),
        (("more",), 1, "unknown key 'more'"),
    ],
)
def test_what_is_no_such_file_is_refused(checkpoint, path, value, fault):
    file = records.write(checkpoint, CLAIMS, checkpoint.path)
    content = json.loads(file.read_text())
    edited(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=fault):
        records.read(checkpoint)


def test_a_file_too_large_is_refused(checkpoint):
    (checkpoint.path / records.FILE).write_text(" " * (records.MAX_BYTES + 1))
    with pytest.raises(CheckpointError, match="is larger than"):
        records.read(checkpoint)
