"""Positional structure: kappa, the ratio, the trigonometric residual, the spectral filter."""

import math

import pytest
import torch
from cases import N_CTX, D
from zoo import model_of, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp import theory
from ar_interp.models.transformer import HookedARTransformer


@pytest.mark.parametrize("kappa", [0.0, 1.0, 0.4, -0.3, 2.5])
def test_kappa_is_read_back_from_both_sides(kappa):
    structure = ari.positional_structure(orthogonal_model(D, kappa))
    assert structure.kappa == pytest.approx(kappa)
    assert structure.ratio == pytest.approx(-kappa / (1 + kappa), abs=1e-12)
    assert structure.kappa_from_P == pytest.approx(kappa, abs=1e-12)
    assert structure.ratio_from_kappa == pytest.approx(structure.ratio, abs=1e-12)
    assert structure.kappa_spread < 1e-12
    assert structure.block_mass < 1e-12
    assert structure.off_mass == 0
    assert structure.scale_error < 1e-12
    assert structure.ratio_spread < 1e-12
    assert structure.residual < 1e-11


def test_the_unitary_solution_needs_the_newest_key_only():
    structure = ari.positional_structure(unitary_model(D))
    assert structure.ratio == 0
    assert structure.scale == pytest.approx(-1.3)
    assert structure.residual < 1e-12


def test_too_few_heads_leave_a_residual_but_not_a_wrong_scale():
    structure = ari.positional_structure(unitary_model(4))
    assert structure.scale_error < 1e-12
    assert structure.residual > 0.5


def test_pairs_that_no_head_covers_do_not_blur_kappa():
    structure = ari.positional_structure(orthogonal_model(2, kappa=1.0))
    assert structure.kappa == pytest.approx(1)
    assert structure.kappa_spread < 1e-12
    assert structure.residual == pytest.approx(1)  # the uncovered pair is predicted as zero


def sabotaged(**changes) -> ari.HookedARTransformer:
    model = orthogonal_model(D, kappa=1.0)
    weights = {"A": model.A.detach(), "B": model.B.detach(), "P": model.P.detach()}
    return HookedARTransformer.from_diagonal(
        **{key: changes.get(key, lambda x: x)(value) for key, value in weights.items()}, process=model.process
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"P": lambda P: P.roll(-1, 1)},
        {"P": lambda P: P.T},
        {"P": lambda P: P - P.diagonal().diag()},
        {"P": lambda P: P - 2 * P.diagonal().diag()},
        {"A": lambda A: A * torch.tensor([1.0] * (D - 1) + [-1.0], dtype=torch.float64)},
        {"A": lambda A: A.roll(1, 0)},
    ],
    ids=["shifted", "transposed", "no previous key", "wrong sign", "one coordinate's sign", "heads permuted"],
)
def test_sabotage_breaks_the_identity(changes):
    assert ari.positional_structure(sabotaged(**changes)).residual > 0.5


def test_random_old_weights_show_as_off_mass():
    noise = torch.randn(N_CTX, N_CTX, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tril(-1)
    structure = ari.positional_structure(sabotaged(P=lambda P: P + 0.1 * noise))
    assert 0.01 < structure.off_mass < 0.5
    assert structure.ratio == pytest.approx(-0.5)


def test_blocks_with_different_kappa_show_as_spread():
    C = theory.kappa_family(dim=D, kappa=0.5, n_ctx=N_CTX).C
    C[0, 1] = C[1, 0] = 0.2
    P = theory.positional_weights(n_ctx=N_CTX, previous=-1 / 3, last=1.0)
    A, B = theory.factor_heads(C, n_heads=D)
    model = HookedARTransformer.from_diagonal(A, B, P, process=ari.CommutingOrthogonal(D))
    assert ari.positional_structure(model).kappa_spread > 0.1


def test_the_residual_is_the_largest_error_on_real_sequences():
    """An oracle by random angles: never above the grid's supremum by more than the grid is coarse, and close to it."""
    model = orthogonal_model(D, kappa=0.4).untrained(7)
    with torch.no_grad():
        model.P.mul_(10)
    structure = ari.positional_structure(model)
    sequences = model.process.sample(4000, N_CTX + 1, seed=0)
    error = (model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:].abs().max().item()
    assert structure.residual == pytest.approx(error, rel=0.3)


def test_the_filter_is_measured_without_knowing_the_steps():
    run = ari.train(
        ari.ModelConfig.positional_only(n_ctx=12),
        ari.CommutingUnitary(1, mu=50.0),
        ari.TrainConfig(lr=0.5 / 11, steps=200),
        progress=False,
    )
    expected = theory.spectral_filter(mu=50.0, length=12, step_size=2 * 0.5 / 11, steps=200)
    structure = ari.positional_structure(run.model)
    torch.testing.assert_close(structure.filter_response, expected.response, atol=1e-7, rtol=0)
    assert structure.filter_rank == pytest.approx(expected.rank, abs=1e-7)
    assert math.isnan(structure.kappa)


def test_models_with_heads_have_no_filter():
    assert ari.positional_structure(unitary_model(4)).filter_rank is None


def test_a_process_is_needed():
    model = unitary_model(4)
    model.process = None
    with pytest.raises(ValueError, match="process is needed to know the family"):
        ari.positional_structure(model)


def test_the_frame_has_a_row_per_length():
    frame = ari.positional_structure(unitary_model(4)).to_frame()
    assert frame["T"].tolist() == list(range(2, N_CTX + 1))


def test_valley_points_are_not_the_identity():
    valley = theory.valley_at_infinity(dim=D, epsilon=0.1, n_ctx=N_CTX)
    structure = ari.positional_structure(model_of(valley, D, ari.CommutingOrthogonal(D)))
    assert structure.kappa < -0.9
    assert structure.ratio > 5
    assert structure.residual == pytest.approx(0.1 * (D - 1) / D)  # all coordinates at one angle
