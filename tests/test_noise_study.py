"""Models of theory's own weights under noise: what claims, figures and sabotage say of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import check_titles

import ar_interp as ari
from ar_interp import studies
from ar_interp.claims import subject_of
from ar_interp.probes.noise import bent_keys, noisy_errors
from ar_interp.sabotage import run_battery
from ar_interp.sabotage.noise import NOISE

FEW = ari.CommutingOrthogonal(4, observation_noise=0.3)
HEADS = {n: (ari.ModelConfig.diagonal(dim=4, n_heads=n, n_ctx=5), FEW) for n in (2, 4)}
LAYER = (
    ari.ModelConfig.augmented(dim=2, n_ctx=6, heads="block-scalar"),
    ari.CommutingUnitary(2, process_noise=0.1, observation_noise=0.3),
)
STACK = (
    ari.ModelConfig.augmented(dim=2, n_ctx=6, n_layers=2, heads="block-scalar", attention="linear/keys"),
    ari.HaarOrthogonal(2, process_noise=0.1, observation_noise=0.3),
)
SOFTMAX = (
    ari.ModelConfig.augmented(dim=2, n_ctx=6, n_heads=2, heads="block-scalar", attention="softmax"),
    STACK[1],
)
pytestmark = pytest.mark.usefixtures("known_function")


def ideal(config, process):
    return ari.setting_of(config, process).ideal(ari.HookedARTransformer(config, process=process, seed=0))


@pytest.mark.parametrize(("config", "process"), [*HEADS.values(), LAYER], ids=["2 heads", "4 heads", "layer"])
def test_every_claim_of_the_weights_holds_of_theory(config, process):
    claims = ari.verify(ideal(config, process), process, seed=0, n=24)
    of_weights = [claim for claim in claims if claim.evidence in ("weights", "causal")]
    assert of_weights
    assert {claim.verdict for claim in of_weights} == {"holds"}
    assert claims["noise/line"].verdict == "holds"


@pytest.mark.parametrize(
    ("config", "process"),
    [
        (HEADS[4][0], replace(FEW, noise=0.1)),
        (HEADS[4][0], replace(FEW, process_noise=0.1, stationary=True)),
        (ari.ModelConfig.diagonal(dim=4, n_heads=1, n_ctx=5), FEW),
        (LAYER[0], replace(LAYER[1], mu=2.0)),
        (LAYER[0], replace(LAYER[1], first_token="gaussian")),
        (STACK[0], replace(STACK[1], first_token="gaussian")),
    ],
)
def test_theory_is_silent_where_it_does_not_hold(config, process):
    assert ari.setting_of(config, process).why_not


@pytest.mark.parametrize("given", [STACK, SOFTMAX], ids=["linear", "softmax"])
def test_seeds_of_a_stack_are_measured_and_bound_to_the_weights(given):
    training = ari.TrainConfig(objective="sampled", optimizer="adam", steps=60, batch=32, n_seeds=3, lr=0.1)
    run = ari.train(*given, training, progress=False)
    shared = given[1].contexts(2048, 6, seed=ari.seeds.FINAL_LOSSES)
    last = run.members["last"].to_numpy()
    kept = shared.errors(run.model(shared.inputs).detach())[:, -1].mean().item()
    assert last[run.members["seed"] == run.seed] == pytest.approx(kept, rel=1e-9)
    assert np.ptp(last) > 0
    claims = ari.verify(run, seed=0)
    line = ari.theory.last_token_error(dim=2, square=1.1, process_variance=0.01, observation_variance=0.09)
    assert claims["noise/line, seeds"].measured == pytest.approx(last.mean() / line)
    assert claims["noise/log"].verdict == "holds"
    assert ("noise/one step" in [claim.name for claim in claims]) == (given is SOFTMAX)
    other = replace(run, members=run.members.assign(last=0.75 * last))
    assert ari.verify(other, seed=0)["noise/log"].verdict == "fails"


def test_least_squares_has_no_usable_mean():
    found = ari.verify(ari.HookedARTransformer(*STACK[:1], process=STACK[1], seed=1), STACK[1], seed=0)
    assert found["noise/least squares"].verdict == "holds"


@pytest.mark.parametrize("given", [LAYER, STACK, HEADS[2]], ids=["layer", "stack", "heads"])
def test_errors_on_noisy_tokens(given):
    config, process = given
    model = ari.HookedARTransformer(config, process=process, seed=1).requires_grad_(False)
    found = noisy_errors(model, process, beside={"zero": torch.zeros_like}, n=16, seed=3)
    contexts = process.contexts(16, config.n_ctx, seed=3)
    own = contexts.errors(model(contexts.inputs)).double()
    table = found.to_frame()
    rows = table[table["predictor"] == "model"]
    np.testing.assert_allclose(rows["mean"], own.mean(0), rtol=1e-9)
    np.testing.assert_allclose(rows["median"], own.quantile(0.5, 0), rtol=1e-9)
    assert {"least squares", "Bayes, W known"} < set(table["predictor"])
    clean = contexts.clean_targets.abs().square().sum(-1).double()
    np.testing.assert_allclose(table[table["predictor"] == "zero"]["mean"], clean.mean(0), rtol=1e-9)
    figure = ari.figures.noisy_errors(found)
    check_titles({"noisy_errors": figure})
    lines = {trace.name: trace for trace in figure.data}
    line = table[table["predictor"] == "multiple of W y_T"]
    np.testing.assert_allclose(lines["multiple of W y<sub>T</sub>"].y, line["median"][1:], rtol=1e-12)
    spread = (line["high"] - line["low"]) / 2
    np.testing.assert_array_less(np.abs(line["mean"] - np.array(found.line)), 4 * spread / 16**0.5)
    np.testing.assert_allclose(lines["zero"].y, clean.quantile(0.5, 0)[1:], rtol=1e-9)
    np.testing.assert_allclose(lines["model"].y, own.quantile(0.5, 0)[1:], rtol=1e-9)
    assert f"{config.n_ctx} the model errs by" in figure.layout.title.text


def test_expected_losses_are_those_of_the_clean_target():
    """The quadratic that is estimated on sampled contexts, at the block scalars of which theory has the error."""
    setting = ari.setting_of(*LAYER)
    found = setting.expected_loss(ideal(*LAYER))
    assert abs(found.loss - setting.best.loss) < 4 * found.standard_error < 0.1 * setting.best.loss


def test_errors_need_noise():
    model = ari.HookedARTransformer(LAYER[0], seed=1)
    with pytest.raises(ValueError, match="process must be one with noise that is not stationary"):
        noisy_errors(model, ari.CommutingUnitary(2))
    with pytest.raises(ValueError, match="beside must have names of its own, got 'least squares', which stands there"):
        noisy_errors(model, LAYER[1], beside={"least squares": torch.zeros_like})


@pytest.mark.parametrize("n_heads", [2, 4])
def test_the_last_key_but_one_lies_on_theory(n_heads):
    found = bent_keys(ideal(*HEADS[n_heads]), FEW)
    table = found.to_frame()
    expected = np.interp(found.observation_variance, table["observation_variance"], table["ratio"])
    assert found.ratio == pytest.approx(expected, abs=5e-3)  # between points of the curve
    assert table["ratio"].iloc[0] == pytest.approx(-0.5 if n_heads == 2 else 0, abs=1e-7)
    figure = ari.figures.bent_keys(found, ari.setting_of(*HEADS[n_heads]))
    check_titles({"bent_keys": figure})
    point = figure.data[-1]
    assert (point.x, point.y) == ((pytest.approx(0.09),), (found.ratio,))


def test_sabotage_is_caught_where_it_must_be():
    found = run_battery(["kappa kept by force", "the step of noiseless tokens"], n=24, battery=NOISE)
    assert found.false_positives.empty, found.false_positives
    assert found.misses.empty, found.misses
    of_model = found.frame[~found.frame["claim"].str.startswith("noise/")]  # which so few contexts do not decide
    assert (of_model["outcome"] == "ok").all(), of_model[of_model["outcome"] != "ok"]


@pytest.mark.parametrize("given", [LAYER, HEADS[4]], ids=["layer", "heads"])
def test_exhibits_are_drawn(given):
    subject = subject_of(ideal(*given), given[1])
    exhibits = [exhibit for exhibit in studies.noise.STUDY.exhibits() if exhibit.applies(subject)]
    assert [exhibit.name for exhibit in exhibits] == ["noisy_errors", "bent_keys"][: 1 + (given is not LAYER)]
    for exhibit in exhibits:
        figure = exhibit.draw(subject, exhibit.result(subject, {}, {}))
        place = {"checkpoint": SimpleNamespace(model=subject.model, config=subject.config, process=subject.process)}
        exec(exhibit.code.replace(".show()", "").replace("ari.figures", "drawn = ari.figures"), {"ari": ari}, place)
        assert place["drawn"].layout.title.text == figure.layout.title.text
