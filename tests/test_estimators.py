"""Estimators against loops over sequences and context lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ar_interp.estimators import OLS, DiagonalOLS, Zero
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken

ESTIMATORS = [Zero(), OLS(), DiagonalOLS()]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
GAUSSIAN = FirstToken("gaussian")


def least_squares(tokens: torch.Tensor) -> torch.Tensor:
    """numpy's minimum-norm solution of s_{t+1} = W s_t, t < T, for every sequence and every T."""
    batch, pos, dim = tokens.shape
    W = np.zeros((batch, pos, dim, dim), dtype=tokens.numpy().dtype)
    for b, s in enumerate(tokens.numpy()):
        for T in range(2, pos + 1):
            W[b, T - 1] = np.linalg.lstsq(s[: T - 1], s[1:T], rcond=1e-12)[0].T
    return torch.from_numpy(W)


def diagonal_least_squares(tokens: torch.Tensor) -> torch.Tensor:
    batch, pos, dim = tokens.shape
    W = torch.zeros(batch, pos, dim, dim, dtype=tokens.dtype)
    for b in range(batch):
        for T in range(2, pos + 1):
            for j in range(dim):
                s = tokens[b, :T, j]
                energy = sum(abs(s[t]) ** 2 for t in range(T - 1))
                W[b, T - 1, j, j] = sum(s[t + 1] * s[t].conj() for t in range(T - 1)) / energy
    return W


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize(
    ("family", "basis"),
    [(CommutingUnitary, "eigen"), (CommutingOrthogonal, "eigen"), (CommutingOrthogonal, "rotation")],
)
class TestOracles:
    def sample(self, family, basis, noise):
        return family(4, first_token=GAUSSIAN, noise=noise).sample(6, 9, seed=0, basis=basis)

    def test_ols_is_numpy_lstsq(self, family, basis, noise):
        tokens = self.sample(family, basis, noise).tokens
        # 1e-9: the pairs of a context may be nearly collinear (condition number to 1e4).
        assert_close(OLS().estimate(tokens), least_squares(tokens), rtol=0, atol=1e-9)

    def test_diagonal_ols_is_its_formula(self, family, basis, noise):
        tokens = self.sample(family, basis, noise).tokens
        assert_close(DiagonalOLS().estimate(tokens), diagonal_least_squares(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "basis"), [(CommutingUnitary, "eigen"), (CommutingOrthogonal, "rotation")])
def test_ols_finds_W_from_dim_plus_one_tokens_and_not_before(family, basis):
    dim = 4
    sequences = family(dim, first_token=GAUSSIAN).sample(20, 8, seed=1, basis=basis)
    error = (OLS().estimate(sequences.tokens) - sequences.W[:, None]).norm(dim=(-1, -2))
    assert error[:, dim:].max() < 1e-8  # position dim holds T = dim + 1 tokens
    # Only dim - 1 pairs: one direction is left out, and there W acts as a matrix of norm 1.
    assert error[:, dim - 1].min() > 0.5


@pytest.mark.parametrize("family", [CommutingUnitary, CommutingOrthogonal])
def test_diagonal_ols_finds_W_from_two_tokens(family):
    sequences = family(4, first_token=GAUSSIAN).sample(20, 5, seed=2)
    estimate = DiagonalOLS().estimate(sequences.tokens)
    assert_close(estimate[:, 1:], sequences.W[:, None].expand(-1, 4, -1, -1), rtol=0, atol=1e-12)
    assert not estimate[:, 0].any()


def test_diagonal_ols_says_zero_of_a_coordinate_it_never_saw():
    sequences = CommutingUnitary(4, first_token=FirstToken("one-hot")).sample(6, 5, seed=3)
    seen = sequences.tokens[:, :1].abs() > 0
    expected = torch.diag_embed(sequences.W.diagonal(0, -2, -1)[:, None] * seen).expand(-1, 4, -1, -1)
    assert_close(DiagonalOLS().estimate(sequences.tokens)[:, 1:], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("estimator", [OLS(), DiagonalOLS()], ids=lambda e: type(e).__name__)
def test_with_noise_more_context_is_better(estimator):
    sequences = CommutingUnitary(3, first_token=GAUSSIAN, noise=0.2).sample(100, 90, seed=4)
    error = (estimator.estimate(sequences.tokens) - sequences.W[:, None]).norm(dim=(-1, -2))
    early, late = error[:, 9].median(), error[:, 89].median()
    assert early > 0.02
    assert late < early / 2  # the error falls at least like T^{-1/2}: a factor of 3


def test_zero_predicts_zero():
    tokens = CommutingUnitary(3).sample(2, 4, seed=5).tokens
    assert not Zero().estimate(tokens).any()
    assert not Zero()(tokens).any()


@every_estimator
def test_prediction_is_the_estimate_applied_to_the_last_token(estimator):
    tokens = CommutingUnitary(3, noise=0.1).sample(4, 6, seed=6).tokens
    W, prediction = estimator.estimate(tokens), estimator(tokens)
    for b in range(4):
        for t in range(6):
            assert_close(prediction[b, t], W[b, t] @ tokens[b, t], rtol=0, atol=1e-13)


@every_estimator
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 7), is_real=st.booleans())
def test_the_future_never_changes_the_past(estimator, seed, cut, is_real):
    basis = "rotation" if is_real else "eigen"
    process = CommutingOrthogonal(4, first_token=GAUSSIAN, noise=0.5)
    tokens, other = process.sample(4, 8, seed=seed, basis=basis).tokens.chunk(2)
    changed = torch.cat([tokens[:, :cut], other[:, cut:]], dim=1)
    before, after = estimator.estimate(tokens)[:, :cut], estimator.estimate(changed)[:, :cut]
    assert_close(after, before, rtol=0, atol=1e-12)
    assert_close(estimator.estimate(tokens[:, :cut]), before, rtol=0, atol=1e-9)


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64, torch.complex128])
def test_types_and_shapes_follow_the_tokens(estimator, dtype):
    for length in (1, 5):
        tokens = torch.ones(2, length, 3, dtype=dtype)
        assert estimator.estimate(tokens).shape == (2, length, 3, 3)
        assert estimator(tokens).dtype == estimator.estimate(tokens).dtype == dtype


def test_single_precision_ols_is_as_good_as_its_conditioning():
    process = CommutingOrthogonal(4, first_token=GAUSSIAN)
    sequences = process.sample(50, 12, seed=7, basis="rotation", dtype=torch.float32)
    error = (OLS().estimate(sequences.tokens)[:, -1] - sequences.W).norm(dim=(-1, -2))
    assert error.median() < 1e-5
