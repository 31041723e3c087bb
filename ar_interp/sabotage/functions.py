"""Models that are healthy inside and answer something else than their weights say."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.estimators import OLS
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.edits import with_weights

N_SEQUENCES = 1024
PATTERN = "blocks.0.attn.hook_pattern"


class Impostor(HookedARTransformer):
    """Runs the model with all its hooks, and answers something else."""

    answer: Callable[[Tensor], Tensor]

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return self.answer(tokens).to(super().forward(tokens).dtype)


def impostor(model: Any, answer: Callable[[Tensor], Tensor]) -> Impostor:
    """The model in the hands of an impostor."""
    other = with_weights(model, model.state_dict(), Impostor)
    other.answer = answer
    return other


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


class MeanEstimate(HookedARTransformer):
    """Multiplies its values by the mean attention pattern of many sequences: the mean estimate of W."""

    pattern: Inexact[Tensor, "1 head query key"]

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        n = tokens.shape[1]
        with self.hooks(fwd_hooks=[(PATTERN, lambda own, hook: self.pattern[..., :n, :n].expand_as(own))]):
            return super().forward(tokens)


@torch.no_grad()
def mean_estimate(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Diagonal heads, whose estimate is in the pattern, with the mean pattern of many sequences."""
    other = with_weights(model, model.state_dict(), MeanEstimate)
    tokens = checkpoint.process.contexts(N_SEQUENCES, model.config.n_ctx, seed=seed).inputs
    other.pattern = model.run_with_cache(tokens, names_filter=PATTERN)[1][PATTERN].mean(0, keepdim=True)
    return other
