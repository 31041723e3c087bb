"""Remove a head, a layer, or the key at a distance: what is the loss without it, and what must it be?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_seed, check_several
from ar_interp.models.opened import Model
from ar_interp.probes.batches import at_a_time
from ar_interp.probes.protocol import PATTERNS as READ_PATTERNS
from ar_interp.probes.protocol import RUN, needs
from ar_interp.probes.results import Result, middle_of
from ar_interp.processes import Contexts, Process, Sequences
from ar_interp.seeds import generator_of
from ar_interp.setting import Setting, setting_of
from ar_interp.theory.ablations import METHODS

Tokens = Inexact[Tensor, "batch pos dim"]

OUTPUTS, PATTERNS = ("attn.hook_result", "attn.hook_z"), ("attn.hook_pattern",)
LAYERS = {"attention": "hook_attn_out", "mlp": "hook_mlp_out"}
SCALE = "ln1_post.hook_scale"
TRIMMED = 0.01  # share of the sequences, those of the largest costs
COPIES = 8  # of scores, and of outputs of heads, [batch pos head d_head]: every component has its own, in the cache


@dataclass(frozen=True, kw_only=True)
class Ablation(Result):
    """The loss without each component. Losses are means over sequences and T = 2..length, sums over coordinates.

    Attributes:
        by_component: a row per layer and head, part (`attention` or `mlp`) or offset (k for the key s_{T-k}). Columns:
            loss without it; cost, that loss minus the loss with everything; cost_se, its standard error over the n
            sequences (of paired differences), and their 10 % and 90 % quantiles, cost_low and cost_high; trimmed and
            trimmed_se, the same without the 1 % of the sequences that it costs most, for models that blow up;
            predicted, what theory expects of the cost, nan where it says nothing.
        costs: those of each sequence.
        loss, loss_se: with everything, and its standard error over the sequences.
        method: `zero`, `mean` or `resample`.
        hook: where components were removed, such as `hook_result`.
    """

    by_component: pd.DataFrame
    costs: Float[Tensor, "component batch"]
    loss: float
    loss_se: float
    method: str
    hook: str
    n: int


class _Component(NamedTuple):
    """A part of an activation, as a view into it."""

    hook: str
    view: Callable[[Tensor], Tensor]


@needs(*RUN, "blocks.{layer}.attn.hook_result|hook_z", sequences=2, length=2)
def ablate_heads(
    model: Model,
    sequences: Sequences,
    *,
    method: str = "zero",
    layers: Iterable[int] | None = None,
    process: Process | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Ablation:
    """Remove the output of each head by itself, at all positions, where it is written to the residual stream.

    Where LayerNorm follows attention, a head writes w (x_h - mean x_h) / scale of its output x_h, with the scale that
    all heads have together: the scale is held as it is, and means and other sequences are those of x_h / scale.
    `zero` leaves it out; `mean` puts its mean over the sequences in its place, at each position; `resample` that of
    another sequence. What diagonal heads cost on a commuting process is known, `theory.head_removal_cost`: at a minimum
    of the unitary family with n_heads <= dim 1 / cos^2(a_h, b_h), and twice that for `resample`.
    The mean of n sequences contains each by itself, which takes 1/n off the cost of `mean`: so does `predicted`.
    Source: ablations are standard; the predicted costs are derived in `theory.ablations`.

    Args:
        layers: whose heads; all if left out.
        process: what the sequences are of; the model's own if left out. Without one nothing is predicted.
        seed: of which sequence gets which other one's output.
        batch_size: sequences in one forward pass; one without a component counts as one more.
    Raises:
        ValueError: an unknown method, layers that are not there, a model without the hooks, fewer than two sequences or
            three tokens, a process of another dim.
    """
    names = _hooks_of(model, OUTPUTS)
    chosen = check_several("layers", layers, low=0, high=len(names) - 1)
    n_heads = _example(model, sequences, names[0]).shape[2]  # [1 pos head d_model]
    components = [
        _Component(names[layer], lambda activation, head=head: activation[:, :, head])
        for layer in chosen
        for head in range(n_heads)
    ]
    labels = {"layer": np.repeat(chosen, n_heads), "head": np.tile(np.arange(n_heads), len(chosen))}

    def predict(setting: Setting) -> Tensor | None:
        return setting.head_removal_costs(model, length=sequences.length, method=method)

    return _ablate(model, sequences, components, labels, predict, method, process, seed, n_heads, batch_size)


@needs(*RUN, "blocks.{layer}.hook_attn_out", sequences=2, length=2)
def ablate_layers(
    model: Model,
    sequences: Sequences,
    *,
    method: str = "zero",
    layers: Iterable[int] | None = None,
    process: Process | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Ablation:
    """Remove what the attention of each layer, and its MLP where it has one, writes to the residual stream.

    Heads, biases and LayerNorm go together; the methods are those of `ablate_heads`. Nothing is predicted.

    Args:
        layers, process, seed, batch_size: as for `ablate_heads`.
    Raises:
        ValueError: as `ablate_heads`.
    """
    chosen = check_several("layers", layers, low=0, high=model.n_layers - 1)
    parts = [
        (layer, part, name)
        for layer in chosen
        for part, hook in LAYERS.items()
        if (name := _hook(layer, hook)) in model.hook_names
    ]
    _example(model, sequences, parts[0][2])
    components = [_Component(name, lambda activation: activation) for _, _, name in parts]
    labels = {"layer": np.array([layer for layer, *_ in parts]), "part": np.array([part for _, part, _ in parts])}
    n_heads = getattr(model.config, "n_heads", 1) if model.has_model_config else 1
    return _ablate(
        model, sequences, components, labels, lambda setting: None, method, process, seed, n_heads, batch_size
    )


@needs(*RUN, *READ_PATTERNS, sequences=2, length=2)
def ablate_positions(
    model: Model,
    sequences: Sequences,
    *,
    method: str = "zero",
    offsets: Iterable[int] | None = None,
    layer: int = 0,
    process: Process | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Ablation:
    """Cut the attention of every T to its key s_{T-k}, for each offset k by itself: 0 is s_T, 1 is s_{T-1}.

    What is removed is the attention pattern of all heads there; values stay. `zero` cuts it; `mean` puts its mean over
    the sequences in its place, so that the key's token is still added but not weighted by what the context says of W;
    `resample` puts that of another sequence. Contexts shorter than k + 1 have no such key, and count as they are.
    Source and predicted costs: `theory.position_removal_cost`; less 1/n for `mean`, as in `ablate_heads`.

    Args:
        offsets: k, from 0 to the length of the contexts less 1; all if left out.
        process, seed, batch_size: as for `ablate_heads`.
    Raises:
        ValueError: as `ablate_heads`; offsets that are not there.
    """
    names = _hooks_of(model, PATTERNS)
    name = names[check_integer("layer", layer, low=0, high=len(names) - 1)]
    n_heads = _example(model, sequences, name).shape[1]  # [1 head query key]
    chosen = check_several("offsets", offsets, low=0, high=sequences.length - 1)
    components = [
        _Component(name, lambda pattern, offset=offset: pattern.diagonal(-offset, -2, -1)) for offset in chosen
    ]

    def predict(setting: Setting) -> Tensor | None:
        costs = setting.position_removal_costs(model, length=sequences.length, method=method)
        return None if costs is None else costs[list(chosen)]

    labels = {"layer": np.full(len(chosen), layer), "offset": np.array(chosen)}
    return _ablate(model, sequences, components, labels, predict, method, process, seed, n_heads, batch_size)


def _ablate(
    model: Model,
    sequences: Sequences,
    components: Sequence[_Component],
    labels: dict[str, np.ndarray],
    predict: Callable[[Setting], Tensor | None],
    method: str,
    process: Process | None,
    seed: int,
    n_heads: int,
    batch_size: int | None,
) -> Ablation:
    check_choice("method", method, METHODS)
    n, dim = len(sequences), sequences.inputs.shape[-1]
    if process is not None and process.dim != dim:
        raise ValueError(f"process has dim {process.dim} but the sequences have dim {dim}; they must agree.")
    generator = generator_of(check_seed(seed))
    cycle = torch.randperm(
        n, generator=generator, device="cpu"
    )  # everybody's other sequence is the one before it on the cycle
    width = model.d_model or dim
    numbers = COPIES * n_heads * sequences.length * max(sequences.length, COPIES * width)
    n_rows = at_a_time(batch_size, numbers, most=None)
    losses = _losses(model, sequences, components, method, cycle, n_rows)
    costs = losses[:-1] - losses[-1]
    known = predict(setting_of(model.config, process or model.process)) if _in_theorys_basis(sequences) else None
    predicted = float("nan") if known is None else known.numpy() * (1 - 1 / n if method == "mean" else 1)
    table = {
        **labels,
        "loss": losses[:-1].mean(1),
        "cost": costs.mean(1),
        "cost_se": _standard_errors(costs[:, cycle], chained=method == "resample"),
        **middle_of("cost", costs),
        **_trimmed(costs),
        "predicted": predicted,
        "n": n,
    }
    return Ablation(
        by_component=pd.DataFrame(table),
        costs=costs,
        loss=losses[-1].mean().item(),
        loss_se=(losses[-1].std() / n**0.5).item(),
        method=method,
        hook=components[0].hook.rpartition(".")[2],
        n=n,
    )


def _trimmed(costs: Float[Tensor, "component batch"]) -> dict[str, Tensor]:
    """Mean and standard error without the largest costs."""
    kept = costs.sort(1)[0][:, : costs.shape[1] - int(TRIMMED * costs.shape[1])]
    return {"trimmed": kept.mean(1), "trimmed_se": _standard_errors(kept, chained=False)}


def _losses(
    model: Model, contexts: Contexts, components: Sequence[_Component], method: str, cycle: Tensor, n_rows: int
) -> Float[Tensor, "component batch"]:
    """The loss of each context without each component, and in the last row with all of them.

    One forward pass serves all components of a layer, on at most `n_rows` sequences, one for each component.
    """
    inputs = contexts.inputs
    names = list(dict.fromkeys(component.hook for component in components))
    n = len(inputs)
    groups = [group for name in names for group in _split([c for c in components if c.hook == name], n_rows)]
    n_sequences = max(1, n_rows // max(map(len, groups)))
    others = torch.empty_like(cycle)
    others[cycle] = cycle.roll(1)
    parts = [slice(start, start + n_sequences) for start in range(0, n, n_sequences)]
    replacements: dict[str, Tensor] = {}
    if method == "mean":
        for part in parts:
            for name, value in _over_scales(model, inputs[part], names).items():
                replacements[name] = replacements.get(name, 0) + value.sum(0, keepdim=True) / n
    found = torch.empty(len(components) + 1, n, dtype=torch.float64, device="cpu")
    for part in parts:
        if method == "resample":
            replacements = _over_scales(model, inputs[others[part].to(inputs.device)], names)
        scales = model.activations(inputs[part], list(_scales_of(model, names).values()))
        predictions = [_run(model, inputs[part], group, replacements.get(group[0].hook), scales) for group in groups]
        predictions = torch.cat([*predictions, model(inputs[part])[None]])
        found[:, part] = torch.stack([contexts[part].losses(each) for each in predictions]).double().cpu()
    return found


def _split(components: list[_Component], size: int) -> list[list[_Component]]:
    return [components[start : start + size] for start in range(0, len(components), size)]


def _scales_of(model: Model, names: Iterable[str]) -> dict[str, str]:
    """The hook of the LayerNorm's scale for each hook of outputs of heads that is before one."""
    found = {name: _hook(_layer_of(name), SCALE) for name in names if name.endswith(OUTPUTS)}
    return {name: scale for name, scale in found.items() if scale in model.hook_names}


def _over_scales(model: Model, inputs: Tokens, names: Iterable[str]) -> dict[str, Tensor]:
    """The activations of these hooks, those before a LayerNorm divided by its scale."""
    scales = _scales_of(model, names)
    found = model.activations(inputs, [*names, *scales.values()])
    return {name: found[name] / found[scales[name]][..., None] if name in scales else found[name] for name in names}


def _run(
    model: Model,
    inputs: Tokens,
    group: Sequence[_Component],
    replacement: Tensor | None,
    scales: dict[str, Tensor],
) -> Inexact[Tensor, "component batch pos dim"]:
    """The predictions without each component of a group of one layer; without a replacement there is zero.

    The tokens are repeated, once for each. Up to where they begin to differ a model of ours works on the first copy
    alone; there a change of the pattern is made where it first tells, in z = pattern v.
    """
    name, n = group[0].hook, len(inputs)
    layer = _layer_of(name)
    block, scale_hook = f"blocks.{layer}", _hook(layer, SCALE)
    scale = scales.get(scale_hook)
    if scale is not None and replacement is not None:
        replacement = replacement * scale[..., None]
    shared = model.is_ours and not name.endswith(LAYERS["mlp"])
    seen: dict[str, Tensor] = {}

    def repeat(value: Tensor, hook: Any = None) -> Tensor:
        return value.repeat(len(group), *[1] * (value.ndim - 1))

    def once(value: Tensor, hook: Any) -> Tensor:
        seen[hook.name] = value[:n]
        return value[:n]

    def remove(value: Tensor, hook: Any) -> Tensor:
        value = repeat(value) if shared else value.clone(memory_format=torch.contiguous_format)
        for copy, component in zip(value.unflatten(0, (len(group), n)), group, strict=True):
            component.view(copy).copy_(value.new_zeros(()) if replacement is None else component.view(replacement))
        return value

    def remove_from_pattern(z: Tensor, hook: Any) -> Tensor:
        z, v = repeat(z), seen[f"{block}.attn.hook_v"]
        for copy, component in zip(z.unflatten(0, (len(group), n)), group, strict=True):
            change = -component.view(seen[name])  # [batch head pos - offset]
            change = change if replacement is None else change + component.view(replacement)
            length = change.shape[-1]
            copy[:, -length:] += torch.einsum("bht,bthi->bthi", change, v[:, :length])
        return z

    hooks: list[tuple[str, Callable]] = [(name, remove)]
    if shared:
        if name.endswith(PATTERNS):
            hooks = [(name, once), (f"{block}.attn.hook_z", remove_from_pattern)]
        hooks += [(f"{block}.attn.{hook}", once) for hook in ("hook_q", "hook_k", "hook_v")]
        below = [f"blocks.{layer}" for layer in range(layer)]
        hooks += [hook for b in below for hook in ((f"{b}.hook_resid_pre", once), (f"{b}.hook_resid_post", repeat))]
    if scale is not None:
        hooks.append((scale_hook, lambda value, hook: repeat(scale)))
    with model.hooks(fwd_hooks=hooks):
        return model(repeat(inputs)).unflatten(0, (len(group), n))


def _standard_errors(costs: Float[Tensor, "component batch"], *, chained: bool) -> Float[Tensor, "component"]:
    """Standard errors of the means; `chained`: neighbours share a sequence, and with it a part of their deviations."""
    centred = costs - costs.mean(1, keepdim=True)
    variance = centred.square().sum(1)
    if chained:
        variance = variance + 2 * (centred * centred.roll(1, 1)).sum(1).clamp(min=0)
    n = costs.shape[1]
    return (variance / (n * (n - 1))).sqrt()


def _in_theorys_basis(sequences: Sequences) -> bool:
    """s_1 = 1_dim and W diagonal."""
    W, first = sequences.W, sequences.inputs[:, 0]
    return bool((first == 1).all() and (W - torch.diag_embed(W.diagonal(0, -2, -1))).abs().max() <= 1e-9)


def _hooks_of(model: Model, kinds: Sequence[str]) -> list[str]:
    """The first kind of hook that each layer has."""
    return [
        next(name for kind in kinds if (name := _hook(layer, kind)) in model.hook_names)
        for layer in range(model.n_layers)
    ]


def _hook(layer: int, name: str) -> str:
    return f"blocks.{layer}.{name}"


def _layer_of(name: str) -> int:
    return int(name.split(".")[1])


def _example(model: Model, sequences: Sequences, name: str) -> Tensor:
    """The activation of one sequence."""
    return model.activations(sequences.inputs[:1], [name])[name]
