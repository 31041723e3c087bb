"""What a statistician would do with the same context: s_1..s_T in, an estimate of W and a prediction out.

One signature, that of the models: an estimator called on tokens [batch pos dim] returns the prediction of s_{t+1} at
every position t, and `estimate(tokens)` the matrix it applies, [batch pos dim dim].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.nn.functional import pad


class Estimator(ABC):
    """An estimate of W from the context, applied to the last token: prediction_T = Ŵ_T s_T."""

    @abstractmethod
    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        """Ŵ_T from s_1..s_T alone, for every T."""

    def __call__(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return torch.einsum("btij,btj->bti", self.estimate(tokens), tokens)


@dataclass(frozen=True)
class Zero(Estimator):
    """Ŵ = 0: the error of knowing nothing."""

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        batch, pos, dim = tokens.shape
        return tokens.new_zeros(batch, pos, dim, dim)


@dataclass(frozen=True)
class OLS(Estimator):
    """Ordinary least squares of minimum norm: Ŵ_T = Y X^+ with X = (s_1 .. s_{T-1}), Y = (s_2 .. s_T) as columns.

    Without noise it is exact from T = dim + 1 on.
    """

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        past, future = tokens[:, :-1], tokens[:, 1:]
        pos = tokens.shape[1]
        known = torch.ones(pos, pos - 1, dtype=torch.bool, device=tokens.device).tril(-1)  # pairs t < T
        contexts = past[:, None] * known[None, :, :, None]  # [batch pos pair dim]
        tolerance = 10 * pos * torch.finfo(tokens.dtype).eps
        return (torch.linalg.pinv(contexts, rtol=tolerance) @ future[:, None]).mT  # states are rows


@dataclass(frozen=True)
class DiagonalOLS(Estimator):
    """Least squares that knows the eigenbasis: lambda_j = sum_{t<T} s_{t+1,j} conj(s_{t,j}) / sum_{t<T} |s_{t,j}|^2.

    Without noise it is exact from T = 2 on: the fair yardstick for diagonal heads.
    """

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        past, future = tokens[:, :-1], tokens[:, 1:]
        energy = _running_sum(past.abs().square())
        cross = _running_sum(future * past.conj())
        return torch.diag_embed(torch.where(energy > 0, cross / energy.where(energy > 0, 1.0), 0.0))


def _running_sum(products: Tensor) -> Tensor:
    """Sum over the pairs (s_t, s_{t+1}) with t < T, for T = 1..pos; nothing at T = 1."""
    return pad(products.cumsum(1), (0, 0, 1, 0))
