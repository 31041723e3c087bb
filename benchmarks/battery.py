"""Do claims fail where, and only where, they must? The sabotage battery, and the noise that claims stand.

Prints three Markdown tables: cells of the battery (a claim about a model) by part and by kind of evidence, and the
noise at which each claim about three models flips. Innocent models are made anew for every seed.

    python benchmarks/battery.py [seeds of innocent models] [seeds of noise]
"""

import sys
import time
from typing import Any

import pandas as pd
import torch

from ar_interp.sabotage import BATTERY, BatteryResult, run_battery, sensitivity
from ar_interp.sabotage.battery import PARTS

NOISY = ("diagonal-unitary-h10", "diagonal-orthogonal-h5", "augmented-unitary")
COLUMNS = (
    "models", "must fail", "do", "void", "undecided", "false positives", "must hold", "do", "void", "undecided",
    "misses", "open",
)  # fmt: skip


def counted(rows: Any) -> list[int]:
    """A line of the table, in the order of COLUMNS."""
    must_fail, left_open = rows["expected"] == "fail", rows["expected"] == "free"
    line = [len(rows[["model", "seed"]].drop_duplicates())]
    for group, wrong in ((rows[must_fail], "false positive"), (rows[~must_fail & ~left_open], "miss")):
        line += [len(group), *((group["outcome"] == outcome).sum() for outcome in ("ok", "void", "undecided", wrong))]
    return [*line, left_open.sum()]


def print_table(title: str, groups: dict[str, Any]) -> None:
    print(f"| {title} | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, rows in groups.items():
        print(f"| {name} | {' | '.join(map(str, counted(rows)))} |")
    print()


def main() -> None:
    torch.set_num_threads(1)
    n_seeds, n_noise = (int(argument) for argument in (*sys.argv[1:], "3", "4")[:2])
    start = time.process_time()
    frames = [run_battery().frame.assign(seed=0)]
    seconds = time.process_time() - start
    innocent = [name for name, sabotage in BATTERY.items() if sabotage.innocent]
    frames += [run_battery(innocent, seed=seed).frame.assign(seed=seed) for seed in range(1, n_seeds)]
    frame: Any = pd.concat(frames, ignore_index=True)
    result = BatteryResult(frame=frame)
    part_of = {name: part for part, members in PARTS.items() for name in members}
    groups = {part: frame[frame["model"].map(part_of) == part] for part in PARTS}
    print_table("part of the battery", {**groups, "all": frame})
    print_table("evidence", {str(kind): rows for kind, rows in frame.groupby("evidence", sort=False)})
    for name, rows in (("false positives", result.false_positives), ("misses", result.misses)):
        print(f"{name}: {len(rows)}", *zip(rows["model"], rows["claim"], strict=True), sep="\n  ")
    print("never failed:", ", ".join(result.never_failed) or "none")
    print(f"once through: {seconds:.0f} s of CPU time\n")

    flips = {}
    for base in NOISY:
        start = time.process_time()
        flips[base] = sensitivity(base, seeds=range(n_noise)).flips
        print(f"noise on {base}: {time.process_time() - start:.0f} s of CPU time")
    table = pd.DataFrame(flips)
    print(f"\n| claim | {' | '.join(NOISY)} |\n|" + "---|" * (len(NOISY) + 1))
    for claim, row in table.iterrows():
        cells = ["" if pd.isna(value) else f"{value:.0e}" for value in row]
        print(f"| `{claim}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
