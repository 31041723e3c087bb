"""Training the paper's two general models: steps per second and time to a loss, against a plain loop.

The plain loop (`reference.py`) is the authors' work written as one would without thinking of speed: 2^14 fixed
sequences indexed one by one, batches of 1024, Adam at 1e-2. Ours draws fresh sequences, takes the fast step and an Adam
step on the same model and batch. Rounds alternate; ratios are medians of ratios within a round. Both use one thread.

Time to loss: ours is a whole `ari.train`, with its own batch and schedule, to a test error that is measured afterwards.
The plain loop's time is that of its steps here, times the epochs that it needs for its loss: 200, 200 and 4 epochs for
.0366 (1 layer), .0230 (4 layers) and .139 (25 heads), as the authors' code ends.

    python benchmarks/training.py [rounds]
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median

import reference
import torch
from torch.utils.data import DataLoader

import ar_interp as ari
from ar_interp.training.objectives import sampled_objective, value_and_gradients

BATCH, N_CTX, DIM = reference.BATCH, reference.N_CTX, reference.DIM
STEPS_PER_EPOCH = reference.N_SEQUENCES // BATCH
PROCESS = ari.HaarOrthogonal(DIM)
EVALUATION_SEED = 2**43


@dataclass(frozen=True)
class Case:
    """A model both ways; `steps` are timed in a round, on each side."""

    name: str
    config: ari.ModelConfig
    plain: Callable[[], torch.nn.Module]
    steps: int
    target: float | None = None  # test error per coordinate
    epochs: int = 0  # that the plain loop needs for it
    training: ari.TrainConfig | None = None


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
)  # fmt: skip


def plain_stepper(case: Case) -> Callable[[], None]:
    """One step of the plain loop, its share of the data loader included."""
    torch.manual_seed(0)
    model = case.plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=reference.LR)
    batches = cycle(DataLoader(reference.FixedSequences(4 * BATCH, seed=0), batch_size=BATCH, shuffle=True))

    def step() -> None:
        reference.step(model, optimizer, *next(batches))

    return step


def our_stepper(case: Case) -> Callable[[], None]:
    """One step of ours, with fresh sequences."""
    generator = torch.Generator().manual_seed(0)
    objective = sampled_objective(case.config, PROCESS, batch=BATCH, generators=[generator], first_length=1)
    parameters = {name: tensor[None].clone() for name, tensor in case.config.initial_parameters(seed=0).items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=reference.LR)

    def step() -> None:
        _, gradients = value_and_gradients(objective, parameters)
        for name, tensor in parameters.items():
            tensor.grad = gradients[name]
        optimizer.step()

    return step


def seconds(step: Callable[[], None], n: int) -> float:
    """Wall time of a step, the mean of n."""
    start = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - start) / n


@torch.no_grad()
def test_error(model: ari.HookedARTransformer) -> float:
    """Mean squared error per coordinate over T = 1..n_ctx on unseen sequences."""
    tokens = PROCESS.sample(4096, N_CTX + 1, seed=EVALUATION_SEED, dtype=torch.float32).tokens
    parts = [(model(part[:, :-1]) - part[:, 1:]).square().mean() for part in tokens.split(128)]
    return torch.stack(parts).mean().item()


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("| model | plain, steps/s | ours, steps/s | step ratio | test error | our time | plain time | time ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        plain, ours = plain_stepper(case), our_stepper(case)
        plain()  # warm up
        ours()
        pairs = [(seconds(plain, case.steps), seconds(ours, 4 * case.steps)) for _ in range(rounds)]
        ratios = [a / b for a, b in pairs]
        slow, fast = (median(times) for times in zip(*pairs, strict=True))
        spread = f"{median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        row = f"| {case.name} | {1 / slow:.2f} | {1 / fast:.1f} | {spread} "
        if case.training is None or case.target is None:
            print(row + "| | | | |", flush=True)
            continue
        start = time.perf_counter()
        run = ari.train(case.config, PROCESS, case.training, progress=False)
        took = time.perf_counter() - start
        reference_time = case.epochs * STEPS_PER_EPOCH * slow
        error = test_error(run.model)
        reached = "<=" if error <= case.target else "> (not reached)"
        print(
            f"{row}| {error:.4f} {reached} {case.target} | {took:.1f} s | {reference_time:.0f} s (scaled) "
            f"| {reference_time / took:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
