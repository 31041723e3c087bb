"""Sabotaged stacks: depth that is only said, only logged, or done by something else."""

from dataclasses import replace
from typing import Any

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import changed, changed_run, with_weights
from ar_interp.sabotage.functions import least_squares

BY_STEPS = "theory has no number of steps, and says nothing of a swap, for what is left"
SHIPPED = "the shipped model fails too"
UNTOUCHED = ("depth/seeds",)  # a claim about other seeds


def one_layer_in_two(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The trained single layer below one that writes nothing."""
    below = checkpoints.load("augmented-haar-l1-keys").parameters
    above = {name.replace("blocks.0.", "blocks.1."): 0 * value for name, value in below.items()}
    return with_weights(model, below | above)


def layer_off(layer: int) -> Any:
    """One layer writes nothing."""

    def change(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        weights = model.state_dict()
        name = f"blocks.{layer}.attn.OV_blocks"
        return with_weights(model, weights | {name: 0 * weights[name]})

    return change


def better_log(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The losses of all seeds a quarter smaller than they were."""
    members = checkpoint.members
    return replace(checkpoint, members=members.assign(**{name: 0.75 * members[name] for name in ("loss", "trimmed")}))


STACKS: dict[str, Sabotage] = {
    "one step dressed as two layers": Sabotage(
        base="augmented-haar-l2-keys",
        description="D4. The trained single layer, and above it one that writes nothing, with the log of two: worth "
        "one step at every T, whatever the log says.",
        make=changed_run(one_layer_in_two),
        must_fail=("depth", "loss/best scale"),
        but=(*UNTOUCHED, "depth/not doubling", "depth/not least squares"),
        undecided={"estimate": BY_STEPS, "depth/parity": "its control exchanges keys of a layer that writes nothing"},
    ),
    "a log of more steps": Sabotage(
        base="augmented-haar-l3",
        description="D4. The weights are the shipped ones; all seeds are said to have ended a quarter lower.",
        make=better_log,
        must_fail=("depth/log",),
        undecided={"estimate": SHIPPED},
    ),
    "least squares in the name of three layers": Sabotage(
        base="augmented-haar-l3-keys",
        description="D5. The layers run and are not used: better than any number of steps, without tokens, layers or "
        "estimates that it would need.",
        make=changed(least_squares),
        must_fail=("model", "depth/not least squares", "depth/every layer", "depth/tokens", "loss/best scale",
                   "estimate", "outside/smaller"),
        undecided={"depth/parity": "its control exchanges keys that are not used",
                   "outside/growth": "rounding over rounding beyond T = d"},
    ),
    "third of four layers off": Sabotage(
        base="augmented-haar-l4",
        description="D5. It writes nothing, so that the fourth gets what was not made for it: fewer steps than logged.",
        make=changed_run(layer_off(2)),
        must_fail=("depth/every layer", "depth/log"),
        undecided=dict.fromkeys(("depth", "estimate", "loss"), BY_STEPS),
    ),
}  # fmt: skip
