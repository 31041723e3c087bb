"""Where gradient descent on conjugate pairs ends, by number of heads: one Markdown table.

For H = 1..12 heads (d = 10, n_ctx = 20, weights from N(0, .1^2)): the minimum max(d - 2H, 0), the lowest loss reached,
the share of seeds within .01 of the minimum with its 95 % Wilson interval beside 2^-H, and, for H <= d / 2, how many
seeds end at each predicted level (by number of '-' blocks).

    python benchmarks/landscape.py [seeds] [steps]
"""

import sys

import numpy as np
import torch
from scipy.stats import binomtest

import ar_interp as ari
from ar_interp.theory import orthogonal_minimum, trapped_levels

DIM, N_CTX = 10, 20
WITHIN = 0.01


def row(n_heads: int, n_seeds: int, steps: int) -> str:
    """One line of the table."""
    config = ari.ModelConfig.diagonal(dim=DIM, n_heads=n_heads, n_ctx=N_CTX)
    training = ari.TrainConfig(lr=3e-4, steps=steps, n_seeds=n_seeds)
    losses = ari.train(config, ari.CommutingOrthogonal(DIM), training, progress=False).members["loss"].to_numpy()
    minimum = orthogonal_minimum(dim=DIM, n_heads=n_heads)
    reached = int((losses < minimum + WITHIN).sum())
    interval = binomtest(reached, n_seeds).proportion_ci(method="wilson")
    counts = "-"
    if 2 * n_heads <= DIM:
        levels = trapped_levels(dim=DIM, n_heads=n_heads, max_length=N_CTX)
        distances = np.abs(losses[:, None] - levels)
        nearest = distances.argmin(axis=1)[distances.min(axis=1) < WITHIN]
        counts = " ".join(map(str, np.bincount(nearest, minlength=n_heads + 1)))
    return (
        f"| {n_heads} | {minimum:g} | {losses.min():.3g} | {np.median(losses):.4g} | {reached}/{n_seeds} = "
        f"{reached / n_seeds:.3f} [{interval.low:.3f}, {interval.high:.3f}] | "
        f"{0.5**n_heads if 2 * n_heads <= DIM else float('nan'):.3f} | {counts} |"
    ).replace("nan", "-")


def main() -> None:
    torch.set_num_threads(1)
    n_seeds, steps = (int(argument) for argument in (*sys.argv[1:], "256", "15000")[:2])
    print(f"d = {DIM}, n_ctx = {N_CTX}, {n_seeds} seeds, {steps} steps at lr 3e-4\n")
    print("| H | minimum | lowest | median | share at the minimum | 2^-H | seeds by number of '-' blocks |")
    print("|---|---|---|---|---|---|---|")
    for n_heads in range(1, 13):
        print(row(n_heads, n_seeds, steps), flush=True)


if __name__ == "__main__":
    main()
