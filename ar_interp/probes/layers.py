"""Which layer holds the estimate of W, and which uses it: five measurements of every layer beside each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ar_interp.models.opened import Model
from ar_interp.probes.ablations import ablate_layers
from ar_interp.probes.algorithm import STEPS, Spectra, interpolate, spectra_at_a_time, step_sizes, trimmed
from ar_interp.probes.context import EVERY, LAST, OWN, estimates_of, predictions_by_layer
from ar_interp.probes.protocol import RUN, check_one_matrix, needs
from ar_interp.probes.readout import probe_activations
from ar_interp.probes.results import Result
from ar_interp.probes.swap import swap_context
from ar_interp.processes import Process, Sequences

MEANINGS = {
    "steps": "the prediction improves most at",
    "cosine": "its derivative by the last token turns most towards W at",
    "swap": "moving the estimate of another sequence moves the prediction most at",
    "selectivity": "W is read best, beyond the controls, at",
    "cost": "removing costs most at",
}
SO_FAR = ("steps", "cosine")  # columns that add up over the layers
READ = ("hook_kv_state", "hook_z", "hook_resid_post")


@dataclass(frozen=True, kw_only=True)
class LayerTable(Result):
    """Each layer's part in the estimate of W, at the last T unless said otherwise.

    Attributes:
        by_layer: a row per layer. Columns: error_per_token, |prediction - s_{T+1}|^2 of what the stream holds after it,
            mean over T >= 2; steps, the number of tuned gradient steps with that error; cosine, Frobenius cosine of
            d(prediction after it) / d(s_T) with W, and cosine_se; swap, score of `swap_context` with this layer's
            estimate moved alone, and swap_se; readable, R^2 of a ridge regression of W on an activation of it (state,
            z or the stream after it, read_at, where the next is largest), and selectivity, that R^2 less the best
            control's (shuffled, projection of the tokens, untrained model); cost, by how much the error grows without
            its attention or its MLP, whichever is more, trimmed, and cost_se.
        missing: column -> why it is nan.
        n: sequences.
    """

    by_layer: pd.DataFrame
    missing: dict[str, str] = field(default_factory=dict)
    n: int

    @property
    def first(self) -> dict[str, int]:
        """The layer that each measurement points to: the largest value, or rise where it adds up over the layers.

        A measurement that is nowhere above zero points to none.
        """
        found = {}
        for name in MEANINGS:
            values = self.by_layer[name].to_numpy()
            rises = np.diff(values, prepend=0.0) if name in SO_FAR else values
            if np.nanmax(rises, initial=0.0) > 0:
                found[name] = int(self.by_layer["layer"].to_numpy()[np.nanargmax(rises)])
        return found

    @property
    def reading(self) -> str:
        """How to read the table, in words."""
        said = "; ".join(f"{MEANINGS[name]} layer {layer}" for name, layer in self.first.items())
        if len(set(self.first.values())) == 1:
            return f"All agree: {said}."
        return (
            f"They disagree: {said}. What can be read after a layer need not be used, and what is used need not be in "
            "one layer: swap and cost speak of use, cosine and selectivity of what is there, steps of what has been "
            "reached. A layer that costs much and neither turns the derivative nor moves the prediction prepares what "
            "later ones read; swaps that each score little, beside a full score of all layers, share the estimate."
        )


@needs(*RUN, "read_out", "blocks.{layer}.hook_resid_post", "blocks.{layer}.hook_attn_out", sequences=50, length=2)
def which_layer(
    model: Model,
    sequences: Sequences,
    *,
    process: Process | None = None,
    untrained: object = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> LayerTable:
    """Compare the layers of a model: where the estimate of W arises, can be read, is used, and is needed.

    The measurements are those of `identify_algorithm`, `recover_context`, `swap_context`, `probe_activations` and
    `ablate_layers`, on the same sequences. They ask different questions and may disagree, see `LayerTable.reading`.

    Args:
        sequences: at least 50. The estimates of the first half are moved into the second.
        process: what the step sizes are tuned on; the model's own if left out.
        untrained: the control model of the regression; `model.untrained(seed)` if left out.
    """
    layers, T = range(model.n_layers), sequences.length
    half = len(sequences) // 2
    own = model.has_own_path
    missing: dict[str, str] = {}

    def tried(name: str, measure: Callable[[], dict[str, list]]) -> dict[str, list]:
        try:
            return measure()
        except ValueError as error:
            missing[name] = str(error)
            return {name: [nan] * len(layers)}

    streams = predictions_by_layer(model, sequences, batch_size=batch_size)
    errors = [sequences.errors(stream)[:, 1:].double().cpu().numpy().mean(1) for stream in streams]

    def steps() -> dict[str, list[float]]:
        law = process or model.process
        if law is None:
            raise ValueError("process is needed to tune the step sizes; pass process=...")
        sizes = step_sizes(law, length=T, per_pair=model.normalises)
        curve = []
        for part in sequences.split(spectra_at_a_time(batch_size, sequences, model)):
            spectra = Spectra(part, per_pair=model.normalises)
            steps = zip((0, *STEPS), (0.0, *sizes), strict=True)
            curve.append(torch.stack([spectra.errors(k, size)[:, 1:].mean(1) for k, size in steps], 1))
        reference = trimmed(torch.cat(curve).double().cpu().numpy())
        k = np.array((0, *STEPS))
        return {"steps": [float(interpolate(trimmed(error[:, None])[0], k, reference)) for error in errors]}

    def cosine() -> dict[str, list[float]]:
        check_one_matrix("sequences", sequences, "cosine")
        kind = OWN if own else EVERY
        options: dict[str, Any] = {"kind": kind, "batch_size": batch_size}
        maps = [estimates_of(model, sequences, layer=layer, places=LAST, **options)[-1][:, -1] for layer in layers]
        return _mean_and_error("cosine", torch.stack([_cosines(Ŵ, sequences.W) for Ŵ in maps]))

    def swap() -> dict[str, list[float]]:
        moved = [
            swap_context(
                model, sequences[:half], sequences[half : 2 * half], layers=[layer], positions=[T], seed=seed,
                what=None if own else "keys and values", batch_size=batch_size,
            )
            for layer in layers
        ]  # fmt: skip
        return {"swap": [one.score for one in moved], "swap_se": [one.standard_error for one in moved]}

    def selectivity() -> dict[str, list]:
        names = [name for name in model.hook_names if name.startswith("blocks.") and name.endswith(READ)]
        options: dict[str, Any] = {"untrained": untrained, "seed": seed, "batch_size": batch_size}
        found = probe_activations(model, sequences, hooks=names, positions=[T], **options).frame
        best = found.loc[found.groupby("layer")["selectivity"].idxmax()].sort_values("layer")
        columns = {"readable": "score", "selectivity": "selectivity", "read_at": "hook"}
        return {name: best[column].tolist() for name, column in columns.items()}

    def cost() -> dict[str, list[float]]:
        found = ablate_layers(model, sequences, process=process, seed=seed, batch_size=batch_size).by_component
        most = found.loc[found.groupby("layer")["trimmed"].idxmax()].sort_values("layer")
        return {"cost": most["trimmed"].tolist(), "cost_se": most["trimmed_se"].tolist()}

    columns: dict[str, list] = {"layer": list(layers), "error_per_token": [float(error.mean()) for error in errors]}
    for measure in (steps, cosine, swap, selectivity, cost):
        columns |= tried(measure.__name__, measure)
    return LayerTable(by_layer=pd.DataFrame(columns), missing=missing, n=len(sequences))


def _cosines(estimate: Tensor, W: Tensor) -> Tensor:
    """Frobenius cosine of each pair of matrices."""
    inner = (estimate.conj() * W).real.sum((-1, -2))
    return inner / (estimate.abs().square().sum((-1, -2)) * W.abs().square().sum((-1, -2))).sqrt()


def _mean_and_error(name: str, values: Tensor) -> dict[str, list[float]]:
    """Mean over the last axis, and its standard error."""
    return {name: values.mean(1).tolist(), f"{name}_se": (values.std(1) / values.shape[1] ** 0.5).tolist()}
