"""`sweep`: the rows of a grid of trainings, those that are there already and those that are trained now."""

import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ar_interp._checks import check_integer
from ar_interp._files import CheckpointError, shortened
from ar_interp._shown import Shown
from ar_interp._writing import claimed
from ar_interp.sweeps import parts
from ar_interp.sweeps.cluster import on_dask
from ar_interp.sweeps.plan import Plan, Shard, read_plan
from ar_interp.sweeps.shards import Outcome, seconds_of, trained

N_TIMED = 12  # points of a grid whose time is measured; between them it is interpolated

Source = str | Path | Mapping[str, Any]
Row = dict[str, Any]


class SweepError(RuntimeError):
    """Some shards failed; all others are done. `failures` holds them, each with its error."""

    def __init__(self, failures: list[Outcome]) -> None:
        first = failures[0]
        super().__init__(
            f"{len(failures)} shard(s) failed, the first at {first.shard.where}: {shortened(first.error, 200)}. All "
            "others are done; the same sweep into the same folder tries these again."
        )
        self.failures = failures


@dataclass(frozen=True, kw_only=True)
class Forecast(Shown):
    """The work that a sweep asks for, and what is left of it.

    Attributes:
        n_points, n_shards, n_trainings: in all.
        n_left: trainings that are not done yet.
        seconds: that they take on one worker of this machine, by short trainings of some points; the trainings of
            'lbfgs' that end early take less.
        memory: bytes of a worker; None where the system does not say.
    """

    n_points: int
    n_shards: int
    n_trainings: int
    n_left: int
    seconds: float
    memory: int | None


def sweep(
    source: Source,
    folder: str | Path,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Generator[Row, None, None]:
    """Train every point of a grid with many seeds; an iterator over the rows, one for each training.

    `pandas.DataFrame(ari.sweep(...))` is the whole table. Rows of shards that are done already come first, then those
    of the others as they are trained. Each shard is kept as a Parquet file once it is done: a sweep that was killed, or
    whose iterator was dropped, goes on where it was.

    A row has the axes of the grid, `seed`, `loss` (final, per context length; nan where training diverged), `minimum`
    (None where theory has none), the columns asked for (None where a model has no such thing), `seconds` and `device`.
    All but the last two are the same however the seeds are cut into shards, and on however many workers.

    Args:
        source: a TOML file, or a mapping of the same form; README.md says what is in it.
        folder: for the files, made where it is missing; no other sweep works in it meanwhile.
        jobs: processes on this machine. More than one need the extra `cluster`, and a script that starts its work under
            `if __name__ == "__main__"`.
        scheduler: address of a Dask scheduler whose workers train instead, such as tcp://127.0.0.1:8786.
        progress: show a bar with the time left.
    Raises:
        ValueError: what the source asks for cannot be; nothing is trained.
        SweepError: some shards failed, after all rows of the others.
        OSError: the folder cannot be written, another sweep works in it, or the scheduler is gone.
    """
    check_integer("jobs", jobs, low=1)
    if scheduler is not None and jobs > 1:
        raise ValueError("jobs and scheduler exclude each other: the workers of a scheduler are started beside it.")
    return _rows(read_plan(source), Path(folder), jobs, scheduler, progress)


def forecast(source: Source, folder: str | Path) -> Forecast:
    """How much work a sweep is, found by training some of its points for a moment; nothing is written.

    Raises:
        ValueError: what the source asks for cannot be.
    """
    plan = read_plan(source)
    left = sorted(_missing(plan, Path(folder)), key=lambda shard: _size(shard))
    timed = np.unique(np.linspace(0, len(left) - 1, N_TIMED).round().astype(int)) if left else np.array([], dtype=int)
    seconds = np.interp(range(len(left)), timed, [seconds_of(left[k]) for k in timed.tolist()]) if left else 0.0
    memory = None
    with suppress(ImportError):  # Windows
        import resource

        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Forecast(
        n_points=plan.n_points,
        n_shards=len(plan.shards),
        n_trainings=plan.n_seeds,
        n_left=sum(shard.training.n_seeds for shard in left),
        seconds=float(np.sum(seconds)),
        memory=memory,
    )


def _size(shard: Shard) -> int:
    """Grows with the time that a shard takes."""
    batch = shard.training.batch * shard.config.n_ctx if shard.training.objective == "sampled" else 1
    weights = sum(int(np.prod(shape)) for shape in shard.config.parameter_shapes.values())
    return weights * batch * shard.training.steps * shard.training.n_seeds


def _missing(plan: Plan, folder: Path) -> list[Shard]:
    return [shard for shard in plan.shards if not parts.path_of(folder, shard).exists()]


def _rows(plan: Plan, folder: Path, jobs: int, scheduler: str | None, progress: bool) -> Generator[Row, None, None]:
    failures: list[Outcome] = []
    with ExitStack() as stack:
        left = _missing(plan, folder)
        if left:
            stack.enter_context(claimed(folder))
        damaged = []
        for shard in plan.shards:
            if not parts.path_of(folder, shard).exists():
                continue
            try:
                yield from parts.read(folder, shard)
            except CheckpointError as error:
                warnings.warn(f"{error} It is set aside, and its shard done again.", stacklevel=2)
                damaged.append(shard)
        if damaged and not left:
            stack.enter_context(claimed(folder))
        for shard in damaged:
            parts.set_aside(folder, shard)
        left = _missing(plan, folder)
        n_done = plan.n_seeds - sum(shard.training.n_seeds for shard in left)
        shown = {"unit": "training", "smoothing": 0, "leave": False, "disable": not (progress and left)}
        bar = stack.enter_context(tqdm(total=plan.n_seeds, initial=n_done, **shown))
        for outcome in _outcomes(left, jobs, scheduler):
            if outcome.table is None:
                failures.append(outcome)
                continue
            rows = parts.write(folder, outcome.shard, outcome.table)
            bar.update(len(rows))
            yield from rows
    if failures:
        raise SweepError(failures)


def _outcomes(shards: list[Shard], jobs: int, scheduler: str | None) -> Iterator[Outcome]:
    """Outcome of each shard, in any order."""
    if shards and (jobs > 1 or scheduler is not None):
        yield from on_dask(shards, jobs=jobs, scheduler=scheduler)
        return
    for shard in shards:
        try:
            yield Outcome(shard, trained(shard.text))
        except Exception as error:  # whatever it is, the others are done
            yield Outcome(shard, error=f"{type(error).__name__}: {error}")
