"""The batched forms, and the fast steps, against differentiating the hooked model: losses and gradients."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import ARCHITECTURES
from torch.func import functional_call
from torch.testing import assert_close

from ar_interp.models.attention_types import LinearAttention, NonlinearAttention
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingUnitary, HaarOrthogonal
from ar_interp.training import batched as batched_forms
from ar_interp.training import objectives
from ar_interp.training.batched import OwnModel, SharedPositions, Stack, SumOfHeads, form_of
from ar_interp.training.fast import available, fast_step
from ar_interp.training.objectives import at_once, compiled_where_possible, mean_errors, value_and_gradients

DIM, N_CTX, SEEDS, BATCH = 3, 27, (3, 4), 5  # more positions than a chunk, and not a multiple of it
SIZES = {"dim": DIM, "n_ctx": N_CTX}
DOUBLE = {**SIZES, "dtype": "float64"}
BLOCKS = {**SIZES, "heads": "block-scalar"}
FAST = {
    "one full layer": ModelConfig.augmented(**SIZES),
    "three full layers, narrow heads": ModelConfig.augmented(**SIZES, n_layers=3, d_head=4),
    "block scalars": ModelConfig.augmented(**BLOCKS, n_layers=2, init_scale=0.3),
    "block scalars / keys": ModelConfig.augmented(**BLOCKS, n_layers=3, attention="linear/keys", init_scale=0.5),
    "divided by pairs, with biases": ModelConfig.augmented(
        **SIZES, n_layers=2, attention="linear/pairs", biases=True, scale_scores=True
    ),
    "LayerNorm without biases": ModelConfig.augmented(**SIZES, n_layers=2, layer_norm=True),
    "read-out alone": ModelConfig.augmented(**SIZES, n_layers=2, unembed=True),
    "plain tokens": ModelConfig.full(**SIZES, n_heads=1, n_layers=2, query_lag=0, positional="none", residual=True),
    "figure 5, one layer": ModelConfig.paper_figure5(**DOUBLE),
    "figure 5, two layers": ModelConfig.paper_figure5(**DOUBLE, n_layers=2),
    "figure 5, four layers": ModelConfig.paper_figure5(**DOUBLE, n_layers=4),
    "figure 7, one head": ModelConfig.paper_figure7(**DOUBLE),
    "figure 7, four heads": ModelConfig.paper_figure7(**DOUBLE, n_heads=4),
    "figure 7, nine heads": ModelConfig.paper_figure7(**DOUBLE, n_heads=9),
    "figure 7, nine heads, tokens three times": ModelConfig.paper_figure7(**DOUBLE, n_heads=9, repeats=3),
    "figure 7, tokens three times": ModelConfig.paper_figure7(**DOUBLE, n_heads=2, repeats=3),
}
OTHERS = {
    "diagonal": ModelConfig.diagonal(**SIZES, n_heads=4, init_scale=0.5),
    "many full heads": ModelConfig.full(**SIZES, n_heads=9, init_scale=0.5),
    "many full heads, s_T": ModelConfig.full(**SIZES, n_heads=9, query_lag=0, init_scale=0.5),
    "two block-scalar heads": ModelConfig.augmented(**BLOCKS, n_heads=2, n_layers=3, attention="linear/pairs"),
    "LayerNorm in place of the stream": ModelConfig.augmented(
        **SIZES, n_layers=2, biases=True, layer_norm=True, residual=False
    ),
    **{f"small {name}": config for name, config in ARCHITECTURES.items()},
}
MODELS = FAST | OTHERS


needs_llvmlite = pytest.mark.skipif(not available(), reason="needs the extra fast")


def ensemble(config: ModelConfig) -> dict[str, torch.Tensor]:
    members = [config.initial_parameters(seed=seed) for seed in SEEDS]
    perturbed = torch.Generator().manual_seed(0)  # LayerNorm's weights and inert blocks leave their special values
    return {
        name: torch.stack([m[name] for m in members])
        + 0.1 * torch.randn(len(SEEDS), *members[0][name].shape, generator=perturbed, dtype=torch.float64)
        for name in members[0]
    }


def tokens_of(config, *, batch=BATCH, is_complex=False):
    family = CommutingUnitary if is_complex else HaarOrthogonal
    process = family(config.dim, first_token="sphere", noise=0.1)
    return torch.stack([process.contexts(batch, config.n_ctx, seed=seed).tokens for seed in SEEDS])


def hooked(config, parameters, tokens, first_length):
    """Losses and gradients of each member's own hooked model."""
    model = config.build()

    def losses(p):
        members = [{name: tensor[k] for name, tensor in p.items()} for k in range(len(SEEDS))]
        predictions = torch.stack(
            [functional_call(model, m, (t[:, :-1],)) for m, t in zip(members, tokens, strict=True)]
        )
        error = (predictions - tokens[:, :, 1:])[:, :, first_length - 1 :]
        return error.abs().square().sum((-1, -2)).mean(1)

    return value_and_gradients(losses, parameters)


def assert_same(found, expected):
    assert_close(found[0], expected[0], rtol=1e-11, atol=0)
    assert list(found[1]) == list(expected[1])
    for key, truth in expected[1].items():
        assert_close(found[1][key], truth, rtol=1e-9, atol=1e-11 * truth.abs().max().item() + 1e-14, msg=key)


def batched(config, parameters, tokens, first_length, losses=at_once):
    form = form_of(config, not tokens.is_complex())
    return value_and_gradients(lambda p: losses(form, p, tokens, first_length), parameters)


@pytest.mark.parametrize("name", MODELS)
def test_the_batched_form_is_the_hooked_model(name):
    config, parameters = MODELS[name], ensemble(MODELS[name])
    tokens = tokens_of(config)
    for first_length in (1, 4):
        assert_same(batched(config, parameters, tokens, first_length), hooked(config, parameters, tokens, first_length))
    form = form_of(config)
    predictions = form.predict(form.collapse(parameters, config.n_ctx), tokens[:, :, :-1])
    model = config.build()
    model.load_state_dict({key: tensor[1] for key, tensor in parameters.items()})
    assert_close(predictions[1], model(tokens[1, :, :-1]), rtol=1e-10, atol=1e-10 * float(predictions.abs().max()))


@pytest.mark.parametrize("name", [name for name, config in MODELS.items() if not config.needs_real_tokens])
def test_complex_tokens(name):
    config, parameters = MODELS[name], ensemble(MODELS[name])
    tokens = tokens_of(config, is_complex=True)
    assert_same(batched(config, parameters, tokens, 2), hooked(config, parameters, tokens, 2))


@pytest.mark.parametrize(
    "name", ["figure 5, two layers", "figure 7, four heads", "figure 7, nine heads", "many full heads"]
)
def test_a_batch_in_pieces_is_the_whole(name, monkeypatch):
    config, parameters = MODELS[name], ensemble(MODELS[name])
    tokens, whole = tokens_of(config, batch=7), batched(config, parameters, tokens_of(config, batch=7), 2)
    monkeypatch.setattr(objectives, "fast_step", lambda form: None)
    monkeypatch.setitem(objectives.AT_ONCE, "cpu", 3 * len(SEEDS) * form_of(config).elements(N_CTX) * 8)
    calls = []
    monkeypatch.setattr(objectives, "at_once", lambda *arguments: calls.append(1))
    assert_same(batched(config, parameters, tokens, 2, mean_errors), whole)
    assert not calls


@pytest.mark.parametrize("batch", [7, 8])
def test_products_in_parts_are_the_whole(batch, monkeypatch):
    config, parameters = MODELS["figure 5, two layers"], ensemble(MODELS["figure 5, two layers"])
    tokens = tokens_of(config, batch=batch)
    whole = batched(config, parameters, tokens, 2)
    monkeypatch.setitem(batched_forms.PART, "cpu", 4)
    assert_same(batched(config, parameters, tokens, 2), whole)


@needs_llvmlite
@pytest.mark.parametrize("first_length", [1, 2, 4])
@pytest.mark.parametrize("name", FAST)
def test_the_fast_step_is_the_batched_one(name, first_length):
    config, parameters = FAST[name], ensemble(FAST[name])
    tokens = tokens_of(config)
    expected = batched(config, parameters, tokens, first_length)
    assert_same(batched(config, parameters, tokens, first_length, mean_errors), expected)


@pytest.mark.parametrize(
    "name", ["block scalars / keys", "figure 5, four layers", "figure 7, four heads", "figure 7, nine heads"]
)
def test_shorter_sequences_and_a_large_batch(name):
    config, parameters = FAST[name], ensemble(FAST[name])
    many = HaarOrthogonal(DIM).sample(2 * 1024 + 3, 7, seed=0).tokens.expand(len(SEEDS), -1, -1, -1)
    expected = hooked(config, parameters, many, 2)
    assert_same(batched(config, parameters, many, 2, mean_errors), expected)
    assert_same(batched(config, parameters, many, 2), expected)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig.diagonal(dim=3, n_heads=2, n_ctx=4),
        ModelConfig.augmented(**SIZES, n_heads=2),
        ModelConfig.augmented(**SIZES, d_mlp=4),
        ModelConfig.augmented(**SIZES, attention="softmax"),
        ModelConfig.augmented(**SIZES, residual=False),
        ModelConfig.augmented(**SIZES, positional="additive"),
        ModelConfig.full(**SIZES, n_heads=2, residual=True),
        ModelConfig.full(**SIZES, n_heads=2, biases=True),
        ModelConfig.full(**SIZES, n_heads=2, positional="softmax"),
    ],
    ids=lambda config: config.summary,
)
def test_other_architectures_have_no_fast_step(config):
    assert fast_step(form_of(config)) is None


def test_each_architecture_has_its_form():
    kinds = {name: type(form_of(config)) for name, config in MODELS.items()}
    assert {name for name, kind in kinds.items() if kind is SumOfHeads} == {
        "figure 7, nine heads",
        "figure 7, nine heads, tokens three times",
    }
    assert {"many full heads", "many full heads, s_T"} <= {n for n, kind in kinds.items() if kind is SharedPositions}
    assert kinds["diagonal"] is Stack
    assert OwnModel not in kinds.values()


# ---- other people's


def test_attention_types_of_others(monkeypatch):
    class Halved(LinearAttention):
        kind = "test/halved"

        def share(self, T):
            return 0.5 + 0 * T + 0.01 * torch.arange(len(T), dtype=T.dtype)  # knows the key too

    class Cut(NonlinearAttention):
        kind = "test/cut"

        def pattern(self, scores):
            return scores.clamp(min=0) + 0.1 * scores.clamp(min=-3)

    for kind in ("test/halved", "test/cut"):
        config = ModelConfig.augmented(**SIZES, n_layers=2, n_heads=2, attention=kind)
        parameters, tokens = ensemble(config), tokens_of(config)
        assert_same(batched(config, parameters, tokens, 2), hooked(config, parameters, tokens, 2))


@dataclass(frozen=True, kw_only=True)
class Theirs(ModelConfig):
    """A config of another kind."""

    kind: ClassVar[str] = "test/theirs"


def test_models_of_others_train_through_their_own_module():
    config = Theirs(**SIZES, n_heads=2, heads="full")
    form = form_of(config)
    assert isinstance(form, OwnModel)
    assert fast_step(form) is None
    parameters, tokens = ensemble(config), tokens_of(config)
    expected = hooked(config, parameters, tokens, 2)
    assert_same(batched(config, parameters, tokens, 2), expected)
    real = config.build()

    class Stubborn(torch.nn.Module):  # asks for a number, which vmap refuses
        def forward(self, tokens):
            assert float(tokens.abs().max()) < 1e3
            return functional_call(real, dict(self.weights), (tokens,))

    stubborn = Stubborn()
    stubborn.weights = torch.nn.ParameterDict()
    form.model = stubborn
    with pytest.warns(UserWarning, match="members of 'test/theirs' are computed one by one"):
        stubborn = form.predict({}, tokens[:, :, :-1])
    assert stubborn.shape == tokens[:, :, :-1].shape


# ---- devices


def test_a_compiler_that_fails_is_done_without(monkeypatch):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = compiled_where_possible(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="torch.compile failed"):
        assert double(torch.ones(1)).item() == 2
    assert double(torch.ones(1)).item() == 2  # and says so once


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
def test_the_form_is_the_same_on_a_gpu(name):
    config, parameters = MODELS[name], ensemble(MODELS[name])
    tokens = tokens_of(config)
    losses, gradients = batched(config, parameters, tokens, 2)
    there = {key: tensor.cuda() for key, tensor in parameters.items()}
    losses_there, gradients_there = batched(config, there, tokens.cuda(), 2)
    assert_close(losses_there.cpu(), losses, rtol=1e-9, atol=0)
    for key, gradient in gradients.items():
        assert_close(gradients_there[key].cpu(), gradient, rtol=1e-7, atol=1e-9)


# ---- machine code


@needs_llvmlite
@pytest.mark.parametrize("writable", [True, False])
def test_machine_code_is_kept_where_that_can_be(writable, tmp_path, monkeypatch):
    from ar_interp.training import vectors

    folder = tmp_path / "cache"
    if not writable:
        folder.write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    compiles = []
    made = vectors.Code.__init__
    monkeypatch.setattr(vectors.Code, "__init__", lambda *arguments: compiles.append(1) or made(*arguments))
    config, parameters = FAST["one full layer"], ensemble(FAST["one full layer"])
    tokens = tokens_of(config, batch=17)  # not a multiple of the lanes
    for _ in range(2):
        vectors.compiled.cache_clear()
        assert_same(batched(config, parameters, tokens, 2, mean_errors), batched(config, parameters, tokens, 2))
    assert len(compiles) == (1 if writable else 2)


@needs_llvmlite
@pytest.mark.parametrize("name", ["figure 5, two layers", "figure 7, nine heads", "block scalars / keys"])
def test_machine_code_in_single_precision(name):
    config, parameters = FAST[name], ensemble(FAST[name])
    tokens = tokens_of(config, batch=33)
    losses, gradients = batched(config, parameters, tokens, 2)
    found = batched(config, {k: t.float() for k, t in parameters.items()}, tokens.float(), 2, mean_errors)
    assert found[0].dtype == torch.float32
    assert_close(found[0].double(), losses, rtol=1e-6, atol=0)
    for key, truth in gradients.items():
        assert_close(found[1][key].double(), truth, rtol=0, atol=1e-5 * truth.abs().max().item() + 1e-9, msg=key)


@needs_llvmlite
def test_a_loss_that_is_not_finite_is_seen():
    config, parameters = FAST["figure 5, two layers"], ensemble(FAST["figure 5, two layers"])
    parameters["unembed.W_U"][1] = torch.nan
    losses, gradients = batched(config, parameters, tokens_of(config), 2, mean_errors)
    assert losses.isfinite().tolist() == [True, False]
    assert gradients["unembed.W_U"][0].isfinite().all()


def test_without_llvmlite_the_batched_form_is_differentiated(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    available.cache_clear()
    try:
        assert fast_step(form_of(FAST["figure 5, one layer"])) is None
    finally:
        available.cache_clear()
