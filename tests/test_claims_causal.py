"""Causal claims hold where the estimate is used, and fail for models whose weights look right but do not use it."""

import math
from functools import partial

import pytest
import torch
from cases import D
from zoo import optimal, scalar_layer, unitary_model

import ar_interp as ari
from ar_interp.claims import Measured, subject_of
from ar_interp.studies.blocks_measured import BlocksMeasured
from ar_interp.studies.interventions import best_scale

DIM, N_CTX = 4, 10
UNITARY = ari.CommutingUnitary(DIM)
verify = partial(ari.verify, n=64)
pytestmark = pytest.mark.usefixtures("known_function")


class Copying(ari.HookedARTransformer):
    """Every weight and hook as it was; the prediction is s_T."""

    def forward(self, tokens):
        return super().forward(tokens) * 0 + self._checked(tokens)


def copying(model):
    model.__class__ = Copying
    return model


def test_diagonal_heads_use_their_estimate():
    claims = ari.verify(unitary_model(D), seed=0)
    assert claims["estimate/swap"].measured == pytest.approx(1, abs=1e-9)
    assert claims["estimate/swap"].verdict == claims["estimate/controls"].verdict == "holds"


def test_weights_that_look_right_do_not_deceive():
    claims = verify(copying(unitary_model(D)))
    assert claims["heads/orthogonal"].verdict == claims["loss/minimum"].verdict == "holds"
    assert claims["estimate/swap"].verdict == "fails"
    assert claims["estimate/controls"].verdict == "void"  # nothing steers, the swap as little as its controls


def test_a_model_without_an_estimate_has_no_share_of_it():
    zeros = [torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(5, 5)]
    claims = verify(ari.HookedARTransformer.from_diagonal(*zeros, process=UNITARY))
    assert math.isnan(claims["estimate/swap"].measured)
    assert claims["estimate/swap"].verdict == "fails"


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_best_scale_undoes_a_wrong_one(factor):
    model = optimal(UNITARY)
    model.blocks[0].attn.OV_blocks.mul_(factor)
    plain, paired = (best_scale(kind(subject_of(model, n=256))) for kind in (Measured, BlocksMeasured))
    best = best_scale(Measured(subject_of(optimal(UNITARY), n=256)))
    assert plain.value == pytest.approx(best.value / factor)
    assert paired.value == pytest.approx(1 / factor, abs=3 * paired.half_width)
    assert verify(model)["loss/best scale"].verdict == "fails"


@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_a_stand_in_whose_loss_is_known_sharpens_the_loss(factor):
    """The layer's expected loss is exact here: both intervals hold it, and the paired one is the smaller."""
    model = optimal(UNITARY)
    model.blocks[0].attn.OV_blocks.mul_(factor)
    plain, paired = (kind(subject_of(model, n=1024, seed=0)).loss() for kind in (Measured, BlocksMeasured))
    exact = Measured(subject_of(model, n=2)).expected_loss
    assert abs(plain.value - exact) < 2 * plain.half_width
    assert abs(paired.value - exact) < 2 * paired.half_width + 1e-9
    assert paired.half_width < plain.half_width / 2


def test_the_best_scale_is_the_bottom_of_the_parabola_through_three_runs():
    process = ari.HaarOrthogonal(DIM)
    config = ari.ModelConfig.augmented(dim=DIM, n_ctx=N_CTX, n_layers=2, init_scale=0.3)
    model = ari.HookedARTransformer(config, process=process, seed=3).requires_grad_(False)
    losses = []
    for factor in (0, 1, 2):
        hook = ("blocks.1.hook_attn_out", lambda value, hook, factor=factor: factor * value)
        with model.hooks(fwd_hooks=[hook]):
            losses.append(Measured(subject_of(model, n=256)).loss())
    least, own, twice = (loss.value for loss in losses)
    bottom = 1 + (least - twice) / (2 * (least - 2 * own + twice))
    assert best_scale(Measured(subject_of(model, n=256))).value == pytest.approx(bottom)


def test_an_augmented_layer_uses_its_state():
    claims = ari.verify(optimal(UNITARY), seed=0)
    causal = [claim for claim in claims if claim.evidence == "causal"]
    assert [claim.verdict for claim in causal] == ["holds"] * len(causal)
    copied = verify(copying(optimal(UNITARY)))
    assert copied["step/size"].verdict == "holds"
    assert copied["estimate/swap"].verdict == copied["loss/best scale"].verdict == "fails"


def test_a_state_without_a_query_fails():
    """a4 alone: keys and values say something, but s_T never asks for it."""
    claims = verify(scalar_layer([0, 0, 0, 0.2], process=UNITARY))
    assert claims["estimate/swap"].verdict == "fails"
