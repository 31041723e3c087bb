"""Which estimator a model is: hand-made gradient steps are named as such, untrained models are not."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import ar_interp as ari
from ar_interp import estimators, theory
from ar_interp.probes.algorithm import (
    STEPS,
    Spectra,
    default_estimators,
    equivalent_steps,
    gradient_descent_curve,
    identify_algorithm,
    step_sizes,
    trimmed,
)
from ar_interp.probes.jacobian import query_jacobian

D, LENGTH, N = 3, 12, 64
HAAR, UNITARY = ari.HaarOrthogonal(D), ari.CommutingUnitary(D)


def gradient_steps(
    process, *layers: float, attention: str = "linear", dtype: str = "float64"
) -> ari.HookedARTransformer:
    """Augmented layers, each of which adds one gradient step from zero of this size to the prediction."""
    config = ari.ModelConfig.augmented(
        dim=D, n_ctx=LENGTH, n_layers=len(layers), heads="block-scalar", attention=attention, dtype=dtype, init_scale=0
    )
    model = ari.HookedARTransformer(config, process=process)
    with torch.no_grad():
        for layer, eta in enumerate(layers):
            model.get_parameter(f"blocks.{layer}.attn.QK_blocks")[0, 1, 2] = eta
            model.get_parameter(f"blocks.{layer}.attn.OV_blocks")[0, 1, 0] = 1
    return model


def identify(model, process, **options):
    return ari.identify_algorithm(model, process.sample(N, LENGTH + 1, seed=0), **options)


def row(found, estimator: str, layer: int = 0) -> pd.Series:
    return found.matches.set_index(["layer", "estimator"]).loc[(layer, estimator)]


def steps_of(found, by: str, per_pair: bool) -> pd.DataFrame:
    return found.steps[(found.steps["by"] == by) & (found.steps["per_pair"] == per_pair)]


@pytest.mark.parametrize("process", [HAAR, UNITARY], ids=lambda p: p.kind)
@pytest.mark.parametrize(("attention", "name"), [("linear", "1 step"), ("linear/pairs", "1 step per pair")])
def test_a_hand_made_gradient_step_is_found(process, attention, name):
    per_pair = attention != "linear"
    (eta,) = step_sizes(process, length=LENGTH, per_pair=per_pair, steps=(1,))
    found = identify(gradient_steps(process, eta, attention=attention), process)
    match = row(found, name)
    assert match["distance_per_token"] < 1e-20
    assert match["error_similarity"] == pytest.approx(1)
    assert match["sensitivity"] == pytest.approx(1)
    assert found.best() == name
    assert found.per_pair == per_pair
    assert found.equivalent_steps == pytest.approx(1)
    for by in ("error", "distance"):
        for column in ("steps", "low", "high"):
            assert steps_of(found, by, per_pair)[column].item() == pytest.approx(1)
    others = found.matches[~found.matches["estimator"].isin([name, "1 step", "1 step per pair"])]
    assert (others["distance_per_token"] > 1e-3).all()
    assert not (others["error_similarity"] > 0.99).any()


def test_single_precision_is_enough():
    (eta,) = step_sizes(HAAR, length=LENGTH, steps=(1,))
    found = identify(gradient_steps(HAAR, eta, dtype="float32"), HAAR)
    assert row(found, "1 step")["distance_per_token"] < 1e-12
    assert found.equivalent_steps == pytest.approx(1, abs=1e-4)


def test_an_untrained_model_is_no_steps():
    config = ari.ModelConfig.augmented(dim=D, n_ctx=LENGTH, n_layers=2)
    found = identify(ari.HookedARTransformer(config, process=HAAR, seed=1), HAAR)
    assert found.best() == "zero"
    assert found.equivalent_steps < 0.1
    assert found.matches["error_similarity"][found.matches["estimator"] == "OLS"].max() < 0.5
    assert found.matches["sensitivity"].abs().max() < 0.5


def test_every_layer_is_read():
    """A layer that does nothing before the step, or after it."""
    (eta,) = step_sizes(HAAR, length=LENGTH, steps=(1,))
    for layers, expected in (((0.0, eta), [0, 1]), ((eta, 0.0), [1, 1])):
        found = identify(gradient_steps(HAAR, *layers), HAAR)
        for by in ("error", "distance"):
            assert steps_of(found, by, per_pair=False)["steps"].tolist() == pytest.approx(expected)
        assert [found.best(layer) for layer in range(2)] == [["zero", "1 step"][k] for k in expected]
        assert found.n_layers == 2


def test_the_numbers_are_those_of_a_naive_loop():
    config = ari.ModelConfig.augmented(dim=D, n_ctx=LENGTH, n_layers=2, init_scale=0.5)
    model = ari.HookedARTransformer(config, process=HAAR, seed=3)
    sequences = HAAR.sample(N, LENGTH + 1, seed=0)
    found = identify(model, HAAR, estimators={"least squares": estimators.OLS()})
    assert found.matches["estimator"].unique().tolist() == ["least squares"]
    inputs, targets = sequences.tokens[:, :-1], sequences.tokens[:, 1:]
    estimate = estimators.OLS().estimate(inputs)
    ours, W = model(inputs).detach(), query_jacobian(model, inputs)
    distances, similarities, sensitivities = [], [], []
    for i in range(N):
        theirs = torch.stack([estimate[i, t] @ inputs[i, t] for t in range(LENGTH)])
        distances.append(np.mean([(ours[i, t] - theirs[t]).norm().item() ** 2 for t in range(1, LENGTH)]))
        residuals = [(targets[i] - prediction)[1:].flatten() for prediction in (ours[i], theirs)]
        similarities.append(torch.cosine_similarity(*residuals, dim=0).item())
        pairs = [(W[i, t].flatten(), estimate[i, t].flatten()) for t in range(1, LENGTH)]
        sensitivities.append(np.mean([torch.cosine_similarity(*pair, dim=0).item() for pair in pairs]))
    match = row(found, "least squares", layer=1)
    assert match["distance_per_token"] == pytest.approx(np.mean(distances))
    assert match["distance_per_token_se"] == pytest.approx(np.std(distances, ddof=1) / N**0.5)
    assert match["error_similarity"] == pytest.approx(np.mean(similarities))
    assert match["sensitivity"] == pytest.approx(np.mean(sensitivities))
    squares = (ours - targets).square().sum(-1)[:, 1:].numpy()
    errors = found.errors.set_index("estimator").loc["model, layer 1"]
    assert errors["error_per_token"] == pytest.approx(squares.mean())
    assert errors["trimmed_error_per_token"] == pytest.approx(squares.mean())  # 1 % of 64 sequences is none
    drawn = found.by_position[found.by_position["estimator"] == "model, layer 1"]
    assert drawn["T"].tolist() == list(range(2, LENGTH + 1))
    np.testing.assert_allclose(drawn["error_per_token"], squares.mean(0))
    np.testing.assert_allclose(drawn["error_per_token_high"], np.quantile(squares, 0.9, axis=0))


def test_diagonal_heads_are_compared_too():
    solution = theory.projector_family(torch.eye(D, dtype=torch.float64), n_ctx=LENGTH, scale=1.0)
    A, B = theory.factor_heads(solution.C, n_heads=D)
    model = ari.HookedARTransformer.from_diagonal(A, B, solution.P, process=UNITARY)
    found = identify(model, UNITARY)
    assert found.best() == "diagonal OLS"
    assert row(found, "diagonal OLS")["distance_per_token"] < 1e-20
    assert row(found, "diagonal OLS")["sensitivity"] == pytest.approx(1)
    assert found.equivalent_steps == STEPS[-1]


@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("process", [ari.HaarOrthogonal(D, noise=0.3), UNITARY], ids=lambda p: p.kind)
def test_the_filter_is_gradient_descent(process, per_pair):
    contexts = process.contexts(5, LENGTH, seed=2)
    descent = estimators.GradientDescent.of_steps(6, 0.11, per_pair=per_pair)
    spectra = Spectra(contexts, per_pair=per_pair)
    torch.testing.assert_close(spectra.losses(6, 0.11), contexts.losses(descent(contexts.inputs)))
    torch.testing.assert_close(spectra.estimate(descent), descent.estimate(contexts.inputs))


def test_steps_are_tuned_as_in_estimators():
    """Both minimise over samples, of 1000 and 2000 sequences: their errors on a third one agree."""
    tokens = HAAR.sample(2000, LENGTH + 1, seed=9).tokens

    def error(descent: estimators.GradientDescent) -> float:
        return (descent(tokens[:, :-1]) - tokens[:, 1:])[:, 1:].square().sum(-1).mean().item()

    for k, size in zip((1, 4), step_sizes(HAAR, length=LENGTH, steps=(1, 4)), strict=True):
        theirs = estimators.tuned(estimators.GradientDescent.of_steps(k, 0.1), HAAR, length=LENGTH)
        assert error(estimators.GradientDescent.of_steps(k, size)) == pytest.approx(error(theirs), rel=1e-3)


def test_the_curve_begins_where_theory_says():
    curve = gradient_descent_curve(HAAR, length=LENGTH)
    assert curve["k"].tolist() == [0, *STEPS]
    assert curve["error_per_token"][0] == pytest.approx(1)
    assert (
        abs(curve["error_per_token"][1] - theory.haar_one_step_minimum(dim=D, max_length=LENGTH)) < 4 * curve["se"][1]
    )
    assert (curve["error_per_token"].diff()[1:] < 0).all()
    floor = np.mean([theory.ols_error(dim=D, length=T) for T in range(2, LENGTH + 1)])
    assert curve["error_per_token"].iloc[-1] > floor
    trimmed = gradient_descent_curve(HAAR, length=LENGTH, trim=0.01)
    assert (trimmed["error_per_token"][1:] < curve["error_per_token"][1:]).all()


def test_equivalent_steps_interpolate_the_logarithm_and_stop_at_the_ends():
    curve = pd.DataFrame({"k": [0, 1, 2, 4], "error_per_token": [1.0, 0.5, 0.25, 0.01]})
    assert [equivalent_steps(error, curve) for error in curve["error_per_token"]] == pytest.approx([0, 1, 2, 4])
    assert equivalent_steps(math.sqrt(0.25 * 0.01), curve) == pytest.approx(3)
    assert [equivalent_steps(error, curve) for error in (7.0, 0.005, 0.0)] == [0, 4, 4]
    assert np.isnan(equivalent_steps(math.nan, curve))
    np.testing.assert_allclose(equivalent_steps(np.array([0.5, 0.25]), curve), [1, 2])


def test_trimmed_means_leave_the_worst_sequences_out():
    values = np.ones((200, 2))
    values[7, 0] = values[9, 0] = 1e6
    values[8, 1] = np.nan
    np.testing.assert_allclose(trimmed(values), [1, 1])
    assert trimmed(values, trim=0.0)[0] > 1e3


def test_a_sequence_that_explodes_does_not_hide_the_algorithm():
    """One of 128 sequences is far outside of what the others are: means follow it, trimmed means do not."""
    (eta,) = step_sizes(HAAR, length=LENGTH, steps=(1,))
    model = gradient_steps(HAAR, eta)
    sequences = HAAR.sample(128, LENGTH + 1, seed=0)
    sequences.tokens[5] *= 100
    errors = ari.identify_algorithm(model, sequences).errors.set_index("estimator")
    assert errors.loc["model, layer 0", "error_per_token"] > 1e3
    assert errors.loc["model, layer 0", "trimmed_error_per_token"] < 1


def test_default_estimators_are_of_the_process():
    names = list(default_estimators(HAAR, length=LENGTH))
    assert "diagonal OLS" not in names
    assert "diagonal OLS" in default_estimators(UNITARY, length=LENGTH)
    assert {f"{k} steps per pair" for k in STEPS[1:]} < set(names)


def model_without_process() -> ari.HookedARTransformer:
    return ari.HookedARTransformer(ari.ModelConfig.augmented(dim=D, n_ctx=LENGTH))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: identify(model_without_process(), HAAR), "process is needed to tune the step sizes"),
        (lambda m: identify_algorithm(m, HAAR.sample(9, 5, seed=0)), "at least 10 sequences for this probe, got 9"),
        (lambda m: identify_algorithm(m, HAAR.sample(20, 2, seed=0)), "contexts must be at least 2 inputs long, got 1"),
        (lambda m: step_sizes(HAAR, length=1), "length must be at least 2, got 1"),
        (lambda m: step_sizes(HAAR, length=5, steps=(0,)), "steps must be at least 1, got 0"),
        (lambda m: gradient_descent_curve(HAAR, length=5, n=1), "n must be at least 2, got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(gradient_steps(HAAR, 0.1))
