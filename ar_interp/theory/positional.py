"""Positional-only attention: one coordinate, lambda = exp(i theta / mu), prediction_T = sum_t p_t lambda^{2t-T}.

The loss is a quadratic with a prolate (Slepian) kernel. Its exact optimum is p = e_T for every mu; what training shows
for large mu is unfinished optimisation, and gradient descent from zero is an exact spectral filter.
Source: Sander et al. 2024, positional encoding only; the filter by diagonalising the descent.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp._resident import resident
from ar_interp._shown import Shown


def positional_kernel(*, mu: float, length: int) -> Float[Tensor, "pos pos"]:
    """K_tt' = Re E lambda^{2(t-t')} = sinc(4 (t - t') / mu), sinc(x) = sin(pi x) / (pi x).

    About 4 length / mu + O(log length) of its eigenvalues are not negligible; K = I for mu in {1, 2, 4}.
    """
    check_number("mu", mu, low=0.0, strict=True)
    check_integer("length", length, low=1)
    t = torch.arange(length, dtype=torch.float64, device="cpu")
    return torch.sinc(4 * (t[:, None] - t[None, :]) / mu)


def positional_optimum(*, length: int) -> Float[Tensor, "pos"]:
    """e_T: all weight on the newest key, loss 0, for every mu."""
    check_integer("length", length, low=1)
    return torch.eye(length, dtype=torch.float64, device="cpu")[-1]


def positional_loss(p: Float[Tensor, "*ensemble pos"], *, mu: float) -> Float[Tensor, "*ensemble"]:
    """E|prediction - lambda^T|^2 = (p - e_T)^T K (p - e_T)."""
    length = p.shape[-1]
    K = positional_kernel(mu=mu, length=length).to(p)
    error = p - positional_optimum(length=length).to(p)
    return ((error @ K) * error).sum(-1)


def positional_population_loss(P: Float[Tensor, "*ensemble query key"], *, mu: float) -> Float[Tensor, "*ensemble"]:
    """The sum over T = 2..n_ctx of `positional_loss`; row r of P holds p for T = r + 2.

    K is Toeplitz, so the kernel of a shorter context is a leading block, and padding with zeros changes nothing.
    """
    n_ctx = P.shape[-1]
    K = resident(_kernel(mu, n_ctx), P.device, P.dtype)
    target = torch.eye(n_ctx, dtype=P.dtype, device=P.device)[1:]
    error = (P[..., :-1, :] - target) * torch.ones_like(target).tril(1)
    return ((error @ K) * error).sum((-1, -2))


@cache
def _kernel(mu: float, length: int) -> Tensor:
    return positional_kernel(mu=mu, length=length)


@dataclass(frozen=True, kw_only=True)
class SpectralFilter(Shown):
    """Gradient descent from zero after some steps, p = F e_T with F = I - (I - step_size K)^steps.

    Attributes:
        p: the weights it reaches.
        modes: eigenvectors of K, columns; eigenvalues descending.
        response: eigenvalues of F, how far each mode has been learned (0 to 1).
    """

    p: Float[Tensor, "pos"]
    modes: Float[Tensor, "pos mode"]
    response: Float[Tensor, "mode"]

    @property
    def rank(self) -> float:
        """Effective rank tr F: the number of modes learned so far."""
        return float(self.response.sum())


def spectral_filter(*, mu: float, length: int, step_size: float, steps: int) -> SpectralFilter:
    """The exact result of `steps` steps p <- p - step_size K (p - e_T) from p = 0.

    Args:
        step_size: twice the learning rate on `positional_loss`; for the mean over the rows T = 2..n_ctx at learning
            rate lr it is 2 lr / (n_ctx - 1).
    """
    check_number("step_size", step_size, low=0.0, strict=True)
    check_integer("steps", steps, low=0)
    values, vectors = torch.linalg.eigh(positional_kernel(mu=mu, length=length))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    response = 1 - (1 - step_size * values) ** steps
    return SpectralFilter(p=vectors @ (response * vectors[-1]), modes=vectors, response=response)


def descent_steps(*, mu: float, n_ctx: int, step_size: float, stop_below: float, limit: int = 10**6) -> int:
    """First step count at which the mean loss over T = 2..n_ctx of descent from zero is below `stop_below`.

    Mean of e_T^T (I - step_size K)^k K (I - step_size K)^k e_T, non-increasing in k for step_size <= 2 / |K|;
    found by bisection.

    Raises:
        ValueError: not reached within `limit` steps.
    """
    check_integer("n_ctx", n_ctx, low=2)
    check_number("stop_below", stop_below, low=0.0, strict=True)
    spectra = []
    for length in range(2, n_ctx + 1):
        values, vectors = torch.linalg.eigh(positional_kernel(mu=mu, length=length))
        spectra.append((values.clamp(min=0), vectors[-1].square()))

    def mean_loss(k: int) -> float:
        losses = [(weight * values * (1 - step_size * values) ** (2 * k)).sum() for values, weight in spectra]
        return float(torch.stack(losses).mean())

    if mean_loss(limit) >= stop_below:
        raise ValueError(f"the loss stays above stop_below = {stop_below} for {limit} steps at mu = {mu}.")
    low, high = -1, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mean_loss(middle) >= stop_below else (low, middle)
    return high


def legendre_profile(*, rank: int, length: int) -> Float[Tensor, "pos"]:
    """U_r U_r^T e_T for discrete Legendre polynomials U_r on 1..length: the truncated solution for mu >> length.

    Polynomial extrapolation of a slow signal: rank 1 gives 1/T, rank 2 gives (6t - 2T - 2) / (T (T + 1)).
    """
    check_integer("length", length, low=1)
    check_integer("rank", rank, low=1, high=length)
    t = (
        torch.linspace(-1, 1, length, dtype=torch.float64, device="cpu")
        if length > 1
        else torch.zeros(1, dtype=torch.float64, device="cpu")
    )
    basis = torch.linalg.qr(t[:, None] ** torch.arange(rank, device=t.device))[0]
    return basis @ basis[-1]
