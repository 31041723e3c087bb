"""Head orthogonality: structure set by hand must be read back, in every gauge, and sabotage must show."""

import numpy as np
import pytest
import torch
from cases import D
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import ForeignWeights, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp.models.transformer import HookedARTransformer


@pytest.mark.parametrize("n_heads", [1, 2, 4, 6])
def test_heads_of_a_unitary_minimum_are_orthogonal(n_heads):
    heads = ari.head_orthogonality(unitary_model(n_heads))
    assert heads.kind == "identity"
    assert heads.rank == n_heads
    assert heads.scale == pytest.approx(-1.3)
    assert heads.e_m < 1e-12
    assert heads.e_c < 1e-12


def test_more_heads_than_coordinates_form_a_projector():
    heads = ari.head_orthogonality(unitary_model(9))
    assert heads.kind == "projector"
    assert heads.rank == D
    assert heads.e_p < 1e-12
    assert heads.e_c < 1e-12
    assert heads.e_m == pytest.approx((1 - D / 9) ** 0.5)  # these heads are balanced
    assert heads.cosine_ab == pytest.approx(((D / 9) * (1 - D / 9) / 8) ** 0.5 / (D / 9), rel=0.5)


@pytest.mark.parametrize(("n_heads", "kind"), [(1, "identity"), (3, "identity"), (5, "projector")])
def test_kappa_one_doubles_the_scale_and_halves_the_rank(n_heads, kind):
    heads = ari.head_orthogonality(orthogonal_model(n_heads, kappa=1.0))
    assert heads.kind == kind
    assert heads.rank == min(n_heads, D // 2)
    assert heads.scale == pytest.approx(2 * 1.7)
    assert heads.e_c < 1e-12
    assert (heads.e_m < 1e-12) == (kind == "identity")


def test_a_general_kappa_is_no_projector():
    """M has eigenvalues c (1 +- kappa), so E_M of balanced heads is kappa."""
    heads = ari.head_orthogonality(orthogonal_model(D, kappa=0.4))
    assert heads.rank == D
    assert heads.e_m == pytest.approx(0.4)
    assert heads.e_c > 0.1


@given(seed=st.integers(0, 10**6), n_heads=st.sampled_from([2, 4, 6, 9]))
@settings(max_examples=25, deadline=None)
def test_the_gauge_changes_neither_kind_nor_rank_nor_whether_heads_are_orthogonal(seed, n_heads):
    model = unitary_model(n_heads)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n_heads, n_heads, generator=generator, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(random)
    G = U @ torch.diag(S.clamp(min=0.3)) @ Vh
    turned = HookedARTransformer.from_diagonal(
        G @ model.A.detach(), torch.linalg.inv(G).T @ model.B.detach(), model.P.detach(), process=model.process
    )
    before, after = ari.head_orthogonality(model), ari.head_orthogonality(turned)
    assert (after.kind, after.rank) == (before.kind, before.rank)
    assert after.e_c < 1e-9
    assert (after.e_m < 1e-9) == (before.e_m < 1e-9)
    assert (after.e_p < 1e-9) == (before.e_p < 1e-9)


def test_sabotage_shows():
    model = unitary_model(4)
    A, B, P = model.A.detach(), model.B.detach(), model.P.detach()

    def e_m(A, B):
        return ari.head_orthogonality(HookedARTransformer.from_diagonal(A, B, P, process=model.process)).e_m

    wrong_sign = A * torch.tensor([[-1.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    duplicated = torch.cat([A[1:2], A[1:]])
    assert e_m(A.roll(1, 0), B) > 0.1
    assert e_m(wrong_sign, B) > 0.1
    assert e_m(duplicated, B) > 0.1


def test_untrained_heads_have_the_cosines_of_gaussian_vectors():
    model = HookedARTransformer(ari.ModelConfig.diagonal(dim=10, n_heads=200, n_ctx=4), seed=0)
    heads = ari.head_orthogonality(model)
    assert heads.untrained_cosine == pytest.approx(10**-0.5)
    assert heads.cosine_ab**2 == pytest.approx(0.1, abs=0.005)  # 39800 squared cosines of mean 1/d and deviation .14
    assert abs(heads.alignment) < 4 * 0.1**0.5 / 200**0.5


def test_the_frame_has_one_row_of_numbers():
    frame = ari.head_orthogonality(unitary_model(4)).to_frame()
    assert len(frame) == 1
    assert {"kind", "e_m", "e_c", "rank", "balancedness", "untrained_cosine"} <= set(frame.columns)


def test_one_head_has_no_other_to_be_orthogonal_to():
    assert np.isnan(ari.head_orthogonality(unitary_model(1)).cosine_ab)


def test_any_conforming_model_can_be_probed():
    model = unitary_model(4)
    ours, foreign = ari.head_orthogonality(model), ari.head_orthogonality(ForeignWeights(model))
    assert foreign.e_m < 1e-12
    assert foreign.scale == pytest.approx(ours.scale)


def test_what_a_model_lacks_is_listed():
    with pytest.raises(ValueError, match="type Linear cannot be probed: it lacks W_Q, W_K, W_V, W_O, P"):
        ari.head_orthogonality(torch.nn.Linear(2, 2))


def test_heads_that_are_not_diagonal_are_refused():
    foreign = ForeignWeights(unitary_model(4))
    foreign.W_K = foreign.W_K + 0.1
    with pytest.raises(ValueError, match="QK = W_Q W_K\\^T must be diagonal"):
        ari.head_orthogonality(foreign)
