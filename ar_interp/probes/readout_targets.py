"""Targets of probes: quantities of W and of the context, by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Inexact, Shaped
from torch import Tensor

from ar_interp.probes.protocol import check_one_matrix
from ar_interp.processes import Sequences

Target = Callable[[Sequences, int], Any]
ROUNDING = 1e-9  # of the largest entry: what varies less between sequences is constant


def phases(sequences: Sequences) -> Float[Tensor, "batch phase"]:
    """The free angles of W: all of a unitary family, the first of each conjugate pair of an orthogonal one.

    A real-valued activation can hold cos(theta) of a pair and not the sign of theta, which its order decides.

    Raises:
        ValueError: sequences without phases.
    """
    angles = sequences.phases
    if angles is None:
        raise ValueError("sequences must carry phases: sample them from a commuting family.")
    return angles[:, ::2] if torch.equal(angles[:, ::2], -angles[:, 1::2]) else angles


def cosines(sequences: Sequences, T: int) -> Float[Tensor, "batch phase"]:
    """cos(theta) of the free phases."""
    return phases(sequences).cos()


def sines(sequences: Sequences, T: int) -> Float[Tensor, "batch phase"]:
    """sin(theta) of the free phases."""
    return phases(sequences).sin()


def signs_of_sines(sequences: Sequences, T: int) -> Bool[Tensor, "batch phase"]:
    """Whether sin(theta) > 0: the sign that trained orthogonal heads lose. Discrete."""
    return phases(sequences).sin() > 0


def free_parameters(sequences: Sequences, T: int) -> Inexact[Tensor, "batch parameter"]:
    """cos and sin of the free phases of a commuting family; for other W its entries."""
    if sequences.phases is None:
        check_one_matrix("sequences", sequences, "the target 'W'")
        return sequences.W.flatten(1)
    return torch.cat([cosines(sequences, T), sines(sequences, T)], dim=1)


def previous_token(sequences: Sequences, T: int) -> Inexact[Tensor, "batch dim"]:
    """s_{T-1}: plain tokens must fetch it by attention before a gradient step can be taken (von Oswald et al. 2023)."""
    return sequences.inputs[:, T - 2]


def next_token(sequences: Sequences, T: int) -> Inexact[Tensor, "batch dim"]:
    """s_{T+1}, which the model is trained to predict."""
    return sequences.targets[:, T - 1]


def preconditioned_input(sequences: Sequences, T: int) -> Inexact[Tensor, "batch dim"]:
    """(S_T + |s_T|^2 / dim I)^{-1} s_T, S_T = sum_{t<T} s_t s_t^*.

    What depth is for: one gradient step asked with it instead of s_T, sum_{t<T} s_{t+1} <s_t | .>, predicts as ridge
    regression does, here with the weight of one pair of average size for penalty. Layers can approach it by an
    iteration of any kind. The step of GD++, (I - eta S_T) s_T, is the first of one such iteration, and would need an
    eta; its part S_T s_T alone is no target, since a model may well overwrite s_T with the sum.
    Source: von Oswald et al. 2023, Uncovering mesa-optimization algorithms in transformers, who probe for it.
    """
    past, token = sequences.inputs[:, : T - 1], sequences.inputs[:, T - 1]
    penalty = token.abs().square().mean(1)
    regularised = past.mT @ past.conj() + torch.diag_embed(penalty[:, None].expand(token.shape).to(token.dtype))
    return torch.linalg.solve(regularised, token)


TARGETS: dict[str, Target] = {
    "W": free_parameters,
    "cos": cosines,
    "sin": sines,
    "sign of sin": signs_of_sines,
    "previous token": previous_token,
    "next token": next_token,
    "preconditioned input": preconditioned_input,
}


def resolve(target: str | Target) -> tuple[str, Target]:
    """The target's name and the function that computes it.

    Raises:
        ValueError: neither a name in TARGETS nor a function.
    """
    if callable(target):
        return getattr(target, "__name__", type(target).__name__), target
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))} or a function, got {target!r}.")
    return target, TARGETS[target]


def target_values(target: str | Target, sequences: Sequences, T: int) -> Shaped[np.ndarray, "batch value"]:
    """The target at T, a row per sequence: float64, or integers where it is discrete (integers or booleans).

    Complex values give their real parts and their imaginary ones; what is the same in every sequence is left out, so
    that no column may remain.

    Raises:
        ValueError: an unknown name; a function whose result is not [batch value] or not finite.
    """
    name, function = resolve(target)
    found = function(sequences, T)
    values = as_columns(found.detach().cpu().numpy() if isinstance(found, Tensor) else np.atleast_1d(found))
    if len(values) != len(sequences) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"target {name!r} must give numbers [batch value] for {len(sequences)} sequences, got {values.dtype} "
            f"{list(values.shape)}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"target {name!r} has NaN or infinite entries at T = {T}.")
    values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return values[:, varies(values)]


def as_columns(values: Shaped[np.ndarray, "batch *rest"]) -> Shaped[np.ndarray, "batch column"]:
    """All but the first axis in one, complex numbers as real parts and imaginary ones."""
    flat: Any = values.reshape(len(values), -1)
    return np.concatenate([flat.real, flat.imag], axis=1) if np.iscomplexobj(flat) else flat


def varies(values: Shaped[np.ndarray, "batch column"]) -> Bool[np.ndarray, "column"]:
    """Which columns are not the same in every row, up to rounding."""
    return np.ptp(values, axis=0) > ROUNDING * np.abs(values).max(initial=0)
