"""Haar W: Weyl integration over the eigenangles on a grid, sampled matrices, and known values."""

import itertools
import math

import numpy as np
import pytest
import torch

from ar_interp import theory
from ar_interp.estimators import OLS

DIMS = [1, 2, 3, 4, 5, 6]
by_dim = pytest.mark.parametrize("dim", DIMS)


def weyl_grid(dim: int, n_nodes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each component of O(dim): angles of all eigenvalues [node dim], and weights that sum to 1/2.

    Trapezoid rule in the free angles, exact for trigonometric polynomials of degree below n_nodes in each.
    """
    n = dim // 2
    components = [([0.0], n, lambda x: 1 - x), ([math.pi], n, lambda x: 1 + x)]
    if dim % 2 == 0:
        components = [([], n, lambda x: 1 + 0 * x), ([0.0, math.pi], n - 1, lambda x: 1 - x**2)]
    rules = []
    for fixed, n_free, factor in components:
        nodes = 2 * math.pi * np.arange(n_nodes) / n_nodes
        angles = np.array(list(itertools.product(nodes, repeat=n_free))).reshape(n_nodes**n_free, n_free)
        x = np.cos(angles)
        weights = factor(x).prod(1)
        for i, j in itertools.combinations(range(n_free), 2):
            weights = weights * (x[:, i] - x[:, j]) ** 2
        angles = np.hstack([angles, -angles, np.tile(fixed, (len(angles), 1))])
        rules.append((angles, weights / weights.sum() / 2))
    return rules


def sphere_moment(*diagonals: np.ndarray) -> np.ndarray:
    """E over the unit sphere of <s, A s> (<s, B s> <s, C s>) for commuting symmetric matrices, from their eigenvalues.

    One trace for each cycle of each way to pair the factors: 3 pairings of four, 15 of six.
    """
    dim = diagonals[0].shape[1]

    def trace(*factors: np.ndarray) -> np.ndarray:
        return np.prod(factors, axis=0).sum(1)

    if len(diagonals) == 2:
        A, B = diagonals
        return (trace(A) * trace(B) + 2 * trace(A, B)) / (dim * (dim + 2))
    A, B, C = diagonals
    pairs = trace(A) * trace(B, C) + trace(B) * trace(A, C) + trace(C) * trace(A, B)
    return (trace(A) * trace(B) * trace(C) + 2 * pairs + 8 * trace(A, B, C)) / (dim * (dim + 2) * (dim + 4))


def haar_sequences(dim: int, length: int, n: int, seed: int) -> torch.Tensor:
    """s_1..s_length, s_1 = e_1, with W = Q sign(diag R) of a Gaussian matrix: Haar on O(dim)."""
    gaussian = torch.randn(n, dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    W = Q * R.diagonal(0, -2, -1).sign()[:, None, :]
    states = [torch.eye(dim, dtype=torch.float64)[0].expand(n, dim)]
    for _ in range(length - 1):
        states.append(torch.einsum("bij,bj->bi", W, states[-1]))
    return torch.stack(states, dim=1)


def gradient_step(tokens: torch.Tensor, T: int) -> torch.Tensor:
    """(sum_{t=2}^T s_t s_{t-1}^T) s_T."""
    scores = torch.einsum("bti,bi->bt", tokens[:, : T - 1], tokens[:, T - 1])
    return torch.einsum("bt,bti->bi", scores, tokens[:, 1:T])


# ---- moments of r_m


@by_dim
def test_moments_by_weyl_integration(dim):
    length = 4 if dim == 6 else 13
    rules = weyl_grid(dim, n_nodes=3 * length + 2 * dim)
    S = [[np.cos(m * angles) for m in range(length)] for angles, _ in rules]
    weights = [w for _, w in rules]
    for m in range(length):
        expected = sum(w @ sphere_moment(s[m], s[m]) for w, s in zip(weights, S, strict=True))
        assert theory.second_moment(dim=dim, power=m) == pytest.approx(expected, abs=1e-12)
    for T in range(2, length + 1):
        h, G = 0.0, 0.0
        for w, s in zip(weights, S, strict=True):
            h += sum(w @ sphere_moment(s[m], s[m]) for m in range(1, T))
            G += sum(w @ sphere_moment(s[a], s[b], s[abs(a - b)]) for a, b in itertools.product(range(1, T), repeat=2))
        assert theory.haar_step_size_at(dim=dim, length=T) == pytest.approx(h / G, rel=1e-11)
        for eta in (0.0, 0.2, -1.0):
            loss = theory.haar_one_step_loss(dim=dim, length=T, step_size=eta)
            assert loss == pytest.approx(1 - 2 * eta * h + eta**2 * G, rel=1e-11)


def test_second_moments_in_five_dimensions():
    moments = [theory.second_moment(dim=5, power=m) for m in range(1, 9)]
    assert moments == pytest.approx([1 / 5, 9 / 35, 9 / 35, *[11 / 35] * 5], rel=1e-12)


@pytest.mark.parametrize("dim", [*DIMS, 9, 10])
def test_second_moments_in_closed_form(dim):
    assert theory.second_moment(dim=dim, power=0) == 1
    for m in range(1, 3 * dim + 2):
        numerator = dim + 2 + 2 * (m // 2)
        if m > dim:
            numerator = 2 * dim + 1 if dim % 2 else 2 * dim + 2 * (m % 2 == 0)
        assert theory.second_moment(dim=dim, power=m) == pytest.approx(numerator / (dim * (dim + 2)), rel=1e-12)


# ---- one gradient step


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 8])
def test_losses_and_moments_are_means_over_sampled_matrices(dim, assert_mean):
    n_ctx, eta = 12, 0.15
    tokens = haar_sequences(dim, n_ctx + 1, n=80_000, seed=dim)
    moments = [theory.second_moment(dim=dim, power=m) for m in range(1, n_ctx + 1)]
    assert_mean(tokens[:, 1:, 0].square(), torch.tensor(moments, dtype=torch.float64))  # r_m, as s_1 = e_1
    lengths = range(2, n_ctx + 1)
    errors = [(eta * gradient_step(tokens, T) - tokens[:, T]).square().sum(-1) for T in lengths]
    losses = [theory.haar_one_step_loss(dim=dim, length=T, step_size=eta) for T in lengths]
    assert_mean(torch.stack(errors, dim=1), torch.tensor(losses, dtype=torch.float64))


@pytest.mark.parametrize(
    ("dim", "max_length", "step_size", "mean_loss", "step_size_at", "loss_at"),
    [
        (2, 10, 0.21568627, 0.340959, 0.154930, 0.147887),
        (2, 20, 0.10755149, 0.334879, 0.074367, 0.126187),
        (2, 50, 0.04292752, 0.331995, 0.029034, 0.114469),
        (3, 10, 0.26413416, 0.418905, 0.193125, 0.214624),
        (3, 20, 0.13447127, 0.390397, 0.093657, 0.182058),
        (3, 50, 0.05422003, 0.374662, 0.036762, 0.164275),
        (4, 10, 0.30756303, 0.478852, 0.229261, 0.274007),
        (4, 20, 0.15964654, 0.430734, 0.112238, 0.223687),
        (4, 50, 0.06491260, 0.403533, 0.044168, 0.197623),
        (5, 10, 0.34643338, 0.528191, 0.263259, 0.315526),
        (5, 20, 0.18358867, 0.463314, 0.130041, 0.253193),
        (5, 50, 0.07526427, 0.425578, 0.051326, 0.221314),
    ],
)
def test_known_step_sizes(dim, max_length, step_size, mean_loss, step_size_at, loss_at):
    eta = theory.haar_step_size(dim=dim, max_length=max_length)
    assert eta == pytest.approx(step_size, abs=5.1e-9)
    losses = [theory.haar_one_step_loss(dim=dim, length=T, step_size=eta) for T in range(2, max_length + 1)]
    assert np.mean(losses) == pytest.approx(mean_loss, abs=5.1e-7)
    assert theory.haar_one_step_minimum(dim=dim, max_length=max_length) == pytest.approx(np.mean(losses), rel=1e-12)
    at = theory.haar_step_size_at(dim=dim, length=max_length)
    assert at == pytest.approx(step_size_at, abs=5.1e-7)
    assert theory.haar_one_step_loss(dim=dim, length=max_length, step_size=at) == pytest.approx(loss_at, abs=5.1e-7)


@pytest.mark.parametrize(
    ("length", "loss"),
    [(2, 0.9710), (3, 0.9347), (4, 0.8992), (5, 0.8569), (6, 0.8154), (10, 0.6646), (20, 0.3857), (50, 0.3907)],
)
def test_known_losses_of_the_shared_step(length, loss):
    eta = theory.haar_step_size(dim=5, max_length=50)
    assert theory.haar_one_step_loss(dim=5, length=length, step_size=eta) == pytest.approx(loss, abs=5.1e-5)


@pytest.mark.parametrize(
    ("length", "loss"),
    [(2, 0.8), (3, 0.6675), (4, 0.5714), (5, 0.4889), (6, 0.4174), (10, 0.3155), (20, 0.2532), (50, 0.2213)],
)
def test_known_losses_of_the_best_step(length, loss):
    eta = theory.haar_step_size_at(dim=5, length=length)
    assert theory.haar_one_step_loss(dim=5, length=length, step_size=eta) == pytest.approx(loss, abs=5.1e-5)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_limits(dim):
    """Finite lengths approach the limits like 1 / T; one step of Richardson's extrapolation removes that."""

    def extrapolated(value) -> float:
        return 2 * value(160) - value(80)

    step = extrapolated(lambda T: T * theory.haar_step_size(dim=dim, max_length=T))
    assert step == pytest.approx(theory.haar_step_limit(dim=dim), rel=2e-3)
    step_at = extrapolated(lambda T: T * theory.haar_step_size_at(dim=dim, length=T))
    assert step_at == pytest.approx(theory.haar_step_limit(dim=dim) * 2 / 3, rel=2e-3)
    error = extrapolated(lambda T: theory.haar_one_step_minimum(dim=dim, max_length=T))
    assert error == pytest.approx(theory.haar_error_limit(dim=dim), abs=2e-3)
    error_at = extrapolated(
        lambda T: theory.haar_one_step_loss(dim=dim, length=T, step_size=theory.haar_step_size_at(dim=dim, length=T))
    )
    assert error_at == pytest.approx(theory.haar_error_limit_at(dim=dim), abs=2e-3)


@pytest.mark.parametrize("length", [2, 3, 30])
def test_one_dimension_is_a_sign(length):
    """W = +-1: the commuting formulas at dim 1."""
    assert theory.haar_step_size(dim=1, max_length=length) == pytest.approx(
        theory.optimal_step_size(dim=1, max_length=length), rel=1e-12
    )
    assert theory.haar_one_step_loss(dim=1, length=length, step_size=0.3) == pytest.approx(
        theory.one_step_loss(dim=1, length=length, step_size=0.3), rel=1e-12
    )


def test_known_limits():
    assert theory.haar_step_limit(dim=5) == pytest.approx(3.8077, abs=5.1e-5)
    assert theory.haar_error_limit_at(dim=5) == pytest.approx(0.2022, abs=5.1e-5)
    assert theory.haar_error_limit(dim=5) == pytest.approx(0.4016, abs=5.1e-5)
    assert theory.haar_error_limit_at(dim=10**6) == pytest.approx(1 / 3, abs=1e-5)


# ---- least squares


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_least_squares(dim, assert_mean):
    tokens = haar_sequences(dim, dim + 4, n=10_000, seed=dim)
    errors = (OLS()(tokens[:, :-1]) - tokens[:, 1:]).square().sum(-1)
    for T in range(1, dim + 4):
        exact = theory.ols_error(dim=dim, length=T)
        if T == 1 or exact == 0:  # nothing is random
            assert (errors[:, T - 1] - exact).abs().median() < 1e-12
            assert exact == (1.0 if T == 1 else 0.0)
        else:
            assert_mean(errors[:, T - 1], exact)


def test_least_squares_is_never_worse_than_a_gradient_step():
    for dim, T in itertools.product(DIMS, range(2, 12)):
        eta = theory.haar_step_size_at(dim=dim, length=T)
        loss = theory.haar_one_step_loss(dim=dim, length=T, step_size=eta)
        assert theory.ols_error(dim=dim, length=T) <= loss + 1e-12


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.second_moment(dim=0, power=1), "dim must be at least 1, got 0"),
        (lambda: theory.second_moment(dim=2, power=-1), "power must be at least 0, got -1"),
        (lambda: theory.haar_step_size(dim=0, max_length=5), "dim must be at least 1, got 0"),
        (lambda: theory.haar_step_size(dim=2, max_length=1), "max_length must be at least 2, got 1"),
        (lambda: theory.haar_step_size_at(dim=0, length=5), "dim must be at least 1, got 0"),
        (lambda: theory.haar_step_size_at(dim=2, length=1), "length must be at least 2, got 1"),
        (lambda: theory.haar_one_step_loss(dim=0, length=5, step_size=0.1), "dim must be at least 1, got 0"),
        (lambda: theory.haar_one_step_loss(dim=2, length=1, step_size=0.1), "length must be at least 2, got 1"),
        (lambda: theory.haar_one_step_loss(dim=2, length=5, step_size=math.inf), "step_size must be a finite number"),
        (lambda: theory.haar_one_step_minimum(dim=2, max_length=1), "max_length must be at least 2, got 1"),
        (lambda: theory.haar_step_limit(dim=0), "dim must be at least 1, got 0"),
        (lambda: theory.haar_error_limit(dim=0), "dim must be at least 1, got 0"),
        (lambda: theory.haar_error_limit_at(dim=0), "dim must be at least 1, got 0"),
        (lambda: theory.ols_error(dim=0, length=5), "dim must be at least 1, got 0"),
        (lambda: theory.ols_error(dim=2, length=0), "length must be at least 1, got 0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
