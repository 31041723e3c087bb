"""A model whose estimate is in no path of the last token: what is refused, and what is defined all the same."""

from dataclasses import replace

import pytest
import torch
from cases import HAAR
from torch.testing import assert_close
from zoo import GradientStep, one_gradient_step

import ar_interp as ari
from ar_interp.probes.jacobian import full_jacobian, query_jacobian, value_jacobian
from ar_interp.probes.last_token import replace_last_token

PLANE = ari.HaarOrthogonal(2, first_token="sphere")
LENGTH = 8
DEEP = ari.ModelConfig.full(
    dim=2, n_ctx=LENGTH, n_heads=4, n_layers=2, query_lag=0, repeats=4, attention="softmax", positional="additive",
    residual=True, biases=True, d_mlp=32, unembed=True, init="linear", scale_scores=True, dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def deep():
    """Two layers of softmax attention on plain tokens, trained to an error of about a sixth of the tokens."""
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=5e-3, warmup=20, steps=250, batch=128)
    return ari.train(DEEP, PLANE, training, progress=False).model.requires_grad_(False)


@pytest.fixture(scope="module")
def contexts():
    return PLANE.contexts(256, LENGTH, seed=3, dtype=torch.float32)


def cosine(maps, W):
    return torch.nn.functional.cosine_similarity(maps[:, -1].flatten(), W.flatten(), dim=0).item()


def test_its_prediction_knows_W_and_the_newest_token_s_own_value_does_not(deep, contexts):
    assert contexts.errors(deep(contexts.inputs))[:, -1].mean() < 0.4
    assert abs(cosine(value_jacobian(deep, contexts.inputs), contexts.W)) < 0.15
    assert cosine(ari.recover_context(deep, contexts, kind="full").estimate, contexts.W) > 0.4
    last = replace_last_token(deep, contexts, positions=[LENGTH]).by_position.iloc[0]
    assert last["cosine"] > last["control"] + 0.25
    assert abs(last["control"]) < 4 * last["control_se"]


def test_what_says_nothing_of_W_is_refused_with_what_is_defined(deep, contexts):
    other = PLANE.contexts(256, LENGTH, seed=4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"2 layers of softmax attention .* no path of s_T alone.* kind='full' .*repl"):
        ari.recover_context(deep, contexts)
    with pytest.raises(ValueError, match=r"2 layers of softmax .* patterns do not carry it.* what='keys and values'"):
        ari.swap_context(deep, contexts, other)
    with pytest.raises(ValueError, match="kind must be one of 'own path', 'full', got 'query'"):
        ari.recover_context(deep, contexts, kind="query")
    with pytest.raises(ValueError, match="what must be one of 'keys and values', got 'pattern'"):
        ari.swap_context(deep, contexts, other, what="pattern")


@pytest.mark.parametrize("changed", [{"n_layers": 1}, {"attention": "linear", "scale_scores": False}])
def test_one_nonlinear_layer_and_two_linear_ones_are_refused_too(changed, contexts):
    with pytest.raises(ValueError, match=r"no path of s_T alone"):
        ari.recover_context(replace(DEEP, **changed).build(), contexts)


def test_keys_and_values_of_all_layers_leave_the_last_token_alone_to_the_target(deep, contexts):
    other = PLANE.contexts(256, LENGTH, seed=4, dtype=torch.float32)
    swapped = ari.swap_context(deep, contexts, other, what="keys and values")
    assert swapped.what == "keys and values"
    assert_close(swapped.moved, swapped.through)
    assert swapped.by_position.set_index(["condition", "T"]).loc[("swap", LENGTH), "change"] > 0.1
    first = ari.swap_context(deep, contexts, other, what="keys and values", layers=[0])
    assert not torch.allclose(first.moved, swapped.moved)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {"attention": "softmax", "positional": "none", "residual": True}),
        ("plain", {"positional": "softmax", "residual": True}),
        ("plain", {"attention": "linear/keys"}),
        ("augmented", {"attention": "softmax", "positional": "additive", "layer_norm": True, "d_mlp": 3}),
        ("augmented", {"attention": "linear/keys"}),
    ],
)
def test_the_full_jacobian_is_autograd_s(name, options):
    make = ari.ModelConfig.augmented if name == "augmented" else ari.ModelConfig.full
    config = make(dim=4, n_ctx=5, n_heads=2, n_layers=2, init_scale=0.3, **options)
    model, tokens = config.build(), HAAR.contexts(2, 5, seed=0).inputs
    found = full_jacobian(model, tokens)
    for T in (1, 3, 5):
        for b in range(2):
            before = tokens[b : b + 1, : T - 1]

            def predict(last, before=before):
                return model(torch.cat([before, last[None, None]], dim=1))[0, -1]

            assert_close(found[b, T - 1], torch.autograd.functional.jacobian(predict, tokens[b, T - 1]))


def test_the_full_jacobian_of_a_foreign_model_says_what_it_would_cost():
    foreign, tokens = GradientStep(dim=4, step_size=0.1), HAAR.contexts(16, 1500, seed=0).inputs
    with pytest.raises(ValueError, match=r"1500 runs of .*18 million tokens .* Give fewer .* sequences\[:14\]"):
        full_jacobian(foreign, tokens)


def test_the_full_jacobian_of_a_gradient_step_has_the_newest_pair_besides():
    model, contexts = one_gradient_step(0.1, HAAR), HAAR.contexts(3, 6, seed=0)
    s = contexts.inputs
    pair = 0.1 * (s[:, :-1] * s[:, 1:]).sum(-1)[..., None, None] * torch.eye(4, dtype=s.dtype)
    assert_close(full_jacobian(model, s)[:, 1:] - query_jacobian(model, s)[:, 1:], pair)


def test_another_last_token_of_a_gradient_step():
    """The step on the older pairs, applied to u, and on the false pair (s_{T-1}, u)."""
    model, contexts, T = one_gradient_step(0.1, HAAR), HAAR.contexts(5, 6, seed=0), 5
    found = replace_last_token(model, contexts, positions=[T], seed=1)
    s, u = contexts.inputs[:, : T - 1], found.tokens / found.tokens.norm(dim=-1, keepdim=True)
    u = u * contexts.inputs[:, T - 1].norm(dim=-1, keepdim=True)
    pairs = torch.cat([s[:, 1:], u[:, None]], dim=1)
    expected = 0.1 * torch.einsum("bti,btj,bj->bi", pairs, s, u)
    assert_close(found.predictions[:, 0], expected)
    goal = torch.einsum("bij,bj->bi", contexts.W, u)
    row = found.by_position.iloc[0]
    assert row["cosine"] == pytest.approx(torch.nn.functional.cosine_similarity(expected, goal).mean().item())
    assert row["relative_error"] == pytest.approx(((expected - goal).square().sum() / goal.square().sum()).item())
    with pytest.raises(ValueError, match="sequences must hold at least 2 sequences for this probe, got 1"):
        replace_last_token(model, contexts[:1])
    with pytest.raises(ValueError, match="positions must be at most 6, got 7"):
        replace_last_token(model, contexts, positions=[7])
