"""`landscape`: the rows of a sweep, counted: which share of the seeds of every point reached the minimum; `medians`."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from ar_interp.claims import Estimate
from ar_interp.claims.estimate import LEVEL, SEEDS

REACHED = 0.01  # above the minimum
RUNAWAY = 1.0  # p_{T-1} / p_T of a model that is on its way to kappa = -1, where it is infinite


def landscape(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of seeds at the minimum for every point of a sweep, with its 95 % Wilson interval.

    Args:
        rows: of `ari.sweep`.
    Returns:
        A row for each point: the axes, `n` seeds, `share` of those whose loss is within .01 of the minimum, `low` and
        `high`. Where the sweep has them: `settled`, the share on a level of `theory.trapped_levels`, the lowest of
        which is the minimum (nan where theory has none); `runaway`, the share with p_{T-1} / p_T > 1; `independent`,
        the share of one head to the power of the number of heads, which heads that are trapped independently would
        have; the last two with their `_low` and `_high`.
    Raises:
        ValueError: no point has a minimum in theory, or the rows are not those of a sweep.
    """
    missing = {"seed", "loss", "minimum"} - set(rows)
    if missing:
        raise ValueError(f"rows must be those of ari.sweep, they have no column {min(missing)!r}.")
    known: Any = rows[rows["minimum"].notna()]
    if known.empty:
        raise ValueError("rows have no minimum: theory says of no point of the sweep what its smallest loss is.")
    axes = list(rows)[: list(rows).index("seed")]
    found: list[dict[str, Any]] = []
    for values, each in known.groupby(axes, sort=False):
        point = dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True))
        reached = int((each["loss"] < each["minimum"] + REACHED).to_numpy().sum())
        row = {**point, "n": len(each), **_share("", reached, len(each))}
        if "trapped_level" in rows:
            settled = float(each["trapped_level"].notna().to_numpy().mean())
            row["settled"] = settled or float("nan")  # where theory has no levels
        if "ratio" in rows:
            row |= _share("runaway", int((each["ratio"] > RUNAWAY).to_numpy().sum()), len(each))
        found.append(row)
    table = pd.DataFrame(found)
    return _beside_independent(table, axes) if "n_heads" in axes else table


def medians(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The median over the seeds of every point of a sweep, with a 95 % interval that holds for any law.

    Args:
        rows: of `ari.sweep`.
        column: of the rows, e.g. `steps_equivalent`; seeds where it is missing count as larger than any other.
    Returns:
        A row for each point: the axes, `n` seeds, `median`, `low` and `high`.
    Raises:
        ValueError: the rows have no such column, or not six seeds at every point, which an interval needs.
    """
    if column not in rows or "seed" not in rows:
        raise ValueError(f"rows must be those of ari.sweep with the column {column!r}, got {', '.join(rows)}.")
    found: list[dict[str, Any]] = []
    axes = list(rows)[: list(rows).index("seed")]
    for values, each in rows.groupby(axes, sort=False):
        n, ordered = len(each), np.sort(each[column].fillna(np.inf).to_numpy(dtype=float))
        left = int(binom.ppf((1 - LEVEL) / 2, n, 0.5)) - 1  # so many on either side lie outside the interval
        if left < 0:
            raise ValueError(f"rows must have six seeds or more at every point, got {n}.")
        point = dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True))
        middle = float(np.median(ordered))
        found.append({**point, "n": n, "median": middle, "low": ordered[left], "high": ordered[n - 1 - left]})
    return pd.DataFrame(found)


def _share(name: str, count: int, n: int) -> dict[str, float]:
    found, prefix = Estimate.share(count, n, SEEDS), f"{name}_" if name else ""
    low, high = found.interval
    return {name or "share": found.value, f"{prefix}low": low, f"{prefix}high": high}


def _beside_independent(table: Any, axes: list[str]) -> pd.DataFrame:
    others = [axis for axis in axes if axis != "n_heads"]
    one = table.loc[table["n_heads"] == 1, [*others, "share", "low", "high"]]
    names = {"share": "independent", "low": "independent_low", "high": "independent_high"}
    table = table.merge(one.rename(columns=names), on=others, how="left")
    for name in names.values():
        table[name] = table[name] ** table["n_heads"]
    return table
