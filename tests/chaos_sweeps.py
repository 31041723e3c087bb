"""Sweeps are killed at random, alone and on Dask: every row must come once, with the bits of a sweep never killed.

    python tests/chaos_sweeps.py              # 30 SIGKILLs amid sweeps, then a scheduler (`make chaos`)
    python tests/chaos_sweeps.py 200 --seed 7

Sweeps in one process are killed after times drawn anew until they are done, then sweeps on two workers of their own,
whose workers must end with them. Shards that end their workers must fail alone. Last, a scheduler of two workers is
killed: the sweep must end in a line, and go on with another scheduler. Exit code 1 where a row is lost, doubled or
another.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import ar_interp as ari
from ar_interp.sweeps import cluster
from ar_interp.sweeps.cluster import _settle
from ar_interp.sweeps.shards import trained

PLAN = {
    "model": "diagonal",
    "process": "commuting-orthogonal",
    "seeds": 6,
    "shard": 2,
    "grid": {"dim": [4], "n_heads": [1, 2, 3, 4], "n_ctx": [5], "init_scale": [0.1, 0.3, 0.5]},
    "training": {"lr": 1e-3, "steps": 100, "device": "cpu"},
    "measure": {"columns": ["kappa"]},
}
N_SHARDS, N_ON_DASK = 36, 5
DASK = (sys.executable, "-m", "dask")
LOOPBACK = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
START = "import sys; from chaos_sweeps import PLAN, ari; [*ari.sweep(PLAN, sys.argv[1], **{options}, progress=False)]"


def rows_of(folder: Path) -> pd.DataFrame:
    found = pd.DataFrame(ari.sweep(PLAN, folder, progress=False)).drop(columns=["seconds", "device"])
    return found.sort_values(["n_heads", "init_scale", "seed"], ignore_index=True)


def parts_in(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def forked(folder: Path) -> int:
    """A sweep in a process of its own."""
    child = os.fork()
    if child == 0:
        for _ in ari.sweep(PLAN, folder, progress=False):
            pass
        os._exit(0)
    return child


def killed_alone(reference: pd.DataFrame, scratch: Path, kills: int, span: float, chance: random.Random) -> None:
    """Kills until so many came when some shards were done; each sweep lives for half of `span` at most, seconds."""
    died, amid, sweeps = 0, 0, 0
    while amid < kills:
        folder = scratch / f"alone {sweeps}"
        sweeps += 1
        while amid < kills and parts_in(folder) < N_SHARDS:
            child, end, running = forked(folder), time.monotonic() + chance.uniform(0, span / 2), True
            while running and time.monotonic() < end:
                time.sleep(0.005)
                running = os.waitpid(child, os.WNOHANG)[0] == 0
            if running:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                died += 1
                amid += 0 < parts_in(folder) < N_SHARDS
        same(reference, folder)
    print(f"alone: {sweeps} sweeps, {died} kills, {amid} in their midst; every row once, no bit another", flush=True)


def started(*command: str) -> "subprocess.Popen[str]":
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": here}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def sweep_on(folder: Path, **options: object) -> "subprocess.Popen[str]":
    return started(sys.executable, "-c", START.format(options=options), str(folder))


def wait_for_parts(folder: Path, n: int, client: "subprocess.Popen[str]") -> None:
    while parts_in(folder) < n and client.poll() is None:
        time.sleep(0.02)


def killed_on_dask(reference: pd.DataFrame, scratch: Path, chance: random.Random) -> None:
    import psutil

    folder = scratch / "on dask"
    for kill in range(N_ON_DASK):
        client = sweep_on(folder, jobs=2)
        wait_for_parts(folder, min(parts_in(folder) + 1 + chance.randrange(4), N_SHARDS - N_ON_DASK + kill), client)
        workers = psutil.Process(client.pid).children(recursive=True)
        client.kill()
        client.communicate()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, f"{len(alive)} processes outlive a sweep that was killed"
    n = parts_in(folder)
    same(reference, folder)
    print(f"on two workers: {N_ON_DASK} kills, the last at {n} of {N_SHARDS} shards; no process left", flush=True)


def dies(text: str, expected: dict[str, str]) -> Any:
    """What a worker does with a shard, but for those with seed 2, which end its process."""
    _settle()
    if '"seed":2' in text:
        os._exit(1)
    return trained(text)


def deadly_shards(reference: pd.DataFrame, scratch: Path) -> None:
    folder, own = scratch / "deadly", cluster._trained
    cluster._trained = dies
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # of the workers
    sys.modules["chaos_sweeps"] = sys.modules["__main__"]
    dies.__module__ = "chaos_sweeps"  # where workers find it
    failures = []
    try:
        for _ in ari.sweep({**PLAN, "grid": {**PLAN["grid"], "init_scale": [0.1]}}, folder, jobs=2, progress=False):
            pass
    except ari.SweepError as error:
        failures = [failure.error for failure in error.failures]
    finally:
        cluster._trained = own
    assert len(failures) == 4, failures
    assert all("KilledWorker" in failure for failure in failures), failures
    assert parts_in(folder) == 8, f"{parts_in(folder)} of 8 other shards are done"
    same(reference, folder)
    print("4 shards that end their workers: each fails after four of them, all others are done", flush=True)


def killed_scheduler(reference: pd.DataFrame, scratch: Path) -> None:
    folder = scratch / "scheduler"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"

    def on_loopback() -> list["subprocess.Popen[str]"]:
        worker = (*DASK, "worker", address, "--nthreads", "1", *LOOPBACK)
        return [started(*DASK, "scheduler", "--port", str(port), *LOOPBACK), started(*worker), started(*worker)]

    processes = on_loopback()
    try:
        client = sweep_on(folder, scheduler=address)
        wait_for_parts(folder, 5, client)
        processes[0].kill()
        said = client.communicate(timeout=300)[1]
        assert "ConnectionError: no Dask scheduler answers" in said, said
        n = parts_in(folder)
        for process in processes:
            process.kill()
            process.communicate()
        processes = on_loopback()
        client = sweep_on(folder, scheduler=address)
        said = client.communicate(timeout=300)[1]
        assert client.returncode == 0, said
        same(reference, folder)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    print(f"a scheduler killed at {n} of {N_SHARDS} shards: the sweep ends, and goes on with another", flush=True)


def same(reference: pd.DataFrame, folder: Path) -> None:
    pd.testing.assert_frame_equal(rows_of(folder), reference, check_exact=True)
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert len(left) == parts_in(folder) == N_SHARDS, left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=30)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        reference = rows_of(scratch / "reference")
        start = time.monotonic()
        rows_of(scratch / "again")
        span = time.monotonic() - start
        try:
            killed_alone(reference, scratch, options.kills, span, chance)
            deadly_shards(reference, scratch)
            killed_on_dask(reference, scratch, chance)
            killed_scheduler(reference, scratch)
        except AssertionError as error:
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
