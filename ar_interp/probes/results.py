"""Common base of the results of probes: a main table, and how tables are made of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ar_interp._shown import Shown

SHOWN = (0.1, 0.9)  # the middle 80 % of contexts


@dataclass(frozen=True, kw_only=True)
class Result(Shown):
    """Findings of a probe; the first field is the main table."""

    def to_frame(self) -> pd.DataFrame:
        """The main table."""
        return getattr(self, fields(self)[0].name)

    def _last(self, condition: str, column: str) -> float:
        """The number in the last row of a condition."""
        table = self.to_frame()
        return float(table[column].to_numpy()[table["condition"].to_numpy() == condition][-1])


def over_contexts(name: str, values: Float[np.ndarray, "batch pos"]) -> dict[str, Any]:
    """Columns at every position: the mean over contexts, its standard error, and the quantiles `SHOWN` of contexts."""
    n = len(values)
    low, high = np.quantile(values, SHOWN, axis=0)
    error = values.std(0, ddof=1) / n**0.5 if n > 1 else np.nan
    return {name: values.mean(0), f"{name}_se": error, f"{name}_low": low, f"{name}_high": high}


def middle_of(name: str, values: Float[Tensor, "row batch"]) -> dict[str, Any]:
    """Columns with the quantiles `SHOWN` of the contexts in every row."""
    with np.errstate(invalid="ignore"):  # between two infinite ones
        low, high = np.quantile(values.detach().cpu().numpy(), SHOWN, axis=1)
    return {f"{name}_low": low, f"{name}_high": high}


def long_frame(axes: Mapping[str, Sequence[Any]], columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """A row per entry of tensors that have these axes, by name, with these labels."""
    index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
    flat = {name: values.flatten().cpu().numpy() for name, values in columns.items()}
    return pd.DataFrame(flat, index=index).reset_index()
