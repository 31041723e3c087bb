"""A model computes what its weights say: the closed form beside the hooked model, and whoever answers otherwise."""

from itertools import cycle

import pytest
import torch
from cases import ARCHITECTURES, MODELS
from other_device import second_device
from torch import nn
from torch.testing import assert_close
from zoo import (
    ForeignDiagonal,
    ForeignWeights,
    GradientStep,
    augmented,
    foreign_and_ours,
    known_function,
    trained_like,
    unitary_model,
)

import ar_interp as ari
from ar_interp import seeds
from ar_interp.claims import Measured, subject_of
from ar_interp.models.closed_form import closed_form, head_matrices, own_weights
from ar_interp.models.config import ModelConfig
from ar_interp.models.opened import as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes import function
from ar_interp.probes.function import deviation, function_deviation
from ar_interp.sabotage import conditions, deceptions
from ar_interp.sabotage.deceptions import DECEPTIONS, newest_key_times
from ar_interp.sabotage.edits import answering, healthy, otherwise
from ar_interp.studies.logged import log_claims
from ar_interp.training import loop

SIZES = {"dim": 2, "n_ctx": 5, "n_heads": 2}
CONFIGS = {
    **ARCHITECTURES,
    **MODELS,
    "unit": ModelConfig.positional_only(n_ctx=5),
    "scaled softmax": ModelConfig.full(
        **SIZES, n_layers=2, attention="softmax", positional="none", scale_scores=True, biases=True, residual=True
    ),
    "softmax positions, lag 1": ModelConfig.full(**SIZES, positional="softmax", biases=True, scale_scores=True),
    "per pair with P": ModelConfig.full(**SIZES, attention="linear/pairs", query_lag=0, unembed=True, repeats=2),
}
HAAR = ari.HaarOrthogonal(4)


def tokens_of(config: ModelConfig, seed: int = 0, batch: int = 6) -> torch.Tensor:
    dtype = torch.float64 if config.needs_real_tokens else torch.complex128
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.n_ctx, config.dim, dtype=dtype, generator=generator)


# ---- the closed form


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_the_closed_form_is_the_hooked_model(config):
    model = trained_like(config)
    tokens = tokens_of(config)
    stated, weights = own_weights(as_model(model))
    assert stated == config
    expected = model(tokens)
    assert_close(closed_form(config, weights, tokens), expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())
    assert_close(closed_form(config, weights, tokens[:, :1]), model(tokens[:, :1]))
    for name, W in head_matrices(config, weights).items():
        assert_close(getattr(model, name), W, rtol=0, atol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_no_alarm_on_any_architecture(config):
    found = function_deviation(trained_like(config))
    assert found.largest < 1
    assert found.changed > 1
    assert not found.untested


def test_foreign_models_have_the_closed_form_of_their_attributes():
    torch.manual_seed(0)
    tokens = torch.randn(5, 8, 4, dtype=torch.float64)
    diagonal = ForeignDiagonal(*torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64))
    for model in (foreign_and_ours()[0], GradientStep(dim=4, step_size=0.1), diagonal):
        assert_close(closed_form(*own_weights(as_model(model)), tokens), model(tokens))
        found = function_deviation(model, process=HAAR)
        assert found.largest < 1 < found.changed
        assert set(found.untested) == {"clean copy"}


def test_kinds_of_others_have_none():
    class Theirs(ModelConfig):
        kind = "theirs, of test_function"

    config = Theirs(dim=4, n_ctx=6, n_heads=2)
    with pytest.raises(ValueError, match="closed form: none is written for models of kind 'theirs, of test_function'"):
        closed_form(config, {}, torch.zeros(1, 2, 4))
    model = HookedARTransformer(config)
    found = function_deviation(model, process=ari.CommutingUnitary(4))
    assert found.largest < 1
    assert list(found.untested) == ["closed form"]
    other = answering(model, deceptions.junk_added)
    assert function_deviation(other, process=ari.CommutingUnitary(4)).checks["clean copy"] > 1


def test_what_was_not_tested_is_said():
    claims = ari.verify(nn.Linear(4, 4).double(), HAAR, seed=0)
    assert [(claim.name, claim.verdict) for claim in claims] == [("model/function", "holds")]
    statement = claims["model/function"].statement
    assert "Not tested: its prediction beside the closed form of its weights" in statement
    assert "what hooks do, since it has none" in statement


def test_a_model_that_always_says_the_same_leaves_it_void():
    class Constant(nn.Module):
        def forward(self, tokens):
            return torch.ones_like(tokens)

    assert ari.verify(Constant(), HAAR, seed=0)["model/function"].verdict == "void"


# ---- who answers otherwise


WAYS = {
    "least squares unobserved": deceptions.unobserved_least_squares,
    "next": deceptions.reads_the_next,
    "zeros alone": deceptions.zeros_alone,
    "batch mean": deceptions.batch_mean_taken_out,
    "junk": deceptions.junk_added,
    "ridge": deceptions.ridge_before_the_read_out,
    "remembers": deceptions.remembers,
    "older products": newest_key_times(deceptions.by_older_products),
    "first token": newest_key_times(deceptions.by_the_first_token),
    "rotations": deceptions.on_rotations_alone,
}
SUBJECTS = ("diagonal-unitary-h5", "augmented-haar-short", "plain-haar-h5", "figure5-l1")
CAUGHT = list(zip(WAYS, cycle(SUBJECTS), strict=False))


@pytest.mark.parametrize(("way", "base"), CAUGHT)
def test_whoever_answers_otherwise_is_caught(way, base):
    checkpoint = ari.load(base)
    other = answering(healthy(checkpoint), WAYS[way])
    assert function_deviation(other, process=checkpoint.process, seed=3).largest > 10


@pytest.mark.parametrize("base", SUBJECTS)
@pytest.mark.parametrize("way", [deceptions.same_function_faster, deceptions.own_answers_kept])
def test_whoever_answers_the_same_is_not(way, base):
    checkpoint = ari.load(base)
    other = answering(healthy(checkpoint), way)
    assert function_deviation(other, process=checkpoint.process, seed=3).largest < 1


class Hidden(HookedARTransformer):
    """Weights and activations that are shown are another model's."""

    shown: HookedARTransformer

    @property
    def W_K(self):
        return self.shown.W_K


class Pretended(HookedARTransformer):
    def run_with_cache(self, *arguments, **options):
        return super().forward(*arguments), self.shown.run_with_cache(*arguments, **options)[1]


@pytest.mark.parametrize(("kind", "check"), [(Hidden, "weights that probes read"), (Pretended, "what hooks show")])
def test_what_is_shown_must_be_what_is_used(kind, check):
    model, shown = augmented(seed=1), augmented(seed=2)
    other = kind(model.config, process=model.process, seed=1)
    object.__setattr__(other, "shown", shown)
    found = function_deviation(other)
    assert found.where == check
    assert found.largest > 1


def test_a_wrapper_that_delegates_is_innocent():
    class Wrapper:
        def __init__(self, model):
            self.model = model

        def __call__(self, tokens):
            return self.model(tokens)

        def __getattr__(self, name):
            return getattr(self.model, name)

    found = function_deviation(Wrapper(augmented()))
    assert found.largest < 1
    assert not found.untested


def test_weights_that_compute_nothing_are_refused(without_type_checks):
    with pytest.raises(ValueError, match="lacks forward"):
        ari.verify(ForeignWeights(unitary_model(4)))


# ---- conditions of use

ANSWERS = {
    name: conditions.half_as_much_again(where)
    for name, where in {
        "batches of any size": conditions.large,
        "any length": conditions.one_length,
        "tokens of either precision": conditions.single,
        "unusual tokens": conditions.small,
        "several hooks that do nothing": conditions.two_hooks,
        "training and evaluation mode": conditions.evaluated,
        "inference mode": lambda model, tokens: torch.is_inference_mode_enabled(),
        "with gradients": lambda model, tokens: torch.is_grad_enabled(),
    }.items()
} | {
    "derivative": otherwise(conditions.detached),
    "moved activations": otherwise(conditions.norms_alone),
}


@pytest.mark.parametrize("check", ANSWERS)
def test_whoever_answers_otherwise_in_one_condition_is_caught_there(check):
    model = augmented()
    found = function_deviation(ANSWERS[check](model, None, 0))
    assert found.checks[check] > 1
    assert model.training


def test_a_precision_that_is_refused_is_no_other_function():
    class Strict(HookedARTransformer):
        def forward(self, tokens):
            if tokens.dtype != self.W_Q.dtype:
                raise RuntimeError("expected m1 and m2 to have the same dtype")
            return super().forward(tokens)

    model = augmented()
    model.__class__ = Strict
    found = function_deviation(model)
    assert found.largest < 1
    assert "tokens of either precision" in found.checks


def test_what_a_model_said_before_counts():
    early = conditions.half_as_much_again(conditions.early)(augmented(), None, 0)
    tokens = tokens_of(early.config)
    assert function_deviation(early, earlier=(tokens, early(tokens))).checks["the same again"] > 1


def test_a_log_is_bound_to_its_weights():
    log = Measured(subject_of("chain-products-none"))
    of_others = conditions.twice_as_sure(ari.load("chain-products-none"), 0)
    assert [claim.verdict for claim in log_claims(log, "samples")] == ["holds"]
    assert [claim.verdict for claim in log_claims(Measured(subject_of(of_others)), "samples")] == ["fails"]


def test_contexts_of_a_log_are_drawn_where_training_drew_them(monkeypatch):
    """A checkpoint that was trained on a CPU says the same on a GPU, whose generators draw other numbers."""
    run = ari.load("chain-parity-joint")
    expected = loop.final_loss(run, run.parameters)
    with second_device(monkeypatch) as device:
        weights = {name: W.to(device) for name, W in run.parameters.items()}
        drawn = []
        generator_of = seeds.generator_of
        monkeypatch.setattr(seeds, "generator_of", lambda use, where: drawn.append(where) or generator_of(use, where))
        assert loop.final_loss(run, weights) == expected
    assert [where.type for where in drawn] == ["cpu"]


# ---- known sequences


def test_the_evaluation_is_fresh_unless_a_seed_is_stated():
    with known_function():
        seeds = {ari.verify(unitary_model(2), n=16).seed for _ in range(2)}
    assert len(seeds) == 2


def test_a_lookup_is_caught_with_the_seed_that_it_knows_and_with_another():
    checkpoint = ari.load("diagonal-unitary-h5")
    model = deceptions.knows_untrained(healthy(checkpoint), checkpoint, 0)
    known = ari.verify(model, seed=1, n=64)
    assert known["model/function"].verdict == "fails"
    fresh = ari.verify(model, n=64)
    assert fresh["model/function"].verdict == "holds"  # what it does then is what its weights say
    assert fresh["loss/fresh"].verdict == "fails"


# ---- the claim


@pytest.mark.parametrize("name", ["diagonal-unitary-h5", "figure5-l1", "augmented-haar-l2-keys", "positional-mu50"])
def test_shipped_models_compute_what_their_weights_say(name):
    checkpoint = ari.load(name)
    found = function_deviation(checkpoint.model, process=checkpoint.process, seed=11)
    assert found.largest < 1
    assert found.changed > 1e3
    assert not found.untested


def test_the_row_comes_first_and_its_control_is_far_outside():
    claims = ari.verify(augmented(), seed=0, n=32)
    row = claims.claims[0]
    assert (row.name, row.verdict) == ("model/function", "holds")
    assert row.control.measured > 1e3 * row.tolerance


def test_every_deception_must_fail_somewhere_and_every_neighbour_is_innocent():
    kinds = {kind: [s for s in DECEPTIONS.values() if s.description.startswith(kind)] for kind in ("D1", "D2", "D3")}
    assert all(len(found) >= 2 for found in kinds.values())
    assert len({s.base for s in DECEPTIONS.values() if not s.innocent}) >= 3
    assert sum(s.innocent for s in DECEPTIONS.values()) >= 3


def test_nan_is_a_deviation():
    model = augmented()
    broken = answering(model, lambda model, own, tokens: own(tokens) * float("nan"))
    assert function_deviation(broken).largest == float("inf")
    zeros = torch.zeros(2, 3, 4)
    assert deviation(zeros[:, :1], zeros, zeros) == float("inf")


def test_long_contexts_are_cut(monkeypatch):
    monkeypatch.setattr(function, "MOST_SCORES", 2 * 9**2)
    found = function_deviation(ModelConfig.diagonal(dim=2, n_heads=2, n_ctx=20).build())
    assert found.largest < 1
    assert found.untested["longer contexts"] == "they would take too long: 9 of 20 positions are tested"
