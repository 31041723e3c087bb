"""How much faster many seeds are as one ensemble than one after another, on the exact population loss.

Both do the same work (gradient descent, d = 10, H = 5, n_ctx = 20, conjugate pairs) in the same process, in turn;
the ratio is the median over rounds of (time of the loop) / (time of the ensemble).

    python benchmarks/ensemble.py [seeds]
"""

import sys
import time
from dataclasses import replace
from statistics import median

import ar_interp as ari

STEPS, ROUNDS = 200, 5


def seconds(training: ari.TrainConfig) -> float:
    """Wall time of one training."""
    config = ari.ModelConfig.diagonal(dim=10, n_heads=5, n_ctx=20)
    start = time.perf_counter()
    ari.train(config, ari.CommutingOrthogonal(10), training, progress=False)
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


if __name__ == "__main__":
    main()
