"""TransformerLens's patching on general models, given ids of registered sequences, against loops with hooks."""

from itertools import product

import pandas as pd
import pytest
import torch
from cases import MODELS, N_LAYERS, STREAM, STREAM_SIZES, STREAMS, draw
from torch import Tensor
from torch.testing import assert_close
from transformer_lens import patching
from zoo import trained_like

from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer

DIM, N_CTX, N_HEADS = STREAM_SIZES.values()
BATCH = 3
AXES = {"layer": N_LAYERS, "pos": N_CTX, "head": N_HEADS, "head_index": N_HEADS, "dest_pos": N_CTX, "src_pos": N_CTX}
POS, POS_HEAD, HEAD = ("layer", "pos"), ("layer", "pos", "head"), ("layer", "head")
SWEEPS = {
    "resid_pre": ("resid_pre", POS),
    "attn_out": ("attn_out", POS),
    "resid_mid": ("resid_mid", POS),
    "mlp_out": ("mlp_out", POS),
    **{f"attn_head_{name}_by_pos": ("z" if name == "out" else name, POS_HEAD) for name in ("out", "q", "k", "v")},
    **{f"attn_head_{name}_all_pos": ("z" if name == "out" else name, HEAD) for name in ("out", "q", "k", "v")},
    "attn_head_pattern_all_pos": ("pattern", ("layer", "head_index")),
    "attn_head_pattern_by_pos": ("pattern", ("layer", "head_index", "dest_pos")),
    "attn_head_pattern_dest_src_pos": ("pattern", ("layer", "head_index", "dest_pos", "src_pos")),
}
HOOKS = {"z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern"}


def metric(predictions: Tensor) -> Tensor:
    """A scalar to which every position and coordinate contributes differently."""
    weights = torch.linspace(-1, 2, predictions[0].numel(), dtype=predictions.dtype).reshape(predictions.shape[1:])
    return (predictions * weights).mean()


def assert_found(found: Tensor, expected: Tensor) -> None:
    """To float32's rounding, in which TransformerLens stores what it finds."""
    assert_close(found, expected.float(), rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def pair(config: ModelConfig) -> tuple[HookedARTransformer, Tensor, Tensor]:
    """A model, clean and corrupted tokens."""
    return trained_like(config), draw(BATCH, N_CTX, DIM, seed=200), draw(BATCH, N_CTX, DIM, seed=201)


def naive_sweep(model: HookedARTransformer, clean: Tensor, corrupted: Tensor, name: str, axes: tuple[str, ...]):
    """One hooked run for each place, which puts the clean activation there."""
    sizes = [model.config.n_layers, *(AXES[axis] for axis in axes[1:])]
    _, cache = model.run_with_cache(clean)
    found = torch.zeros(sizes, dtype=torch.float64)
    for layer, *place in product(*map(range, sizes)):
        where = dict(zip(axes[1:], place, strict=True))
        head, pos = where.get("head", slice(None)), where.get("pos", slice(None))
        index = (slice(None), pos, head) if name in "qkvz" else (slice(None), pos)
        if name == "pattern":
            rest = (where.get("dest_pos", slice(None)), where.get("src_pos", slice(None)))
            index = (slice(None), where["head_index"], *rest)
        full_name = f"blocks.{layer}.{HOOKS.get(name, f'hook_{name}')}"

        def patch(value, hook, index=index, source=cache[full_name]):
            patched = value.clone()
            patched[index] = source[index]
            return patched

        with model.hooks([(full_name, patch)]):
            found[(layer, *place)] = metric(model(corrupted))
    return found


@pytest.mark.parametrize(
    ("model_name", "sweep"),
    [(model, sweep) for model, sweep in product(MODELS, SWEEPS)
     if (MODELS[model].d_mlp or sweep not in ("resid_mid", "mlp_out"))
     and (model in ("block-scalar", "diagonal") or "src_pos" not in sweep)],  # 2 x 64 runs of a model
)  # fmt: skip
def test_patching_with_ids_is_the_naive_loop(model_name, sweep, capfd):
    config, (name, axes) = MODELS[model_name], SWEEPS[sweep]
    model, clean, corrupted = pair(config)
    expected = naive_sweep(model, clean, corrupted, name, axes)
    ids = model.register_sequences(torch.cat([clean, corrupted]))
    bank = model.bank.clone()
    cache = model.run_with_cache(ids[:BATCH])[1]
    found = getattr(patching, f"get_act_patch_{sweep}")(model, ids[BATCH:], cache, metric)
    assert_found(found, expected)
    assert torch.equal(model.bank, bank)
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())
    # The control: patching does something, and not the same in every place.
    assert (found - found.flatten()[0]).abs().max() > 1e-3 * found.abs().max()


@pytest.mark.parametrize("sweep", ["resid_pre", "attn_head_k_by_pos", "attn_head_q_by_pos"])
@pytest.mark.parametrize("name", ["diagonal", "block-scalar", "no stream"])
def test_patching_tokens_by_an_index_frame_leaves_them_alone(name, sweep, capfd):
    model, clean, corrupted = pair(MODELS[name])
    hook, axes = SWEEPS[sweep]
    expected = naive_sweep(model, clean, corrupted, hook, axes)
    before = corrupted.clone()
    cache = model.run_with_cache(clean)[1]
    places = pd.DataFrame(list(product(*map(range, expected.shape))), columns=list(axes))
    setter = patching.layer_pos_patch_setter if axes == POS else patching.layer_pos_head_vector_patch_setter
    found = patching.generic_activation_patch(model, corrupted, cache, metric, setter, hook, index_df=places)
    assert_found(found, expected.flatten())
    assert torch.equal(corrupted, before)


def test_every_head_by_position_in_one_call(capfd):
    model, clean, corrupted = pair(STREAMS["block-scalar"])
    ids = model.register_sequences(torch.cat([clean, corrupted]))
    cache = model.run_with_cache(ids[:BATCH])[1]
    found = patching.get_act_patch_attn_head_by_pos_every(model, ids[BATCH:], cache, metric)
    assert found.shape == (5, N_LAYERS, N_CTX, N_HEADS)
    for i, name in enumerate("zqkv"):
        assert_found(found[i], naive_sweep(model, clean, corrupted, name, POS_HEAD))
    pattern = naive_sweep(model, clean, corrupted, "pattern", ("layer", "head_index", "dest_pos")).mT
    assert_found(found[4], pattern)


def test_every_part_of_a_block_in_one_call(capfd):
    model, clean, corrupted = pair(STREAM)
    ids = model.register_sequences(torch.cat([clean, corrupted]))
    cache = model.run_with_cache(ids[:BATCH])[1]
    found = patching.get_act_patch_block_every(model, ids[BATCH:], cache, metric)
    for i, name in enumerate(("resid_pre", "attn_out", "mlp_out")):
        assert_found(found[i], naive_sweep(model, clean, corrupted, name, POS))


def test_patching_per_sequence_has_effects_and_errors(capfd):
    model, clean, corrupted = pair(STREAM)
    ids = model.register_sequences(torch.cat([clean, corrupted]))
    cache = model.run_with_cache(ids[:BATCH])[1]

    def per_sequence(predictions):
        return predictions[:, -1].square().sum(-1)

    result = patching.get_act_patch_resid_pre(model, ids[BATCH:], cache, per_sequence, reduce="none", baseline=True)
    values = result.values  # noqa: PD011 - not of pandas
    assert values.shape == (N_LAYERS, N_CTX, BATCH)
    assert_close(result.baseline.double(), per_sequence(model(corrupted)), rtol=1e-6, atol=1e-6)
    third, clean_third = torch.tensor([2]), cache["resid_pre", 1][:, 2:3]
    for b in range(BATCH):
        hook = ("blocks.1.hook_resid_pre", lambda value, hook, b=b: value.index_copy(1, third, clean_third[b : b + 1]))
        expected = per_sequence(model.run_with_hooks(corrupted[b : b + 1], fwd_hooks=[hook]))
        assert_close(values[1, 2, b : b + 1].double(), expected, rtol=1e-6, atol=1e-6)
    assert_close(result.mean(), values.mean(-1))
    assert_close(result.effect(), values - result.baseline)


def test_patching_the_stream_everywhere_is_the_clean_run():
    model, clean, corrupted = pair(STREAM)
    predictions, cache = model.run_with_cache(clean)
    hook = ("blocks.1.hook_resid_pre", lambda value, hook: cache["resid_pre", 1])
    assert torch.equal(model.run_with_hooks(corrupted, fwd_hooks=[hook]), predictions)


def test_ids_are_the_tokens():
    model, clean, corrupted = pair(STREAM)
    ids = model.register_sequences(clean)
    assert ids.shape == (BATCH, N_CTX)
    assert not ids.is_floating_point()
    assert torch.equal(model(ids), model(clean))
    assert torch.equal(model(ids.flip(0)[:, :3]), model(clean.flip(0)[:, :3]))
    assert "bank" not in model.state_dict()
    model.register_sequences(corrupted)
    assert torch.equal(model(ids), model(corrupted))


def test_ids_without_sequences_are_refused():
    with pytest.raises(ValueError, match=r"tokens are ids but no sequences are registered: ids = model.register_seq"):
        trained_like(STREAM)(torch.zeros(BATCH, N_CTX, dtype=torch.int64))
