"""TransformerLens's tools on the general models: parts that add up, factored matrices, hooks that leave no trace."""

from itertools import product

import pytest
import torch
from cases import D_MLP, MODELS, N_LAYERS, NORMED, REPLACED, STREAM, STREAM_SIZES, STREAMS, draw
from oracles import assert_same
from torch import Tensor
from torch.testing import assert_close
from transformer_lens import ActivationCache, FactoredMatrix
from zoo import trained_like

from ar_interp.models.cache import ARCache
from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer

DIM, N_CTX, N_HEADS = STREAM_SIZES.values()
BATCH = 3
every_stream = pytest.mark.parametrize("config", STREAMS.values(), ids=list(STREAMS))
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=list(MODELS))


def run(config: ModelConfig, batch: int = BATCH) -> tuple[HookedARTransformer, Tensor, ARCache]:
    model = trained_like(config)
    return model, *model.run_with_cache(draw(batch, N_CTX, DIM, seed=100))


# ---- the cache


@every_model
def test_accumulated_resid_is_the_stream_layer_by_layer(config):
    model, predictions, cache = run(config)
    stack, labels = cache.accumulated_resid(return_labels=True)
    assert labels == [*(f"{layer}_pre" for layer in range(config.n_layers)), "final_post"]
    for layer in range(config.n_layers):
        assert torch.equal(stack[layer], cache["resid_pre", layer])
    assert torch.equal(model.read_out(stack[-1]), predictions)
    assert_same(stack[-1] @ model.W_U + (model.unembed.b_U if model.unembed else 0), predictions)
    assert torch.equal(cache.accumulated_resid(layer=0), cache["resid_pre", 0][None])
    assert torch.equal(cache.accumulated_resid(pos_slice=-1), stack[:, :, -1])
    assert torch.equal(cache.accumulated_resid(apply_ln=True), stack)  # there is no LayerNorm before the read-out


def test_accumulated_resid_between_attention_and_mlp():
    _, _, cache = run(STREAM)
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]
    assert_same(stack[1] - stack[0], cache["attn_out", 0])
    assert_same(stack[2] - stack[1], cache["mlp_out", 0])


@pytest.mark.parametrize("config", [*STREAMS.values(), NORMED], ids=[*STREAMS, "LayerNorm"])
def test_decompose_resid_adds_up(config):
    _, _, cache = run(config)
    for layer in range(config.n_layers + 1):
        parts, labels = cache.decompose_resid(layer, return_labels=True)
        writers = ["attn_out", "mlp_out"] if config.d_mlp else ["attn_out"]
        embeds = ["embed", "pos_embed"] if config.positional == "additive" else ["embed"]
        assert labels == embeds + [f"{i}_{name}" for i in range(layer) for name in writers]
        assert_same(parts.sum(0), cache.accumulated_resid(layer)[-1])
        assert torch.equal(cache.decompose_resid(layer, pos_slice=(1, 3)), parts[:, :, 1:3])


def test_decompose_resid_by_kind():
    _, _, cache = run(STREAM)
    attn, mlp = (cache.decompose_resid(mode=mode, incl_embeds=False) for mode in ("attn", "mlp"))
    assert torch.equal(attn, cache.stack_activation("attn_out"))
    assert torch.equal(mlp, cache.stack_activation("mlp_out"))
    assert_same(cache.decompose_resid(1, mlp_input=True).sum(0), cache["resid_mid", 1])


@every_stream
def test_stack_head_results_adds_up_with_the_remainder(config):
    _, _, cache = run(config)
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == ["L0H0", "L0H1", "L1H0", "L1H1"]
    biases = [block.attn.b_O for block in cache.model.blocks]
    for layer in range(N_LAYERS):
        total = heads[N_HEADS * layer : N_HEADS * (layer + 1)].sum(0)
        assert_same(total + (0 if biases[layer] is None else biases[layer]), cache["attn_out", layer])
    whole = cache.stack_head_results(incl_remainder=True)
    assert_same(whole.sum(0), cache["resid_post", N_LAYERS - 1])
    assert torch.equal(cache.stack_head_results(pos_slice=-1), heads[:, :, -1])


@every_stream
def test_head_results_are_found_again_from_z(config):
    """As when hook_result was not cached."""
    model, _, cache = run(config)
    expected = cache.stack_head_results()
    without = model.run_with_cache(
        draw(BATCH, N_CTX, DIM, seed=100), names_filter=lambda name: not name.endswith("hook_result")
    )[1]
    assert_same(without.stack_head_results(), expected)


def test_stack_head_results_of_one_layer_that_replaces_its_input():
    _, predictions, cache = run(ModelConfig.full(**STREAM_SIZES))
    assert_same(cache.stack_head_results().sum(0), predictions)


@every_stream
@pytest.mark.parametrize("expand_neurons", [True, False])
def test_the_full_decomposition_adds_up(config, expand_neurons):
    _, _, cache = run(config)
    for layer in range(1, N_LAYERS + 1):
        parts, labels = cache.get_full_resid_decomposition(layer, expand_neurons=expand_neurons, return_labels=True)
        neurons = layer * (D_MLP if expand_neurons else 1) if config.d_mlp else 0
        embeds = 2 if config.positional == "additive" else 1
        assert len(parts) == len(labels) == layer * N_HEADS + neurons + embeds + 1
        assert_same(parts.sum(0), cache["resid_post", layer - 1])
    assert_same(cache.get_full_resid_decomposition(0).sum(0), cache["resid_pre", 0])
    assert torch.equal(cache.get_full_resid_decomposition(expand_neurons=expand_neurons, pos_slice=-1), parts[:, :, -1])


def test_the_full_decomposition_has_every_part():
    model, _, cache = run(STREAM)
    parts, labels = cache.get_full_resid_decomposition(return_labels=True)
    by_name = dict(zip(labels, parts, strict=True))
    assert_same(by_name["embed"], cache["hook_embed"])
    assert_same(by_name["pos_embed"], model.pos_embed.W_pos.expand(BATCH, -1, -1))
    assert_same(by_name["bias"][0, 0], sum(block.attn.b_O + block.mlp.b_out for block in model.blocks))
    assert_same(by_name["L1H1"], cache["result", 1][:, :, 1])
    neuron = cache["post", 1][:, :, 3, None] * model.blocks[1].mlp.W_out[3]
    assert_same(parts[labels.index("L0H0") + N_LAYERS * N_HEADS + D_MLP + 3], neuron)


@pytest.mark.parametrize("expand_neurons", [True, False])
def test_the_full_decomposition_of_an_mlps_input_and_projected(expand_neurons):
    model, predictions, cache = run(STREAM)
    parts = cache.get_full_resid_decomposition(1, mlp_input=True, expand_neurons=expand_neurons)
    assert_same(parts.sum(0), cache["resid_mid", 1])
    read = cache.get_full_resid_decomposition(expand_neurons=expand_neurons, project_output_onto=model.W_U)
    assert_same(read.sum(0), predictions)


@every_stream
def test_accumulated_bias_is_what_is_written_whatever_the_input(config):
    model = trained_like(config)
    expected = torch.zeros(config.d_model, dtype=torch.float64)
    for layer, block in enumerate(model.blocks):
        assert_same(model.accumulated_bias(layer), expected)
        expected = expected + block.attn.b_O if config.biases else expected
        assert_same(model.accumulated_bias(layer, mlp_input=True), expected)
        expected = expected + block.mlp.b_out if config.d_mlp else expected
    assert_same(model.accumulated_bias(N_LAYERS), expected)


@every_model
def test_stack_activation(config):
    _, _, cache = run(config)
    for name in ("q", "k", "v", "z", "pattern", "resid_post"):
        stack = cache.stack_activation(name)
        assert len(stack) == config.n_layers
        assert torch.equal(stack[-1], cache[name, -1])


SLICES = [0, 1, (0, 2), [0, 2], None]


@every_model
@pytest.mark.parametrize("batch", [N_CTX, N_HEADS])
@pytest.mark.parametrize("batch_slice", SLICES, ids=str)
def test_slices_of_the_batch(config, batch, batch_slice):
    """Positional weights have no batch axis and stay, even where another of their axes is as long as the batch."""
    if isinstance(batch_slice, list) and max(batch_slice) >= batch:
        batch_slice = [0]
    _, _, cache = run(config, batch=batch)
    sliced = cache.apply_slice_to_batch_dim(batch_slice)
    index = slice(*batch_slice) if isinstance(batch_slice, tuple) else batch_slice
    assert sliced.has_batch_dim == (not isinstance(batch_slice, int))
    for name, value in cache.items():
        whole = name.endswith("hook_pos_weights") or batch_slice is None
        assert torch.equal(sliced[name], value if whole else value[index]), name


@every_stream
def test_parts_of_one_sequence_add_up(config):
    _, _, whole = run(config)
    single = whole.apply_slice_to_batch_dim(1)
    _, _, cache = run(config, batch=1)
    assert cache.remove_batch_dim() is cache
    for one in (single, cache):
        assert one["z", 0].shape == (N_CTX, N_HEADS, config.head_width)
        for parts in (one.get_full_resid_decomposition(), one.decompose_resid()):
            assert_same(parts.sum(0), one["resid_post", N_LAYERS - 1])


@pytest.mark.parametrize("n_heads", [1, 2])
def test_positional_weights_outlive_the_batch_axis(n_heads):
    config = ModelConfig.full(dim=DIM, n_ctx=N_CTX, n_heads=n_heads, positional="softmax")
    _, _, cache = run(config, batch=1)
    before = cache["blocks.0.attn.hook_pos_weights"]
    cache.remove_batch_dim()
    assert torch.equal(cache["blocks.0.attn.hook_pos_weights"], before)
    assert cache["pattern", 0].shape == (n_heads, N_CTX, N_CTX)


# ---- refusals

REFUSALS = [
    ("decompose_resid", REPLACED, "decompose_resid needs a residual stream: here each layer replaces its input"),
    ("get_full_resid_decomposition", REPLACED, "get_full_resid_decomposition needs a residual stream: here each layer"),
    ("stack_head_results", REPLACED, "stack_head_results needs a residual stream: .* accumulated_resid shows the stre"),
    ("get_full_resid_decomposition", NORMED, "get_full_resid_decomposition cannot attribute to heads: LayerNorm follo"),
    ("stack_head_results", NORMED, "stack_head_results cannot attribute to heads: LayerNorm follows their sum, and is "
     "not linear. decompose_resid gives each layer's output after it"),
]  # fmt: skip


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize(("method", "config", "message"), REFUSALS)
def test_decompositions_that_would_be_wrong_are_refused(method, config, message, sliced):
    _, _, cache = run(config)
    if sliced:
        cache = cache.apply_slice_to_batch_dim(slice(0, 2))
    with pytest.raises(ValueError, match=message):
        getattr(cache, method)()


@pytest.mark.parametrize("config", [REPLACED, NORMED], ids=["no stream", "LayerNorm"])
def test_what_is_refused_is_wrong(config):
    _, _, cache = run(config)
    parts = ActivationCache(cache.cache_dict, cache.model).get_full_resid_decomposition()
    assert (parts.sum(0) - cache["resid_post", N_LAYERS - 1]).abs().max() > 0.1


# ---- factored matrices


@every_model
def test_circuits_are_factored_matrices(config):
    model = trained_like(config)
    W_Q, W_K, W_V, W_O = model.W_Q, model.W_K, model.W_V, model.W_O
    for circuit, product_ in ((model.QK, W_Q @ W_K.mT), (model.OV, W_V @ W_O)):
        assert isinstance(circuit, FactoredMatrix)
        assert circuit.shape == (config.n_layers, N_HEADS, config.d_model, config.d_model)
        assert_same(circuit.AB, product_)
        U, S, V = circuit.svd()
        assert_same(U @ S.diag_embed() @ V.mT, product_)
        rank = min(config.head_width, config.d_model)
        assert_same(S[..., :rank], torch.linalg.svdvals(product_)[..., :rank])
        assert_same(circuit.norm(), product_.square().sum((-2, -1)).sqrt())
        assert circuit[-1, 1].shape == (config.d_model, config.d_model)
        assert_same(circuit[-1, 1].AB, product_[-1, 1])


@every_model
def test_eigenvalues_of_circuits(config):
    model = trained_like(config)
    for circuit in (model.QK, model.OV):
        eigenvalues = circuit.eigenvalues
        product_ = circuit.AB
        # The multiset, without a choice of order: the sums of powers are the traces of the powers of the product.
        power = product_.to(torch.complex128)
        for k in range(1, config.d_model + 1):
            assert_same((eigenvalues**k).sum(-1), power.diagonal(dim1=-2, dim2=-1).sum(-1))
            power = power @ product_.to(torch.complex128)
        largest = torch.linalg.eigvals(product_).abs().amax(-1)
        assert_close(eigenvalues.abs().amax(-1), largest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["everything", "block-scalar", "plain", "softmax positions", "no stream", "diagonal"])
def test_the_circuits_are_the_model(name):
    """Scores are the QK form and results the OV map of the stream where there are no biases on the way."""
    config = MODELS[name]
    model = trained_like(config)
    for parameter, value in model.named_parameters():
        if ".b_" in parameter:
            value.zero_()
    predictions, cache = model.run_with_cache(draw(BATCH, N_CTX, DIM, seed=100))
    for layer, h in product(range(config.n_layers), range(N_HEADS)):
        resid = cache["resid_pre", layer]
        lag = config.query_lag
        scores = (resid[:, : N_CTX - lag] @ model.QK.AB[layer, h] @ resid.mT).tril(lag)
        assert_same(cache["attn_scores", layer][:, h, lag:], scores)
        assert_same(cache["result", layer][:, :, h], cache["pattern", layer][:, h] @ resid @ model.OV.AB[layer, h])
    assert_same(model.read_out(cache["resid_post", -1]), predictions)


# ---- hooks


def test_run_with_hooks_takes_names_and_filters():
    model, _, cache = run(STREAM)
    tokens = draw(BATCH, N_CTX, DIM, seed=100)
    by_name = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: 0 * z) for layer in range(N_LAYERS)]
    by_filter = [(lambda name: name.endswith("attn.hook_z"), lambda z, hook: 0 * z)]
    without_heads = model.run_with_hooks(tokens, fwd_hooks=by_name)
    assert torch.equal(without_heads, model.run_with_hooks(tokens, fwd_hooks=by_filter))
    resid = cache["hook_embed"] + model.pos_embed.W_pos
    for block in model.blocks:
        resid = resid + block.attn.b_O
        resid = resid + block.mlp(resid)
    assert_same(without_heads, resid[..., :DIM])


def test_backward_hooks_see_the_gradients():
    model = trained_like(STREAM).requires_grad_(True)
    tokens = draw(BATCH, N_CTX, DIM, seed=100).requires_grad_(True)
    seen = {}

    def watch(gradient, hook):
        seen[hook.name] = gradient.clone()

    names = ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.0.hook_resid_pre", "hook_embed"]
    with model.hooks(bwd_hooks=[(name, watch) for name in names]) as hooked:
        hooked(tokens).sum().backward()
    assert set(seen) == set(names)
    expected = torch.zeros(BATCH, N_CTX, 3 * DIM, dtype=torch.float64)
    expected[..., :DIM] = 1
    assert_same(seen["blocks.1.hook_mlp_out"], expected)
    for name in names:  # against automatic differentiation of a run that starts from the activation
        leaf = model.run_with_cache(tokens)[1][name].detach().clone().requires_grad_(True)
        model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook, leaf=leaf: leaf)]).sum().backward()
        assert_same(seen[name], leaf.grad)


def test_cached_gradients_are_those_of_backward_hooks():
    model = trained_like(STREAM).requires_grad_(True)
    tokens = draw(BATCH, N_CTX, DIM, seed=100)
    seen = {}
    _, cache = model.run_with_cache(tokens)
    assert not any(value.requires_grad for value in cache.values())

    def watch(gradient, hook):
        seen[hook.name] = gradient.clone()

    with model.hooks(bwd_hooks=[(lambda name: name.endswith("hook_z"), watch)]) as hooked:
        predictions = hooked(tokens)
        predictions.square().sum().backward()
    assert list(seen) == ["blocks.1.attn.hook_z", "blocks.0.attn.hook_z"]
    assert model.blocks[0].attn.W_Q.grad.abs().sum() > 0
    read_gradient = torch.zeros(BATCH, N_CTX, 3 * DIM, dtype=torch.float64)
    read_gradient[..., :DIM] = 2 * predictions.detach()
    mlp, resid_mid = model.blocks[1].mlp, cache["resid_mid", 1].requires_grad_(True)
    (mlp(resid_mid) * read_gradient).sum().backward()
    written = read_gradient + resid_mid.grad
    assert_same(seen["blocks.1.attn.hook_z"], torch.einsum("btm,him->bthi", written, model.W_O[1].detach()))


@every_model
def test_hooks_are_gone_after_an_exception(config):
    model = trained_like(config)
    tokens = draw(BATCH, N_CTX, DIM, seed=100)
    before = model(tokens)

    def fail(value, hook):
        raise RuntimeError("on purpose")

    last = model.hook_names()[-1]
    with pytest.raises(RuntimeError, match="on purpose"):
        model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", lambda value, hook: 2 * value), (last, fail)])
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize(
    ("config", "names_filter", "message"),
    [
        (STREAM, lambda name: "pos_weights" in name, "names_filter selects no hook of this model"),
        (STREAM, [], "names_filter is empty and selects no hook; leave it out to cache all"),
        (STREAM, "blocks.2.hook_resid_pre", r"'blocks.2.hook_resid_pre' does not exist \(the model has 2 blocks\)\. D"),
        (REPLACED, "blocks.0.hook_mlp_out", "hook 'blocks.0.hook_mlp_out' does not exist .* Did you mean"),
        (STREAMS["softmax"], "blocks.0.attn.hook_kv_state", "hook 'blocks.0.attn.hook_kv_state' does not exist"),
    ],
)  # fmt: skip
def test_a_filter_that_matches_nothing_is_an_error(config, names_filter, message):
    model = trained_like(config)
    with pytest.raises(ValueError, match=message):
        model.run_with_cache(draw(BATCH, N_CTX, DIM, seed=100), names_filter=names_filter)


@every_model
def test_cfg_says_what_transformer_lens_asks(config):
    cfg = trained_like(config).cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.n_ctx) == (config.n_layers, N_HEADS, N_CTX)
    assert (cfg.d_model, cfg.d_head) == (config.d_model, config.head_width)
    assert cfg.attn_only == (not config.d_mlp)
    assert cfg.attn_only or cfg.d_mlp == D_MLP
    assert cfg.use_attn_result
    assert cfg.dtype == torch.float64
