"""How much faster a sweep of ablations is than one forward pass per ablated component.

Both do the same work (zero ablation of every head, or of the keys at every offset) on the same sequences in the same
process, in turn; the ratio is the median over rounds of (time of the loop) / (time of the sweep). The loop puts all
sequences into one forward pass and computes nothing but the losses.

    python benchmarks/interventions.py [rounds]
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch

import ar_interp as ari
from ar_interp.probes.ablations import ablate_heads, ablate_positions

SHAPES = {
    "10 diagonal heads, d = 10, T = 20": (
        ari.ModelConfig.diagonal(dim=10, n_heads=10, n_ctx=20),
        ari.CommutingUnitary(10),
    ),
    "25 full heads, d = 5, T = 50": (
        ari.ModelConfig.full(dim=5, n_ctx=50, n_heads=25, dtype="float32"),
        ari.HaarOrthogonal(5),
    ),
    "4 layers of 4 augmented heads, d = 5, T = 50": (
        ari.ModelConfig.augmented(dim=5, n_ctx=50, n_layers=4, n_heads=4, dtype="float32"),
        ari.HaarOrthogonal(5),
    ),
    "4 layers of 1 augmented head, d = 5, T = 50": (
        ari.ModelConfig.augmented(dim=5, n_ctx=50, n_layers=4, dtype="float32"),
        ari.HaarOrthogonal(5),
    ),
}


class Removal(NamedTuple):
    """Zero where `view` looks into an activation."""

    hook: str
    view: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        self.view(value).zero_()
        return value


def every_head(config: ari.ModelConfig) -> list[Removal]:
    return [
        Removal(f"blocks.{layer}.attn.hook_result", lambda value, head=head: value[:, :, head])
        for layer in range(config.n_layers)
        for head in range(config.n_heads)
    ]


def every_offset(config: ari.ModelConfig) -> list[Removal]:
    return [
        Removal("blocks.0.attn.hook_pattern", lambda value, offset=offset: value.diagonal(-offset, -2, -1))
        for offset in range(config.n_ctx)
    ]


@torch.no_grad()
def loop(model: ari.HookedARTransformer, sequences: ari.Sequences, removals: list[Removal]) -> list[float]:
    """The loss without each component, and in the end with all."""
    inputs, targets = sequences.tokens[:, :-1], sequences.tokens[:, 1:]
    losses = []
    for removal in [*removals, None]:
        with model.hooks(fwd_hooks=[] if removal is None else [(removal.hook, removal)]):
            losses.append((model(inputs) - targets)[:, 1:].abs().square().sum(-1).mean().item())
    return losses


def seconds(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def row(name: str, n: int, what: str, rounds: int) -> str:
    """One line of the table."""
    config, process = SHAPES[name]
    model = ari.HookedARTransformer(config, process=process)
    sequences = process.sample(n, config.n_ctx + 1, seed=0, dtype=config.torch_dtype)
    sweep, removals = {
        "heads": (ablate_heads, every_head(config)),
        "keys": (ablate_positions, every_offset(config)),
    }[what]
    found, expected = sweep(model, sequences).to_frame()["loss"].to_numpy(), loop(model, sequences, removals)[:-1]
    assert abs(found / expected - 1).max() < 1e-4
    times = [(seconds(loop, model, sequences, removals), seconds(sweep, model, sequences)) for _ in range(rounds)]
    ratios = [a / b for a, b in times]
    slow, fast = (1e3 * median(column) for column in zip(*times, strict=True))
    spread = f"{median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
    return f"| {name} | {len(removals)} {what} | {n} | {slow:.0f} ms | {fast:.0f} ms | {spread} |"


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("| model | removed | sequences | loop | sweep | ratio |")
    print("|---|---|---|---|---|---|")
    for name in SHAPES:
        for what in ("heads", "keys"):
            for n in (8, 128):
                print(row(name, n, what, rounds), flush=True)


if __name__ == "__main__":
    main()
