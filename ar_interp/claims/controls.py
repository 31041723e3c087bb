"""Sabotaged copies of a model, in which a structure must be absent."""

from typing import Any

from ar_interp.models.transformer import HookedARTransformer
from ar_interp.models.weights import diagonal_weights
from ar_interp.probes.context import UNTRAINED_SEED
from ar_interp.processes import CommutingProcess


def untrained(model: Any, process: CommutingProcess) -> HookedARTransformer:
    """Gaussian weights of the model's own size."""
    weights = diagonal_weights(model)
    same_size = HookedARTransformer.from_diagonal(weights.A, weights.B, weights.P, process=process)
    return same_size.untrained(UNTRAINED_SEED)


def permuted_heads(model: Any, process: CommutingProcess) -> HookedARTransformer:
    """Each value diagonal b_h paired with the key diagonal of the next head."""
    weights = diagonal_weights(model)
    return HookedARTransformer.from_diagonal(weights.A.roll(1, 0), weights.B, weights.P, process=process)


def shifted_positions(model: Any, process: CommutingProcess) -> HookedARTransformer:
    """Every positional weight one key too early."""
    weights = diagonal_weights(model)
    return HookedARTransformer.from_diagonal(weights.A, weights.B, weights.P.roll(-1, 1), process=process)


def flipped_previous(model: Any, process: CommutingProcess) -> HookedARTransformer:
    """The sign of p_{T-1} turned."""
    weights = diagonal_weights(model)
    P = weights.P - 2 * weights.P.diagonal().diag()
    return HookedARTransformer.from_diagonal(weights.A, weights.B, P, process=process)
