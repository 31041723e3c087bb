"""`ar-interp list | train | verify | report`."""

import datetime
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro
from tyro.conf import Positional, arg

from ar_interp import checkpoints, records
from ar_interp._checks import check_integer
from ar_interp.claims import Claims
from ar_interp.claims.core import FAILS, HOLDS, UNDECIDED, VOID, claims_json
from ar_interp.recipes import RECIPES, known_failure
from ar_interp.seeds import DRAWN_LIMIT, STATED
from ar_interp.studies import all_studies
from ar_interp.studies import verify as measure

T = TypeVar("T")
Names = Positional[tuple[str, ...]]


def list_checkpoints() -> int:
    """The studies, and of each its recipes and shipped checkpoints, one line each."""
    shipped = checkpoints.available()
    for study in all_studies():
        if study.recipes:
            print(f"\n{study.name}: {study.question}")
        for name, recipe in study.recipes.items():
            print(f"  {'shipped' if name in shipped else 'recipe '}  {name:30}  {recipe.summary}")
    for name in shipped:
        if name not in RECIPES:
            print(f"  shipped  {name}")
    return 0


def train(
    names: Names,
    /,
    output: Annotated[Path | None, arg(aliases=["-o"])] = None,
    seed: int | None = None,
    n_seeds: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    batch: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> int:
    """Train recipes by name (`all` for every one), verify each, and write its checkpoint folder with a model card.

    Args:
        names: recipes.
        output: folder for the checkpoints; ./trained if left out. A checkpoint of that name there is replaced.
        seed: override the recipe's first seed.
        n_seeds: override its number of seeds.
        steps: override its number of updates.
        lr: override its step size.
        batch: override its batch of sequences.
        device: auto, cpu or cuda.
        jobs: recipes to train at once, each in a process of its own.
        quiet: no progress bar.
    """
    names = tuple(RECIPES) if names == ("all",) else names
    unknown = [name for name in names if name not in RECIPES]
    if unknown or not names:
        raise ValueError(f"no recipe {', '.join(unknown) or '(none given)'}. Recipes: {', '.join(RECIPES)}, or all.")
    given = {"seed": seed, "n_seeds": n_seeds, "steps": steps, "lr": lr, "batch": batch, "device": device}
    overrides = {key: value for key, value in given.items() if value is not None}
    if overrides.keys() - {"device"} and output is None:
        raise ValueError(
            f"--{min(overrides).replace('_', '-')} departs from the recipe: say with --output where to put it."
        )
    check_integer("jobs", jobs, low=1)
    job = partial(_train_one, overrides=overrides, folder=output or Path("trained"), progress=not quiet and jobs == 1)
    return max(_each(job, names, jobs))


def _train_one(name: str, *, overrides: dict[str, Any], folder: Path, progress: bool) -> int:
    """Train, verify and save one recipe; the exit code."""
    from ar_interp.cards import model_card
    from ar_interp.training.loop import DivergenceError
    from ar_interp.training.loop import train as train_run

    torch.set_num_threads(1)  # the tensors are small: a second thread gains little and loses all to a busy neighbour
    recipe = RECIPES[name]
    start = time.perf_counter()
    try:
        run = train_run(recipe.config, recipe.process, replace(recipe.training, **overrides), progress=progress)
    except DivergenceError as error:
        path = checkpoints.save(error.run, folder / f"{name}-diverged", overwrite=True)
        print(f"{name}: {error} Saved as {path}.", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    claims = measure(run, seed=STATED)
    card = model_card(run, name, claims, recipe.summary)
    path = checkpoints.save(run, folder / name, card=card, overwrite=True)
    records.write(run, claims, path)
    verdict = "every claim holds or is void" if claims.passed else "some claims FAIL"
    loss = run.members["loss"].min()
    print(
        f"{name}: loss {loss:.6g}, {run.steps} steps on {run.device} in {seconds:.0f} s; {verdict}; {path}", flush=True
    )
    return 0


def verify(
    names: Names,
    /,
    json_file: Annotated[Path | None, arg(name="json")] = None,
    seed: int | None = None,
    strict: bool = False,
    jobs: int = 1,
) -> int:
    """Measure the claims about checkpoints; exit code 1 when one fails that is not known to.

    Where theory is silent it says why, which is no failure.

    Args:
        names: shipped names or folders; every shipped one if left out.
        json_file: also write the claims as JSON.
        seed: that every context is drawn with, below 2**31; drawn if left out, and printed.
        strict: exit code 1 also when a claim is undecided.
        jobs: checkpoints to measure at once, each in a process of its own.
    """
    seed = secrets.randbelow(DRAWN_LIMIT) if seed is None else seed
    check_integer("jobs", jobs, low=1)
    loaded = {name: checkpoints.load(name) for name in names or checkpoints.available()}
    measured, unexpected = {}, 0
    for (name, checkpoint), claims in zip(
        loaded.items(), _each(partial(_verify_one, seed=seed), loaded, jobs), strict=True
    ):
        measured[name] = claims
        print(f"\n{name}{_other_folder(name, checkpoint.path)}")
        if claims.why_not:
            print(f"  theory makes no claims: {claims.why_not}")
        for claim in claims:
            expected = known_failure(checkpoint, claim)
            unexpected += claim.verdict == FAILS and not expected
            print(f"  {claim.verdict:9}  {claim.statement}{' (known)' if expected else ''}")
            print(
                f"             {claim.prediction}, measured {claim.estimate:.6g} (n = {claim.n}); control, "
                f"{claim.control.description}: {claim.control.estimate:.4g}"
                + (f"; {claim.limit}" if claim.limit else "")
            )
    counts = Counter(claim.verdict for claims in measured.values() for claim in claims)
    known_count = counts[FAILS] - unexpected
    print(
        f"\n{counts.total() - counts[VOID]} claims about {len(measured)} checkpoint(s), seed {seed}: "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in (HOLDS, FAILS, UNDECIDED))
        + (f" ({known_count} of those that fail are findings, see the model cards)" if known_count else "")
        + f"; {counts[VOID]} void rows beside them tell nothing"
    )
    if json_file is not None:
        json_file.write_text(claims_json(measured, seed=seed))
    return 1 if unexpected or (strict and counts[UNDECIDED]) else 0


def _verify_one(name: str, *, seed: int) -> Claims:
    torch.set_num_threads(1)  # as for training
    return measure(checkpoints.load(name), seed=seed)


def _each(job: Callable[[str], T], names: Iterable[str], jobs: int) -> Iterator[T]:
    """The results of a job for every name, in order, as they come."""
    if jobs == 1:
        yield from map(job, names)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(job, names)


def _other_folder(name: str, found: Path) -> str:
    """A word on which was measured, where a folder here has the name of a shipped checkpoint."""
    here = Path(name)
    other = here.is_dir() and here.resolve() != found.resolve()
    return f" (the shipped one; for the folder of that name here write .{os.sep}{name})" if other else ""


def report(
    names: Names,
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    json_file: Annotated[Path | None, arg(name="json")] = None,
    date: datetime.date | None = None,
) -> int:
    """Write the claims about checkpoints, the evidence for each and the methods as one page that works offline.

    Args:
        names: shipped names or folders; every shipped one if left out.
        output: the page, a file that ends in .html; replaced if it is there.
        json_file: also write the same content as JSON; replaced if it is there.
        date: printed on it, as 2026-01-31; today if left out.
    """
    from ar_interp.report import build

    torch.set_num_threads(1)  # as for training
    for option, path, ending in (("output", output, ".html"), ("json", json_file, ".json")):
        if path is not None:
            _check_file(option, path, ending)
    made = build(names or checkpoints.available(), date=date or datetime.date.today())
    for path, text in ((output, made.to_html), (json_file, made.to_json)):
        if path is not None:
            path.write_text(text(), "utf-8", newline="\n")
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(made.summary)
    return 0


def _check_file(option: str, path: Path, ending: str) -> None:
    """Refuse what cannot be written before anything is measured."""
    if path.suffix.lower() != ending or path.is_dir():
        raise ValueError(f"--{option} must be a file that ends in {ending}, got {path}{' (a folder)' * path.is_dir()}.")
    if not path.parent.is_dir():
        raise ValueError(f"--{option}: there is no folder {path.parent}; make it first.")


def main(argv: list[str] | None = None) -> int:
    """The command `ar-interp`; errors a user can act on are one line."""
    commands = {"list": list_checkpoints, "train": train, "verify": verify, "report": report}
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, prog="ar-interp", args=argv)
    except (ValueError, FileExistsError) as error:
        print(f"ar-interp: {error}", file=sys.stderr)
        return 2
