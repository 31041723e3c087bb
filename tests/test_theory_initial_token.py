"""The law of the first token: moments by sampling, losses over a grid of phases (exact) and over samples."""

import itertools
import math

import pytest
import torch

from ar_interp import theory
from ar_interp.processes import FIRST_TOKEN_LAWS, CommutingUnitary, FirstToken, Sequences

DIM, MAX_LENGTH = 5, 8
LAWS = {
    "gaussian": {"scale": 1.3},
    "complex-gaussian": {"scale": 1.3},
    "ones": {},
    "unit-ones": {"scale": 3.0},
    "signs": {"scale": 2.0},
    "one-hot": {"scale": 2.0},
    "sparse": {"scale": 2.0, "n_nonzero": 3},
    "sphere": {},
}
by_law = pytest.mark.parametrize("law", LAWS)


def draw_first_tokens(law: str, n: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if law == "complex-gaussian":
        return LAWS[law]["scale"] * torch.randn(n, DIM, generator=generator, dtype=torch.complex128)
    return FirstToken(law, **LAWS[law]).draw(n, DIM, generator).to(torch.complex128)


def simulate(law: str, n: int, *, seed: int) -> Sequences:
    """x_1..x_{max_length} of the law, with uniform phases."""
    phases = CommutingUnitary(DIM).draw_phases(n, torch.Generator().manual_seed(seed + 1))
    return CommutingUnitary(DIM).rollout(phases, MAX_LENGTH, first_tokens=draw_first_tokens(law, n, seed=seed))


def gradient_step(tokens: torch.Tensor, t: int) -> torch.Tensor:
    """(1 / (t - 1)) sum_{i=1}^{t-1} x_{i+1} <x_i, x_t>."""
    total = torch.zeros_like(tokens[:, 0])
    for i in range(1, t):
        total = total + tokens[:, i] * (tokens[:, i - 1].conj() * tokens[:, t - 1]).sum(-1, keepdim=True)
    return total / (t - 1)


def theory_moments(law: str) -> theory.TokenMoments:
    return theory.first_token_moments(law, dim=DIM, **LAWS[law])


def measured_moments(first: torch.Tensor) -> torch.Tensor:
    """kappa0..kappa3 of every sample, averaged over coordinates, [batch 4]."""
    square = first.abs().square()
    cross = square.sum(1) * square.square().sum(1) - square.pow(3).sum(1)  # sum over r != j
    return torch.stack([square.mean(1), square.square().mean(1), square.pow(3).mean(1), cross / DIM], dim=1)


# ---- moments


def test_all_laws_of_the_processes_are_known():
    assert set(FIRST_TOKEN_LAWS) | {"complex-gaussian"} == set(LAWS)


@by_law
def test_moments_are_means_over_samples(law, assert_mean):
    moments = theory_moments(law)
    expected = torch.tensor([moments.kappa0, moments.kappa1, moments.kappa2, moments.kappa3], dtype=torch.float64)
    samples = measured_moments(draw_first_tokens(law, 100_000, seed=0))
    fixed = samples.std(0) < 1e-9
    assert samples[0, fixed].tolist() == pytest.approx(expected[fixed].tolist(), rel=1e-12, abs=1e-12)
    if not fixed.all():
        assert_mean(samples[:, ~fixed], expected[~fixed])


# ---- errors and the trained product


def test_error_is_the_expectation_for_unequal_coordinates():
    """A fixed x_1 = (0.5, 1.7i): every phase on a grid, exact; the kappas are averages over the two coordinates."""
    n_ctx = 7
    nodes = (2 * math.pi * torch.arange(4 * n_ctx, dtype=torch.float64) / (4 * n_ctx)).tolist()
    phases = torch.tensor(list(itertools.product(nodes, repeat=2)), dtype=torch.float64)
    first = torch.tensor([0.5, 1.7j], dtype=torch.complex128).expand(len(phases), 2)
    tokens = CommutingUnitary(2).rollout(phases, n_ctx + 1, first_tokens=first).tokens
    x, y = 0.25, 1.7**2  # squared sizes
    moments = theory.TokenMoments(
        kappa0=(x + y) / 2, kappa1=(x**2 + y**2) / 2, kappa2=(x**3 + y**3) / 2, kappa3=(x * y**2 + y * x**2) / 2
    )
    overlap = energy = 0.0
    for t in range(2, n_ctx + 1):
        step, target = gradient_step(tokens, t), tokens[:, t]
        for product in (0.0, 0.3, -1.0):
            expected = (product * step - target).abs().square().mean().item()
            error = theory.initial_token_error(moments, product=product, length=t)
            assert error == pytest.approx(expected, rel=1e-12)
        overlap += (step.conj() * target).real.mean().item()
        energy += step.abs().square().mean().item()
    best = theory.initial_token_product(moments, max_length=n_ctx + 1)
    assert best == pytest.approx(overlap / energy, rel=1e-12)


@by_law
def test_errors_and_the_product_are_means_over_samples(law, assert_mean):
    moments = theory_moments(law)
    product = theory.initial_token_product(moments, max_length=MAX_LENGTH)
    tokens = simulate(law, 40_000, seed=2).tokens
    contexts = range(2, MAX_LENGTH)
    steps = torch.stack([gradient_step(tokens, t) for t in contexts], dim=1)
    misses = product * steps - tokens[:, 2:]
    errors = misses.abs().square().mean(-1)
    expected = [theory.initial_token_error(moments, product=product, length=t) for t in contexts]
    if law == "one-hot":  # exact in every sample
        assert errors.max() < 1e-24
        assert expected == pytest.approx([0.0] * len(expected), abs=1e-12)
    else:
        assert_mean(errors, torch.tensor(expected, dtype=torch.float64))
        slope = (misses.conj() * steps).real.sum((1, 2))  # derivative of the training loss in the product
        assert_mean(slope, 0.0)


@pytest.mark.parametrize(
    ("law", "product", "limit", "error"),
    [  # dim 5, max_length 8
        ("gaussian", 0.08920, 1 / (5 * 1.69), 2 / 5),
        ("complex-gaussian", 0.12771, 1 / (3 * 1.69), 1 / 3),
        ("ones", 0.37975, 1, 0),
        ("signs", 0.09494, 1 / 4, 0),
        ("one-hot", 0.25, 1 / 4, 0),
        ("sparse", 0.13761, 1 / 4, 0),
        ("sphere", 1.35678, 9 / 5, 1 - 3 * 9 / (5 * 7)),
    ],
)
def test_known_products_and_limits(law, product, limit, error):
    moments = theory_moments(law)
    assert theory.initial_token_product(moments, max_length=MAX_LENGTH) == pytest.approx(product, abs=5.1e-6)
    assert moments.limit_product == pytest.approx(limit, rel=1e-12)
    assert moments.limit_relative_error == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize(("max_length", "product"), [(10, 0.15726), (100, 0.19191), (1000, 0.19881)])
def test_products_of_longer_sequences(max_length, product):
    moments = theory.first_token_moments("gaussian", dim=5, scale=1.3)
    trained = theory.initial_token_product(moments, max_length=max_length)
    assert 1.3**2 * trained == pytest.approx(product, abs=5.1e-6)


@by_law
def test_limits_are_reached(law):
    moments = theory_moments(law)
    product = theory.initial_token_product(moments, max_length=10**5)
    assert product == pytest.approx(moments.limit_product, rel=1e-3)
    error = theory.initial_token_error(moments, product=product, length=10**7)
    assert error / moments.kappa0 == pytest.approx(moments.limit_relative_error, abs=1e-5)


# ---- what is refused


@pytest.fixture
def moments():
    return theory.first_token_moments("gaussian", dim=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: theory.first_token_moments("uniform", dim=3), "law must be one of 'ones', .*, got 'uniform'"),
        (lambda m: theory.first_token_moments("ones", dim=0), "dim must be at least 1, got 0"),
        (lambda m: theory.first_token_moments("ones", dim=3, scale=0.0), r"scale must be greater than 0\.0, got 0\.0"),
        (lambda m: theory.first_token_moments("sparse", dim=3), "only with it: got 'sparse', n_nonzero=None"),
        (lambda m: theory.first_token_moments("ones", dim=3, n_nonzero=1), "only with it: got 'ones', n_nonzero=1"),
        (lambda m: theory.first_token_moments("sparse", dim=3, n_nonzero=4), "n_nonzero must be at most 3, got 4"),
        (lambda m: theory.first_token_moments("sparse", dim=3, n_nonzero=0), "n_nonzero must be at least 1, got 0"),
        (lambda m: theory.initial_token_product(m, max_length=2), "max_length must be at least 3, got 2"),
        (lambda m: theory.initial_token_error(m, product=1.0, length=1), "length must be at least 2, got 1"),
        (lambda m: theory.initial_token_error(m, product=math.nan, length=2), "product must be a finite number"),
        (
            lambda m: theory.TokenMoments(kappa0=1.0, kappa1=2.0, kappa2=3.0, kappa3=0.0),
            r"kappa1\^2 = 4 exceeds kappa0 kappa2 = 3",
        ),
        (
            lambda m: theory.TokenMoments(kappa0=0.0, kappa1=1.0, kappa2=1.0, kappa3=0.0),
            r"kappa0 must be greater than 0\.0",
        ),
        (
            lambda m: theory.TokenMoments(kappa0=1.0, kappa1=1.0, kappa2=1.0, kappa3=-1.0),
            r"kappa3 must be at least 0\.0",
        ),
    ],
)
def test_refuses(call, message, moments):
    with pytest.raises(ValueError, match=message):
        call(moments)
