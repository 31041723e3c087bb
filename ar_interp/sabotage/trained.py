"""Models trained on the wrong thing, in seconds: shuffled targets, tokens without order, another process or size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint, TrainingRun
from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, Contexts, Process
from ar_interp.sabotage.edits import Change
from ar_interp.seeds import generator_of
from ar_interp.theory import trapped_levels
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

STEPS, BATCH, LR = 150, 64, 1e-2
LEVEL_TOLERANCE = 1e-4
TRAPPED_BY = 200  # steps of L-BFGS: what has not settled by then runs off along the valley at infinity

Batch = tuple[Tensor, Tensor]  # inputs and targets [batch pos dim]


def shuffled_targets(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """A model trained to predict the next token of another sequence."""

    def draw(generator: torch.Generator) -> Batch:
        contexts = _contexts(checkpoint, BATCH, model.config.n_ctx, generator)
        return contexts.inputs, contexts.targets.roll(1, 0)

    return _descend(model, draw, seed)


def independent_tokens(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """A model trained on i.i.d. tokens, each the second one of a sequence of its own."""

    def draw(generator: torch.Generator) -> Batch:
        length = model.config.n_ctx + 1
        tokens = _contexts(checkpoint, BATCH * length, 1, generator).targets[:, 0].unflatten(0, (BATCH, length))
        return tokens[:, :-1], tokens[:, 1:]

    return _descend(model, draw, seed)


def fitted(config: ModelConfig, process: Process, seed: int, *, n_seeds: int = 1, steps: int = 500) -> TrainingRun:
    """A run that ends at a minimum of the exact loss."""
    training = TrainConfig(optimizer="lbfgs", steps=steps, seed=seed, n_seeds=n_seeds, device="cpu")
    return train(config, process, training, progress=False)


def other_family(process: Any) -> Process:
    """Conjugate pairs for the unitary family, and the other way round."""
    return CommutingUnitary(process.dim) if process.conjugate_pairs else CommutingOrthogonal(process.dim)


def refitted(*, other: bool = False, first_seed: int = 0, n_seeds: int = 1) -> Change:
    """A model of the same architecture at a minimum of the exact loss, of its process or of the other family."""

    def change(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        process = other_family(checkpoint.process) if other else checkpoint.process
        return fitted(model.config, process, first_seed + seed, n_seeds=n_seeds).model

    return change


def trapped(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The first seed from `seed` on that descends into the trap with one '-' block."""
    config: ModelConfig = model.config
    level = trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx)[1]
    while True:
        run = fitted(config, checkpoint.process, seed, steps=TRAPPED_BY)
        if abs(run.members["loss"].iloc[0] - level) < LEVEL_TOLERANCE:
            return run.model
        seed += 1


def short_contexts(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Diagonal heads trained on contexts half as long; positional weights of longer ones stay initial."""
    n_ctx = model.config.n_ctx // 2
    run = fitted(replace(model.config, n_ctx=n_ctx), checkpoint.process, seed)
    P = HookedARTransformer(model.config, seed=seed).P.detach().clone()
    P[: n_ctx - 1] = 0
    P[: n_ctx - 1, :n_ctx] = run.model.P.detach()[:-1]
    return HookedARTransformer.from_diagonal(run.model.A.detach(), run.model.B.detach(), P, process=checkpoint.process)


def _contexts(checkpoint: Checkpoint, n: int, length: int, generator: torch.Generator) -> Contexts:
    return checkpoint.process.contexts(n, length, generator=generator, dtype=checkpoint.config.torch_dtype)


def _descend(model: Any, draw: Callable[[torch.Generator], Batch], seed: int) -> HookedARTransformer:
    """Adam from initial weights, on the squared error summed over coordinates, mean over sequences and T >= 2."""
    generator = generator_of(seed)
    learner = model.untrained(seed)
    optimizer = torch.optim.Adam(learner.parameters(), lr=LR)
    for _ in range(STEPS):
        inputs, targets = draw(generator)
        error = (learner(inputs) - targets)[:, 1:]
        optimizer.zero_grad()
        error.abs().square().sum(-1).mean().backward()
        optimizer.step()
    return learner.requires_grad_(False)
