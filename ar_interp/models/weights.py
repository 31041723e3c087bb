"""Weights that probes of diagonal heads read: of one layer, whose QK and OV circuits are diagonal in every head.

`probes.protocol` says which names a model must have, of these probes and the others.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._shown import Shown
from ar_interp.processes import CommutingProcess, Process

WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "P")
DIAGONAL_TOLERANCE = 1e-9  # of the largest entry: rounding of float64 products


@dataclass(frozen=True, kw_only=True)
class DiagonalWeights(Shown):
    """The model reduced to what the theory speaks of."""

    A: Float[Tensor, "head dim"]  # diagonals of the QK circuits
    B: Float[Tensor, "head dim"]  # diagonals of the OV circuits
    P: Float[Tensor, "query key"]

    @property
    def C(self) -> Float[Tensor, "dim dim"]:
        """B^T A."""
        return self.B.T @ self.A

    @property
    def M(self) -> Float[Tensor, "head head"]:
        """A B^T."""
        return self.A @ self.B.T


def diagonal_weights(model: object) -> DiagonalWeights:
    """A, B and P of a conforming model, from its QK and OV circuits, in float64 on the CPU.

    Raises:
        ValueError: attributes that are missing (all are listed), more than one layer, circuits that are not diagonal.
    """
    found: dict[str, Any] = {name: getattr(model, name, None) for name in WEIGHTS}
    if missing := [name for name, W in found.items() if W is None]:
        raise ValueError(
            f"model of type {type(model).__name__} cannot be probed: it lacks {', '.join(missing)}. "
            "probes.protocol.NAMES says what they stand for, ari.conformance(model) what else is missing."
        )
    W_Q, W_K, W_V, W_O, P = (W.detach().cpu() for W in found.values())
    if any(weight.ndim != 4 or len(weight) != 1 for weight in (W_Q, W_K, W_V, W_O)):
        raise ValueError(f"model must have one layer, W_Q [1 head d_model d_head]; got {list(W_Q.shape)}.")
    A = _diagonal("QK = W_Q W_K^T", W_Q[0].double() @ W_K[0].double().mT)
    B = _diagonal("OV = W_V W_O", W_V[0].double() @ W_O[0].double())
    return DiagonalWeights(A=A, B=B, P=P.double())


def in_double(X: Tensor) -> Tensor:
    """The tensor on the CPU in double precision, without its history."""
    return X.detach().cpu().to(torch.complex128 if X.is_complex() else torch.float64)


def process_of(model: object, process: Process | None) -> CommutingProcess:
    """The process given, else the one the model carries."""
    found: Any = process or getattr(model, "process", None)
    if found is not None and not found.has_eigenbasis:
        raise ValueError(f"process must be a commuting family for probes of diagonal heads, got {found!r}.")
    if found is None:
        raise ValueError("process is needed to know the family of W; pass process=..., e.g. CommutingOrthogonal(10).")
    return found


def _diagonal(name: str, circuits: Float[Tensor, "head dim dim"]) -> Float[Tensor, "head dim"]:
    diagonal = circuits.diagonal(0, -2, -1)
    rest = (circuits - torch.diag_embed(diagonal)).abs().max()
    if rest > DIAGONAL_TOLERANCE * circuits.abs().max():
        raise ValueError(f"the heads' {name} must be diagonal for this probe; an off-diagonal entry is {rest:.2g}.")
    return diagonal.clone()
