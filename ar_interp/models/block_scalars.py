"""`BlockScalars`: the scalars of one head of block-scalar matrices, and where they stand in its circuits."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class BlockScalars(NamedTuple):
    """a1 <s_t|s_T> + a2 <s_{t-1}|s_T> + a3 <s_t|s_{T-1}> + a4 <s_{t-1}|s_{T-1}> times b1 s_t + b2 s_{t-1}."""

    a1: float
    a2: float
    a3: float
    a4: float
    b1: float
    b2: float

    @property
    def a(self) -> Float[np.ndarray, "4"]:
        """The key-query scalars a1..a4."""
        return np.array(self[:4])

    @property
    def b(self) -> Float[np.ndarray, "2"]:
        """The value scalars b1, b2."""
        return np.array(self[4:])


READ_OUT, CURRENT, PREVIOUS = range(3)  # blocks of a token: (0, s_t, s_{t-1})
SCALAR_PLACES = {
    "a1": ("QK", CURRENT, CURRENT),
    "a2": ("QK", CURRENT, PREVIOUS),
    "a3": ("QK", PREVIOUS, CURRENT),
    "a4": ("QK", PREVIOUS, PREVIOUS),
    "b1": ("OV", CURRENT, READ_OUT),
    "b2": ("OV", PREVIOUS, READ_OUT),
}  # circuit, row (the query's of QK, what is read of OV) and column
