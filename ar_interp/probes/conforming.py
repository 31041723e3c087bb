"""`conformance`: what can be asked of a model, by its names, its kind, and the shapes in one run of a few tokens."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ar_interp._moods import calm
from ar_interp.checkpoints import model_of
from ar_interp.models.encodings import Augmented
from ar_interp.models.opened import N_TRIED, SHORT, Model, as_model
from ar_interp.probes import protocol
from ar_interp.probes.protocol import (
    AUGMENTED,
    LAYER,
    LINEAR,
    NAMES,
    PLAIN,
    RUN,
    WEIGHTS,
    Needs,
    check_one_matrix,
    either,
    kinds,
    missing,
    needed,
    other_task,
)
from ar_interp.processes import Contexts
from ar_interp.seeds import TRIED, generator_of

KINDS = (PLAIN, AUGMENTED, LINEAR)  # scopes that names tell
UNKNOWN_SIZE = "the size of its tokens is not known: pass conformance(model, sequences) some to try it on"
SHAPES = {
    f"{path}{dot}{hook}": axes.split()
    for name, meaning in NAMES.items()
    for path, dot, last in [name.rpartition(".")]
    for hook, axes in zip(reversed(last.split("|")), reversed(re.findall(r"\[([\w ]+)\]", meaning)), strict=False)
}


@calm()
def conformance(model: object, sequences: Contexts | None = None) -> pd.DataFrame:
    """Say of every probe whether it can be asked of a model, how, and if not, why not.

    The model runs once, on two contexts. A probe is usable if the model has all names that it reads (`protocol`), is of
    a kind that the probe is for, predicts a finite [batch pos dim], and has activations and weights of the shapes that
    the names stand for.

    Args:
        sequences: what to run it on; if left out, contexts of its process, or Gaussian tokens of its config's dim.
    Returns:
        A row per probe: probe; usable; call, how to ask; why_not, empty where it is usable.
    Raises:
        ValueError: sequences that are none.
    """
    opened = as_model(model_of(model))
    if sequences is not None and not isinstance(sequences, Contexts):
        raise ValueError(
            f"sequences must be contexts to try the model on, got {type(sequences).__name__}: make two with "
            "process.contexts(2, length, seed=0)."
        )
    with opened.turn:
        fault, wrong = _tried(opened, sequences)
    rows = []
    for probe, row in protocol.PROTOCOL.items():
        options = row.options(opened)
        why_not = _why_not(opened, probe, row, fault, wrong, sequences or opened.process)
        call = f"{probe}({', '.join(['model', *row.arguments, *([options] if options else [])])})"
        rows.append({"probe": probe, "usable": not why_not, "call": call, "why_not": why_not})
    return pd.DataFrame(rows)


def _why_not(model: Model, probe: str, row: Needs, fault: str, wrong: Mapping[str, str], task: object) -> str:
    """Why a probe cannot be used; empty where it can.

    Args:
        fault: why nothing that runs the model can be used.
        wrong: what is wrong with the shape of an activation or weight, by its name.
        task: sequences or a process.
    """
    if model.has_config and row.scope in KINDS and row.scope not in kinds(model):
        return f"{probe} is for {row.scope}, and this model has {kinds(model)[1]}"
    if said := other_task(probe, row.about, task):
        return said
    if lacking := missing(model, probe):
        return f"it lacks {', '.join(lacking)}"
    names = needed(model, probe)
    if fault and any(name in RUN for name in names):
        return fault
    read = [hook for name in names for hook in either(name)]
    for name in [*read, *(model.hook_names if row.reads_any else ())]:
        if name in wrong:
            return wrong[name]
    try:
        row.fits(model)
        if row.compares:
            check_one_matrix("sequences", task, probe)
    except ValueError as error:
        return str(error).rstrip(".")
    return ""


def _tried(model: Model, sequences: Contexts | None) -> tuple[str, dict[str, str]]:
    """Faults of a run of the model, and of the shapes that it shows."""
    tokens, expected = _tokens(model, sequences)
    fault, shapes = "", {}
    found = {"layer": (model.n_layers, "the number of its layers")}
    if tokens is None:
        fault = UNKNOWN_SIZE
    else:
        fault, shapes = _run(model, tokens, expected)
        found |= {axis: (size, "its tokens") for axis, size in zip(("batch", "pos", "dim"), expected, strict=True)}
        found |= dict.fromkeys(("query", "key"), found["pos"])
        if model.is_augmented:
            found["d_model"] = (len(Augmented.blocks) * expected[2], "the blocks of augmented tokens")
    weights = {name: getattr(model.module, name, None) for name in (*WEIGHTS, "W_U")}
    shapes |= {name: getattr(value, "shape", ()) for name, value in weights.items() if value is not None}
    wrong = {}
    for name, shape in shapes.items():
        said = _misfit(name, shape, found) if shape is not None else f"{name} is not reached by its forward pass"
        if said:
            wrong[name] = said
    return fault, wrong


def _tokens(model: Model, sequences: Contexts | None) -> tuple[Tensor | None, tuple[int, ...]]:
    """A few of the sequences, or of those that the model is about, and the shape of predictions: logits of ids.

    None where their size is not known.
    """
    length = model.n_ctx or SHORT
    dim: Any = getattr(model.config, "dim", None)
    if sequences is None and model.process is not None:
        sequences = model.process.contexts(N_TRIED, length, seed=TRIED)
    if sequences is not None:
        few = sequences[:N_TRIED].to(model.device, model.dtype)
        targets = few.targets[:, : model.n_ctx]
        return few.inputs[:, : model.n_ctx], (*targets.shape, *([dim] if targets.ndim == 2 else []))
    with suppress(ValueError, AttributeError):
        dim = dim or model.W_Q.shape[2] if not model.has_config else dim
    if dim is None:
        return None, ()
    drawn = torch.randn(N_TRIED, length, dim, generator=generator_of(TRIED), dtype=torch.float64, device="cpu")
    return drawn.to(model.device, model.dtype), tuple(drawn.shape)


@torch.no_grad()
def _run(model: Model, tokens: Tensor, expected: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """The fault of the predictions, and the shape of every activation that has a meaning; None if it has none."""
    names = [name for name in model.hook_names if LAYER.sub("blocks.{layer}.", name) in SHAPES]
    given = f"tokens {list(tokens.shape)} {str(tokens.dtype).removeprefix('torch.')}"
    try:
        predictions, cache = model.run_with_cache(tokens, names) if names else (model(tokens), {})
    except Exception as error:  # whatever a model of somebody else raises
        return f"its forward pass fails on {given}: {type(error).__name__}: {error}", {}
    shapes = {name: tuple(cache[name].shape) if name in cache else None for name in names}
    if not isinstance(predictions, Tensor) or tuple(predictions.shape) != expected:
        shown = list(predictions.shape) if isinstance(predictions, Tensor) else type(predictions).__name__
        return f"its predictions are {shown} for {given}, and must be {list(expected)}", shapes
    if not torch.isfinite(predictions).all():
        return f"its predictions are not finite for {given}", shapes
    return "", shapes


def _misfit(name: str, shape: tuple[int, ...], found: dict[str, tuple[int, str]]) -> str:
    """How a shape differs from the one that the name stands for; empty where it does not.

    Args:
        found: axis -> its size and where it was first seen; what is new is added.
    """
    axes = SHAPES[LAYER.sub("blocks.{layer}.", name)]
    same = len(shape) == len(axes)
    for axis, size in zip(axes, shape, strict=False):
        same = same and found.setdefault(axis, (size, name))[0] == size
    if same:
        return ""
    known = ", ".join(f"{axis} {found[axis][0]} by {found[axis][1]}" for axis in dict.fromkeys(axes) if axis in found)
    return f"{name} is {list(shape)}, and must be [{' '.join(axes)}], with {known}"
