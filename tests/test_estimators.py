"""Estimators against loops over sequences and context lengths."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ar_interp.estimators import (
    OLS,
    DiagonalOLS,
    GradientDescent,
    Kaczmarz,
    LastToken,
    NewtonSchulz,
    Polynomial,
    PreviousToken,
    Ridge,
    Zero,
    tuned,
)
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, FirstToken, HaarOrthogonal

ESTIMATORS = [
    Zero(),
    LastToken(),
    PreviousToken(),
    GradientDescent(step_sizes=(0.1, 0.05)),
    GradientDescent(step_sizes=(0.5,), per_pair=True),
    Polynomial(coefficients=(0.2, -0.01)),
    NewtonSchulz(iterations=2, step_size=0.1, per_pair=True),
    Ridge(penalty=0.3),
    OLS(),
    DiagonalOLS(),
    Kaczmarz(),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
GAUSSIAN = FirstToken("gaussian")
N_HAAR = 1000


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


class TestFromPairs:
    """The estimates that see the context through S_T and R_T, against loops straight from their definitions."""

    @pytest.fixture(params=["eigen", "rotation"])
    def tokens(self, request):
        process = CommutingOrthogonal(4, first_token=GAUSSIAN, noise=0.2)
        return process.sample(3, 7, seed=8, basis=request.param).tokens

    @staticmethod
    def moments(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        S = sum(torch.outer(s[t], s[t].conj()) for t in range(len(s) - 1))
        R = sum(torch.outer(s[t + 1], s[t].conj()) for t in range(len(s) - 1))
        return S, R

    @pytest.mark.parametrize("per_pair", [False, True])
    def test_gradient_descent_follows_the_gradient(self, tokens, per_pair):
        steps = (0.1, 0.02, 0.3)
        estimate = GradientDescent(step_sizes=steps, per_pair=per_pair).estimate(tokens)
        for b, T in itertools.product(range(3), range(2, 8)):
            W = torch.zeros(4, 4, dtype=tokens.dtype)
            s = tokens[b, :T]
            for eta in steps:
                gradient = sum(torch.outer(W @ s[t] - s[t + 1], s[t].conj()) for t in range(T - 1))
                W = W - eta / ((T - 1) if per_pair else 1) * gradient
            assert_close(estimate[b, T - 1], W, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("per_pair", [False, True])
    def test_polynomials_newton_and_ridge_are_their_formulas(self, tokens, per_pair):
        polynomial = Polynomial(coefficients=(0.3, -0.2, 0.05), per_pair=per_pair).estimate(tokens)
        newton = NewtonSchulz(iterations=2, step_size=0.1, per_pair=per_pair).estimate(tokens)
        ridge = Ridge(penalty=0.7).estimate(tokens)
        identity = torch.eye(4, dtype=tokens.dtype)
        for b, T in itertools.product(range(3), range(2, 8)):
            S, R = self.moments(tokens[b, :T])
            assert_close(ridge[b, T - 1], R @ torch.linalg.inv(S + 0.7 * identity), rtol=0, atol=1e-10)
            if per_pair:
                S, R = S / (T - 1), R / (T - 1)
            assert_close(polynomial[b, T - 1], R @ (0.3 * identity - 0.2 * S + 0.05 * S @ S), rtol=1e-9, atol=1e-9)
            X = 0.1 * identity
            for _ in range(2):
                X = X @ (2 * identity - S @ X)
            assert_close(newton[b, T - 1], R @ X, rtol=1e-9, atol=1e-9)

    def test_newton_schulz_is_two_to_the_k_gradient_steps(self, tokens):
        newton = NewtonSchulz(iterations=3, step_size=0.05)
        descent = GradientDescent.of_steps(8, 0.05)
        assert_close(newton.estimate(tokens), descent.estimate(tokens), rtol=1e-9, atol=1e-9)

    def test_two_descent_steps_are_a_polynomial(self, tokens):
        """I - (I - a S)(I - b S) = S ((a + b) I - a b S)."""
        descent = GradientDescent(step_sizes=(0.1, 0.04))
        polynomial = Polynomial(coefficients=(0.14, -0.004))
        assert_close(polynomial.estimate(tokens), descent.estimate(tokens), rtol=0, atol=1e-11)

    def test_kaczmarz_satisfies_each_pair_in_turn(self, tokens):
        estimate = Kaczmarz().estimate(tokens)
        W = torch.zeros(3, 4, 4, dtype=tokens.dtype)
        for t in range(6):
            for b in range(3):
                past, future = tokens[b, t], tokens[b, t + 1]
                W[b] += torch.outer(future - W[b] @ past, past.conj()) / past.abs().square().sum()
                assert_close(W[b] @ past, future, rtol=0, atol=1e-12)
            assert_close(estimate[:, t + 1], W, rtol=0, atol=1e-11)

    def test_ridge_tends_to_ols(self, tokens):
        late = slice(5, None)  # T > dim: the context determines W
        ridge, ols = Ridge(penalty=1e-9).estimate(tokens)[:, late], OLS().estimate(tokens)[:, late]
        assert_close(ridge, ols, rtol=0, atol=1e-4)


def test_copies_predict_what_they_copy():
    tokens = HaarOrthogonal(5).sample(4, 6, seed=9).tokens
    assert_close(LastToken()(tokens), tokens)
    assert_close(PreviousToken()(tokens)[:, 1:], tokens[:, :-1] / 5)
    assert not PreviousToken()(tokens)[:, 0].any()


@pytest.fixture(scope="module")
def haar():
    """Sequences of the paper's general experiment: d = 5, s_1 of norm 1, contexts up to 50."""
    return HaarOrthogonal(5).sample(N_HAAR, 51, seed=1).tokens


def errors(estimator, tokens) -> torch.Tensor:
    """[batch length]: squared error of the prediction for T = 2..50."""
    return (estimator(tokens[:, :-1]) - tokens[:, 1:])[:, 1:].square().sum(-1)


def test_exact_reference_lines(haar, assert_mean):
    lengths = torch.arange(2, 51, dtype=torch.float64)
    assert_close(errors(Zero(), haar), torch.ones(N_HAAR, 49, dtype=torch.float64))
    assert_mean(errors(LastToken(), haar)[:, 0], 2.0)
    assert_mean(errors(PreviousToken(), haar)[:, 0], 1 - 1 / 25)
    ols = errors(OLS(), haar)
    assert_mean(ols[:, :4], ((6 - lengths) / 5)[:4])
    assert ols[:, 4:].max() < 1e-8
    assert_mean(errors(GradientDescent.of_steps(1, 0.07526427), haar).mean(1), 0.425578)
    assert_mean(errors(GradientDescent.of_steps(1, 2.364, per_pair=True), haar)[:, 0], 1 + (2.364**2 - 2 * 2.364) / 5)


@pytest.mark.parametrize(
    ("estimator", "mean"),
    [
        (GradientDescent.of_steps(1, 2.364, per_pair=True), 0.2995),
        (GradientDescent.of_steps(2, 0.0622), 0.3119),
        (GradientDescent.of_steps(2, 2.0805, per_pair=True), 0.1813),
        (GradientDescent.of_steps(4, 0.0529), 0.2152),
        (GradientDescent.of_steps(8, 1.906, per_pair=True), 0.0653),
        (NewtonSchulz(iterations=4, step_size=1.9065, per_pair=True), 0.0497),
        (NewtonSchulz(iterations=5, step_size=1.928, per_pair=True), 0.0440),
    ],
    ids=str,
)
def test_reference_lines_of_an_independent_run(haar, estimator, mean):
    """Means over T = 2..50 from 20 000 other sequences, themselves known to 1 %: 4 standard errors of both."""
    measured = errors(estimator, haar).mean(1)
    standard_error = measured.std().item() / N_HAAR**0.5
    assert measured.mean().item() == pytest.approx(mean, abs=4 * (standard_error**2 + (0.01 * mean / 2) ** 2) ** 0.5)


@pytest.mark.parametrize(("degree", "per_pair", "mean"), [(2, False, 0.2670), (4, False, 0.1392), (4, True, 0.0712)])
def test_the_best_polynomial_is_better_than_descent(haar, degree, per_pair, mean):
    best = Polynomial.fit(HaarOrthogonal(5), degree=degree, length=50, per_pair=per_pair, batch=1000)
    assert len(best.coefficients) == degree
    assert errors(best, haar).mean().item() == pytest.approx(mean, rel=0.03)  # fitted on 1000 sequences
    descent = {2: 0.3119, 4: 0.1038 if per_pair else 0.2152}[degree]
    assert errors(best, haar).mean() < descent


def test_tuning_finds_the_best_step():
    process = HaarOrthogonal(5)
    descent = tuned(GradientDescent.of_steps(1, 0.02), process, length=50, batch=1000, seed=3)
    assert descent.step_sizes[0] == pytest.approx(0.0753, rel=0.05)
    newton = tuned(NewtonSchulz(iterations=1, step_size=1.0, per_pair=True), process, length=50, batch=1000, seed=3)
    assert newton.step_size == pytest.approx(2.0805, rel=0.05)  # two descent steps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientDescent(step_sizes=()), "step_sizes must hold one number for each step"),
        (lambda: GradientDescent(step_sizes=(float("nan"),)), "step_sizes must be a finite number"),
        (lambda: GradientDescent.of_steps(0, 0.1), "n_steps must be at least 1, got 0"),
        (lambda: NewtonSchulz(iterations=-1, step_size=0.1), "iterations must be at least 0"),
        (lambda: Ridge(penalty=0.0), r"penalty must be greater than 0\.0"),
        (lambda: Polynomial.fit(HaarOrthogonal(3), degree=0, length=5), "degree must be at least 1"),
        (lambda: tuned(GradientDescent.of_steps(1, 0.1), HaarOrthogonal(3), length=1), "length must be at least 2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
