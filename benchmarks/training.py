"""Training the paper's two general models: steps per second and time to a loss, against a plain loop.

The plain loop (`reference.py`) is the authors' work written as one would without thinking of speed: 2^14 fixed
sequences indexed one by one, batches of 1024, Adam at 1e-2. Ours is the whole step of `ari.train` on the same model and
batch, fresh sequences included. Rounds alternate; ratios are medians of ratios within a round. Both use one thread,
whose CPU time is taken, as other programs may run beside. For 64 heads the plain loop has batches of 256, for its
memory, and four of its steps count as one.

Time to loss: ours is a whole `ari.train`, with its own batch and schedule, to a test error that is measured afterwards.
The plain loop's time is that of its steps here, times the epochs that it needs for its loss: 200, 200 and 4 epochs for
.0366 (1 layer), .0230 (4 layers) and .139 (25 heads), as the authors' code ends.

    python benchmarks/training.py [--rounds N] [--json FILE] [--steps-alone]
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import reference
import torch
from torch.utils.data import DataLoader

import ar_interp as ari
from ar_interp.training.descent import Descent
from ar_interp.training.fast import available
from ar_interp.training.objectives import sampled_objective

BATCH, N_CTX, DIM = reference.BATCH, reference.N_CTX, reference.DIM
STEPS_PER_EPOCH = reference.N_SEQUENCES // BATCH
PROCESS = ari.HaarOrthogonal(DIM)
EVALUATION_SEED = 2**43


@dataclass(frozen=True)
class Case:
    """A model both ways; `steps` are timed in a round, on each side; the plain one has batches of `plain_batch`."""

    name: str
    config: ari.ModelConfig
    plain: Callable[[], torch.nn.Module]
    steps: int
    target: float | None = None  # test error per coordinate
    epochs: int = 0  # that the plain loop needs for it
    training: ari.TrainConfig | None = None
    plain_batch: int = BATCH


def _schedule(lr: float, batch: int, steps: int) -> ari.TrainConfig:
    return ari.TrainConfig(
        objective="sampled", optimizer="adam", lr=lr, beta2=0.95, schedule="linear", warmup=steps // 20, first_length=1,
        batch=batch, steps=steps, device="cpu",
    )  # fmt: skip


CASES = (
    Case("1 layer", ari.ModelConfig.paper_figure5(n_layers=1), lambda: reference.Figure5(DIM, 1), 6, 0.0366, 200,
         _schedule(0.03, 64, 500)),
    Case("2 layers", ari.ModelConfig.paper_figure5(n_layers=2), lambda: reference.Figure5(DIM, 2), 4),
    Case("4 layers", ari.ModelConfig.paper_figure5(n_layers=4), lambda: reference.Figure5(DIM, 4), 3, 0.0230, 200,
         _schedule(0.01, 64, 1400)),
    Case("1 head", ari.ModelConfig.paper_figure7(n_heads=1), lambda: reference.Figure7(DIM, 1, N_CTX), 4),
    Case("5 heads", ari.ModelConfig.paper_figure7(n_heads=5), lambda: reference.Figure7(DIM, 5, N_CTX), 2),
    Case("25 heads", ari.ModelConfig.paper_figure7(n_heads=25), lambda: reference.Figure7(DIM, 25, N_CTX), 1, 0.139, 4,
         _schedule(0.04, 64, 120)),
    Case("64 heads", ari.ModelConfig.paper_figure7(n_heads=64), lambda: reference.Figure7(DIM, 64, N_CTX), 1,
         plain_batch=256),
)  # fmt: skip


def plain_stepper(case: Case) -> Callable[[], None]:
    """A batch of `BATCH` in the plain loop, its share of the data loader included."""
    torch.manual_seed(0)
    model = case.plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=reference.LR)
    batches = cycle(DataLoader(reference.FixedSequences(4 * BATCH, seed=0), batch_size=case.plain_batch, shuffle=True))

    def step() -> None:
        for _ in range(BATCH // case.plain_batch):
            reference.step(model, optimizer, *next(batches))

    return step


def our_stepper(case: Case) -> Callable[[], None]:
    """One step of ours, with fresh sequences."""
    generators = [torch.Generator().manual_seed(0)]
    objective = sampled_objective(case.config, PROCESS, batch=BATCH, generators=generators, first_length=1)
    parameters = {name: tensor[None].clone() for name, tensor in case.config.initial_parameters(seed=0).items()}
    training = ari.TrainConfig(objective="sampled", optimizer="adam", lr=reference.LR, steps=10**6, first_length=1)
    descent = Descent(objective, parameters, training, generators=generators)
    return lambda: descent.advance(1)


def seconds(step: Callable[[], None], n: int) -> float:
    """CPU time of a step, the mean of n."""
    start = time.process_time()
    for _ in range(n):
        step()
    return (time.process_time() - start) / n


@torch.no_grad()
def test_error(model: ari.HookedARTransformer) -> float:
    """Mean squared error per coordinate over T = 1..n_ctx on unseen sequences."""
    tokens = PROCESS.sample(4096, N_CTX + 1, seed=EVALUATION_SEED, dtype=torch.float32).tokens
    parts = [(model(part[:, :-1]) - part[:, 1:]).square().mean() for part in tokens.split(128)]
    return torch.stack(parts).mean().item()


def machine() -> dict[str, Any]:
    """The machine that the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "torch": torch.__version__, "llvmlite": available(), "load": os.getloadavg()[0]}


def steps_of(case: Case, rounds: int) -> dict[str, float]:
    """Steps a second both ways, and the ratio with its range."""
    plain, ours = plain_stepper(case), our_stepper(case)
    plain()  # warm up
    ours()
    pairs = [(seconds(plain, case.steps), seconds(ours, 4 * case.steps)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    slow, fast = (median(times) for times in zip(*pairs, strict=True))
    return {"plain": 1 / slow, "ours": 1 / fast, "ratio": median(ratios), "low": min(ratios), "high": max(ratios)}


def time_to_loss(case: Case, plain: float) -> dict[str, float]:
    """A whole training of ours, and what the plain loop would need at so many steps a second."""
    assert case.training is not None
    start = time.process_time()
    run = ari.train(case.config, PROCESS, case.training, progress=False)
    took = time.process_time() - start
    theirs = case.epochs * STEPS_PER_EPOCH / plain
    return {"error": test_error(run.model), "seconds": took, "plain_seconds": theirs, "time_ratio": theirs / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="where the results go")
    parser.add_argument("--steps-alone", action="store_true", help="without the trainings to a loss")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine()}
    print(found["machine"])
    print("| model | plain, steps/s | ours, steps/s | step ratio | test error | our time | plain time | time ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        found[case.name] = row = steps_of(case, arguments.rounds)
        line = f"| {case.name} | {row['plain']:.2f} | {row['ours']:.1f} "
        line += f"| {row['ratio']:.1f} ({row['low']:.1f}-{row['high']:.1f}) "
        if case.target is None or arguments.steps_alone:
            print(line + "| | | | |", flush=True)
        else:
            row |= time_to_loss(case, row["plain"])
            reached = "<=" if row["error"] <= case.target else "> (not reached)"
            line += f"| {row['error']:.4f} {reached} {case.target} | {row['seconds']:.1f} s "
            print(f"{line}| {row['plain_seconds']:.0f} s (scaled) | {row['time_ratio']:.0f} |", flush=True)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
