"""How much data a probe needs: its score by the number of training sequences, and the online code of its targets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from ar_interp._checks import check_integer
from ar_interp._shown import watched
from ar_interp.models.opened import Model
from ar_interp.probes.protocol import needs
from ar_interp.probes.readout import READ, hooks_of, probe_features, reading_options
from ar_interp.probes.readout_fits import Split, discrete, fit_probe, interval, log_probabilities, scores_of
from ar_interp.probes.readout_targets import Target, resolve, target_values
from ar_interp.probes.results import Result
from ar_interp.processes import Sequences

Values = Shaped[np.ndarray, "batch value"]
Bits = Float[np.ndarray, "batch value"]
PerValue = Float[np.ndarray, "value"]

FIRST_BLOCK = 40  # sequences, about; fewer cannot choose a penalty
RESOLUTION = 2.0**-10  # of a target's standard deviation: what its values are rounded to before they are sent


@dataclass(frozen=True, kw_only=True)
class DataEfficiency(Result):
    """One target read off one activation, and off what the controls are given, from more and more sequences.

    Attributes:
        curve: a row per source (`model` or a control, see `readout.probe_activations`) and n_train: score on the
            held-out sequences (r2 or accuracy), and its bootstrap 95 % interval (low, high).
        codes: a row per source: bits, the length of the online code per target value; constant_bits, that of the same
            values coded without an activation; saved, constant_bits - bits; compression, saved / constant_bits: 1 is
            everything, 0 nothing, negative a loss. For numbers the two code lengths, and so the compression, depend on
            the resolution of the values, 2^-10 of their standard deviation; `saved` does not, unless the probe is that
            exact. 1 - 2^(-2 saved) is the R^2 that a Gaussian channel of `saved` bits has.
    """

    curve: pd.DataFrame
    codes: pd.DataFrame


@needs("run_with_cache", scope=READ, options=reading_options)
def data_efficiency(
    model: Model,
    sequences: Sequences,
    *,
    hook: str,
    position: int | None = None,
    target: str | Target = "W",
    untrained: object = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> DataEfficiency:
    """The second opinion on a probe: two activations from which all can be read may differ in what it takes.

    The training part is sent block by block, each as long as all before: a probe fitted to what has been sent predicts
    the next block, which costs -log_2 of the probability it gives to the values; for numbers that of a Gaussian around
    the prediction, with the mean squared leave-one-out error for variance. The first block costs the same with any
    activation and is left out. The constant code predicts the mean, or the frequencies, of what has been sent.
    Source: Voita and Titov 2020, online (prequential) code; Gaussian plug-in code for numbers.

    Args:
        target, untrained: as in `readout.probe_activations`.
        sequences: at least 115, so that the training part has two blocks.
        hook: one name.
        position: T, from 2 to the length of the sequences; the last if left out.
    Raises:
        ValueError: as `readout.probe_activations` does.
    """
    length = sequences.length
    T = check_integer("position", length if position is None else position, low=2, high=length)
    split = Split.of(len(sequences), seed=seed)
    if len(split.train) < 2 * FIRST_BLOCK:
        raise ValueError(f"sequences must be at least 115 for two blocks to train on, got {len(sequences)}.")
    Y = target_values(target, sequences, T)
    if not Y.shape[1]:
        raise ValueError(f"target {resolve(target)[0]!r} is the same in every sequence at T = {T}: choose another.")
    hooks = hooks_of(model, hook)
    options: dict[str, Any] = {"untrained": untrained, "seed": seed, "batch_size": batch_size}
    features = probe_features(model, sequences, hooks=hooks, positions=[T], **options)[hook, T]
    ends, unit = _block_ends(len(split.train)), RESOLUTION * Y.std(0)
    curve, codes = [], []
    for source, X in watched(iterable=features.items(), desc="data_efficiency", unit=" sources"):
        sent, values = X[split.train], Y[split.rows_of_targets(source)]
        bits, constant_bits = [], []
        for n, end in zip(ends, [*ends[1:], ends[-1]], strict=True):
            probe = fit_probe(sent[:n], values[:n])
            score, low, high = interval(scores_of(Y[split.test], probe.predict(X[split.test]), split.counts))
            curve.append({"source": source, "n_train": n, "score": score, "low": low, "high": high})
            if n < end:
                bits.append(_bits(probe, sent[n:end], values[n:end], unit))
                constant_bits.append(_constant_bits(values[:n], values[n:end], unit))
        code = {"bits": np.concatenate(bits).mean(), "constant_bits": np.concatenate(constant_bits).mean()}
        saved = code["constant_bits"] - code["bits"]
        codes.append({"source": source, **code, "saved": saved, "compression": saved / code["constant_bits"]})
    return DataEfficiency(curve=pd.DataFrame(curve), codes=pd.DataFrame(codes))


def _block_ends(n: int) -> list[int]:
    """n halved as often as it goes, ascending."""
    ends = [n]
    while ends[0] >= 2 * FIRST_BLOCK:
        ends.insert(0, ends[0] // 2)
    return ends


def _bits(probe: Any, X: Float[np.ndarray, "batch feature"], Y: Values, unit: PerValue) -> Bits:
    """Length of the code of Y that knows X."""
    if discrete(Y):
        return -log_probabilities(probe[-1].best_estimator_, probe[0].transform(X), Y)
    ridge = probe[-1]
    chosen = np.flatnonzero(ridge.alphas == ridge.alpha_)[0]
    return _gaussian_bits(Y - probe.predict(X).reshape(Y.shape), ridge.cv_results_[..., chosen].mean(0), unit)


def _constant_bits(sent: Shaped[np.ndarray, "sent value"], Y: Values, unit: PerValue) -> Bits:
    """Length of the code of Y that knows what has been sent and no X."""
    n = len(sent)
    if not discrete(Y):
        leave_one_out = sent.var(0) * (n / (n - 1)) ** 2
        return _gaussian_bits(Y - sent.mean(0), leave_one_out, unit)
    came = (sent[:, None] == Y).sum(0)
    n_classes = np.array([len(np.unique(column)) for column in np.concatenate([sent, Y]).T])
    return -np.log2((came + 1) / (n + n_classes))


def _gaussian_bits(residual: Bits, variance: PerValue, unit: PerValue) -> Bits:
    """-log_2(unit N(residual; 0, variance)); the variance is large enough that no value has more than probability 1."""
    variance = variance + unit**2 / (2 * np.pi)
    return 0.5 * np.log2(2 * np.pi * variance / unit**2) + residual**2 / (2 * np.log(2) * variance)
