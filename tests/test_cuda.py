"""A model and contexts on a GPU: everything runs there and says what it says on the CPU.

Skipped without CUDA; `test_moods.py` asks part of it of a second device that every machine has.
"""

import datetime
import math
from dataclasses import replace

import pytest
import torch
from everything import MODELS, contexts_of, differences, judgements, model_of, outcome, probes

import ar_interp as ari
from ar_interp import records
from ar_interp._shipped import available
from ar_interp.recipes import RECIPES
from ar_interp.report import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
CLOSE = 1e-6  # of the largest number: sums in another order, through inverses
ROUNDING = 1e-12  # of numbers that are zero but for it
RETRAINED = (  # one of each kind of model, task, objective and descent
    "diagonal-unitary-h5",
    "diagonal-unitary-h10-sampled",
    "diagonal-orthogonal-h8",
    "positional-mu50",
    "augmented-unitary",
    "augmented-unitary-full",
    "augmented-haar-l2-keys",
    "plain-haar-h5",
    "initial-sparse",
    "figure5-l2",
    "figure7-h5",
    "emergence-gaussian",
    "emergence-gaussian-sampled",
    "emergence-random-all",
    "emergence-reflected",
    "noisy-augmented-unitary",
    "noisy-haar-l2",
    "noisy-haar-softmax",
    "noisy-orthogonal-h5",
    "regression-high",
    "regression-high-t64",
    "regression-haar",
    "regression-squares",
    "regression-smooth-softmax",
    "chain-counting-q3",
    "chain-noisy-xor-k2",
    "chain-parity-joint",
    "chain-permutation",
    "chain-products-none",
    "chain-text-k1",
    "chain-text-k8",
)


@pytest.mark.parametrize("kind", MODELS)
def test_probes_give_what_they_give_on_the_cpu(kind):
    """The samples of `outside_errors` and of edits are drawn where the model is: another generator, other numbers."""
    a, b = contexts_of(kind)
    expected = {name: outcome(call) for name, call in probes(model_of(kind), a, b).items()}
    found = {name: outcome(call) for name, call in probes(model_of(kind, "cuda"), a.to("cuda"), b.to("cuda")).items()}
    drawn = {name for name in found if name == "outside_errors" or name.startswith(("edit ", "function_deviation"))}
    apart = [
        line
        for name in found.keys() - drawn
        for line in differences(found[name], expected[name], CLOSE, name, floor=ROUNDING)
        if "error_similarity" not in line  # of errors that are rounding with those of an estimator: any number
    ]
    assert not apart
    assert all(type(found[name]) is type(expected[name]) for name in drawn)


@pytest.mark.parametrize("kind", MODELS)
def test_verify_assertions_and_figures_run_there(kind):
    """On other samples, so that what is compared is the kind of the answer and which claims there are."""
    found, expected = ({n: outcome(c) for n, c in judgements(model_of(kind, d)).items()} for d in ("cuda", "cpu"))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert type(value) is type(expected[name]), (name, value, expected[name])
        if isinstance(value, str):
            assert value[:40] == expected[name][:40], name
        if name == "verify" and isinstance(value, list):
            assert [claim["name"] for claim in value] == [claim["name"] for claim in expected[name]]


def test_contexts_on_the_cpu_are_brought_to_the_model():
    model, (a, _) = model_of("augmented", "cuda"), contexts_of("augmented")
    assert ari.recover_context(model, a).estimate.device.type == "cuda"


@pytest.mark.parametrize("name", available())
def test_shipped_checkpoints_hold_there_what_they_hold_here(name):
    """On other contexts, which its generators draw: what is decided barely may be undecided, and no more."""
    recorded = records.read(ari.load(name))
    here = {row["name"]: row["verdict"] for row in recorded.rows}
    there = {claim.name: claim.verdict for claim in ari.verify(ari.load(name, device="cuda"), seed=recorded.seed)}
    assert there.keys() == here.keys()
    apart = {claim: (here[claim], there[claim]) for claim in here if here[claim] != there[claim]}
    assert not [claim for claim, verdicts in apart.items() if set(verdicts) == {"holds", "fails"}], apart


def test_the_report_is_made_there():
    names = ["diagonal-orthogonal-h5", "plain-haar-h5"]
    page = build(names, date=datetime.date(2026, 1, 1), device="cuda").to_html()
    assert all(name in page for name in names)


def test_a_run_moves_between_devices():
    run = ari.load("positional-mu50").to("cuda")
    assert {p.device.type for p in run.model.parameters()} == {"cuda"}
    assert {p.device.type for model in run.models_along.values() for p in model.parameters()} == {"cuda"}
    back = run.to("cpu")
    assert all(torch.equal(W, ari.load("positional-mu50").parameters[name]) for name, W in back.parameters.items())


def test_training_there_leaves_a_model_that_can_be_verified():
    config, process = MODELS["augmented"]
    training = ari.TrainConfig(objective="sampled", steps=20, batch=16, device="cuda")
    run = ari.train(config, process, training, progress=False)
    assert len(ari.verify(run.to("cuda"), seed=0, n=64)) > 0


@pytest.mark.parametrize("name", RETRAINED)
def test_recipes_of_every_study_train_there(name):
    recipe = RECIPES[name]
    few = {"steps": 3, "warmup": 0, "n_seeds": min(recipe.training.n_seeds, 2)}
    run = ari.train(recipe.config, recipe.process, replace(recipe.training, device="cuda", **few), progress=False)
    assert run.members["loss"].map(math.isfinite).all()
    assert len(ari.verify(run.to("cuda"), seed=0, n=64)) > 0
