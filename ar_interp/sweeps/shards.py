"""The work of a worker: the table of a shard, from the text that determines it."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ar_interp.setting import setting_of
from ar_interp.sweeps.columns import Column
from ar_interp.sweeps.plan import Shard
from ar_interp.training.loop import DivergenceError, train

Table = dict[str, list[Any]]  # a list for each column


class Outcome(NamedTuple):
    """A shard, and its table or its error."""

    shard: Shard
    table: Table | None = None
    error: str = ""


def trained(text: str, card: int | None = None) -> Table:
    """Train the members of a shard and measure them.

    Args:
        text: of the shard.
        card: the GPU to take, where the training takes one; the first if left out.
    Returns:
        Columns of equal length: the axes, `seed`, `loss` (final, per context length; nan where training diverged),
        `minimum` (None where theory has none), those asked for, `seconds` (of the shard, over its seeds), `device`.
    """
    shard, start = Shard.of_text(text), time.perf_counter()
    setting, training = setting_of(shard.config, shard.process), shard.training
    if card is not None and training.resolve_device() == torch.device("cuda"):
        training = replace(training, device=f"cuda:{card % torch.cuda.device_count()}")
    with _one_thread(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ members diverged")  # their rows say so
        try:
            run = train(shard.config, shard.process, training, progress=False)
        except DivergenceError as error:
            run = error.run
        n, members = training.n_seeds, run.members
        lost = members["diverged"].to_numpy() > 0 if "diverged" in members else np.zeros(n, dtype=bool)
        losses = np.where(lost, np.nan, members["loss"].to_numpy())
        table: Table = {name: [value] * n for name, value in shard.point.items()}
        table |= {"seed": members["seed"].tolist(), "loss": losses.tolist(), "minimum": [setting.minimum] * n}
        for name in shard.columns:
            column = Column.find(name)
            found = column.values(setting, run, losses) if column.speaks_of(setting) else [None] * n
            table[name] = [None if gone else value for value, gone in zip(found, lost, strict=True)]
    seconds = (time.perf_counter() - start) / n
    return table | {"seconds": [seconds] * n, "device": [run.device] * n}


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tensors are small: a second thread gains little, and the last bits may depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(shard: Shard) -> float:
    """The time that a shard takes, by training it for so many updates that they take half a second."""
    steps = min(2, shard.training.steps)
    while True:
        start = time.perf_counter()
        trained(replace(shard, training=replace(shard.training, steps=steps, warmup=0)).text)
        seconds = time.perf_counter() - start
        if seconds > 0.5 or steps == shard.training.steps:
            return seconds * shard.training.steps / steps
        steps = min(4 * steps, shard.training.steps)
