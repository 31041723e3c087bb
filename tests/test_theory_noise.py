"""Closed forms under noise against naive sums over moments, Monte Carlo, and what sampled predictors reach."""

import numpy as np
import pytest
import torch

import ar_interp as ari
from ar_interp import theory
from ar_interp.theory.noise import _law, _steps, step_moments

N = 20_000


def noisy(family, dim, q, r, **options):
    return family(dim, process_noise=q**0.5, observation_noise=r**0.5, **options)


def test_the_polynomials_are_the_moments():
    for length in (2, 3, 7, 12):
        for q, r in ((0.0, 0.3), (0.2, 0.0), (0.07, 0.4)):
            h, same, others = step_moments(length, q, r, stationary=False)
            found = _steps(4, [length], q, r, stationary=False)
            np.testing.assert_allclose(np.ravel(found), [h, same + 3 * others], rtol=1e-12)


@pytest.mark.parametrize("stationary", [False, True])
@pytest.mark.parametrize(("dim", "length"), [(1, 2), (3, 6)])
def test_moments_are_those_of_the_gaussian(dim, length, stationary, assert_mean):
    """h, G_s and G_x from draws of x with the covariance of `_law`."""
    q, r = 0.05, 0.2
    mean, C = _law(length, q, r, stationary)
    root = torch.from_numpy(np.linalg.cholesky(C + 1e-12 * np.eye(length + 1)))
    drawn = torch.randn(2, N, length + 1, generator=torch.Generator().manual_seed(dim), dtype=torch.complex128)
    x, y = mean + drawn @ root.T.to(drawn)
    step = x[:, 1:length] * x[:, : length - 1].conj() * x[:, length - 1 : length]
    h, same, others = step_moments(length, q, r, stationary)
    assert_mean((step.sum(1) * x[:, -1].conj()).real, h)
    assert_mean(step.sum(1).abs().square(), same)
    cross = x[:, 1:length] * y[:, : length - 1].conj() * y[:, length - 1 : length]
    assert_mean(cross.abs().square().sum(1), others)


@pytest.mark.parametrize(
    ("dim", "max_length", "options"),
    [
        (2, 4, {"process_variance": 0.05, "observation_variance": 0.2}),
        (5, 3, {"process_variance": 0.1, "stationary": True, "observation_variance": 0.1}),
    ],
)
def test_the_step_errs_as_said_and_no_other_less(dim, max_length, options, assert_mean):
    q, r = options["process_variance"], options["observation_variance"]
    process = noisy(ari.CommutingUnitary, dim, q, r, stationary=options.get("stationary", False))
    contexts = process.contexts(N, max_length, seed=0)
    eta = theory.noisy_step_size(dim=dim, max_length=max_length, **options)
    predictions = ari.estimators.GradientDescent.of_steps(1, eta)(contexts.pairs())
    errors = contexts.errors(predictions)[:, 1:]
    expected = [theory.noisy_step_loss(dim=dim, length=T, step_size=eta, **options) for T in range(2, max_length + 1)]
    assert_mean(errors, torch.tensor(expected, dtype=torch.float64))
    minimum = theory.noisy_step_minimum(dim=dim, max_length=max_length, **options)
    assert minimum == pytest.approx(np.mean(expected), rel=1e-12)
    unit, clean = predictions[:, 1:] / eta, contexts.clean_targets[:, 1:]
    best = (unit.conj() * clean).real.flatten(1).sum(1) - eta * unit.abs().square().flatten(1).sum(1)
    assert_mean(best, 0.0)  # the derivative with respect to the step size


@pytest.mark.parametrize(("dim", "max_length"), [(1, 2), (4, 9)])
def test_without_noise_the_forms_are_the_noiseless_ones(dim, max_length):
    sizes = {"dim": dim, "max_length": max_length}
    assert theory.noisy_step_size(**sizes) == pytest.approx(theory.optimal_step_size(**sizes), rel=1e-14)
    assert theory.noisy_step_minimum(**sizes) == pytest.approx(theory.one_step_minimum(**sizes), rel=1e-13)
    for kappa, ratio in ((0.0, 0.0), (1.0, -0.5), (0.5, -1 / 3)):
        p, loss = theory.noisy_keys(dim=2 * dim, length=5, kappa=kappa)
        np.testing.assert_allclose(p, [0, 0, 0, ratio, 1], atol=1e-12)
        assert loss == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("kappa", "mixing"), [(0.0, 0.0), (0.4, 0.0), (1.0, 0.1)])
@pytest.mark.parametrize(("q", "r"), [(0.0, 0.1), (0.02, 0.05)])
def test_the_best_keys_are_those_of_sampled_contexts(kappa, mixing, q, r, assert_mean):
    """The error of diagonal heads with this C and these p, and its derivative in every p_t, which vanishes."""
    length = 4
    contexts = noisy(ari.CommutingOrthogonal, 4, q, r).contexts(N, length, seed=1)
    y = contexts.inputs
    C = torch.tensor([[1, kappa, mixing, mixing], [kappa, 1, mixing, mixing]], dtype=y.dtype)
    C = torch.cat([C, C.roll(2, 1)])
    features = y * ((y[:, -2, None].conj() * y) @ C.T)
    noise = {"process_variance": q, "observation_variance": r}
    p, loss = theory.noisy_keys(dim=4, length=length, kappa=kappa, mixing=mixing, **noise)
    error = torch.einsum("t,btd->bd", torch.from_numpy(p).to(y), features) - contexts.clean_targets[:, -1]
    assert_mean(error.abs().square().sum(1), loss)
    assert_mean((features.conj() * error[:, None]).real.sum(2), 0.0)


@pytest.mark.parametrize("r", [0.0, 0.2])
def test_the_loss_of_any_heads(r, assert_mean):
    """Heads that mix pairs and use every key, on sampled contexts; without noise the noiseless loss."""
    generator = torch.Generator().manual_seed(5)
    C, P = (0.3 * torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (4, 3))
    loss = theory.noisy_heads_loss(C, P, observation_variance=r)
    if not r:
        torch.testing.assert_close(loss, theory.population_loss(C, P, family="orthogonal"))
    config = ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=3)
    process = noisy(ari.CommutingOrthogonal, 4, 0.0, r)
    A, B = theory.factor_heads(C, n_heads=4)
    model = ari.HookedARTransformer.from_diagonal(A, B, P, process=process).requires_grad_(False)
    contexts = process.contexts(N, 3, seed=5)
    assert_mean(contexts.errors(model(contexts.inputs))[:, 1:].sum(1), loss)
    setting = ari.setting_of(config, process)
    assert setting.expected_loss(model).loss == pytest.approx(loss.item() / 2)


@pytest.mark.parametrize("n_heads", [2, 4])
def test_no_heads_err_less_than_the_best(n_heads):
    """The ideal weights have the loss that is said, and no slope in any direction that so many heads leave."""
    process = ari.CommutingOrthogonal(4, observation_noise=0.3)
    setting = ari.setting_of(ari.ModelConfig.diagonal(dim=4, n_heads=n_heads, n_ctx=5), process)
    ideal = setting.ideal(setting.config.build(process))
    assert setting.expected_loss(ideal).loss == pytest.approx(setting.best, rel=1e-12)
    C, P = ideal.B.T @ ideal.A, ideal.P.clone().requires_grad_()
    half = torch.linalg.svd(C)[0][:, :n_heads]
    left, right = half.clone().requires_grad_(), (half.T @ C).requires_grad_()
    theory.noisy_heads_loss(left @ right, P, observation_variance=0.09).backward()
    for weights in (left, right, P):
        assert weights.grad.abs().max() < 1e-6  # of a mixing known to 1e-8


@pytest.mark.parametrize(("kappa", "scale", "r"), [(0.5, 0.8, 0.1), (-0.3, 1.1, 0.4)])
def test_the_penalty_of_kappa(kappa, scale, r, assert_mean):
    y = noisy(ari.CommutingOrthogonal, 2, 0.0, r).contexts(4 * N, 5, seed=2)
    last, before = y.inputs[:, -1, 0], y.inputs[:, -2, 0]
    plain = scale * before.conj() * last**2
    more = kappa * scale * before * (last.abs() ** 2 - before.abs() ** 2)
    clean = y.clean_targets[:, -1, 0]
    found = (plain + more - clean).abs() ** 2 - (plain - clean).abs() ** 2
    assert_mean(found, theory.kappa_penalty(kappa=kappa, scale=scale, observation_variance=r))


@pytest.mark.parametrize("r", [0.01, 0.3])
def test_the_bent_ratio_is_the_best_one_of_two_keys(r):
    """The family with p_t = 0 for older keys, by least squares on its two modes; two tokens have no older key."""
    moments = {2: 1 + 4 * r + 2 * r**2, 4: 1 + r}
    sixth = 1 + 9 * r + 18 * r**2 + 6 * r**3
    # E|x|^2 (2 u |x|^2 + v |x'|^2)^2 is least at 2 u / v = - E|x|^4 E|x'|^2 / E|x|^6
    assert theory.bent_ratio(observation_variance=r) == pytest.approx(-0.5 * moments[2] * moments[4] / sixth)
    p = theory.noisy_keys(dim=2, length=2, kappa=1.0, observation_variance=r).p
    assert p[0] / p[1] == pytest.approx(theory.bent_ratio(observation_variance=r), rel=1e-12)
    assert theory.bent_ratio(observation_variance=0.0) == -0.5
    assert theory.noisy_mixing(dim=2, max_length=4, observation_variance=r) == 0


def test_what_is_known_of_bayes(assert_mean):
    """The filter that knows W errs as said; a multiple of W y_T does not get below its line."""
    q, r, dim, length = 0.02, 0.1, 3, 20
    contexts = noisy(ari.CommutingUnitary, dim, q, r).contexts(N // 16, length, seed=3)
    noise = {"process_variance": q, "observation_variance": r}
    kalman = ari.estimators.Kalman(contexts.W, first=contexts.clean[0, 0].real, **noise)(contexts.inputs)
    expected = [theory.kalman_error(dim=dim, length=T, **noise) for T in range(1, length + 1)]
    assert_mean(contexts.errors(kalman), torch.tensor(expected, dtype=torch.float64))
    square = dim * (1 + q * (length - 1))
    line = theory.last_token_error(dim=dim, square=square, **noise)
    moved = torch.einsum("bij,bj->bi", contexts.W, contexts.inputs[:, -1])
    best = square / (square + dim * r)
    assert_mean((best * moved - contexts.clean_targets[:, -1]).abs().square().sum(1), line)
    bayes = contexts.errors(ari.estimators.PhaseGrid(**noise)(contexts.inputs))[:, -1]
    assert bayes.mean() == pytest.approx(theory.phase_error(dim=dim, length=length, **noise), rel=0.07)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.noisy_step_size(dim=0, max_length=3), "dim must be at least 1"),
        (lambda: theory.noisy_step_size(dim=2, max_length=3, process_variance=-1), "process_variance must be at least"),
        (
            lambda: theory.noisy_step_minimum(dim=2, max_length=3, process_variance=1, stationary=True),
            "process_variance must be below 1 where stationary, got 1",
        ),
        (lambda: theory.noisy_keys(dim=3, length=3, kappa=1.0), "dim must be even for conjugate pairs, got 3"),
        (lambda: theory.noisy_mixing(dim=2, max_length=3, observation_variance=-1), "observation_variance must be at"),
        (lambda: theory.kalman_error(dim=2, length=0), "length must be at least 1, got 0"),
        (lambda: theory.kappa_penalty(kappa=1, scale=1, observation_variance=-1), "observation_variance must be at"),
        (lambda: theory.phase_error(dim=2, length=3, observation_variance=0.0), "observation_variance must be greater"),
        (lambda: theory.last_token_error(dim=2, square=0.0), "square must be greater"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
