"""Haar-distributed W: moments of the measure, the recursion, precision and randomness."""

import pytest
import torch

import ar_interp as ari

N = 20_000


@pytest.fixture(scope="module")
def matrices():
    return ari.HaarOrthogonal(5).draw_matrices(N, torch.Generator().manual_seed(0))


def test_matrices_are_orthogonal(matrices):
    identity = torch.eye(5, dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity, atol=1e-13, rtol=0)


def test_moments_of_the_haar_measure(matrices, assert_mean):
    """E W = 0, E W_ij^2 = 1/d, E (tr W)^2 = 1, E tr W^2 = 1, both determinants alike."""
    assert_mean(matrices, 0.0)
    assert_mean(matrices**2, 1 / 5)
    trace = matrices.diagonal(0, -2, -1).sum(-1)
    assert_mean(trace, 0.0)
    assert_mean(trace**2, 1.0)
    assert_mean((matrices @ matrices).diagonal(0, -2, -1).sum(-1), 1.0)
    assert_mean(torch.linalg.det(matrices), 0.0)
    assert_mean(matrices[:, 0, 0] * matrices[:, 1, 1], 0.0)


def test_returns_to_the_first_token(assert_mean):
    """E <s_1, W^m s_1>^2 for d = 5: 1/5, 9/35, 9/35, 11/35, 11/35, ... whatever s_1 of norm 1."""
    expected = torch.tensor([1 / 5, 9 / 35, 9 / 35, 11 / 35, 11 / 35], dtype=torch.float64)
    for law in ("unit-ones", "sphere"):
        tokens = ari.HaarOrthogonal(5, first_token=law).sample(N, 6, seed=1).tokens
        returns = torch.einsum("bi,bti->bt", tokens[:, 0], tokens[:, 1:])
        assert_mean(returns**2, expected)


def test_tokens_follow_the_recursion():
    sequences = ari.HaarOrthogonal(4).sample(6, 9, seed=2)
    assert sequences.tokens.shape == (6, 9, 4)
    assert sequences.phases is None
    moved = torch.einsum("bij,btj->bti", sequences.W, sequences.tokens[:, :-1])
    torch.testing.assert_close(sequences.tokens[:, 1:], moved, atol=1e-15, rtol=1e-14)
    torch.testing.assert_close(sequences.tokens[:, 0], torch.full((6, 4), 0.5, dtype=torch.float64))


def test_noise_has_the_stated_variance(assert_mean):
    sequences = ari.HaarOrthogonal(3, noise=0.2).sample(N, 4, seed=3)
    noise = sequences.tokens[:, 1:] - torch.einsum("bij,btj->bti", sequences.W, sequences.tokens[:, :-1])
    assert_mean(noise, 0.0)
    assert_mean(noise**2, 0.04)


@pytest.mark.parametrize(("dtype", "per_step"), [(torch.float64, 2e-15), (torch.float32, 1e-6)])
def test_the_rounding_error_grows_only_linearly(dtype, per_step):
    """Against powers by the eigendecomposition; a few units in the last place for each step."""
    sequences = ari.HaarOrthogonal(5).sample(256, 1000, seed=4, dtype=dtype)
    W = sequences.W.double()
    eigenvalues, vectors = torch.linalg.eig(W)
    weights = torch.linalg.solve(vectors, sequences.tokens[:, 0].to(vectors.dtype))
    phases = eigenvalues.angle()  # W rounded to float32 is not quite orthogonal; its powers keep the modulus
    for T in (10, 100, 1000):
        powers = torch.exp(1j * phases * (T - 1)) * eigenvalues.abs() ** (T - 1)
        exact = torch.einsum("bij,bj->bi", vectors, powers * weights).real
        assert (sequences.tokens[:, T - 1] - exact).norm(dim=-1).max() < per_step * T


def test_the_same_seed_gives_the_same_sequences():
    process = ari.HaarOrthogonal(4)
    first, again = process.sample(3, 5, seed=7), process.sample(3, 5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, process.sample(3, 5, seed=8).tokens)
    assert torch.equal(first[1:].W, first.W[1:])
    assert first[1:].phases is None


def test_phases_cannot_be_read_where_there_are_none():
    from ar_interp.models.transformer import HookedARTransformer
    from ar_interp.probes.context import SCORES

    model = HookedARTransformer(ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=5))
    with pytest.raises(ValueError, match="sequences must carry phases: sample them from a commuting family"):
        ari.probe_activations(model, ari.HaarOrthogonal(4).sample(60, 6, seed=0), hooks=SCORES, target="cos")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ari.HaarOrthogonal(0), "dim must be at least 1, got 0"),
        (lambda: ari.HaarOrthogonal(4, first_token="sparse"), "n_nonzero goes with the law 'sparse'"),
        (lambda: ari.HaarOrthogonal(4).sample(2, 0, seed=0), "length must be at least 1, got 0"),
        (lambda: ari.HaarOrthogonal(4).sample(2, 3), "exactly one of seed and generator"),
        (lambda: ari.HaarOrthogonal(4).sample(2, 3, seed=0, dtype=torch.int64), "dtype must be float64, float32"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
