"""`ar-interp list | train | verify | report | sweep | landscapes | text`."""

import datetime
import json
import secrets
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from tyro.conf import Positional, arg

from ar_interp._arguments import parsed
from ar_interp._command import carried_out, check_file, each, kept, said_of
from ar_interp._kinds import GROUPS
from ar_interp._shipped import LISTING, available
from ar_interp._writing import try_file, write_file

if TYPE_CHECKING:
    from ar_interp.checkpoints import Checkpoint
    from ar_interp.claims import Claim, Claims
    from ar_interp.studies.landscapes import Opened

T = TypeVar("T")
Names = Positional[tuple[str, ...]]


def list_checkpoints() -> int:
    """The studies, and of each its recipes and shipped checkpoints, one line each."""
    shipped, studies = available(), _listing()
    for study in studies:
        if study["recipes"]:
            print(f"\n{study['name']}: {study['question']}")
        for name, summary in study["recipes"].items():
            print(f"  {'shipped' if name in shipped else 'recipe '}  {name:30}  {summary}")
    for name in shipped:
        if not any(name in study["recipes"] for study in studies):
            print(f"  shipped  {name}")
    return 0


def _listing() -> list[dict[str, Any]]:
    """`recipes.listing()`, for which torch need not be loaded where all studies are ours."""
    if any(entry_points(group=group) for group in GROUPS):
        from ar_interp.recipes import listing

        return listing()
    return json.loads(LISTING.read_text("utf-8"))


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
    every: int | None = None,
    again: bool = False,
    jobs: int = 1,
    quiet: bool = False,
) -> int:
    """Train recipes by name (`all` for every one), verify each, and write its checkpoint folder with a model card.

    The state of a training is written each minute into a folder .NAME.training beside the checkpoint. Whatever ends it,
    the same command goes on from there and ends with the same bits. What is done already is left as it is.

    Args:
        names: recipes.
        output: folder for the checkpoints; ./trained if left out.
        seed: override the recipe's first seed.
        n_seeds: override its number of seeds.
        steps: override its number of updates.
        lr: override its step size.
        batch: override its batch of sequences.
        device: auto, cpu or cuda.
        every: also write the state at each multiple of so many updates (seeds, for L-BFGS).
        again: train anew and from the start; a checkpoint that is there is replaced, states are removed.
        jobs: recipes to train at once, each in a process of its own.
        quiet: no progress bar.
    """
    from ar_interp._checks import check_integer
    from ar_interp.checkpoints import check_place
    from ar_interp.making import done, make
    from ar_interp.recipes import RECIPES

    names = tuple(RECIPES) if names == ("all",) else tuple(dict.fromkeys(names))
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
    folder = output or Path("trained")
    for name in names:
        if again or done(folder / name, RECIPES[name], overrides) is None:
            check_place(folder / name, overwrite=True)
    options = {"overrides": overrides, "every": every, "again": again}
    job = partial(make, folder=folder, progress=not quiet and jobs == 1, **options)
    return max(each(job, names, jobs))


def verify(
    names: Names,
    /,
    json_file: Annotated[Path | None, arg(name="json")] = None,
    extra: tuple[Path, ...] = (),
    seed: int | None = None,
    strict: bool = False,
    jobs: int = 1,
    device: str = "cpu",
) -> int:
    """Measure the claims about checkpoints; exit code 1 when one fails that is not known to.

    Where theory is silent it says why, which is no failure.

    Args:
        names: shipped names or folders; every shipped one if left out.
        json_file: also write the claims as JSON.
        extra: files of claims of your own about some of them, as --json writes; they stand beside those measured.
        seed: that every context is drawn with, below 2**31; drawn if left out, and printed.
        strict: exit code 1 also when a claim is undecided.
        jobs: checkpoints to measure at once, each in a process of its own.
        device: where to measure, such as cpu or cuda; on a GPU contexts are drawn by its own generator.
    """
    from ar_interp._checks import check_device, check_integer
    from ar_interp.checkpoints import load
    from ar_interp.claims import Claims, by_model
    from ar_interp.claims.collected import claims_json
    from ar_interp.claims.verdicts import FAILS, HOLDS, UNDECIDED, VOID
    from ar_interp.seeds import DRAWN_LIMIT

    seed = secrets.randbelow(DRAWN_LIMIT) if seed is None else seed
    check_integer("jobs", jobs, low=1)
    check_device("device", device)
    if json_file is not None:
        try_file(json_file)
    loaded = {name: load(name) for name in names or available()}
    own = by_model(
        (claims for file in extra for claims in Claims.every_of(file)), [one.name for one in loaded.values()]
    )
    paths = [str(checkpoint.path.absolute()) for checkpoint in loaded.values()]
    measured, unexpected = {}, 0
    try:
        for (name, checkpoint), claims in zip(
            loaded.items(), each(partial(_verify_one, seed=seed, device=device), paths, jobs), strict=True
        ):
            measured[name] = claims + replace(own[checkpoint.name], name=claims.name)
            unexpected += _show(name, checkpoint, measured[name])
    except BaseException as error:
        if json_file is not None and measured:
            kept(partial(write_file, content=claims_json(measured, seed=seed)), json_file)
            error.add_note(f"What was measured until then is in {json_file}.")
        raise
    if json_file is not None:
        kept(partial(write_file, content=claims_json(measured, seed=seed)), json_file)
    counts = Counter(claim.verdict for claims in measured.values() for claim in claims)
    known_count = counts[FAILS] - unexpected
    print(
        f"\n{counts.total() - counts[VOID]} claims about {len(measured)} checkpoint(s), seed {seed}: "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in (HOLDS, FAILS, UNDECIDED))
        + (f" ({known_count} of those that fail are findings, see the model cards)" if known_count else "")
        + f"; {counts[VOID]} void rows beside them tell nothing"
    )
    return 1 if unexpected or (strict and counts[UNDECIDED]) else 0


def _show(name: str, checkpoint: "Checkpoint", claims: "Claims") -> int:
    """Print the claims about a checkpoint; how many of them fail that are not known to."""
    from ar_interp.claims.verdicts import FAILS
    from ar_interp.recipes import known_failure

    unexpected = 0
    print(f"\n{name}{_no_namesake(checkpoint)}")
    if claims.why_not:
        print(f"  theory makes no claims: {claims.why_not}")
    for claim in claims:
        expected = known_failure(checkpoint, claim)
        unexpected += claim.verdict == FAILS and not expected
        _show_claim(claim, " (known)" if expected else "")
    return unexpected


def _show_claim(claim: "Claim", known: str = "") -> None:
    print(f"  {claim.verdict:9}  {claim.statement}{known}")
    print(
        f"             {claim.prediction}, measured {claim.estimate:.6g} (n = {claim.n}); control, "
        f"{claim.control.description}: {claim.control.estimate:.4g}" + (f"; {claim.limit}" if claim.limit else "")
    )


def _verify_one(path: str, *, seed: int, device: str) -> "Claims":
    import torch

    from ar_interp.checkpoints import load
    from ar_interp.studies import verify as measure

    torch.set_num_threads(1)  # as for training
    return measure(load(path, device=device), seed=seed)


def _no_namesake(checkpoint: "Checkpoint") -> str:
    """A word on which was measured, where it has the name of a shipped checkpoint and is another."""
    from ar_interp.checkpoints import is_shipped

    other = checkpoint.name in available() and not is_shipped(checkpoint)
    return " (this folder, not the shipped checkpoint of that name)" if other else ""


def report(
    names: Names,
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    json_file: Annotated[Path | None, arg(name="json")] = None,
    extra: tuple[Path, ...] = (),
    date: datetime.date | None = None,
    device: str = "cpu",
) -> int:
    """Write the claims about checkpoints, the evidence for each and the methods as one page that works offline.

    Args:
        names: shipped names or folders; every shipped one if left out.
        output: the page, a file that ends in .html; replaced if it is there.
        json_file: also write the same content as JSON; replaced if it is there.
        extra: files of claims of your own about some of them; they stand beside those measured.
        date: printed on it, as 2026-01-31; today if left out.
        device: where to measure, such as cpu or cuda.
    """
    import torch

    from ar_interp.claims import Claims
    from ar_interp.report import build

    torch.set_num_threads(1)  # as for training
    for option, path, ending in (("output", output, ".html"), ("json", json_file, ".json")):
        if path is not None:
            check_file(option, path, ending)
    own = [claims for file in extra for claims in Claims.every_of(file)]
    made = build(names or available(), date=date or datetime.date.today(), device=device, extra=own)
    for path, text in ((output, made.to_html), (json_file, made.to_json)):
        if path is not None:
            kept(partial(write_file, content=text()), path)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(made.summary)
    return 0


def text(
    files: Names,
    /,
    output: Annotated[Path | None, arg(aliases=["-o"])] = None,
    vectors: Path | None = None,
    length: int = 4000,
    dim: int = 8,
    permutations: int = 39,
    seed: int = 0,
) -> int:
    """Regress the vector of every word of a text on that of the word before it, beside what must destroy that.

    Prints how much of the variance a matrix tells, whether the order of words matters, whether a document has a
    matrix of its own, what the published statistic says of the same text and of random vectors, and a verdict on
    each by its interval. Verdicts are about the text, so that the exit code is 0 whatever they are.

    Args:
        files: plain text, UTF-8; Python's own help if left out.
        output: also write the figure, a file that ends in .html; replaced if it is there.
        vectors: an .npz file with `words` and `vectors`; GloVe vectors of 7544 words if left out.
        length: known words in a document; two documents or more are needed.
        dim: leading components of the vectors that are kept.
        permutations: of the words of each document, for the null.
        seed: of the permutations.
    """
    import torch

    from ar_interp.figures import text_regularity as figure_of
    from ar_interp.probes.text import rolled_out, text_regularity
    from ar_interp.processes.text import TextEmbedding, python_topics, words_of_file
    from ar_interp.studies.text import text_claims, verdicts

    torch.set_num_threads(1)  # as for training
    if output is not None:
        check_file("output", output, ".html")
    texts = [words_of_file(Path(file)) for file in files] or [python_topics()[0]]
    embedding = TextEmbedding.from_file(vectors) if vectors else TextEmbedding.glove()
    documents = [document for words in texts for document in embedding.documents(words, length=length)]
    found = text_regularity(documents, dim=dim, n_permutations=permutations, seed=seed)
    published = rolled_out([word for words in texts for word in words], embedding, seed=seed)
    if output is not None:
        kept(partial(write_file, content=figure_of(found).to_html(include_plotlyjs=True)), output)
        print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    print(found.words(), published.words(), verdicts(text_claims(found, published)), sep="\n\n")
    return 0


def sweep(
    file: Positional[Path],
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    jobs: int = 1,
    scheduler: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> int:
    """Train every point of a grid with many seeds, into one folder of Parquet files; always goes on where it was.

    Exit code 1 when a training of it failed: all others are done then, and the same command tries it again.

    Args:
        file: TOML; README.md says what is in it.
        output: folder for the files; `pandas.read_parquet` reads it.
        jobs: processes on this machine; more than one need the extra `cluster`.
        scheduler: address of a Dask scheduler whose workers train instead, such as tcp://127.0.0.1:8786.
        dry_run: say how many trainings are left, how long they take and how much memory; write nothing.
        quiet: no progress bar.
    """
    from ar_interp._checks import check_integer
    from ar_interp.sweeps.run import SweepError, forecast
    from ar_interp.sweeps.run import sweep as rows_of

    check_integer("jobs", jobs, low=1)
    if dry_run:
        found = forecast(file, output)
        memory = "" if found.memory is None else f", {found.memory / 1e9:.1f} GB of memory each"
        print(
            f"{found.n_points} points, {found.n_trainings} trainings in {found.n_shards} shards; {found.n_left} "
            f"trainings are left: about {_duration(found.seconds / jobs)} on {jobs} worker(s) of this machine{memory}"
        )
        return 0
    start, n, lost, failures = time.perf_counter(), 0, 0, []
    try:
        for row in rows_of(file, output, jobs=jobs, scheduler=scheduler, progress=not quiet):
            n, lost = n + 1, lost + (row["loss"] != row["loss"])
    except SweepError as error:
        failures = error.failures
    for shard, _, said in failures:
        print(f"{shard.where}: {said_of(said)}", file=sys.stderr)
    failed = f"; {len(failures)} shards FAILED, the same command tries them again" if failures else ""
    diverged = f", of which {lost} diverged" if lost else ""
    print(f"{output}: {n} trainings{diverged}, {_duration(time.perf_counter() - start)}{failed}")
    return 1 if failures else 0


def landscapes(
    names: Names,
    /,
    json_file: Annotated[Path | None, arg(name="json")] = None,
    folder: Path | None = None,
    seed: int | None = None,
    strict: bool = False,
    jobs: int = 1,
) -> int:
    """Measure the claims about the shipped sweeps; exit code 1 when one fails.

    Some rows of each, drawn at random, are trained anew: the others may have been made up by whoever made the files.

    Args:
        names: such as pairs or depth; all of them if left out.
        json_file: also write the claims as JSON.
        folder: of the TOML and Parquet files, the shipped ones if left out.
        seed: that the rows to be trained anew are drawn with, below 2**31; drawn if left out, and printed.
        strict: exit code 1 also when a claim is undecided.
        jobs: landscapes to measure at once, each in a process of its own.
    """
    from ar_interp._checks import check_choice, check_integer
    from ar_interp.claims.collected import claims_json
    from ar_interp.claims.verdicts import FAILS, UNDECIDED
    from ar_interp.seeds import DRAWN_LIMIT
    from ar_interp.studies.landscapes import LANDSCAPES

    seed = secrets.randbelow(DRAWN_LIMIT) if seed is None else check_integer("seed", seed, low=0, high=DRAWN_LIMIT - 1)
    check_integer("jobs", jobs, low=1)
    chosen = [check_choice("names", name, tuple(LANDSCAPES)) for name in names or LANDSCAPES]
    if json_file is not None:
        try_file(json_file)
    opened = {name: LANDSCAPES[name].open(folder) for name in chosen}
    measured = {}
    verified = each(partial(_verify_landscape, seed=seed), opened.values(), jobs)
    for landscape, claims in zip(opened.values(), verified, strict=True):
        print(f"\n{claims.name}: {len(landscape.rows):,} trainings, rows {landscape.fingerprint}", flush=True)
        measured[claims.name] = claims
        for claim in claims:
            _show_claim(claim)
    if json_file is not None:
        rows = {name: landscape.fingerprint for name, landscape in opened.items()}
        kept(partial(write_file, content=claims_json(measured, seed=seed, rows=rows)), json_file)
    counts = Counter(claim.verdict for claims in measured.values() for claim in claims)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"\n{counts.total()} claims about {len(measured)} landscape(s), seed {seed}: {said}")
    return 1 if counts[FAILS] or (strict and counts[UNDECIDED]) else 0


def _verify_landscape(landscape: "Opened", *, seed: int) -> "Claims":
    import torch

    torch.set_num_threads(1)  # as for training
    return landscape.verify(seed=seed)


def _duration(seconds: float) -> str:
    """In seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main(argv: list[str] | None = None) -> int:
    """The command `ar-interp`; errors a user can act on are one line."""
    commands = {
        "list": list_checkpoints,
        "train": train,
        "verify": verify,
        "report": report,
        "sweep": sweep,
        "landscapes": landscapes,
        "text": text,
    }
    return carried_out(lambda: parsed(commands, argv)())


if __name__ == "__main__":
    sys.exit(main())
