"""Long contexts: linear attention by running states and least squares by chunks are what the short way gives."""

import pytest
import torch
from torch.testing import assert_close

import ar_interp as ari
from ar_interp.estimators import least_squares as estimators
from ar_interp.models import attention
from ar_interp.models.attention import Attention
from ar_interp.models.opened import as_model
from ar_interp.probes.jacobian import sums_up

HAAR, UNITARY = ari.HaarOrthogonal(3), ari.CommutingUnitary(3)
T = 2 * attention.CHUNK + 7


def model_of(process, n_layers=2, **options) -> ari.HookedARTransformer:
    config = ari.ModelConfig.augmented(dim=3, n_ctx=T, n_layers=n_layers, n_heads=2, init_scale=0.05, **options)
    return ari.HookedARTransformer(config, process=process, seed=1)


@pytest.fixture
def both_ways(monkeypatch):
    """A function run as contexts of any length and as long ones are."""

    def run(read):
        monkeypatch.setattr(attention, "LONG", 2 * T)
        expected = read()
        monkeypatch.setattr(attention, "LONG", 2)
        return read(), expected

    return run


@pytest.mark.parametrize("process", [HAAR, UNITARY], ids=lambda process: process.kind)
@pytest.mark.parametrize("kind", ["linear", "linear/keys", "linear/pairs"])
def test_predictions_and_gradients_are_those_of_the_pattern(process, kind, both_ways):
    model, inputs = model_of(process, attention=kind), process.contexts(2, T, seed=0).inputs

    def read():
        model.zero_grad()
        predictions = model(inputs)
        predictions.abs().square().mean().backward()
        gradients = [p.grad + 0 for p in model.parameters() if p.grad is not None]
        return predictions.detach(), gradients

    found, expected = both_ways(read)
    assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    assert_close(found[1], expected[1], rtol=1e-9, atol=1e-12)
    assert not torch.equal(found[0], expected[0])  # two ways indeed


def test_hooks_on_states_see_and_change_the_same(both_ways):
    model, inputs = model_of(HAAR, attention="linear/keys"), HAAR.contexts(2, 40, seed=0).inputs

    def read():
        seen = []

        def halve(value, hook):
            seen.append(value.detach().clone())
            return value / 2

        with model.hooks([("blocks.1.attn.hook_kv_state", halve)]):
            return model(inputs).detach(), seen[0]

    found, expected = both_ways(read)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_where_keys_have_weights_of_their_own_there_is_a_pattern(both_ways):
    config = ari.ModelConfig.full(dim=3, n_ctx=T, n_heads=2)
    model, inputs = ari.HookedARTransformer(config, seed=1), HAAR.contexts(2, T, seed=0).inputs
    found, expected = both_ways(lambda: model(inputs))
    assert torch.equal(found, expected)


def test_a_hook_on_the_pattern_has_one_unless_it_is_too_large(monkeypatch):
    monkeypatch.setattr(attention, "LONG", 2)
    model, inputs = model_of(HAAR), HAAR.contexts(2, T, seed=0).inputs
    _, cache = model.run_with_cache(inputs)
    assert cache["pattern", 1].shape == (2, 2, T, T)
    monkeypatch.setattr(Attention, "pattern_limit", 8 * 2 * 2 * T**2 - 1)
    with pytest.raises(ValueError, match=r"pattern \[batch head query key\] of .* GiB, more than Attention"):
        model.run_with_cache(inputs)
    _, cache = model.run_with_cache(inputs, names_filter="blocks.1.hook_resid_post")
    assert cache["resid_post", 1].shape == (2, T, 9)


@pytest.mark.parametrize("process", [HAAR, UNITARY], ids=lambda process: process.kind)
def test_least_squares_by_chunks_are_those_of_all_pairs(process, monkeypatch):
    pairs = process.contexts(2, 3 * estimators.CHUNK + 5, seed=0).pairs()
    monkeypatch.setattr(estimators, "SHORT", 2)
    found = estimators.OLS().estimate(pairs)
    monkeypatch.setattr(estimators, "SHORT", 1000)
    assert_close(found, estimators.OLS().estimate(pairs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("long", "n_layers"), [(2, 2), (attention.LONG, 1), (attention.LONG, 2)])
def test_large_states_are_moved_at_the_positions_asked_for_alone(long, n_layers, monkeypatch):
    model, (source, target) = (
        model_of(HAAR, n_layers, attention="linear/keys"),
        [HAAR.contexts(3, 40, seed=s) for s in (0, 1)],
    )
    options = {"positions": [17, 40], "layers": [n_layers - 1], "batch_size": 2}
    expected = ari.swap_context(model, source, target, **options).by_position
    monkeypatch.setattr(attention, "LONG", long)
    monkeypatch.setattr("ar_interp.probes.batches.NUMBERS", 2)
    drawn = (expected["condition"] == "random state").to_numpy()  # one by one here
    hook, sizes = f"blocks.{n_layers - 1}.attn.hook_kv_state", []
    for looked_at in (False, True):  # in contexts of two tokens, or in the whole ones
        with model.hooks([(hook, lambda value, hook: sizes.append(value.shape[1]))] if looked_at else []):
            found = ari.swap_context(model, source, target, **options).by_position
        ours, theirs = (table.iloc[:, 1:].to_numpy()[~drawn] for table in (found, expected))
        assert_close(ours, theirs, rtol=1e-9, atol=1e-11, equal_nan=True)
    assert set(sizes) == {2}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("process", [HAAR, UNITARY], ids=lambda process: process.kind)
@pytest.mark.parametrize("length", [2, 3, 4, 5, 12])
def test_least_squares_by_rotations_are_those_of_an_svd_also_where_they_are_singular(process, dtype, length):
    dtype = dtype.to_complex() if process is UNITARY else dtype
    tokens = process.contexts(12, length, seed=0, dtype=dtype).inputs.clone()
    tokens[:2, 2:] = tokens[:2, 1:2]  # pairs that contradict each other
    tokens[2:4] = 0
    tokens[4:6, :, -1] = 0
    tokens[6:8, 1::2] = tokens[6:8, :1]
    wide = torch.complex128 if process is UNITARY else torch.float64
    expected = torch.stack([_least_norm(row) for row in tokens.to(wide)])
    found = estimators.OLS(rotations=True).estimate(tokens)
    assert found.dtype == dtype
    scale = 1 + expected.abs().amax((-1, -2), keepdim=True) ** 2  # as ill-conditioned as it is
    exact = torch.finfo(dtype).bits > 64 or dtype == torch.float64
    assert_close((found - expected) / scale, torch.zeros_like(expected), rtol=0, atol=1e-10 if exact else 1e-3)


def _least_norm(tokens: torch.Tensor) -> torch.Tensor:
    """By LAPACK's own least squares, T by T."""
    found = [tokens.new_zeros(tokens.shape[1], tokens.shape[1])]
    for T in range(1, len(tokens)):
        found.append(torch.linalg.lstsq(tokens[:T], tokens[1 : T + 1], driver="gelsd", rcond=1e-7).solution.mT)
    return torch.stack(found)


@pytest.mark.parametrize("process", [HAAR, UNITARY], ids=lambda process: process.kind)
@pytest.mark.parametrize(
    "options", [{}, {"heads": "block-scalar", "attention": "linear/keys"}, {"n_heads": 2, "unembed": True}]
)
def test_many_contexts_are_recovered_as_few_are(process, options, monkeypatch):
    config = ari.ModelConfig.augmented(dim=3, n_ctx=9, init_scale=0.3, **options)
    model, contexts = ari.HookedARTransformer(config, process=process, seed=1), process.contexts(7, 9, seed=0)
    few = ari.recover_context(model, contexts)
    for module in ("context", "swap"):
        monkeypatch.setattr(f"ar_interp.probes.{module}.MANY", 2)
    backward = []
    monkeypatch.setattr("ar_interp.probes.context.query_jacobian", lambda *args, **options: backward.append(args))
    many = ari.recover_context(model, contexts)
    assert not backward
    assert_close(many.estimate, few.estimate, rtol=1e-10, atol=1e-12)
    for table in ("errors", "distances"):
        ours, theirs = (getattr(found, table).iloc[:, 1:].to_numpy(float) for found in (many, few))
        assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2},
        {"attention": "softmax"},
        {"d_mlp": 4},
        {"biases": True},
        {"positional": "additive"},
        {"positional": "multiplicative"},
    ],
)
def test_other_layers_are_no_running_sum(options):
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=3, n_ctx=9, **options))
    assert not sums_up(as_model(model))


def test_a_hook_that_acts_is_no_running_sum():
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=3, n_ctx=9))
    assert sums_up(as_model(model))
    with model.hooks([("blocks.0.attn.hook_z", lambda value, hook: value / 2)]):
        assert not sums_up(as_model(model))
