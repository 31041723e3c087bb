"""Round trips bit for bit, and every way in which a folder from a stranger may lie."""

import json
import os
import pickle
import shutil
import struct
from importlib.metadata import version
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune

from ar_interp import checkpoints
from ar_interp.checkpoints import CheckpointError, available, check_place, load, save
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

SAMPLED = TrainConfig(objective="sampled", batch=4, steps=3, lr=1e-3, device="cpu")
DIAGONAL = ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=5)
RUNS = {
    "unitary": (DIAGONAL, CommutingUnitary(4), TrainConfig(steps=7, n_seeds=3, device="cpu")),
    "orthogonal": (DIAGONAL, CommutingOrthogonal(4), TrainConfig(steps=7, optimizer="adam", seed=5, device="cpu")),
    "lbfgs": (DIAGONAL, CommutingUnitary(4), TrainConfig(steps=3, optimizer="lbfgs", n_seeds=2, device="cpu")),
    "single precision": (
        ModelConfig.diagonal(dim=4, n_heads=3, n_ctx=5, dtype="float32"),
        CommutingUnitary(4),
        TrainConfig(steps=2, device="cpu"),
    ),
    "positional": (
        ModelConfig.positional_only(n_ctx=6),
        CommutingUnitary(1, mu=50.0),
        TrainConfig(steps=50, lr=0.1, stop_below=0.5, device="cpu"),
    ),
    "noisy": (DIAGONAL, CommutingOrthogonal(4, noise=0.1, mu=1 / 3), SAMPLED),
    "sparse": (DIAGONAL, CommutingUnitary(4, first_token=FirstToken("sparse", scale=0.1, n_nonzero=2)), SAMPLED),
}

A, P = "blocks.0.attn.A", "blocks.0.attn.positional.P"


@pytest.fixture(scope="module")
def run():
    return train(*RUNS["unitary"], progress=False)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    return run.save(tmp_path_factory.mktemp("checkpoints") / "good")


@pytest.fixture
def folder(saved, tmp_path):
    """A good checkpoint to spoil."""
    return shutil.copytree(saved, tmp_path / "spoiled")


def written(run, **changes) -> SimpleNamespace:
    """Only what a checkpoint needs of a run."""
    names = ("config", "process", "training", "history", "members", "seed", "steps", "device", "model")
    return SimpleNamespace(**{name: getattr(run, name) for name in names} | changes)


def test_the_number_of_threads_is_kept_where_it_is_known(saved, folder):
    assert load(saved).threads == torch.get_num_threads()
    assert "thread" in (saved / "README.md").read_text("utf-8")
    edit_config(folder, lambda config: config.pop("threads"))
    assert load(folder).threads is None


def edit_config(folder, edit) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


# ---- round trips


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_saved_is_loaded_bit_for_bit(kind, tmp_path):
    run = train(*RUNS[kind], progress=False)
    path = run.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder"
    assert {file.name for file in path.iterdir()} - {checkpoints.SNAPSHOTS} == set(checkpoints.FILES)

    loaded = load(path)
    assert (loaded.config, loaded.process, loaded.training) == RUNS[kind]
    assert (loaded.model.config, loaded.model.process) == RUNS[kind][:2]
    assert (loaded.name, loaded.path) == ("folder", path)
    assert (loaded.seed, loaded.steps, loaded.device) == (run.seed, run.steps, run.device)
    assert loaded.versions["torch"] == version("torch")
    assert set(loaded.versions) == set(checkpoints.VERSIONED)
    saved_state, loaded_state = run.model.state_dict(), loaded.model.state_dict()
    assert list(saved_state) == list(loaded_state)
    for name, tensor in saved_state.items():
        assert loaded_state[name].dtype == tensor.dtype
        assert torch.equal(loaded_state[name], tensor)
    pd.testing.assert_frame_equal(loaded.history, run.history, check_exact=True)
    pd.testing.assert_frame_equal(loaded.members, run.members, check_exact=True)


def test_a_loaded_model_predicts_the_same(run, saved):
    tokens = CommutingUnitary(4).sample(3, 5, seed=0).tokens
    assert torch.equal(load(str(saved)).model(tokens), run.model(tokens))


def test_what_was_read_stays_when_its_files_are_cut_short(run, folder):
    loaded = load(folder)
    for file in folder.iterdir():
        file.write_bytes(b"")
    assert torch.equal(loaded.model.P, run.model.P)
    assert all(torch.equal(x, run.snapshots[step][A]) for step, one in loaded.snapshots.items() for x in [one[A]])


def test_load_moves_the_model(saved):
    assert load(saved, device="meta").model.P.device.type == "meta"


@pytest.mark.parametrize("name", available())
def test_shipped_checkpoints_load(name):
    checkpoint = load(name)
    assert checkpoint.name == name
    assert checkpoint.seed in checkpoint.members["seed"].tolist()


def test_the_card_says_how_it_was_made(run, saved):
    card = (saved / "README.md").read_text()
    assert card.startswith("# good\n")
    assert "3 diagonal linear heads" in card
    assert "d = 4, n_ctx = 5" in card
    assert "weights: float64" in card
    assert "population loss, optimizer gd, lr 0.01, 7 steps" in card
    assert f"3 seed(s) from 0, seed {run.seed} kept" in card


def test_a_card_may_be_given(run, tmp_path):
    path = save(run, tmp_path / "carded", card="# Mine, ŵ\n")
    assert (path / "README.md").read_text(encoding="utf-8") == "# Mine, ŵ\n"


# ---- writing


def test_nothing_is_replaced_unasked(run, saved):
    before = (saved / "config.json").stat()
    with pytest.raises(FileExistsError, match=r"is there already\. Choose another path, or overwrite=True"):
        run.save(saved)
    assert (saved / "config.json").stat().st_mtime_ns == before.st_mtime_ns


def test_a_checkpoint_is_replaced_when_asked(folder, tmp_path):
    other = train(*RUNS["positional"], progress=False)
    save(other, folder, overwrite=True)
    assert load(folder).config == other.config
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]


def test_only_a_checkpoint_is_ever_replaced(run, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "draft.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis is there already"):
        save(run, precious, overwrite=True)
    assert (precious / "draft.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.float(), "A must be F64, got F32"),
        (lambda model: model.P.data.fill_(torch.nan), "P has NaN or infinite entries"),
        (lambda model: model.P.data.fill_(1e200), "P has entries beyond 1e.77, whose products overflow"),
        (lambda model: prune.random_unstructured(model.blocks[0].attn, "A", 0.5), "'blocks.0.attn.A' is missing"),
        (lambda model: model.to("meta"), "the run cannot be saved: Cannot copy out of meta tensor"),
        (lambda model: setattr(model.blocks[0], "more", torch.nn.Linear(1, 1)), "more.bias' is unknown to the config"),
    ],
    ids=["cast", "nan", "huge", "pruned", "meta", "grown"],
)
def test_what_would_not_load_is_not_written(run, folder, tmp_path, spoil, message):
    model = run.config.build(run.process)
    spoil(model)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for path in (folder, tmp_path / "new"):
        with pytest.raises(ValueError, match=message):
            save(written(run, model=model), path, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"steps": 0.5}, {"device": "\n"}, {"history": None}, {"members": []}]
)
def test_a_run_that_says_nonsense_is_not_written(run, tmp_path, changes):
    with pytest.raises(ValueError, match="the run cannot be saved"):
        save(written(run, **changes), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_weights_in_a_wrapper_are_named(run, tmp_path):
    model = torch.nn.Module()
    model.module = run.model
    with pytest.raises(ValueError, match=r"All names start with 'module\.', as DataParallel"):
        save(written(run, model=model), tmp_path / "new")


def test_what_lies_in_a_checkpoint_stays_there_and_old_claims_do_not(run, folder):
    (folder / "notes.txt").write_text("mine")
    (folder / checkpoints.CLAIMS).write_text("{}")
    save(written(run), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / checkpoints.CLAIMS).exists()
    assert not load(folder).snapshots
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


@pytest.mark.parametrize("config", ["{}", '{"schema": 1}', '{"model_type": "gpt2"}', "not JSON"])
def test_a_folder_with_somebody_elses_config_is_no_checkpoint(run, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    for refuse in (lambda: save(run, tmp_path, overwrite=True), lambda: check_place(tmp_path, overwrite=True)):
        with pytest.raises(FileExistsError, match="is there already"):
            refuse()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_save_leaves_nothing_behind(run, folder, tmp_path, monkeypatch, overwrite):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "describe", fail)
    target = folder if overwrite else tmp_path / "target"
    with pytest.raises(OSError, match="disk full"):
        save(run, target, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]
    load(folder)


# ---- finding


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(CheckpointError, match=r"no checkpoint .* Did you mean 'diagonal-unitary-h10'\?"):
        load("diagonal-unitary-h11")


def test_an_unknown_path_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere': neither a shipped name nor a folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.jsonl"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"spoiled/{name} cannot be read"):
        load(folder)


def test_a_folder_in_place_of_a_file_is_named(folder):
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"spoiled/metrics\.jsonl cannot be read: Is a directory"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.jsonl", checkpoints.SNAPSHOTS])
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_is_not_waited_for(folder, name, put):
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(CheckpointError, match=rf"spoiled/{name} cannot be read: it is not a regular file"):
        load(folder)


# ---- config.json


@pytest.mark.parametrize(
    ("place", "key", "message"),
    [
        ((), "proces", r"config\.json: unknown key 'proces'\. Did you mean 'process'\?"),
        (("model",), "n_head", r"config\.json: model: unknown key 'n_head'\. Did you mean 'n_heads'\?"),
        (("process",), "nois", r"process: unknown key 'nois'\. Did you mean 'noise'\?"),
        (("process", "first_token"), "laws", r"process\.first_token: unknown key 'laws'\. Did you mean 'law'\?"),
        (("training",), "learning_rate", "training: unknown key 'learning_rate'"),
        (("training",), "§", r"training: unknown key '§'\. Known: batch, beta2, clip, "),
    ],
)
def test_unknown_keys(folder, place, key, message):
    def edit(config):
        for name in place:
            config = config[name]
        config[key] = 1

    edit_config(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("place", "key"),
    [((), key) for key in ("schema", "model", "training", "seed", "steps", "device", "versions")]
    + [(("model",), "dim"), (("model",), "n_ctx"), (("process",), "dim")],
)
def test_missing_keys(folder, place, key):
    def edit(config):
        for name in place:
            config = config[name]
        del config[key]

    edit_config(folder, edit)
    with pytest.raises(CheckpointError, match=f"'{key}' is missing"):
        load(folder)


HUGE = 10**9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"schema must be 1, got 2\. Is it from another version\?"),
        ({"schema": "1"}, "schema must be 1, got '1'"),
        ({"schema": True}, "schema must be 1, got True"),
        ({"model": []}, "model must be an object, got list"),
        ({"model": None}, "model must be an object, got NoneType"),
        ({"process": "unitary"}, "process must be an object, got str"),
        ({"model.kind": "recurrent"}, "model: kind must be one of 'autoregressive'.*, got 'recurrent'"),
        ({"training": 3}, "training must be an object, got int"),
        ({"versions": {"torch": 2}}, "versions must map names to strings"),
        ({"versions": []}, "versions must map names to strings"),
        ({"versions": {}}, "versions: 'ar-interp' is missing"),
        ({"versions.torch": "<b>"}, "versions must be like 'torch': '2.6.0.cpu', got 'torch': '<b>'"),
        ({"training": {}}, "training: 'batch' is missing"),
        ({"process.first_token": {}}, "first_token: 'law' is missing"),
        ({"model.init_scale": 1e308}, "init_scale must be at most 1e.06"),
        ({"device": 0}, "device must be a string of at most 200 printable letters, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 0.5}, r"seed must be an integer, got 0\.5"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"steps": None}, "steps must be an integer, got None"),
        ({"model.dim": HUGE}, f"model: dim must be at most 4096, got {HUGE}"),
        ({"model.n_heads": HUGE}, f"model: n_heads must be at most 4096, got {HUGE}"),
        ({"model.n_ctx": HUGE}, f"model: n_ctx must be at most 1048576, got {HUGE}"),
        ({"model.n_ctx": 16384}, "model: .* ask for 268,435,480 parameters"),
        ({"model.dim": -4}, "model: dim must be at least 1, got -4"),
        ({"model.dim": "4"}, "model: dim must be an integer, got '4'"),
        ({"model.dim": [4]}, r"model: dim must be an integer, got \[4\]"),
        ({"model.dim": 6}, "process has dim 4 but the model has dim 6; they must agree"),
        ({"model.heads": {}}, "model: heads must be one of"),
        ({"model.dtype": "float16"}, "model: dtype must be one of"),
        ({"model.init_scale": 1e999}, "Infinity is not allowed"),
        ({"model.init_scale": float("nan")}, "NaN is not allowed"),
        ({"process.kind": "haar"}, "process: kind must be one of .*, got 'haar'"),
        ({"process.kind": ["commuting-unitary"]}, "process: kind must be one of .*, got \\['commuting-unitary'\\]"),
        ({"process.dim": HUGE}, f"process: dim must be at most 4096, got {HUGE}"),
        ({"process.noise": -1}, "process: noise must be at least"),
        ({"process.mu": 0}, "process: mu must be greater than"),
        ({"process.mu": "1"}, "process: mu must be a finite number, got '1'"),
        ({"process.first_token": 3}, r"process\.first_token must be an object, got int"),
        ({"process.first_token.law": "one"}, r"process\.first_token: first_token must be one of"),
        ({"process.first_token": {"law": "sparse", "scale": 1.0, "n_nonzero": HUGE}}, "n_nonzero must be at most 4096"),
        (
            {"process.first_token": {"law": "sparse", "scale": 1.0, "n_nonzero": 5}},
            "n_nonzero must be at most dim = 4, got 5",
        ),
        ({"training.lr": 0}, "training: lr must be greater than"),
        ({"training.lr": 10**400}, "an integer of 401 digits is not allowed"),
        ({"training.steps": 1.5}, r"training: steps must be an integer, got 1\.5"),
        ({"training.optimizer": "sgd"}, "training: optimizer must be one of 'gd', 'adam', 'lbfgs', got 'sgd'"),
        ({"training.device": "gpu"}, "training: device must be 'auto' or a torch device, got 'gpu'"),
        ({"training.device": 3.5}, r"training: device must be 'auto' or a torch device, got 3\.5"),
        ({"training.n_seeds": 10**12}, "training: n_seeds must be at most 100000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_values(folder, change, message, without_type_checks):
    def edit(config):
        for path, value in change.items():
            *place, key = path.split(".")
            for name in place:
                config = config[name]
            config[key] = value

    edit_config(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[1, 2]", "must be a JSON object, got list"),
        (b"null", "must be a JSON object, got NoneType"),
        (b'{"schema": NaN}', "NaN is not allowed"),
        (b'{"schema": -Infinity}', "-Infinity is not allowed"),
        (b'{"a":' * 100_000, "is not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "is not valid JSON"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "an integer of 10000 digits is not allowed"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "is larger than 1048576 bytes"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_not_json(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"spoiled/config\.json:? {message}"):
        load(folder)


# ---- model.safetensors


def rewrite(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(A), "tensor 'blocks.0.attn.A' is missing"),
        (lambda t: t.update(zebra=torch.zeros(1)), "tensor 'zebra' is unknown to the config"),
        (lambda t: t.update({A: torch.zeros(4, 3).double()}), r"A must have shape \[3, 4\], got \[4, 3\]"),
        (lambda t: t.update({A: torch.zeros(12).double()}), r"A must have shape \[3, 4\], got \[12\]"),
        (lambda t: t.update({A: t[A].float()}), "A must be F64, got F32"),
        (lambda t: t.update({A: t[A].long()}), "A must be F64, got I64"),
        (lambda t: t[P].view(-1)[-1:].fill_(torch.nan), "P has NaN or infinite entries"),
        (lambda t: t[A].view(-1)[:1].fill_(-torch.inf), "A has NaN or infinite entries"),
    ],
)
def test_wrong_tensors(folder, edit, message):
    rewrite(folder, edit)
    with pytest.raises(CheckpointError, match=rf"spoiled/model\.safetensors: .*{message}"):
        load(folder)


def safetensors_header(shape: list[int], size: int) -> bytes:
    header = json.dumps({A: {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda good: good[: len(good) // 2], id="truncated"),
        pytest.param(lambda good: good[:4], id="header truncated"),
        pytest.param(lambda good: b"", id="empty"),
        pytest.param(lambda good: struct.pack("<Q", 2**62) + good[8:], id="absurd header length"),
        pytest.param(lambda good: safetensors_header([10**9, 10**9], 8 * 10**18), id="absurd shape"),
        pytest.param(lambda good: pickle.dumps(Bomb()), id="pickle"),
    ],
)
def test_what_is_not_safetensors(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"spoiled/model\.safetensors cannot be read"):
        load(folder)


# ---- metrics.jsonl


GOOD = '{"seed": 0, "loss": 1.0}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no final loss"),
        ('{"step": 0, "loss_min": 1, "loss_median": 1, "loss_max": 1}', "holds no final loss"),
        (GOOD + '\n{"seed": 1}', "line 2: 'loss' is missing"),
        (GOOD + '\n{"step": 1, "loss_min": 1, "loss_max": 1}', "line 2: 'loss_median' is missing"),
        ('{"seed": 0, "losss": 1.0}', r"line 1: unknown key 'losss'\. Did you mean 'loss'\?"),
        ('{"seed": 0, "loss": "1.0"}', "line 1: loss must be a finite number, got '1.0'"),
        ('{"seed": 0, "loss": null}', "line 1: loss must be a finite number, got None"),
        ('{"seed": true, "loss": 1.0}', "line 1: seed must be a finite number, got True"),
        ('{"seed": 0, "loss": 1e999}', "line 1: loss must be a finite number, got inf"),
        ('{"seed": 0, "loss": NaN}', "line 1: NaN is not allowed"),
        ('{"seed": 0, "loss": 1' + "0" * 400 + "}", "line 1: an integer of 401 digits is not allowed"),
        (GOOD + "\n\n" + GOOD, "line 2 is not valid JSON"),
        (GOOD + "\n[]", "line 2 must be a JSON object, got list"),
    ],
)
def test_wrong_metrics(folder, lines, message):
    (folder / "metrics.jsonl").write_text(lines)
    with pytest.raises(CheckpointError, match=rf"spoiled/metrics\.jsonl:? {message}"):
        load(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [(GOOD + " " * 300, "is larger than 1049344 bytes"), ("{}", "holds 5000 lines, more than 3 seed")],
)
def test_metrics_that_are_too_large(folder, row, message):
    (folder / "metrics.jsonl").write_text("\n".join([row] * 5000))
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl {message}"):
        load(folder)
