"""Remove a head, or the key at a distance: what is the loss without it, and what must it be?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_several
from ar_interp.models.opened import Model
from ar_interp.probes.context import check_length
from ar_interp.probes.protocol import PATTERNS as READ_PATTERNS
from ar_interp.probes.protocol import RUN, needs
from ar_interp.probes.results import Result
from ar_interp.processes import Contexts, Process, Sequences
from ar_interp.seeds import generator_of
from ar_interp.setting import Setting, setting_of
from ar_interp.theory.ablations import METHODS

Tokens = Inexact[Tensor, "batch pos dim"]

OUTPUTS, PATTERNS = ("hook_result", "hook_z"), ("hook_pattern",)
BUDGET = 2**22  # batch * head * pos^2 of one forward pass, the size of its scores
COPIES = 8  # outputs of heads, [batch pos head d_head], count as much: every component has its own, in the cache


@dataclass(frozen=True, kw_only=True)
class Ablation(Result):
    """The loss without each component. Losses are means over sequences and T = 2..length, sums over coordinates.

    Attributes:
        by_component: a row per layer and head, or per layer and offset (k for the key s_{T-k}). Columns: loss without
            it; cost, that loss minus the loss with everything; cost_se, its standard error over the n sequences (of
            paired differences); predicted, what theory expects of the cost, nan where it says nothing.
        loss, loss_se: with everything, and its standard error over the sequences.
        method: `zero`, `mean` or `resample`.
        hook: where components were removed, such as `hook_result`.
    """

    by_component: pd.DataFrame
    loss: float
    loss_se: float
    method: str
    hook: str
    n: int


class _Component(NamedTuple):
    """A part of an activation, as a view into it."""

    hook: str
    view: Callable[[Tensor], Tensor]


@needs(*RUN, "blocks.{layer}.attn.hook_result|hook_z")
@torch.no_grad()
def ablate_heads(
    model: Model,
    sequences: Sequences,
    *,
    method: str = "zero",
    layers: Iterable[int] | None = None,
    process: Process | None = None,
    seed: int = 0,
) -> Ablation:
    """Remove the output of each head by itself, at all positions, where it is written to the residual stream.

    `zero` leaves it out; `mean` puts its mean over the sequences in its place, at each position; `resample` that of
    another sequence. What diagonal heads cost on a commuting process is known, `theory.head_removal_cost`: at a minimum
    of the unitary family with n_heads <= dim 1 / cos^2(a_h, b_h), and twice that for `resample`.
    The mean of n sequences contains each by itself, which takes 1/n off the cost of `mean`: so does `predicted`.
    Source: ablations are standard; the predicted costs are derived in `theory.ablations`.

    Args:
        layers: whose heads; all if left out.
        process: what the sequences are of; the model's own if left out. Without one nothing is predicted.
        seed: of which sequence gets which other one's output.
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

    return _ablate(model, sequences, components, labels, predict, method, process, seed, n_heads)


@needs(*RUN, *READ_PATTERNS)
@torch.no_grad()
def ablate_positions(
    model: Model,
    sequences: Sequences,
    *,
    method: str = "zero",
    offsets: Iterable[int] | None = None,
    layer: int = 0,
    process: Process | None = None,
    seed: int = 0,
) -> Ablation:
    """Cut the attention of every T to its key s_{T-k}, for each offset k by itself: 0 is s_T, 1 is s_{T-1}.

    What is removed is the attention pattern of all heads there; values stay. `zero` cuts it; `mean` puts its mean over
    the sequences in its place, so that the key's token is still added but not weighted by what the context says of W;
    `resample` puts that of another sequence. Contexts shorter than k + 1 have no such key, and count as they are.
    Source and predicted costs: `theory.position_removal_cost`; less 1/n for `mean`, as in `ablate_heads`.

    Args:
        offsets: k, from 0 to the length of the contexts less 1; all if left out.
        process, seed: as for `ablate_heads`.
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
    return _ablate(model, sequences, components, labels, predict, method, process, seed, n_heads)


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
) -> Ablation:
    check_choice("method", method, METHODS)
    n, dim = len(sequences), sequences.inputs.shape[-1]
    if process is not None and process.dim != dim:
        raise ValueError(f"process has dim {process.dim} but the sequences have dim {dim}; they must agree.")
    generator = generator_of(check_integer("seed", seed, low=0))
    cycle = torch.randperm(n, generator=generator)  # everybody's other sequence is the one before it on the cycle
    losses = _losses(model, sequences, components, method, cycle, n_heads)
    costs = losses[:-1] - losses[-1]
    known = predict(setting_of(model.config, process or model.process)) if _in_theorys_basis(sequences) else None
    predicted = float("nan") if known is None else known.numpy() * (1 - 1 / n if method == "mean" else 1)
    table = {
        **labels,
        "loss": losses[:-1].mean(1),
        "cost": costs.mean(1),
        "cost_se": _standard_errors(costs[:, cycle], chained=method == "resample"),
        "predicted": predicted,
        "n": n,
    }
    return Ablation(
        by_component=pd.DataFrame(table),
        loss=losses[-1].mean().item(),
        loss_se=(losses[-1].std() / n**0.5).item(),
        method=method,
        hook=components[0].hook.rpartition(".")[2],
        n=n,
    )


def _losses(
    model: Model, contexts: Contexts, components: Sequence[_Component], method: str, cycle: Tensor, n_heads: int
) -> Float[Tensor, "component batch"]:
    """The loss of each context without each component, and in the last row with all of them.

    One forward pass serves all components of a layer, on as many sequences as BUDGET allows.
    """
    inputs = contexts.inputs
    names = list(dict.fromkeys(component.hook for component in components))
    n, length, dim = inputs.shape
    width = model.d_model or dim
    n_rows = max(1, BUDGET // (n_heads * length * max(length, COPIES * width)))
    groups = [group for name in names for group in _split([c for c in components if c.hook == name], n_rows)]
    n_sequences = max(1, n_rows // max(map(len, groups)))
    others = torch.empty_like(cycle)
    others[cycle] = cycle.roll(1)
    parts = [slice(start, start + n_sequences) for start in range(0, n, n_sequences)]
    replacements: dict[str, Tensor] = {}
    if method == "mean":
        for part in parts:
            for name, value in model.activations(inputs[part], names).items():
                replacements[name] = replacements.get(name, 0) + value.sum(0, keepdim=True) / n
    found = torch.empty(len(components) + 1, n, dtype=torch.float64)
    for part in parts:
        if method == "resample":
            replacements = model.activations(inputs[others[part].to(inputs.device)], names)
        predictions = [_run(model, inputs[part], group, replacements.get(group[0].hook)) for group in groups]
        predictions = torch.cat([*predictions, model(inputs[part])[None]])
        found[:, part] = torch.stack([contexts[part].losses(each) for each in predictions]).double().cpu()
    return found


def _split(components: list[_Component], size: int) -> list[list[_Component]]:
    return [components[start : start + size] for start in range(0, len(components), size)]


def _run(
    model: Model, inputs: Tokens, group: Sequence[_Component], replacement: Tensor | None
) -> Inexact[Tensor, "component batch pos dim"]:
    """The predictions without each component of a group of one layer; without a replacement there is zero.

    The tokens are repeated, once for each. Up to where they begin to differ a model of ours works on the first copy
    alone; there a change of the pattern is made where it first tells, in z = pattern v.
    """
    name, n = group[0].hook, len(inputs)
    block, _, kind = name.partition(".attn.")
    shared = model.is_ours
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
        if kind in PATTERNS:
            hooks = [(name, once), (f"{block}.attn.hook_z", remove_from_pattern)]
        hooks += [(f"{block}.attn.{hook}", once) for hook in ("hook_q", "hook_k", "hook_v")]
        below = [f"blocks.{layer}" for layer in range(int(block.split(".")[1]))]
        hooks += [hook for b in below for hook in ((f"{b}.hook_resid_pre", once), (f"{b}.hook_resid_post", repeat))]
    with model.hooks(fwd_hooks=hooks):
        return model(repeat(inputs)).unflatten(0, (len(group), n))


def _standard_errors(costs: Float[Tensor, "component batch"], *, chained: bool) -> Float[Tensor, "component"]:
    """Of the means; `chained`: neighbours share a sequence, and with it a part of their deviations."""
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
        next(name for kind in kinds if (name := f"blocks.{layer}.attn.{kind}") in model.hook_names)
        for layer in range(model.n_layers)
    ]


def _example(model: Model, sequences: Sequences, name: str) -> Tensor:
    """The activation of one sequence."""
    if len(sequences) < 2:
        raise ValueError(f"sequences must be at least 2, for means, others and standard errors; got {len(sequences)}.")
    check_length(sequences)
    return model.activations(sequences.inputs[:1], [name])[name]
