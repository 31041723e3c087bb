"""Writers are killed at random, again and again; what they were replacing must never be lost.

    python tests/chaos.py              # 200 SIGKILLs (`make chaos`)
    python tests/chaos.py 1000 --seed 7

Each round starts a process that replaces a checkpoint, its record of claims and a page, over and over, and kills it
after a time drawn anew. Then the checkpoint must load as one of those that were being written, the page be whole, and
a thousand files of somebody else in the checkpoint's folder be what they were; at the end one undisturbed writer must
leave nothing beside them. Exit code 1 where anything was lost.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import ar_interp as ari
from ar_interp import records
from ar_interp._writing import write_file
from ar_interp.checkpoints import CLAIMS, save

PAGES = {"one", "two"}
NOTES = {f"notes {k}.txt": f"somebody else's, for {k} years" for k in range(1000)}
LONGEST = 0.3  # seconds that a writer lives: it dies in its first exchange, or after some


def write(runs: list[ari.TrainingRun], folder: Path, round: int) -> None:
    """Replace the checkpoint, its record and the page once."""
    run, page = runs[round % 2], sorted(PAGES)[round % 2]
    save(run, folder / "x", overwrite=True)
    records.write(run, ari.Claims("x", (), seed=round), folder / "x")
    write_file(folder / "page.html", page * 50_000)


def killed(runs: list[ari.TrainingRun], folder: Path, seconds: float) -> None:
    """A process that writes until it is killed."""
    child = os.fork()
    if child == 0:
        os.fsync = lambda descriptor: None  # what a kill leaves does not depend on the disk: most time is in between
        for round in range(10**9):
            write(runs, folder, round)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def lost(runs: list[ari.TrainingRun], folder: Path) -> str | None:
    """What is not as it was or as it was to be, if anything."""
    try:
        found = ari.load(folder / "x")
        known = [run for run in runs if all(torch.equal(x, run.parameters[k]) for k, x in found.parameters.items())]
        if not known or known[0].seed != found.seed:
            return "the checkpoint is neither of the two"
        if (folder / "x" / CLAIMS).exists():
            records.read(found)
        if {name: (folder / "x" / name).read_text("utf-8") for name in NOTES} != NOTES:
            return "a file of somebody else has changed"
        if (folder / "page.html").read_text("utf-8") not in {page * 50_000 for page in PAGES}:
            return "the page is half written"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    chance, start = random.Random(seed), time.perf_counter()
    torch.set_num_threads(1)
    config, training = ari.ModelConfig.diagonal(dim=6, n_heads=3, n_ctx=16), ari.TrainConfig(steps=20, device="cpu")
    process = ari.CommutingUnitary(6)
    runs = [ari.train(config, process, replace(training, seed=k), progress=False) for k in range(2)]
    amid = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for round in range(2):
            write(runs, folder, round)
        for name, text in NOTES.items():
            (folder / "x" / name).write_text(text, "utf-8")
        for kill in range(options.kills):
            killed(runs, folder, chance.uniform(0, LONGEST))
            amid += any(folder.glob(".*")) or any(folder.glob("x/.*"))
            fault = lost(runs, folder)
            if fault is not None:
                print(f"kill {kill + 1}, seed {seed}: {fault}")
                return 1
        write(runs, folder, 0)
        left = {path.name for path in folder.iterdir()} - {"x", "page.html"}
        left |= {path.name for path in (folder / "x").iterdir() if path.name.startswith(".")}
    seconds = time.perf_counter() - start
    print(
        f"{options.kills} SIGKILLs, {amid} of them in the midst of writing, seed {seed}: nothing lost, "
        f"{len(left)} left behind {sorted(left)}; {seconds:.0f} s"
    )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
