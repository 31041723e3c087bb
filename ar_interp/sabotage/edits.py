"""Tools that make a sabotaged model: weights are taken out of a shipped one, changed, and put back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.seeds import generator_of
from ar_interp.setting import DiagonalHeads, setting_of

N_CTX = 6  # rows of P are one model each, so that the first ones are a healthy model of shorter contexts, and quicker

Change = Callable[[Any, Checkpoint, int], Any]  # model, checkpoint, seed -> model
Edit = Callable[[dict[str, Tensor], torch.Generator], None]  # of weights by name, in place
Run = Callable[[Tensor], Tensor]
Way = Callable[[Any, Run, Tensor], Tensor]  # model, its own forward pass, tokens -> predictions


def is_shortened(checkpoint: Checkpoint) -> bool:
    """`healthy` is not the whole shipped model."""
    return isinstance(setting_of(checkpoint.config, checkpoint.process), DiagonalHeads)


def healthy(checkpoint: Checkpoint) -> Any:
    """The shipped model; of trained diagonal heads with contexts up to N_CTX, and zero where P is not used."""
    model = checkpoint.model
    if not is_shortened(checkpoint):
        return model
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    P = P[:N_CTX, :N_CTX].tril(1)
    P[-1] = 0
    return HookedARTransformer.from_diagonal(A, B, P, process=checkpoint.process)


def shipped(checkpoint: Checkpoint, seed: int) -> Any:
    """`healthy`, for innocent models to be compared with."""
    return healthy(checkpoint)


def changed(change: Change) -> Make:
    """The healthy model, changed."""
    return lambda checkpoint, seed: change(healthy(checkpoint), checkpoint, seed)


def innocent(base: str, description: str, change: Change) -> Sabotage:
    """A change of the healthy model beside which no verdict may change."""
    return Sabotage(base=base, description=description, make=changed(change), healthy=shipped)


def changed_run(change: Change) -> Make:
    """The checkpoint with all that is known of its training, as if it had ended with the changed model."""
    return lambda checkpoint, seed: with_weights_of(checkpoint, change(checkpoint.model, checkpoint, seed))


def edited(edit: Edit) -> Make:
    """The healthy model with other weights."""
    return changed(on_weights(edit))


def scaled(name: str, index: Any, factor: float) -> Edit:
    """Some of the weights times a factor."""

    def edit(weights: dict[str, Tensor], generator: torch.Generator) -> None:
        weights[name][index] *= factor

    return edit


def on_weights(edit: Edit) -> Change:
    """Another model with edited weights; those of the first layer by the last part of their name: A, P, W_Q."""

    def change(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        first = {name.rpartition(".")[2]: value for name, value in weights.items() if name.startswith("blocks.0.")}
        edit(first, generator_of(seed))
        return with_weights(model, weights)

    return change


def with_weights(model: Any, weights: Mapping[str, Tensor], kind: Any = HookedARTransformer) -> Any:
    """Another model of the same architecture, of a class that may answer otherwise."""
    other = kind(model.config, process=model.process).requires_grad_(False)
    other.load_state_dict(weights)
    return other


def answering(model: Any, way: Way) -> Any:
    """A model of the same kind and weights that answers in a way of its own."""
    kind = type(model)
    forward = {"forward": lambda self, tokens: way(self, lambda x: kind.forward(self, x), tokens)}
    return with_weights(model, model.state_dict(), type(kind.__name__, (kind,), forward))


def otherwise(way: Way) -> Change:
    """A change that makes any model answer in this way, see `answering`."""
    return lambda model, checkpoint, seed: answering(model, way)


def with_weights_of(checkpoint: Checkpoint, model: Any) -> Checkpoint:
    """The checkpoint as if its training had ended with this model."""
    return replace(checkpoint, parameters={name: value.detach() for name, value in model.state_dict().items()})


def as_it_is(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The checkpoint with all that is known of its training."""
    return checkpoint


def untrained(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Fresh initial weights."""
    return model.untrained(seed)


def of_scale(scale: float) -> Change:
    """Gaussian weights of this standard deviation."""

    def make(model: Any, checkpoint: Checkpoint, seed: int) -> Any:
        fresh = model.untrained(seed)
        for weights in fresh.state_dict().values():
            weights *= scale / model.config.init_scale
        return fresh

    return make
