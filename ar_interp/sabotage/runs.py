"""Sabotaged runs: the weights are healthy, and training was not what is said of it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.sabotage.diagonal import VOID_FOR_FIVE, on_pairs_h5
from ar_interp.sabotage.edits import changed_run
from ar_interp.sabotage.gauges import regauged_heads
from ar_interp.sabotage.general import on_filter
from ar_interp.studies.descent import ALONE, ESCAPED
from ar_interp.theory import trapped_levels


def steps_miscounted(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    return replace(checkpoint, steps=2 * checkpoint.steps)


def seeds_with(losses: Callable[[Checkpoint], np.ndarray]) -> Make:
    """The checkpoint, where the seeds of its training ended elsewhere."""

    def make(checkpoint: Checkpoint, seed: int) -> Checkpoint:
        return replace(checkpoint, members=checkpoint.members.assign(loss=losses(checkpoint)))

    return make


def seeds_of(name: str) -> Make:
    """The checkpoint with the seeds of another."""
    return lambda checkpoint, seed: replace(checkpoint, members=checkpoints.load(name).members)


def _off_the_levels(checkpoint: Checkpoint) -> np.ndarray:
    """Losses farther from the minimum than those of an escaped seed."""
    return checkpoint.members["loss"].to_numpy() + 2 * ESCAPED


def _trapped_independently(checkpoint: Checkpoint) -> np.ndarray:
    """Losses as if each head fell for '+' or '-' as a single head does, whatever the others do."""
    config, n, plus = checkpoint.config, len(checkpoint.members), ALONE[0] / ALONE[1]
    levels = trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx)
    n_minus = np.random.default_rng(0).binomial(config.n_heads, 1 - plus, n)
    return levels[n_minus]


RUNS: dict[str, Sabotage] = {
    "a minimum that descent does not find": on_pairs_h5(
        description="The heads in a random gauge and at another scale: nothing that the loss sees is gone, and balance "
        "and scale, which gradient flow keeps from its start, are.",
        make=changed_run(regauged_heads),
        must_fail=("descent/scale", "descent/balance"),
        undecided=VOID_FOR_FIVE,
    ),
    "seeds that have not settled": on_pairs_h5(
        description="The losses of all 1024 seeds .02 higher: on no level, and none of them escaped.",
        make=seeds_with(_off_the_levels),
        must_fail=("descent",),
        but=("descent/scale", "descent/balance"),
        undecided=VOID_FOR_FIVE,
    ),
    "seeds trapped independently": on_pairs_h5(
        description="Losses on the levels, as if each of the five heads escaped as often as a single one does.",
        make=seeds_with(_trapped_independently),
        must_fail=("descent/escape", "descent/log"),
        undecided=VOID_FOR_FIVE
        | {"descent/dependence": "a thousand seeds do not tell the share of independent heads from twice as much"},
    ),
    "no better than one layer": Sabotage(
        base="augmented-haar-l2-keys",
        description="The seeds of a single layer in the name of two: one step's worth. The model itself is the shipped "
        "one.",
        make=seeds_of("augmented-haar-l1-keys"),
        must_fail=("depth/seeds", "depth/log"),
        undecided={"estimate": "the shipped model fails too"},
    ),
    "no better than one head": Sabotage(
        base="plain-haar-fixed-h5",
        description="The losses of a single head in the name of five. The model itself is the shipped one.",
        make=seeds_of("plain-haar-fixed-h1"),
        must_fail=("loss/enough heads",),
    ),
    "steps miscounted": on_filter(
        description="Twice the steps that made the weights: another number than descent needs, and another filter.",
        make=steps_miscounted,
        must_fail=("descent", "filter", "outside"),
        but=("filter/unfinished",),
    ),
}
