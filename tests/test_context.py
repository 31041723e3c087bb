"""The in-context estimate: exact circuit against naive sums, regression against its controls."""

import numpy as np
import pytest
import torch
from test_heads import N_CTX, D, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp.probes.context import SCORES, read_phases


@pytest.fixture(scope="module")
def recovered():
    model = orthogonal_model(D, kappa=1.0)
    sequences = model.process.sample(64, N_CTX + 1, seed=0)
    return model, sequences, ari.recover_context(model, sequences)


def test_the_circuit_is_the_naive_sum():
    model = orthogonal_model(D, kappa=0.4).untrained(1)
    sequences = model.process.sample(3, N_CTX + 1, seed=1)
    result = ari.recover_context(model, sequences)
    A, B, P, tokens = (x.detach() for x in (model.A, model.B, model.P, sequences.tokens))
    for T in range(2, N_CTX + 1):
        query = tokens[0, T - 2].conj()
        for j in range(D):
            coefficients = [
                P[T - 2, t] * sum(b[j] * (a * query * tokens[0, t]).sum() for a, b in zip(A, B, strict=True))
                for t in range(T)
            ]
            torch.testing.assert_close(result.in_context_map[0, T - 1, j, j], coefficients[-1])
            whole = sum(c * tokens[0, t, j] for t, c in enumerate(coefficients)) / tokens[0, T - 1, j]
            torch.testing.assert_close(result.estimate[0, T - 1, j, j], whole)


def test_the_estimate_applied_to_the_last_token_is_the_prediction(recovered):
    model, sequences, result = recovered
    inputs = sequences.tokens[:, :-1]
    applied = torch.einsum("btij,btj->bti", result.estimate, inputs)
    torch.testing.assert_close(applied, model(inputs).detach())


def test_at_zero_loss_the_estimate_is_W_from_the_second_token_on(recovered):
    _, sequences, result = recovered
    torch.testing.assert_close(result.estimate[:, 1:], sequences.W[:, None].expand(-1, N_CTX - 1, -1, -1))


def test_with_kappa_one_the_heads_carry_two_cosines_and_no_sign(recovered):
    _, sequences, result = recovered
    gamma = result.in_context_map[:, 1:].diagonal(0, -2, -1)
    torch.testing.assert_close(gamma.real, 2 * sequences.phases.cos()[:, None].expand_as(gamma.real))
    assert gamma.imag.abs().max() < 1e-12


def test_errors_stand_beside_the_estimators(recovered):
    _, _, result = recovered
    errors = result.errors.set_index(["estimator", "T"])
    assert errors.loc[("model", 2), "context_error"] < 1e-20
    assert errors.loc[("model", 1), "context_error"] == pytest.approx(1)
    assert errors.loc[("diagonal OLS", 2), "context_error"] < 1e-20
    assert errors.loc[("zero", 5), "prediction_error"] == pytest.approx(1)
    assert errors.loc[("OLS", D), "context_error"] > 1e-3
    assert errors.loc[("OLS", D + 1), "context_error"] < 1e-6
    assert (result.errors["n"] == 64).all()


def test_sines_cannot_be_read_where_kappa_is_one_and_can_before_training():
    model = orthogonal_model(D // 2, kappa=1.0)
    sequences = model.process.sample(400, N_CTX + 1, seed=0)
    cosine, sine = read_phases(model, sequences, hook=SCORES)
    assert cosine.r2 > 0.99
    assert cosine.untrained_r2 > 0.99  # so that cos(theta) being readable is no finding
    assert abs(sine.r2) < 0.05
    assert sine.untrained_r2 > 0.99
    assert cosine.shuffled_r2 < 0.05
    assert cosine.n == 120


def test_rounding_errors_are_not_read():
    """Imaginary scores of size 1e-9 hold the sines exactly; a probe that rescales every feature reads them."""
    model = orthogonal_model(D // 2, kappa=1.0)
    with torch.no_grad():
        model.A[:, ::2] *= 1 + 1e-9
    sequences = model.process.sample(400, N_CTX + 1, seed=0)
    assert abs(read_phases(model, sequences, hook=SCORES)[1].r2) < 0.05


def test_with_as_many_heads_as_coordinates_readability_says_nothing():
    model = unitary_model(D)
    sequences = model.process.sample(400, N_CTX + 1, seed=0)
    for readout in ari.recover_context(model, sequences, probe_hook=SCORES).readouts:
        assert readout.r2 > 0.99
        assert readout.untrained_r2 > 0.99


def test_other_activations_can_be_probed():
    model = unitary_model(D)
    sequences = model.process.sample(100, N_CTX + 1, seed=0)
    cosine, _ = read_phases(model, sequences, hook="blocks.0.attn.hook_z", position=2)
    assert cosine.position == 2
    assert np.isfinite(cosine.r2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: read_phases(m, s[:20], hook=SCORES), "at least 50 sequences to split, got 20"),
        (lambda m, s: read_phases(m, s, hook=SCORES, position=1), "position must be at least 2, got 1"),
        (lambda m, s: read_phases(m, s, hook="blocks.0.attn.hook_pos_weights"), "has no batch and position axes"),
        (lambda m, s: read_phases(m, s, hook="blocks.0.attn.hook_score"), "Did you mean 'blocks.0.attn.hook_attn_sco"),
        (lambda m, s: ari.recover_context(m, m.process.sample(4, 2, seed=0)), "at least 3 tokens"),
        (
            lambda m, s: ari.recover_context(m, m.process.sample(4, 6, seed=0, basis="rotation")),
            "must be in the eigenbasis",
        ),
    ],
)
def test_refusals(call, message):
    model = orthogonal_model(D, kappa=1.0)
    sequences = model.process.sample(60, N_CTX + 1, seed=0)
    with pytest.raises(ValueError, match=message):
        call(model, sequences)
