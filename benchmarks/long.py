"""Long contexts: seconds and memory of a prediction at every position, of least squares and of a step of training.

One layer of block scalars on Haar W, d = 5, one sequence; the last line of each table is the exponent of T, fitted to
the logarithms: 1 is linear. Peak memory is that of the whole process, torch and imports included.

    python benchmarks/long.py
"""

import resource
import time
from collections.abc import Callable

import numpy as np
import torch

import ar_interp as ari

LENGTHS = (12_500, 25_000, 50_000, 100_000)
PROCESS = ari.HaarOrthogonal(5)


def config_of(length: int) -> ari.ModelConfig:
    return ari.ModelConfig.augmented(
        dim=5, n_ctx=length, heads="block-scalar", attention="linear/keys", init_scale=0.3, dtype="float32"
    )


def predict(length: int) -> Callable[[], object]:
    model = ari.HookedARTransformer(config_of(length), process=PROCESS, seed=0).requires_grad_(False)
    inputs = PROCESS.contexts(1, length, seed=0).inputs
    return lambda: model(inputs)


def least_squares(length: int) -> Callable[[], object]:
    pairs = PROCESS.contexts(1, length, seed=0).pairs()
    return lambda: ari.estimators.OLS()(pairs)


def train(length: int) -> Callable[[], object]:
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=1e-2, steps=1, batch=1, device="cpu")
    return lambda: ari.train(config_of(length), PROCESS, training, progress=False)


def main() -> None:
    torch.set_num_threads(1)
    works = {"prediction": predict, "least squares": least_squares, "training, one step and its evaluation": train}
    for name, prepare in works.items():
        print(f"| T | {name}, s of CPU | peak memory, GiB |\n|---|---|---|")
        seconds = []
        prepare(1000)()
        for length in LENGTHS:
            work = prepare(length)
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"| {length} | {seconds[-1]:.2f} | {peak:.2f} |", flush=True)
        exponent = np.polyfit(np.log(LENGTHS), np.log(seconds), 1)[0]
        print(f"| exponent | {exponent:.2f} | |\n")


if __name__ == "__main__":
    main()
