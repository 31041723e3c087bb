"""The function that weights make, apart from the hooked model: sums over weights by name, in double precision.

Queries, keys, values and outputs are joined to the circuits W_Q W_K^T and W_V W_O of each head; biases are rows of them
for a coordinate 1 of the stream. No module of a model is called and none of its code is shared.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.models.opened import Model
from ar_interp.models.weights import in_double

Weights = Mapping[str, Tensor]
ENCODINGS = ("plain", "augmented")
ATTENTIONS = ("linear", "linear/keys", "linear/pairs", "softmax")
VARIANCE_FLOOR = 1e-5  # of LayerNorm
ATTRIBUTES = ("W_Q", "W_K", "W_V", "W_O")


def closed_form(
    config: ModelConfig, weights: Weights, tokens: Inexact[Tensor, "batch pos dim"]
) -> Inexact[Tensor, "batch pos dim"]:
    """The prediction of s_{t+1} at each position t by these weights, differentiable.

    Per layer x_t -> [x_t] + norm(b_O + sum_h sum_{t' <= t} pattern_h(t, t') (x_t', 1) OV_h) with the scores
    (x_{t-lag}, 1) QK_h (x_t', 1)^T, of which the side that holds the older state is conjugated.

    Args:
        weights: by the names of `config.parameter_shapes`, in double precision.
    Raises:
        ValueError: none is written for a part of the model, see `no_closed_form`.
    """
    reason = no_closed_form(config)
    if reason:
        raise ValueError(f"config must have a closed form: {reason}.")
    tokens = tokens.to(torch.complex128 if tokens.is_complex() else torch.float64)
    weights = {name: W.to(tokens.device) for name, W in weights.items()}
    x, pos = tokens, tokens.shape[1]
    if config.encoding == "augmented":
        older = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        x = torch.cat([torch.zeros_like(x), x, older], dim=2)
    x = x.repeat(1, 1, config.repeats)
    if config.positional == "additive":
        x = x + weights["pos_embed.W_pos"][:pos]
    for layer in range(config.n_layers):
        own = _of_layer(weights, layer)
        y = _attention(config, own, x, weights["pos_embed.W_pos"][:pos] if config.positional == "softmax" else None)
        if config.layer_norm:
            y = y - y.mean(2, keepdim=True)
            y = y / (y.square().mean(2, keepdim=True) + VARIANCE_FLOOR).sqrt() * own["ln1_post.w"] + own["ln1_post.b"]
        x = x + y if config.residual else y
        if config.d_mlp:
            u = x @ own["mlp.W_in"] + own["mlp.b_in"]
            x = x + (0.5 * u * (1 + torch.erf(u / math.sqrt(2)))) @ own["mlp.W_out"] + own["mlp.b_out"]
    if not config.unembed:
        return x[:, :, : config.dim]
    return x @ weights["unembed.W_U"].to(x.dtype) + weights["unembed.b_U"]


def no_closed_form(config: object) -> str:
    """Why a config has none, a clause; empty where it has one."""
    if type(config) is not ModelConfig:
        return f"none is written for models of kind {getattr(config, 'kind', type(config).__name__)!r}"
    for name, known in (("encoding", ENCODINGS), ("attention", ATTENTIONS)):
        if getattr(config, name) not in known:
            return f"none is written for {name} {getattr(config, name)!r}"
    return ""


def own_weights(model: Model) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and weights that the closed form takes of a model, detached, in double precision on the CPU.

    A foreign model has it by the names of `probes.protocol`: W_Q, W_K, W_V, W_O, P and W_U of bare layers.

    Raises:
        ValueError: it has none; the message is a clause.
    """
    stated = getattr(model.module, "config", None)
    config = stated if isinstance(stated, Config) else _stated(model)
    if not isinstance(config, ModelConfig) or no_closed_form(config):
        raise ValueError(no_closed_form(config))
    try:
        found = {name: _walk(model.module, name) for name in config.parameter_shapes}
    except (AttributeError, KeyError, IndexError, TypeError):
        found = _by_attribute(model, config)
    for name, shape in config.parameter_shapes.items():
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(found[name].shape)} where its config says {list(shape)}")
    return config, {name: in_double(W) for name, W in found.items()}


def head_matrices(config: ModelConfig, weights: Weights) -> dict[str, Float[Tensor, "layer head _ _"]]:
    """W_Q, W_K, W_V and W_O of every layer and head, without biases, as probes read them."""
    layers = [_matrices(config, _of_layer(weights, layer)) for layer in range(config.n_layers)]
    return {name: torch.stack(parts) for name, parts in zip(ATTRIBUTES, zip(*layers, strict=True), strict=True)}


def _of_layer(weights: Weights, layer: int) -> Weights:
    prefix = f"blocks.{layer}."
    return {name.removeprefix(prefix): W for name, W in weights.items() if name.startswith(prefix)}


def _matrices(config: ModelConfig, own: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_Q, W_K, W_V [head d_model d_head] and W_O [head d_head d_model] of one layer."""
    device = next(iter(own.values())).device if own else "cpu"
    one = torch.eye(config.d_model, dtype=torch.float64, device=device).expand(config.n_heads, -1, -1)
    if config.heads == "unit":
        return one, one, one, one
    if config.heads == "diagonal":
        return one, torch.diag_embed(own["attn.A"]), torch.diag_embed(own["attn.B"]), one
    if config.heads == "block-scalar":
        small = torch.eye(config.dim, dtype=torch.float64, device=device)
        blocks = (own[f"attn.{name}_blocks"][:, :, None, :, None] * small[:, None] for name in ("QK", "OV"))
        QK, OV = (block.flatten(3).flatten(1, 2) for block in blocks)
        return QK, one, OV, one
    if config.heads == "merged":
        return own["attn.QK"], one, own["attn.OV"], one
    W_O = own["attn.shared_W_O"].expand(config.n_heads, -1, -1) if config.shared_output else own["attn.W_O"]
    return own["attn.W_Q"], own["attn.W_K"], own["attn.W_V"], W_O


def _attention(config: ModelConfig, own: Weights, x: Tensor, positions: Tensor | None) -> Tensor:
    """sum_h sum_t' pattern_h(t, t') (x_t', 1) OV_h + b_O."""
    W_Q, W_K, W_V, W_O = _matrices(config, own)
    if config.biases:
        W_Q, W_K, W_V = (
            torch.cat([W, own[f"attn.b_{part}"][:, None]], dim=1)
            for part, W in zip("QKV", (W_Q, W_K, W_V), strict=True)
        )
        x = _with_one(x)
        positions = None if positions is None else _with_one(positions)
    QK, OV = W_Q @ W_K.transpose(-2, -1), W_V @ W_O
    if config.scale_scores:
        QK = QK / math.sqrt(config.head_width)
    pos, lag = x.shape[1], config.query_lag
    T = torch.arange(1, pos + 1, dtype=torch.float64, device=x.device)
    seen = (T[:, None] >= T) & (T[:, None] > lag)  # [query key], of destinations that somebody asks for
    left, right = (x, x.conj()) if config.encoding == "augmented" else (x.conj(), x)
    scores = torch.einsum("btm,hmn,bsn->bhts", _lagged(left, lag), QK.to(x.dtype), right)
    if config.attention == "softmax":
        pattern = _softmax(scores, seen)
    else:
        shares = {
            "linear": torch.ones(pos, dtype=T.dtype, device=x.device),
            "linear/keys": 1 / T,
            "linear/pairs": 1 / (T - 1).clamp(min=1),
        }
        pattern = scores * seen * shares[config.attention][:, None]
    if config.positional == "multiplicative":
        P = own["attn.positional.P"]
        pattern = pattern * torch.cat([torch.zeros(lag, pos, dtype=P.dtype, device=P.device), P[: pos - lag, :pos]])
    elif positions is not None:
        pattern = pattern * _softmax(
            torch.einsum("tm,hmn,sn->hts", _lagged(positions[None], lag)[0], QK, positions), seen
        )
    written = torch.einsum("bhts,bsm,hmn->btn", pattern, x, OV.to(x.dtype))
    return written + own["attn.b_O"] if config.biases else written


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def _lagged(x: Tensor, lag: int) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :lag]), x[:, : x.shape[1] - lag]], dim=1)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """exp(scores) over its sum, of the keys that are seen; zero where there are none."""
    scores = scores.masked_fill(~seen, -torch.inf)
    weights = (scores - scores.detach().amax(-1, keepdim=True).clamp(min=-1e300)).exp()
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)


def _walk(module: object, name: str) -> Tensor:
    found = module
    for part in name.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)  # type: ignore[index] - a ModuleList
    if not isinstance(found, Tensor):
        raise AttributeError(name)
    return found


def _by_attribute(model: Model, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of bare full layers, from the attributes that probes read."""
    module = model.module
    stacks = {name: getattr(module, name, None) for name in ATTRIBUTES}
    lacking = [name for name, W in stacks.items() if W is None]
    if lacking or config.heads != "full" or config.biases or config.layer_norm or config.d_mlp or config.shared_output:
        raise ValueError(f"its weights are not where they are looked for ({', '.join(config.parameter_shapes)})")
    layers = range(config.n_layers)
    found = {f"blocks.{i}.attn.{name}": W[i] for name, W in stacks.items() if W is not None for i in layers}
    if config.positional == "multiplicative":
        found |= {f"blocks.{i}.attn.positional.P": module.P for i in layers}
    if config.unembed:
        found |= {
            "unembed.W_U": module.W_U,
            "unembed.b_U": torch.zeros_like(module.W_U[0]),
        }
    return found


def _stated(model: Model) -> ModelConfig:
    """The config of a foreign model, as far as its weights and what it states tell.

    Raises:
        ValueError: something in it that has no closed form here.
    """
    module, stated = model.module, getattr(model.module, "config", None)
    W_Q = getattr(module, "W_Q", None)
    if not isinstance(W_Q, Tensor) or W_Q.ndim != 4:
        raise ValueError("it has no weights W_Q [layer head d_model d_head]")
    beside = [name for name in ("biases", "layer_norm", "d_mlp") if getattr(stated, name, None)]
    if beside or (not model.is_linear and model.attention == "linear"):
        raise ValueError(f"its config states {', '.join(beside) or 'an attention that is not linear and has no name'}")
    augmented, P = model.is_augmented, getattr(module, "P", None)
    repeats = getattr(stated, "repeats", None) or 1
    n_layers, n_heads, width, d_head = W_Q.shape
    return ModelConfig(
        dim=width // (3 if augmented else repeats),
        n_ctx=max(2, model.n_ctx or 2),
        n_heads=n_heads,
        heads="full",
        n_layers=n_layers,
        encoding="augmented" if augmented else "plain",
        repeats=repeats,
        d_head=d_head,
        attention=model.attention,
        scale_scores=bool(getattr(stated, "scale_scores", None)),
        positional="none" if P is None else "multiplicative",
        query_lag=getattr(stated, "query_lag", None) or (0 if augmented else 1),
        residual=bool(getattr(stated, "residual", augmented)),
        unembed=getattr(module, "W_U", None) is not None,
    )
