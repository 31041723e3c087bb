"""How many gradient steps a model is worth: those with the same error on the same contexts, in all and at every T."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.opened import Model
from ar_interp.probes.algorithm import STEPS, TRIM, Spectra, interpolate, spectra_at_a_time, step_sizes, trimmed
from ar_interp.probes.protocol import needs, process_option
from ar_interp.probes.results import Result
from ar_interp.processes import Contexts, Process, Sequences
from ar_interp.seeds import generator_of

COUNTED = (*STEPS, 96, 128)
N_BOOTSTRAP = 100
LEVELS = (0.025, 0.975)
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class EquivalentSteps(Result):
    """The number k of gradient steps whose error is the model's.

    All intervals are 95 % bootstrap intervals over contexts, model and descent drawn together: that the step sizes were
    tuned on 1000 other contexts is not in them.

    Attributes:
        by_position: a row per T = 2..length: steps, low, high.
        steps: k for the mean over T, with its interval.
        least, largest: the smallest and largest k of all T > dim, with their intervals.
        nearest: of the numbers of steps that were tried the one nearest to k.
        last: errors at the last T, of the model and of descent with `nearest` steps.
        n: contexts.
    """

    by_position: pd.DataFrame
    steps: float
    interval: Interval
    least: tuple[float, Interval]
    largest: tuple[float, Interval]
    nearest: int
    last: Float[np.ndarray, "model=2 batch"]
    n: int


def descent_errors(
    contexts: Contexts, *, process: Process, length: int, per_pair: bool
) -> Float[Tensor, "batch pos k"]:
    """Errors at T = 2, ... of 0 and of every number of `COUNTED` gradient steps, tuned on contexts up to `length`."""
    sizes, spectra = (
        step_sizes(process, length=length, per_pair=per_pair, steps=COUNTED),
        Spectra(contexts, per_pair=per_pair),
    )
    return torch.stack([spectra.errors(k, size) for k, size in zip((0, *COUNTED), (0.0, *sizes), strict=True)], -1)[
        :, 1:
    ]


def count_steps(
    errors: Float[np.ndarray, "batch *column"], curves: Float[np.ndarray, "batch *column k"]
) -> Float[np.ndarray, "*column"]:
    """The numbers of steps whose mean errors, see `descent_errors`, are those of a model on the same contexts."""
    k, means, references = np.array((0, *COUNTED)), trimmed(errors, TRIM), trimmed(curves, TRIM)
    return np.array([interpolate(*each) for each in zip(means, [k] * len(means), references, strict=True)])


@needs("forward", options=process_option, sequences=2, length=2)
def equivalent_steps_of(
    model: Model,
    sequences: Sequences,
    *,
    process: Process | None = None,
    per_pair: bool | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> EquivalentSteps:
    """Count the gradient steps with the model's error on the same contexts, by log-linear interpolation in k.

    Means leave out the 1 % of contexts where the error is largest: unnormalised deep models, and descent with one step
    size for all T, explode on rare ones.

    Args:
        process: what the step sizes are tuned on; the model's own if left out.
        per_pair: descent with steps divided by T - 1; if left out, where the model's attention normalises too.
        seed: of the bootstrap.
    Raises:
        ValueError: no process; contexts shorter than 2.
    """
    process = process or model.process
    if process is None:
        raise ValueError("process is needed to tune the step sizes; pass process=..., e.g. HaarOrthogonal(5).")
    length, per_pair = sequences.length, model.normalises if per_pair is None else per_pair
    own, descents = [], []
    for part in sequences.split(spectra_at_a_time(batch_size, sequences, model)):
        own.append(part.errors(model(part.inputs))[:, 1:])
        descents.append(descent_errors(part, process=process, length=length, per_pair=per_pair))
    errors = torch.cat(own).double().cpu().numpy()  # [batch pos]
    curves = torch.cat(descents).double().cpu().numpy()
    k, T = np.array((0, *COUNTED)), np.arange(2, length + 1)
    each = [np.concatenate([x.mean(1, keepdims=True), x], 1) for x in (errors, curves)]  # the mean over T first
    found = count_steps(*each)
    drawn = _bootstrap(lambda rows: count_steps(*(x[rows] for x in each)), len(errors), seed)
    low, high = np.quantile(drawn, LEVELS, axis=0)
    nearest = int(np.abs(k - found[0]).argmin())
    later = np.concatenate([[False], sequences.inputs.shape[-1] < T])

    def extreme(of: Callable) -> tuple[float, Interval]:
        bounds = np.quantile(of(drawn[:, later], 1), LEVELS)
        return float(of(found[later], 0)), (float(bounds[0]), float(bounds[1]))

    return EquivalentSteps(
        by_position=pd.DataFrame({"T": T, "steps": found[1:], "low": low[1:], "high": high[1:]}),
        steps=float(found[0]),
        interval=(float(low[0]), float(high[0])),
        least=extreme(np.min),
        largest=extreme(np.max),
        nearest=int(k[nearest]),
        last=np.stack([errors[:, -1], curves[:, -1, nearest]]),
        n=len(errors),
    )


def _bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int) -> Float[np.ndarray, "draw value"]:
    draws = torch.randint(n, (N_BOOTSTRAP, n), generator=generator_of(seed), device="cpu").numpy()
    return np.stack([statistic(rows) for rows in draws])
