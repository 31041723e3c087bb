"""What the results of probes share: a main table, and how tables are made of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from torch import Tensor

from ar_interp._shown import Shown


@dataclass(frozen=True, kw_only=True)
class Result(Shown):
    """What a probe found; its first field is the main table."""

    def to_frame(self) -> pd.DataFrame:
        """The main table."""
        return getattr(self, fields(self)[0].name)

    def _last(self, condition: str, column: str) -> float:
        """The number in the last row of a condition."""
        table = self.to_frame()
        return float(table[column].to_numpy()[table["condition"].to_numpy() == condition][-1])


def long_frame(axes: Mapping[str, Sequence[Any]], columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """A row per entry of tensors that have these axes, by name, with these labels."""
    index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
    return pd.DataFrame({name: values.flatten().numpy() for name, values in columns.items()}, index=index).reset_index()
