"""Claims about general models: those made by hand to a known optimum hold, sabotaged ones fail in the right rows."""

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import names
from torch.testing import assert_close
from zoo import one_gradient_step, optimal, scalar_layer

import ar_interp as ari
from ar_interp.models.config import ModelConfig
from ar_interp.probes.algorithm import gradient_descent_curve
from ar_interp.probes.blocks import augmented_blocks
from ar_interp.setting.sampled import best_equivariant_head, sampled_quadratic
from ar_interp.studies.blocks_measured import without_signs
from ar_interp.theory import block_scalar_minimum, initial_token_product, optimal_step_size
from ar_interp.theory.initial_token import first_token_moments

DIM, N_CTX = 4, 10
HAAR = ari.HaarOrthogonal(5)
verify = partial(ari.verify, n=128)
pytestmark = pytest.mark.usefixtures("known_function")


def run_of(model, training, members):
    """What verify needs of a training run."""
    return ari.TrainingRun(
        config=model.config, process=model.process, training=training, parameters=model.state_dict(),
        history=pd.DataFrame(), members=members, seed=0, steps=0, device="cpu",
    )  # fmt: skip


def exact_run(model):
    return run_of(model, ari.TrainConfig(), pd.DataFrame({"seed": [0], "loss": [0.0]}))


# ---- one gradient step


@pytest.mark.parametrize(
    ("process", "gauge"),
    [(ari.CommutingUnitary(DIM), -0.3), (ari.CommutingOrthogonal(DIM), 7.0)],
    ids=["unitary", "pairs"],
)
def test_the_optimum_holds_in_every_gauge(process, gauge):
    claims = ari.verify(exact_run(optimal(process, gauge)), seed=0)  # the least margin: as many contexts as planned
    assert {claim.verdict for claim in claims} == {"holds"}
    assert {"loss/minimum", "step/size", "step/others", "estimate/swap"} <= names(claims)
    assert ({"loss/gain", "step/second path"} <= names(claims)) == process.conjugate_pairs


SABOTAGE = {
    "step doubled": (lambda a: a * np.array([1, 2, 1, 1]), ("loss/minimum", "step/size")),
    "a3 removed": (lambda a: a * np.array([1, 1, 0, 1]), ("loss/gain", "step/second path")),
    "a3 turned": (lambda a: a * np.array([1, 1, -1, 1]), ("loss/gain", "step/second path")),
    "copies s_T": (lambda a: a + np.array([0.02, 0, 0, 0]), ("step/others", "loss/minimum")),
    "a4 added": (lambda a: a + np.array([0, 0, 0, 0.01]), ("step/others", "loss/minimum")),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_of_the_step_fails(name):
    process = ari.CommutingOrthogonal(DIM)
    best = block_scalar_minimum(dim=DIM, max_length=N_CTX, conjugate_pairs=True)
    sabotage, rows = SABOTAGE[name]
    claims = ari.verify(exact_run(scalar_layer(sabotage(best.a), best.b, process=process)), n=64)
    for row in rows:
        assert claims[row].verdict == "fails", row


def test_the_pure_gradient_step_is_not_the_optimum_of_conjugate_pairs():
    eta = optimal_step_size(dim=DIM, max_length=N_CTX)
    claims = verify(exact_run(scalar_layer([0, eta, 0, 0], process=ari.CommutingOrthogonal(DIM))))
    assert claims["step/second path"].verdict == claims["loss/gain"].verdict == "fails"


def full(model, noise, seed=0):
    """The same layer with full matrices, in another basis of the head, and noise on its circuits."""
    config = replace(model.config, heads="full")
    other = ari.HookedARTransformer(config, process=model.process).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    width = config.d_model
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    attn = other.blocks[0].attn
    perturbed = (
        W + noise * W.abs().max() * torch.randn(W.shape, generator=generator, dtype=torch.float64)
        for W in (model.W_Q[0], model.W_V[0])
    )
    Q, V = perturbed
    attn.W_Q.copy_(Q @ turn)
    attn.W_K.copy_(model.W_K[0] @ turn)
    attn.W_V.copy_(V @ turn)
    attn.W_O.copy_(turn.T @ model.W_O[0])
    return other


def test_full_matrices_are_read_in_every_basis_of_the_head():
    process = ari.CommutingUnitary(DIM, first_token="signs")
    eta = optimal_step_size(dim=DIM, max_length=N_CTX)
    exact = scalar_layer([0, eta, 0, 0], process=process)
    claims = ari.verify(full(exact, 0.0), seed=0)
    assert [claim.verdict for claim in claims] == ["holds"] * len(claims)
    noisy = verify(full(exact, 0.2))
    assert noisy["step/QK"].verdict == noisy["step/OV"].verdict == "fails"


def test_full_matrices_are_read_up_to_signs_of_query_and_prediction_together():
    process = ari.CommutingUnitary(DIM, first_token="signs")
    eta = optimal_step_size(dim=DIM, max_length=N_CTX)
    exact = full(scalar_layer([0, eta, 0, 0], process=process), 0.0)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    turned = without_signs(exact, signs)
    assert not torch.allclose(turned.QK.AB, exact.QK.AB)
    before, after = (ari.verify(model, seed=0, n=64) for model in (exact, turned))
    assert [(claim.name, claim.verdict) for claim in after] == [(claim.name, claim.verdict) for claim in before]
    assert_close(without_signs(turned).QK.AB, exact.QK.AB)
    half = without_signs(exact, signs)
    half.blocks[0].attn.W_O.copy_(exact.W_O[0])  # the query's signs alone
    claims = ari.verify(half, n=128)
    assert claims["loss/fresh"].verdict == claims["step/size"].verdict == "fails"


def test_block_view_recovers_what_was_put_in():
    blocks = augmented_blocks(scalar_layer([0.1, 0.2, -0.3, 0.4], (2.0, -1.0), process=ari.CommutingUnitary(3)))
    expected = torch.outer(torch.tensor([0.1, 0.2, -0.3, 0.4], dtype=torch.float64), torch.tensor([2.0, -1.0]).double())
    assert_close(blocks.products, expected)
    assert blocks.step_size == pytest.approx(0.4)
    assert blocks.QK_defect.max() < 1e-15
    assert len(blocks.to_frame()) == 18


def test_block_view_says_what_it_needs():
    with pytest.raises(ValueError, match=r"one head and d_model = 3 dim; W_Q has shape \[1, 2, 9, 9\]"):
        augmented_blocks(ari.HookedARTransformer(ModelConfig.augmented(dim=3, n_ctx=4, n_heads=2)))
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.0, got 1"):
        augmented_blocks(ari.HookedARTransformer(ModelConfig.augmented(dim=3, n_ctx=4)), layer=1)


# ---- first tokens


@pytest.mark.parametrize("law", [ari.FirstToken("gaussian"), ari.FirstToken("sparse", n_nonzero=2)])
def test_first_token_law_holds_at_the_formula_and_fails_beside_it(law):
    process = ari.CommutingUnitary(DIM, first_token=law)
    moments = first_token_moments(law.law, dim=DIM, n_nonzero=law.n_nonzero)
    product = initial_token_product(moments, max_length=N_CTX + 1)
    claims = ari.verify(scalar_layer([0, product, 0, 0], process=process, attention="linear/pairs"), seed=0, n=512)
    assert [claim.verdict for claim in claims] == ["holds"] * len(claims)
    claims = verify(scalar_layer([0.1 * product, 1.1 * product, 0, 0], process=process, attention="linear/pairs"))
    assert claims["step/size"].verdict == claims["step/others"].verdict == "fails"


# ---- Haar: references, depth, heads


def test_best_block_scalars_are_those_of_a_commuting_process_too():
    @dataclass(frozen=True)
    class Real(ari.CommutingOrthogonal):
        """The same sequences in a real basis."""

        kind: ClassVar[str] = "real-pairs"

        def sample(self, batch, length, **options):
            return super().sample(batch, length, basis="rotation", **options)

    found = sampled_quadratic(Real(DIM), N_CTX).minimum
    exact = block_scalar_minimum(dim=DIM, max_length=N_CTX, conjugate_pairs=True)
    assert found.loss == pytest.approx(exact.loss, rel=0.01)
    assert found.a[1] == pytest.approx(exact.a[1], rel=0.02)


def test_best_head_is_the_best_of_its_kind():
    # against a fit by gradient descent of the same features at one length, and the exact error of no prediction
    process = ari.HaarOrthogonal(3)
    loss = best_equivariant_head(process, 5)
    assert (
        0.5 < loss < 0.75
    )  # between the d = 3 errors at T = 3 and T = 5 of an independent optimisation, .644 and .643
    tokens = process.sample(4000, 6, seed=0).tokens
    p = torch.tensor([0.0, 0.0, 0.0, -0.3, 0.5], dtype=torch.float64)
    scores = torch.einsum("bi,bti->bt", tokens[:, 3], tokens[:, :5])
    other = torch.einsum("t,bt,bti->bi", p, scores, tokens[:, :5])
    assert (other - tokens[:, 5]).square().sum(-1).mean() > loss - 0.05


def zero_second_layer(layer):
    """The one layer, and above it one that writes nothing."""
    config = replace(layer.config, n_layers=2)
    model = ari.HookedARTransformer(config, process=HAAR)
    with torch.no_grad():
        for name in ("QK_blocks", "OV_blocks"):
            getattr(model.blocks[0].attn, name).copy_(getattr(layer.blocks[0].attn, name))
            getattr(model.blocks[1].attn, name).zero_()
    return model


def stack_run(n_layers, steps, *, attention="linear/keys"):
    """A run whose seeds have the losses of this many gradient steps."""
    config = ModelConfig.augmented(dim=5, n_ctx=20, n_layers=n_layers, heads="block-scalar", attention=attention)
    curve = gradient_descent_curve(HAAR, length=20, per_pair=attention != "linear", trim=0.01).set_index("k")[
        "error_per_token"
    ]
    losses = [curve[k] for k in steps]
    members = pd.DataFrame({"seed": range(len(steps)), "loss": losses, "trimmed": losses})
    model = ari.HookedARTransformer(config, process=HAAR)
    return run_of(model, ari.TrainConfig(objective="sampled", optimizer="adam"), members)


def test_what_training_logged_is_counted_in_gradient_steps_and_bound_to_the_weights():
    claims = verify(stack_run(2, [4, 4, 4]))
    assert claims["depth/seeds"].verdict == "holds"
    assert claims["depth/log"].verdict == "fails"  # of untrained weights that say they are worth 4 steps
    claims = verify(stack_run(2, [2, 2, 2]))
    assert claims["depth/seeds"].verdict == "fails"


def test_one_step_dressed_as_two_layers_is_worth_one_step():
    """The second layer writes nothing: neither its steps, nor its layers, nor its tokens are those of a stack."""
    model = zero_second_layer(one_gradient_step(0.1, HAAR))
    claims = verify(model, process=HAAR)
    for name in ("depth/steps", "depth/every length", "depth/every layer", "depth/tokens"):
        assert claims[name].verdict == "fails", name


def test_a_stack_that_blows_up_is_seen():
    run = stack_run(2, [4, 4])
    wild = {name: 3 * tensor for name, tensor in run.config.initial_parameters(seed=1).items()}
    run.model.load_state_dict({name: 10 * tensor for name, tensor in wild.items()})
    assert verify(run)["loss/blow-ups"].verdict == "fails"


def test_parity_holds_for_any_weights_that_predict_nothing_and_fails_for_large_ones():
    config = ModelConfig.full(dim=5, n_ctx=6, n_heads=2, query_lag=0, init_scale=1e-3)
    small = ari.HookedARTransformer(config, process=HAAR)
    assert {claim.verdict for claim in verify(small) if claim.structure != "model"} == {"holds"}
    large = ari.HookedARTransformer(replace(config, init_scale=1.0), process=HAAR)
    claims = verify(large)
    assert claims["mechanism/parity"].verdict == "holds"  # whatever the weights
    for name in ("loss/parity", "loss/removed", "mechanism/silent"):
        assert claims[name].verdict == "fails", name


def with_heads(A, B, first="sphere"):
    """One layer of full heads A_h, B_h that reads the newest key alone, as strongly as is best."""
    process, n_heads = ari.HaarOrthogonal(5, first_token=first), len(A)
    config = ModelConfig.full(dim=5, n_ctx=6, n_heads=n_heads, init_scale=0.3)
    model = ari.HookedARTransformer(config, process=process).requires_grad_(False)
    attn = model.blocks[0].attn
    attn.W_Q.copy_(A)
    attn.W_V.copy_(B)
    attn.W_K.copy_(torch.eye(5))
    attn.W_O.copy_(torch.eye(5))
    model.P.copy_(torch.eye(6).roll(1, 1))
    return model


IDENTITY = torch.eye(5, dtype=torch.float64)
ALONG = torch.full((5, 5), 0.2, dtype=torch.float64)  # s_1 s_1^T
TURNED = IDENTITY[[1, 0, 2, 3, 4]]


@pytest.mark.parametrize(
    ("A", "B", "first", "verdict"),
    [
        ([IDENTITY], [IDENTITY], "sphere", "holds"),
        ([3 * IDENTITY, IDENTITY], [IDENTITY, -2 * IDENTITY], "sphere", "holds"),
        ([TURNED], [IDENTITY], "sphere", "fails"),
        ([IDENTITY + ALONG], [IDENTITY], "sphere", "fails"),
        ([IDENTITY + ALONG], [IDENTITY], "unit-ones", "holds"),
        ([TURNED + ALONG], [IDENTITY], "unit-ones", "fails"),
    ],
)
def test_heads_are_invariant_under_the_rotations_that_the_first_token_leaves(A, B, first, verdict):
    claims = verify(with_heads(torch.stack(A), torch.stack(B), first))
    assert claims["mechanism/invariant"].verdict == claims["mechanism/unexplained"].verdict == verdict
    assert claims["mechanism/newest key"].measured == pytest.approx(1)  # there is no other


def test_parts_of_a_stack_that_learned_nothing_carry_nothing():
    claims = verify(ari.HookedARTransformer(ModelConfig.paper_figure5(n_layers=2), process=HAAR))
    assert claims["loss/figure"].verdict == "fails"
    for name in ("unexplained", "first step", "layers", "length", "biases"):
        assert claims[f"mechanism/{name}"].verdict != "holds", name
    claims = verify(ari.HookedARTransformer(ModelConfig.paper_figure7(n_heads=5), process=HAAR))
    assert claims["loss/figure"].verdict == "fails"
    for name in ("unexplained", "second key", "midpoint"):
        assert claims[f"mechanism/{name}"].verdict == "fails", name


def test_one_head_is_the_best_for_random_first_tokens_only():
    process = ari.HaarOrthogonal(5, first_token="sphere")
    config = ModelConfig.full(dim=5, n_ctx=6, n_heads=1)
    model = ari.HookedARTransformer(config, process=process)
    assert verify(model)["loss/one head"].verdict == "fails"
    fixed = verify(model, process=HAAR)
    assert fixed["loss/many heads"].verdict == "fails"


# ---- what theory says nothing of


@pytest.mark.parametrize(
    ("config", "process"),
    [
        (ModelConfig.augmented(dim=5, n_ctx=8, biases=True), HAAR),
        (ModelConfig.augmented(dim=5, n_ctx=8, n_heads=2), HAAR),
        (ModelConfig.augmented(dim=5, n_ctx=8, heads="block-scalar"), ari.HaarOrthogonal(5, noise=0.1)),
        (ModelConfig.augmented(dim=5, n_ctx=8, n_layers=2), ari.CommutingUnitary(5)),
        (ModelConfig.augmented(dim=5, n_ctx=8), ari.CommutingUnitary(5, first_token="gaussian")),
        (ModelConfig.augmented(dim=5, n_ctx=8), ari.CommutingUnitary(5, mu=2.0)),
        (ModelConfig.full(dim=5, n_ctx=8, n_heads=2, n_layers=2), HAAR),
        (ModelConfig.paper_figure5(n_ctx=8), HAAR),
    ],
    ids=str,
)
def test_where_theory_is_silent_it_makes_no_claim_and_says_why(config, process):
    claims = verify(config.build(process=process))
    assert [claim.name for claim in claims] == ["model/function"]
    assert claims.passed  # void of untrained layers whose predictions are as small as rounding
    assert re.match("no part of theory speaks of|noise is 0.1|first_token is|mu is 2", claims.why_not)
    with pytest.raises(KeyError, match=r"no claim 'loss/fresh' is made of .*; made are model/function"):
        claims["loss/fresh"]


def test_without_a_process_the_function_is_compared_all_the_same():
    claims = verify(ari.HookedARTransformer(ModelConfig.augmented(dim=5, n_ctx=8)))
    assert [(claim.name, claim.verdict) for claim in claims] == [("model/function", "holds")]
    assert "the process is not known" in claims.why_not
