"""How much faster many seeds are as one ensemble than one after another, on the exact population loss.

Both do the same work (gradient descent, d = 10, H = 5, n_ctx = 20, conjugate pairs) in the same process, in turn;
the ratio is the median over rounds of (time of the loop) / (time of the ensemble). The last line is one training to the
optimum, of the size for which the authors' code takes 100 000 steps and 279 s to a relative error of 3.8e-4.

    python benchmarks/ensemble.py [seeds]
"""

import sys
import time
from dataclasses import replace
from statistics import median

import ar_interp as ari

STEPS, ROUNDS = 200, 5


def train(training: ari.TrainConfig, n_heads: int = 5) -> ari.TrainingRun:
    config = ari.ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=20)
    return ari.train(config, ari.CommutingOrthogonal(10), training, progress=False)


def seconds(training: ari.TrainConfig) -> float:
    """Wall time of one training."""
    start = time.perf_counter()
    train(training)
    return time.perf_counter() - start


def main() -> None:
    n_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    together = ari.TrainConfig(lr=3e-4, steps=STEPS, n_seeds=n_seeds)
    alone = [replace(together, n_seeds=1, seed=seed) for seed in range(n_seeds)]
    seconds(alone[0])  # imports
    ratios, per_step = [], []
    for _ in range(ROUNDS):
        loop = sum(map(seconds, alone))
        ensemble = seconds(together)
        ratios.append(loop / ensemble)
        per_step.append(ensemble / STEPS / n_seeds * 1e6)
    print(
        f"{n_seeds} seeds, {STEPS} steps, {ROUNDS} rounds: the ensemble is {median(ratios):.1f} times faster than the"
    )
    print(f"loop (rounds {min(ratios):.1f} to {max(ratios):.1f}); {median(per_step):.1f} us per seed and step")
    start = time.perf_counter()
    run = train(ari.TrainConfig(optimizer="lbfgs", steps=2000), n_heads=8)
    print(f"8 heads by L-BFGS: loss {run.members['loss'].min():.2g} in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
