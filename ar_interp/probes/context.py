"""Recover the in-context estimate of W: by the exact circuit, and by regression from an activation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Complex, Float
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp.estimators import OLS, DiagonalOLS, Estimator, Zero, apply
from ar_interp.probes.weights import require
from ar_interp.processes import Sequences

PATTERN = "blocks.0.attn.hook_pattern"
SCORES = "blocks.0.attn.hook_attn_scores"
ESTIMATORS: dict[str, Estimator] = {"OLS": OLS(), "diagonal OLS": DiagonalOLS(), "zero": Zero()}
PENALTIES = np.logspace(-6, 2, 5)  # per sequence, of features scaled together: what is 1e-3 of the rest is not read
TEST_SHARE = 0.3
N_BOOTSTRAP = 200
UNTRAINED_SEED = 2**20  # far from the seeds that training uses


@dataclass(frozen=True, kw_only=True)
class Readout:
    """How well ridge regression reads a quantity off an activation, on held-out sequences.

    Attributes:
        target: `cos` or `sin` of the phases of W.
        hook: where it is read; `position` is T.
        r2: held-out R^2, mean over the phases; 0 is the mean's, 1 is perfect.
        standard_error: of r2, bootstrap over the held-out sequences.
        shuffled_r2: the same probe with the training targets permuted between sequences.
        untrained_r2: the same probe on an untrained model. Where this is as high, readability is no finding.
        n: held-out sequences.
    """

    target: str
    hook: str
    position: int
    r2: float
    standard_error: float
    shuffled_r2: float
    untrained_r2: float
    n: int


@dataclass(frozen=True, kw_only=True)
class RecoveredContext:
    """The model's estimate of W for every sequence and position.

    Attributes:
        in_context_map: Γ_T, what the attention multiplies s_T by: the estimate that the heads carry.
        estimate: Ŵ_T with Ŵ_T s_T = prediction; Γ_T plus what older keys contribute. Zero at the first position.
        W: the true matrix.
        errors: a row per estimator (the model first) and T: context_error |Ŵ - W|_F^2 / dim and prediction_error
            |prediction - s_{T+1}|^2 / dim, each with its standard error over the n sequences.
        readouts: of the regression probe, where one was asked for.
    """

    in_context_map: Complex[Tensor, "batch pos dim dim"]
    estimate: Complex[Tensor, "batch pos dim dim"]
    W: Complex[Tensor, "batch dim dim"]
    errors: pd.DataFrame
    readouts: tuple[Readout, ...]

    def to_frame(self) -> pd.DataFrame:
        """`errors`."""
        return self.errors


@torch.no_grad()
def recover_context(
    model: Any, sequences: Sequences, *, probe_hook: str | None = None, untrained: Any = None
) -> RecoveredContext:
    """Recover the in-context estimate of W of a one-layer model on sequences in the eigenbasis.

    With the attention pattern of a context frozen, prediction_T = sum_t Γ_{T,t} s_t, Γ_{T,t} = sum_h
    pattern_h(T, t) W_O^T W_V^T. Γ_T := Γ_{T,T} is the in-context map; since W is diagonal, s_t = D s_T with
    D = diag(s_t conj(s_T) / |s_T|^2), and Ŵ_T = sum_t Γ_{T,t} D is the whole estimate.
    Source: Sander et al. 2024 split the network into in-context map and prediction map.

    Args:
        model: has `W_V`, `W_O` (one layer), `run_with_cache` and the hook blocks.0.attn.hook_pattern.
        sequences: complex tokens in the eigenbasis, one token more than the contexts to look at.
        probe_hook: also read cos and sin of the phases from this activation at the last position, by ridge
            regression (see `read_phases`).
        untrained: the control model of the regression; `model.untrained(seed)` if left out.
    Raises:
        ValueError: sequences in another basis, or too short.
    """
    require(model, "W_V", "W_O", "run_with_cache")
    tokens, W = sequences.tokens, sequences.W
    if not tokens.is_complex() or (W - torch.diag_embed(W.diagonal(0, -2, -1))).abs().max() > 1e-9:
        raise ValueError("sequences must be in the eigenbasis (complex tokens, diagonal W): sample with basis='eigen'.")
    if tokens.shape[1] < 3:
        raise ValueError(f"sequences must have at least 3 tokens (two of context and a target), got {tokens.shape[1]}.")
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    predictions, cache = model.run_with_cache(inputs, names_filter=PATTERN)
    circuits = (model.W_V @ model.W_O)[0].mT.to(tokens.dtype)  # columns act on s_t
    pattern = cache[PATTERN]
    in_context_map = torch.einsum("bhtt,hij->btij", pattern, circuits)
    energy = inputs.abs().square()
    inverse = torch.where(energy > 0, inputs.conj() / energy, 0)  # a coordinate that is zero says nothing of W
    past = inputs[:, None] * inverse[:, :, None]  # [batch pos key dim]: D for each
    estimate = torch.einsum("bhts,hij,btsj->btij", pattern, circuits, past)

    rows = [_error_rows("model", estimate, predictions, W, targets)]
    for name, estimator in ESTIMATORS.items():
        estimated = estimator.estimate(inputs)
        rows.append(_error_rows(name, estimated, apply(estimated, inputs), W, targets))
    readouts = () if probe_hook is None else read_phases(model, sequences, hook=probe_hook, untrained=untrained)
    return RecoveredContext(
        in_context_map=in_context_map,
        estimate=estimate,
        W=W,
        errors=pd.concat(rows, ignore_index=True),
        readouts=readouts,
    )


def read_phases(
    model: Any, sequences: Sequences, *, hook: str, position: int | None = None, untrained: Any = None, seed: int = 0
) -> tuple[Readout, Readout]:
    """Ridge regression from an activation to cos and sin of the phases of W, with both controls.

    One row per sequence, so the split is by sequence; the penalty is chosen by leave-one-out on the training part.
    Real and imaginary parts of the activation are separate features, all divided by one number: scaled one by one,
    rounding errors would count as much as the signal, and could be read. For conjugate pairs the first phase of each
    pair is the target: a real-valued activation can hold cos(theta) and not the sign of theta.

    Args:
        hook: `blocks.0.attn.hook_attn_scores`, say; [batch head query key] or [batch pos ...].
        position: T, from 2 to the length of the sequences; the last if left out.
        untrained: the control model; `model.untrained(seed)` if left out.
    Raises:
        ValueError: fewer than 50 sequences, a position out of range.
    """
    require(model, "run_with_cache")
    if untrained is None:
        if not hasattr(model, "untrained"):
            raise ValueError(f"untrained must be given: {type(model).__name__} cannot make its own control.")
        untrained = model.untrained(UNTRAINED_SEED)
    if len(sequences) < 50:
        raise ValueError(f"a regression probe needs at least 50 sequences to split, got {len(sequences)}.")
    if sequences.phases is None:
        raise ValueError("sequences must carry phases: sample them from a commuting family.")
    length = sequences.tokens.shape[1] - 1
    position = check_integer("position", length if position is None else position, low=2, high=length)
    features, control_features = (
        _features(m, sequences.tokens[:, :length], hook, position) for m in (model, untrained)
    )
    phases = sequences.phases.cpu().numpy()
    phases = phases[:, ::2] if np.array_equal(phases[:, ::2], -phases[:, 1::2]) else phases
    train, test = map(np.asarray, train_test_split(np.arange(len(phases)), test_size=TEST_SHARE, random_state=seed))
    shuffled = np.random.default_rng(seed).permutation(train)

    def held_out(X: np.ndarray, Y: np.ndarray, sources: np.ndarray) -> np.ndarray:
        scale = np.sqrt(np.mean(X[train] ** 2)) or 1.0  # an activation that is zero holds nothing
        probe = RidgeCV(PENALTIES * len(train)).fit(X[train] / scale, Y[sources])
        return probe.predict(X[test] / scale)

    readouts = []
    for target, function in (("cos", np.cos), ("sin", np.sin)):
        Y = function(phases)
        predicted = held_out(features, Y, train)
        readouts.append(
            Readout(
                target=target,
                hook=hook,
                position=position,
                r2=float(r2_score(Y[test], predicted)),
                standard_error=_bootstrap_error(Y[test], predicted, seed),
                shuffled_r2=float(r2_score(Y[test], held_out(features, Y, shuffled))),
                untrained_r2=float(r2_score(Y[test], held_out(control_features, Y, train))),
                n=len(test),
            )
        )
    return readouts[0], readouts[1]


@torch.no_grad()
def _features(model: Any, tokens: Tensor, hook: str, position: int) -> Float[np.ndarray, "batch feature"]:
    activation = model.run_with_cache(tokens, names_filter=hook)[1][hook]
    if hook.endswith(("hook_attn_scores", "hook_pattern")):
        chosen = activation[:, :, position - 1]
    elif activation.ndim >= 3 and activation.shape[1] == tokens.shape[1]:
        chosen = activation[:, position - 1]
    else:
        raise ValueError(f"hook {hook!r} has no batch and position axes to read from: {list(activation.shape)}.")
    flat = chosen.flatten(1)
    return (torch.cat([flat.real, flat.imag], dim=1) if flat.is_complex() else flat).cpu().numpy()


def _bootstrap_error(truth: np.ndarray, predicted: np.ndarray, seed: int) -> float:
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(truth), size=len(truth)) for _ in range(N_BOOTSTRAP))
    return float(np.std([r2_score(truth[draw], predicted[draw]) for draw in draws], ddof=1))


def _error_rows(name: str, estimate: Tensor, predictions: Tensor, W: Tensor, targets: Tensor) -> pd.DataFrame:
    dim, n = W.shape[-1], len(W)
    context = (estimate - W[:, None]).abs().square().sum((-1, -2)) / dim
    prediction = (predictions - targets).abs().square().sum(-1) / dim
    columns: dict[str, Any] = {"estimator": name, "T": np.arange(1, context.shape[1] + 1), "n": n}
    for label, error in (("context_error", context), ("prediction_error", prediction)):
        columns[label] = error.mean(0).cpu().numpy()
        columns[f"{label}_se"] = (error.std(0) / n**0.5).cpu().numpy() if n > 1 else np.nan
    return pd.DataFrame(columns)
