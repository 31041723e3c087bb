"""Recover the in-context estimate of W: by the exact circuit and by Jacobian; `readout` reads it off activations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import check_choice, check_integer
from ar_interp.estimators import OLS, DiagonalOLS, Zero, apply
from ar_interp.estimators.least_squares import SHORT, moment
from ar_interp.models.attention import LONG
from ar_interp.models.opened import Model
from ar_interp.probes.batches import MANY, MOST, TOGETHER, at_a_time, in_parts, innermost, numbers_in_pass, side_by_side
from ar_interp.probes.jacobian import (
    BY_QUERY,
    BY_VALUE,
    JACOBIAN,
    full_jacobian,
    jacobian_by_sums,
    query_jacobian,
    sums_up,
    value_jacobian,
)
from ar_interp.probes.protocol import AUGMENTED, BARE, DIAGONAL, FULL, PLAIN, SPREAD, needs
from ar_interp.probes.readout import probe_activations
from ar_interp.probes.results import Result, over_contexts
from ar_interp.processes import Contexts, Sequences
from ar_interp.processes.contexts import Pairs

PATTERN = "blocks.0.attn.hook_pattern"
SCORES = "blocks.0.attn.hook_attn_scores"
ONE_STEP = "one gradient step"
CIRCUIT = ("W_V", "W_O", "run_with_cache", PATTERN)
DRESS = ("config.n_layers", "config.residual", "config.biases", "config.unembed", "config.repeats")
FORM = ("config.encoding", "config.heads", "config.attention")
ESTIMATE = {
    BARE: CIRCUIT,
    PLAIN: FORM,
    DIAGONAL: CIRCUIT,
    FULL: (*CIRCUIT, *BY_VALUE, *DRESS),
    SPREAD: (*JACOBIAN, "config.linear"),
    AUGMENTED: (*BY_QUERY, "config.attention"),
}
OWN, EVERY = KINDS = ("own path", "full")
EVERYWHERE, LAST = slice(None), slice(-1, None)  # positions


class Readout(NamedTuple):
    """How well ridge regression reads cos or sin of the phases of W off an activation, see `probe_activations`."""

    target: str
    hook: str
    position: int
    r2: float
    standard_error: float
    shuffled_r2: float
    untrained_r2: float
    n: int


@dataclass(frozen=True, kw_only=True)
class RecoveredContext(Result):
    """The model's estimate of W for every sequence and position.

    Attributes:
        errors: a row per estimator (the model first) and T: context_error_per_row |Ŵ - W|_F^2 / dim and
            error_per_token |prediction - s_{T+1}|^2, each with its standard error over the n sequences (_se) and their
            10 % and 90 % quantiles (_low, _high).
        in_context_map: Γ_T, what the attention multiplies s_T by: the estimate that the heads carry.
        estimate: Ŵ_T. Bare layers on sequences in the eigenbasis: Ŵ_T s_T = prediction, Γ_T plus what older keys
            contribute, zero at the first position. Augmented tokens: d(prediction_T) / d(s_T) by the query. Other plain
            tokens: Γ_T. Of kind `full`: d(prediction_T) / d(s_T). Both are one matrix but in the first case.
        W: the true matrix.
        step_size: eta of the one gradient step that is nearest to Ŵ, its least-squares coefficient on
            sum_{t<T} s_{t+1} s_t^* over all sequences and T; on that sum divided by T - 1 where attention normalises.
        distances: a row per reference (`W`, `one gradient step` of that size, `OLS`) and T: distance_per_row
            |Ŵ - reference|_F^2 / dim, with the same columns beside it.
        readouts: of the regression probe, where one was asked for.
    """

    errors: pd.DataFrame
    in_context_map: Inexact[Tensor, "batch pos dim dim"]
    estimate: Inexact[Tensor, "batch pos dim dim"]
    W: Inexact[Tensor, "batch dim dim"]
    step_size: float
    distances: pd.DataFrame
    readouts: tuple[Readout, ...] = ()


def kind_option(model: Model) -> str:
    """The option to ask with where no path of s_T alone holds the estimate."""
    return "" if model.has_own_path else "kind='full'"


@needs("forward", when=ESTIMATE, options=kind_option, length=2, compares=True)
def recover_context(
    model: Model,
    sequences: Sequences,
    *,
    kind: str = OWN,
    layer: int | None = None,
    probe_hook: str | None = None,
    untrained: object = None,
    batch_size: int | None = None,
) -> RecoveredContext:
    """Recover the in-context estimate of W, beside W and what a statistician makes of the same context.

    One bare layer on sequences in the eigenbasis: with the attention pattern of a context frozen, prediction_T =
    sum_t Γ_{T,t} s_t, Γ_{T,t} = sum_h pattern_h(T, t) W_O^T W_V^T. Γ_T := Γ_{T,T} is the in-context map; since W is
    diagonal, s_t = D s_T with D = diag(s_t conj(s_T) / |s_T|^2), and Ŵ_T = sum_t Γ_{T,t} D is the whole estimate.
    Other models: `query_jacobian` for augmented tokens, `value_jacobian` for plain ones.
    Source: Sander et al. 2024 split the network into in-context map and prediction map.

    Several layers, or attention that is not linear, on plain tokens carry W from token to token before the last one
    asks: no path of s_T alone holds it. They are refused, unless `kind` asks for what is defined all the same.

    Args:
        sequences: complex in the eigenbasis for diagonal heads, and for a model without a config.
        kind: `own path`, or `full` for `full_jacobian`, d(prediction_T) / d(s_T) with nothing frozen.
        layer: of the estimate and the prediction that the residual stream holds after it; the last if left out.
        probe_hook: also read cos and sin of the phases from this activation at the last T (see `probe_activations`).
        untrained: the control model of that regression; `model.untrained(seed)` if left out.
    Raises:
        ValueError: sequences in another basis where heads are diagonal, or too short; a model whose estimate is in no
            path of s_T alone.
    """
    layer = None if layer is None else check_integer("layer", layer, low=0, high=model.n_layers - 1)
    size, many = estimates_at_a_time(batch_size, model, sequences), len(sequences) >= MANY
    maps, own_errors = _maps(model, sequences, layer, kind, size)
    in_context_map, estimate = maps[0], maps[-1]
    gradient = partial(moment, per_pair=model.normalises, together=many)
    arrange: Callable[[Tensor], Tensor] = innermost if many else lambda values: values

    def parts() -> Iterator[tuple[slice, Sequences]]:
        for start, part in _starts(sequences, size):
            arranged = {name: arrange(values) for name, values in part.tensors().items()}
            yield slice(start, start + len(part)), replace(part, **arranged)

    sums = estimate.real.new_empty(-(-len(sequences) // size), 2)
    n, pos = estimate.shape[:2]
    to_W = estimate.real.new_empty(pos, n).mT if many else estimate.real.new_empty(n, pos)
    for place, (rows, part) in enumerate(parts()):
        step, own = gradient(part.pairs()), arrange(estimate[rows])
        sums[place, 0] = (step.conj() * own).real.sum()
        sums[place, 1] = (step.abs() if step.is_complex() else step).square().sum()
        to_W[rows] = _distance(own, part.W[:, None])
    along, energy = sums.sum(0)
    step_size = (along / energy).item()

    def measured(estimate_of: Callable[[Pairs], Tensor], *, compared: bool) -> Iterator[Tensor]:
        """Errors of its estimates and predictions and, if compared, distances from the model's: [column pos batch]."""
        for rows, part in parts():
            found = arrange(estimate_of(part.pairs()))
            columns = [part.errors(apply(found, part.inputs)), _distance(found, part.W[:, None])]
            columns += [_distance(arrange(estimate[rows]), found)] if compared else []
            yield torch.stack([column.mT for column in columns])

    beside: dict[str, Callable[[Pairs], Tensor]] = {"OLS": OLS(rotations=many).estimate}
    if _diagonal(sequences):
        beside["diagonal OLS"] = DiagonalOLS().estimate
    beside |= {ONE_STEP: lambda pairs: gradient(pairs).mul_(step_size), "zero": Zero().estimate}
    if many:
        beside["zero"] = lambda pairs: pairs.x.new_zeros(1).expand(*pairs.x.shape, pairs.y.shape[-1])
    errors = [_by_length("estimator", "model", context_error_per_row=to_W, error_per_token=own_errors)]
    distances = {"W": _by_length("reference", "W", distance_per_row=to_W), ONE_STEP: None, "OLS": None}
    del to_W, own_errors
    for name, estimate_of in beside.items():  # one after another: the numbers of each take much room
        found = side_by_side(measured(estimate_of, compared=name in distances), len(sequences), dim=2).mT
        found = found if many else found.contiguous()
        if name != ONE_STEP or kind == EVERY or not reads_circuit(model, sequences):
            errors.append(_by_length("estimator", name, context_error_per_row=found[1], error_per_token=found[0]))
        if name in distances:
            distances[name] = _by_length("reference", name, distance_per_row=found[2])
    return RecoveredContext(
        in_context_map=in_context_map,
        estimate=estimate,
        W=sequences.W,
        step_size=step_size,
        errors=pd.concat(errors, ignore_index=True),
        distances=pd.concat(distances.values(), ignore_index=True),
        readouts=() if probe_hook is None else _readouts(model, sequences, probe_hook, untrained, batch_size),
    )


def _maps(model: Model, sequences: Sequences, layer: int | None, kind: str, size: int) -> tuple[Tensor, Tensor]:
    """Γ_T and Ŵ_T as of `estimates_of`, and the errors of the predictions after the layer."""
    if len(sequences) >= MANY and kind == OWN and sums_up(model):
        (n, pos, dim), like = sequences.inputs.shape, sequences.inputs
        estimate = like.new_empty(pos, dim, dim, n).movedim(-1, 0)  # contexts innermost in memory
        errors = like.real.new_empty(pos, n).mT
        for start, part in _starts(sequences, size):
            rows = slice(start, start + size)
            estimate[rows], predictions = jacobian_by_sums(model, part.inputs)
            errors[rows] = part.errors(predictions)
        return estimate[None], errors
    maps = estimates_of(model, sequences, layer=layer, kind=kind, batch_size=size)
    if layer is not None:
        return maps, sequences.errors(predictions_by_layer(model, sequences, batch_size=size)[layer])
    return maps, in_parts(lambda part: part.errors(model(part.inputs)), sequences, size)


def _readouts(
    model: Model, sequences: Sequences, hook: str, untrained: object, batch_size: int | None
) -> tuple[Readout, ...]:
    options: dict[str, Any] = {"hooks": [hook], "positions": [sequences.length], "target": ["cos", "sin"]}
    found = probe_activations(model, sequences, **options, untrained=untrained, batch_size=batch_size).frame
    columns = found[["target", "hook", "T", "score", "score_se", "shuffled", "untrained", "n_test"]]
    return tuple(Readout(*row) for row in columns.itertuples(index=False))


def estimates_of(
    model: Model,
    sequences: Sequences,
    *,
    layer: int | None = None,
    kind: str = OWN,
    batch_size: int | None = None,
    places: slice = EVERYWHERE,
) -> Inexact[Tensor, "kind batch pos dim dim"]:
    """Γ_T and Ŵ_T, see `recover_context`, or the one matrix that is both; `layer` is that of `query_jacobian`.

    Args:
        places: the positions that are asked for; all if left out.
    """
    size = estimates_at_a_time(batch_size, model, sequences)
    if check_choice("kind", kind, KINDS) == EVERY:
        jacobian = full_jacobian
    elif reads_circuit(model, sequences):
        return in_parts(lambda part: _circuit(model, part.inputs, places), sequences, size, dim=1)
    elif not model.has_own_path:
        raise ValueError(
            f"{no_own_path(model)}: what s_T's own value is multiplied by says nothing of W. Pass kind='full' for "
            "d(prediction_T) / d(s_T) by every path, or see where replace_last_token takes another last token."
        )
    else:
        jacobian = query_jacobian if model.is_augmented else value_jacobian

    def maps(part: Contexts) -> Tensor:
        return jacobian(model, part.inputs, layer=layer, batch_size=size)[:, places]

    return in_parts(maps, sequences, size)[None]


def no_own_path(model: Model) -> str:
    """Why there is none, the beginning of an error."""
    layers = "one layer" if model.n_layers == 1 else f"{model.n_layers} layers"
    return f"the estimate of {layers} of {model.attention} attention on plain tokens is in no path of s_T alone"


def reads_circuit(model: Model, sequences: Sequences) -> bool:
    """The model is one bare layer, and the sequences are in the eigenbasis that makes its circuit an estimate.

    Raises:
        ValueError: the sequences are not, and the heads (diagonal, or of a foreign model) need them to be.
    """
    if not model.has_own_path or model.is_augmented:
        return False
    if model.is_diagonal:
        if not _diagonal(sequences):
            how = (
                "sample with basis='eigen'"
                if sequences.phases is not None
                else "these W have no eigenbasis in common. Diagonal heads are about CommutingUnitary or "
                "CommutingOrthogonal"
            )
            raise ValueError(f"sequences must be in the eigenbasis (complex tokens, diagonal W): {how}.")
        return True
    config = model.config
    dressed = config.residual or config.biases or config.unembed or config.repeats > 1 or model.n_layers > 1
    return not dressed and _diagonal(sequences)


def estimates_at_a_time(batch_size: int | None, model: Model, sequences: Sequences) -> int:
    """Contexts at a time for estimates of every T, by a model and by least squares, which holds the pairs of each T."""
    length, dim = sequences.length, sequences.inputs.shape[-1]
    by_pairs = length * dim * (min(length, SHORT) + 4 * dim)
    by_keys = (length * dim) ** 2 if model.is_diagonal and length < LONG else 0
    numbers = numbers_in_pass(model, length) + by_pairs + by_keys
    return at_a_time(batch_size, numbers, most=TOGETHER if len(sequences) >= MANY else MOST)


def predictions_by_layer(model: Model, contexts: Sequences, *, batch_size: int | None = None) -> list[Tensor]:
    """Predictions read off the stream after each layer; a model without a config has one."""
    size = estimates_at_a_time(batch_size, model, contexts)
    if not model.has_config:
        return [in_parts(lambda part: model(part.inputs), contexts, size)]
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]

    def run(part: Contexts) -> Tensor:
        cache = model.run_with_cache(part.inputs, names_filter=names)[1]
        return torch.stack([model.read_out(cache[name]) for name in names])

    return list(in_parts(run, contexts, size, dim=1))


def _starts(sequences: Sequences, size: int) -> Iterator[tuple[int, Sequences]]:
    """So many sequences at a time, and the place of the first."""
    return ((start, sequences[start : start + size]) for start in range(0, len(sequences), size))


def _diagonal(sequences: Sequences) -> bool:
    W = sequences.W
    return sequences.inputs.is_complex() and bool((W - torch.diag_embed(W.diagonal(0, -2, -1))).abs().max() <= 1e-9)


def _circuit(
    model: Model, inputs: Inexact[Tensor, "batch pos dim"], places: slice
) -> Inexact[Tensor, "kind=2 batch asked dim dim"]:
    pattern = model.run_with_cache(inputs, names_filter=PATTERN)[1][PATTERN]
    circuits = (model.W_V @ model.W_O)[0].mT.to(inputs.dtype)  # columns act on s_t
    energy = inputs.abs().square()
    inverse = torch.where(energy > 0, inputs.conj() / energy, 0)  # a coordinate that is zero says nothing of W
    own = torch.einsum("bhtt,hij->btij", pattern, circuits)[:, places]
    if inputs.shape[1] >= LONG:  # [batch pos key dim dim] would be too large
        mixed = torch.einsum("bhts,bsj->bthj", pattern, inputs) * inverse[:, :, None]
        return torch.stack([own, torch.einsum("bthj,hij->btij", mixed, circuits)[:, places]])
    past = inputs[:, None] * inverse[:, places, None]  # [batch pos key dim]: D for each
    return torch.stack([own, torch.einsum("bhts,hij,btsj->btij", pattern[:, :, places], circuits, past)])


def _distance(estimate: Tensor, reference: Tensor) -> Float[Tensor, "batch pos"]:
    apart = estimate - reference
    apart = apart.abs().square() if apart.is_complex() else apart.square_()
    if apart.stride(0) == 1:  # contexts innermost in memory
        return apart.movedim(0, -1).sum((1, 2)).mT / estimate.shape[-1]
    return apart.sum((-1, -2)) / estimate.shape[-1]


def _by_length(kind: str, label: str, **values: Float[Tensor, "batch pos"]) -> pd.DataFrame:
    """Columns: the label, T, n, and of each value what `over_contexts` says."""
    columns: dict[str, Any] = {kind: label}
    for name, of_contexts in values.items():
        found = of_contexts.cpu().numpy()
        columns |= {"T": np.arange(1, found.shape[1] + 1), "n": len(found), **over_contexts(name, found)}
    return pd.DataFrame(columns)
