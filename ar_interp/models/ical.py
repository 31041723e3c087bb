"""The two general models of the authors' code (github.com/michaelsdr/ical) as `HookedARTransformer`."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ar_interp._checks import as_real_array, wrapping
from ar_interp.models.config import BLOCKS, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import HaarOrthogonal

UNUSED = ("norm2.", "feed_forward.")  # made there, and never called
PARTS = {"Q": "queries", "K": "keys", "V": "values"}


def from_state_dict(
    state_dict: Mapping[str, object], *, process: HaarOrthogonal | None = None, dtype: str = "float32"
) -> HookedARTransformer:
    """See `checkpoints.from_ical_state_dict`."""
    theirs = {name: _array(name, value) for name, value in state_dict.items()}
    config = _config(theirs, process, dtype)
    _check_shapes(config, theirs)
    weights: dict[str, Tensor] = {}
    if config.positional == "softmax":
        weights["pos_embed.W_pos"] = theirs["decoder.position_embedding.weight"]
    for layer in range(config.n_layers):
        prefix, ours = f"decoder.layers.{layer}.", f"blocks.{layer}."
        for part, name in PARTS.items():
            W, b = (theirs[f"{prefix}attention.{name}.{kind}"] for kind in ("weight", "bias"))
            weights[f"{ours}attn.W_{part}"] = W.unflatten(0, (config.n_heads, -1)).mT
            weights[f"{ours}attn.b_{part}"] = b.unflatten(0, (config.n_heads, -1))
        weights[f"{ours}attn.shared_W_O"] = theirs[f"{prefix}attention.fc_out.weight"].T
        weights[f"{ours}attn.b_O"] = theirs[f"{prefix}attention.fc_out.bias"]
        weights[f"{ours}ln1_post.w"] = theirs[f"{prefix}norm1.weight"]
        weights[f"{ours}ln1_post.b"] = theirs[f"{prefix}norm1.bias"]
    weights["unembed.W_U"] = theirs["fc_out.weight"][: config.dim].T  # the rest is never compared with a token
    weights["unembed.b_U"] = theirs["fc_out.bias"][: config.dim]
    model = HookedARTransformer(config, process=process)
    model.load_state_dict(weights)
    return model


def _check_shapes(config: ModelConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Every tensor that the model has, of its shape, and no other."""
    width, rows = config.d_model, config.d_model * config.n_heads
    n_out = width if config.encoding == "augmented" else config.dim
    shapes = {"decoder.position_embedding.weight": (config.n_ctx, width)}
    shapes |= {"fc_out.weight": (n_out, width), "fc_out.bias": (n_out,)}
    for layer in range(config.n_layers):
        prefix = f"decoder.layers.{layer}."
        for name, size in {**dict.fromkeys(PARTS.values(), rows), "fc_out": width}.items():
            shapes |= {f"{prefix}attention.{name}.weight": (size, width), f"{prefix}attention.{name}.bias": (size,)}
        shapes |= {f"{prefix}norm1.weight": (width,), f"{prefix}norm1.bias": (width,)}
    for name, shape in shapes.items():
        if name not in state_dict:
            raise ValueError(f"state_dict lacks {name!r}, which the authors' general models have.")
        as_real_array(f"state_dict[{name!r}]", state_dict[name], shape=shape)
    for name in state_dict:
        if name not in shapes and not any(part in name for part in UNUSED):
            raise ValueError(f"state_dict has {name!r}, which neither of the authors' general models has.")


def _config(state_dict: Mapping[str, Tensor], process: HaarOrthogonal | None, dtype: str) -> ModelConfig:
    """The model that the shapes say, and the process where they leave it open."""
    for name in ("fc_out.weight", "decoder.position_embedding.weight", "decoder.layers.0.attention.queries.weight"):
        if name not in state_dict or state_dict[name].ndim != 2:
            raise ValueError(
                f"state_dict has no matrix {name!r}: it is not one of the authors' general models (augmented.py, "
                "non_augmented.py). Diagonal heads come through HookedARTransformer.from_diagonal."
                + wrapping(state_dict)
            )
    n_out, width = state_dict["fc_out.weight"].shape
    n_ctx = len(state_dict["decoder.position_embedding.weight"])
    n_heads = max(1, len(state_dict["decoder.layers.0.attention.queries.weight"]) // width)
    n_layers = len({name.split(".")[2] for name in state_dict if name.startswith("decoder.layers.")})
    augmented = n_out == width and width % BLOCKS == 0
    dim = process.dim if process else None
    if augmented and n_layers == 1 and dim not in (width // BLOCKS, width):
        raise ValueError(
            f"state_dict's read-out maps {width} to {width}: is it the augmented model with dim {width // BLOCKS}, or "
            f"the other one with dim {width} that writes a token once? Say which: process=HaarOrthogonal"
            f"({width // BLOCKS}) or process=HaarOrthogonal({width})."
        )
    if augmented and not (n_layers == 1 and dim == width):
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
    ndim = value.ndim if isinstance(value, (Tensor, np.ndarray)) else np.array(value, dtype=object).ndim
    return as_real_array(f"state_dict[{name!r}]", value, shape=tuple(f"axis_{i}" for i in range(ndim)))
