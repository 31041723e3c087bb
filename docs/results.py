"""Measure every claim about every shipped checkpoint and write it down wherever it is said.

Writes `claims.json` and the model card of each checkpoint, what `ar-interp list` reads, `docs/results.md`, and the
tables of README.md, `docs/measured.md` and `docs/speed.md` between `<!-- results: NAME -->` and `<!-- end -->`, so that
no number there can differ from what the code gives. The tables of speed are made of the JSON files that the benchmarks
left.

    python docs/results.py                 # measure with the stated seed (`make results`)
    python docs/results.py --seeds 10      # also with nine others: how often does a verdict change?
    python docs/results.py --tables        # measure nothing: write the tables of what was measured last
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import ar_interp as ari
from ar_interp import records
from ar_interp._shipped import LISTING
from ar_interp._writing import write_file
from ar_interp.cards import model_card
from ar_interp.claims.verdicts import FAILS, HOLDS, UNDECIDED, VERDICTS, VOID
from ar_interp.recipes import RECIPES, listing
from ar_interp.seeds import STATED
from ar_interp.studies import all_studies, verify

DOCS = Path(__file__).parent
PAGE, SEEDS = DOCS / "results.md", DOCS / "seeds.json"
WITH_TABLES = (DOCS.parent / "README.md", DOCS / "measured.md", DOCS / "speed.md")
BENCHMARKS = DOCS.parent / "benchmarks"
FOLDER = ari.checkpoints.trained_folder()
EMERGENCE = ("path", "half time", "difference", "order", "off-diagonal, keys", "off-diagonal, values")
EMERGENCE = (*(f"emergence/{what}" for what in EMERGENCE), "signs/share", "signs/reached")
NOISE = (
    "heads/kappa zero",
    "positions/bent",
    "noise/least squares",
    "noise/line",
    "noise/line, seeds",
    "noise/one step",
)
HEADLINES = {  # a claim or two of each study
    ("diagonal-orthogonal-h5", "heads/orthogonal"),
    ("diagonal-orthogonal-h5", "positions/kappa"),
    ("positional-mu300", "filter/path"),
    ("augmented-unitary", "step/size"),
    ("augmented-unitary", "estimate/swap"),
    ("augmented-haar-l4", "depth/steps"),
    ("augmented-haar-l4", "depth/not least squares"),
    ("plain-haar-h25", "loss/one head"),
    ("initial-gaussian", "loss/relative"),
    ("emergence-gaussian", "emergence/half time"),
    ("figure5-l4", "loss/figure"),
    ("figure7-h25", "mechanism/second key"),
    ("noisy-haar-l4", "noise/line, seeds"),
    ("regression-high", "features/span"),
    ("chain-parity-joint", "samples/enough"),
}
Row = dict[str, Any]


def measure(name: str) -> None:
    """Verify a checkpoint; write its record and its card."""
    torch.set_num_threads(1)
    checkpoint = ari.load(name)
    claims = verify(checkpoint, seed=STATED)
    records.write(checkpoint, claims, FOLDER / name)
    write_file(FOLDER / name / "README.md", model_card(checkpoint, name, claims, RECIPES[name].summary))
    print(name, claims.counts, flush=True)


def verdicts(name: str, seed: int) -> dict[str, str]:
    """The verdict of every claim with another seed."""
    torch.set_num_threads(1)
    return {claim.name: claim.verdict for claim in verify(ari.load(name), seed=seed)}


def all_rows() -> dict[str, tuple[Row, ...]]:
    """The recorded claims of every checkpoint, in the order of the recipes."""
    found = {}
    for name in RECIPES:
        record = records.read(ari.load(name)) if (FOLDER / name).is_dir() else None
        if record is not None:
            found[name] = record.rows
    return found


def number(value: float | str, digits: int = 4) -> str:
    return value if isinstance(value, str) else f"{value + 0:.{digits}g}"


def predicted(row: Row) -> str:
    side = "" if row["side"] == "equal to" else {"at least": "≥ ", "at most": "≤ "}[row["side"]]
    return f"{side}{number(row['predicted'])}"


def measured(row: Row) -> str:
    spread = row["uncertainty"]
    return number(row["measured"]) + (f" ± {spread:.2g}" if not isinstance(spread, str) and spread else "")


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(head), ["---"] * len(list(head)), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def counts(rows: Iterable[Row]) -> str:
    found = Counter(row["verdict"] for row in rows)
    return " / ".join(str(found[verdict]) for verdict in (HOLDS, FAILS, UNDECIDED, VOID))


COUNTED = "hold / fail / undecided / void"


def by_study(every: dict[str, tuple[Row, ...]]) -> Iterator[list[str]]:
    """A line for each study: its question, its checkpoints, its verdicts."""
    for study in all_studies():
        names = [name for name in study.recipes if name in every]
        if names:
            yield [study.name, study.question, str(len(names)), counts(row for name in names for row in every[name])]
    yield ["all", "", str(len(every)), counts(row for rows in every.values() for row in rows)]


def wide(every: dict[str, tuple[Row, ...]], names: Iterable[str], columns: dict[str, str]) -> str:
    """A row for each checkpoint, a column for each claim: what was measured, in brackets the prediction if not 0."""
    lines = []
    for name in names:
        rows = {row["name"]: row for row in every[name]}
        cells = []
        for claim in columns.values():
            row = rows.get(claim)
            beside = f" ({predicted(row)})" if row and (row["predicted"] or row["side"] != "equal to") else ""
            cells.append(f"{measured(row)}{beside}" if row else "–")
        lines.append([f"`{name}`", *cells, counts(every[name])])
    return table(["checkpoint", *columns, COUNTED], lines)


def long(every: dict[str, tuple[Row, ...]], wanted: Callable[[str, Row], bool]) -> str:
    """A row for each claim that is wanted."""
    lines = []
    for name, rows in every.items():
        for row in rows:
            if wanted(name, row):
                control = f"{number(row['control']['measured'], 3)} ({row['control']['description']})"
                cells = [f"`{name}`", row["statement"], predicted(row), measured(row), control, row["verdict"]]
                lines.append(cells)
    return table(["checkpoint", "statement", "predicted", "measured", "control", "verdict"], lines)


def named(*claims: str, of: str = "") -> Callable[[str, Row], bool]:
    return lambda name, row: row["name"] in claims and name.startswith(of)


def on_one_thread() -> str:
    """Whole steps of training beside the plain loop's, and time to its loss, by `benchmarks/training.py`."""
    lines = []
    for name, found in json.loads((BENCHMARKS / "training.json").read_text()).items():
        if name == "machine":
            continue
        spread = f"{number(found['ratio'], 3)} ({number(found['low'], 3)}–{number(found['high'], 3)})"
        cells = [name, number(found["plain"], 3), number(found["ours"], 3), spread]
        times = [f"{found[key]:.1f} s" for key in ("seconds", "plain_seconds") if key in found]
        lines.append([*cells, *(times or ["", ""]), number(found["time_ratio"], 3) if times else ""])
    head = ["model", "plain, steps/s", "ours, steps/s", "ratio", "time to their loss: ours", "plain", "ratio"]
    return table(head, lines)


def on_a_gpu() -> str:
    """Aims on a GPU and the numbers reached, by `benchmarks/gpu.py`."""
    found = json.loads((BENCHMARKS / "gpu.json").read_text())
    lines = [
        [name, f"{number(target['found'], 3)} {target['unit']}", number(target["target"], 3)]
        for name, target in found["targets"].items()
    ]
    return table([f"on one {found['machine']['device']}", "measured", "to reach"], lines)


def tables() -> dict[str, str]:
    """The tables of README and docs by name."""
    every = all_rows()
    diagonal = [name for name in every if name.startswith("diagonal")]
    positional = [name for name in every if name.startswith("positional")]
    stacks = [name for name in every if name.startswith("augmented-haar")]
    return {
        "studies": table(["study", "question", "checkpoints", COUNTED], by_study(every)),
        "headlines": long(every, lambda name, row: (name, row["name"]) in HEADLINES),
        "diagonal": wide(
            every,
            diagonal,
            {
                "loss": "loss/minimum",
                "C² − mC": "heads/projector",
                "E_M": "heads/orthogonal",
                "largest c p_T − 1": "positions/scale",
                "p_{T−1}/p_T from κ": "positions/kappa",
                "largest error of a prediction": "positions/identity",
            },
        ),
        "positional": wide(
            every,
            positional,
            {
                "steps": "descent/steps",
                "p_T at T = 30": "filter/newest",
                "effective rank": "filter/rank",
                "largest deviation of P": "filter/rows",
            },
        ),
        "layers": long(every, named("step/size", "step/others", "step/second path", "step/second value")),
        "emergence": long(every, named(*EMERGENCE)),
        "noise": long(every, named(*NOISE, of="noisy")),
        "depth": wide(
            every,
            stacks,
            {
                "log2 of its gradient steps": "depth/steps",
                "over training seeds": "depth/seeds",
                "least at any T > d": "depth/every length",
                "cost of the least needed layer": "depth/every layer",
            },
        ),
        "figures": long(every, named("loss/figure")),
        "one thread": on_one_thread(),
        "gpu": on_a_gpu(),
        "causal": long(every, named("estimate/swap", "estimate/swap error", "estimate/W")),
        "not holding": long(every, lambda name, row: row["verdict"] in (FAILS, UNDECIDED)),
    }


def write_tables() -> None:
    made = tables()
    for page in WITH_TABLES:
        text = page.read_text("utf-8")
        for name in re.findall("<!-- results: (.*) -->", text):
            pattern = f"(?<=<!-- results: {name} -->\n).*?(?=<!-- end -->)"
            text = re.sub(pattern, lambda _, name=name: f"{made[name]}\n", text, flags=re.DOTALL)
        write_file(page, text)


def write_page() -> None:
    every = all_rows()
    lines = [
        "# Results",
        "",
        f"Every claim about every shipped checkpoint, measured with seed {STATED}: made by `make results`. A claim "
        "*holds* where its whole 95 % interval lies within its tolerance and its control's wholly outside, *fails* "
        "where it lies wholly outside, and is *undecided* where either reaches over a bound. *Void* rows, whose "
        "control passes too, tell nothing and stand apart.",
        "",
        table(["study", "question", "checkpoints", COUNTED], by_study(every)),
        "",
        "## Other seeds",
        "",
        seeds_section(),
    ]
    for name in every:
        lines += ["", f"## {name}", "", RECIPES[name].summary, ""]
        lines.append(long({name: every[name]}, lambda name, row: row["verdict"] != VOID))
        if any(row["verdict"] == VOID for row in every[name]):
            lines += ["", "Void:", "", long({name: every[name]}, lambda name, row: row["verdict"] == VOID)]
    write_file(PAGE, "\n".join(lines) + "\n")


def seeds_section() -> str:
    """How often each verdict was another with other seeds."""
    if not SEEDS.is_file():
        return "Not measured."
    found = json.loads(SEEDS.read_text("utf-8"))
    rows, flips = [], 0
    for name, claims in found["verdicts"].items():
        for claim, seen in claims.items():
            kinds = Counter(seen)
            flips += {HOLDS, FAILS} <= kinds.keys()
            if len(kinds) > 1:
                rows.append([f"`{name}`", f"`{claim}`", *(str(kinds[verdict] or "") for verdict in VERDICTS)])
    n_claims = sum(map(len, found["verdicts"].values()))
    said = (
        f"Of {n_claims} claims measured with the seeds {', '.join(map(str, found['seeds']))}, {flips} flip between "
        f"holds and fails; {len(rows)} have more than one verdict:"
    )
    return said + "\n\n" + table(["checkpoint", "claim", *VERDICTS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or [name for name in RECIPES if (FOLDER / name).is_dir()]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        if not options.tables:
            list(pool.map(measure, names))
        if options.seeds > 1:
            seeds = list(range(STATED, STATED + options.seeds))
            per_seed = {seed: list(pool.map(partial(verdicts, seed=seed), names)) for seed in seeds}
            found = {
                name: {claim: [per_seed[seed][i][claim] for seed in seeds] for claim in per_seed[STATED][i]}
                for i, name in enumerate(names)
            }
            write_file(SEEDS, json.dumps({"seeds": seeds, "verdicts": found}, indent=1) + "\n")
    write_file(LISTING, json.dumps(listing(), indent=1, ensure_ascii=False) + "\n")
    write_tables()
    write_page()


if __name__ == "__main__":
    main()
