"""`SweptRows`: all rows of a sweep in one file beside the TOML that makes them, which anybody may have written."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ar_interp._files import CheckpointError, name_of
from ar_interp._shown import Shown
from ar_interp._writing import write_file
from ar_interp.seeds import generator_of
from ar_interp.sweeps import parts
from ar_interp.sweeps.plan import Plan, read_plan
from ar_interp.sweeps.shards import trained

MAX_ROWS = 2**20
N_AGAIN = 4  # seeds of one shard that are trained again
OF_THE_MACHINE = ["seconds", "device"]


@dataclass(frozen=True, kw_only=True)
class SweptRows(Shown):
    """The rows of a sweep, in the order of its shards.

    Attributes:
        plan: what the TOML file asks for.
        table: a row of each training.
    """

    plan: Plan
    table: pd.DataFrame

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that does not depend on the machine."""
        found = hashlib.sha256("\0".join(self.table).encode())
        for _, column in self.table.drop(columns=OF_THE_MACHINE).items():
            as_text = column.dtype.kind not in "ifb"
            found.update("\0".join(column).encode() if as_text else column.to_numpy(dtype=np.float64).tobytes())
        return found.hexdigest()[:32]

    def again(self, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Some rows made anew by training, those in the table, and those of the same seeds at all other points.

        Args:
            seed: which shard, and which seeds of it.
        """
        generator, shards = generator_of(seed), self.plan.shards
        shard = shards[int(torch.randint(len(shards), (), generator=generator, device="cpu"))]
        n = min(N_AGAIN, shard.training.n_seeds)
        first = int(torch.randint(shard.training.n_seeds - n + 1, (), generator=generator, device="cpu"))
        training = replace(shard.training, seed=shard.training.seed + first, n_seeds=n)
        made = pd.DataFrame(trained(replace(shard, training=training).text))
        table: Any = self.table
        drawn = table[table["seed"].isin(made["seed"])]
        here = (drawn[list(shard.point)] == pd.Series(shard.point)).all(axis=1)
        return made, drawn[here], drawn[~here]


def read_rows(source: str | Path) -> SweptRows:
    """The rows in the Parquet file beside a TOML file, of the same name.

    Raises:
        CheckpointError: the file is damaged or too large, or holds other trainings than those asked for.
    """
    plan, path = read_plan(source), Path(source).with_suffix(".parquet")
    if plan.n_seeds > MAX_ROWS:
        raise CheckpointError(f"{name_of(Path(source))} asks for {plan.n_seeds:,} rows, at most {MAX_ROWS:,} are read.")
    table = parts.read_table(path, plan.shards)
    return SweptRows(plan=plan, table=table.to_pandas())


def write_rows(source: str | Path, folder: str | Path, path: str | Path) -> None:
    """Put the files of a sweep that is done together in one.

    Raises:
        CheckpointError: a shard is missing or damaged.
    """
    plan = read_plan(source)
    rows = [row for shard in plan.shards for row in parts.read(Path(folder), shard)]
    write_file(path, parts.as_bytes(pa.Table.from_pylist(rows, schema=parts.schema_of(plan.shards[0]))))
