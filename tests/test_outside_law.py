"""Errors outside the training law: closed forms against sampling, and what the probe measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ar_interp as ari
from ar_interp import seeds
from ar_interp.claims import subject_of
from ar_interp.models.config import ModelConfig
from ar_interp.probes.outside import AS_TRAINED, Condition, conditions, counted, no_longer, outside_errors
from ar_interp.studies import outside
from ar_interp.theory import kappa_family, projector_family

N_CTX = 5
OFF = Condition(name="off", norm=1.3, radius=0.8)


def diagonal(family: str, kappa: float = 0.0, rank: int = 4):
    """Diagonal heads at their minimum."""
    process = {"unitary": ari.CommutingUnitary, "orthogonal": ari.CommutingOrthogonal}[family](4)
    if family == "unitary":
        found = projector_family(torch.diag(torch.tensor([1.0] * rank + [0.0] * (4 - rank))), n_ctx=N_CTX)
    else:
        found = kappa_family(dim=4, kappa=kappa, n_ctx=N_CTX)
    A, B = ari.theory.factor_heads(found.C.double(), n_heads=4)
    return ari.HookedARTransformer.from_diagonal(A, B, found.P, process=process)


def step(eta: float, n_ctx: int = N_CTX):
    """One gradient step of this size."""
    model = ari.HookedARTransformer(ModelConfig.augmented(dim=3, n_ctx=n_ctx, heads="block-scalar"))
    QK, OV = (torch.zeros(1, 3, 3, dtype=torch.float64) for _ in range(2))
    QK[0, 1, 2], OV[0, 1, 0] = eta, 1
    model.load_state_dict({"blocks.0.attn.QK_blocks": QK, "blocks.0.attn.OV_blocks": OV})
    return model


def errors(model, process, condition, n=4000):
    """Error at every T, means over contexts and their standard errors."""
    contexts = condition.contexts(process, n, N_CTX, seed=seeds.OUTSIDE)
    with torch.no_grad():
        found = contexts.errors(model(contexts.inputs))[:, 1:]
    return found.mean(0).numpy(), found.std(0).numpy() / n**0.5


@pytest.mark.parametrize(
    ("family", "kappa", "rank"), [("unitary", 0, 4), ("unitary", 0, 2), ("orthogonal", 1, 4), ("orthogonal", 0.4, 4)]
)
def test_heads_off_the_circle_err_as_theory_says(family, kappa, rank):
    model = diagonal(family, kappa, rank)
    found, error = errors(model, model.process, OFF)
    options = {"dim": 4, "covered": rank, "kappa": kappa, "norm": OFF.norm, "radius": OFF.radius}
    predicted = np.array([ari.theory.recurrence_error(length=T, **options) for T in range(2, N_CTX + 1)])
    assert (np.abs(found - predicted) < 4 * error + 1e-12).all()
    other = np.array([ari.theory.recurrence_error(length=T, **options | {"radius": 0.85}) for T in range(2, N_CTX + 1)])
    assert (np.abs(found - other) > 4 * error + 1e-12).any()


def test_a_gradient_step_off_the_circle_errs_as_theory_says():
    found, error = errors(step(0.2), ari.CommutingUnitary(3), OFF)
    options = {"dim": 3, "step_size": 0.2, "norm": OFF.norm, "radius": OFF.radius}
    predicted = np.array([ari.theory.step_error(length=T, **options) for T in range(2, N_CTX + 1)])
    assert (np.abs(found - predicted) < 4 * error).all()


def test_on_the_circle_the_step_has_the_loss_of_training():
    options = {"dim": 3, "length": 7, "step_size": 0.11}
    assert ari.theory.step_error(**options) == pytest.approx(ari.theory.one_step_loss(**options))


def test_under_noise_the_last_pair_errs_as_theory_says_and_least_squares_less():
    condition = Condition(name="noise", noise=0.1)
    found, error = errors(diagonal("unitary"), ari.CommutingUnitary(4), condition)
    lengths = range(2, N_CTX + 1)
    predicted = np.array([ari.theory.last_pair_noise_error(dim=4, length=T, noise=0.1) for T in lengths])
    assert (np.abs(found - predicted) < 4 * error).all()
    contexts = condition.contexts(ari.CommutingUnitary(4), 4000, N_CTX, seed=seeds.OUTSIDE)
    least = contexts.errors(ari.estimators.DiagonalOLS()(contexts.pairs()))[:, 1:].mean(0).numpy()
    weak = np.array([ari.theory.least_squares_noise_error(dim=4, length=T, noise=0.1) for T in lengths])
    assert np.abs(least / weak - 1).max() < 0.05


@pytest.mark.parametrize("noise", [0.01, 0.001])
def test_for_weak_noise_the_last_pair_has_an_error_that_grows_with_the_length(noise):
    found = ari.theory.last_pair_noise_error(dim=3, length=9, noise=noise)
    assert found == pytest.approx(2 * 3 * 8 * noise**2, rel=20 * 8 * noise**2)


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="covered must be"):
        ari.theory.recurrence_error(dim=2, covered=3, length=2)
    with pytest.raises(ValueError, match="radius must be"):
        ari.theory.step_error(dim=2, length=2, step_size=1, radius=0)


class TestConditions:
    @pytest.mark.parametrize(
        "process",
        [
            ari.CommutingUnitary(4),
            ari.CommutingOrthogonal(4),
            ari.HaarOrthogonal(4),
            ari.CommutingUnitary(4, first_token=ari.FirstToken("sparse", n_nonzero=2)),
        ],
        ids=lambda p: f"{p.kind} {p.initial.law}",
    )
    def test_they_change_one_thing_of_the_same_W(self, process):
        own = Condition(name=AS_TRAINED).contexts(process, 3000, N_CTX, seed=3)
        size = own.inputs[:, 0].abs().square().sum(-1).mean()
        for condition in conditions(process):
            drawn = condition.contexts(process, 3000, N_CTX, seed=3)
            assert drawn.length == condition.longer * N_CTX
            torch.testing.assert_close(drawn.W, condition.radius * own.W)
            if not condition.noise:
                following = torch.einsum("bij,btj->bti", drawn.W, drawn.inputs)
                torch.testing.assert_close(following, drawn.targets)
            first = drawn.inputs[:, 0].abs().square().sum(-1).mean()
            assert first.item() == pytest.approx(condition.norm**2 * size.item(), rel=0.1)

    def test_noise_is_a_share_of_a_coordinate(self):
        process = ari.HaarOrthogonal(4)
        drawn = Condition(name="noise", noise=0.3).contexts(process, 4000, 2, seed=3)
        xi = drawn.targets - torch.einsum("bij,btj->bti", drawn.W, drawn.inputs)
        assert xi.square().mean().sqrt().item() == pytest.approx(0.3 * 0.5, rel=0.02)

    def test_only_lengths_beyond_training_count_of_longer_contexts(self):
        process, condition = ari.CommutingUnitary(2), Condition(name="longer", longer=2)
        contexts = condition.contexts(process, 3, N_CTX, seed=3)
        predictions = contexts.targets.clone()
        predictions[:, :N_CTX] = 7
        assert counted(contexts, predictions, condition, N_CTX)[0].abs().max() == 0


class TestProbe:
    def test_theorys_model_errs_like_one_at_the_minimum_and_least_squares_does_not(self):
        model = diagonal("orthogonal", 1.0)
        theory = ari.setting_of(ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX), model.process).ideal(model)
        found = outside_errors(model, theory=theory, n=16)
        by = found.by_condition.pivot(index="condition", columns="predictor", values="relative_error")
        np.testing.assert_allclose(by["model"], by["theory"], atol=1e-12)
        assert by.loc["norm × 2", "model"] == pytest.approx(9)
        assert by.loc["|λ| = 0.9", "least squares by coordinate"] < 1e-12 < by.loc["|λ| = 0.9", "model"]
        assert list(found.undefined) == ["twice as long"]
        assert "multiplicative" in found.undefined["twice as long"]

    def test_longer_contexts_are_predicted_with_the_same_weights(self):
        model = step(0.2)
        found = outside_errors(model, ari.CommutingUnitary(3), n=16).by_condition
        rows = found[(found["condition"] == "twice as long") & (found["predictor"] == "model")]
        predicted = [ari.theory.step_error(dim=3, length=T, step_size=0.2) for T in range(N_CTX + 1, 2 * N_CTX + 1)]
        assert abs(rows["relative_error"].item() - np.mean(predicted) / 3) < 4 * rows["relative_error_se"].item()
        tokens = ari.CommutingUnitary(3).contexts(4, N_CTX, seed=0).inputs
        longer = model.lengthened(9)
        assert torch.equal(longer(tokens), model(tokens))
        assert (longer.config.n_ctx, longer.cfg.n_ctx, model.config.n_ctx) == (9, 9, N_CTX)
        with pytest.raises(ValueError, match=rf"n_ctx = {N_CTX} positions, got 9. .* model.lengthened\(9\)"):
            model(ari.CommutingUnitary(3).contexts(4, 9, seed=0).inputs)
        with pytest.raises(ValueError, match=f"n_ctx must be at least {N_CTX}, got 1"):
            model.lengthened(1)

    def test_a_model_with_positions_takes_no_longer_contexts(self):
        model = ari.HookedARTransformer(ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX))
        with pytest.raises(ValueError, match=f"got 99: its multiplicative encoding ends at T = {N_CTX}. Train"):
            model.lengthened(99)

    def test_the_ideal_of_few_heads_carries_what_the_model_carries(self):
        model = diagonal("unitary", rank=2)
        turned = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=seeds.generator_of(0)))[0][:, :2]
        found = projector_family(turned @ turned.T, n_ctx=N_CTX, scale=-2.0)
        A, B = ari.theory.factor_heads(found.C, n_heads=2)
        model = ari.HookedARTransformer.from_diagonal(A, B, found.P, process=model.process)
        tokens = model.process.contexts(4, N_CTX, seed=0).inputs
        torch.testing.assert_close(ari.setting_of(model.config, model.process).ideal(model)(tokens), model(tokens))

    def test_a_process_must_be_known(self):
        with pytest.raises(ValueError, match="process is needed"):
            outside_errors(step(0.1))

    def test_the_condition_as_trained_is_the_training_law(self):
        process = replace(ari.CommutingUnitary(3), first_token="signs")
        own = process.contexts(4, N_CTX, seed=1)
        assert torch.equal(conditions(process)[0].contexts(process, 4, N_CTX, seed=1).tokens, own.tokens)


class TestClaims:
    @pytest.fixture
    def claims_of(self):
        def claims(model, process, n=64):
            subject = subject_of(model, process, n=n, seed=3)
            return {claim.name: claim for claim in outside.STUDY.claims(subject)}

        return claims

    @pytest.mark.parametrize(("family", "kappa"), [("unitary", 0.0), ("orthogonal", 0.4)])
    def test_heads_at_the_minimum_err_as_theorys_do(self, family, kappa, claims_of):
        model = diagonal(family, kappa)
        assert {claim.verdict for claim in claims_of(model, model.process).values()} == {"holds"}

    def test_what_agrees_on_the_training_law_differs_outside(self, claims_of):
        """Heads that divide by |s_{T-1}|^2 predict as well as trained ones where every coordinate has modulus 1."""
        model = diagonal("unitary")
        own = model.forward
        model.forward = lambda tokens, *a, **k: (
            own(tokens, *a, **k) / torch.cat([tokens[:, :1], tokens[:, :-1]], 1).abs().square()
        )
        contexts = model.process.contexts(4, N_CTX, seed=0)
        assert contexts.losses(model(contexts.inputs)).max() < 1e-20
        assert {claim.verdict for claim in claims_of(model, model.process).values()} == {"fails"}

    def test_a_step_of_the_trained_size_goes_on_as_theory_says_and_another_does_not(self, claims_of):
        process = ari.CommutingUnitary(3)
        right, wrong = (
            claims_of(step(factor * ari.theory.optimal_step_size(dim=3, max_length=N_CTX)), process, n=256)
            for factor in (1.0, 1.3)
        )
        assert {claim.verdict for claim in right.values()} == {"holds"}
        assert {name for name, claim in wrong.items() if claim.verdict == "fails"} >= {"outside/norm", "outside/longer"}

    @pytest.mark.parametrize(
        ("config", "process"),
        [
            (ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX), ari.CommutingUnitary(4)),
            (ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=N_CTX), ari.CommutingUnitary(4)),
            (ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=N_CTX), ari.CommutingOrthogonal(4)),
            (ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=N_CTX), ari.CommutingOrthogonal(4)),
            (ModelConfig.augmented(dim=3, n_ctx=N_CTX, heads="block-scalar"), ari.CommutingUnitary(3)),
            (
                ModelConfig.augmented(dim=3, n_ctx=N_CTX, heads="block-scalar", attention="linear/pairs"),
                ari.CommutingUnitary(3, first_token="gaussian"),
            ),
        ],
        ids=["few heads", "unitary", "pairs", "free kappa", "step", "first token"],
    )
    def test_closed_forms_are_the_errors_of_theorys_weights(self, config, process):
        setting = ari.setting_of(config, process)
        ideal = setting.ideal(config.build(process))
        known = 0
        for condition in (
            Condition(name="noise", noise=0.2),
            Condition(name="norm", norm=2.0),
            Condition(name="circle", radius=0.9),
            Condition(name="longer", longer=2),
        ):
            expected = outside.closed_form(setting, condition, ideal)
            if expected is None or (condition.longer > 1 and no_longer(config)):
                continue
            known += 1
            contexts = condition.contexts(process, 8000, N_CTX, seed=seeds.OUTSIDE)
            model = ideal.lengthened(2 * N_CTX) if condition.longer > 1 else ideal
            found = counted(contexts, model(contexts.inputs), condition, N_CTX)[0]
            assert abs(found.mean() - expected) < 4 * found.std() / 8000**0.5 + 1e-12
        assert known

    def test_a_stack_is_not_scale_free_and_prefers_no_direction(self, claims_of):
        config = ModelConfig.augmented(dim=3, n_ctx=6, n_layers=2, heads="block-scalar", attention="linear/keys")
        found = claims_of(config.build(), ari.HaarOrthogonal(3))
        assert set(found) == {"outside/smaller", "outside/growth", "outside/directions"}
        assert found["outside/directions"].verdict == "holds"
        assert found["outside/smaller"].control.measured == pytest.approx(1)

    def test_few_contexts_of_a_fixed_first_token_are_measured(self, claims_of):
        config = ModelConfig.full(dim=3, n_ctx=4, n_heads=1)
        assert list(claims_of(config.build(), ari.HaarOrthogonal(3), n=8)) == ["outside/any first token"]
        assert claims_of(config.build(), ari.HaarOrthogonal(3, first_token="sphere"), n=8) == {}
