"""Least squares, its gradient steps, and the two sums over pairs that all of them are made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import scipy
import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.estimators.rotations import solved
from ar_interp.processes.base import AutoregressiveProcess
from ar_interp.processes.contexts import Contexts, Pairs
from ar_interp.seeds import TUNING

Tunable = TypeVar("Tunable", "GradientDescent", "NewtonSchulz")
Context = Pairs | Tensor  # tokens [batch pos dim] are the pairs of neighbours
SHORT = 128  # positions whose least squares are solved at once, each from all pairs before it
CHUNK = 16  # of a longer context at a time
HUGE = 1e100  # of errors that are tuned
UNSURE = 1024  # positions at a time that rotations leave to an SVD


class Estimator(ABC):
    """An estimate of W from the context, applied to the newest input: prediction_T = Ŵ_T x_T."""

    @abstractmethod
    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        """Ŵ_T for every T, from the pairs before T (and x_T) alone.

        Raises:
            ValueError: the estimator has no meaning for pairs of this task.
        """

    def __call__(self, context: Context) -> Inexact[Tensor, "batch pos out"]:
        return apply(self.estimate(context), known(context).x)


def apply(
    estimate: Inexact[Tensor, "batch pos out dim"], x: Inexact[Tensor, "batch pos dim"]
) -> Inexact[Tensor, "batch pos out"]:
    """Ŵ_T x_T for every T."""
    if estimate.stride(0) != 1:
        return torch.einsum("btij,btj->bti", estimate, x)
    first, *others = zip(estimate.unbind(-1), x[..., None, :].unbind(-1), strict=True)  # contexts innermost in memory
    applied = torch.mul(*first)
    for columns in others:
        applied = torch.addcmul(applied, *columns)
    return applied


@dataclass(frozen=True)
class Zero(Estimator):
    """Ŵ = 0: the error of knowing nothing."""

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        x, _, future = known(context)
        return x.new_zeros(*x.shape[:2], future.shape[-1], x.shape[-1])


@dataclass(frozen=True)
class LastToken(Estimator):
    """Ŵ = I: predict s_T again. Error 2 |s_T|^2 for Haar W, since E tr W = 0."""

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        tokens = _sequence(context, "the last token")
        batch, pos, dim = tokens.shape
        return torch.eye(dim, dtype=tokens.dtype, device=tokens.device).expand(batch, pos, dim, dim)


@dataclass(frozen=True)
class PreviousToken(Estimator):
    """Predict s_{T-1} / dim: Ŵ_T = s_{T-1} s_T^* / (dim |s_T|^2). Error 1 - 1 / dim^2 for Haar W and unit norm."""

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        tokens = _sequence(context, "the token before the last")
        previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        return previous[..., :, None] * _duals(tokens)[..., None, :] / tokens.shape[-1]


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

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        first, *more = self.step_sizes
        if not more:
            return first * moment(context, per_pair=self.per_pair)
        S, R = moments(context, per_pair=self.per_pair)
        W = first * R
        for eta in more:
            W = W - eta * (W @ S - R)
        return W


@dataclass(frozen=True, kw_only=True)
class Polynomial(Estimator):
    """Ŵ_T = R_T q(S_T), q(x) = sum_j coefficients_j x^j: what any gradient descent with fixed steps can reach.

    For noiseless sequences the error is (I - S q(S)) s_T up to W, a polynomial in S of one degree more. `fit` gives the
    best one, by least squares: the error is linear in the coefficients.

    Attributes:
        coefficients: those of q, constant first.
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
        seed: int = TUNING,
        per_pair: bool = False,
    ) -> "Polynomial":
        """The best error polynomial of this degree, so `degree` coefficients, for contexts T = 2..length on average."""
        check_integer("degree", degree, low=1)
        contexts = _tuning_contexts(process, batch, length, seed)
        inputs, targets = contexts.inputs, contexts.targets
        S, R = moments(contexts.pairs(), per_pair=per_pair)
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

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        S, R = moments(context, per_pair=self.per_pair)
        identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
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

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        S, R = moments(context, per_pair=self.per_pair)
        identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
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

    @classmethod
    def bayes(cls, *, process_variance: float, entry_variance: float) -> "Ridge":
        """The posterior mean where entries of W are N(0, entry_variance) and noise is N(0, process_variance).

        For Haar W, whose entries have the variance 1 / dim and are not Gaussian, it is the best ridge of long contexts.
        """
        noise = check_number("process_variance", process_variance, low=0.0, strict=True)
        return cls(penalty=noise / check_number("entry_variance", entry_variance, low=0.0, strict=True))

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        S, R = moments(context)
        identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        return torch.linalg.solve(S + self.penalty * identity, R, left=False)


@dataclass(frozen=True)
class OLS(Estimator):
    """Ordinary least squares of minimum norm: Ŵ_T = Y X^+ with X = (x_1 .. x_{T-1}), Y = (y_1 .. y_{T-1}) as columns.

    Without noise it is exact from T = dim + 1 on; for Haar W it is the conditional mean, so nothing does better. Long
    contexts go by chunks: of the pairs before a chunk the triangle R of X^* = Q R and Q^* Y^* tell
    all, so that time and memory are linear in T.

    Attributes:
        rotations: solve short contexts by rotations, all at once: ten times as fast for thousands of them, and equal up
            to rounding. Singular ones, and those that a gradient is asked for, are solved as ever.
    """

    rotations: bool = False

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        x, past, future = known(context)
        pos = x.shape[1]
        tolerance = 10 * pos * torch.finfo(x.dtype).eps
        if self.rotations and 1 < pos <= SHORT and not x.requires_grad:
            estimate, trusted = solved(past, future, tolerance)
            for rows, ends in (part.unbind(1) for part in (~trusted).nonzero().split(UNSURE)):
                estimate[rows, ends] = _of_least_norm(past[rows], future[rows], ends, tolerance)
            return estimate
        before, wanted, estimates = past[:, :0], future[:, :0], []  # rows that stand for the pairs before a chunk
        chunk = pos if pos <= SHORT else CHUNK
        for start in range(0, pos, chunk):
            own = slice(start, start + chunk)
            rows, goals = torch.cat([before, past[:, own]], dim=1), torch.cat([wanted, future[:, own]], dim=1)
            ends = before.shape[1] + torch.arange(min(chunk, pos - start), device=x.device)
            estimates.append(_of_least_norm(rows[:, None], goals[:, None], ends, tolerance))
            Q, before = torch.linalg.qr(rows)
            wanted = Q.mH @ goals
        return torch.cat(estimates, dim=1)


def _of_least_norm(rows: Tensor, goals: Tensor, ends: Tensor, tolerance: float) -> Tensor:
    """Ŵ of the first so many pairs [... pair dim], which are states as rows."""
    earlier = torch.arange(rows.shape[-2], device=rows.device) < ends[:, None]
    return (torch.linalg.pinv(rows * earlier[..., None], rtol=tolerance) @ goals).mT


@dataclass(frozen=True)
class DiagonalOLS(Estimator):
    """Least squares that knows the eigenbasis: lambda_j = sum_{t<T} y_{t,j} conj(x_{t,j}) / sum_{t<T} |x_{t,j}|^2.

    Without noise it is exact from T = 2 on: the fair yardstick for diagonal heads.
    """

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos dim dim"]:
        _, past, future = known(context)
        if past.shape[-1] != future.shape[-1]:
            raise ValueError(
                f"DiagonalOLS needs x and y of one size, got {past.shape[-1]} and {future.shape[-1]}: a diagonal W "
                "maps each coordinate to itself. Use OLS."
            )
        energy = running_sum(past.abs().square())
        cross = running_sum(future * past.conj())
        return torch.diag_embed(torch.where(energy > 0, cross / energy.where(energy > 0, 1.0), 0.0))


@dataclass(frozen=True)
class Kaczmarz(Estimator):
    """One pass over the pairs in order, each satisfied exactly: W <- W + (y_t - W x_t) x_t^* / |x_t|^2, from W = 0.

    Causal by nature, so its estimates at all positions come from the one pass.
    """

    def estimate(self, context: Context) -> Inexact[Tensor, "batch pos out dim"]:
        x, past, future = known(context)
        duals = _duals(x)
        W = x.new_zeros(len(x), future.shape[-1], x.shape[-1])
        estimates = [W]
        for t in range(past.shape[1]):
            innovation = future[:, t] - torch.einsum("bij,bj->bi", W, past[:, t])
            W = W + innovation[:, :, None] * duals[:, t, None, :]
            estimates.append(W)
        return torch.stack(estimates, dim=1)


def tuned(
    estimator: Tunable, process: AutoregressiveProcess, *, length: int, batch: int = 2000, seed: int = TUNING
) -> Tunable:
    """The estimator with its step sizes scaled by the one factor that is best for contexts T = 2..length on average.

    Minimises the mean squared error of the prediction over sampled sequences, see `best_factor`.
    """
    contexts = _tuning_contexts(process, batch, length, seed)
    pairs = contexts.pairs()
    return estimator.scaled(best_factor(lambda factor: contexts.errors(estimator.scaled(factor)(pairs))[:, 1:], 1e-4))


def best_factor(errors: Callable[[float], Tensor], precision: float) -> float:
    """The factor within [1/30, 30] whose errors have the least mean, by Brent's method on its logarithm to base 2.

    Args:
        errors: of a factor; means from 1e100 on count alike, as the method multiplies them.
        precision: of the logarithm.
    """

    def loss(log_factor: float) -> float:
        return errors(2.0**log_factor).mean().nan_to_num(torch.inf).clamp(max=HUGE).item()

    options = {"xatol": precision}
    found: Any = scipy.optimize.minimize_scalar(loss, bounds=(-4.9, 4.9), method="bounded", options=options)
    return 2.0 ** float(found.x)


class Known(NamedTuple):
    x: Tensor  # [batch pos dim]
    past: Tensor  # x_1..x_{pos-1}, of which T knows those before it
    future: Tensor  # y_1..y_{pos-1}


def known(context: Context) -> Known:
    """The pairs, or tokens as pairs of neighbours."""
    if isinstance(context, Tensor):
        return Known(context, context[:, :-1], context[:, 1:])
    return Known(context.x, context.x[:, :-1], context.y[:, :-1])


def _sequence(context: Context, what: str) -> Tensor:
    """The tokens of pairs (s_t, s_{t+1}), of which alone it means something to repeat one."""
    x, _, future = known(context)
    if future.shape != x[:, 1:].shape or not torch.equal(future, x[:, 1:]):
        raise ValueError(
            f"pairs must be of one sequence, y_t = x_(t+1), for {what} to predict the next; these are of another task."
        )
    return x


def moments(context: Context, *, per_pair: bool = False) -> tuple[Tensor, Tensor]:
    """S_T [batch pos dim dim] and R_T [batch pos out dim] for every T; divided by T - 1 when `per_pair`."""
    past = known(context).past
    return _moment(past, past, per_pair), moment(context, per_pair=per_pair)


def moment(context: Context, *, per_pair: bool = False, together: bool = False) -> Inexact[Tensor, "batch pos out dim"]:
    """R_T alone; `together` as `running_products` has it."""
    _, past, future = known(context)
    return _moment(future, past, per_pair, together)


def _moment(left: Tensor, right: Tensor, per_pair: bool, together: bool = False) -> Tensor:
    """sum_{t<T} left_t right_t^* for every T."""
    right = right.conj()
    total = running_products(left, right) if together else running_sum(left[..., :, None] * right[..., None, :])
    return (
        total.div_(torch.arange(len(total[0]), device=total.device).clamp(min=1)[:, None, None]) if per_pair else total
    )


def _duals(x: Tensor) -> Tensor:
    """x^* / |x|^2, 0 for 0."""
    energy = x.abs().square().sum(-1, keepdim=True)
    return torch.where(energy > 0, x.conj() / energy, 0)


def running_sum(products: Tensor) -> Tensor:
    """Sum over the pairs before T, for T = 1..pos; nothing at T = 1."""
    first = products.new_zeros(len(products), 1, *products.shape[2:])
    return torch.cat([first, products.cumsum(1)], dim=1)


def running_products(
    left: Inexact[Tensor, "batch pair out"], right: Inexact[Tensor, "batch pair dim"]
) -> Inexact[Tensor, "batch pair+1 out dim"]:
    """`running_sum` of left_t right_t^T, faster for thousands of contexts: they are innermost in memory, T by T."""
    (batch, n_pairs, out), dim = left.shape, right.shape[-1]
    total = left.new_empty(n_pairs + 1, out, dim, batch)
    total[0] = 0
    for t, (x, y) in enumerate(zip(left.movedim(0, -1), right.movedim(0, -1), strict=True)):
        torch.addcmul(total[t], x[:, None], y, out=total[t + 1])
    return total.movedim(-1, 0)


def _tuning_contexts(process: AutoregressiveProcess, batch: int, length: int, seed: int) -> Contexts:
    check_integer("length", length, low=2)
    return process.contexts(batch, length, seed=seed)
