"""One bare layer of block scalars: its expected loss is quadratic in their products, whatever the process."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken
from ar_interp.theory import block_scalar_loss

UNIT_COORDINATES = (FirstToken("ones"), FirstToken("signs"))  # of modulus 1 in the eigenbasis


def is_uniform(process: Any) -> bool:
    """A commuting family without noise, its phases uniform on the circle; a subclass is another process."""
    return type(process) in (CommutingUnitary, CommutingOrthogonal) and (process.noise, process.mu) == (0, 1)


def exact_layer_loss(
    config: ModelConfig, process: Any, a: Float[np.ndarray, "4"], b: Float[np.ndarray, "2"]
) -> float | None:
    """Mean loss over T = 2..n_ctx of the layer with these block scalars; None where there is no closed form.

    There is where the coordinates of s_1 have modulus 1 in the eigenbasis of a uniform commuting family. Scores divided
    by T or T - 1 are block scalars a / T or a / (T - 1) at each T.
    """
    if not is_uniform(process) or process.initial not in UNIT_COORDINATES:
        return None
    n_ctx, pairs = config.n_ctx, type(process).conjugate_pairs

    def total(a: np.ndarray, max_length: int) -> float:
        if max_length < 2:
            return 0.0
        return block_scalar_loss(a, b, dim=config.dim, max_length=max_length, conjugate_pairs=pairs).item()

    if config.attention == "linear":
        return total(a, n_ctx) / (n_ctx - 1)
    each = [(T, a / (T - (config.attention == "linear/pairs"))) for T in range(2, n_ctx + 1)]
    return float(np.mean([total(scaled, T) - total(scaled, T - 1) for T, scaled in each]))
