"""Sweeps: every training of a grid once, and the same however it is cut, killed and shared between workers."""

import errno
import os
import signal
import sys
import tomllib
from contextlib import nullcontext
from multiprocessing import active_children
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import check_titles, plain
from scipy.stats import binomtest

import ar_interp as ari
from ar_interp import _writing, cli
from ar_interp._writing import claimed
from ar_interp.setting import setting_of
from ar_interp.sweeps import cluster, parts, shards
from ar_interp.sweeps import run as sweeping
from ar_interp.sweeps.cluster import _check_versions
from ar_interp.sweeps.columns import TrappedLevel
from ar_interp.sweeps.plan import MAX_BYTES, read_plan
from ar_interp.theory import trapped_levels

TOML = """
model = "diagonal"
process = "commuting-orthogonal"
seeds = 5
shard = 2
[grid]
dim = [4]
n_heads = [1, 3]
n_ctx = [5]
init_scale = [1, 0.5]
[training]
lr = 1e-3
steps = 30
seed = 7
[measure]
columns = ["kappa", "ratio", "trapped_level"]
"""
PLAN = tomllib.loads(TOML)
SMALL = {
    "model": "diagonal",
    "process": "commuting-unitary",
    "seeds": 2,
    "shard": 1,
    "grid": {"dim": [2], "n_heads": [1, 2], "n_ctx": [3]},
    "training": {"steps": 3},
}


def rows_of(source, folder) -> pd.DataFrame:
    return in_order(pd.DataFrame(ari.sweep(source, folder, progress=False)))


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """All that does not depend on the machine, in one order."""
    found = found.drop(columns=["seconds", "device"])
    return found.sort_values(list(found)[: list(found).index("seed") + 1], ignore_index=True)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The shards that were trained."""
    texts: list[str] = []

    def trained(text: str) -> shards.Table:
        texts.append(text)
        return shards.trained(text)

    monkeypatch.setattr(sweeping, "trained", trained)
    return texts


def test_rows_are_those_of_single_trainings_and_come_once(tmp_path, counted):
    file = tmp_path / "sweep.toml"
    file.write_text(TOML)
    found = rows_of(file, tmp_path / "out")
    assert (len(counted), len(found)) == (4 * 3, 4 * 5)
    assert not found.duplicated(["n_heads", "init_scale", "seed"]).any()
    for row in found.iloc[[0, 7, 19]].to_dict("records"):
        config = ari.ModelConfig.diagonal(dim=4, n_heads=row["n_heads"], n_ctx=5, init_scale=row["init_scale"])
        training = ari.TrainConfig(lr=1e-3, steps=30, seed=row["seed"], device="cpu")
        alone = ari.train(config, ari.CommutingOrthogonal(4), training, progress=False)
        positions = ari.positional_structure(alone.model)
        assert row["loss"] == alone.members["loss"].iloc[0]
        assert row["minimum"] == max(4 - 2 * row["n_heads"], 0)
        assert (row["kappa"], row["ratio"]) == pytest.approx((positions.kappa, positions.ratio), rel=1e-12)

    pd.testing.assert_frame_equal(rows_of(file, tmp_path / "out"), found, check_exact=True)
    assert len(counted) == 4 * 3
    whole = rows_of({**PLAN, "shard": 5}, tmp_path / "whole")
    pd.testing.assert_frame_equal(whole, found, check_exact=True)
    assert len(pd.read_parquet(tmp_path / "out")) == len(found)


def test_an_iterator_that_is_dropped_leaves_what_is_done(tmp_path, counted):
    rows = ari.sweep(SMALL, tmp_path, progress=False)
    next(rows)
    rows.close()
    assert (len(counted), len(list(tmp_path.glob("*.parquet")))) == (1, 1)
    assert len(rows_of(SMALL, tmp_path)) == 4
    assert len(counted) == 4


def test_damaged_parts_are_set_aside_and_done_again(tmp_path, counted):
    def flip(content: bytes) -> bytes:
        return content[:30] + bytes([content[30] ^ 1]) + content[31:]

    found = rows_of(SMALL, tmp_path)
    paths = [parts.path_of(tmp_path, shard) for shard in read_plan(SMALL).shards]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, (flip(whole[0]), whole[1][:-1], b"", whole[2]), strict=True):
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="It is set aside, and its shard done again") as said:
        again = rows_of(SMALL, tmp_path)
    assert "holds another shard than its name says" in str(said[-1].message)
    assert (len(said), len(counted)) == (4, 8)
    pd.testing.assert_frame_equal(again, found, check_exact=True)
    assert {path.name for path in tmp_path.glob(".*")} == {f".{path.stem}.damaged" for path in paths}
    assert len(pd.read_parquet(tmp_path)) == 4


def test_two_workers_of_which_one_is_killed_give_the_same_rows_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # workers import the one that is there
    alone = rows_of(PLAN, tmp_path / "alone")
    rows = ari.sweep(PLAN, tmp_path / "two", jobs=2, progress=False)
    found = [next(rows)]
    workers = active_children()
    assert len(workers) == 2
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    found += rows
    assert not active_children()
    pd.testing.assert_frame_equal(in_order(pd.DataFrame(found)), alone, check_exact=True)
    assert len(pd.read_parquet(tmp_path / "two")) == len(alone)


def test_workers_of_another_version_are_refused():
    with pytest.raises(ValueError, match="worker tcp://there has torch 1, the sweep was started with 2: rows"):
        _check_versions("tcp://there", {"ar_interp": "0", "torch": "1"}, {"ar_interp": "0", "torch": "2"})


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch, counted):
    expected, now = rows_of(SMALL, tmp_path / "a"), iter(range(10**9, 0, -3600))
    for clock in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(clock, lambda: float(next(now)))
    rows = ari.sweep(SMALL, tmp_path / "b")
    next(rows)
    rows.close()
    (part,) = (tmp_path / "b").glob("*.parquet")
    os.utime(part, (4e9, 4e9))
    pd.testing.assert_frame_equal(in_order(pd.DataFrame(ari.sweep(SMALL, tmp_path / "b"))), expected, check_exact=True)
    assert len(counted) == 8


@pytest.mark.parametrize(("name", "card"), [("gpu-2", 2), ("7", 3), ("tcp://a:x", 0)])
def test_workers_take_a_card_each(name, card, monkeypatch):
    """Imitated: four cards, and a training that says on which it would run."""
    distributed = pytest.importorskip("distributed")

    def train(config, process, training, progress):
        raise RuntimeError(f"on {training.device}")

    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name=name, address="tcp://there"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(cluster, "_settle", lambda: None)
    monkeypatch.setattr(shards, "train", train)
    monkeypatch.setattr(cluster.tqdm, "set_lock", lambda lock: None)
    with pytest.raises(RuntimeError, match=f"on cuda:{card}"):
        cluster._trained(read_plan(SMALL).shards[0].text, cluster.versions())
    on_cpu = {**SMALL, "training": {"steps": 3, "device": "cpu"}}
    with pytest.raises(RuntimeError, match="on cpu"):
        cluster._trained(read_plan(on_cpu).shards[0].text, cluster.versions())


def test_workers_that_die_before_anything_is_done_are_replaced_once(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    lost = [1]

    def of_client(client, shards_left, *, waits):
        lost[0] -= 1
        if lost[0] >= 0:
            raise cluster._LostError
        for shard in shards_left:
            yield shards.Outcome(shard, shards.trained(shard.text))

    for name in ("LocalCluster", "Client"):
        monkeypatch.setattr(distributed, name, lambda *_, **__: nullcontext(SimpleNamespace(scheduler_address="")))
    monkeypatch.setattr(cluster, "_of_client", of_client)
    assert len(list(ari.sweep(SMALL, tmp_path / "a", jobs=2, progress=False))) == 4
    lost[0] = 2
    with pytest.raises(ConnectionError, match=r"all workers died\. What was done is kept, 4 shards are left"):
        list(ari.sweep(SMALL, tmp_path / "b", jobs=2, progress=False))


def test_without_dask_more_than_one_worker_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"jobs > 1 needs the extra `cluster`: pip install 'ar-interp\[cluster\]'"):
        next(ari.sweep(SMALL, tmp_path, jobs=2, progress=False))


def test_a_shard_that_fails_is_reported_at_the_end_and_the_rest_is_done(tmp_path, monkeypatch, capsys):
    def fail(text: str) -> shards.Table:
        if '"n_heads":2' in text and '"seed":1' in text:
            raise RuntimeError("no luck")
        return shards.trained(text)

    file = tmp_path / "sweep.toml"
    file.write_text(TOML.replace("[1, 3]", "[1, 2]").replace("shard = 2", "shard = 3").replace("seed = 7", "seed = 1"))
    command = ["sweep", str(file), "-o", str(tmp_path / "out"), "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "trained", fail)
        assert cli.main(command) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"dim = 4, n_heads = 2, n_ctx = 5, init_scale = {scale}, seeds 1..3: RuntimeError: no luck"
        for scale in (1.0, 0.5)
    ]
    assert "14 trainings" in printed.out
    assert "2 shards FAILED, the same command tries them again" in printed.out
    assert cli.main(command) == 0
    assert "20 trainings, " in capsys.readouterr().out
    assert cli.main([*command, "--dry-run"]) == 0
    assert "4 points, 20 trainings in 8 shards; 0 trainings are left" in capsys.readouterr().out


def test_members_that_diverge_are_rows_without_a_loss_however_they_are_cut(tmp_path):
    plan = {**SMALL, "seeds": 4, "training": {"lr": 0.4, "steps": 60}}
    plan["grid"] = {"dim": [2], "n_heads": [1], "n_ctx": [3], "init_scale": [0.7]}
    plan["measure"] = {"columns": ["ratio"]}
    found = rows_of(plan, tmp_path / "single")
    assert 0 < found["loss"].isna().sum() < 4
    assert (found["ratio"].isna() == found["loss"].isna()).all()
    pd.testing.assert_frame_equal(rows_of({**plan, "shard": 4}, tmp_path / "whole"), found, check_exact=True)


def test_two_sweeps_into_one_folder_exclude_each_other_and_a_full_one_is_only_read(tmp_path, capsys, monkeypatch):
    file = tmp_path / "sweep.toml"
    file.write_text(TOML)
    with claimed(tmp_path / "out"):
        assert cli.main(["sweep", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "is at work in it" in capsys.readouterr().err
    found = rows_of(SMALL, tmp_path / "full")
    with claimed(tmp_path / "full"):
        pd.testing.assert_frame_equal(rows_of(SMALL, tmp_path / "full"), found)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_ends_the_sweep_and_leaves_what_is_done(tmp_path, monkeypatch, code):
    left = [2]

    def write(descriptor: int, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, "no more")
        written(descriptor, data)

    written = _writing._write
    with monkeypatch.context() as patch:
        patch.setattr(_writing, "_write", write)
        with pytest.raises(OSError, match="no more") as raised:
            list(ari.sweep(SMALL, tmp_path, progress=False))
    assert raised.value.errno == code
    assert str(raised.value.filename).startswith(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    assert len(rows_of(SMALL, tmp_path)) == 4


def test_trapped_levels_are_counted_by_their_minus_blocks():
    config, process = ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=5), ari.CommutingOrthogonal(4)
    setting, run = setting_of(config, process), ari.train(config, process, ari.TrainConfig(steps=1), progress=False)
    levels = trapped_levels(dim=4, n_heads=2, max_length=5)
    losses = np.array([*(levels + 1e-3), levels[1] + 0.05, np.nan])
    assert TrappedLevel.values(setting, run, losses) == [0, 1, 2, None, None]


def test_gradient_steps_and_a_column_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("ar_interp.probes.steps.N_BOOTSTRAP", 2)
    monkeypatch.setattr("ar_interp.probes.steps.COUNTED", (1, 2, 3))
    monkeypatch.setattr("ar_interp.sweeps.columns.N_CONTEXTS", 100)

    class LargestWeight(ari.Column):
        kind = "largest weight, a test's"

        @classmethod
        def values(cls, setting, run, losses):
            return np.stack([w.abs().flatten(1).amax(1) for w in run.ensemble.values()]).max(0).tolist()

    plan = {
        "model": "augmented",
        "process": "haar-orthogonal",
        "seeds": 2,
        "grid": {"dim": [2], "n_ctx": [4], "heads": ["block-scalar"]},
        "training": {"objective": "sampled", "optimizer": "adam", "lr": 0.01, "steps": 20, "batch": 8},
        "measure": {"columns": ["steps_equivalent", LargestWeight.kind]},
    }
    found = rows_of(plan, tmp_path)
    assert found["minimum"].isna().all() or (found["minimum"] > 0).all()
    assert found["steps_equivalent"].between(0, 2).all()
    assert (found[LargestWeight.kind] > 0).all()


BAD = {
    "grid.n_head = [1]": r"grid: unknown key 'n_head'\. Did you mean 'n_heads'",
    "grid.n_heads = 3": r"grid\.n_heads must be a list of 1 to 1024 values, got 3: write n_heads = \[\.\.\.\]",
    "grid.n_heads = []": r"grid\.n_heads must be a list of 1 to 1024 values",
    "grid.n_heads = [1, 1]": r"grid\.n_heads must hold different values of one type, got \[1, 1\]",
    "grid.n_heads = [1, 'a']": r"grid\.n_heads must hold different values of one type",
    "grid.n_heads = [[1]]": r"n_heads must be a number, a text, true or false, got \[1\]",
    "grid.n_heads = [0]": r"at dim = 4, n_heads = 0, n_ctx = 5, init_scale = 1\.0: n_heads must be at least 1, got 0",
    "grid.dim = [5]": r"dim = 5, n_heads = 1, .*dim must be even",
    "grid.init_scale = [nan]": "init_scale must be a finite number, got nan",
    "grid.lr = [1e-2]": r"'lr' is in \[training\] too; leave it in one of them",
    "grid.lrs = [1e-2]": r"'lrs' cannot be set here: let `lr` be an axis of the grid",
    "training.stop_below = 0.1": r"training: 'stop_below' cannot be set here: it waits for all seeds of a shard",
    "training.objective = 'text'": "objective must be one of 'population', 'sampled', got 'text'",
    "training.steps = 0": "steps must be at least 1, got 0",
    "model = 'diagonl'": "model must be one of 'diagonal', .*, got 'diagonl'",
    "process = 'none'": "process must be one of .*, got 'none'",
    "process = 'haar-orthogonal'": "process must be CommutingUnitary, CommutingOrthogonal or another",
    "seeds = 0": "seeds must be at least 1, got 0",
    "seeds = 1000000": r"4 points of the grid with 1,000,000 seeds are 2,000,000 shards of 2 seeds, at most 100,000",
    "measure.columns = ['kapa']": "measure.columns must be one of 'kappa', .*, got 'kapa'",
    "measure.columns = ['steps_equivalent']": "'steps_equivalent' has no value at any point: number of gradient steps",
    "measure.columns = 'kappa'": "measure.columns must be a list of names, got 'kappa'",
    "grid = [{dim = [4], n_heads = [1], n_ctx = [5]}, {dim = [4], n_heads = [1], n_ctx = [5]}]": "stands in two of its",
    "grid = [{dim = [4], n_heads = [1], n_ctx = [5]}, {dim = [4], n_heads = [1], n_ctx = [6], mu = [1]}]": "same axes",
    "grid = []": "grid is empty",
    "grid = 3": "grid must be a table, got 3",
    "colour = 'red'": r"unknown key 'colour'\. Known: grid, measure, model",
}


@pytest.mark.parametrize("line", BAD)
def test_what_a_file_asks_for_is_checked_before_anything_is_trained(line, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "trained", None)
    plan = tomllib.loads(TOML)
    for key, value in tomllib.loads(line).items():
        plan[key] = {**plan[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=BAD[line]) as raised:
        ari.sweep(plan, tmp_path / "out")
    assert len(str(raised.value)) <= 300
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model = ", "is not valid TOML: Invalid value"),
        ("x = " + "[" * 5000, "is not valid TOML"),
        ("#" * MAX_BYTES + "\n", "is larger than 65536 bytes"),
        (b"\xff", "is not UTF-8 text"),
        (TOML.replace("seeds = 5", ""), "'seeds' is missing"),
        (TOML.replace("n_ctx = [5]", ""), "'n_ctx' is missing"),
    ],
)
def test_files_from_anybody_are_refused_in_a_line(content, said, tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["sweep", str(file), "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_arguments_that_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="jobs and scheduler exclude each other"):
        ari.sweep(SMALL, tmp_path, jobs=2, scheduler="tcp://127.0.0.1:1")


def test_a_landscape_counts_the_seeds_at_the_minimum_beside_independent_heads():
    losses = {1: [2.0, 2.005, 2.5, np.nan], 2: [0.0, 0.4, 0.4, 0.4], 3: [0.0, 0.0, 0.0, 0.3], 4: [0.0] * 4}
    rows = pd.DataFrame(
        {"dim": 4, "n_heads": h, "init_scale": 0.1, "seed": seed, "loss": loss, "ratio": 5 * loss}
        for h, each in losses.items()
        for seed, loss in enumerate(each)
    ).assign(minimum=[2.0] * 4 + [0.0] * 12)
    found = ari.landscape(rows)
    assert found["share"].tolist() == [0.5, 0.25, 0.75, 1.0]
    assert found["independent"].tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert found["runaway"].tolist() == [0.75, 0.75, 0.25, 0.0]
    interval = binomtest(2, 4).proportion_ci(method="wilson")
    assert (found["low"][0], found["high"][0]) == (interval.low, interval.high)
    assert found["independent_high"][1] == interval.high**2
    figures = {
        name: getattr(ari.figures, name)(found) for name in ("share_by_heads", "runaway_by_heads", "share_by_scale")
    }
    check_titles(figures)
    titles = {name: plain(figure.layout.title.text) for name, figure in figures.items()}
    assert "more all seeds reach the minimum, with fewer at least 0.25 of the seeds" in titles["share_by_heads"]
    assert "up to 0.25 of the seeds run away, elsewhere at most 0.75" in titles["runaway_by_heads"]
    curve, independent = figures["share_by_heads"].data[:2]
    assert (curve.x, curve.y) == ((0.25, 0.5, 0.75, 1.0), (0.5, 0.25, 0.75, 1.0))
    assert independent.y == (0.5, 0.25)
    with pytest.raises(ValueError, match=r"rows must be those of ari\.sweep, they have no column 'loss'"):
        ari.landscape(pd.DataFrame({"seed": [1]}))
    with pytest.raises(ValueError, match="rows have no minimum"):
        ari.landscape(rows.assign(minimum=None))
