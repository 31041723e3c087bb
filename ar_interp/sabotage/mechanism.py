"""Sabotaged general models and plain heads in which one part of the mechanism is another, and innocent ones.

Claims on the error and on what a model is worth outside its training are left open but for the row that says what was
done: theory has no error for general weights.
"""

from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import Edit, changed, edited, innocent, on_weights, with_weights

BY_CHANCE = "what general weights do after this is by chance"
PLAIN = {"loss": BY_CHANCE, "mechanism": BY_CHANCE}
AUGMENTED = {**PLAIN, "estimate": BY_CHANCE}


def newest_weight_to_the_key_before(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Every p_t becomes that of the key before."""
    P = weights["P"]
    P.copy_(torch.cat([P[:, 1:], torch.zeros_like(P[:, :1])], dim=1))


def prefers_a_direction(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """A_h -> diag(3/2, 1, ..., 1) A_h."""
    weights["W_Q"][:, 0] *= 1.5


@on_weights
def rescaled_heads(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """A_h -> 3 A_h and B_h -> B_h / 3: the same function."""
    weights["W_Q"] *= 3
    weights["W_V"] /= 3


def of_state(edit: Edit) -> Any:
    """Another model whose weights are edited by their full names."""

    def change(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        edit(weights, torch.Generator())
        return with_weights(model, weights)

    return changed(change)


def third_key_for_the_second(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Positions 2 and 3 exchanged."""
    positions = weights["pos_embed.W_pos"]
    positions[[1, 2]] = positions[[2, 1]]


def silent_layer(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """The last LayerNorm writes its bias alone."""
    weights["blocks.1.ln1_post.w"].zero_()


def another_step(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """The first layer's queries are turned by one coordinate: <R s_T, s_{t-1}> s_t."""
    W_Q = weights["blocks.0.attn.W_Q"]
    W_Q.copy_(W_Q.unflatten(1, (3, -1)).roll(1, 2).flatten(1, 2))


MECHANISM: dict[str, Sabotage] = {
    "older keys for newer": Sabotage(
        base="plain-haar-h1",
        description="The weight of s_T is at s_{T-1}: a head as invariant as before; cutting s_T tells nothing.",
        make=edited(newest_weight_to_the_key_before),
        must_fail=("loss/one head",),
        but=("mechanism/invariant", "mechanism/unexplained"),
        undecided=PLAIN,
    ),
    "heads with a direction": Sabotage(
        base="plain-haar-h5",
        description="The first coordinate of the query counts half as much again: no map of them is invariant.",
        make=edited(prefers_a_direction),
        must_fail=("mechanism/invariant", "mechanism/unexplained"),
        undecided=PLAIN,
    ),
    "third key for the second": Sabotage(
        base="figure7-h1",
        description="Positions 2 and 3 exchanged: it reads s_3, and <s_1, s_T> s_3 is no part of W s_T.",
        make=of_state(third_key_for_the_second),
        must_fail=("loss/figure", "mechanism/second key", "mechanism/unexplained"),
        undecided=PLAIN,
    ),
    "a layer that writes nothing": Sabotage(
        base="figure5-l2",
        description="The second of two layers writes a constant; scale and length have nothing to tell there.",
        make=of_state(silent_layer),
        must_fail=("loss/figure", "mechanism/layers"),
        but=("mechanism/first step",),
        undecided=AUGMENTED,
    ),
    "another first step": Sabotage(
        base="figure5-l1",
        description="<R s_T, s_{t-1}> with a permutation R of coordinates: the step of a descent on other pairs.",
        make=of_state(another_step),
        must_fail=("loss/figure", "mechanism/first step", "mechanism/unexplained"),
        undecided=AUGMENTED,
    ),
    "rescaled (plain heads)": innocent(
        "plain-haar-h5", "A_h -> 3 A_h, B_h -> B_h / 3: the same function.", rescaled_heads
    ),
}
