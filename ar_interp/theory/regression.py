"""Nonparametric regression in context by a feature map and one layer of linear attention.

A task is f = sum_j beta_j psi_j, with psi_j orthonormal in L2 of the law of x and beta_j independent of mean 0 and
variance lambda_j; only these second moments enter. A prompt holds n examples (x_k, y_k), y_k = f(x_k) + noise of
variance sigma^2, and a query x. The layer predicts

    phi(x)^T Gamma z,   z = (1/n) sum_k y_k phi(x_k),

and its risk is E (prediction - f(x))^2, over tasks, examples and query: sigma^2 less than its error on a noisy answer.

    tau_N       sum_{j >= N} lambda_j: the prior variance beyond the first N functions; tau_0 is all of it
    V(x)        sum_j lambda_j psi_j(x)^2, with mean tau_0
    c           tau_0 + sigma^2: the signal of other functions acts as noise
    gamma_j     the diagonal of the best Gamma for phi = psi where V is constant

V is constant for Fourier functions where cos and sin of a frequency have one variance, and for Haar wavelets where a
level has one; `linear_attention_weights` and `linear_attention_risk` hold there. `feature_moments` holds for any
features and functions, on a grid. Derived here for a Gaussian prior and finite n, in the setting of Kim, Nakamaki and
Suzuki 2024 (arXiv 2408.12186).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_real_array, check_choice, check_integer, check_number
from ar_interp._shown import Shown


def linear_attention_weights(variances: Any, *, n: float, noise_variance: float) -> Float[np.ndarray, "function"]:
    """The best diagonal Gamma for the features psi: gamma_j = n lambda_j / ((n - 1) lambda_j + c).

    It is the best Gamma of all where V is constant, and does not depend on how many features there are. At n = 1 it
    gives the posterior mean.

    Args:
        variances: lambda_j of every function of the prior, in any order; not negative, not all 0.
        n: examples in a prompt; >= 1. For one Gamma on prompts of 1..m examples take `effective_prompt_length(m)`.
        noise_variance: sigma^2 >= 0.
    Raises:
        ValueError: an argument out of range.
    """
    prior, n, c = _checked(variances, n, noise_variance)
    return n * prior / ((n - 1) * prior + c)


def linear_attention_risk(variances: Any, *, n: float, noise_variance: float, n_features: int | None = None) -> float:
    """The least risk with the features psi_0..psi_{N-1}.

    It is sum_{j<N} lambda_j (c - lambda_j) / ((n - 1) lambda_j + c) + tau_N.

    With variances in descending order it is the least risk of any N features (where V is constant): more features never
    harm, as gamma_j tends to 0.

    Args:
        variances: lambda_j of every function of the prior, those of the features first.
        n, noise_variance: see `linear_attention_weights`.
        n_features: N, at most as many as there are variances; all of them if left out.
    Returns:
        E (prediction - f(x))^2, at least tau_N.
    Raises:
        ValueError: an argument out of range.
    """
    prior, n, c = _checked(variances, n, noise_variance)
    N = len(prior) if n_features is None else check_integer("n_features", n_features, low=0, high=len(prior))
    known = prior[:N]
    return float((known * (c - known) / ((n - 1) * known + c)).sum() + prior[N:].sum())


def linear_attention_risk_at(weights: Any, variances: Any, *, n: float, noise_variance: float) -> float:
    """The risk of any diagonal Gamma on prompts of n examples, where V is constant.

    sum_j [gamma_j^2 ((1 - 1/n) lambda_j + c/n) - 2 gamma_j lambda_j] + tau_0. Gamma of shorter prompts keeps the error
    tau_N + sum_j (1 - gamma_j)^2 lambda_j however long the prompt.

    Args:
        weights: gamma_j of the first functions; 0 for those that are left out.
        variances, n, noise_variance: see `linear_attention_risk`.
    Raises:
        ValueError: an argument out of range, more weights than variances.
    """
    prior, n, c = _checked(variances, n, noise_variance)
    gamma = as_real_array("weights", weights, shape=("feature",)).cpu().numpy()
    if len(gamma) > len(prior):
        raise ValueError(f"weights must be at most as many as the {len(prior)} variances, got {len(gamma)}.")
    known = prior[: len(gamma)]
    return float((gamma**2 * ((1 - 1 / n) * known + c / n) - 2 * gamma * known).sum() + prior.sum())


def effective_prompt_length(max_length: int) -> float:
    """The n of one Gamma that is used on prompts of 1..max_length examples alike: 1 / mean(1/n).

    The risk is affine in 1/n, so that its mean over the prompts is that at this n.
    """
    check_integer("max_length", max_length, low=1)
    return max_length / sum(1 / n for n in range(1, max_length + 1))


def regression_rate(smoothness: float) -> float:
    """The exponent r in risk ~ n^{-r} with all features and lambda ~ frequency^{-(2 a + 1)}: 2 a / (2 a + 1).

    Bayes has the same exponent where there is noise. Slopes over a decade of n lie 3 to 6 % below.

    Args:
        smoothness: a > 0, half a derivative less than the prior's sample paths would need for white noise.
    """
    return 2 * _smoothness(smoothness) / (2 * _smoothness(smoothness) + 1)


def regression_rate_constant(smoothness: float, *, tail: float, total: float) -> float:
    """The limit of risk * n^r with all features: 2 tail^{1/q} (pi/q) / sin(pi/q) total^{1 - 1/q}, q = 2 a + 1.

    Args:
        smoothness: a > 0.
        tail: k > 0, where the cos and the sin of frequency m have variance k m^{-q} each.
        total: c = tau_0 + sigma^2 > 0. (With sigma^2 in its place it is the constant of Bayes, a mean-field result.)
    """
    q = 2 * _smoothness(smoothness) + 1
    tail, total = check_number("tail", tail, low=0.0, strict=True), check_number("total", total, low=0.0, strict=True)
    return 2 * tail ** (1 / q) * (math.pi / q) / math.sin(math.pi / q) * total ** (1 - 1 / q)


def pretraining_excess(
    variances: Any,
    *,
    n: int,
    noise_variance: float,
    n_features: int,
    n_tasks: int,
    answers: str = "noisy",
    weights: str = "full",
) -> float:
    """The risk that Gamma, fitted by least squares to T sampled tasks, adds to the least one with the same features.

    (R + sigma^2) p / (T - p - 1) with one noisy answer a task, p = N^2 weights of a full Gamma and N of a diagonal one;
    R_N N / (T - N - 1), R_N = R - tau_N, where the whole of f is known of each task. So T must exceed N^2 in the one
    protocol and N in the others. As for a Gaussian design, which this is not: means over samples lie 0 to 35 % higher,
    and at T = 2 p up to twice as high.

    Args:
        variances, n, noise_variance: see `linear_attention_risk`; V is constant.
        n_features: N >= 1.
        n_tasks: T >= 1.
        answers: `noisy`, one noisy answer to one query of each task, or `exact`, f itself.
        weights: `full` or `diagonal`, of Gamma with noisy answers.
    Returns:
        The expected excess; infinite for T <= p + 1.
    """
    check_choice("answers", answers, ("noisy", "exact"))
    check_choice("weights", weights, ("full", "diagonal"))
    check_integer("n_tasks", n_tasks, low=1)
    check_integer("n_features", n_features, low=1)
    residual = linear_attention_risk(variances, n=n, noise_variance=noise_variance, n_features=n_features)
    p = n_features**2 if answers == "noisy" and weights == "full" else n_features
    tail = float(as_real_array("variances", variances, shape=("function",))[n_features:].sum())
    residual += noise_variance if answers == "noisy" else -tail
    return residual * p / (n_tasks - p - 1) if n_tasks > p + 1 else math.inf


@dataclass(frozen=True, kw_only=True)
class FeatureMoments(Shown):
    """The risk of phi(x)^T Gamma z for given features: tr(Gamma S Gamma^T Q) - 2 tr(Gamma P) + tau_0.

    Attributes:
        Q: E phi phi^T, [... feature feature].
        P: A^T Lambda A with A_ji = <psi_j, phi_i>.
        S: (1 - 1/n) P + (1/n) E (V + sigma^2) phi phi^T.
        total: tau_0.
    """

    Q: Float[Tensor, "*member feature feature"]
    P: Float[Tensor, "*member feature feature"]
    S: Float[Tensor, "*member feature feature"]
    total: Float[Tensor, ""]

    def risk(self, Gamma: Float[Tensor, "*member feature feature"]) -> Float[Tensor, "*member"]:
        """E (prediction - f(x))^2, differentiable."""
        return ((self.Q @ Gamma @ self.S) * Gamma - 2 * self.P * Gamma.mT).sum((-2, -1)) + self.total

    @property
    def best(self) -> Float[Tensor, "*member feature feature"]:
        """The Gamma of least risk for these features: Q^{-1} P S^{-1}, of least norm where features are dependent."""
        return torch.linalg.pinv(self.Q, hermitian=True) @ self.P @ torch.linalg.pinv(self.S, hermitian=True)

    @property
    def least_risks(self) -> Float[Tensor, "*member feature"]:
        """The least risk of a kernel of rank 1..N on these features: Eckart-Young for Q^{-1/2} P S^{-1/2}."""
        values = torch.linalg.svdvals(_inverse_root(self.Q) @ self.P @ _inverse_root(self.S))
        return self.total - values.square().cumsum(-1)


def feature_moments(
    features: Float[Tensor, "*member grid feature"],
    functions: Float[Tensor, "grid function"],
    variances: Float[Tensor, "function"],
    *,
    n: float,
    noise_variance: float,
) -> FeatureMoments:
    """The moments of features that make the risk, by the mean over a grid of x.

    Exact where the grid is: for trigonometric polynomials on more than twice as many equidistant points as their
    highest frequency, for functions that are constant on dyadic cells with a point in each.

    Args:
        features: phi at the points of the grid.
        functions, variances: psi and lambda of every function of the prior.
        n, noise_variance: see `linear_attention_risk`.
    Raises:
        ValueError: shapes that do not go together, n or noise_variance out of range.
    """
    check_number("n", n, low=1.0)
    check_number("noise_variance", noise_variance, low=0.0)
    size = len(functions)
    if features.shape[-2] != size or variances.shape != functions.shape[1:]:
        raise ValueError(
            "features [... grid feature], functions [grid function] and variances [function] must go together, got "
            f"{list(features.shape)}, {list(functions.shape)} and {list(variances.shape)}."
        )
    A = functions.mT @ features / size
    P = A.mT @ (variances[:, None] * A)
    loudness = functions.square() @ variances + noise_variance
    Q = features.mT @ features / size
    return FeatureMoments(
        Q=Q,
        P=P,
        S=(1 - 1 / n) * P + features.mT @ (loudness[:, None] * features) / (n * size),
        total=variances.sum(),
    )


def _inverse_root(matrix: Tensor) -> Tensor:
    """The inverse root of a symmetric matrix where it has one, 0 along the rest."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[..., -1:] * len(values) * torch.finfo(values.dtype).eps
    return vectors @ ((kept / values.where(kept, 1).sqrt())[..., None] * vectors.mT)


def _smoothness(value: float) -> float:
    return check_number("smoothness", value, low=0.0, strict=True)


def _checked(variances: Any, n: float, noise_variance: float) -> tuple[np.ndarray, float, float]:
    """lambda, n and c."""
    prior = as_real_array("variances", variances, shape=("function",)).cpu().numpy()
    if (prior < 0).any() or not prior.any():
        raise ValueError(f"variances must not be negative, nor all 0; the smallest is {prior.min():g}.")
    n = check_number("n", n, low=1.0)
    return prior, n, float(prior.sum()) + check_number("noise_variance", noise_variance, low=0.0)
