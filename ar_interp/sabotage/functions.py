"""Models that are healthy inside and answer something else than their weights say."""

from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.estimators import OLS
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.edits import Change, with_weights

N_SEQUENCES = 1024
PATTERN = "blocks.0.attn.hook_pattern"


class Impostor(HookedARTransformer):
    """Runs the model with all its hooks, and answers something else."""

    def answer(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        raise NotImplementedError

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return self.answer(tokens).to(super().forward(tokens).dtype)


class Copies(Impostor):
    """Predicts s_T again."""

    def answer(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return tokens


class Memorises(Impostor):
    """Predicts W s_T with one W, whatever the context."""

    W: Inexact[Tensor, "dim dim"]

    def answer(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return tokens @ self.W.T


class LeastSquares(Impostor):
    """Predicts with the least-squares estimate of W, which one layer cannot compute."""

    def answer(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return OLS()(tokens)


class MeanEstimate(HookedARTransformer):
    """Multiplies its values by the mean attention pattern of many sequences: the mean estimate of W."""

    pattern: Inexact[Tensor, "1 head query key"]

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        n = tokens.shape[1]
        with self.hooks(fwd_hooks=[(PATTERN, lambda own, hook: self.pattern[..., :n, :n].expand_as(own))]):
            return super().forward(tokens)


def answers(kind: type[Impostor]) -> Change:
    """The model in the hands of an impostor."""
    return lambda model, checkpoint, seed: with_weights(model, model.state_dict(), kind)


copies, least_squares = answers(Copies), answers(LeastSquares)


def memorises(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    impostor = with_weights(model, model.state_dict(), Memorises)
    impostor.W = checkpoint.process.sample(1, 2, seed=seed, dtype=model.config.torch_dtype).W[0]
    return impostor


@torch.no_grad()
def mean_estimate(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Diagonal heads, whose estimate is in the pattern, with the mean pattern of many sequences."""
    impostor = with_weights(model, model.state_dict(), MeanEstimate)
    tokens = checkpoint.process.contexts(N_SEQUENCES, model.config.n_ctx, seed=seed).inputs
    impostor.pattern = model.run_with_cache(tokens, names_filter=PATTERN)[1][PATTERN].mean(0, keepdim=True)
    return impostor
