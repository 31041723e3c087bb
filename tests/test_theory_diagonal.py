"""Closed forms of the diagonal heads: losses by exact quadrature and through the hooked model, minima by search."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from ar_interp import theory
from ar_interp.models.config import HEAD_A, HEAD_B, ModelConfig
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary
from ar_interp.theory.traps import _loss_at_best_weights
from ar_interp.training.config import TrainConfig
from ar_interp.training.loop import train

LOSSES = {"unitary": theory.unitary_loss, "orthogonal": theory.orthogonal_loss}
PROCESSES = {"unitary": CommutingUnitary, "orthogonal": CommutingOrthogonal}
both_families = pytest.mark.parametrize("family", ["unitary", "orthogonal"])
kappas = st.floats(-4, 4).filter(lambda kappa: abs(kappa + 1) > 0.1)
scales = st.floats(0.2, 5).flatmap(lambda scale: st.sampled_from([scale, -scale]))


def naive_predictions(C: torch.Tensor, p: torch.Tensor, eigenvalues: torch.Tensor) -> torch.Tensor:
    """prediction_j = sum_t p_t sum_i C_ji lambda_i^{t-T+1} lambda_j^{t-1}, straight from the model's equation."""
    T, dim = len(p), len(C)
    predictions = torch.zeros_like(eigenvalues)
    for j, t, i in itertools.product(range(dim), range(1, T + 1), range(dim)):
        term = eigenvalues[:, i] ** (t - T + 1) * eigenvalues[:, j] ** (t - 1)
        predictions[:, j] += p[t - 1] * C[j, i] * term
    return predictions


def quadrature_loss(family: str, C: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The expectation over the phases. The squared error is a trigonometric polynomial of degree 2T - 2 in each
    phase, so 2T equispaced nodes are exact."""
    dim, T = len(C), len(p)
    nodes = torch.exp(2j * torch.pi * torch.arange(2 * T, dtype=torch.float64) / (2 * T))
    free = torch.cartesian_prod(*[nodes] * (dim if family == "unitary" else dim // 2))
    free = free.reshape(len(free), -1)
    pairs = torch.stack([free, free.conj()], dim=-1).flatten(1)
    eigenvalues = free if family == "unitary" else pairs
    return (naive_predictions(C, p, eigenvalues) - eigenvalues**T).abs().square().sum(-1).mean()


def best_weights(family: str, C: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The p that minimises the loss, a quadratic, and the loss there."""
    loss = lambda p: LOSSES[family](C, p)  # noqa: E731
    origin = torch.zeros(length, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, origin)
    gradient = torch.autograd.functional.jacobian(loss, origin)
    p = -torch.linalg.pinv(hessian, hermitian=True) @ gradient
    return p, loss(p)


# ---- the losses


@pytest.mark.parametrize(
    ("family", "dim", "length"),
    [
        *[("unitary", 1, 6), ("unitary", 2, 2), ("unitary", 2, 7), ("unitary", 3, 5), ("unitary", 4, 4)],
        *[("orthogonal", 2, 2), ("orthogonal", 2, 7), ("orthogonal", 4, 3), ("orthogonal", 4, 6), ("orthogonal", 6, 5)],
    ],
)
def test_loss_is_the_exact_expectation(family, dim, length, random_tensor):
    for seed in range(3):
        C, p = random_tensor(dim, dim, seed=seed), random_tensor(length, seed=seed + 100)
        assert_close(LOSSES[family](C, p), quadrature_loss(family, C, p), rtol=1e-12, atol=1e-12)


@both_families
def test_loss_is_the_error_of_the_hooked_model(family, random_tensor, assert_mean):
    dim, n_heads, n_ctx = 4, 3, 6
    A, B = random_tensor(n_heads, dim, seed=0) / 2, random_tensor(n_heads, dim, seed=1) / 2
    P = random_tensor(n_ctx, n_ctx, seed=2) / 2
    model = HookedARTransformer.from_diagonal(A, B, P)
    tokens = PROCESSES[family](dim).sample(20_000, n_ctx + 1, seed=3).tokens
    with torch.no_grad():
        errors = (model(tokens[:, :-1]) - tokens[:, 1:]).abs().square().sum(-1)
    losses = torch.stack([LOSSES[family](B.T @ A, P[T - 2, :T]) for T in range(2, n_ctx + 1)])
    assert_mean(errors[:, 1:], losses)


@pytest.mark.parametrize(
    ("family", "dim", "length", "attained"),
    [
        ("unitary", 1, 2, True),  # as many monomials as phases, and they can all be in line
        ("unitary", 2, 2, True),
        ("orthogonal", 2, 2, True),
        ("unitary", 3, 5, False),
        ("orthogonal", 4, 6, False),
    ],
)
def test_no_angles_err_more_than_the_bound(family, dim, length, attained, random_tensor):
    P = torch.zeros(length, length, dtype=torch.float64)
    C, P[-2] = random_tensor(dim, dim, seed=0), random_tensor(length, seed=1)
    P[-1] = 7.0  # no row of a context of 2 to `length` tokens
    free = dim if family == "unitary" else dim // 2
    angles = torch.rand(20_000, free, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if attained:
        grid = torch.linspace(0, 1, 65, dtype=torch.float64)[:-1]
        angles = torch.cartesian_prod(*[grid] * free).reshape(-1, free)
    phases = torch.exp(2j * torch.pi * angles)
    eigenvalues = phases if family == "unitary" else torch.stack([phases, phases.conj()], -1).flatten(1)
    largest = (naive_predictions(C, P[-2], eigenvalues) - eigenvalues**length).abs().max().item()
    alone = torch.zeros_like(P)
    alone[length - 2, :length], shorter = P[-2], 1.0  # at shorter contexts it predicts zero and errs by 1
    bound = theory.largest_error_bound(C, alone, family=family).item()
    assert max(largest, shorter) <= bound * (1 + 1e-12)
    if attained:
        assert bound == pytest.approx(max(largest, shorter), rel=5e-3)


@given(dim=st.sampled_from([2, 4, 6]), length=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_orthogonal_loss_is_a_sum_of_squares(dim, length, seed):
    generator = torch.Generator().manual_seed(seed)
    C = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    p = torch.randn(length, generator=generator, dtype=torch.float64)
    squares = theory.orthogonal_loss_as_squares(C, p)
    assert squares >= 0
    assert_close(theory.orthogonal_loss(C, p), squares, rtol=1e-12, atol=1e-11)


@both_families
def test_population_loss_sums_the_context_lengths_and_ignores_the_rest(family, random_tensor):
    C, P = random_tensor(4, 4, seed=0), random_tensor(7, 7, seed=1).requires_grad_()
    loss = theory.population_loss(C, P, family=family)
    assert_close(loss, torch.stack([LOSSES[family](C, P[T - 2, :T]) for T in range(2, 8)]).sum())
    (gradient,) = torch.autograd.grad(loss, P)
    used = torch.ones(7, 7, dtype=torch.bool).tril(1)
    used[-1] = False
    assert torch.equal(gradient != 0, used)


@both_families
def test_ensembles_are_loops(family, random_tensor):
    C, P = random_tensor(2, 3, 4, 4, seed=0), random_tensor(2, 3, 5, 5, seed=1)
    row_losses = LOSSES[family](C, P[..., 2, :4])
    losses = theory.population_loss(C, P, family=family)
    squares = theory.orthogonal_loss_as_squares(C, P[..., 2, :4])
    assert losses.shape == row_losses.shape == squares.shape == (2, 3)
    for e, f in itertools.product(range(2), range(3)):
        assert_close(losses[e, f], theory.population_loss(C[e, f], P[e, f], family=family))
        assert_close(row_losses[e, f], LOSSES[family](C[e, f], P[e, f, 2, :4]))
        assert_close(squares[e, f], theory.orthogonal_loss_as_squares(C[e, f], P[e, f, 2, :4]))


def test_the_authors_unitary_loss_counts_the_previous_key_twice(random_tensor):
    C, p = random_tensor(5, 5, seed=0), random_tensor(6, seed=1)
    theirs = p.square().sum() * C.square().sum() + p[-2] ** 2 * (C.T @ C).sum() - 2 * p[-1] * C.trace() + 5
    assert_close(theirs - theory.unitary_loss(C, p), p[-2] ** 2 * C.square().sum())


# ---- the minima


@given(kappa=kappas, scale=scales, half=st.integers(1, 4))
def test_the_kappa_family_has_zero_loss(kappa, scale, half):
    C, P = theory.kappa_family(dim=2 * half, kappa=kappa, n_ctx=6, scale=scale)
    assert_close(C[0, 1] / C[0, 0], torch.tensor(kappa, dtype=torch.float64))
    for T in range(2, 7):
        assert theory.orthogonal_loss_as_squares(C, P[T - 2, :T]) < 1e-24
    # The other form cancels terms of size dim kappa^2 <= 200.
    assert theory.population_loss(C, P, family="orthogonal").abs() < 1e-11


def test_the_kappa_family_allows_no_mixture():
    first, second = (theory.kappa_family(dim=2, kappa=kappa, n_ctx=5) for kappa in (0.0, 1.0))
    _, loss = best_weights("orthogonal", torch.block_diag(first.C, second.C), 5)
    assert loss > 0.1


@given(scale=scales, rank=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_projector_family_attains_the_unitary_minimum(scale, rank, seed):
    frame = torch.linalg.qr(torch.randn(6, rank, generator=torch.Generator().manual_seed(seed)).double())[0]
    C, P = theory.projector_family(frame @ frame.T, n_ctx=5, scale=scale)
    for T in range(2, 6):
        loss = theory.unitary_loss(C, P[T - 2, :T])
        assert float(loss) == pytest.approx(theory.unitary_minimum(dim=6, n_heads=rank), abs=1e-9)


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_whole_pairs_attain_the_orthogonal_minimum(n_pairs):
    C, P = theory.kappa_family(dim=6, kappa=1.0, n_ctx=5, n_pairs=n_pairs, scale=1.7)
    assert torch.linalg.matrix_rank(C) == n_pairs
    for T in range(2, 6):
        loss = theory.orthogonal_loss(C, P[T - 2, :T])
        assert float(loss) == pytest.approx(theory.orthogonal_minimum(dim=6, n_heads=n_pairs), abs=1e-12)


@both_families
@given(seed=st.integers(0, 10**6), n_heads=st.integers(1, 4), length=st.integers(2, 6), spread=st.floats(0, 2))
def test_no_weights_go_below_the_minimum(family, seed, n_heads, length, spread):
    """Random heads around a minimiser, with the best p that they allow, and with p at random."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(2, n_heads, 4, generator=generator, dtype=torch.float64)
    C = spread * B.T @ A + torch.block_diag(*[torch.ones(2, 2).double()] * min(n_heads, 2), torch.zeros(4, 4))[:4, :4]
    rank = int(torch.linalg.matrix_rank(C))
    minimum = {"unitary": theory.unitary_minimum, "orthogonal": theory.orthogonal_minimum}[family]
    bound = minimum(dim=4, n_heads=rank)
    p, best = best_weights(family, C, length)
    assert best > bound - 1e-9
    elsewhere = LOSSES[family](C, p + torch.randn(length, generator=generator, dtype=torch.float64))
    assert elsewhere >= best - 1e-9


@both_families
@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 5])
def test_optimisation_from_several_starts_reaches_the_minimum(family, n_heads):
    n_seeds = 2 if family == "unitary" else 4  # conjugate pairs have local minima
    config = ModelConfig.diagonal(dim=4, n_heads=n_heads, n_ctx=5)
    training = TrainConfig(optimizer="lbfgs", steps=300, n_seeds=n_seeds, device="cpu")
    losses = train(config, PROCESSES[family](4), training, progress=False).members["loss"]
    minimum = {"unitary": theory.unitary_minimum, "orthogonal": theory.orthogonal_minimum}[family]
    assert losses.min() == pytest.approx(minimum(dim=4, n_heads=n_heads), abs=1e-8)


@given(kappas)
def test_ratio_and_kappa_are_inverse(kappa):
    assert theory.ratio_to_kappa(theory.kappa_to_ratio(kappa)) == pytest.approx(kappa, rel=1e-10, abs=1e-12)


def test_known_ratios():
    assert theory.kappa_to_ratio(0.0) == 0
    assert theory.kappa_to_ratio(1.0) == -0.5


@pytest.mark.parametrize(("dim", "n_pairs"), [(2, None), (4, None), (10, None), (10, 5), (10, 3), (4, 1)])
@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.01])
def test_valley_at_infinity(dim, n_pairs, epsilon):
    C, P = theory.valley_at_infinity(dim=dim, epsilon=epsilon, n_ctx=5, n_pairs=n_pairs)
    covered = dim if n_pairs is None else 2 * n_pairs
    assert torch.linalg.matrix_rank(C) == covered // 2 + 1
    for T in range(2, 6):
        loss = theory.orthogonal_loss_as_squares(C, P[T - 2, :T])
        assert_close(float(loss), dim - covered + epsilon**2 * (covered - 1) / covered, rtol=1e-10, atol=0)


# ---- traps


def test_trapped_levels_of_ten_coordinates():
    levels = theory.trapped_levels(dim=10, n_heads=5, max_length=20)
    assert levels.tolist() == pytest.approx([0, 0.4545, 0.9051, 1.1500, 1.2814, 1.3672], abs=1e-4)
    levels = theory.trapped_levels(dim=10, n_heads=3, max_length=20)
    assert levels.tolist() == pytest.approx([4, 4.516, 4.727, 4.820], abs=5e-4)


@pytest.mark.parametrize(("dim", "n_heads", "max_length"), [(2, 1, 2), (4, 1, 9), (8, 3, 5)])
def test_first_and_last_trapped_levels_in_closed_form(dim, n_heads, max_length):
    levels = theory.trapped_levels(dim=dim, n_heads=n_heads, max_length=max_length)
    harmonic = sum(1 / T for T in range(2, max_length + 1)) / (max_length - 1)
    assert levels[0] == dim - 2 * n_heads
    assert levels[-1] == pytest.approx(dim - 2 * n_heads + 2 * n_heads * harmonic)
    assert (np.diff(levels) > 0).all()
    # The last level without its formula: '-' blocks alone, at the best positional weights.
    C = torch.from_numpy(theory.trapped_matrix(plus=0, minus=n_heads, beta=1.0, gamma=0.0, y=0.0, z=0.0))
    losses = [float(best_weights("orthogonal", C, T)[1]) for T in range(2, max_length + 1)]
    assert levels[-1] == pytest.approx(dim - 2 * n_heads + np.mean(losses))


def test_trapped_matrix_has_the_rank_of_its_heads():
    C = torch.from_numpy(theory.trapped_matrix(plus=2, minus=3, beta=0.8, gamma=0.1, y=0.2, z=-0.3))
    assert C.shape == (10, 10)
    assert torch.linalg.matrix_rank(C) == 5


def test_best_positional_weights_solve_the_quadratic(random_tensor):
    C = random_tensor(6, 6, seed=0)
    losses = [best_weights("orthogonal", C, T)[1] for T in range(2, 9)]
    assert _loss_at_best_weights(C.numpy(), 8) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-9)


def test_gradient_descent_ends_on_the_trapped_levels():
    config = ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8)
    training = TrainConfig(lr=1e-2, steps=800, n_seeds=32, device="cpu")  # lr 2e-2 oscillates
    losses = train(config, CommutingOrthogonal(4), training, progress=False).members["loss"].to_numpy()
    distance = np.abs(losses[:, None] - theory.trapped_levels(dim=4, n_heads=2, max_length=8))
    assert distance.min(axis=1).max() < 1e-6
    assert set(distance.argmin(axis=1)) == {0, 1, 2}


# ---- scale and heads


@pytest.mark.parametrize(
    ("family", "n_heads", "scale"),
    [
        ("unitary", 5, 1.461),
        ("unitary", 10, 1.203),
        ("unitary", 20, 1.236),
        ("orthogonal", 5, 1.283),
        ("orthogonal", 8, 1.293),
    ],
)
def test_gradient_descent_scale(family, n_heads, scale):
    predicted = theory.gradient_descent_scale(dim=10, n_heads=n_heads, max_length=20, init_scale=0.1, family=family)
    assert predicted == pytest.approx(scale, abs=6e-4)


def test_descent_ends_at_the_predicted_scale():
    dim, n_ctx, alpha = 4, 6, 0.1
    predicted = theory.gradient_descent_scale(dim=dim, n_heads=4, max_length=n_ctx, init_scale=alpha, family="unitary")
    config = ModelConfig.diagonal(dim=dim, n_heads=4, n_ctx=n_ctx, init_scale=alpha)
    training = TrainConfig(lr=3e-2, steps=500, n_seeds=6, device="cpu")
    members = train(config, CommutingUnitary(dim), training, progress=False).ensemble
    scales = torch.einsum("mhd,mhd->m", members[HEAD_A], members[HEAD_B]).abs().numpy() / dim
    standard_error = np.std(scales, ddof=1) / 6**0.5
    assert abs(np.mean(scales) - predicted) < 4 * standard_error
    assert standard_error < 0.01


@given(
    rank=st.integers(1, 5), spare=st.integers(0, 3), seed=st.none() | st.integers(0, 10**6), of=st.integers(0, 10**6)
)
def test_factored_heads_are_balanced_and_make_C(rank, spare, seed, of):
    left, right = torch.randn(2, 5, rank, generator=torch.Generator().manual_seed(of), dtype=torch.float64)
    C = left @ right.T
    assume(torch.linalg.cond(left) * torch.linalg.cond(right) < 1e4)
    A, B = theory.factor_heads(C, n_heads=rank + spare, seed=seed)
    assert A.shape == B.shape == (rank + spare, 5)
    assert_close(B.T @ A, C, rtol=0, atol=1e-10)
    assert_close(A @ A.T, B @ B.T, rtol=0, atol=1e-10)


def test_nothing_factors_into_zero_heads():
    A, B = theory.factor_heads(torch.zeros(3, 3, dtype=torch.float64), n_heads=2)
    assert A.shape == B.shape == (2, 3)
    assert not A.any()
    assert not B.any()


def test_factored_heads_are_rotated_by_the_seed(random_tensor):
    C = random_tensor(4, 4, seed=0)
    plain, once, again, other = (theory.factor_heads(C, n_heads=6, seed=seed)[0] for seed in (None, 1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)
    assert not plain[4:].any()
    assert once[4:].abs().min() > 0
    assert_close(once.T @ once, plain.T @ plain, rtol=0, atol=1e-12)


# ---- what is refused


def scale_of(**options: object) -> float:
    known = {"dim": 4, "n_heads": 2, "max_length": 5, "init_scale": 0.1, "family": "unitary"}
    return theory.gradient_descent_scale(**{**known, **options})


EYE = torch.eye(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.unitary_loss(EYE[:3], torch.ones(3)), r"C must be \[dim dim\], got \[3, 4\]"),
        (lambda: theory.unitary_loss(EYE, torch.ones(1)), "context of length T >= 2, got 1 entries"),
        (lambda: theory.orthogonal_loss(EYE[:3, :3], torch.ones(3)), "C must have even size .* got 3"),
        (lambda: theory.orthogonal_loss_as_squares(EYE[:3, :3], torch.ones(3)), "C must have even size .* got 3"),
        (
            lambda: theory.population_loss(EYE, torch.ones(3, 4), family="unitary"),
            r"P must be \[n_ctx n_ctx\] .* got \[3, 4\]",
        ),
        (lambda: theory.population_loss(EYE, torch.ones(1, 1), family="unitary"), "n_ctx >= 2"),
        (
            lambda: theory.population_loss(EYE, EYE, family="haar"),
            "family must be one of 'unitary', 'orthogonal', got 'haar'",
        ),
        (lambda: theory.unitary_minimum(dim=0, n_heads=1), "dim must be at least 1"),
        (lambda: theory.unitary_minimum(dim=1, n_heads=0), "n_heads must be at least 1"),
        (lambda: theory.orthogonal_minimum(dim=3, n_heads=1), "dim must be even for conjugate pairs, got 3"),
        (lambda: theory.kappa_to_ratio(-1.0), "kappa must differ from -1"),
        (lambda: theory.ratio_to_kappa(-1.0), r"ratio p_\{T-1\}/p_T must differ from -1"),
        (lambda: theory.kappa_family(dim=3, kappa=0.0, n_ctx=4), "dim must be even"),
        (lambda: theory.kappa_family(dim=4, kappa=-1.0, n_ctx=4), "kappa must differ from -1"),
        (lambda: theory.kappa_family(dim=4, kappa=float("nan"), n_ctx=4), "kappa must be a finite number"),
        (lambda: theory.kappa_family(dim=4, kappa=1.0, n_ctx=4, scale=0.0), "scale must not be zero"),
        (lambda: theory.kappa_family(dim=4, kappa=1.0, n_ctx=4, n_pairs=3), "n_pairs must be at most 2, got 3"),
        (lambda: theory.kappa_family(dim=4, kappa=1.0, n_ctx=1), "n_ctx must be at least 2"),
        (lambda: theory.projector_family(2 * EYE, n_ctx=4), "must be an orthogonal projector"),
        (lambda: theory.projector_family(EYE[:2], n_ctx=4), "must be an orthogonal projector"),
        (lambda: theory.projector_family(EYE, n_ctx=4, scale=0.0), "scale must not be zero"),
        (lambda: theory.valley_at_infinity(dim=3, epsilon=0.1, n_ctx=4), "dim must be even"),
        (lambda: theory.valley_at_infinity(dim=4, epsilon=0.0, n_ctx=4), r"epsilon must be greater than 0\.0"),
        (lambda: theory.factor_heads(EYE, n_heads=3), "n_heads must be at least the rank of C, 4, got 3"),
        (lambda: theory.factor_heads(EYE * torch.nan, n_heads=4), "C has NaN or infinite entries"),
        (lambda: theory.factor_heads(EYE[:3], n_heads=4), "C must be square"),
        (lambda: theory.trapped_levels(dim=5, n_heads=1, max_length=4), "dim must be even"),
        (
            lambda: theory.trapped_levels(dim=4, n_heads=3, max_length=4),
            r"n_heads must be at most dim / 2 = 2 .* got 3",
        ),
        (lambda: theory.trapped_levels(dim=4, n_heads=1, max_length=1), "max_length must be at least 2"),
        (lambda: scale_of(max_length=1), "max_length must be at least 2"),
        (lambda: scale_of(init_scale=0.0), "init_scale must be greater than"),
        (lambda: scale_of(family="haar"), "family must be one of"),
    ],
)
def test_refuses(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("loss", [theory.unitary_loss, theory.orthogonal_loss, theory.orthogonal_loss_as_squares])
def test_arrays_are_as_good_as_tensors(loss, random_tensor):
    C, p = random_tensor(4, 4, seed=0), random_tensor(5, seed=1)
    assert loss(C.numpy(), p.numpy()) == loss(C, p)
