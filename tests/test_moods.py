"""Moods of torch and a second device change no result; `test_cuda.py` asks the same of a GPU."""

import ast
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from everything import contexts_of, differences, judgements, model_of, neighbours, outcome, probes
from other_device import BROUGHT, READ, second_device
from zoo import known_function

import ar_interp as ari
from ar_interp import theory
from ar_interp.recipes import RECIPES
from ar_interp.training.descent import Descent

LEFT_OUT = {
    "diagonal, pairs": (),
    "plain": ("identify_algorithm", "equivalent_steps_of", "data_efficiency", "outside_errors", "probe_activations"),
}  # what takes long is asked once
KINDS = tuple(LEFT_OUT)
OF_STUDIES = (
    "emergence-random-all", "regression-haar", "chain-counting-q3", "chain-permutation", "chain-text-k1",
)  # fmt: skip
WITH_FUNCTION = ("regression-haar", "chain-counting-q3")  # compared with their weights; KINDS are, too
DESCENDING = (
    "diagonal-unitary-h5", "positional-mu50", "augmented-haar-l2", "augmented-unitary-sampled", "figure5-l1",
    "emergence-gaussian", "noisy-haar-l2", "regression-high", "regression-high-t64", "regression-smooth-softmax",
    "chain-text-k8",
)  # fmt: skip
ROUNDING = 1e-9
FACTORIES = (
    "arange", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm",
    "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
)  # fmt: skip
IN_DEFAULT_DTYPE = ("empty", "eye", "linspace", "logspace", "normal", "ones", "rand", "randn", "tensor", "zeros")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def all_at_once():
    with ExitStack() as moods:
        moods.enter_context(torch.inference_mode())
        moods.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        moods.enter_context(torch.device("meta"))
        moods.enter_context(default_dtype(torch.bfloat16))
        yield


@contextmanager
def no_grad_in_double():
    with torch.no_grad(), default_dtype(torch.float64):
        yield


def calls(kind, device="cpu"):
    """Every probe on given sequences, each of those that take long of one kind, and `verify` of a known function."""
    model, (a, b) = model_of(kind, device), contexts_of(kind)
    found = probes(model, a.to(device), b.to(device)) | {"verify": known_function()(judgements(model)["verify"])}
    return {name: call for name, call in found.items() if not name.startswith(LEFT_OUT[kind])}


@cache
def calm(kind):
    return {name: outcome(call) for name, call in calls(kind).items()}


def apart(kind, found, tolerance=ROUNDING, without=()):
    names = [name for name in found if not name.startswith(without)]
    return [line for name in names for line in differences(found[name], calm(kind)[name], tolerance, name)]


@pytest.mark.parametrize(("kind", "mood"), [*((kind, all_at_once) for kind in KINDS), ("plain", no_grad_in_double)])
def test_a_mood_changes_nothing(kind, mood):
    """Also sequences that are drawn and models that are made in it."""
    with mood():
        found = {name: outcome(call) for name, call in calls(kind).items()}
    assert not apart(kind, found, 0)


def test_a_mood_changes_nothing_of_the_neighbours():
    """Numbers, not refusals."""
    calls = neighbours()
    expected = {name: outcome(call) for name, call in calls.items()}
    assert not any(isinstance(said, str) for said in expected.values())
    with all_at_once():
        found = {name: outcome(call) for name, call in calls.items()}
    assert not [line for name in calls for line in differences(found[name], expected[name], 0, name)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_device_changes_nothing(kind, monkeypatch):
    """Left out is what samples Haar matrices by itself, which are drawn otherwise there."""
    with second_device(monkeypatch) as device:
        found = {name: outcome(call) for name, call in calls(kind, device).items()}
    left_out = ("verify", "edit ") if kind == "plain" else ()
    assert not apart(kind, found, 1e-7, left_out)
    assert type(found["verify"]) is type(calm(kind)["verify"])


@pytest.mark.parametrize("name", OF_STUDIES)
def test_checkpoints_of_every_study_are_verified_on_a_second_device(name, monkeypatch):
    with nullcontext() if name in WITH_FUNCTION else known_function():
        expected = {claim.name: claim.verdict for claim in ari.verify(name, seed=0, n=64)}
        with second_device(monkeypatch) as device:
            found = ari.verify(ari.load(name).to(device), seed=0, n=64)
    assert {claim.name: claim.verdict for claim in found} == expected


@pytest.mark.parametrize("name", DESCENDING)
def test_a_step_of_training_takes_nothing_from_the_cpu_and_reads_nothing(name, monkeypatch):
    """So that it can be a CUDA graph."""
    recipe, crossed, update = RECIPES[name], [], Descent.update

    def counted(descent):
        BROUGHT.clear()
        READ.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ar_interp.processes.chains.recording", lambda: True)
            update(descent)
        crossed.append(BROUGHT + READ)

    monkeypatch.setattr(Descent, "update", counted)
    few = {"steps": 2, "warmup": 0, "n_seeds": 1, "batch": min(recipe.training.batch, 8)}
    with second_device(monkeypatch) as device:
        ari.train(recipe.config, recipe.process, replace(recipe.training, device=device, **few), progress=False)
    assert crossed[-1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_in_single_precision_or_with_a_history_are_computed_as_the_model_is(kind):
    model = model_of(kind)
    single, double = (contexts_of(kind, dtype=dtype)[0] for dtype in (torch.float32, torch.float64))
    expected, found = (ari.recover_context(model, s, kind="full").estimate for s in (double, single))
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    tokens = double.tokens.clone().requires_grad_()
    found = ari.recover_context(model, type(double)(tokens=tokens, W=double.W), kind="full").estimate
    assert torch.equal(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("mood", [all_at_once, no_grad_in_double])
def test_training_and_theory_do_not_know_the_mood(mood):
    config = ari.ModelConfig.augmented(dim=3, n_ctx=5, heads="block-scalar")
    training = ari.TrainConfig(objective="sampled", steps=3, batch=8, device="cpu")

    def made():
        run = ari.train(config, ari.HaarOrthogonal(3), training, progress=False)
        family = theory.kappa_family(dim=4, kappa=0.5, n_ctx=5)
        drawn = ari.CommutingUnitary(3, first_token=ari.FirstToken("one-hot")).sample(4, 5, seed=0)
        return [
            *run.parameters.values(), *family, drawn.tokens, theory.positional_kernel(mu=3.0, length=4),
            theory.legendre_profile(rank=2, length=5), *theory.factor_heads(family.C, n_heads=4, seed=0),
            theory.unitary_loss(np.eye(3), np.array([0.5, 0.25])),
            theory.head_removal_cost(np.eye(3), np.eye(3), np.eye(3), family="unitary", method="mean"),
            *ari.load("diagonal-unitary-h5").parameters.values(),
        ]  # fmt: skip

    expected = made()
    with mood():
        found = made()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_new_tensors_are_told_where_they_lie_and_how_precise_they_are():
    """Of torch's factories; those that are made like another tensor know it."""
    without = []
    for path in Path(ari.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            given = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func.value) != "torch" or node.func.attr not in FACTORIES or None in given:
                continue
            needed = {"device", "dtype"} if node.func.attr in IN_DEFAULT_DTYPE else {"device"}
            if needed - given:
                without.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    assert not without
