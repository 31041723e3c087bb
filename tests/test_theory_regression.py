"""Regression in context: closed forms beside quadrature on a grid, simulation, and numbers derived elsewhere."""

import math

import numpy as np
import pytest
import torch

from ar_interp import theory

NOISE = 0.25
PRIOR = np.array([0.1, 0.25, 0.25, 0.05, 0.05, 0.15, 0.15])  # cos and sin of a frequency alike: V is constant


def fourier(x: np.ndarray, n_functions: int) -> np.ndarray:
    m = (np.arange(n_functions) + 1) // 2
    angle = 2 * np.pi * x[..., None] * m
    waves = np.where(np.arange(n_functions) % 2, np.cos(angle), np.sin(angle))
    return np.where(m == 0, 1.0, math.sqrt(2) * waves)


def smooth(a: float, frequencies: int) -> np.ndarray:
    """Variances of frequency m^-(2a + 1), in pairs."""
    m = np.concatenate([[1], np.repeat(np.arange(1, frequencies + 1), 2)]).astype(float)
    return m ** -(2 * a + 1) / (m ** -(2 * a + 1)).sum()


def moments(features: np.ndarray, variances: np.ndarray = PRIOR, n: float = 7, grid: int = 64):
    x = (np.arange(grid) + 0.5) / grid
    arrays = (features, fourier(x, len(variances)), variances)
    return theory.feature_moments(*map(torch.from_numpy, arrays), n=n, noise_variance=NOISE)


GRID = (np.arange(64) + 0.5) / 64


@pytest.mark.parametrize("n", [1, 7, 2.6])
@pytest.mark.parametrize("N", [0, 3, 7])
def test_closed_forms_are_the_quadrature_of_the_definition(n, N):
    found = moments(fourier(GRID, N), n=n)
    gamma = theory.linear_attention_weights(PRIOR, n=n, noise_variance=NOISE)[:N]
    risk = theory.linear_attention_risk(PRIOR, n=n, noise_variance=NOISE, n_features=N)
    assert torch.allclose(found.best, torch.from_numpy(np.diag(gamma)), atol=1e-12)
    assert found.risk(found.best).item() == pytest.approx(risk, abs=1e-12)
    other = np.linspace(1.5, 0.2, N) if N else np.zeros(0)
    if N:
        at = theory.linear_attention_risk_at(other, PRIOR, n=n, noise_variance=NOISE)
        assert found.risk(torch.from_numpy(np.diag(other))).item() == pytest.approx(at, abs=1e-12)
        assert theory.linear_attention_risk_at(gamma, PRIOR, n=n, noise_variance=NOISE) == pytest.approx(
            risk, abs=1e-12
        )


def test_quadrature_is_the_mean_over_simulated_prompts(assert_mean):
    """Features that are no eigenfunctions, a Gamma that is not the best, by its definition alone."""
    rng, n, tasks = np.random.default_rng(0), 7, 40_000

    def phi(x: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(2 * np.pi * x) + 0.3, np.sin(4 * np.pi * x), x * 0 + 1.0], -1)

    Gamma = rng.normal(size=(3, 3)) * 0.4
    x, beta = rng.random((tasks, n + 1)), rng.normal(size=(tasks, 7)) * np.sqrt(PRIOR)
    values = (fourier(x, 7) @ beta[:, :, None])[..., 0]
    y = values[:, :n] + math.sqrt(NOISE) * rng.normal(size=(tasks, n))
    z = (y[:, :, None] * phi(x[:, :n])).mean(1)
    predictions = np.einsum("ti,ij,tj->t", phi(x[:, n]), Gamma, z)
    risk = moments(phi(GRID)).risk(torch.from_numpy(Gamma))
    assert_mean(torch.from_numpy((predictions - values[:, n]) ** 2), risk)


def test_risk_of_given_features_does_not_depend_on_their_basis():
    rng = np.random.default_rng(1)
    found, turned = (moments(fourier(GRID, 4) @ G) for G in (np.eye(4), rng.normal(size=(4, 4))))
    assert turned.risk(turned.best).item() == pytest.approx(found.risk(found.best).item(), abs=1e-10)
    doubled = moments(np.repeat(fourier(GRID, 4), 2, axis=1))  # dependent
    assert doubled.risk(doubled.best).item() == pytest.approx(found.risk(found.best).item(), abs=1e-10)


def test_no_features_of_a_rank_beat_those_of_the_largest_variances():
    best = theory.linear_attention_risk(np.sort(PRIOR)[::-1], n=7, noise_variance=NOISE, n_features=4)
    rng = np.random.default_rng(2)
    for _ in range(50):
        found = moments(fourier(GRID, 7) @ rng.normal(size=(7, 4)))
        assert found.risk(found.best).item() > best


def test_numbers_of_the_standard_prior():
    prior = smooth(1, 400)
    risks = [theory.linear_attention_risk(prior, n=n, noise_variance=NOISE) for n in (1, 64, 4096)]
    assert risks == pytest.approx([0.79048, 0.10253, 0.00705], abs=2e-5)
    gamma = theory.linear_attention_weights(prior, n=64, noise_variance=NOISE)[:9]
    assert gamma[[0, 3, 5, 7]] == pytest.approx([0.9516, 0.6595, 0.3598, 0.1909], abs=5e-5)
    lengths = [theory.linear_attention_risk_at(gamma, prior, n=m, noise_variance=NOISE) for m in (8, 256, 4096)]
    assert lengths == pytest.approx([0.548, 0.0557, 0.0408], abs=1e-4)
    n = theory.effective_prompt_length(64)
    assert theory.linear_attention_risk(prior, n=n, noise_variance=NOISE, n_features=9) == pytest.approx(
        0.26598, abs=1e-5
    )


def test_rate_and_its_constant_are_the_limit_of_the_risk():
    prior = smooth(1, 20_000)
    assert theory.regression_rate(1) == pytest.approx(2 / 3)
    constant = theory.regression_rate_constant(1, tail=prior[1], total=1 + NOISE)
    over = [
        theory.linear_attention_risk(prior, n=n, noise_variance=NOISE) * n ** (2 / 3) / constant for n in (2**12, 2**18)
    ]
    assert over == pytest.approx([0.967, 1], abs=0.01)
    assert abs(over[1] - 1) < abs(over[0] - 1) / 3


@pytest.mark.parametrize(("protocol", "p"), [({}, 25), ({"weights": "diagonal"}, 5), ({"answers": "exact"}, 5)])
def test_excess_of_finite_pretraining(protocol, p):
    """The full Gamma by least squares to T tasks, within the stated 35 % above the formula."""
    prior, N, n, T, repeats = smooth(1, 10), 5, 16, 400, 50
    sizes = {"n": n, "noise_variance": NOISE, "n_features": N}
    assert theory.pretraining_excess(prior, n_tasks=p + 1, **sizes, **protocol) == math.inf
    expected = theory.pretraining_excess(prior, n_tasks=T, **sizes, **protocol)
    rng, excess = np.random.default_rng(3), []
    of_phi, prior_root = theory.feature_moments, np.sqrt(prior)
    found = of_phi(*map(torch.from_numpy, (fourier(GRID, N), fourier(GRID, 21), prior)), n=n, noise_variance=NOISE)
    for _ in range(repeats):
        x, beta = rng.random((T, n + 1)), rng.normal(size=(T, 21)) * prior_root
        y = (fourier(x, 21) @ beta[:, :, None])[..., 0] + math.sqrt(NOISE) * rng.normal(size=(T, n + 1))
        phi = fourier(x, N)
        z = (y[:, :n, None] * phi[:, :n]).mean(1)
        if "answers" in protocol:  # all of f: its coefficients
            Gamma = np.linalg.lstsq(z, beta[:, :N], rcond=None)[0].T
        elif "weights" in protocol:
            Gamma = np.diag(np.linalg.lstsq(phi[:, n] * z, y[:, n], rcond=None)[0])
        else:
            design = (phi[:, n, :, None] * z[:, None, :]).reshape(T, -1)
            Gamma = np.linalg.lstsq(design, y[:, n], rcond=None)[0].reshape(N, N)
        excess.append(found.risk(torch.from_numpy(Gamma)).item())
    mean = np.mean(excess) - found.risk(found.best).item()
    assert 0.9 * expected < mean < 1.45 * expected


def test_only_the_full_gamma_where_the_variance_is_not_constant():
    """The cosine basis: the best Gamma is not diagonal."""
    x = (np.arange(256) + 0.5) / 256
    functions = np.where(np.arange(40) == 0, 1.0, math.sqrt(2) * np.cos(np.pi * x[:, None] * np.arange(40)))
    prior = (np.arange(40) + 1.0) ** -3
    prior /= prior.sum()
    arrays = map(torch.from_numpy, (functions[:, :8], functions, prior))
    found = theory.feature_moments(*arrays, n=16, noise_variance=NOISE)
    assert found.risk(found.best).item() == pytest.approx(0.120954, abs=1e-6)
    gamma = np.diag(found.P.numpy()) / np.diag(found.S.numpy())
    assert found.risk(torch.from_numpy(np.diag(gamma))).item() == pytest.approx(0.121254, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variances": [1.0, -0.1]}, "variances must not be negative, nor all 0; the smallest is -0.1"),
        ({"variances": []}, "variances must not be empty"),
        ({"n": 0.5}, "n must be at least 1.0, got 0.5"),
        ({"noise_variance": -1.0}, "noise_variance must be at least 0.0"),
        ({"n_features": 3}, "n_features must be at most 2, got 3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.linear_attention_risk(**{"variances": [1.0, 0.5], "n": 4, "noise_variance": 0.1, **arguments})


def test_no_features_cost_no_tasks_and_shapes_go_together(without_type_checks):
    with pytest.raises(ValueError, match="n_features must be at least 1, got 0"):
        theory.pretraining_excess([1.0], n=4, noise_variance=0.1, n_features=0, n_tasks=9)
    with pytest.raises(ValueError, match=r"must go together, got \[4, 2\], \[4, 3\] and \[2\]"):
        theory.feature_moments(torch.ones(4, 2), torch.ones(4, 3), torch.ones(2), n=2, noise_variance=0.1)


def test_the_order_of_frequency_has_a_slower_rate_than_the_learned_basis():
    """Variances j^-3 at frequency j^2; by frequency with gamma of smoothness 1/2."""
    frequency = np.arange(1, 121) ** 2
    prior = np.zeros(2 * frequency[-1] + 1)
    prior[0] = 1.0
    prior[2 * frequency - 1] = prior[2 * frequency] = np.arange(1.0, 121) ** -3
    prior /= prior.sum()
    by_frequency = np.concatenate([[1.0], np.repeat(np.arange(1.0, frequency[-1] + 1) ** -2, 2)])
    by_frequency /= by_frequency.sum()
    learned = [theory.linear_attention_risk(prior, n=n, noise_variance=NOISE) for n in (32, 256, 4096)]
    assert learned == pytest.approx([0.1578, 0.0426, 0.0070], abs=1e-4)
    fixed = [
        theory.linear_attention_risk_at(
            theory.linear_attention_weights(by_frequency, n=n, noise_variance=NOISE), prior, n=n, noise_variance=NOISE
        )
        for n in (32, 256, 4096)
    ]
    assert fixed == pytest.approx([0.2176, 0.0829, 0.0214], abs=2e-4)


@pytest.mark.parametrize("n", [1, 40])
def test_the_least_risks_of_all_ranks_are_those_of_the_functions(n):
    found = moments(fourier(GRID, 7)[:, [1, 2, 5, 6, 0]] @ np.random.default_rng(0).normal(size=(5, 5)), n=n)
    largest = np.sort(PRIOR)[::-1]
    expected = [theory.linear_attention_risk(largest, n=n, noise_variance=NOISE, n_features=k) for k in range(1, 6)]
    assert found.least_risks.tolist() == pytest.approx(expected)
    assert found.least_risks[-1].item() == pytest.approx(found.risk(found.best).item())
