"""Causal scrubbing: take all that a hypothesis calls irrelevant from another sequence, and see what it costs.

A hypothesis says which inputs of an attention layer matter: paths through it (augmented tokens), or the distances of
keys to the newest one. What is taken from another sequence looks as before and knows nothing of this one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_seed
from ar_interp._shown import brief
from ar_interp.models.opened import Model
from ar_interp.probes.blocks import BLOCK_NAMES, BLOCKS
from ar_interp.probes.paths import BY_PATHS as READ_BY_PATHS
from ar_interp.probes.paths import (
    CURRENT,
    PATHS,
    PREVIOUS,
    Path,
    has_paths,
    in_place_of,
    inner,
    paths_at_a_time,
    written_by,
)
from ar_interp.probes.protocol import AUGMENTED, BARE, PLAIN, RUN, needs
from ar_interp.probes.protocol import BY_KEYS as READ_BY_KEYS
from ar_interp.probes.results import Result
from ar_interp.processes import Contexts, Sequences
from ar_interp.setting import setting_of

MODEL, HYPOTHESIS, EVERYTHING, ABLATED = "model", "hypothesis", "everything", "ablated"
COMPLEMENT, WRONG_KEYS = "complement", "wrong keys"
CONTROLS = (COMPLEMENT, WRONG_KEYS)
BY_PATHS, BY_INPUTS, BY_KEYS = "paths", "inputs", "keys"
ACTIVATIONS = {
    BY_PATHS: ("hook_attn_out", "hook_resid_pre"),
    BY_INPUTS: ("hook_attn_out", "hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
    BY_KEYS: ("hook_attn_out", "attn.hook_attn_scores", "attn.hook_v"),
}
EXCHANGED = {CURRENT: PREVIOUS, PREVIOUS: CURRENT}
CERTAIN = 3  # standard errors that a difference of losses needs to be divided by

Kept = frozenset[Any]  # all of them Paths, or all of them offsets
Held = dict[str, Tensor]  # activations by hook name
Hooks = list[tuple[str, Callable]]


@dataclass(frozen=True, kw_only=True)
class Scrubbed(Result):
    """Performance left to a model when a layer has only what a hypothesis names from the sequence itself.

    Attributes:
        table: a row per condition: `model` (nothing replaced), `hypothesis`, `everything` (the layer's whole output is
            another sequence's), `ablated` (it is zero) and the controls `complement` and `wrong keys`, see `scrub`.
            Columns: kept, in words; loss, |prediction - s_{T+1}|^2, sum over coordinates, mean over sequences,
            T = 2..length and resamples; recovered, nan if everything - model is within 3 standard errors of 0, since
            the layer does nothing then; loss_se and recovered_se, their standard errors over the n sequences, each
            counted where it is itself and where it stands in for another.
        kept: the hypothesis, paths or offsets.
        by: how it was scrubbed, `paths`, `inputs` or `keys`.
        n_resamples: other sequences that each was combined with.
    """

    table: pd.DataFrame
    kept: tuple[Path, ...] | tuple[int, ...]
    by: str
    layer: int
    n: int
    n_resamples: int

    @property
    def recovered(self) -> float:
        """Loss recovered: 1 if the hypothesis explains all that the layer does for the loss, 0 if nothing."""
        return self._last(HYPOTHESIS, "recovered")

    @property
    def standard_error(self) -> float:
        """Standard error of `recovered`."""
        return self._last(HYPOTHESIS, "recovered_se")

    @property
    def ablated(self) -> float:
        """Loss recovered by a layer that writes nothing, which says no more than that nothing is less noise."""
        return self._last(ABLATED, "recovered")

    @property
    def controls(self) -> dict[str, float]:
        """Loss recovered by name, from what does not matter if the hypothesis is true."""
        return {name: self._last(name, "recovered") for name in CONTROLS}


@needs(
    *RUN,
    "W_Q",
    when={BARE: READ_BY_KEYS, PLAIN: ("config.encoding", *READ_BY_KEYS), AUGMENTED: READ_BY_PATHS},
    options=lambda model: "" if setting_of(model.config, model.process).hypothesis else "hypothesis=...",
    length=2,
)
def scrub(
    model: Model,
    sequences: Sequences,
    hypothesis: Iterable[tuple[str, str, str]] | Iterable[int] | None = None,
    *,
    layer: int = 0,
    by: str | None = None,
    n_resamples: int = 4,
    seed: int = 0,
    batch_size: int | None = None,
) -> Scrubbed:
    """Keep what the hypothesis names, take the rest of one layer from another sequence, and run the model on.

    *By paths* (augmented tokens, linear attention without biases or LayerNorm; any set of paths): the layer's output is
    sum_kept path(own) + sum_rest path(other), each path with all three inputs of one sequence. *By inputs* (augmented
    tokens, any attention): queries, keys and values are projected from streams in which the blocks that the hypothesis
    does not name for them are the other sequence's; it must be a product, of blocks for queries, for keys and for
    values. Here the two sequences also meet inside a path. *By keys*: the hypothesis is a set of offsets; position T
    sees its keys T - offset as they are, and another sequence's scores and values at all other keys.

    loss recovered = (L_everything - L) / (L_everything - L_model). What is replaced keeps its size, and with it the
    harm that it does as noise. Of a last layer, with error e = s_{T+1} - prediction and r what is replaced, both of
    mean 0: L - L_model = 2 Re E<e, r> + 2 E|r|^2. At a minimum over the scale of r that is 2 E|r|^2. It is 0, and
    recovered 1, where r was noise before; recovered > 1, which refutes the hypothesis too, where r does more harm than
    noise; recovered < 0 where what is kept misleads alone. To write nothing (`ablated`) recovers 1/2 at a minimum over
    the scale of the prediction: less than that need not be more than smaller noise. What a path costs to cut is
    another question, see `path_contributions`.

    *Controls.* `complement`: own and other exchanged, so that what was said not to matter is all that is the
    sequence's own. `wrong keys`: the paths with s_t and s_{t-1} exchanged as keys (<s_t|s_T> s_t for the gradient
    step) less those of the hypothesis; of offsets as many older ones.
    Source: Chan et al. 2022, causal scrubbing; the hypotheses are read off Sander et al. 2024.

    Args:
        sequences: more than 2 n_resamples.
        hypothesis: paths, e.g. [GRADIENT_STEP, SECOND_PATH], or offsets, e.g. [0, 1] for the keys T and T - 1. If left
            out, that of `setting_of` the model and its process.
        by: `paths` or `inputs` for paths; if left out, `paths` where that can be.
        n_resamples: other sequences for each.
    Raises:
        ValueError: a hypothesis that is empty, neither paths nor offsets, or left out where there is no default; paths
            of plain tokens; `by` that does not fit it; a layer that is not there; too few or too short sequences.
    """
    check_integer("layer", layer, low=0, high=len(model.W_Q) - 1)
    check_integer("n_resamples", n_resamples, low=1)
    inputs, length = sequences.inputs, sequences.length
    if len(sequences) <= 2 * n_resamples:
        raise ValueError(
            f"sequences must be more than 2 n_resamples = {2 * n_resamples}, got {len(sequences)}: sample more, or "
            "lower n_resamples."
        )
    kept = _kept(_default(model) if hypothesis is None else hypothesis, length)
    by, wrong = _method(model, kept, by), _wrong(kept)
    mix = {BY_PATHS: _mix_paths, BY_INPUTS: _mix_inputs, BY_KEYS: _mix_keys}[by]
    donors = _donors(len(sequences), n_resamples, seed).to(inputs.device)
    names = [f"blocks.{layer}.{name}" for name in ACTIVATIONS[by]]
    output = names[0]

    parts = []
    size = paths_at_a_time(batch_size, model, sequences, 1 + len(kept))
    for rows in torch.arange(len(sequences), device=inputs.device).split(size):
        own = model.activations(inputs[rows], names)
        hooks: dict[str, list[Hooks]] = {MODEL: [[]], ABLATED: [in_place_of({output: torch.zeros_like(own[output])})]}
        for others in donors[:, rows]:
            other = model.activations(inputs[others], names)
            hooks.setdefault(EVERYTHING, []).append(in_place_of({output: other[output]}))
            hooks.setdefault(HYPOTHESIS, []).append(mix(model, layer, kept, own, other))
            hooks.setdefault(COMPLEMENT, []).append(mix(model, layer, kept, other, own))
            hooks.setdefault(WRONG_KEYS, []).append(mix(model, layer, wrong, own, other))
        parts.append(
            {
                condition: torch.stack([_losses(model, sequences[rows], chosen) for chosen in found])
                for condition, found in hooks.items()
            }
        )
    losses = {condition: torch.cat([part[condition] for part in parts], dim=1).cpu().numpy() for condition in parts[0]}
    words = {
        MODEL: "all",
        HYPOTHESIS: _in_words(kept),
        EVERYTHING: "nothing",
        ABLATED: "nothing",
        COMPLEMENT: f"all but {_in_words(kept)}",
        WRONG_KEYS: _in_words(wrong),
    }
    return Scrubbed(
        table=_table(losses, words, donors.cpu().numpy()),
        kept=tuple(path for path in PATHS if path in kept) or tuple(sorted(kept)),
        by=by,
        layer=layer,
        n=len(sequences),
        n_resamples=n_resamples,
    )


def _default(model: Model) -> Iterable[Any]:
    setting = setting_of(model.config, model.process)
    if setting.hypothesis is None:
        silent = setting.why_not or f"theory of this model ({setting.kind}) names none"
        raise ValueError(
            f"hypothesis must be given: {silent}. Pass paths of augmented tokens, e.g. hypothesis=[GRADIENT_STEP] of "
            "probes.paths, or offsets of keys, e.g. hypothesis=[0, 1] for T and T - 1."
        )
    return setting.hypothesis


def _kept(hypothesis: Iterable[Any], length: int) -> Kept:
    try:
        kept = frozenset(hypothesis)
    except TypeError as error:
        raise ValueError(
            f"hypothesis must be paths or offsets of keys, e.g. [0, 1], got {brief(hypothesis)}."
        ) from error
    if not kept:
        raise ValueError("hypothesis is empty; the row `everything` of any result is what keeps nothing.")
    if kept.issubset(PATHS):
        return frozenset(Path(*path) for path in kept)
    if any(isinstance(item, str | tuple) for item in kept):
        raise ValueError(
            "hypothesis must be a list of Path(query, key, value), each of the blocks "
            f"{', '.join(map(repr, BLOCK_NAMES))}, or a list of offsets; got {', '.join(map(repr, kept))}."
        )
    return frozenset(check_integer("hypothesis (an offset)", item, low=0, high=length - 1) for item in kept)


def _method(model: Model, kept: Kept, by: str | None) -> str:
    fitting = (BY_PATHS, BY_INPUTS) if kept.issubset(PATHS) else (BY_KEYS,)
    if by is not None:
        check_choice(f"by, for a hypothesis of {'paths' if BY_PATHS in fitting else 'offsets'},", by, fitting)
    augmented = model.is_augmented
    if BY_KEYS in fitting:
        return BY_KEYS
    if not augmented:
        raise ValueError("hypothesis must be offsets of keys, e.g. [0, 1], for plain tokens: paths join their blocks.")
    by = by or (BY_PATHS if has_paths(model) else BY_INPUTS)
    if by == BY_PATHS and not has_paths(model):
        raise ValueError(
            f"by={BY_PATHS!r} needs linear attention without biases or LayerNorm, which this model has not; use "
            f"by={BY_INPUTS!r}."
        )
    n_product = np.prod([len(set(blocks)) for blocks in zip(*kept, strict=True)])
    if by == BY_INPUTS and len(kept) != n_product:
        raise ValueError(
            f"hypothesis must hold every path from its blocks for queries to those for keys and values where "
            f"by={BY_INPUTS!r}, which are {n_product}; got {_in_words(kept)}. Scrub one path at a time."
        )
    return by


def _wrong(kept: Kept) -> Kept:
    if kept.issubset(PATHS):
        return frozenset(path._replace(key=EXCHANGED.get(path.key, path.key)) for path in kept) - kept
    return frozenset(offset + max(kept) + 1 for offset in kept)


def _in_words(kept: Kept) -> str:
    if not kept:
        return "nothing"
    if kept.issubset(PATHS):
        return " + ".join(str(path) for path in PATHS if path in kept)
    return "keys " + ", ".join(f"T-{offset}" if offset else "T" for offset in sorted(kept))


def _donors(n: int, n_resamples: int, seed: int) -> Integer[Tensor, "resample batch"]:
    """Which sequence stands in: the next ones on a circle in random order, so that no two meet twice."""
    circle = np.random.default_rng(check_seed(seed)).permutation(n)
    donors = np.empty((n_resamples, n), dtype=np.int64)
    for resample in range(n_resamples):
        donors[resample, circle] = np.roll(circle, -1 - resample)
    return torch.from_numpy(donors)


def _losses(model: Model, contexts: Contexts, hooks: Hooks) -> Float[Tensor, "batch"]:
    with model.hooks(fwd_hooks=hooks):
        deviations = (model(contexts.inputs) - contexts.targets).abs()
    return inner(deviations, deviations)  # in double, which the few donors of float32 models need


def _mix_paths(model: Model, layer: int, kept: Kept, own: Held, other: Held) -> Hooks:
    """The output: own paths where kept, the other's elsewhere."""
    output, stream = (f"blocks.{layer}.{name}" for name in ACTIVATIONS[BY_PATHS])
    if not kept:
        return in_place_of({output: other[output]})
    mine, theirs = (written_by(model, found[stream], kept, layer=layer).sum(0) for found in (own, other))
    return in_place_of({output: mine + (other[output] - theirs)})


def _mix_inputs(model: Model, layer: int, kept: Kept, own: Held, other: Held) -> Hooks:
    """Queries, keys and values of streams whose blocks are own where kept for them, else the other's."""
    _, stream, *projections = (f"blocks.{layer}.{name}" for name in ACTIVATIONS[BY_INPUTS])
    blocks = [found[stream].chunk(BLOCKS, dim=-1) for found in (own, other)]
    held = {}
    for role, (name, hook) in enumerate(zip("QKV", projections, strict=True)):
        named = {path[role] for path in kept}
        changes = [
            torch.zeros_like(mine) if block in named else theirs - mine
            for block, mine, theirs in zip(BLOCK_NAMES, *blocks, strict=True)
        ]
        W = getattr(model, f"W_{name}")[layer].to(own[stream].dtype)
        held[hook] = own[hook] + torch.einsum("btm,hmi->bthi", torch.cat(changes, dim=-1), W)  # whatever the biases
    return in_place_of(held)


def _mix_keys(model: Model, layer: int, kept: Kept, own: Held, other: Held) -> Hooks:
    """Scores and values: own at the keys that are kept, the other's elsewhere."""
    _, scores, values = (f"blocks.{layer}.{name}" for name in ACTIVATIONS[BY_KEYS])
    at = torch.arange(own[scores].shape[-1], device=own[scores].device)
    apart = torch.tensor(sorted(kept), dtype=at.dtype, device=at.device)
    here = torch.isin(at[:, None] - at, apart)  # [query key]
    patterns: list[Tensor] = []
    mix_values = partial(torch.einsum, "bhts,bshi->bthi")

    def keep(pattern: Tensor, hook: Any) -> None:
        patterns.append(pattern)

    def attend(z: Tensor, hook: Any) -> Tensor:
        pattern = patterns.pop()
        mine, theirs = pattern.where(here, 0), pattern.where(~here, 0)
        return mix_values(mine, own[values]) + mix_values(theirs, other[values])

    return [
        *in_place_of({scores: torch.where(here, own[scores], other[scores])}),
        (f"blocks.{layer}.attn.hook_pattern", keep),
        (f"blocks.{layer}.attn.hook_z", attend),
    ]


def _table(losses: Mapping[str, np.ndarray], words: Mapping[str, str], donors: np.ndarray) -> pd.DataFrame:
    """Losses are [resample batch], [1 batch] where no other sequence is involved."""
    model, everything = losses[MODEL], losses[EVERYTHING]
    gap = everything.mean() - model.mean()
    certain = gap > CERTAIN * _standard_error(everything - model, donors)
    rows = []
    for condition, kept in words.items():
        found = losses[condition]
        recovered = (everything.mean() - found.mean()) / gap if certain else np.nan
        pulls = (everything - found - recovered * (everything - model)) / gap
        rows.append(
            {
                "condition": condition,
                "kept": kept,
                "loss": found.mean(),
                "loss_se": _standard_error(found, donors if condition not in (MODEL, ABLATED) else donors[:0]),
                "recovered": recovered,
                "recovered_se": _standard_error(pulls, donors),
                "n": found.shape[1],
            }
        )
    return pd.DataFrame(rows)


def _standard_error(
    values: Float[np.ndarray, "resample batch"], donors: Integer[np.ndarray, "stand_in batch"]
) -> float:
    """Standard error of a mean of values that depend where they share a sequence, as itself or as a stand-in.

    The variance is the sum of the products of the deviations of all such pairs of values over the squared number of
    values, and at least that of independent ones.
    Source: Aronow, Samii and Assenova 2015, cluster-robust variance of dyadic data.
    """
    deviations = values - values.mean()
    by_sequence, alone = deviations.sum(0), (deviations**2).sum()
    for others, pulled in zip(donors, deviations, strict=False):
        by_sequence[others] += pulled
    twice = alone if len(donors) else 0.0  # each value meets itself in both of its sequences
    variance = max((by_sequence**2).sum() - twice, alone) / values.size**2
    n = values.shape[1]
    return float(np.sqrt(variance * n / (n - 1)))
