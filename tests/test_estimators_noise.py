"""Conditional means under noise against numerical integration of the likelihood."""

import numpy as np
import pytest
import torch

import ar_interp as ari
from ar_interp.estimators import HaarPlane, Kalman, PhaseGrid, Procrustes, Ridge, VonMises
from ar_interp.processes import Pairs

N_ANGLES = 4001
angles = np.linspace(0, 2 * np.pi, N_ANGLES, endpoint=False)


def averaged(log_likelihood, values):
    """The mean of values[angle] with the weights exp(log_likelihood[angle])."""
    weights = np.exp(log_likelihood - log_likelihood.max())
    return np.tensordot(weights / weights.sum(), values, axes=1)


@pytest.mark.parametrize("family", [ari.CommutingUnitary, ari.CommutingOrthogonal])
def test_von_mises_is_the_integral_over_the_phase(family):
    q = 0.2
    tokens = family(2, process_noise=q**0.5).sample(2, 5, seed=0).tokens
    found = VonMises(process_variance=q).estimate(tokens)
    for b, T, j in np.ndindex(2, 5, 2):
        s = tokens[b, : T + 1, j].numpy()
        turned = np.exp(1j * angles)
        log_likelihood = -(np.abs(s[1:] - turned[:, None] * s[:-1]) ** 2).sum(1) / q
        assert found[b, T, j, j].item() == pytest.approx(averaged(log_likelihood, turned), abs=1e-9)


@pytest.mark.parametrize("q", [0.0, 0.1])
def test_the_grid_is_the_integral_over_phase_and_states(q):
    r, length = 0.15, 4
    y = ari.CommutingUnitary(2, process_noise=q**0.5, observation_noise=r**0.5).contexts(2, length, seed=1).inputs
    estimator = PhaseGrid(process_variance=q, observation_variance=r)
    found, estimate = estimator(y), estimator.estimate(y)
    for b, T, j in np.ndindex(2, length, 2):
        times = np.arange(T + 1)
        S = q * np.minimum.outer(times, times) + r * np.eye(T + 1)
        x = np.exp(-1j * angles[:, None] * times) * y[b, : T + 1, j].numpy() - 1
        log_likelihood = -np.einsum("as,st,at->a", x.conj(), np.linalg.inv(S), x).real
        following = np.exp(1j * angles * (T + 1)) * (1 + x @ np.linalg.inv(S) @ (q * times))
        assert found[b, T, j].item() == pytest.approx(averaged(log_likelihood, following), abs=1e-9)
        assert estimate[b, T, j, j].item() == pytest.approx(averaged(log_likelihood, np.exp(1j * angles)), abs=1e-9)


def test_without_noise_of_observation_the_grid_is_von_mises():
    tokens = ari.CommutingUnitary(3, process_noise=0.3).sample(4, 6, seed=2).tokens
    grid = PhaseGrid(process_variance=0.09, observation_variance=1e-8)(tokens)
    torch.testing.assert_close(grid, VonMises(process_variance=0.09)(tokens), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "process",
    [
        ari.HaarOrthogonal(3, process_noise=0.3, observation_noise=0.4),
        ari.CommutingUnitary(3, process_noise=0.4, observation_noise=0.2, stationary=True),
        ari.HaarOrthogonal(3, process_noise=0.3),
    ],
    ids=["Haar", "stationary", "observed"],
)
def test_the_filter_is_the_conditional_mean(process):
    """s_1..s_{n+1} and y_1..y_n are jointly Gaussian for known W."""
    q, r, dim, n = process.process_noise**2, process.observation_noise**2, 3, 4
    contexts = process.contexts(2, n, seed=3)
    first = torch.zeros(dim) if process.stationary else contexts.clean[0, 0].real
    kalman = Kalman(contexts.W, first, q, r, float(process.stationary))
    found = kalman(contexts.inputs)
    for b in range(2):
        W = contexts.W[b].numpy()
        powers = [np.linalg.matrix_power(W, k) for k in range(n + 1)]
        start = np.eye(dim) * float(process.stationary)
        blocks = [
            [
                powers[s] @ start @ powers[t].conj().T
                + q * sum(powers[s - k] @ powers[t - k].conj().T for k in range(1, min(s, t) + 1))
                for t in range(n + 1)
            ]
            for s in range(n + 1)
        ]
        C = np.block(blocks)
        mean = np.concatenate([powers[t] @ first.numpy() for t in range(n + 1)])
        for T in range(1, n + 1):
            seen, following = slice(0, T * dim), slice(T * dim, (T + 1) * dim)
            S = C[seen, seen] + r * np.eye(T * dim)
            off = contexts.inputs[b, :T].flatten().numpy() - mean[seen]
            expected = mean[following] + C[following, seen] @ np.linalg.pinv(S, rcond=1e-10) @ off
            np.testing.assert_allclose(found[b, T - 1].numpy(), expected, atol=1e-9)


def test_the_plane_is_the_integral_over_rotations_and_reflections():
    q = 0.1
    tokens = ari.HaarOrthogonal(2, process_noise=q**0.5, first_token="sphere").sample(3, 5, seed=4).tokens
    found = HaarPlane(process_variance=q).estimate(tokens)
    cos, sin = np.cos(angles), np.sin(angles)
    rotations = np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)
    matrices = np.concatenate([rotations, rotations @ np.diag([1, -1])])
    for b, T in np.ndindex(3, 5):
        s = tokens[b, : T + 1].numpy()
        off = s[1:] - np.einsum("aij,tj->ati", matrices, s[:-1])
        expected = averaged(-(off**2).sum((1, 2)) / (2 * q), matrices)
        np.testing.assert_allclose(found[b, T].numpy(), expected, atol=1e-9)


def test_procrustes_is_the_nearest_orthogonal_matrix():
    tokens = ari.HaarOrthogonal(3, process_noise=0.2).sample(4, 9, seed=5).tokens
    found = Procrustes().estimate(tokens)
    assert not found[:, 0].any()
    W = found[:, -1]
    torch.testing.assert_close(W @ W.mT, torch.eye(3, dtype=W.dtype).expand_as(W))
    turn = torch.linalg.matrix_exp(1e-3 * torch.tensor([[0.0, 1, 0], [-1, 0, 2], [0, -2, 0]], dtype=W.dtype))
    for other in (W @ turn, W @ turn.mT, turn @ W):
        worse, best = (
            (tokens[:, 1:] - torch.einsum("bij,btj->bti", M, tokens[:, :-1])).square().sum((1, 2)) for M in (other, W)
        )
        assert (worse > best).all()


def test_the_penalty_of_bayes_is_the_best_one():
    """W with Gaussian entries, on i.i.d. inputs: the mean of errors has no slope in the penalty."""
    generator = torch.Generator().manual_seed(6)
    W, x, noise = (torch.randn(4000, n, 3, generator=generator, dtype=torch.float64) for n in (3, 5, 5))
    y = 0.5 * torch.einsum("bij,btj->bti", W, x) + 0.3 * noise
    pairs = Pairs(x, y)
    best = Ridge.bayes(process_variance=0.09, entry_variance=0.25)
    clean = y - 0.3 * noise
    errors = [
        (ridge(pairs) - clean)[:, -1].square().sum(-1)
        for ridge in (best, Ridge(penalty=best.penalty * 1.5), Ridge(penalty=best.penalty / 1.5))
    ]
    for other in errors[1:]:
        more = other - errors[0]
        assert more.mean() > 3 * more.std() / len(more) ** 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tokens: PhaseGrid(observation_variance=0.1)(tokens), "tokens must be complex, in the eigenbasis"),
        (lambda tokens: Ridge.bayes(process_variance=1.0, entry_variance=0.0), "entry_variance must be greater than 0"),
        (lambda tokens: VonMises(process_variance=0.0), "process_variance must be greater than 0"),
        (lambda tokens: PhaseGrid(observation_variance=0.0), "observation_variance must be greater than 0"),
        (
            lambda tokens: HaarPlane(process_variance=0.1)(tokens),
            "HaarPlane needs real tokens of dim 2, got .* of dim 3",
        ),
        (lambda tokens: Kalman(torch.eye(3)[None], torch.ones(3))(tokens), "W must be those of the 2 contexts, got 1"),
    ],
)
def test_refused(call, message):
    tokens = ari.HaarOrthogonal(3).sample(2, 4, seed=0).tokens
    with pytest.raises(ValueError, match=message):
        call(tokens)
