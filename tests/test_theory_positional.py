"""Positional-only attention: the kernel by quadrature, the loss through the hooked model, the filter by descending."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ar_interp import theory
from ar_interp.models.config import ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingUnitary

MUS = [1.0, 2.0, 3.7, 8.0, 50.0, 300.0]
STEP = 1 / 29  # lr .5 on the mean over 29 context lengths: 2 * .5 / 29 for each
STOP = 1e-3

by_mu = pytest.mark.parametrize("mu", MUS)


def phase_nodes(mu: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre nodes and weights for theta / mu, theta uniform on (0, 2 pi); exact far beyond degree 60."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return torch.from_numpy(math.pi * (nodes + 1) / mu), torch.from_numpy(weights / 2)


# ---- kernel, loss, optimum


@by_mu
def test_kernel_is_the_expectation(mu):
    angles, weights = phase_nodes(mu)
    K = theory.positional_kernel(mu=mu, length=9)
    for t in range(9):
        for s in range(9):
            assert_close(K[t, s], (weights * torch.cos(2 * (t - s) * angles)).sum(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mu", [1.0, 2.0, 4.0])
def test_kernel_of_a_uniform_circle_is_the_identity(mu):
    assert_close(theory.positional_kernel(mu=mu, length=30), torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-14)


@by_mu
def test_loss_is_the_expectation(mu, random_tensor):
    angles, weights = phase_nodes(mu)
    for length in (1, 2, 7):
        p = random_tensor(length, seed=length)
        error = -torch.exp(1j * angles * length)
        for t in range(1, length + 1):
            error = error + p[t - 1] * torch.exp(1j * angles * (2 * t - length))
        expected = (weights * error.abs() ** 2).sum()
        assert_close(theory.positional_loss(p, mu=mu), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mu", [1.0, 7.0, 100.0])
def test_loss_is_the_error_of_the_hooked_model(mu, random_tensor, assert_mean):
    n_ctx = 6
    model = HookedARTransformer(ModelConfig.positional_only(n_ctx=n_ctx))
    P = random_tensor(n_ctx, n_ctx, seed=0)
    with torch.no_grad():
        model.P.copy_(P)
        tokens = CommutingUnitary(1, mu=mu).sample(20_000, n_ctx + 1, seed=1).tokens
        errors = (model(tokens[:, :-1]) - tokens[:, 1:]).abs().square().sum(-1)
    losses = torch.stack([theory.positional_loss(P[T - 2, :T], mu=mu) for T in range(2, n_ctx + 1)])
    assert_mean(errors[:, 1:], losses)
    assert_close(theory.positional_population_loss(P, mu=mu), losses.sum())


@by_mu
def test_population_loss_ignores_what_the_model_never_reads(mu, random_tensor):
    P = random_tensor(3, 6, 6, seed=0).requires_grad_()
    loss = theory.positional_population_loss(P, mu=mu)
    rows = [torch.stack([theory.positional_loss(p[T - 2, :T], mu=mu) for T in range(2, 7)]).sum() for p in P]
    assert_close(loss, torch.stack(rows))
    (gradient,) = torch.autograd.grad(loss.sum(), P)
    read = torch.ones(6, 6, dtype=torch.bool).tril(1)
    read[-1] = False
    assert torch.equal(gradient != 0, read.expand(3, 6, 6))


@given(mu=st.floats(0.5, 1e4), length=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_optimum_is_all_weight_on_the_newest_key(mu, length, seed):
    optimum = theory.positional_optimum(length=length)
    assert optimum.tolist() == [0.0] * (length - 1) + [1.0]
    assert theory.positional_loss(optimum, mu=mu) == 0
    other = torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert theory.positional_loss(other, mu=mu) > -1e-12


# ---- gradient descent from zero is a filter


@pytest.mark.parametrize("mu", [1.0, 8.0, 50.0, 300.0])
def test_filter_is_explicit_descent(mu):
    p = torch.zeros(30, dtype=torch.float64)
    for step in range(400):
        if step in (0, 1, 37):
            filtered = theory.spectral_filter(mu=mu, length=30, step_size=STEP, steps=step)
            assert_close(filtered.p, p, rtol=0, atol=1e-12)
        leaf = p.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(theory.positional_loss(leaf, mu=mu), leaf)
        p = p - STEP / 2 * gradient  # step_size is twice the learning rate
    filtered = theory.spectral_filter(mu=mu, length=30, step_size=STEP, steps=400)
    assert_close(filtered.p, p, rtol=0, atol=1e-12)


def test_filter_explains_itself():
    K = theory.positional_kernel(mu=50.0, length=12)
    filtered = theory.spectral_filter(mu=50.0, length=12, step_size=0.05, steps=90)
    modes, response = filtered.modes, filtered.response
    assert_close(modes.T @ modes, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)
    eigenvalues = (modes.T @ K @ modes).diagonal()
    assert (eigenvalues.diff() < 1e-12).all()  # descending
    assert_close(response, 1 - (1 - 0.05 * eigenvalues) ** 90, rtol=0, atol=1e-12)
    assert_close(filtered.p, modes @ torch.diag(response) @ modes.T @ theory.positional_optimum(length=12))
    assert filtered.rank == pytest.approx(float(response.sum()))


@pytest.mark.parametrize(("mu", "stop"), [(1.0, 1e-3), (8.0, 1e-3), (50.0, 1e-2), (3.0, 2.0)])
def test_steps_are_counted_as_descent_counts_them(mu, stop):
    n_ctx, step = 10, 0.1
    P = torch.zeros(n_ctx, n_ctx, dtype=torch.float64)
    count = 0
    while (loss := theory.positional_population_loss(P.requires_grad_(), mu=mu)) / (n_ctx - 1) >= stop:
        P = (P - step / 2 * torch.autograd.grad(loss, P)[0]).detach()
        count += 1
    assert theory.descent_steps(mu=mu, n_ctx=n_ctx, step_size=step, stop_below=stop) == count


@pytest.mark.parametrize(
    ("mu", "steps", "weights", "total", "rank"),
    [  # T = 30: p_T, p_{T-1}, p_{T-2}, p_1 where descent crosses a mean loss of 1e-3
        (1.0, 99, (0.9690, 0, 0, 0), 0.969, 29.07),
        (2.0, 99, (0.9690, 0, 0, 0), 0.969, 29.07),
        (4.0, 99, (0.9690, 0, 0, 0), 0.969, 29.07),
        (8.0, 473, (0.9056, 0.1652, -0.1248, 0.0162), 0.983, 17.2),
        (16.0, 771, (0.7616, 0.3226, 0.0205, -0.0347), 0.975, 10.1),
        (50.0, 886, (0.4562, 0.3326, 0.2230, 0.0533), 0.982, 4.93),
        (100.0, 766, (0.2884, 0.2423, 0.1990, 0.0162), 0.993, 3.40),
        (200.0, 661, (0.2060, 0.1836, 0.1621, 0.0278), 0.969, 2.66),
        (300.0, 473, (0.1409, 0.1314, 0.1221, -0.0414), 0.966, 2.14),
    ],
)
def test_where_the_authors_run_stops(mu, steps, weights, total, rank):
    assert theory.descent_steps(mu=mu, n_ctx=30, step_size=STEP, stop_below=STOP) == steps
    filtered = theory.spectral_filter(mu=mu, length=30, step_size=STEP, steps=steps)
    assert filtered.p[[-1, -2, -3, 0]].tolist() == pytest.approx(weights, abs=5.1e-5)
    assert float(filtered.p.sum()) == pytest.approx(total, abs=5.1e-4)
    assert filtered.rank == pytest.approx(rank, abs=0.051 if rank in (17.2, 10.1) else 0.0051)


# ---- the slow limit


@pytest.mark.parametrize("length", [1, 2, 5, 30])
def test_constant_extrapolation(length):
    expected = torch.full((length,), 1 / length, dtype=torch.float64)
    assert_close(theory.legendre_profile(rank=1, length=length), expected)


@pytest.mark.parametrize("length", [2, 5, 30])
def test_linear_extrapolation(length):
    t = torch.arange(1, length + 1, dtype=torch.float64)
    expected = (6 * t - 2 * length - 2) / (length * (length + 1))
    assert_close(theory.legendre_profile(rank=2, length=length), expected, rtol=0, atol=1e-13)


@given(rank=st.integers(1, 6), length=st.integers(6, 30), seed=st.integers(0, 10**6))
def test_profiles_continue_polynomials(rank, length, seed):
    """The profile is a projection of e_T: its product with a polynomial is the polynomial's newest value."""
    coefficients = torch.randn(rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    polynomial = (t[:, None] ** torch.arange(rank)) @ coefficients
    profile = theory.legendre_profile(rank=rank, length=length)
    assert_close(profile @ polynomial, polynomial[-1], rtol=0, atol=1e-11)


def test_full_rank_profile_is_the_optimum():
    assert_close(theory.legendre_profile(rank=8, length=8), theory.positional_optimum(length=8), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("mu", "tolerance"), [(300.0, 5.1e-3), (1e4, 5e-6)])
@pytest.mark.parametrize("rank", [1, 2])
def test_slow_signals_are_extrapolated_by_polynomials(mu, tolerance, rank):
    """The leading modes of K tend to the Legendre polynomials like (length / mu)^2."""
    modes = theory.spectral_filter(mu=mu, length=30, step_size=STEP, steps=1).modes[:, :rank]
    profile = theory.legendre_profile(rank=rank, length=30)
    assert (modes @ modes[-1] - profile).abs().max() < tolerance


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.positional_kernel(mu=0.0, length=3), r"mu must be greater than 0\.0"),
        (lambda: theory.positional_kernel(mu=1.0, length=0), "length must be at least 1, got 0"),
        (lambda: theory.positional_optimum(length=0), "length must be at least 1, got 0"),
        (lambda: theory.spectral_filter(mu=1.0, length=3, step_size=-1.0, steps=1), "step_size must be greater than"),
        (lambda: theory.spectral_filter(mu=1.0, length=3, step_size=1.0, steps=-1), "steps must be at least 0"),
        (lambda: theory.descent_steps(mu=1.0, n_ctx=1, step_size=0.1, stop_below=0.1), "n_ctx must be at least 2"),
        (lambda: theory.descent_steps(mu=1.0, n_ctx=3, step_size=0.1, stop_below=0.0), "stop_below must be greater"),
        (
            lambda: theory.descent_steps(mu=300.0, n_ctx=30, step_size=STEP, stop_below=STOP, limit=400),
            r"stays above stop_below = 0\.001 for 400 steps at mu = 300",
        ),
        (lambda: theory.legendre_profile(rank=4, length=3), "rank must be at most 3, got 4"),
        (lambda: theory.legendre_profile(rank=0, length=3), "rank must be at least 1, got 0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
