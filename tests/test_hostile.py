"""Folders from nobody's friend: whatever is in them, reading is refused at once, in one short line."""

import json
import os
import pickle
import random
import shutil
import signal
import socket
import struct
import time

import pytest
from zoo import claim

import ar_interp as ari
from ar_interp import records
from ar_interp.checkpoints import CLAIMS, SNAPSHOTS, CheckpointError, load

CONFIG, METRICS, MODEL = "config.json", "metrics.jsonl", "model.safetensors"
N_FOLDERS = 315
SECONDS = 1.0  # of this process; to wait for a pipe takes none, and is ended by an alarm
RAW = "raw text"
VALUES = ('{"a": {}}', "[[1]]", '"\\u0000"', "1" * 30, "-" + "1" * 4000, "1" * 5000, "NaN", "-Infinity", "1e999")
VALUES += ('"' + "x" * 900_000 + '"', '"\\ud800"', "[" * 50_000, "0x10", "nul", "'one'", '"\x1b[31m"')


# ---- what is done to a file; each takes a source of chance and the path


def objects_of(value):
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_of(inner)


def edit_json(chance, file, edit) -> None:
    """`edit` one object in the file, chosen by chance; RAW there becomes the text that the edit returns."""
    lines = file.read_text().splitlines() if file.name == METRICS else [file.read_text()]
    number = chance.randrange(len(lines))
    value = json.loads(lines[number])
    raw = edit(chance.choice([found for found in objects_of(value) if found]))
    lines[number] = json.dumps(value).replace(json.dumps(RAW), raw or "")
    file.write_text("\n".join(lines))


def wrong_value(chance, file):
    def edit(found):
        key = chance.choice(list(found))
        wrong = "1" if isinstance(found[key], bool) else "true"
        found[key] = RAW
        return chance.choice([*VALUES, wrong])

    edit_json(chance, file, edit)


def key_twice(chance, file):
    def edit(found):
        key = chance.choice(list(found))
        value, found[key] = json.dumps(found[key]), RAW
        return f"{value}, {json.dumps(key)}: {value}"

    edit_json(chance, file, edit)


def unknown_key(chance, file):
    name = chance.choice(["", "__proto__", "\0", "\x1b[2J", "x" * 500_000, "\n" * 99, "ŵ", "../../x", "%s{}"])
    edit_json(chance, file, lambda found: found.update({name: 1}))


def cut(chance, file):
    content = file.read_bytes().rstrip()
    start = content.rfind(b"\n") + 2 if file.name == METRICS else 0  # a line less may be right
    file.write_bytes(content[: chance.randrange(start, len(content))])


def no_text(chance, file):
    content = file.read_bytes()
    place = chance.randrange(len(content))
    file.write_bytes(content[:place] + chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80"]) + content[place:])


def too_large(chance, file):
    size = chance.choice([2**26, 2**40])
    if chance.random() < 0.5:
        os.truncate(file, size)
    else:
        file.write_bytes(file.read_bytes().rstrip() * (2**26 // file.stat().st_size + 1))


def junk(chance, file):
    file.write_bytes(
        chance.choice(
            [
                b"",
                b"\0" * 4096,
                chance.randbytes(chance.randrange(1, 5000)),
                pickle.dumps({"weights": [1.0]}),
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                b"PK\x03\x04" + chance.randbytes(100),
                b"[" * 100_000,
                b'{"a":' * 100_000,
            ]
        )
    )


def no_file(chance, file):
    content = file.read_bytes()
    file.unlink()
    kind = chance.randrange(6)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to(chance.choice(["/dev/zero", "/dev/full", "/proc/self/mem", "/"]))
    elif kind == 3:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(file.parent)
            server.bind(file.name)
            os.chdir(here)
    elif kind == 4:
        other = file.with_name("other")
        os.mkfifo(other)
        file.symlink_to(other)
    else:
        file.write_bytes(content[:-2] + b"\0")


def edit_header(chance, file):
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    one = header[chance.choice(names)]
    kind = chance.randrange(7)
    if kind == 0:
        one["dtype"] = chance.choice(["F16", "F32", "I64", "C64", "", "f64", None, 3, ["F64"]])
    elif kind == 1:
        one["shape"] = chance.choice(
            [[], [-1], [2**62, 4], [True], [10**9, 10**9], None, "4", [[4]], one["shape"] + [2]]
        )
    elif kind == 2:
        one["data_offsets"] = chance.choice([[0, 0], [0], [-8, 8], [0, 2**63], None, [0, len(data) - 8], [8, 0], "00"])
    elif kind == 3:
        header[chance.choice(["", "x" * 10_000, "\0", "../x", "1e9/A"])] = header.pop(chance.choice(names))
    elif kind == 4:
        header.pop(chance.choice(names))
    elif kind == 5:
        header["more"] = chance.choice([one, None, {}, [], {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}])
    text = json.dumps(header)
    if kind == 6:
        name = chance.choice(names)
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)


def wrong_length(chance, file):
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    new = chance.choice([0, 1, length - 1, length + 1, 2**21, 2**32, 2**63, 2**64 - 1, len(content)])
    file.write_bytes(struct.pack("<Q", new) + content[8:])


def wrong_size(chance, file):
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))] if chance.random() < 0.5 else content + b"\0" * 8)


def no_number(chance, file):
    content = bytearray(file.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    place = start + 8 * chance.randrange((len(content) - start) // 8)
    bad = chance.choice([float("nan"), float("inf"), -float("inf"), 1e300, -1.7e308])
    content[place : place + 8] = struct.pack("<d", bad)
    file.write_bytes(content)


OF_JSON = (wrong_value, wrong_value, key_twice, unknown_key, cut, no_text, too_large, junk, no_file)
OF_TENSORS = (edit_header, edit_header, edit_header, wrong_length, wrong_size, no_number, too_large, junk, no_file)
KINDS = [(name, spoil) for name in (CONFIG, METRICS, CLAIMS) for spoil in OF_JSON]
KINDS += [(name, spoil) for name in (MODEL, SNAPSHOTS) for spoil in OF_TENSORS]


# ---- and what comes of it


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint with every file that one can have."""
    config = ari.ModelConfig.diagonal(dim=3, n_heads=2, n_ctx=4)
    run = ari.train(config, ari.CommutingUnitary(3), ari.TrainConfig(steps=9, n_seeds=2, device="cpu"), progress=False)
    path = run.save(tmp_path_factory.mktemp("hostile") / "x")
    records.write(run, ari.Claims("x", (claim(), claim(name="heads/b", measured=float("nan"))), seed=3), path)
    assert {file.name for file in path.iterdir()} >= {CONFIG, METRICS, CLAIMS, MODEL, SNAPSHOTS}
    return path


def stop(*_):
    raise AssertionError("reading hangs")


def test_no_hostile_folder_is_read_hangs_or_says_much(good, tmp_path, without_type_checks):
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for number in range(N_FOLDERS):
            chance = random.Random(number)
            name, spoil = KINDS[number % len(KINDS)]
            folder = shutil.copytree(good, tmp_path / "x")
            spoil(chance, folder / name)
            case = f"folder {number}: {spoil.__name__} of {name}"
            signal.alarm(60)
            start = time.process_time()
            with pytest.raises(CheckpointError) as found:  # noqa: PT012
                records.read(load(folder))
                pytest.fail(f"{case} was read")
            signal.alarm(0)
            assert time.process_time() - start < SECONDS, case
            assert len(str(found.value)) <= 300, case
            assert str(found.value).isprintable(), case
            assert f"x/{name}" in str(found.value), f"{case}: {found.value}"
            shutil.rmtree(folder)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "name", ["", "\0", "x" * 5000, "a/" * 3000, "\ud800", "/dev/zero", "\x1b[31m", "/proc/self/fd"]
)
def test_no_hostile_name_is_found(name):
    with pytest.raises(CheckpointError) as found:
        load(name)
    assert len(str(found.value)) <= 300
    assert str(found.value).isprintable()
