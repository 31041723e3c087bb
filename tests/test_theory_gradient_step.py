"""Augmented tokens: the literal layer over a grid of phases (exact), over samples, and against autograd."""

import itertools
import math

import numpy as np
import pytest
import torch
from cases import EXACT, both_families
from oracles import feature, grid_sequences, inner, quadratic
from torch.testing import assert_close

from ar_interp import theory
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary


def gradient_step(tokens: torch.Tensor, T: int) -> torch.Tensor:
    """(sum_{t=2}^T s_t s_{t-1}^*) s_T."""
    matrix = sum(tokens[:, t - 1, :, None] * tokens[:, t - 2, None, :].conj() for t in range(2, T + 1))
    return torch.einsum("bij,bj->bi", matrix, tokens[:, T - 1])


# ---- the prediction is a gradient step


@pytest.mark.parametrize(
    ("process", "basis"),
    [
        (CommutingUnitary(3, first_token="gaussian"), "eigen"),
        (CommutingOrthogonal(4), "eigen"),
        (CommutingOrthogonal(4, first_token="gaussian"), "rotation"),
    ],
)
def test_prediction_is_one_step_down_the_least_squares_loss(process, basis):
    T, eta = 6, 0.3
    tokens = process.sample(5, T, seed=0, basis=basis).tokens
    W = tokens.new_zeros(5, process.dim, process.dim).requires_grad_()
    residual = tokens[:, 1:] - torch.einsum("bij,btj->bti", W, tokens[:, :-1])
    (gradient,) = torch.autograd.grad(residual.abs().square().sum() / 2, W)
    stepped = torch.einsum("bij,bj->bi", -eta * gradient, tokens[:, -1])
    assert_close(stepped, eta * gradient_step(tokens, T), **EXACT)
    assert_close(stepped, eta * feature(tokens, T, key_lag=1, query_lag=0), **EXACT)  # a2 b1 of the layer


# ---- one step: loss and best step size


@pytest.mark.parametrize(
    ("family", "dim", "length"),
    [
        (CommutingUnitary, 1, 5),
        (CommutingUnitary, 2, 2),
        (CommutingUnitary, 2, 7),
        (CommutingUnitary, 3, 4),
        (CommutingOrthogonal, 2, 2),
        (CommutingOrthogonal, 2, 9),
        (CommutingOrthogonal, 4, 6),
    ],
)
def test_loss_is_the_expectation(family, dim, length):
    tokens = grid_sequences(family, dim, length + 1)
    step, target = gradient_step(tokens, length), tokens[:, length]
    for eta in (0.0, 0.1, 1.0, -0.7):
        expected = inner(eta * step - target, eta * step - target)
        assert theory.one_step_loss(dim=dim, length=length, step_size=eta) == pytest.approx(expected, rel=1e-12)
    best = inner(step, target) / inner(step, step)
    assert theory.optimal_step_size_at(dim=dim, length=length) == pytest.approx(best, rel=1e-12)


@both_families
def test_loss_is_the_mean_over_samples(family, assert_mean):
    dim, n_ctx, eta = 6, 12, 0.08
    tokens = family(dim).sample(20_000, n_ctx + 1, seed=1).tokens
    lengths = range(2, n_ctx + 1)
    errors = [(eta * gradient_step(tokens, T) - tokens[:, T]).abs().square().sum(-1) for T in lengths]
    expected = [theory.one_step_loss(dim=dim, length=T, step_size=eta) for T in lengths]
    assert_mean(torch.stack(errors, dim=1), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("dim", "max_length"), [(1, 2), (2, 20), (4, 5), (7, 3), (10, 50)])
def test_shared_step_size_minimises_the_mean_loss(dim, max_length):
    def mean_loss(eta: float) -> float:
        losses = [theory.one_step_loss(dim=dim, length=T, step_size=eta) for T in range(2, max_length + 1)]
        return math.fsum(losses) / len(losses)

    eta = theory.optimal_step_size(dim=dim, max_length=max_length)
    below, above = mean_loss(0.5 * eta), mean_loss(1.5 * eta)
    assert below == pytest.approx(above, rel=1e-12)  # a parabola around eta
    assert below > mean_loss(eta)
    assert theory.one_step_minimum(dim=dim, max_length=max_length) == pytest.approx(mean_loss(eta), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("dim", "max_length", "step_size", "loss", "relative"),
    [  # the loss is the sum over T = 2..max_length, relative is per T and coordinate
        (2, 20, 0.07142857, 10.857143, 0.2857),
        (4, 5, 0.16666667, 9.333333, 0.5833),
        (5, 50, 0.02702703, 79.459459, 0.3243),
        (10, 10, 0.06521739, 60.652174, 0.6739),
        (10, 20, 0.04545455, 103.636364, 0.5455),
        (10, 50, 0.02380952, 198.333333, 0.4048),
    ],
)
def test_known_step_sizes(dim, max_length, step_size, loss, relative):
    assert theory.optimal_step_size(dim=dim, max_length=max_length) == pytest.approx(step_size, abs=5.1e-9)
    minimum = theory.one_step_minimum(dim=dim, max_length=max_length)
    assert minimum * (max_length - 1) == pytest.approx(loss, abs=5.1e-7)
    assert minimum / dim == pytest.approx(relative, abs=5.1e-5)


def test_long_contexts():
    n = 10**6
    assert n * theory.optimal_step_size(dim=5, max_length=n) == pytest.approx(1.5, abs=1e-5)
    assert theory.one_step_minimum(dim=5, max_length=n) / 5 == pytest.approx(0.25, abs=1e-5)
    eta = theory.optimal_step_size_at(dim=5, length=n)
    assert theory.one_step_loss(dim=5, length=n, step_size=eta) == pytest.approx(5 * 4 / (n + 3), rel=1e-6)


# ---- all block scalars


@pytest.mark.parametrize("dim", [2, 3])
def test_unitary_optimum_is_the_pure_step(dim):
    """Over the products a_x b_y, a linear problem that contains the layer."""
    max_length = 5 if dim == 2 else 4
    tokens = grid_sequences(CommutingUnitary, dim, max_length + 1)
    lags = list(itertools.product((0, 1), repeat=3))  # key, query, value
    features = [[feature(tokens, T, *lag) for lag in lags] for T in range(2, max_length + 1)]
    gram, cross = quadratic(features, [tokens[:, T] for T in range(2, max_length + 1)])
    expected = np.zeros(8)
    expected[lags.index((1, 0, 0))] = theory.optimal_step_size(dim=dim, max_length=max_length)
    np.testing.assert_allclose(gram @ expected, cross, rtol=0, atol=1e-10)
    alone = np.array([lag == (1, 0, 0) for lag in lags])
    np.testing.assert_allclose(gram[alone][:, ~alone], 0, atol=1e-10)  # no overlap: what is added only costs


@pytest.mark.parametrize(("dim", "max_length"), [(2, 2), (2, 9), (4, 5)])
def test_conjugate_pairs_want_a_little_a3(dim, max_length):
    tokens = grid_sequences(CommutingOrthogonal, dim, max_length + 1)
    lags = [(0, 0), (1, 0), (0, 1), (1, 1)]  # a1, a2, a3, a4 with b1 = 1
    lengths = range(2, max_length + 1)
    features = [[feature(tokens, T, *lag) for lag in lags] for T in lengths]
    gram, cross = quadratic(features, [tokens[:, T] for T in lengths])
    best = theory.block_scalar_optimum(dim=dim, max_length=max_length)
    np.testing.assert_allclose(np.linalg.solve(gram, cross), [0, best.a2, best.a3, 0], rtol=0, atol=1e-11)
    loss = dim - cross @ np.linalg.solve(gram, cross) / len(lengths)
    assert best.loss == pytest.approx(loss, abs=1e-11)
    assert best.loss < theory.one_step_minimum(dim=dim, max_length=max_length)


@pytest.mark.parametrize(
    ("dim", "max_length", "pure", "loss", "a2", "a3"),
    [
        (4, 5, 2.33333, 2.21766, 0.18891, -0.02669),
        (10, 10, 6.73913, 6.69426, 0.06694, -0.00413),
        (10, 20, 5.45455, 5.42922, 0.04593, -0.00223),
        (10, 50, 4.04762, 4.03899, 0.02387, -0.00073),
        (4, 50, 1.22222, 1.21683, 0.02788, -0.00110),
        (2, 20, 0.57143, 0.55478, 0.07295, -0.00686),
    ],
)
def test_known_block_scalars(dim, max_length, pure, loss, a2, a3):
    assert theory.one_step_minimum(dim=dim, max_length=max_length) == pytest.approx(pure, abs=5.1e-6)
    assert theory.block_scalar_optimum(dim=dim, max_length=max_length) == pytest.approx((a2, a3, loss), abs=5.1e-6)


def test_the_gain_of_a3_vanishes():
    def gain(max_length: int) -> float:
        best = theory.block_scalar_optimum(dim=4, max_length=max_length)
        return 1 - best.loss / theory.one_step_minimum(dim=4, max_length=max_length)

    assert gain(200) == pytest.approx(0.000405, abs=5.1e-7)
    assert gain(4000) / gain(2000) == pytest.approx(1 / 4, rel=0.01)  # like 1 / max_length^2


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.optimal_step_size(dim=0, max_length=5), "dim must be at least 1, got 0"),
        (lambda: theory.optimal_step_size(dim=2, max_length=1), "max_length must be at least 2, got 1"),
        (lambda: theory.optimal_step_size_at(dim=2, length=1), "length must be at least 2, got 1"),
        (lambda: theory.optimal_step_size_at(dim=0, length=2), "dim must be at least 1, got 0"),
        (lambda: theory.one_step_loss(dim=0, length=2, step_size=0.1), "dim must be at least 1, got 0"),
        (lambda: theory.one_step_loss(dim=2, length=1, step_size=0.1), "length must be at least 2, got 1"),
        (lambda: theory.one_step_loss(dim=2, length=2, step_size=math.nan), "step_size must be a finite number"),
        (lambda: theory.one_step_minimum(dim=0, max_length=5), "dim must be at least 1, got 0"),
        (lambda: theory.one_step_minimum(dim=2, max_length=1), "max_length must be at least 2, got 1"),
        (lambda: theory.block_scalar_optimum(dim=3, max_length=5), "dim must be even for conjugate pairs, got 3"),
        (lambda: theory.block_scalar_optimum(dim=0, max_length=5), "dim must be at least 1, got 0"),
        (lambda: theory.block_scalar_optimum(dim=2, max_length=1), "max_length must be at least 2, got 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
