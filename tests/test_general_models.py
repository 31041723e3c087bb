"""The general models against loops straight from the equations in ModelConfig, their symmetries and their hooks."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import ARCHITECTURES, SIZES, draw, every_architecture
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import assert_same
from torch import Tensor
from torch.testing import assert_close
from zoo import trained_like

from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer

DIM, N_CTX = SIZES["dim"], SIZES["n_ctx"]
BATCH = 2
FIGURES = {"scale_scores": True, "layer_norm": True, "biases": True, "shared_output": True, "unembed": True}
KV_STATE = "blocks.0.attn.hook_kv_state"

linear_ones = {name: config for name, config in ARCHITECTURES.items() if config.linear}
every_linear_architecture = pytest.mark.parametrize("config", linear_ones.values(), ids=list(linear_ones))


# ---- the oracle: one sequence, one position, one head and one key at a time


def head_weights(config: ModelConfig, weights: dict[str, Tensor], layer: int, h: int) -> dict[str, Tensor]:
    """W and b of one head, of every kind of head."""
    attn = {name.removeprefix(f"blocks.{layer}.attn."): value for name, value in weights.items()}
    width = config.d_model
    if config.heads == "block-scalar":
        times_identity = [torch.kron(attn[f"{name}_blocks"][h], torch.eye(config.dim)) for name in ("QK", "OV")]
        W = {"Q": times_identity[0], "K": torch.eye(width), "V": times_identity[1], "O": torch.eye(width)}
    else:
        W = {part: attn[f"W_{part}"][h] for part in "QKV"}
        W["O"] = attn["shared_W_O"] if config.shared_output else attn["W_O"][h]
    W = {part: value.double() for part, value in W.items()}
    zero = torch.zeros(W["Q"].shape[1], dtype=torch.float64)
    b = {f"b_{part}": attn[f"b_{part}"][h] if config.biases else zero for part in "QKV"}
    return W | b


def naive_attention(config: ModelConfig, head: dict[str, Tensor], x: Tensor, W_pos: Tensor | None, P: Tensor | None):
    """What one head reads, z_T, at every T of one sequence."""
    dtype = x.dtype
    head = {name: value.to(dtype) for name, value in head.items()}

    def score(states: Tensor, T: int, t: int) -> Tensor:  # T and t from 1
        query = states[T - 1 - config.query_lag] @ head["Q"] + head["b_Q"]
        key = states[t - 1] @ head["K"] + head["b_K"]
        if config.encoding == "augmented":
            key = key.conj()
        else:
            query = query.conj()
        found = sum(query[i] * key[i] for i in range(len(key)))
        return found / math.sqrt(config.head_width) if config.scale_scores else found

    z = []
    for T in range(1, len(x) + 1):
        total = torch.zeros(config.head_width, dtype=dtype)
        if config.query_lag < T:  # else there is nobody to ask
            scores = [score(x, T, t) for t in range(1, T + 1)]
            if config.attention == "softmax":
                share = [value.exp() for value in scores]
                pattern = [value / sum(share) for value in share]
            else:
                count = {"linear": 1, "linear/keys": T, "linear/pairs": max(T - 1, 1)}[config.attention]
                pattern = [value / count for value in scores]
            if P is not None:
                pattern = [value * P[T - 1 - config.query_lag, t] for t, value in enumerate(pattern)]
            if W_pos is not None:
                share = [score(W_pos.to(dtype), T, t).exp() for t in range(1, T + 1)]
                pattern = [value * weight / sum(share) for value, weight in zip(pattern, share, strict=True)]
            for t in range(1, T + 1):
                total = total + pattern[t - 1] * (x[t - 1] @ head["V"] + head["b_V"])
        z.append(total)
    return torch.stack(z)


def naive_predictions(config: ModelConfig, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    weights = {name: value.double() for name, value in weights.items()}
    kind = tokens.dtype
    W_pos = weights.get("pos_embed.W_pos")
    predictions = []
    for s in tokens:
        zero = torch.zeros_like(s[0])
        if config.encoding == "augmented":
            x = [torch.cat([zero, s[t], s[t - 1] if t else zero]) for t in range(len(s))]
        else:
            x = [torch.cat([s[t]] * config.repeats) for t in range(len(s))]
        if config.positional == "additive":
            x = [state + W_pos[t] for t, state in enumerate(x)]
        x = torch.stack(x)
        for layer in range(config.n_layers):
            own = {name.removeprefix(f"blocks.{layer}."): value for name, value in weights.items()}
            out = torch.zeros_like(x)
            for h in range(config.n_heads):
                head = head_weights(config, weights, layer, h)
                positions = W_pos if config.positional == "softmax" else None
                z = naive_attention(config, head, x, positions, own.get("attn.positional.P"))
                out = out + z @ head["O"].to(kind)
            if config.biases:
                out = out + own["attn.b_O"]
            if config.layer_norm:
                centred = out - out.mean(-1, keepdim=True)
                out = centred / (out.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                out = out * own["ln1_post.w"] + own["ln1_post.b"]
            x = x + out if config.residual else out
            if config.d_mlp:
                pre = x @ own["mlp.W_in"] + own["mlp.b_in"]
                gelu = pre * (1 + torch.erf(pre / math.sqrt(2))) / 2
                x = x + gelu @ own["mlp.W_out"] + own["mlp.b_out"]
        if config.unembed:
            x = x @ weights["unembed.W_U"].to(kind) + weights["unembed.b_U"]
        predictions.append(x[:, : config.dim])
    return torch.stack(predictions)


def assert_is_the_equation(config: ModelConfig, seed: int = 0) -> None:
    model = trained_like(config, seed)
    for is_complex in (False, True)[: 1 if config.needs_real_tokens else 2]:
        tokens = draw(BATCH, N_CTX, config.dim, seed=seed + 1, is_complex=is_complex)
        assert_same(model(tokens), naive_predictions(config, model.state_dict(), tokens))


# ---- predictions

TOKENS = {
    "s_T": {"heads": "full", "query_lag": 0},
    "s_{T-1}": {"heads": "full", "query_lag": 1},
    "augmented": {"heads": "full", "encoding": "augmented", "query_lag": 0},
    "block-scalar": {"heads": "block-scalar", "encoding": "augmented", "query_lag": 0},
}
ATTENTION = [
    *product(("linear", "linear/keys", "linear/pairs"), ("none", "multiplicative", "additive", "softmax")),
    *product(("softmax",), ("none", "additive")),
]


@pytest.mark.parametrize(
    ("n_heads", "n_layers", "residual"), [(1, 1, False), (3, 1, True), (1, 2, True), (3, 2, False)]
)
@pytest.mark.parametrize(("attention", "positional"), ATTENTION)
@pytest.mark.parametrize("tokens", TOKENS.values(), ids=list(TOKENS))
def test_predictions_are_the_equation(tokens, attention, positional, n_heads, n_layers, residual):
    sizes = {"n_heads": n_heads, "n_layers": n_layers, "residual": residual}
    assert_is_the_equation(ModelConfig(**SIZES, **sizes, **tokens, attention=attention, positional=positional))


@every_architecture
def test_predictions_of_the_architectures_are_the_equation(config):
    assert_is_the_equation(config)


@settings(max_examples=40)
@given(
    fields=st.fixed_dictionaries(
        {
            "dim": st.integers(1, 3),
            "n_heads": st.sampled_from([1, 3]),
            "n_layers": st.integers(1, 2),
            "encoding": st.sampled_from(["plain", "augmented"]),
            "attention": st.sampled_from(["linear", "linear/keys", "linear/pairs", "softmax"]),
            "positional": st.sampled_from(["none", "multiplicative", "additive", "softmax"]),
            "d_head": st.sampled_from([None, 1, 4]),
            "repeats": st.integers(1, 2),
            "query_lag": st.integers(0, 1),
            "d_mlp": st.sampled_from([0, 3]),
            **dict.fromkeys(("residual", *FIGURES), st.booleans()),
        }
    ),
    seed=st.integers(0, 10**6),
)
def test_predictions_of_any_full_heads_are_the_equation(fields, seed):
    if fields["encoding"] == "augmented":
        fields |= {"query_lag": 0, "repeats": 1}
    assume(fields["attention"] != "softmax" or fields["positional"] in ("none", "additive"))
    assume(fields["residual"] or not fields["d_mlp"])
    assert_is_the_equation(ModelConfig(n_ctx=N_CTX, heads="full", **fields), seed)


@pytest.mark.parametrize(
    "others",
    [{"layer_norm": True}, {"unembed": True}, {"d_mlp": 3}, {"layer_norm": True, "unembed": True, "d_mlp": 3}],
    ids=lambda others: " ".join(others),
)
@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_predictions_of_block_scalar_heads_with_more_are_the_equation(attention, others):
    config = ModelConfig.augmented(**SIZES, n_heads=3, n_layers=2, heads="block-scalar", attention=attention, **others)
    assert_is_the_equation(config)


@every_architecture
def test_shorter_sequences_give_the_same_predictions(config):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    whole = model(tokens)
    for length in range(1, N_CTX):
        assert_same(model(tokens[:, :length]), whole[:, :length])


@every_architecture
@pytest.mark.parametrize("cut", range(1, N_CTX))
def test_the_future_never_changes_the_past(config, cut):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    changed = torch.cat([tokens[:, :cut], draw(BATCH, N_CTX - cut, DIM, seed=2)], dim=1)
    before, after = model(tokens), model(changed)
    assert torch.equal(after[:, :cut], before[:, :cut])
    assert not torch.isclose(after[:, cut:], before[:, cut:]).all(-1).any()


def test_without_a_query_a_residual_model_predicts_its_input():
    model = trained_like(ModelConfig.full(**SIZES, n_heads=2, residual=True))
    tokens = draw(BATCH, N_CTX, DIM)
    assert torch.equal(model(tokens)[:, 0], tokens[:, 0])


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"n_layers": 2, "n_heads": 3, "positional": "multiplicative"},
        {"n_layers": 2, "n_heads": 2, "attention": "linear/keys", "residual": False},
        {"n_heads": 2, "attention": "softmax"},
        {"n_heads": 2, "positional": "softmax"},
    ],
    ids=str,
)
def test_block_scalar_models_turn_with_the_basis(others):
    config = ModelConfig.augmented(dim=3, n_ctx=N_CTX, heads="block-scalar", **others)
    model, tokens = trained_like(config), draw(BATCH, N_CTX, 3)
    rotation = torch.linalg.qr(draw(3, 3, seed=3)).Q
    assert_same(model(tokens @ rotation.T), model(tokens) @ rotation.T)


def test_full_heads_do_not_turn_with_the_basis():
    model, tokens = trained_like(ARCHITECTURES["augmented"]), draw(BATCH, N_CTX, DIM)
    rotation = torch.linalg.qr(draw(DIM, DIM, seed=3)).Q
    assert (model(tokens @ rotation.T) - model(tokens) @ rotation.T).abs().max() > 0.1


@every_architecture
def test_float32_weights_on_float64_tokens_compute_in_float64(config):
    model = trained_like(replace(config, dtype="float32"))
    tokens = draw(BATCH, N_CTX, DIM)
    predictions = model(tokens)
    assert predictions.dtype == torch.float64
    assert_same(predictions, naive_predictions(config, model.state_dict(), tokens))
    single = model(tokens.float())
    assert single.dtype == torch.float32
    assert_same(single.double(), predictions, tolerance=1e-4)


def test_block_scalars_are_read_back():
    model = trained_like(ARCHITECTURES["block-scalar"])
    a1, a2, a3, a4, b1, b2 = model.block_scalars
    s = draw(BATCH, N_CTX, DIM)
    previous = torch.cat([torch.zeros(BATCH, 1, DIM), s[:, :-1]], dim=1)
    for T in range(N_CTX):
        expected = torch.zeros(BATCH, DIM, dtype=torch.float64)
        for b, t in product(range(BATCH), range(T + 1)):
            score = a1 * s[b, t] @ s[b, T] + a2 * previous[b, t] @ s[b, T]
            score = score + a3 * s[b, t] @ previous[b, T] + a4 * previous[b, t] @ previous[b, T]
            expected[b] += score * (b1 * s[b, t] + b2 * previous[b, t])
        assert_same(model(s)[:, T], expected)


@pytest.mark.parametrize("name", ["deep block-scalar", "augmented", "plain"])
def test_other_models_have_no_block_scalars(name):
    with pytest.raises(AttributeError, match=r"only one layer with one block-scalar head has a1\.\.a4, b1, b2: "):
        _ = HookedARTransformer(ARCHITECTURES[name]).block_scalars


@pytest.mark.parametrize("name", ["A", "B", "P"])
def test_other_models_have_no_diagonals(name):
    with pytest.raises(AttributeError, match=r"this model has no .*: one layer, 2 full heads, linear/pairs attention"):
        getattr(HookedARTransformer(ARCHITECTURES["augmented"]), name)


@pytest.mark.parametrize("name", ["softmax", "softmax positions", "MLP", "figure 5"])
def test_complex_tokens_are_refused_where_there_is_no_complex_version(name):
    with pytest.raises(
        ValueError, match="tokens must be real: nonlinear attention, softmax, LayerNorm and MLP have no complex version"
    ):
        HookedARTransformer(ARCHITECTURES[name])(draw(BATCH, N_CTX, DIM, is_complex=True))


# ---- hooks


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every hook in the order of the forward pass."""
    resid, square = (BATCH, N_CTX, config.d_model), (N_CTX, N_CTX)
    head, per_head = (BATCH, N_CTX, config.n_heads, config.head_width), (BATCH, config.n_heads, *square)
    shapes = {"hook_embed": resid}
    if config.positional == "additive":
        shapes["hook_pos_embed"] = resid
    for layer in range(config.n_layers):
        block = {"hook_resid_pre": resid} | {f"attn.hook_{name}": head for name in "qkv"}
        block["attn.hook_attn_scores"] = per_head
        if config.positional in ("multiplicative", "softmax"):
            block["attn.hook_pos_weights"] = square if config.positional == "multiplicative" else per_head[1:]
        block["attn.hook_pattern"] = per_head
        if config.linear:
            block["attn.hook_kv_state"] = (*head, config.head_width)
        block |= {"attn.hook_z": head, "attn.hook_result": (BATCH, N_CTX, config.n_heads, config.d_model)}
        if config.layer_norm:
            block |= {"ln1_post.hook_scale": (BATCH, N_CTX, 1), "ln1_post.hook_normalized": resid}
        block["hook_attn_out"] = resid
        if config.d_mlp:
            neurons = (BATCH, N_CTX, config.d_mlp)
            block |= {"hook_resid_mid": resid, "hook_mlp_in": resid}
            block |= {"mlp.hook_pre": neurons, "mlp.hook_post": neurons, "hook_mlp_out": resid}
        block["hook_resid_post"] = resid
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


@every_architecture
def test_every_hook_has_its_shape_and_caching_changes_nothing(config):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    predictions, cache = model.run_with_cache(tokens)
    assert {name: tuple(value.shape) for name, value in cache.items()} == shapes_of(config)
    assert sorted(model.hook_names()) == sorted(shapes_of(config))
    assert list(cache) == list(shapes_of(config))
    assert torch.equal(predictions, model(tokens))


@every_architecture
def test_a_hook_that_does_nothing_changes_nothing(config):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    before = model(tokens)
    for name in model.hook_names():
        seen = []
        hooked = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook, seen=seen: seen.append(hook.name))])
        assert torch.equal(hooked, before), name
        assert seen == [name]


@every_architecture
def test_an_edit_in_place_is_an_edit_of_its_hook_alone(config):
    """TransformerLens's patching writes into the activation that it is given."""
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    before = tokens.clone()

    def edit(value, hook):
        value[..., :1, :] *= 3
        return value

    for name in model.hook_names():
        on_a_copy = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: edit(value.clone(), hook))])
        in_place = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
        assert torch.equal(tokens, before), name
        assert_same(in_place, on_a_copy)


@every_linear_architecture
def test_cached_states_are_weighted_sums_of_keys_and_values(config):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    _, cache = model.run_with_cache(tokens)
    for layer, h in product(range(config.n_layers), range(config.n_heads)):
        attn = f"blocks.{layer}.attn."
        k, v = cache["k", layer], cache["v", layer]
        for T in range(1, N_CTX + 1):
            weights = torch.ones(T, dtype=torch.float64)
            if attn + "hook_pos_weights" in cache:
                pos_weights = cache[attn + "hook_pos_weights"].expand(config.n_heads, -1, -1)
                weights = weights * pos_weights[h, T - 1, :T]
            if config.attention != "linear":
                weights = weights / (T if config.attention == "linear/keys" else max(T - 1, 1))
            for b in range(BATCH):
                state = sum(weights[t] * torch.outer(k[b, t, h], v[b, t, h]) for t in range(T))
                assert_same(cache[attn + "hook_kv_state"][b, T - 1, h], state)
                if config.query_lag < T:
                    scale = config.head_width**-0.5 if config.scale_scores else 1.0
                    query = cache["q", layer][b, T - 1 - config.query_lag, h] * scale
                    assert_same(cache["z", layer][b, T - 1, h], query @ state)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig.augmented(**SIZES, n_heads=2, scale_scores=True, d_head=3),
        ModelConfig.augmented(**SIZES, n_heads=2, heads="block-scalar"),
        ModelConfig.full(**SIZES, n_heads=2, positional="softmax", query_lag=0, biases=True),
        ModelConfig.full(**SIZES, n_heads=2, positional="softmax", query_lag=1),
    ],
    ids=["augmented", "block-scalar", "softmax positions, s_T", "softmax positions, s_{T-1}"],
)
def test_edits_of_the_state_reach_the_output_through_the_query(config):
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    width = config.head_width
    change = draw(BATCH, N_CTX, 2, width, width, seed=4)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(KV_STATE, lambda state, hook: state + change)])
    q = model.run_with_cache(tokens)[1]["q", 0] * (width**-0.5 if config.scale_scores else 1.0)
    for T in range(1, N_CTX + 1):
        expected = torch.zeros(BATCH, DIM, dtype=torch.float64)
        if config.query_lag < T:
            for h in range(2):
                z = torch.einsum("bi,bij->bj", q[:, T - 1 - config.query_lag, h], change[:, T - 1, h])
                expected += (z @ model.W_O[0, h])[:, :DIM]
        assert_same(edited[:, T - 1] - model(tokens)[:, T - 1], expected)


def test_doubling_the_state_doubles_what_a_head_reads():
    """Positional weights are part of the state, and the number of keys too."""
    config = ModelConfig.full(**SIZES, n_heads=3, positional="softmax", attention="linear/keys")
    model, tokens = trained_like(config), draw(BATCH, N_CTX, DIM)
    assert_same(model.run_with_hooks(tokens, fwd_hooks=[(KV_STATE, lambda state, hook: 2 * state)]), 2 * model(tokens))


def test_softmax_has_patterns_and_no_state():
    config = ARCHITECTURES["softmax"]
    _, cache = trained_like(config).run_with_cache(draw(BATCH, N_CTX, DIM))
    assert not any("kv_state" in name for name in cache)
    pattern = cache["pattern", 0]
    assert_close(pattern[:, :, 1:].sum(-1), torch.ones(BATCH, 2, N_CTX - 1, dtype=torch.float64))
    assert not pattern[:, :, 0].any()  # s_1 asks for the prediction of s_3 first
    assert not pattern.triu(1).any()
    assert (cache["attn_scores", 0].triu(1) == torch.full((N_CTX, N_CTX), -torch.inf).triu(1)).all()
