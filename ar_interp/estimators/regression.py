"""Estimators of a function from examples: at every T an answer to x_T from the pairs before it.

Called on `contexts.pairs()` like all estimators; there is no matrix, and so no `estimate`. At T = 1 the answer is 0,
the mean of the prior.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_real_array, check_integer, check_number
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
        if not callable(self.kernel):
            raise ValueError(f"kernel must be a function (x, x') -> [row column], got {self.kernel!r}.")
        check_number("penalty", self.penalty, low=0.0, strict=True)

    def __call__(self, pairs: Pairs) -> Answers:
        x, y = (values.double() for values in _examples(pairs))
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
        _check_process(process)

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

    def __post_init__(self) -> None:
        _check_process(self.process)
        given, most = as_real_array("weights", self.weights, shape=("function",)), len(self.process.prior)
        if len(given) > most:
            raise ValueError(f"weights must be at most as many as the {most} functions, got {len(given)}.")
        object.__setattr__(self, "weights", tuple(given.tolist()))

    def __call__(self, pairs: Pairs) -> Answers:
        x, y = _examples(pairs)
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
        x, y = _examples(pairs)
        y = y[..., 0]
        apart = (x[:, :, None] - x[:, None, :]).remainder(1)
        apart = torch.minimum(apart, 1 - apart)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu()
        near = apart.masked_fill(future, torch.inf).topk(min(self.k, x.shape[1]), dim=-1, largest=False)
        known = near.values < torch.inf
        answers = y[:, None].expand_as(apart).gather(-1, near.indices) * known
        return answers.sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1)


def _check_process(process: object) -> None:
    if not (hasattr(process, "functions") and hasattr(process, "prior")):
        raise ValueError(
            f"process must be a NonparametricRegression, got {process!r}: e.g. NonparametricRegression(smoothness=1.0)."
        )


def _examples(pairs: Pairs) -> tuple[Float[Tensor, "batch pos"], Answers]:
    """x and y of real pairs with one coordinate each."""
    if not isinstance(pairs, Pairs) or pairs.x.is_complex() or (pairs.x.shape[-1], pairs.y.shape[-1]) != (1, 1):
        came = [list(value.shape) for value in pairs] if isinstance(pairs, Pairs) else type(pairs).__name__
        raise ValueError(
            f"pairs must be real x and y [batch pos 1], got {came}: those of prompts, "
            "NonparametricRegression(...).contexts(n, length, seed=0).pairs()."
        )
    return pairs.x[..., 0], pairs.y
