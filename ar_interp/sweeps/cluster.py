"""Dask, the one engine for more than one worker: processes of this machine, or the workers of a scheduler.

Workers get texts and give tables; files are written by the client alone. What is sent goes through pickle: whoever
reaches the port of a scheduler runs code on its workers, so that all ports of ours are on the loopback interface.
"""

import hashlib
import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import RLock
from typing import Any

from tqdm import tqdm

from ar_interp.sweeps.plan import Shard
from ar_interp.sweeps.shards import Outcome, Table, trained

PATIENCE = 30.0  # seconds for a scheduler to answer, also one that is started again
RESTARTS = 4  # times this, for a process of this machine to take the place of one that died
LIBRARIES = ("torch", "numpy", "scipy")
FETCHED = 5.0  # seconds for a result that is there; meanwhile others that are done wait
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
SETTLING = 1.0  # seconds before the first shard of a process
ONE_AT_A_TIME = {"distributed.scheduler.worker-saturation": 1.0}  # who waits does not die with a worker
IN_VAIN = 2  # attempts one after the other in which nothing was done, after which no other is made
RETRIES = 1  # of a shard whose training raises an error; one whose worker dies is tried four times


class _LostError(Exception):  # caught here, never shown
    pass


@cache
def versions() -> dict[str, str]:
    """What must be equal where equal shards are to have equal rows."""
    folder, source = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        source.update(path.read_bytes())
    own = f"{version('ar_interp')} (source {source.hexdigest()[:8]})"
    return {"ar_interp": own} | {name: version(name) for name in LIBRARIES}


def on_dask(shards: Sequence[Shard], *, jobs: int, scheduler: str | None) -> Iterator[Outcome]:
    """What comes of each shard, as it comes.

    A shard whose worker dies goes to another. Where the scheduler is lost and another one answers at its address within
    half a minute, that one gets what is left; where all processes of this machine died, others do.

    Raises:
        ValueError: Dask is not installed, or a worker has other versions.
        ConnectionError: the scheduler does not answer any more, or workers die before anything is done.
    """
    try:
        import dask.config
        import distributed
    except ModuleNotFoundError as error:
        asked = "jobs > 1" if scheduler is None else "scheduler"
        raise ValueError(f"{asked} needs the extra `cluster`: pip install 'ar-interp[cluster]'.") from error
    left, idle = {shard.name: shard for shard in shards}, 0
    while left:
        before = len(left)
        try:
            with ExitStack() as stack:
                address = scheduler
                if scheduler is None:
                    quiet = {"silence_logs": logging.CRITICAL, **LOOPBACK}
                    stack.enter_context(dask.config.set(ONE_AT_A_TIME))
                    cluster: Any = distributed.LocalCluster(
                        n_workers=jobs, threads_per_worker=1, processes=True, **quiet
                    )
                    address = stack.enter_context(cluster).scheduler_address
                client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
                waits = scheduler is not None
                for outcome in _of_client(stack.enter_context(client), list(left.values()), waits=waits):
                    del left[outcome.shard.name]
                    yield outcome
        except (_LostError, OSError) as error:
            idle = idle + 1 if len(left) == before else 0
            if isinstance(error, OSError) or idle == IN_VAIN:
                lost = f"no Dask scheduler answers at {scheduler}" if scheduler else "all workers died"
                raise ConnectionError(
                    f"{lost}. What was done is kept, {len(left)} shards are left: the same sweep goes on with them."
                ) from error


def _of_client(client: Any, shards: Sequence[Shard], *, waits: bool) -> Iterator[Outcome]:
    for address, found in client.run(versions, on_error="return").items():
        if isinstance(found, dict):  # else it is about to leave
            _check_versions(address, found, versions())
    keys = {f"ar-interp-{shard.name}-{_digest(versions())}": shard for shard in shards}
    texts, done = [shard.text for shard in shards], SimpleQueue[Any]()
    futures = client.map(_trained, texts, key=list(keys), expected=versions(), pure=False, retries=RETRIES)
    for future in futures:
        future.add_done_callback(done.put)
    left, since = len(futures), time.monotonic()
    while left:
        future = _next(client, done, waits=waits)
        outcome = _outcome(future, keys)
        if outcome is not None:
            yield outcome
            left, since = left - 1, time.monotonic()
        elif time.monotonic() < since + RESTARTS * PATIENCE:
            done.put(future)
        else:
            raise _LostError


def _next(client: Any, done: "SimpleQueue[Any]", *, waits: bool) -> Any:
    """The next future that is done. Where nobody can do one it says so and waits, or, if not `waits`, gives up."""
    alone = 0
    while True:
        try:
            return done.get(timeout=PATIENCE)
        except Empty:
            alone = 0 if client.scheduler_info()["workers"] else alone + 1
            if alone == 1 and waits:
                warnings.warn("no worker is connected to the Dask scheduler; the sweep waits for one.", stacklevel=2)
            if alone == RESTARTS and not waits:
                raise _LostError from None


def _outcome(future: Any, keys: dict[str, Shard]) -> Outcome | None:
    """What came of a shard; None where its worker died with the result, so that it is trained again."""
    shard = keys[future.key]
    if future.status == "error":
        error = future.exception()
        return Outcome(shard, error=f"{type(error).__name__}: {error}")
    if future.status != "finished":  # cancelled or lost
        raise _LostError
    try:
        table = future.result(timeout=FETCHED)
    except TimeoutError:
        return None
    future.release()
    return Outcome(shard, table)


def _trained(text: str, expected: dict[str, str]) -> Table:
    """`trained` on a worker, which may have come after the others; it takes the GPU of its own number."""
    from distributed import get_worker

    _settle()
    tqdm.set_lock(RLock())  # its own lock is a semaphore of the system, which outlives a process that is ended
    worker = get_worker()
    _check_versions(worker.address, versions(), expected)
    number = re.search(r"\d+$", str(worker.name))
    return trained(text, card=int(number[0]) if number else 0)


@cache
def _settle() -> None:
    """Wait, once in a process, until whoever watches over it knows that it runs: else it is not replaced if it dies."""
    time.sleep(SETTLING)


def _digest(found: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:8]


def _check_versions(address: str, found: dict[str, str], expected: dict[str, str]) -> None:
    for name, here in expected.items():
        if found.get(name) != here:
            raise ValueError(
                f"worker {address} has {name} {found.get(name)}, the sweep was started with {here}: rows might differ. "
                "Install the same version."
            )
