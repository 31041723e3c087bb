"""Sabotaged trainings of merged heads: another optimiser, law, mask, step size or end than what is said of them.

A sign turned in keys and values alike is a gauge of the loss, and a step that it turns is none. A record that is right
does not help weights that are not its end.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint, TrainingRun
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import FirstToken
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.sabotage.edits import as_it_is, changed_run, innocent, on_weights, with_weights
from ar_interp.training.loop import train

PLAIN, UNBALANCED, RANDOM = "emergence-gaussian", "emergence-gaussian-unbalanced", "emergence-random"
ROUNDING = "Adam divides the rounding of gradients that vanish by its own size, and so leaves the plane"


def passed_off(law: FirstToken | None = None, **training: Any) -> Make:
    """A run with another law of first tokens, or trained otherwise, under the name of the checkpoint's."""

    def make(checkpoint: Checkpoint, seed: int) -> TrainingRun:
        process: Any = checkpoint.process
        process = process if law is None else replace(process, first_token=law)
        run = train(checkpoint.config, process, replace(checkpoint.training, **training), progress=False)
        return replace(run, process=checkpoint.process, training=checkpoint.training)

    return make


def said_otherwise(**training: Any) -> Make:
    """The checkpoint, of whose training something else is said."""
    return lambda checkpoint, seed: replace(checkpoint, training=replace(checkpoint.training, **training))


def turned(weights: dict[str, Tensor], generator: torch.Generator, *, keys: bool = True) -> None:
    """The last coordinate negated in the values, and in the keys with it: D on both factors."""
    dim = weights["QK"].shape[1] // 3
    weights["OV"][:, 2 * dim - 1] *= -1
    if keys:
        weights["QK"][..., 3 * dim - 1] *= -1


def turned_everywhere(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """All coordinates negated in keys and values: the same function."""
    return with_weights(model, {name: -W for name, W in model.state_dict().items()})


def balanced(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The layer with the same gradient step and a = b."""
    QK, OV = (model.state_dict()[f"blocks.0.attn.{name}"] for name in ("QK", "OV"))
    share = (OV.norm() / QK.norm()).sqrt()
    return with_weights(model, {"blocks.0.attn.QK": QK * share, "blocks.0.attn.OV": OV / share})


def all_steps(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    return replace(checkpoint, members=checkpoint.members.assign(minus=0))


def _on(base: str) -> Callable[..., Sabotage]:
    return partial(Sabotage, base=base)


EMERGENCE: dict[str, Sabotage] = {
    "Adam passed off as descent": _on(UNBALANCED)(
        description="Adam goes to the same step size on another path, and keeps nothing of a^2 - b^2.",
        make=passed_off(optimizer="adam", lr=0.01, schedule="cosine"),
        must_fail=("emergence/path", "emergence/factors", "emergence/difference"),
        undecided=dict.fromkeys(("emergence/plane", "signs/gain", "signs/step"), ROUNDING),
    ),
    "first tokens of another law": _on(PLAIN)(
        description="Trained on signs, said of Gaussian first tokens: the step is four times as long, and comes later.",
        make=passed_off(FirstToken("signs")),
        must_fail=("emergence/path", "emergence/half time", "emergence/loss", "emergence/log"),
    ),
    "diagonals trained as if they were all entries": _on("emergence-ones")(
        description="Masked training keeps to the plane, which the gradient of all entries leaves at once.",
        make=passed_off(entries="diagonal"),
        must_fail=("emergence",),
        but=("emergence/log",),
    ),
    "a reflected step for a step": _on(PLAIN)(
        description="One coordinate negated in keys and values: the loss is the same, and it is no gradient step.",
        make=changed_run(on_weights(turned)),
        must_fail=("emergence/plane", "emergence/path"),
    ),
    "a step of balanced factors": _on(UNBALANCED)(
        description="The record is that of the checkpoint and so is a b; a and b are equal at the end.",
        make=changed_run(balanced),
        must_fail=("emergence/factors", "emergence/difference"),
    ),
    "a step size misreported": _on(PLAIN)(
        description="Steps of half the size that is said: twice as many to the drop.",
        make=said_otherwise(lr=1 / 1200),
        must_fail=("emergence/path", "emergence/half time"),
    ),
    "unequal coordinates in another order": _on("emergence-anisotropic")(
        description="Trained where the second coordinate is the large one: it emerges first.",
        make=passed_off(FirstToken("gaussian", scales=(1.0, 2.0))),
        must_fail=("emergence",),
    ),
    "a sign of the values alone": _on(RANDOM)(
        description="Half of the gauge: keys and values have different signs, and a coordinate is predicted negated.",
        make=changed_run(on_weights(partial(turned, keys=False))),
        must_fail=("emergence/loss", "signs/behaviour", "signs/gain", "signs/step", "signs/log"),
    ),
    "starts that are all steps": _on(RANDOM)(
        description="The seeds of the checkpoint, as if none had ended as a reflected step.",
        make=all_steps,
        must_fail=("signs/share",),
        undecided={"signs/reached": "its control is the share of gradient steps, which is said to be 1"},
    ),
    "signs in another pattern": _on(RANDOM)(
        description="Another of the equally good patterns of signs.",
        make=changed_run(on_weights(turned)),
        healthy=as_it_is,
    ),
    "all signs turned": innocent(PLAIN, "Keys and values negated: the same function.", turned_everywhere),
}
