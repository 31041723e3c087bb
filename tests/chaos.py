"""Writers and trainings are killed at random, again and again; nothing must be lost, and no bit change.

    python tests/chaos.py              # 200 SIGKILLs of writers, 36 of trainings (`make chaos`)
    python tests/chaos.py 1000 --trainings 200 --seed 7

Each round of the first kind starts a process that replaces a checkpoint, its record of claims and a page, over and
over, and kills it after a time drawn anew. Then the checkpoint must load as one of those that were being written, the
page be whole, and a thousand files of somebody else in the checkpoint's folder be what they were; at the end one
undisturbed writer must leave nothing beside them.

Each round of the second kind is a command `ar-interp train`, killed after a time drawn anew; the same command goes on
from what it left, of which every fifth time the newest state is damaged. Each checkpoint that comes of it must have the
bits of a training that was never stopped, and leave nothing beside it. Exit code 1 where anything was lost.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import ar_interp as ari
from ar_interp import cli, records, studies
from ar_interp._writing import write_file
from ar_interp.checkpoints import CLAIMS, save
from ar_interp.recipes import RECIPES
from ar_interp.studies import Recipe
from ar_interp.training.states import States

PAGES = {"one", "two"}
NOTES = {f"notes {k}.txt": f"somebody else's, for {k} years" for k in range(1000)}
LONGEST = 0.3  # seconds that a writer lives: it dies in its first exchange, or after some


def write(runs: list[ari.TrainingRun], folder: Path, round: int) -> None:
    """Replace the checkpoint, its record and the page once."""
    run, page = runs[round % 2], sorted(PAGES)[round % 2]
    save(run, folder / "x", overwrite=True)
    records.write(run, ari.Claims("x", (), seed=round), folder / "x")
    write_file(folder / "page.html", page * 50_000)


def killed(work: Callable[[], object], seconds: float) -> int:
    """How a process ended that worked until it was done or killed: 0, -SIGKILL, or 1 after an error, which it says."""
    child = os.fork()
    if child == 0:
        os.fsync = lambda descriptor: None  # what a kill leaves does not depend on the disk: most time is in between
        try:
            with open(os.devnull, "w") as sys.stdout, open(os.devnull, "w") as sys.stderr:
                work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_for_ever(runs: list[ari.TrainingRun], folder: Path) -> None:
    for round in range(10**9):
        write(runs, folder, round)


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


def writers_killed(kills: int, chance: random.Random) -> str | None:
    """The first kind of rounds; what was lost, if anything."""
    config, training = ari.ModelConfig.diagonal(dim=6, n_heads=3, n_ctx=16), ari.TrainConfig(steps=20, device="cpu")
    process = ari.CommutingUnitary(6)
    runs = [ari.train(config, process, replace(training, seed=k), progress=False) for k in range(2)]
    amid, start = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for round in range(2):
            write(runs, folder, round)
        for name, text in NOTES.items():
            (folder / "x" / name).write_text(text, "utf-8")
        for kill in range(kills):
            if killed(lambda: write_for_ever(runs, folder), chance.uniform(0, LONGEST)) != -signal.SIGKILL:
                return f"kill {kill + 1}: the writer failed"
            amid += any(folder.glob(".*")) or any(folder.glob("x/.*"))
            fault = lost(runs, folder)
            if fault is not None:
                return f"kill {kill + 1}: {fault}"
        write(runs, folder, 0)
        left = {path.name for path in folder.iterdir()} - {"x", "page.html"}
        left |= {path.name for path in (folder / "x").iterdir() if path.name.startswith(".")}
    seconds = time.perf_counter() - start
    print(f"{kills} SIGKILLs of writers, {amid} of them in the midst of writing: nothing lost; {seconds:.0f} s")
    return f"left behind: {sorted(left)}" if left else None


def train(arguments: list[str]) -> None:
    if cli.main(arguments) != 0:
        raise RuntimeError("the command failed")


def trainings_killed(kills: int, chance: random.Random) -> str | None:
    """The second kind of rounds; what was lost, if anything."""
    sampled = {"objective": "sampled", "optimizer": "adam", "batch": 8, "lr": 1e-3, "n_seeds": 2, "steps": 150}
    training, process = ari.TrainConfig(**sampled, device="cpu"), ari.CommutingUnitary(4)
    config = ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=6)
    RECIPES["x"] = Recipe(summary="killed again and again", config=config, process=process, training=training)
    studies.verify = lambda run, seed: ari.Claims("x", (), seed=seed)
    start = time.perf_counter()
    whole = ari.train(config, process, training, progress=False)
    span = time.perf_counter() - start
    died, damaged, done, begun = 0, 0, 0, set()
    with tempfile.TemporaryDirectory() as scratch:
        folder, states = Path(scratch), Path(scratch) / ".x.training"
        arguments = ["train", "x", "-o", scratch, "--quiet"]
        while died < kills or done == 0:
            every = str(chance.randint(1, 30))
            seconds = chance.uniform(0, span) if died < kills else 1e9
            ended = killed(lambda own=[*arguments, "--every", every]: train(own), seconds)
            if ended == 1:
                return f"training {done + 1}, kill {died + 1}: the command failed"
            died += ended == -signal.SIGKILL
            found = States(states).found()
            begun.add(found[-1].name[:12] if found else "nothing")
            if len(found) == 2 and chance.random() < 0.2:
                damaged += 1
                found[-1].write_bytes(found[-1].read_bytes()[: chance.randint(0, 500)])
            if (folder / "x" / CLAIMS).exists():
                done += 1
                made = ari.load(folder / "x")
                same = all(torch.equal(tensor, whole.parameters[name]) for name, tensor in made.parameters.items())
                if not (same and made.history.equals(whole.history) and made.members.equals(whole.members)):
                    return f"training {done}, kill {died}: other bits"
                killed(lambda: train(arguments), 1e9)  # says that it is done
                left = {path.name for path in folder.iterdir()} - {"x"}
                if left:
                    return f"left behind: {sorted(left)}"
                shutil.rmtree(folder / "x")
    print(
        f"{died} SIGKILLs of {done} trainings, {damaged} newest states damaged, gone on from {len(begun)} places: "
        f"the same bits; {time.perf_counter() - start:.0f} s"
    )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--trainings", type=int, default=36)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}")
    torch.set_num_threads(1)
    for rounds, kills in ((writers_killed, options.kills), (trainings_killed, options.trainings)):
        fault = rounds(kills, random.Random(seed))
        if fault is not None:
            print(fault)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
