"""Errors outside the training law: noise, other first tokens, W off the unit circle, contexts longer than trained."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_integer
from ar_interp._shown import watched
from ar_interp.estimators import OLS, DiagonalOLS, Ridge
from ar_interp.models.config import ModelConfig
from ar_interp.models.opened import Model
from ar_interp.probes.batches import in_parts
from ar_interp.probes.context import estimates_at_a_time
from ar_interp.probes.protocol import length_option, needs, process_option
from ar_interp.probes.results import Result
from ar_interp.processes import AutoregressiveProcess, FirstToken, Sequences

AS_TRAINED = "as trained"
NOISES, NORMS, RADII = (0.05, 0.2), (0.5, 2.0), (0.9, 1.05)
LAWS = ("gaussian", "one-hot", "signs")
N = 128
Predictor = Callable[[Sequences], Tensor]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A law of contexts that differs from the one trained on in one thing.

    Attributes:
        name: of the condition.
        noise: standard deviation of the noise in a coordinate, over the root mean square of a coordinate of s_1.
        norm: factor of all tokens.
        law: of s_1, of the same mean square norm; None for the process's own.
        radius: modulus of every eigenvalue of W.
        longer: how many times as long as trained; only contexts longer than trained count where it is above 1.
    """

    name: str
    noise: float = 0.0
    norm: float = 1.0
    law: str | None = None
    radius: float = 1.0
    longer: int = 1

    def contexts(self, process: AutoregressiveProcess, n: int, n_ctx: int, *, seed: int, **options: Any) -> Sequences:
        """Contexts under the condition, from the same draws of W as the process's own."""
        size = sqrt(process.initial.mean_square(process.dim))
        changes: dict[str, Any] = {}
        if self.noise:
            changes["noise"] = self.noise * size / sqrt(process.dim)
        if self.law:
            law = FirstToken(self.law)
            changes["first_token"] = replace(law, scale=size / sqrt(law.mean_square(process.dim)))
        drawn = replace(process, **changes).contexts(n, self.longer * n_ctx, seed=seed, **options)
        if (self.norm, self.radius) == (1, 1):
            return drawn
        powers = self.radius ** torch.arange(drawn.tokens.shape[1], dtype=torch.float64, device=drawn.tokens.device)
        tokens, states = (
            None if x is None else (self.norm * powers[:, None] * x).to(x.dtype) for x in (drawn.tokens, drawn.states)
        )
        ages = torch.arange(1, drawn.n_matrices + 1, device=drawn.W.device)  # W_k s_{t+1-k} has k steps to go
        factors = self.radius**ages if drawn.n_matrices == 1 else (self.radius**ages)[:, None, None]
        return replace(drawn, tokens=tokens, states=states, W=factors * drawn.W)


@dataclass(frozen=True, kw_only=True)
class OutsideErrors(Result):
    """Errors of a model and of others on the same contexts, under conditions that it was not trained on.

    Attributes:
        by_condition: a row per condition and predictor: relative_error (mean |prediction - s_{T+1}|^2 over T, over that
            of |s_{T+1}|^2, so that zero has 1), its standard error over contexts, and the median over contexts.
        undefined: condition -> why the model has no prediction there.
        n: contexts of each condition.
    """

    by_condition: pd.DataFrame
    undefined: Mapping[str, str]
    n: int


def conditions(process: AutoregressiveProcess) -> tuple[Condition, ...]:
    """The training law, then two levels each of noise, norm, law of s_1 and modulus, and contexts twice as long."""
    laws = [] if process.stationary else [law for law in LAWS if law != process.initial.law][:2]
    return (
        Condition(name=AS_TRAINED),
        *(Condition(name=f"noise {noise:g}", noise=noise) for noise in NOISES),
        *(Condition(name=f"norm × {norm:g}", norm=norm) for norm in NORMS),
        *(Condition(name=f"s_1 {law}", law=law) for law in laws),
        *(Condition(name=f"|λ| = {radius:g}", radius=radius) for radius in RADII),
        Condition(name="twice as long", longer=2),
    )


@needs("forward", options=lambda model: ", ".join(filter(None, (process_option(model), length_option(model)))))
def outside_errors(
    model: Model,
    process: AutoregressiveProcess | None = None,
    *,
    theory: Any = None,
    n_ctx: int | None = None,
    n: int = N,
    seed: int = seeds.OUTSIDE,
    batch_size: int | None = None,
) -> OutsideErrors:
    """Errors under every condition of `conditions`, beside estimators on the same contexts.

    Args:
        process: the training law; the model's own if left out.
        theory: a model with theory's weights, whose errors stand beside, see `Setting.ideal`; None for none.
        n_ctx: the longest context trained on; the model's own if left out.
        n: contexts of each condition; >= 2.
    Raises:
        ValueError: no process; no n_ctx.
    """
    family: Any = process or model.process
    if family is None:
        raise ValueError("process is needed to know the training law; pass process=..., e.g. HaarOrthogonal(5).")
    check_integer("n", n, low=2)
    n_ctx = check_integer("n_ctx", n_ctx or model.n_ctx, low=2)
    rows, undefined = [], {}
    for condition in watched(iterable=conditions(family), desc="outside_errors", unit=" conditions"):
        why_not = no_longer(model.config if model.has_model_config else None) if condition.longer > 1 else ""
        if why_not:
            undefined[condition.name] = why_not
            continue
        contexts = condition.contexts(family, n, n_ctx, seed=seed, device=model.device)
        size = estimates_at_a_time(batch_size, model, contexts)
        for name, predict in _predictors(model, theory, family, condition):
            errors, energy = counted(contexts, in_parts(predict, contexts, size), condition, n_ctx)
            rows.append({"condition": condition.name, "predictor": name, **_relative(errors, energy)})
    return OutsideErrors(by_condition=pd.DataFrame(rows), undefined=undefined, n=n)


def no_longer(config: Any) -> str:
    """Why a model has no prediction for contexts longer than trained; empty where it has."""
    if not isinstance(config, ModelConfig):
        return "its positions are not known"
    return config.no_longer


def counted(
    contexts: Sequences, predictions: Inexact[Tensor, "batch pos dim"], condition: Condition, n_ctx: int
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Mean error and mean |s_{T+1}|^2 of each context, over T >= 2, or over T > n_ctx where contexts are longer."""
    first = n_ctx if condition.longer > 1 else 1
    errors, energy = contexts.errors(predictions), contexts.clean_targets.abs().square().sum(-1)
    return errors[:, first:].double().mean(1), energy[:, first:].double().mean(1)


def last_pair(contexts: Sequences, *, by_coordinate: bool) -> Inexact[Tensor, "batch pos dim"]:
    """Least squares on the last pair alone: <s_{T-1}, s_T> / |s_{T-1}|^2 s_T, in each coordinate or over all."""
    tokens = contexts.inputs
    before = tokens.roll(1, 1)
    before[:, 0] = 0
    inner, energy = before.conj() * tokens, before.abs().square()
    if not by_coordinate:
        inner, energy = (x.sum(-1, keepdim=True) for x in (inner, energy))
    return torch.where(energy > 0, inner / energy.where(energy > 0, 1.0), 0) * tokens


def _predictors(
    model: Model, theory: Any, process: AutoregressiveProcess, condition: Condition
) -> Iterator[tuple[str, Predictor]]:
    """Predictors that have a meaning under the condition, by name."""

    def by(module: Any) -> Predictor:
        ready = module if condition.longer == 1 else module.lengthened(condition.longer * module.config.n_ctx)
        return lambda contexts: ready(contexts.inputs)

    yield "model", by(model.module)
    if theory is not None:
        yield "theory", by(theory)
    diagonal = process.has_eigenbasis
    yield "last pair", lambda contexts: last_pair(contexts, by_coordinate=diagonal)
    if diagonal:
        yield "least squares by coordinate", lambda contexts: DiagonalOLS()(contexts.pairs())
    yield "least squares", lambda contexts: OLS()(contexts.pairs())
    noise = condition.noise * sqrt(process.initial.mean_square(process.dim))
    if noise:  # E|noise|^2 over E|entry of W|^2, times dim
        yield "ridge", lambda contexts: Ridge(penalty=noise**2)(contexts.pairs())


def _relative(errors: Tensor, energy: Tensor) -> dict[str, float]:
    value = errors.mean() / energy.mean()
    spread = (errors - value * energy).std() / energy.mean() / sqrt(len(errors))
    return {
        "relative_error": value.item(),
        "relative_error_se": spread.item(),
        "median": (errors / energy).median().item(),
    }
