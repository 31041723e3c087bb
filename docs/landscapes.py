"""The landscapes: sweeps of `landscapes/`, a table, claims and figures of each.

python docs/landscapes.py FOLDER [--jobs N]     # trains what FOLDER has not, then writes everything anew
python docs/landscapes.py                       # trains nothing: claims, tables and figures of the rows that are there
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs

import ar_interp as ari
from ar_interp._shipped import landscapes_folder
from ar_interp._writing import write_file
from ar_interp.studies.landscapes import LANDSCAPES
from ar_interp.sweeps.kept import write_rows

PICTURES = Path(__file__).parent / "landscapes"
SHARES = {"share": "at the minimum", "independent": "independent heads", "runaway": "run away"}
PAGE = """# Landscapes: where training ends, over seeds

Written by `python docs/landscapes.py` from the sweeps in `landscapes/`: the TOML files say what was trained, the
Parquet files beside them hold a row of each training. `ar-interp landscapes` measures the claims below, and trains some
rows of each file anew, drawn at random, to see that they are those of the trainings that it asks for.

A seed is at the minimum where its loss is within .01 of what theory gives; brackets are 95 % intervals, Wilson's of a
share, of order statistics for a median. *Independent heads* is the share of one head to the power H; *run away* counts
the seeds with p_{T-1}/p_T > 1 at the end. With up to d/2 heads descent ends on a level of `theory.trapped_levels`: *on
no level* counts the seeds that have not settled, or run away.
"""


def train(name: str, folder: Path, jobs: int) -> None:
    """The rows of a sweep in one file."""
    file = landscapes_folder() / f"{name}.toml"
    for _ in ari.sweep(file, folder / name, jobs=jobs):
        pass
    write_rows(file, folder / name, file.with_suffix(".parquet"))


def claimed(found: Iterable[ari.Claim]) -> str:
    lines = ["| statement | measured | control | verdict |", "| --- | --- | --- | --- |"]
    for each in found:
        (low, high), control = each.estimate.interval, each.control
        measured = f"{each.estimate.value:.3g} [{low:.3g}, {high:.3g}], {each.side} {each.predicted:g}"
        lines.append(
            f"| {each.statement} | {measured} | {control.measured:.3g} ({control.description}) | {each.verdict} |"
        )
    return "\n".join(lines) + "\n"


def table(found: pd.DataFrame) -> str:
    columns = {name: title for name, title in SHARES.items() if name in found} or {"median": "median"}
    settled = "settled" in found
    axes = [axis for axis in list(found)[: list(found).index("n")] if len(set(found[axis])) > 1]
    lines = [[*axes, "seeds", *columns.values(), *["theory"] * ("theory" in found), *["on no level"] * settled]]
    lines.append(["---"] * len(lines[0]))
    for row in found.to_dict("records"):
        cells = [str(row[axis]) for axis in axes] + [str(row["n"])]
        for name in columns:
            low, high = (row[bound if name in ("share", "median") else f"{name}_{bound}"] for bound in ("low", "high"))
            void = name == "independent" and 2 * row["n_heads"] > row["dim"]
            digits = 3 if name in SHARES else 2
            cells.append("–" if void else f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        if "theory" in found:
            cells.append(f"{row['theory']:.1f}" if row["dim"] == 1 else "–")
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
    sections, figures = [PAGE], {}
    for name, landscape in LANDSCAPES.items():
        if options.folder is not None:
            for sweep in landscape.sweeps:
                train(sweep, options.folder, options.jobs)
        opened = landscape.open()
        sections.append(f"## {landscape.title}\n\n{landscape.question} Rows {opened.fingerprint}.\n")
        sections.append(claimed(opened.shown))
        for builder, figure in landscape.figures(opened.counted).items():
            path = PICTURES / f"{name}-{builder}.svg"
            figures[path] = figure
            seen = figure.layout.title.text.replace("<br>", " ")
            sections.append(f"![{seen}]({path.relative_to(PICTURES.parent)})\n")
        sections.append(table(opened.counted) + "\n")
    draw(figures, options.chromium)
    write_file(PICTURES.parent / "landscapes.md", "\n".join(sections))


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
