"""Dask, the one engine for more than one worker: processes of this machine, or the workers of a scheduler.

Workers get texts and give tables; files are written by the client alone. What is sent goes through pickle: whoever
reaches the port of a scheduler runs code on its workers, so that all ports of ours are on the loopback interface.
"""

import hashlib
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
SETTLING = 1.0  # seconds before the first shard of a process
OF_PROCESSES = {
    "distributed.scheduler.worker-saturation": 1.0,  # one shard at a time: who waits does not die with a worker
    "distributed.deploy.lost-worker-timeout": "1 hour",  # whose process is replaced is not given up
}
IN_VAIN = 2  # attempts one after the other in which nothing was done, after which no other is made
RETRIES = 1  # of a shard whose training raises an error; one whose worker dies is tried four times


class _LostError(Exception):  # caught here, never shown
    pass


@cache
def versions() -> dict[str, str]:
    """Versions that must be equal where equal shards are to have equal rows."""
    folder, source = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        source.update(path.read_bytes())
    own = f"{version('ar_interp')} (source {source.hexdigest()[:8]})"
    return {"ar_interp": own} | {name: version(name) for name in LIBRARIES}


def on_dask(shards: Sequence[Shard], *, jobs: int, scheduler: str | None) -> Iterator[Outcome]:
    """Outcome of each shard, as it comes.

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
                    stack.enter_context(dask.config.set(OF_PROCESSES))
                    cluster: Any = distributed.LocalCluster(
                        n_workers=min(jobs, len(left)), threads_per_worker=1, processes=True, **quiet
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
    done, topic = SimpleQueue[Any](), f"ar-interp-{client.id}"
    client.subscribe_topic(topic, lambda event: done.put(event[1]))
    texts = [shard.text for shard in shards]
    said = {"expected": versions(), "work": _trained, "topic": topic}
    futures = client.map(_sent, list(keys), texts, key=list(keys), **said, pure=False, retries=RETRIES)
    for future in futures:
        future.add_done_callback(done.put)
    while keys:
        found = _next(client, done, waits=waits)
        outcome: dict[str, Any] = {}
        if isinstance(found, dict):
            key, outcome["table"] = found["key"], {name: list(column) for name, column in found["table"].items()}
        elif found.status == "error":
            error = found.exception()
            key, outcome["error"] = found.key, f"{type(error).__name__}: {error}"
        elif found.status == "cancelled" and found.key in keys:  # with its scheduler
            raise _LostError
        else:
            found.release()  # nobody shall do it again where its worker dies
            continue
        if key in keys:  # else another worker has done it too
            yield Outcome(keys.pop(key), **outcome)


def _next(client: Any, done: "SimpleQueue[Any]", *, waits: bool) -> Any:
    """The next event. Where nobody can do a shard it says so and waits, or, if not `waits`, gives up."""
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


def _sent(key: str, text: str, expected: dict[str, str], work: Callable[..., Table], topic: str) -> None:
    """Send what `work` gives as an event, which arrives before the shard is done: no result dies with a worker."""
    from distributed import get_worker

    get_worker().log_event(topic, {"key": key, "table": work(text, expected)})


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
