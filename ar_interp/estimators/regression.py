"""Estimators of a function from examples: at every T an answer to x_T from the pairs before it.

Called on `contexts.pairs()` like all estimators; there is no matrix, and so no `estimate`. At T = 1 the answer is 0,
the mean of the prior.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.processes.contexts import Pairs
from ar_interp.processes.regression import NonparametricRegression

Answers = Float[Tensor, "batch pos 1"]
LEAST_PENALTY = 1e-10  # of the largest kernel, without noise
PART = 256  # contexts whose kernel matrices are held at a time


@dataclass(frozen=True)
class KernelRidge:
    """The minimiser of sum_{t<T} (y_t - f(x_t))^2 + penalty |f|^2 in the space of a kernel.

    The answers at all T come from one Cholesky factor of K + penalty I: y_T less what is new in it. The posterior mean
    of a Gaussian process with this kernel and noise of variance `penalty`.

    Args:
        kernel: (x [... row], x' [... column]) -> [... row column].
        penalty: > 0.
    """

    kernel: Callable[[Tensor, Tensor], Tensor]
    penalty: float

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, low=0.0, strict=True)

    def __call__(self, pairs: Pairs) -> Answers:
        x, y = pairs.x[..., 0].double(), pairs.y.double()
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        answers = []
        for own, known in zip(x.split(PART), y.split(PART), strict=True):
            root = torch.linalg.cholesky(self.kernel(own, own) + self.penalty * identity)
            new = torch.linalg.solve_triangular(root, known, upper=False)
            answers.append(known - root.diagonal(dim1=-2, dim2=-1)[..., None] * new)
        return torch.cat(answers).to(pairs.y.dtype)


class Bayes(KernelRidge):
    """The posterior mean of f(x_T) under the process itself: no estimator has a smaller risk.

    Args:
        process: the law of functions and noise.
    """

    def __init__(self, process: NonparametricRegression) -> None:
        def kernel(x: Tensor, other: Tensor) -> Tensor:
            return (process.functions(x) * process.prior.to(x)) @ process.functions(other).mT

        least = LEAST_PENALTY * float(process.prior.sum())
        super().__init__(kernel, max(process.noise_variance, least))


@dataclass(frozen=True)
class TruncatedSeries:
    """sum_{j<N} weight_j psi_j(x_T) (1/(T-1)) sum_{t<T} y_t psi_j(x_t): the first N coefficients as means.

    With the weights of `theory.linear_attention_weights` the best layer of linear attention on these features.

    Args:
        process: whose basis.
        weights: of the functions that are used; N ones are a plain projection.
    """

    process: NonparametricRegression
    weights: tuple[float, ...]

    def __call__(self, pairs: Pairs) -> Answers:
        x, y = pairs.x[..., 0], pairs.y
        phi = self.process.functions(x)[..., : len(self.weights)]
        return linear_attention(phi, y, torch.diag(phi.new_tensor(self.weights)))


def linear_attention(
    phi: Float[Tensor, "batch pos feature"], y: Answers, Gamma: Float[Tensor, "feature feature"]
) -> Answers:
    """phi(x_T)^T Gamma z_T with z_T = (1/(T-1)) sum_{t<T} y_t phi(x_t)."""
    before = torch.cat([torch.zeros_like(phi[:, :1]), (y * phi)[:, :-1].cumsum(1)], dim=1)
    n = torch.arange(phi.shape[1], device=phi.device).clamp(min=1)[:, None]
    return ((phi @ Gamma) * before / n).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Nearest:
    """The mean of the y_t whose x_t are nearest to x_T, on the circle [0, 1); of all, where there are fewer.

    Args:
        k: how many; >= 1.
    """

    k: int = 1

    def __post_init__(self) -> None:
        check_integer("k", self.k, low=1)

    def __call__(self, pairs: Pairs) -> Answers:
        x, y = pairs.x[..., 0], pairs.y[..., 0]
        apart = (x[:, :, None] - x[:, None, :]).remainder(1)
        apart = torch.minimum(apart, 1 - apart)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu()
        near = apart.masked_fill(future, torch.inf).topk(min(self.k, x.shape[1]), dim=-1, largest=False)
        known = near.values < torch.inf
        answers = y[:, None].expand_as(apart).gather(-1, near.indices) * known
        return answers.sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1)
