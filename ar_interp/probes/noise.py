"""Errors on noisy tokens beside what can be done with them, and the newest keys beside theory at every noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp.estimators import OLS, DiagonalOLS, GradientDescent, Kalman, PhaseGrid, Ridge, VonMises
from ar_interp.models.opened import Model
from ar_interp.probes.positional import positional_structure
from ar_interp.probes.protocol import length_option, needs
from ar_interp.probes.results import Result
from ar_interp.processes import Sequences
from ar_interp.processes.base import AutoregressiveProcess
from ar_interp.seeds import EXHIBITS
from ar_interp.setting import NoisyHeads
from ar_interp.theory import bent_ratio, last_token_error, noisy_keys, noisy_mixing, noisy_step_size

N = 128
MULTIPLE = "multiple of W y_T"
QUANTILES = (0.1, 0.5, 0.9)
NOISES = tuple(0.3 * np.linspace(0, 1, 13) ** 2)  # closer near 0, where ratios change fast


@dataclass(frozen=True, kw_only=True)
class NoisyErrors(Result):
    """|prediction - s_{T+1}|^2 of the clean next token, of a model and of others on the same noisy contexts.

    Attributes:
        by_position: a row per predictor and T: mean, low, median and high (quantiles .1, .5, .9 over contexts).
        line: the expected error of the best multiple of W y_T, which is also among the predictors, see
            `theory.last_token_error`, for T = 1, 2, ...
        n: contexts.
    """

    by_position: pd.DataFrame
    line: tuple[float, ...]
    n: int


def _has_noise(process: Any) -> bool:
    return not (getattr(process, "noiseless", True) or process.stationary)


def _options(model: Model) -> str:
    """A process, where the model's own is none with noise, and the longest context, where it says none."""
    process = "" if _has_noise(model.process) else "process=..."
    return ", ".join(filter(None, (process, length_option(model))))


@needs("forward", options=_options)
def noisy_errors(
    model: Model,
    process: AutoregressiveProcess | None = None,
    *,
    beside: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    n_ctx: int | None = None,
    n: int = N,
    seed: int = EXHIBITS,
) -> NoisyErrors:
    """Errors of a model on its noisy process, by T, beside estimators that know the noise.

    Args:
        process: the model's own if left out; with noise of the process or of observation, not stationary.
        beside: other models by name, inputs -> predictions.
        n_ctx: the longest context; the model's own if left out.
        n: contexts; >= 2.
    Raises:
        ValueError: no process, or one without noise; a name of another model that an estimator has.
    """
    law: Any = process or model.process
    if not _has_noise(law):
        raise ValueError(f"process must be one with noise that is not stationary, got {law!r:.150}.")
    check_integer("n", n, low=2)
    n_ctx = check_integer("n_ctx", model.n_ctx if n_ctx is None else n_ctx, low=2)
    contexts = law.contexts(n, n_ctx, seed=seed, device=model.device)
    q, r = law.state_noise**2, law.observation_noise**2
    first = law.initial.mean_square(law.dim)
    squares = first + q * law.dim * torch.arange(n_ctx, dtype=torch.float64, device=contexts.inputs.device)
    shares = (squares / (squares + law.dim * r))[:, None]
    estimators, rows = predictors(law, n_ctx), []
    estimators[MULTIPLE] = lambda x: shares.to(x.inputs) * torch.einsum("bij,btj->bti", x.W, x.inputs)
    models = {"model": model.module, **(beside or {})}
    if taken := {"model", *estimators} & set(beside or {}):
        raise ValueError(f"beside must have names of its own, got {min(taken)!r}, which stands there already.")
    of_models = {name: lambda x, predict=predict: predict(x.inputs) for name, predict in models.items()}
    for name, predict in (of_models | estimators).items():
        with torch.no_grad():
            errors = contexts.errors(predict(contexts)).double().cpu()
        low, middle, high = torch.quantile(errors, torch.tensor(QUANTILES, dtype=errors.dtype, device="cpu"), dim=0)
        columns = {"mean": errors.mean(0), "low": low, "median": middle, "high": high}
        table = pd.DataFrame({key: value.numpy() for key, value in columns.items()})
        rows.append(table.assign(predictor=name, T=np.arange(1, contexts.length + 1)))
    noise = {"process_variance": q, "observation_variance": r}
    line = tuple(last_token_error(dim=law.dim, square=square, **noise) for square in squares.tolist())
    return NoisyErrors(by_position=pd.concat(rows, ignore_index=True), line=line, n=n)


def predictors(process: Any, n_ctx: int) -> dict[str, Callable[[Sequences], Tensor]]:
    """Predictors of the same contexts, by name; the last one knows W."""
    q, r = process.state_noise**2, process.observation_noise**2
    noise = {"process_variance": q, "observation_variance": r}
    found: dict[str, Callable[[Sequences], Tensor]] = {}
    if process.has_eigenbasis:
        eta = noisy_step_size(dim=process.dim, max_length=n_ctx, **noise)
        found["one step"] = lambda x: GradientDescent.of_steps(1, eta)(x.pairs())
        found["least squares"] = lambda x: DiagonalOLS()(x.pairs())
        bayes = PhaseGrid(**noise) if r else VonMises(process_variance=q)
        found["Bayes"] = lambda x: bayes(x.pairs())
    else:
        found["least squares"] = lambda x: OLS()(x.pairs())
        found["ridge"] = lambda x: Ridge.bayes(process_variance=q + 2 * r, entry_variance=1 / process.dim)(x.pairs())
    if not process.initial.random:
        found["Bayes, W known"] = lambda x: Kalman(x.W, x.clean[0, 0], q, r)(x.inputs)
    return found


@dataclass(frozen=True, kw_only=True)
class BentKeys(Result):
    """p_{T-1} / p_T and kappa of diagonal heads under noise of observation, beside theory at every noise.

    Attributes:
        theory: a row per observation_variance: ratio of the best dim / 2 heads at this T, and `two_keys`, that without
            older keys and other pairs; of at least dim heads both are 0.
        observation_variance: of the model's process.
        ratio, kappa: of the model.
        T: where the ratio is read, the longest context.
    """

    theory: pd.DataFrame
    observation_variance: float
    ratio: float
    kappa: float
    T: int


def bent_keys(model: Any, process: Any) -> BentKeys:
    """The last key but one of diagonal heads on noisy conjugate pairs.

    Raises:
        ValueError: heads that theory says nothing of.
    """
    structure, n_ctx = positional_structure(model, process=process), model.config.n_ctx
    setting = NoisyHeads(model.config, process)
    rows = []
    for r in NOISES:
        noise, ratio = {"observation_variance": float(r)}, 0.0
        if setting.kappa:
            mixing = noisy_mixing(dim=process.dim, max_length=n_ctx, **noise)
            p = noisy_keys(dim=process.dim, length=n_ctx, kappa=1.0, mixing=mixing, **noise).p
            ratio = float(p[-2] / p[-1])
        two = bent_ratio(**noise) if setting.kappa else 0.0
        rows.append({"observation_variance": float(r), "ratio": ratio, "two_keys": two})
    return BentKeys(
        theory=pd.DataFrame(rows),
        observation_variance=process.observation_noise**2,
        ratio=structure.ratio_by_length[-1].item(),
        kappa=structure.kappa,
        T=n_ctx,
    )
