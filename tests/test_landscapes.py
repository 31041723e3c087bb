"""Landscapes: sweeps that are kept hold what their files ask for, and what they show is measured of their rows."""

import pickle
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oracles import check_titles
from scipy.stats import binom

import ar_interp as ari
from ar_interp import cli
from ar_interp.claims.verdicts import FAILS, HOLDS
from ar_interp.studies import landscapes
from ar_interp.studies.landscapes import LANDSCAPES, Landscape
from ar_interp.sweeps import kept
from ar_interp.sweeps.kept import read_rows, write_rows
from ar_interp.sweeps.landscape import medians

ROOT = Path(__file__).parents[1]
TOML = """
model = "diagonal"
process = "commuting-orthogonal"
seeds = 8
shard = 5
[grid]
dim = [2]
n_heads = [1, 2]
n_ctx = [3]
[training]
lr = 1e-2
steps = 3
device = "cpu"
[measure]
columns = ["kappa", "trapped_level"]
"""


@cache
def opened(name):
    return LANDSCAPES[name].open()


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_shipped_rows_show_what_is_claimed(name):
    found = list(opened(name).shown)
    assert found
    assert {claim.verdict for claim in found} <= {"holds", "undecided"}
    page = (ROOT / "docs" / "landscapes.md").read_text("utf-8")
    assert opened(name).fingerprint in page
    assert all(f"| {claim.statement} |" in page for claim in found)
    figures = LANDSCAPES[name].figures(opened(name).counted)
    check_titles(figures)
    drawn = {path.name for path in (ROOT / "docs" / "landscapes").glob(f"{name}-*.svg")}
    assert drawn == {f"{name}-{figure}.svg" for figure in figures}
    assert pickle.loads(pickle.dumps(opened(name))).fingerprint == opened(name).fingerprint  # for another process


def counting(name, change):
    """The claims of a landscape once some of its rows are changed, by name."""
    landscape, rows = LANDSCAPES[name], opened(name).rows.copy()
    change(rows)
    return {claim.name: claim.verdict for claim in landscape.claims(rows, landscape.count(rows))}


def test_claims_fail_of_rows_that_show_something_else():
    def trapped(rows):
        rows.loc[(rows["n_heads"] == rows["dim"]) & (rows["seed"] < 50), "loss"] += 1

    assert {f"certain/d = {dim}" for dim in (4, 6, 8, 10, 12)} == {
        name for name, verdict in counting("pairs", trapped).items() if verdict == FAILS
    }
    free = counting("pairs", lambda rows: rows.__setitem__("loss", rows["minimum"]))
    assert {free[f"certain/d = {dim}"] for dim in (4, 8, 12)} == {"void"}
    still = counting("pairs", lambda rows: rows.__setitem__("ratio", 0.0))
    assert still["runaway/d = 4"] == FAILS
    assert set(counting("independent", lambda rows: rows.__setitem__("loss", rows["loss"] + 1)).values()) == {FAILS}
    same = counting("initial-scale", lambda rows: rows.__setitem__("loss", rows["minimum"]))
    assert set(same.values()) == {FAILS}
    early = counting("emergence", lambda rows: rows.__setitem__("half_time", 100.0))
    assert set(early.values()) == {FAILS}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A small landscape in a folder."""
    file = tmp_path / "own.toml"
    file.write_text(TOML)
    assert len(list(ari.sweep(file, tmp_path / "parts", progress=False))) == 16
    write_rows(file, tmp_path / "parts", file.with_suffix(".parquet"))
    found = replace(LANDSCAPES["pairs"], name="own", sweeps=("own",), claims=lambda rows, counted: iter(()))
    monkeypatch.setattr(landscapes, "LANDSCAPES", {"own": found})
    return found


def test_rows_are_those_of_the_sweep_and_some_are_trained_anew(own: Landscape, tmp_path):
    found = own.open(tmp_path)
    parts = pd.read_parquet(tmp_path / "parts").sort_values(["n_heads", "seed"], ignore_index=True)
    pd.testing.assert_frame_equal(found.rows, parts, check_exact=True, check_dtype=False)
    for seed in (0, 1):
        (claim,) = found.verify(seed=seed)
        assert (claim.verdict, claim.measured) == (HOLDS, 0)
    sweep = found.sweeps[0]
    made, rows, _ = sweep.again(1)
    assert made["seed"].tolist() == rows["seed"].tolist()
    changed = sweep.table.assign(loss=sweep.table["loss"] + 1e-15)
    assert replace(sweep, table=changed).fingerprint != sweep.fingerprint
    elsewhere = sweep.table.assign(seconds=1.0, device="another")
    assert replace(sweep, table=elsewhere).fingerprint == sweep.fingerprint


def test_rows_that_were_made_up_fail(own, tmp_path, capsys):
    table = pq.read_table(tmp_path / "own.parquet")
    losses = pa.array(np.linspace(0.5, 0.6, 16))
    command = ["landscapes", "own", "--folder", str(tmp_path), "--seed", "0"]
    assert cli.main([*command, "--json", str(tmp_path / "claims.json")]) == 0
    assert "own: 16 trainings, rows " in capsys.readouterr().out
    assert ari.Claims.from_json(tmp_path / "claims.json")["rows/own"].verdict == HOLDS
    pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", losses), tmp_path / "own.parquet")
    assert cli.main(command) == 1
    assert re.search(r"fails .*4 seeds drawn at random, trained anew at dim = 2, n_heads = \d", capsys.readouterr().out)


def with_column(name, values):
    def change(table):
        return table.set_column(table.schema.get_field_index(name), name, values)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_column("loss", pa.array([None] * 16, pa.float64())), r"own\.parquet lacks losses"),
        (with_column("device", pa.array(["x" * 10**6] * 16)), r"own\.parquet: 'device' holds texts longer than 200"),
        (
            with_column("device", pa.array([f"{k:x}" * 5 * 10**6 for k in range(16)])),
            r"own\.parquet is larger than 67108864 bytes once it",
        ),
        (
            with_column("seed", pa.array(range(16))),
            r"holds other trainings than those asked for: see 'seed'",
        ),
        (lambda table: table.slice(1), r"own\.parquet holds 15 rows, and 16 are asked for"),
        (lambda table: table.drop_columns("kappa"), r"own\.parquet has other columns than what was asked for"),
        (None, r"own\.parquet is damaged"),
    ],
)
def test_files_from_anybody_are_checked(change, said, own, tmp_path):
    path = tmp_path / "own.parquet"
    table = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-9]) if change is None else pq.write_table(
        change(table), path, compression="zstd"
    )
    with pytest.raises(ValueError, match=said):
        own.open(tmp_path)


def test_more_rows_than_can_be_are_not_read(own, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MAX_ROWS", 15)
    with pytest.raises(ValueError, match=r"own\.toml asks for 16 rows, at most 15 are read"):
        read_rows(tmp_path / "own.toml")


def test_medians_have_intervals_that_hold_for_any_law():
    rows = pd.DataFrame({"n_layers": k, "seed": seed, "x": k * seed} for k in (1, 2) for seed in range(16))
    rows.loc[15, "x"] = np.nan  # not reached
    found = medians(rows, "x")
    assert found["median"].tolist() == [7.5, 15.0]
    low, high = found["low"][0], found["high"][0]
    assert binom.cdf(low, 16, 0.5) <= 0.025 < binom.cdf(low + 1, 16, 0.5)
    assert high == 15 - low
    with pytest.raises(
        ValueError, match=r"rows must be those of ari\.sweep with the column 'y', got n_layers, seed, x"
    ):
        medians(rows, "y")
    with pytest.raises(ValueError, match="six seeds or more at every point, got 5"):
        medians(rows[rows["seed"] < 5], "x")


def test_half_times_are_those_of_the_product(tmp_path):
    """With one coordinate a b is half of its end where a quarter of the excess loss is left."""
    plan = {
        "model": "augmented",
        "process": "commuting-unitary",
        "seeds": 1,
        "grid": {"dim": [1], "n_ctx": [5], "heads": ["merged"], "attention": ["linear/pairs"], "init_scale": [0.01]},
        "training": {"lr": 8e-4, "steps": 400, "device": "cpu"},
        "measure": {"columns": ["half_time"]},
    }
    plan["grid"]["first_token"] = ["gaussian"]
    (row,) = ari.sweep(plan, tmp_path, progress=False)
    config = ari.ModelConfig.augmented(dim=1, n_ctx=5, heads="merged", attention="linear/pairs", init_scale=0.01)
    training = ari.TrainConfig(lr=8e-4, steps=400, device="cpu")
    run = ari.train(config, ari.CommutingUnitary(1, first_token="gaussian"), training, progress=False)
    products = (run.history["a"] * run.history["b"]).to_numpy()
    end = ari.theory.initial_token_product(ari.theory.first_token_moments("gaussian", dim=1), max_length=6)
    passed = int((products >= end / 2).argmax())
    assert passed - 1 < row["half_time"] <= passed
