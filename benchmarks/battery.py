"""Do claims fail where, and only where, they must? The sabotage battery, and the noise that claims stand.

Prints three Markdown tables: cells of the battery (a claim about a model) by part and by kind of evidence, and the
noise at which each claim about three models flips. Innocent models are made anew for every seed.

    python benchmarks/battery.py [--innocent SEEDS] [--noise SEEDS] [--jobs N]
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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


def verified(task: tuple[str, int]) -> tuple[pd.DataFrame, float]:
    """The cells of a model with a seed, and the CPU time that they took."""
    torch.set_num_threads(1)
    (name, seed), start = task, time.process_time()
    return run_battery([name], seed=seed).frame.assign(seed=seed), time.process_time() - start


def flips_of(base: str, n_seeds: int) -> pd.Series:
    torch.set_num_threads(1)
    return sensitivity(base, seeds=range(n_seeds)).flips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--innocent", type=int, default=3)
    parser.add_argument("--noise", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    innocent = [name for name, sabotage in BATTERY.items() if sabotage.innocent]
    tasks = [*((name, 0) for name in BATTERY), *((name, s) for s in range(1, options.innocent) for name in innocent)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        noisy = {base: pool.submit(flips_of, base, options.noise) for base in NOISY}
        frames, seconds = zip(*pool.map(verified, tasks), strict=True)
        flips = {base: found.result() for base, found in noisy.items()}
    frame: Any = pd.concat(frames, ignore_index=True)
    result = BatteryResult(frame=frame)
    part_of = {name: part for part, members in PARTS.items() for name in members}
    groups = {part: frame[frame["model"].map(part_of) == part] for part in PARTS}
    print_table("part of the battery", {**groups, "all": frame})
    print_table("evidence", {str(kind): rows for kind, rows in frame.groupby("evidence", sort=False)})
    for name, rows in (("false positives", result.false_positives), ("misses", result.misses)):
        print(f"{name}: {len(rows)}", *zip(rows["model"], rows["claim"], strict=True), sep="\n  ")
    print("never failed:", ", ".join(result.never_failed) or "none")
    print(f"once through: {sum(seconds[: len(BATTERY)]):.0f} s of CPU time\n")
    table = pd.DataFrame(flips)
    print(f"\n| claim | {' | '.join(NOISY)} |\n|" + "---|" * (len(NOISY) + 1))
    for claim, row in table.iterrows():
        cells = ["" if pd.isna(value) else f"{value:.0e}" for value in row]
        print(f"| `{claim}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
