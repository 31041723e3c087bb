"""The landscapes: sweeps of `docs/landscapes/`, their rows as one Parquet file each, tables and figures of them.

python docs/landscapes.py FOLDER [--jobs N]     # trains what FOLDER has not, then writes everything anew
python docs/landscapes.py                       # trains nothing: tables and figures of the rows that are there
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs

import ar_interp as ari
from ar_interp._writing import write_file
from ar_interp.claims.estimate import SEEDS

MORE = 1.2  # times as often as independent heads

HERE = Path(__file__).parent / "landscapes"
PARTS = {"pairs": ("one-head", "pairs")}  # sweeps that are shown together
SWEEPS = {  # title of its table, figures
    "pairs": ("Conjugate pairs", ("share_by_heads", "runaway_by_heads")),
    "independent": ("Independent eigenvalues", ("share_by_heads",)),
    "initial-scale": ("The scale of the initial weights, conjugate pairs", ("share_by_scale",)),
}
TRAINED: dict[str, Any] = {"evidence": "training", "source": "gradient descent of 512 seeds a point"}
PAGE = """# Landscapes: where descent ends, by number of heads and initial scale

Written by `python docs/landscapes.py` from the sweeps in `docs/landscapes/`: the TOML files say what was trained, the
Parquet files beside them hold a row of each training. A seed is at the minimum where its loss is within .01 of what
theory gives; brackets are 95 % Wilson intervals. *Independent heads* is the share of one head to the power H; *run
away* counts the seeds with p_{T-1}/p_T > 1 at the end. With up to d/2 heads descent ends on a level of
`theory.trapped_levels`: *on no level* counts the seeds that have not settled, or run away.
"""


def rows_of(name: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(HERE / f"{part}.parquet") for part in PARTS.get(name, (name,))])


def train(name: str, folder: Path, jobs: int) -> None:
    """The rows of a sweep in one file, in the order of its points and seeds."""
    rows = pd.DataFrame(ari.sweep(HERE / f"{name}.toml", folder / name, jobs=jobs))
    axes = list(rows)[: list(rows).index("seed") + 1]
    rows.sort_values(axes, ignore_index=True).to_parquet(HERE / f"{name}.parquet", compression="zstd", index=False)


def claims(pairs: Any, independent: Any) -> Iterator[ari.Claim]:
    """What the landscapes show; each control is the same count where it must not be so."""
    for dim in sorted(set(pairs["dim"])):
        at = partial(_share, pairs, dim)
        heads = max(h for h in pairs.loc[pairs["dim"] == dim, "n_heads"] if 2 * h <= dim)
        one = at(1)
        alone = ari.Estimate(one.value**heads, {SEEDS: heads * one.half_width * one.value ** (heads - 1)}, one.n)
        yield ari.Claim(
            name=f"certain/d = {dim}",
            statement=f"Conjugate pairs, d = {dim}: with d heads every seed reaches the minimum",
            predicted=1.0,
            side="at least",
            estimate=at(dim),
            tolerance=0.01,
            reason="the interval of 512 seeds of 512",
            control=ari.Control(description=f"{dim - 1} heads", estimate=at(dim - 1)),
            **TRAINED,
        )
        yield ari.Claim(
            name=f"dependence/d = {dim}",
            statement=f"Conjugate pairs, d = {dim}, H = {heads}: more seeds reach the minimum than if heads were "
            f"trapped independently, over the share of one head to the power {heads}",
            predicted=MORE,
            side="at least",
            estimate=at(heads).over(alone),
            tolerance=0.0,
            reason="a fifth more than independence, so that 1 lies outside",
            control=ari.Control(description="independent heads", estimate=ari.Estimate(1.0)),
            **TRAINED,
        )
    reached = round((independent["share"] * independent["n"]).sum())
    yield ari.Claim(
        name="certain/independent eigenvalues",
        statement="Independent eigenvalues: every seed reaches the minimum at every number of heads",
        predicted=1.0,
        side="at least",
        estimate=ari.Estimate.share(reached, int(independent["n"].sum()), SEEDS),
        tolerance=0.01,
        reason="as for conjugate pairs",
        control=ari.Control(description="conjugate pairs, d = 8, 4 heads", estimate=_share(pairs, 8, 4)),
        **TRAINED,
    )


def claimed(found: Iterator[ari.Claim]) -> str:
    lines = ["| statement | measured | control | verdict |", "| --- | --- | --- | --- |"]
    for each in found:
        (low, high), control = each.estimate.interval, each.control
        measured = f"{each.estimate.value:.3g} [{low:.3g}, {high:.3g}], at least {each.predicted:g}"
        lines.append(
            f"| {each.statement} | {measured} | {control.measured:.3g} ({control.description}) | {each.verdict} |"
        )
    return "\n".join(lines) + "\n"


def _share(found: Any, dim: int, n_heads: int) -> ari.Estimate:
    (row,) = found[(found["dim"] == dim) & (found["n_heads"] == n_heads)].to_dict("records")
    return ari.Estimate.share(round(row["share"] * row["n"]), row["n"], SEEDS)


def table(found: pd.DataFrame) -> str:
    axes = list(found)[: list(found).index("n")]
    columns = {"share": "at the minimum", "independent": "independent heads", "runaway": "run away"}
    settled = "settled" in found
    columns = {name: title for name, title in columns.items() if name in found}
    lines = [[*axes, "seeds", *columns.values(), *["on no level"] * settled]]
    lines.append(["---"] * len(lines[0]))
    for row in found.to_dict("records"):
        cells = [f"{row[axis]:g}" for axis in axes] + [str(row["n"])]
        for name in columns:
            low, high = (row[bound if name == "share" else f"{name}_{bound}"] for bound in ("low", "high"))
            void = name == "independent" and 2 * row["n_heads"] > row["dim"]
            cells.append("–" if void else f"{row[name]:.3f} [{low:.3f}, {high:.3f}]")
        if settled:
            cells.append(f"{1 - row['settled']:.3f}" if row["settled"] == row["settled"] else "–")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of the sweeps' own files; see `ar-interp sweep`")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser that draws")
    options = parser.parse_args()
    sections, figures, landscapes = [], {}, {}
    for name, (title, builders) in SWEEPS.items():
        if options.folder is not None:
            for part in PARTS.get(name, (name,)):
                train(part, options.folder, options.jobs)
        found = landscapes[name] = ari.landscape(rows_of(name))
        sections.append(f"## {title}\n")
        for builder in builders:
            path = HERE / f"{name}-{builder}.svg"
            figures[path] = getattr(ari.figures, builder)(found)
            seen = figures[path].layout.title.text.replace("<br>", " ")
            sections.append(f"![{seen}]({path.relative_to(HERE.parent)})\n")
        sections.append(table(found) + "\n")
    draw(figures, options.chromium)
    found = claims(landscapes["pairs"], landscapes["independent"])
    write_file(HERE.parent / "landscapes.md", "\n".join([PAGE, claimed(found), *sections]))


def draw(figures: dict[Path, go.Figure], chromium: str) -> None:
    """Write every figure as SVG."""
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.add_script_tag(content=get_plotlyjs())
        for path, figure in figures.items():
            picture = "figure => Plotly.toImage(JSON.parse(figure), {format: 'svg', imageDataOnly: true, width: 860})"
            write_file(path, page.evaluate(picture, figure.to_json()))


if __name__ == "__main__":
    main()
