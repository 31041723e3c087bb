"""The noise on the weights that each claim stands."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ar_interp import checkpoints
from ar_interp._checks import check_number
from ar_interp._moods import calm
from ar_interp._shown import Shown
from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.edits import healthy, is_shortened, with_weights, with_weights_of
from ar_interp.seeds import generator_of
from ar_interp.studies import verify

SCALES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Shown):
    """Verdicts of a model under noise on its weights.

    Attributes:
        base: the checkpoint.
        frame: a row per claim that holds without noise and per noise: claim, evidence, noise (the standard deviation,
            in units of the rms of each weight tensor), share (of the n seeds for which it holds), n.
    """

    base: str
    frame: pd.DataFrame

    @property
    def flips(self) -> pd.Series:
        """The noise at which each claim holds for half of the seeds, inf if it stands all.

        Between two scales the share is taken as linear in the logarithm of the noise.
        """
        return pd.Series({str(claim): _flip(rows) for claim, rows in self.frame.groupby("claim", sort=False)})


@calm(gradients=True)
def sensitivity(
    base: str, scales: Iterable[float] = SCALES, seeds: Iterable[int] = range(4), *, n: int | None = None
) -> Sensitivity:
    """Add Gaussian noise to every weight of a shipped model, and verify it.

    The noise of a tensor has standard deviation scale times the rms of its weights, so that it does not depend on the
    scales that the loss leaves free; a seed is one direction of noise at all scales. Diagonal heads are taken with
    contexts of up to 6 tokens.

    Args:
        base: name of a checkpoint of diagonal or block-scalar heads.
        scales: positive, ascending.
        seeds: seeds of the noise.
        n: how many contexts each measurement takes; as many as each claim was planned with if left out.
    Raises:
        ValueError: scales that do not ascend, no scales or seeds.
    """
    scales = [check_number("scales", scale, low=0.0, strict=True) for scale in scales]
    seeds = list(seeds)
    if not scales or not seeds or scales != sorted(set(scales)):
        raise ValueError(f"scales must ascend and seeds must not be empty, got {scales} and {seeds}.")
    checkpoint = checkpoints.load(base)
    intact = {claim.name: claim for claim in _verdicts(checkpoint, 0.0, 0, n) if claim.verdict == "holds"}
    rows = []
    for scale in scales:
        found = [_verdicts(checkpoint, scale, seed, n) for seed in seeds]
        for name, claim in intact.items():
            share = float(np.mean([claims[name].verdict == "holds" for claims in found]))
            rows.append({"claim": name, "evidence": claim.evidence, "noise": scale, "share": share, "n": len(seeds)})
    frame = pd.DataFrame(rows).sort_values("claim", key=lambda names: names.map(list(intact).index), kind="stable")
    return Sensitivity(base=base, frame=frame.reset_index(drop=True))


def _verdicts(checkpoint: Checkpoint, scale: float, seed: int, n: int | None) -> Any:
    """Claims about the noisy model, as a run where it is whole: how closely weights are known depends on training."""
    model = _noisy(healthy(checkpoint), scale, seed)
    subject = model if is_shortened(checkpoint) else with_weights_of(checkpoint, model)
    return verify(subject, checkpoint.process, n=n)


def _noisy(model: Any, scale: float, seed: int) -> HookedARTransformer:
    generator = generator_of(seed)
    weights = {
        name: value
        + scale
        * value.square().mean().sqrt()
        * torch.randn(value.shape, generator=generator, dtype=torch.float32, device="cpu").to(value)
        for name, value in model.state_dict().items()
    }
    return with_weights(model, weights)


def _flip(rows: pd.DataFrame) -> float:
    noise, share = rows["noise"].to_numpy(), rows["share"].to_numpy()
    below = np.flatnonzero(share <= 0.5)
    if not len(below):
        return float("inf")
    last = below[0]
    if last == 0:
        return float(noise[0])
    (low, high), (before, after) = np.log(noise[last - 1 : last + 1]), share[last - 1 : last + 1]
    return float(np.exp(low + (high - low) * (before - 0.5) / (before - after)))
