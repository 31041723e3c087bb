"""Long, wide and many contexts: seconds and memory of predictions, of least squares, of training and of probes.

One layer of block scalars on Haar W. First one sequence of d = 5, longer and longer; the last line of each table is the
exponent of T, fitted to the logarithms: 1 is linear. Then the probes, each in a process of its own: at T = 2000, with
d = 64, and on 100 000 contexts. Peak memory is that of the whole process, torch, imports and contexts included. CPU
time does not depend on what else the machine does; wall time does.

    python benchmarks/long.py
    python benchmarks/long.py recover_context 64 2000 5      # a probe, contexts, T and d
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import ar_interp as ari
from ar_interp.probes.steps import equivalent_steps_of

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


PROBES = {
    "predictions": lambda model, a, b: [model(part.inputs) for part in a.split(256)],
    "recover_context": lambda model, a, b: ari.recover_context(model, a),
    "swap_context": lambda model, a, b: ari.swap_context(model, a, b, positions=[a.length]),
    "identify_algorithm": lambda model, a, b: ari.identify_algorithm(model, a),
    "equivalent_steps_of": lambda model, a, b: equivalent_steps_of(model, a),
    "replace_last_token": lambda model, a, b: ari.replace_last_token(model, a, positions=[a.length]),
    "ablate_heads": lambda model, a, b: ari.ablate_heads(model, a),
}
SIZES = {"long": (64, 2000, 5), "wide": (256, 50, 64), "many": (100_000, 50, 5)}  # contexts, T, d


def probe(name: str, n: int, length: int, dim: int) -> None:
    """Print a row: a probe, contexts, T, d, seconds of CPU, seconds, GiB."""
    process = ari.HaarOrthogonal(dim)
    config = ari.ModelConfig.augmented(
        dim=dim, n_ctx=length, heads="block-scalar", attention="linear/keys", init_scale=0.3, dtype="float32"
    )
    model = ari.HookedARTransformer(config, process=process, seed=0).requires_grad_(False)
    contexts = [process.contexts(n, length, seed=seed, dtype=torch.float32) for seed in (0, 1)]
    used, start = time.process_time(), time.perf_counter()
    with torch.no_grad():
        PROBES[name](model, *contexts)
    used, start = time.process_time() - used, time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {name} | {n} | {length} | {dim} | {used:.1f} | {start:.1f} | {peak:.2f} |", flush=True)


def probes() -> None:
    """A row of `probe` for every probe and size."""
    print("| probe | contexts | T | d | s of CPU | s | peak memory, GiB |\n|---|---|---|---|---|---|---|", flush=True)
    for size in SIZES.values():
        for name in PROBES:
            subprocess.run([sys.executable, __file__, name, *map(str, size)], check=True)


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        name, *size = sys.argv[1:]
        return probe(name, *map(int, size))
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
    return probes()


if __name__ == "__main__":
    main()
