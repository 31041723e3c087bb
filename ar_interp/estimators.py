"""What a statistician would do with the same context: s_1..s_T in, an estimate of W and a prediction out.

One signature, that of the models: an estimator called on tokens [batch pos dim] returns the prediction of s_{t+1} at
every position t, and `estimate(tokens)` the matrix it applies, [batch pos dim dim]. At T = 1 there is no pair of tokens
to learn from and the estimates from pairs are 0.

With S_T = sum_{t<T} s_t s_t^* and R_T = sum_{t<T} s_{t+1} s_t^*, the gradient of the least-squares loss
1/2 sum_{t<T} |s_{t+1} - W s_t|^2 at W is W S_T - R_T.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Inexact
from scipy.optimize import minimize_scalar
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.processes.base import AutoregressiveProcess

Tunable = TypeVar("Tunable", "GradientDescent", "NewtonSchulz")


class Estimator(ABC):
    """An estimate of W from the context, applied to the last token: prediction_T = Ŵ_T s_T."""

    @abstractmethod
    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        """Ŵ_T from s_1..s_T alone, for every T."""

    def __call__(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        return apply(self.estimate(tokens), tokens)


def apply(
    estimate: Inexact[Tensor, "batch pos dim dim"], tokens: Inexact[Tensor, "batch pos dim"]
) -> Inexact[Tensor, "batch pos dim"]:
    """Ŵ_T s_T for every T."""
    return torch.einsum("btij,btj->bti", estimate, tokens)


@dataclass(frozen=True)
class Zero(Estimator):
    """Ŵ = 0: the error of knowing nothing."""

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        batch, pos, dim = tokens.shape
        return tokens.new_zeros(batch, pos, dim, dim)


@dataclass(frozen=True)
class LastToken(Estimator):
    """Ŵ = I: predict s_T again. Error 2 |s_T|^2 for Haar W, since E tr W = 0."""

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        batch, pos, dim = tokens.shape
        return torch.eye(dim, dtype=tokens.dtype, device=tokens.device).expand(batch, pos, dim, dim)


@dataclass(frozen=True)
class PreviousToken(Estimator):
    """Predict s_{T-1} / dim: Ŵ_T = s_{T-1} s_T^* / (dim |s_T|^2). Error 1 - 1 / dim^2 for Haar W and unit norm."""

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        energy = tokens.abs().square().sum(-1, keepdim=True)
        dual = torch.where(energy > 0, tokens.conj() / energy, 0)
        return previous[..., :, None] * dual[..., None, :] / tokens.shape[-1]


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Estimator):
    """Steps of gradient descent on the least-squares loss, from W = 0: W <- W - eta (W S_T - R_T).

    Attributes:
        step_sizes: eta of each step; one number for each.
        per_pair: divide every step by the number of pairs, T - 1.
    """

    step_sizes: tuple[float, ...]
    per_pair: bool = False

    def __post_init__(self) -> None:
        if not self.step_sizes:
            raise ValueError("step_sizes must hold one number for each step, got none.")
        for eta in self.step_sizes:
            check_number("step_sizes", eta, low=-float("inf"))

    @classmethod
    def of_steps(cls, n_steps: int, step_size: float, *, per_pair: bool = False) -> "GradientDescent":
        """`n_steps` steps of one common size."""
        check_integer("n_steps", n_steps, low=1)
        return cls(step_sizes=(float(step_size),) * n_steps, per_pair=per_pair)

    def scaled(self, factor: float) -> "GradientDescent":
        """Every step size times `factor`."""
        return replace(self, step_sizes=tuple(factor * eta for eta in self.step_sizes))

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        S, R = _moments(tokens, per_pair=self.per_pair)
        W = torch.zeros_like(R)
        for eta in self.step_sizes:
            W = W - eta * (W @ S - R)
        return W


@dataclass(frozen=True, kw_only=True)
class Polynomial(Estimator):
    """Ŵ_T = R_T q(S_T), q(x) = sum_j coefficients_j x^j: what any gradient descent with fixed steps can reach.

    For noiseless sequences the error is (I - S q(S)) s_T up to W, a polynomial in S of one degree more. `fit` gives the
    best one, by least squares: the error is linear in the coefficients.

    Attributes:
        coefficients: of q, constant first.
        per_pair: use S_T / (T - 1) and R_T / (T - 1).
    """

    coefficients: tuple[float, ...]
    per_pair: bool = False

    @classmethod
    def fit(
        cls,
        process: AutoregressiveProcess,
        *,
        degree: int,
        length: int,
        batch: int = 2000,
        seed: int = 0,
        per_pair: bool = False,
    ) -> "Polynomial":
        """The best error polynomial of this degree, so `degree` coefficients, for contexts T = 2..length on average."""
        check_integer("degree", degree, low=1)
        tokens = _training_tokens(process, batch, length, seed)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        S, R = _moments(inputs, per_pair=per_pair)
        vectors, columns = inputs, []
        for _ in range(degree):
            columns.append(torch.einsum("btij,btj->bti", R, vectors)[:, 1:].reshape(-1))
            vectors = torch.einsum("btij,btj->bti", S, vectors)
        design, wanted = torch.stack(columns, dim=1), targets[:, 1:].reshape(-1)
        if design.is_complex():
            design, wanted = torch.cat([design.real, design.imag]), torch.cat([wanted.real, wanted.imag])
        scale = design.norm(dim=0)
        solution = torch.linalg.lstsq(design / scale, wanted[:, None], driver="gelsd").solution[:, 0] / scale
        return cls(coefficients=tuple(solution.tolist()), per_pair=per_pair)

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        S, R = _moments(tokens, per_pair=self.per_pair)
        identity = torch.eye(tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)
        q = torch.zeros_like(S)
        for coefficient in reversed(self.coefficients):  # Horner
            q = q @ S + coefficient * identity
        return R @ q


@dataclass(frozen=True, kw_only=True)
class NewtonSchulz(Estimator):
    """Ŵ_T = R_T X_k with X_{k+1} = X_k (2 I - S_T X_k), X_0 = step_size I: 2^k steps of gradient descent."""

    iterations: int
    step_size: float
    per_pair: bool = False

    def __post_init__(self) -> None:
        check_integer("iterations", self.iterations, low=0)
        check_number("step_size", self.step_size, low=-float("inf"))

    def scaled(self, factor: float) -> "NewtonSchulz":
        """The step size times `factor`."""
        return replace(self, step_size=factor * self.step_size)

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        S, R = _moments(tokens, per_pair=self.per_pair)
        identity = torch.eye(tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)
        X = self.step_size * identity.expand_as(S)
        for _ in range(self.iterations):
            X = X @ (2 * identity - S @ X)
        return R @ X


@dataclass(frozen=True, kw_only=True)
class Ridge(Estimator):
    """Ŵ_T = R_T (S_T + penalty I)^{-1}."""

    penalty: float

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, low=0.0, strict=True)

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        S, R = _moments(tokens)
        identity = torch.eye(tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)
        return torch.linalg.solve(S + self.penalty * identity, R, left=False)


@dataclass(frozen=True)
class OLS(Estimator):
    """Ordinary least squares of minimum norm: Ŵ_T = Y X^+ with X = (s_1 .. s_{T-1}), Y = (s_2 .. s_T) as columns.

    Without noise it is exact from T = dim + 1 on; for Haar W it is the conditional mean, so nothing does better.
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


@dataclass(frozen=True)
class Kaczmarz(Estimator):
    """One pass over the pairs in order, each satisfied exactly: W <- W + (s_{t+1} - W s_t) s_t^* / |s_t|^2, from W = 0.

    Causal by nature, so its estimates at all positions come from the one pass.
    """

    def estimate(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim dim"]:
        batch, pos, dim = tokens.shape
        energy = tokens.abs().square().sum(-1, keepdim=True)
        duals = torch.where(energy > 0, tokens.conj() / energy, 0)
        W = tokens.new_zeros(batch, dim, dim)
        estimates = [W]
        for t in range(pos - 1):
            innovation = tokens[:, t + 1] - torch.einsum("bij,bj->bi", W, tokens[:, t])
            W = W + innovation[:, :, None] * duals[:, t, None, :]
            estimates.append(W)
        return torch.stack(estimates, dim=1)


def tuned(
    estimator: Tunable, process: AutoregressiveProcess, *, length: int, batch: int = 2000, seed: int = 0
) -> Tunable:
    """The estimator with its step sizes scaled by the one factor that is best for contexts T = 2..length on average.

    Minimises the mean squared error of the prediction over sampled sequences, by Brent's method on the logarithm of the
    factor within [1/30, 30].
    """
    tokens = _training_tokens(process, batch, length, seed)

    def loss(log_factor: float) -> float:
        error = (estimator.scaled(2.0**log_factor)(tokens[:, :-1]) - tokens[:, 1:])[:, 1:]
        return error.abs().square().sum(-1).mean().nan_to_num(torch.inf).item()

    best = minimize_scalar(loss, bounds=(-4.9, 4.9), method="bounded", options={"xatol": 1e-4})
    return estimator.scaled(2.0 ** float(best.x))


class _Moments(NamedTuple):
    S: Tensor  # sum_{t<T} s_t s_t^*
    R: Tensor  # sum_{t<T} s_{t+1} s_t^*


def _moments(tokens: Tensor, *, per_pair: bool = False) -> _Moments:
    """[batch pos dim dim] each, for every T; divided by T - 1 when `per_pair`."""
    past, future = tokens[:, :-1, :, None], tokens[:, 1:, :, None]
    S, R = _running_sum(past * past.mH), _running_sum(future * past.mH)
    if per_pair:
        pairs = torch.arange(tokens.shape[1], device=tokens.device).clamp(min=1)[:, None, None]
        S, R = S / pairs, R / pairs
    return _Moments(S, R)


def _running_sum(products: Tensor) -> Tensor:
    """Sum over the pairs (s_t, s_{t+1}) with t < T, for T = 1..pos; nothing at T = 1."""
    first = products.new_zeros(len(products), 1, *products.shape[2:])
    return torch.cat([first, products.cumsum(1)], dim=1)


def _training_tokens(process: AutoregressiveProcess, batch: int, length: int, seed: int) -> Tensor:
    check_integer("length", length, low=2)
    return process.sample(batch, length + 1, seed=seed).tokens
