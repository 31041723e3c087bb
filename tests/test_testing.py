"""Assertions for other projects' tests: they pass at minima set by hand, and not where nothing is shown."""

from functools import partial

import pytest
import torch
from cases import N_CTX, D
from zoo import (
    ETA,
    OV,
    QK,
    ForeignDiagonal,
    GradientStep,
    augmented,
    best_step,
    edited,
    orthogonal_model,
    step,
    turned_signs,
    unitary_model,
    with_row,
)

import ar_interp as ari
from ar_interp import diagnoses, theory
from ar_interp.claims import Estimate
from ar_interp.testing import (
    assert_context_is_causal,
    assert_gradient_step,
    assert_heads_orthogonal,
    assert_recovers_context,
    assert_trigonometric_encoding,
)

PASSING = {
    "few heads": (assert_heads_orthogonal, lambda: unitary_model(4)),
    "many heads": (assert_heads_orthogonal, lambda: unitary_model(9)),
    "a head a pair": (assert_heads_orthogonal, lambda: orthogonal_model(3, kappa=1.0)),
    "in between": (assert_heads_orthogonal, lambda: orthogonal_model(5, kappa=1.0)),
    "kappa one": (assert_trigonometric_encoding, lambda: orthogonal_model(3, kappa=1.0)),
    "any kappa": (assert_trigonometric_encoding, lambda: orthogonal_model(D, kappa=0.4)),
    "W by heads": (assert_recovers_context, lambda: unitary_model(D)),
    "W of pairs": (assert_recovers_context, lambda: orthogonal_model(3, kappa=1.0)),
    "heads are used": (assert_context_is_causal, lambda: unitary_model(D)),
    "step": (assert_gradient_step, step),
    "step in another gauge": (assert_gradient_step, turned_signs),
    "the step is used": (assert_context_is_causal, step),
}


@pytest.mark.parametrize("name", list(PASSING))
def test_a_minimum_passes_and_the_probe_s_result_comes_back(name):
    check, model = PASSING[name]
    assert type(check(model())) is check.__annotations__["return"]


def test_the_message_shows_measured_expected_and_tolerance():
    model = edited(unitary_model(4), lambda A, B, P: (with_row(A, 1, 2 * A[1]), B, P))
    with pytest.raises(AssertionError) as caught:
        assert_heads_orthogonal(model, tolerance=1e-3)
    first, second = str(caught.value).splitlines()
    assert first == "heads are not orthogonal: E_M = 0.3464, expected 0 within 0.001 (untrained 6.45)."
    assert second.startswith("Likely cause: heads of unequal strength")


def test_an_interval_is_shown_and_must_lie_within_the_tolerance(few_pairs):
    with pytest.raises(AssertionError, match=r"T = 10 = 0\.\d+ ± 0\.0\d*, expected 1 within 0.05 \(control "):
        assert_context_is_causal("positional-mu100", length=10)
    check = diagnoses.Check("share", 0.9, 1, 0.05)
    assert not check.passes
    assert not check._replace(measured=float("nan")).passes
    assert check._replace(measured=Estimate(0.98, {"contexts": 0.02}, 10)).passes
    undecided = check._replace(measured=Estimate(0.98, {"contexts": 0.04}, 10))
    assert not undecided.passes
    assert undecided.limit == ", undecided: limited by contexts, n = 10: about 20 would decide it"


def test_a_subject_is_a_model_a_checkpoint_a_name_or_a_folder(tmp_path):
    checkpoint = ari.load("diagonal-unitary-h5")
    folder = ari.checkpoints.save(checkpoint, tmp_path / "mine")
    subjects = (checkpoint, checkpoint.model, "diagonal-unitary-h5", folder, str(folder))
    assert {assert_heads_orthogonal(subject).e_m for subject in subjects} == {assert_heads_orthogonal(checkpoint).e_m}


def test_a_training_run_is_one_too():
    run = ari.train(ari.ModelConfig.diagonal(dim=2, n_heads=2, n_ctx=4), ari.CommutingUnitary(2), steps(3))
    with pytest.raises(AssertionError, match="heads are not orthogonal"):
        assert_heads_orthogonal(run)


def steps(n: int) -> ari.TrainConfig:
    return ari.TrainConfig(lr=1e-2, steps=n)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("diagonal-orthogonal-h8", partial(assert_recovers_context, length=6)),
        ("diagonal-orthogonal-h8", assert_heads_orthogonal),
        ("diagonal-orthogonal-h5", assert_trigonometric_encoding),
        ("diagonal-unitary-h20", assert_heads_orthogonal),
        ("diagonal-unitary-h5", assert_context_is_causal),
        ("augmented-orthogonal", assert_gradient_step),
        ("augmented-unitary-full", assert_gradient_step),
        ("augmented-haar-short", assert_gradient_step),
        ("initial-gaussian", assert_gradient_step),
        ("initial-gaussian", assert_context_is_causal),
    ],
)
def test_shipped_checkpoints_pass(name, check):
    check(name)


def test_a_conforming_model_of_somebody_else_passes():
    torch.manual_seed(0)
    solution = theory.kappa_family(dim=4, kappa=1.0, n_ctx=N_CTX)
    foreign, family = (
        ForeignDiagonal(*theory.factor_heads(solution.C, n_heads=2, seed=1), solution.P),
        ari.CommutingOrthogonal(4),
    )
    for check in (assert_heads_orthogonal, assert_trigonometric_encoding, assert_recovers_context):
        check(foreign, process=family)
    augmented_one = GradientStep(dim=4, step_size=ETA)
    options = {"process": ari.CommutingUnitary(4), "untrained": GradientStep(dim=4, step_size=ETA / 100)}
    assert_gradient_step(augmented_one, max_length=9, tolerance=1e-12, **options)
    assert_context_is_causal(augmented_one, length=9, process=ari.CommutingUnitary(4))


@pytest.mark.parametrize(("reference", "length"), [("W", 2), ("OLS", D + 1)])
def test_heads_recover_W_sooner_than_least_squares(reference, length):
    found = assert_recovers_context(unitary_model(D), reference=reference, tolerance=1e-9, length=length)
    assert found.estimate.shape == (256, length, D, D)
    if length > 2:
        with pytest.raises(AssertionError, match="the estimate is W"):
            assert_recovers_context(unitary_model(D), reference=reference, length=length - 1)


def test_an_augmented_layer_recovers_one_gradient_step_in_every_gauge_of_signs():
    assert_recovers_context(step(), reference="one gradient step", tolerance=1e-12)
    with pytest.raises(
        AssertionError, match=r"a diagonal of signs D, the gauge .* \(undoing that gives \|Ŵ - one grad"
    ):
        assert_recovers_context(turned_signs(), reference="one gradient step")


def test_shorter_contexts_pass_when_they_are_said():
    assert_gradient_step(step(theory.optimal_step_size(dim=4, max_length=4)), max_length=4)


def test_the_mirrored_solution_has_the_same_loss():
    """a1, a4 and b2 negated: where b2 is not zero, both must pass."""
    best = diagnoses.best_products(ari.HaarOrthogonal(4), 9, "linear")
    model = best_step(ari.HaarOrthogonal(4))
    for sign in (1, -1):
        model.get_parameter(QK)[0].data[[1, 2], [1, 2]] = sign * torch.tensor(best[[0, 3], 0])
        model.get_parameter(OV)[0].data[2, 0] = sign * best[1, 1] / best[1, 0]
        assert_gradient_step(model, process=ari.HaarOrthogonal(4), tolerance=1e-6)


@pytest.mark.parametrize(
    ("check", "model", "tolerance", "cause"),
    [
        (assert_heads_orthogonal, lambda: unitary_model(1), 1e-5, "so small a model cannot lack the structure"),
        (assert_heads_orthogonal, lambda: unitary_model(4), 10, "the tolerance is too wide"),
        (assert_trigonometric_encoding, lambda: orthogonal_model(3, kappa=1.0), 5, "the tolerance is too wide"),
        (assert_recovers_context, lambda: unitary_model(D), 500, "the tolerance is too wide"),
        (assert_gradient_step, step, 5, "the tolerance is too wide"),
    ],
)
def test_it_is_void_where_an_untrained_model_passes_too(check, model, tolerance, cause):
    with pytest.raises(
        AssertionError, match=f"nothing is shown: an untrained model passes too, .*\nLikely cause: {cause}"
    ):
        check(model(), tolerance=tolerance)


def test_it_is_void_where_the_control_given_passes_too():
    with pytest.raises(AssertionError, match="nothing is shown: an untrained model passes too"):
        assert_heads_orthogonal(unitary_model(D), untrained=unitary_model(D))


def test_heads_of_an_augmented_model_are_refused():
    with pytest.raises(
        ValueError, match=r"HookedARTransformer cannot be probed: it lacks P\. head_orthogonality needs P"
    ):
        assert_heads_orthogonal(step())


def test_the_identity_is_of_conjugate_pairs():
    with pytest.raises(ValueError, match=r"process must have conjugate pairs, got CommutingUnitary\(dim=6"):
        assert_trigonometric_encoding(unitary_model(4))


@pytest.mark.parametrize("options", [{"n_layers": 2}, {"n_heads": 2}, {"unembed": True}, {"attention": "softmax"}])
def test_a_gradient_step_is_asked_of_one_bare_linear_head(options):
    with pytest.raises(ValueError, match=r"one bare layer with a linear head on .* W_Q \[1, 1, 12, 'd_head'\]; got"):
        assert_gradient_step(augmented(**options))


def test_a_process_is_needed():
    with pytest.raises(ValueError, match="process is needed to sample sequences of it; pass process="):
        assert_recovers_context(ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=5)))


def test_the_process_must_fit_the_model():
    with pytest.raises(ValueError, match="process has dim 4 but the model has dim 6"):
        assert_heads_orthogonal(unitary_model(4), process=ari.CommutingUnitary(4))


def test_a_control_must_be_given_where_none_can_be_made():
    with pytest.raises(ValueError, match="untrained must be given: GradientStep cannot make its own control"):
        assert_gradient_step(GradientStep(dim=4, step_size=ETA), max_length=9, process=ari.CommutingUnitary(4))


def test_a_length_is_needed_where_the_model_does_not_say():
    with pytest.raises(ValueError, match=r"max_length is needed: GradientStep has no config.n_ctx; pass max_length="):
        assert_gradient_step(GradientStep(dim=4, step_size=ETA), process=ari.CommutingUnitary(4))


def test_a_length_beyond_the_model_is_refused():
    with pytest.raises(ValueError, match="length must be at most 8, got 9"):
        assert_context_is_causal(unitary_model(4), length=9)


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="reference must be one of 'W', 'OLS', 'one gradient step', got 'ridge'"):
        assert_recovers_context(unitary_model(4), reference="ridge")


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tolerance must be at least 0.0, got -1"):
        assert_heads_orthogonal(unitary_model(4), tolerance=-1)


def test_a_checkpoint_that_is_not_there_is_named():
    with pytest.raises(
        ari.CheckpointError, match=r"no checkpoint 'diagonal-unitary'.* Did you mean 'diagonal-unitary-h5'"
    ):
        assert_heads_orthogonal("diagonal-unitary")
