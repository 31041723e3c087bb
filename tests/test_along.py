"""Snapshots along training: when they are taken, that they change nothing, how they are saved, what is read of them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import ar_interp as ari
from ar_interp.checkpoints import SNAPSHOTS, CheckpointError
from ar_interp.claims import subject_of
from ar_interp.studies import descent, unfinished_descent

PROCESS, CONFIG = ari.CommutingUnitary(3), ari.ModelConfig.diagonal(dim=3, n_heads=3, n_ctx=4)
FILTER = ari.ModelConfig.positional_only(n_ctx=4)


def trained(steps: int = 300, **options):
    training = ari.TrainConfig(**({"optimizer": "gd", "lr": 5e-2, "steps": steps, "device": "cpu"} | options))
    return ari.train(CONFIG, PROCESS, training, progress=False)


@pytest.fixture(scope="module")
def run():
    return trained()


def test_they_are_taken_at_steps_that_double_and_are_what_a_shorter_training_ends_with(run):
    assert list(run.snapshots) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    for step in (1, 2, 16, 128):
        shorter = trained(step)
        for name, tensor in shorter.parameters.items():
            assert torch.equal(run.snapshots[step][name], tensor)
    initial = CONFIG.initial_parameters(seed=0)
    assert all(torch.equal(run.snapshots[0][name], initial[name]) for name in initial)


def test_they_are_the_kept_members_and_end_before_the_last_step():
    several = trained(300, n_seeds=3, stop_below=0.5)
    assert several.steps < 300
    assert max(several.snapshots) < several.steps
    initial = CONFIG.initial_parameters(seed=several.seed)
    assert all(torch.equal(several.snapshots[0][name], initial[name]) for name in initial)


def test_other_optimizers_have_none():
    assert trained(5, optimizer="lbfgs").snapshots == {}
    assert trained(5, optimizer="lbfgs").models_along == {}


def test_they_come_back_from_a_folder(run, tmp_path):
    loaded = ari.load(run.save(tmp_path / "it"))
    assert list(loaded.snapshots) == list(run.snapshots)
    for step, parameters in run.snapshots.items():
        assert all(torch.equal(loaded.snapshots[step][name], tensor) for name, tensor in parameters.items())
    assert list(loaded.models_along) == [*run.snapshots, run.steps]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x.pop("2/blocks.0.attn.A") * 0, "'2/blocks.0.attn.A' is missing"),
        (lambda x: x.update({"999/blocks.0.attn.A": x["2/blocks.0.attn.A"] + 0}), "names start with a step, 0 to 300"),
        (lambda x: x.update({"../blocks.0.attn.A": x["2/blocks.0.attn.A"] + 0}), "names start with a step"),
        (lambda x: x.update({"2/blocks.0.attn.A": torch.ones(2, 2).double()}), "must have shape"),
        (lambda x: x["4/blocks.0.attn.A"].fill_(torch.nan), "NaN or infinite"),
        (lambda x: x.update({f"{k}/x": torch.ones(1) for k in range(99)}), "at most 64 steps"),
    ],
    ids=["missing", "late", "no step", "shape", "nan", "many"],
)
def test_what_is_wrong_with_the_file_is_said(change, fault, run, tmp_path):
    folder = run.save(tmp_path / "it")
    tensors = load_file(folder / SNAPSHOTS)
    change(tensors)
    save_file(tensors, folder / SNAPSHOTS)
    with pytest.raises(CheckpointError, match=fault):
        ari.load(folder)


def test_what_is_no_such_file_is_refused(run, tmp_path):
    folder = run.save(tmp_path / "it")
    (folder / SNAPSHOTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=SNAPSHOTS):
        ari.load(folder)


def test_balance_is_conserved_while_keys_form(run):
    along = ari.structure_along(run.models_along, run.process).by_step
    assert along["step"].tolist() == [*run.snapshots, run.steps]
    assert along["conserved"].max() < 0.05 < along["formed"].max()
    assert along["projector"].iloc[-1] < 1e-6 < along["projector"].iloc[1]
    claims = {claim.name: claim for claim in descent.STUDY.claims(subject_of(run))}
    assert claims["descent/conserved"].verdict == "holds"


def test_one_model_is_no_training(run):
    with pytest.raises(ValueError, match="two steps or more, got 1"):
        ari.structure_along({0: run.model}, run.process)


def test_the_filter_has_its_steps_at_every_snapshot():
    training = ari.TrainConfig(optimizer="gd", lr=0.1, steps=40, device="cpu")
    found = ari.train(FILTER, ari.CommutingUnitary(1, mu=50.0), training, progress=False)
    claims = {claim.name: claim for claim in unfinished_descent.STUDY.claims(subject_of(found, n=64))}
    assert claims["filter/path"].verdict == "holds"
