"""Sabotaged runs: the weights are healthy, and training was not what is said of it."""

from collections.abc import Callable
from dataclasses import replace
from math import comb

import numpy as np

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.sabotage.diagonal import VOID_FOR_FIVE, on_pairs_h5
from ar_interp.sabotage.edits import changed_run
from ar_interp.sabotage.gauges import regauged_heads
from ar_interp.sabotage.general import on_filter
from ar_interp.studies.descent import ESCAPED
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
    """Losses as if each head fell for '+' or '-' by a coin of its own."""
    config, n = checkpoint.config, len(checkpoint.members)
    levels = trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx)
    counts = [n * comb(config.n_heads, minus) // 2**config.n_heads for minus in range(len(levels))]
    return np.repeat(levels, counts)


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
        description="Losses on the levels, as many on each as coin tosses of five heads give.",
        make=seeds_with(_trapped_independently),
        must_fail=("descent/dependence",),
        undecided=VOID_FOR_FIVE
        | {"descent/escape": "the earlier share of .0625 is as far from 2^-5 as its own interval is wide"},
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
