"""The two general models of the authors' code (github.com/michaelsdr/ical) as `HookedARTransformer`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ar_interp._checks import as_real_array
from ar_interp.models.config import BLOCKS, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import HaarOrthogonal

UNUSED = ("norm2.", "feed_forward.")  # made there, and never called
PARTS = {"Q": "queries", "K": "keys", "V": "values"}


def from_state_dict(
    state_dict: Mapping[str, object], *, process: HaarOrthogonal | None = None, dtype: str = "float32"
) -> HookedARTransformer:
    """See `checkpoints.from_ical_state_dict`."""
    state_dict = {name: _array(name, value) for name, value in state_dict.items()}
    config = _config(state_dict, dtype)
    theirs = dict(state_dict)
    weights: dict[str, Tensor] = {}
    positions = theirs.pop("decoder.position_embedding.weight")
    if config.positional == "softmax":
        weights["pos_embed.W_pos"] = positions
    for layer in range(config.n_layers):
        prefix, ours = f"decoder.layers.{layer}.", f"blocks.{layer}."
        for part, name in PARTS.items():
            W, b = (_take(theirs, f"{prefix}attention.{name}.{kind}") for kind in ("weight", "bias"))
            weights[f"{ours}attn.W_{part}"] = W.unflatten(0, (config.n_heads, -1)).mT
            weights[f"{ours}attn.b_{part}"] = b.unflatten(0, (config.n_heads, -1))
        weights[f"{ours}attn.shared_W_O"] = _take(theirs, f"{prefix}attention.fc_out.weight").T
        weights[f"{ours}attn.b_O"] = _take(theirs, f"{prefix}attention.fc_out.bias")
        weights[f"{ours}ln1_post.w"] = _take(theirs, f"{prefix}norm1.weight")
        weights[f"{ours}ln1_post.b"] = _take(theirs, f"{prefix}norm1.bias")
    weights["unembed.W_U"] = _take(theirs, "fc_out.weight")[: config.dim].T  # the rest is never compared with a token
    weights["unembed.b_U"] = _take(theirs, "fc_out.bias")[: config.dim]
    left = [name for name in theirs if not any(part in name for part in UNUSED)]
    if left:
        raise ValueError(f"state_dict has {left[0]!r}, which neither of the authors' general models has.")
    model = HookedARTransformer(config, process=process)
    for name, shape in config.parameter_shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"state_dict does not fit itself: {name} should be {list(shape)}, is {list(weights[name].shape)}."
            )
    model.load_state_dict(weights)
    return model


def _config(state_dict: Mapping[str, Tensor], dtype: str) -> ModelConfig:
    """The model that the shapes say."""
    for name in ("fc_out.weight", "decoder.position_embedding.weight", "decoder.layers.0.attention.queries.weight"):
        if name not in state_dict or state_dict[name].ndim != 2:
            raise ValueError(
                f"state_dict has no matrix {name!r}: it is not one of the authors' general models (augmented.py, "
                "non_augmented.py). Diagonal heads come through HookedARTransformer.from_diagonal."
            )
    n_out, width = state_dict["fc_out.weight"].shape
    n_ctx = len(state_dict["decoder.position_embedding.weight"])
    n_heads = max(1, len(state_dict["decoder.layers.0.attention.queries.weight"]) // width)
    if n_out == width and width % BLOCKS == 0:
        n_layers = len({name.split(".")[2] for name in state_dict if name.startswith("decoder.layers.")})
        if n_heads != 1:
            raise ValueError(f"state_dict of the augmented model must have one head, got {n_heads}.")
        return ModelConfig.paper_figure5(dim=width // BLOCKS, n_ctx=n_ctx, n_layers=n_layers, dtype=dtype)
    if width % n_out == 0:
        return ModelConfig.paper_figure7(dim=n_out, n_ctx=n_ctx, n_heads=n_heads, repeats=width // n_out, dtype=dtype)
    raise ValueError(
        f"state_dict's read-out maps {width} to {n_out}: the augmented model maps 3 dim to 3 dim, the other one a "
        "multiple of dim to dim."
    )


def _array(name: str, value: object) -> Tensor:
    shape = tuple(value.shape) if isinstance(value, Tensor) else tuple(torch.as_tensor(value).shape)
    return as_real_array(f"state_dict[{name!r}]", value, shape=shape)


def _take(state_dict: dict[str, Tensor], name: str) -> Tensor:
    if name not in state_dict:
        raise ValueError(f"state_dict lacks {name!r}, which the authors' general models have.")
    return state_dict.pop(name)
