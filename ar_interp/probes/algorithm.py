"""Which estimator a model behaves like, layer by layer: by its predictions, its errors, and its estimate of W.

In the eigenbasis of S_T = sum_{t<T} s_t s_t^* k steps of gradient descent are a filter of the eigenvalues, which makes
tuning and whole curves of them quick.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.nn.functional import pad

from ar_interp._checks import check_integer, check_number, check_seed
from ar_interp._shown import brief, watched
from ar_interp.estimators import (
    OLS,
    DiagonalOLS,
    Estimator,
    GradientDescent,
    Kaczmarz,
    LastToken,
    NewtonSchulz,
    PreviousToken,
    Ridge,
    Zero,
    apply,
)
from ar_interp.estimators.least_squares import best_factor
from ar_interp.models.opened import Model
from ar_interp.probes.batches import at_a_time, numbers_in_pass
from ar_interp.probes.context import (
    CIRCUIT,
    ESTIMATE,
    EVERY,
    OWN,
    estimates_at_a_time,
    estimates_of,
    predictions_by_layer,
)
from ar_interp.probes.protocol import BARE, DIAGONAL, needs, process_option
from ar_interp.probes.results import Result, over_contexts
from ar_interp.processes import Contexts, Process, Sequences
from ar_interp.seeds import DESCENT_CURVE, TUNING

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
NEWTON = (2, 3, 4, 5)
TUNING_BATCH = 1000
LEAST_TUNED = 8
TUNED = 2**22  # entries of S_T over all contexts and T that step sizes are tuned on, at most
MANY = 1000  # contexts at a time
TRIM = 0.01
N_BOOTSTRAP = 200
MIN_SEQUENCES = 10
SLOW = 1e-8  # of a rate below it the difference of powers would be rounding
SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class AlgorithmIdentification(Result):
    """A model beside estimators on the same contexts T = 2..length.

    Layers count from 0 as in `blocks.0`; layer l is the prediction that the stream holds after it, the last one is the
    model's. Trimmed means leave out the 1 % of sequences where the value is largest: unnormalised deep models, and
    descent with one step size for all T, explode on rare sequences.

    Attributes:
        matches: a row per layer and estimator: distance_per_token |prediction - estimator's|^2, mean over sequences and
            T (and trimmed_distance_per_token); error_similarity, the cosine between the residuals s_{T+1} - prediction
            of both over a sequence, mean over sequences; sensitivity, the mean Frobenius cosine between the model's Ŵ_T
            (as in `recover_context`) and the estimator's; standard errors over sequences.
        errors: a row per layer ("model, layer 0") and estimator: error_per_token |prediction - s_{T+1}|^2, mean over
            sequences and T, its standard error, and trimmed_error_per_token.
        steps: a row per layer, normalisation (per_pair) and criterion (by): the number of gradient steps whose trimmed
            error equals the layer's (`error`, see `equivalent_steps`) or whose predictions are nearest (`distance`),
            with its bootstrap 95 % interval (low, high) over sequences.
        by_position: a row per layer and estimator ("model, layer 0") and T: mean error_per_token, its standard error
            over sequences (_se) and their 10 % and 90 % quantiles (_low, _high).
        per_pair: the normalisation to read first: steps divided by T - 1 where the model's attention normalises.
    """

    matches: pd.DataFrame
    errors: pd.DataFrame
    steps: pd.DataFrame
    by_position: pd.DataFrame
    per_pair: bool
    n: int

    @property
    def n_layers(self) -> int:
        return len(set(self.matches["layer"]))

    def best(self, layer: int | None = None) -> str:
        """The estimator whose predictions are nearest (trimmed) to those after a layer; the last if left out."""
        layer = self.n_layers - 1 if layer is None else layer
        rows = self.matches[self.matches["layer"] == layer].set_index("estimator")
        return str(rows["trimmed_distance_per_token"].astype(float).idxmin())

    @property
    def equivalent_steps(self) -> float:
        """Gradient steps with the model's error, in the normalisation to read first."""
        asked = (self.steps["by"] == "error") & (self.steps["per_pair"] == self.per_pair)
        return float(self.steps["steps"].to_numpy()[asked.to_numpy()][-1])


@needs(
    "run_with_cache",
    when=ESTIMATE
    | {
        BARE: ("forward", *CIRCUIT),
        DIAGONAL: (*CIRCUIT, "read_out", "config.n_layers", "blocks.{layer}.hook_resid_post"),
    },
    options=process_option,
    sequences=MIN_SEQUENCES,
    length=2,
)
@np.errstate(over="ignore", invalid="ignore")  # of what explodes
def identify_algorithm(
    model: Model,
    sequences: Sequences,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    process: Process | None = None,
    per_pair: bool | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> AlgorithmIdentification:
    """Compare a model, layer by layer, with estimators and with k steps of gradient descent on the same sequences.

    Source: distance and sensitivity are those of von Oswald et al. 2023, error similarity that of Fu et al. 2024, who
    ask the same of in-context linear regression.

    Args:
        sequences: at least 10.
        estimators: by name; `default_estimators` if left out.
        process: what the step sizes are tuned on; the model's own if left out.
        per_pair: compare with steps divided by the number of pairs; if left out, where attention normalises too.
    Raises:
        ValueError: no process, too few or too short sequences, or such as `recover_context` refuses.
    """
    process = process or model.process
    if process is None:
        raise ValueError("process is needed to tune the step sizes; pass process=..., e.g. HaarOrthogonal(5).")
    length = sequences.length
    per_pair = model.normalises if per_pair is None else per_pair
    descents = {choice: _descents(process, length, choice) for choice in (False, True)}
    if estimators is None:
        estimators = default_estimators(process, length=length, per_pair=per_pair)
    if not isinstance(estimators, Mapping):
        raise ValueError(f"estimators must map names to estimators, such as {{'OLS': OLS()}}, got {brief(estimators)}.")
    kind = OWN if model.has_own_path else EVERY
    named = {**descents[False], **descents[True], **estimators}
    size = estimates_at_a_time(batch_size, model, sequences)
    starts = range(0, len(sequences), size)
    parts = [_compared(model, sequences[start : start + size], kind, named, estimators) for start in starts]
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    n_layers = model.n_layers if model.has_config else 1
    errors = {name: values for (what, name, _), values in found.items() if what == "error"}
    distances = {name: [found["distance", name, layer] for layer in range(n_layers)] for name in named}
    matches = [
        {
            "layer": layer,
            "estimator": name,
            **_mean("distance_per_token", distances[name][layer]),
            **_mean("error_similarity", found["error_similarity", name, layer]),
            "sensitivity": found["sensitivity", name, layer].mean(),
            "trimmed_distance_per_token": trimmed(distances[name][layer][:, None])[0],
        }
        for layer in range(n_layers)
        for name in estimators
    ]
    shown = [name for name in errors if name.startswith("model, layer ") or name in estimators]
    return AlgorithmIdentification(
        matches=pd.DataFrame(matches),
        errors=pd.DataFrame([_error_row(name, errors[name].mean(1)) for name in shown]),
        steps=pd.DataFrame(_steps_rows(errors, distances, descents, n_layers, seed)),
        by_position=pd.concat([_by_position(name, errors[name]) for name in shown], ignore_index=True),
        per_pair=per_pair,
        n=len(sequences),
    )


def _compared(
    model: Model, part: Sequences, kind: str, named: Mapping[str, Estimator], compared: Iterable[str]
) -> dict[tuple[str, str, int], np.ndarray]:
    """What, estimator and layer -> its values on some sequences: [batch pos] for errors, else [batch]."""
    layers = predictions_by_layer(model, part, batch_size=len(part))
    maps = [
        estimates_of(model, part, layer=layer, kind=kind, batch_size=len(part))[-1][:, 1:]
        for layer in range(len(layers))
    ]
    spectra = {choice: Spectra(part, per_pair=choice) for choice in (False, True)}
    values = {("error", f"model, layer {layer}", 0): _errors(part, own) for layer, own in enumerate(layers)}
    for name, estimator in named.items():
        descends = isinstance(estimator, GradientDescent)
        estimated = spectra[estimator.per_pair].estimate(estimator) if descends else estimator.estimate(part.pairs())
        predictions = apply(estimated, part.inputs)
        values["error", name, 0] = _errors(part, predictions)
        for layer, own in enumerate(layers):
            apart = (own - predictions)[:, 1:].abs().square().sum(-1).mean(1)
            values["distance", name, layer] = apart.cpu().numpy()
            if name in compared:
                residuals = [(part.targets - answer)[:, 1:] for answer in (own, predictions)]
                values["error_similarity", name, layer] = _cosine(*residuals)
                cosines = _cosine(maps[layer].flatten(0, 1), estimated[:, 1:].flatten(0, 1))
                values["sensitivity", name, layer] = cosines.reshape(len(part), -1).mean(1)
    return values


def default_estimators(process: Process, *, length: int, per_pair: bool = False) -> dict[str, Estimator]:
    """Estimators by name, tuned on the process for contexts T = 2..length.

    Zero, the last token, s_{T-1} / dim, least squares, ridge (with the weight of one pair of average size), Kaczmarz,
    gradient descent with one step size for all T and per pair, and Newton-Schulz iterations, 2^k steps each.

    Args:
        per_pair: normalisation of the Newton-Schulz iterations.
    """
    common, normalised = (_descents(process, length, choice) for choice in (False, True))
    energy = process.contexts(TUNING_BATCH, 1, seed=TUNING).inputs.abs().square().mean().item()
    sizes = dict(zip(STEPS, step_sizes(process, length=length, per_pair=per_pair), strict=True))
    newton = {
        f"Newton-Schulz {k} = {2**k} steps": NewtonSchulz(iterations=k, step_size=sizes[2**k], per_pair=per_pair)
        for k in NEWTON
    }
    diagonal = {"diagonal OLS": DiagonalOLS()} if process.has_eigenbasis else {}
    return {
        "last token": LastToken(),
        "previous token / d": PreviousToken(),
        **common,
        **{name: descent for name, descent in normalised.items() if name not in common},
        "OLS": OLS(),
        **diagonal,
        "ridge": Ridge(penalty=energy),
        **newton,
        "Kaczmarz": Kaczmarz(),
    }


def step_sizes(
    process: Process, *, length: int, per_pair: bool = False, steps: tuple[int, ...] = STEPS
) -> tuple[float, ...]:
    """Step sizes, one for each number of steps k, that are best for contexts T = 2..length on average.

    Tuned as `estimators.tuned` does, on 1000 sequences, or where they are long or wide on as many as hold 2^22 entries
    of all S_T, at least 8; kept for the next call.
    """
    check_integer("length", length, low=2)
    return _step_sizes(process, length, per_pair, tuple(check_integer("steps", k, low=1) for k in steps))


def gradient_descent_curve(
    process: Process,
    *,
    length: int,
    per_pair: bool = False,
    steps: tuple[int, ...] = STEPS,
    n: int = 4000,
    seed: int = DESCENT_CURVE,
    trim: float = 0.0,
) -> pd.DataFrame:
    """The error of k tuned gradient steps, mean over contexts T = 2..length and n fresh sequences.

    Args:
        per_pair: steps divided by the number of pairs T - 1, instead of one size for all T.
        steps: the numbers k; k = 0, the zero predictor, is added.
        trim: share of the sequences with the largest error that each mean leaves out.
    Returns:
        k, error_per_token, se (standard error over the sequences).
    """
    check_integer("n", n, low=2)
    check_number("trim", trim, low=0.0)
    errors = _curve(process, per_pair, steps, step_sizes(process, length=length, per_pair=per_pair, steps=steps),
                    length, n, check_seed(seed))  # fmt: skip
    return pd.DataFrame(
        {"k": (0, *steps), "error_per_token": trimmed(errors, trim), "se": errors.std(0, ddof=1) / n**0.5}
    )


def equivalent_steps(error: float | Float[np.ndarray, "..."], curve: pd.DataFrame) -> float | Float[np.ndarray, "..."]:
    """The number of gradient steps with this error: log error is interpolated linearly in k.

    Args:
        error: a mean error, or many, per context length and summed over coordinates as the curve's.
        curve: k and error_per_token, see `gradient_descent_curve`.
    Returns:
        Within the curve's k: the first k (0) for an error as large as there or larger, the last for one as small as
        there or smaller; nan for nan.
    """
    return interpolate(error, curve["k"].to_numpy(), curve["error_per_token"].to_numpy())


def interpolate(error: Any, k: np.ndarray, errors: np.ndarray) -> Any:
    """The k of an error on a curve, linearly in its logarithm."""
    falling = np.minimum.accumulate(errors)  # as it is in the mean
    logs = [np.log(np.maximum(value, SMALLEST)) for value in (error, falling)]
    return np.interp(-logs[0], -logs[1], k)


class Spectra:
    """Contexts in the eigenbasis of S_T: Ŵ_T x_T = R_T q(S_T) x_T = sum_i q(eigenvalues_i) parts_i; 0 at T = 1."""

    def __init__(self, contexts: Contexts, *, per_pair: bool) -> None:
        self.contexts = contexts
        x, y = (tokens[..., None] for tokens in contexts.pairs())
        past = x[:, :-1]
        S, R = (pad((known @ past.mH).cumsum(1), (0, 0, 0, 0, 1, 0)) for known in (past, y[:, :-1]))
        if per_pair:
            n_pairs = torch.arange(contexts.length, device=S.device).clamp(min=1)[:, None, None]
            S, R = S / n_pairs, R / n_pairs
        self.eigenvalues, self.vectors = torch.linalg.eigh(S)
        self.moved = R @ self.vectors
        self.parts = self.moved * (self.vectors.mH @ x).mT

    def estimate(self, descent: GradientDescent) -> Inexact[Tensor, "batch pos dim dim"]:
        """Ŵ_T after these steps, q <- q + eta (1 - eigenvalues q)."""
        q = torch.zeros_like(self.eigenvalues)
        for eta in descent.step_sizes:
            q = q + eta * (1 - self.eigenvalues * q)
        return (self.moved * q[..., None, :]) @ self.vectors.mH

    def losses(self, n_steps: int, step_size: float) -> Float[Tensor, "batch"]:
        """The loss of each context after so many steps of one size."""
        return self.contexts.losses(self._predictions(n_steps, step_size))

    def errors(self, n_steps: int, step_size: float) -> Float[Tensor, "batch pos"]:
        """The error at every T after so many steps of one size."""
        return self.contexts.errors(self._predictions(n_steps, step_size))

    def _predictions(self, n_steps: int, step_size: float) -> Inexact[Tensor, "batch pos dim"]:
        rate = step_size * self.eigenvalues
        q = torch.where(rate > SLOW, (1 - (1 - rate) ** n_steps) / self.eigenvalues, n_steps * step_size)
        return (self.parts @ q[..., None].to(self.parts.dtype))[..., 0]


def spectra_at_a_time(batch_size: int | None, contexts: Contexts, model: Model) -> int:
    """Contexts at a time for a model's predictions and `Spectra`, which hold six matrices of each T."""
    length, dim = contexts.length, contexts.inputs.shape[-1]
    return at_a_time(batch_size, numbers_in_pass(model, length) + 6 * length * dim**2, most=MANY)


@lru_cache(maxsize=64)
def _step_sizes(process: Process, length: int, per_pair: bool, steps: tuple[int, ...]) -> tuple[float, ...]:
    n = min(TUNING_BATCH, max(LEAST_TUNED, TUNED // (length * process.dim**2)))
    spectra = Spectra(process.contexts(n, length, seed=TUNING), per_pair=per_pair)
    unit = 1 / spectra.eigenvalues[:, -1, -1].mean().item()  # of the largest eigenvalue at the longest context

    def best(k: int) -> float:
        return unit * best_factor(lambda factor: spectra.losses(k, unit * factor), 1e-3)

    return tuple(best(k) for k in watched(iterable=steps, desc="step sizes", unit=" tuned"))


@lru_cache(maxsize=16)
def _curve(
    process: Process, per_pair: bool, steps: tuple[int, ...], sizes: tuple[float, ...], length: int, n: int, seed: int
) -> Float[np.ndarray, "n k"]:
    rows = []
    for part in process.contexts(n, length, seed=seed).split(MANY):
        spectra = Spectra(part, per_pair=per_pair)
        descents = zip((0, *steps), (0.0, *sizes), strict=True)
        rows.append(torch.stack([spectra.losses(k, size) for k, size in descents], dim=1))
    return torch.cat(rows).cpu().numpy()


def _descents(process: Process, length: int, per_pair: bool) -> dict[str, Estimator]:
    """Zero and k steps of gradient descent by name."""
    sizes = step_sizes(process, length=length, per_pair=per_pair)
    ending = " per pair" if per_pair else ""
    steps: dict[str, Estimator] = {
        f"{k} {'step' if k == 1 else 'steps'}{ending}": GradientDescent.of_steps(k, size, per_pair=per_pair)
        for k, size in zip(STEPS, sizes, strict=True)
    }
    return {"zero": Zero(), **steps}


def _errors(contexts: Contexts, predictions: Inexact[Tensor, "batch pos dim"]) -> Float[np.ndarray, "batch length"]:
    """At T = 2..length."""
    return contexts.errors(predictions)[:, 1:].cpu().numpy()


def _cosine(x: Inexact[Tensor, "batch ..."], y: Inexact[Tensor, "batch ..."]) -> Float[np.ndarray, "batch"]:
    x, y = x.flatten(1), y.flatten(1)
    return ((x.conj() * y).real.sum(1) / (x.norm(dim=1) * y.norm(dim=1))).cpu().numpy()


def _mean(name: str, values: Float[np.ndarray, "batch"]) -> dict[str, float]:
    return {name: values.mean(), f"{name}_se": values.std(ddof=1) / len(values) ** 0.5}


def trimmed(values: Float[np.ndarray, "batch *column"], trim: float = TRIM) -> Float[np.ndarray, "*column"]:
    """Means over the batch, each without its largest entries."""
    kept = len(values) - int(trim * len(values))
    return np.partition(values, kept - 1, axis=0)[:kept].mean(0)


def _error_row(name: str, errors: Float[np.ndarray, "batch"]) -> dict[str, Any]:
    return {
        "estimator": name,
        **_mean("error_per_token", errors),
        "trimmed_error_per_token": trimmed(errors[:, None])[0],
    }


def _by_position(name: str, errors: Float[np.ndarray, "batch pos"]) -> pd.DataFrame:
    T = np.arange(2, errors.shape[1] + 2)
    return pd.DataFrame({"estimator": name, "T": T, **over_contexts("error_per_token", errors)})


def _steps_rows(
    errors: Mapping[str, np.ndarray],
    distances: Mapping[str, list[np.ndarray]],
    descents: Mapping[bool, Mapping[str, Estimator]],
    n_layers: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The best number of steps and its interval, for every layer, normalisation and criterion."""
    k = np.array([0, *STEPS])
    rng = np.random.default_rng(seed)
    n = len(errors["zero"])
    draws = [np.arange(n), *rng.integers(n, size=(N_BOOTSTRAP, n))]
    for per_pair, names in descents.items():
        curves = np.stack([errors[name].mean(1) for name in names], axis=1)
        for layer in range(n_layers):
            own = errors[f"model, layer {layer}"].mean(1, keepdims=True)
            apart = np.stack([distances[name][layer] for name in names], axis=1)
            found = {
                "error": [interpolate(trimmed(own[draw])[0], k, trimmed(curves[draw])) for draw in draws],
                "distance": [k[trimmed(apart[draw]).argmin()] for draw in draws],
            }
            for by, (steps, *resampled) in found.items():
                low, high = np.quantile(resampled, (0.025, 0.975), method="nearest")
                values = {"steps": float(steps), "low": float(low), "high": float(high)}
                yield {"layer": layer, "per_pair": per_pair, "by": by, **values}
