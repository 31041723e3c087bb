"""How a recipe becomes a checkpoint: trained, saved, verified, with a model card; it goes on where it was."""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ar_interp import records, studies
from ar_interp._command import kept, said_of
from ar_interp._writing import write_file
from ar_interp.cards import model_card
from ar_interp.checkpoints import CLAIMS, Checkpoint, CheckpointError, load, save
from ar_interp.recipes import RECIPES
from ar_interp.seeds import STATED
from ar_interp.studies import Recipe
from ar_interp.training import loop
from ar_interp.training.states import States, difference, task


def make(name: str, *, folder: Path, progress: bool, overrides: dict[str, Any], every: int | None, again: bool) -> int:
    """Train, save and verify one recipe, as far as that is not done; the exit code."""
    torch.set_num_threads(1)  # the tensors are small: a second thread gains little and loses all to a busy neighbour
    recipe, path, took = RECIPES[name], folder / name, "before"
    run = None if again else done(path, recipe, overrides)
    states = States(folder / f".{name}.training", every=every, say=lambda text: print(f"{name}: {text}", flush=True))
    if run is None or states.folder.exists():
        with states:
            if again:
                states.clear()
            if run is None or states.found():
                start, training = time.perf_counter(), replace(recipe.training, **overrides)
                try:
                    run = loop.train(recipe.config, recipe.process, training, progress=progress, resume=states)
                except loop.DivergenceError as error:
                    path = kept(partial(save, error.run, overwrite=True), folder / f"{name}-diverged")
                    states.clear()
                    print(f"{name}: {error} Saved as {path}.", file=sys.stderr)
                    return 1
                took = f"in {time.perf_counter() - start:.0f} s"
                kept(partial(save, run, overwrite=True), path)
                states.clear()
    if (path / CLAIMS).exists():
        print(f"{name}: done already, {path}; --again trains anew", flush=True)
        return 0
    claims = studies.verify(run, seed=STATED)
    try:
        write_file(path / "README.md", model_card(run, name, claims, recipe.summary))
        records.write(run, claims, path)
    except OSError as error:
        raise OSError(f"{said_of(error)} The model is kept as {path}, without its claims.") from error
    verdict = "every claim holds or is void" if claims.passed else "some claims FAIL"
    loss = run.members["loss"].min()
    print(f"{name}: loss {loss:.6g}, {run.steps} steps on {run.device} {took}; {verdict}; {path}", flush=True)
    return 0


def done(path: Path, recipe: Recipe, overrides: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint that a recipe has made there, on whatever device.

    Raises:
        ValueError: it is that of another training.
    """
    try:
        found = load(path.absolute())
    except CheckpointError:
        return None
    ours = task(recipe.config, recipe.process, replace(recipe.training, **overrides))
    different = difference(task(found.config, found.process, found.training), ours)
    if different:
        raise ValueError(
            f"{path} is a checkpoint of another training: {different}. Choose another --output, or --again replaces it."
        )
    return found
