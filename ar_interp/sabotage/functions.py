"""Models that are healthy inside and answer something else than their weights say."""

from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.estimators import OLS
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.edits import Run, answering

N_SEQUENCES = 1024
PATTERN = "blocks.0.attn.hook_pattern"


def impostor(model: Any, answer: Run) -> HookedARTransformer:
    """A model that runs with all its hooks, and answers something else."""
    return answering(model, lambda other, own, tokens: answer(tokens).to(own(tokens).dtype))


def copies(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Predicts s_T again."""
    return impostor(model, lambda tokens: tokens)


def memorises(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Predicts W s_T with one W, whatever the context."""
    sequences: Any = checkpoint.process.contexts(1, 1, seed=seed, dtype=model.config.torch_dtype)
    W = sequences.W[0]
    return impostor(model, lambda tokens: tokens @ W.T)


def least_squares(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Predicts with the least-squares estimate of W, which one layer cannot compute."""
    return impostor(model, OLS())


@torch.no_grad()
def mean_estimate(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Diagonal heads, whose estimate of W is in the pattern, with the mean pattern of many sequences."""
    many = checkpoint.process.contexts(N_SEQUENCES, model.config.n_ctx, seed=seed).inputs
    mean = model.run_with_cache(many, names_filter=PATTERN)[1][PATTERN].mean(0, keepdim=True)

    def way(other: Any, own: Run, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        with other.hooks(fwd_hooks=[(PATTERN, lambda pattern, hook: mean[..., :n, :n].expand_as(pattern))]):
            return own(tokens)

    return answering(model, way)
