"""Flow, descent and optima against descent on the loss itself: all phases and first tokens on exact grids, float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from ar_interp import theory
from ar_interp.processes import CommutingUnitary

HERMITE = np.polynomial.hermite_e.hermegauss(4)  # exact to degree 7


def grid(law: str, dim: int, max_length: int, mixing=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences x_1..x_max_length and their weights, over which a mean of the loss is its expectation."""
    nodes = {"ones": [1.0], "signs": [-1.0, 1.0], "gaussian": HERMITE[0]}[law]
    sizes = HERMITE[1] / HERMITE[1].sum() if law == "gaussian" else np.full(len(nodes), 1 / len(nodes))
    first = torch.tensor(list(itertools.product(nodes, repeat=dim)), dtype=torch.float64)
    weight = torch.tensor([math.prod(w) for w in itertools.product(sizes, repeat=dim)], dtype=torch.float64)
    if mixing is not None:
        first = first @ torch.tensor(mixing, dtype=torch.float64).T
    angles = 2 * math.pi * np.arange(4 * max_length) / (4 * max_length)
    phases = torch.tensor(
        [[0.0, *rest] for rest in itertools.product(angles, repeat=dim - 1)]
    )  # a global phase is free
    n, m = len(first), len(phases)
    sequences = CommutingUnitary(dim).rollout(
        phases.repeat(n, 1), max_length, first_tokens=first.to(torch.complex128).repeat_interleave(m, 0)
    )
    return sequences.tokens, weight.repeat_interleave(m) / m


def loss(A: torch.Tensor, B: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1/2 sum_t E|B M_t A x_t - x_{t+1}|^2, M_t = sum_{i<t} x_{i+1} x_i^* / (t - 1), t = 2..max_length - 1."""
    A, B, total = A.to(tokens), B.to(tokens), torch.zeros((), dtype=torch.float64)
    products = (tokens[:, 1:, :, None] * tokens[:, :-1, None, :].conj()).cumsum(1)
    for t in range(2, tokens.shape[1]):
        step = torch.einsum("kj,njr,rs,ns->nk", B, products[:, t - 2] / (t - 1), A, tokens[:, t - 1])
        total = total + weight @ (step - tokens[:, t]).abs().square().sum(-1) / 2
    return total


def gradients(A, B, tokens, weight):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    return torch.autograd.grad(loss(A, B, tokens, weight), (A, B))


def moments_of(law: str, dim: int):
    return theory.first_token_moments(law, dim=dim)


CASES = [("signs", 2, 6), ("signs", 3, 4), ("gaussian", 2, 5)]


@pytest.mark.parametrize(("law", "dim", "max_length"), CASES)
def test_descent_on_all_entries_of_a_and_b_is_the_recursion(law, dim, max_length):
    """(a, b) at every step, nothing off the plane, the loss and the squared gradient."""
    moments, (tokens, weight), lr = moments_of(law, dim), grid(law, dim, max_length), 0.01
    plane = theory.plane_loss(moments, max_length=max_length)
    eye = torch.eye(dim, dtype=torch.float64)
    A, B = 0.3 * eye, 0.7 * eye
    path = theory.descent_path(moments, a=0.3, b=0.7, max_length=max_length, lr=lr, steps=8)
    for a, b in path:
        assert torch.allclose(A, a * eye, atol=1e-13)
        assert torch.allclose(B, b * eye, atol=1e-13)
        assert loss(A, B, tokens, weight).item() == pytest.approx(dim * plane.at(a * b), rel=1e-12)
        dA, dB = gradients(A, B, tokens, weight)
        squared = theory.squared_gradient(moments, a=a, b=b, dim=dim, max_length=max_length)
        assert (dA.square().sum() + dB.square().sum()).item() == pytest.approx(squared, rel=1e-10)
        A, B = A - lr * dA, B - lr * dB
    m, rate = path[:, 0] ** 2 - path[:, 1] ** 2, plane.slope - plane.curvature * path.prod(1)
    assert m[1:] / m[:-1] == pytest.approx(1 - lr**2 * rate[:-1] ** 2, rel=1e-12)


@pytest.mark.parametrize(
    "start", [(0.1, 0.1), (0.5, 1.5), (1.0, 0.0), (0.1, -0.3), (-0.2, 0.2), (0.0, 0.0), (-2.0, -0.1)]
)
@pytest.mark.parametrize(("dim", "max_length"), [(2, 5), (5, 20)])
def test_flow_is_the_integral_of_the_gradient(start, dim, max_length):
    moments = moments_of("gaussian", dim)
    loss = theory.plane_loss(moments, max_length=max_length)
    times = np.linspace(0, 4 / loss.slope, 9)

    def pull(_: float, x: np.ndarray) -> np.ndarray:
        return (loss.slope - loss.curvature * x[0] * x[1]) * x[::-1]

    expected = solve_ivp(pull, (0, times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-12).y.T
    path = theory.flow_path(moments, a=start[0], b=start[1], max_length=max_length, times=times)
    assert np.abs(path - expected).max() < 1e-8
    limit = theory.flow_limit(moments, a=start[0], b=start[1], max_length=max_length)
    assert theory.flow_path(moments, a=start[0], b=start[1], max_length=max_length, times=[1e6])[0] == pytest.approx(
        limit, abs=1e-12
    )
    small = theory.descent_path(moments, a=start[0], b=start[1], max_length=max_length, lr=times[1] / 400, steps=400)
    assert small[-1] == pytest.approx(path[1], abs=2e-3)


def test_half_time_is_when_half_is_reached():
    moments, product = moments_of("gaussian", 5), 1e-3
    time = theory.half_time(moments, product=product, max_length=50)
    a, b = theory.flow_path(moments, a=product**0.5, b=product**0.5, max_length=50, times=[time])[0]
    assert a * b == pytest.approx(theory.initial_token_product(moments, max_length=50) / 2, rel=1e-10)


@pytest.mark.parametrize(  # (mu = lr slope, whether y is monotone and converges and stays bounded)
    ("mu", "found"),
    [(0.49, "monotone"), (0.51, "converges"), (0.99, "converges"), (1.01, "bounded"), (2.01, "diverges")],
)
def test_step_sizes_are_where_descent_changes(mu, found):
    moments, max_length = moments_of("gaussian", 3), 12
    slope = theory.plane_loss(moments, max_length=max_length).slope
    sizes, lr = theory.step_sizes(moments, max_length=max_length), mu / slope
    assert [lr < size for size in sizes] == [found in kinds for kinds in (["monotone"], ["monotone", "converges"])] + [
        found != "diverges"
    ]
    end = theory.initial_token_product(moments, max_length=max_length)
    with np.errstate(over="ignore", invalid="ignore"):
        y = theory.descent_path(moments, a=0.11, b=0.11, max_length=max_length, lr=lr, steps=3000).prod(1)
    assert np.isfinite(y[-1]) == (found != "diverges")
    assert (abs(y[-1] - end) < 1e-6) == (found in ("monotone", "converges"))
    past = y[np.isfinite(y)] - end
    assert (past.max() < 1e-12) == (found == "monotone")


def test_the_largest_start_and_unbalanced_stability():
    moments, max_length = moments_of("ones", 3), 12
    lr = 1.5 * theory.step_sizes(moments, max_length=max_length).stable
    edge = theory.largest_start(moments, max_length=max_length, lr=lr)
    for y, stays in ((edge * 0.999, True), (edge * 1.001, False)):
        path = theory.descent_path(moments, a=y**0.5, b=y**0.5, max_length=max_length, lr=lr, steps=2000)
        assert np.isfinite(path[-1]).all() == stays
    a, b = theory.flow_limit(moments, a=0.5, b=1.5, max_length=max_length)
    stable = theory.step_sizes(moments, max_length=max_length, difference=a**2 - b**2).stable
    for share, attracts in ((0.98, True), (1.02, False)):
        start = {"a": a + 1e-7, "b": b + 1e-7}
        path = theory.descent_path(moments, **start, max_length=max_length, lr=share * stable, steps=400)
        miss = np.abs(path.prod(1) - a * b)
        assert (miss[-1] < miss[0]) == attracts


@pytest.mark.parametrize("law", ["signs", "gaussian"])
def test_signs_on_both_factors_are_a_gauge(law):
    tokens, weight = grid(law, 2, 5)
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)
    D = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    value = loss(A, B, tokens, weight)
    assert loss(A @ D, B @ D, tokens, weight).item() == pytest.approx(value.item(), rel=1e-13)
    assert abs(loss(A, B @ D, tokens, weight) / value - 1) > 0.01
    phases = torch.full((1, 2), 0.3, dtype=torch.float64)
    x = (
        CommutingUnitary(2)
        .rollout(phases, 4, first_tokens=torch.tensor([[1.0, 2.0]], dtype=torch.complex128))
        .tokens[0]
    )
    M = (x[1:3, :, None] * x[:2, None, :].conj()).sum(0) / 2
    gain = (0.6 * D.to(x) @ M @ (0.5 * D.to(x)) @ x[2]) / x[3]
    expected = theory.equal_phase_gain([1, -1], [1.0, 2.0], product=0.3)
    assert gain.real.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert theory.one_step_share(5) == 1 / 16


def test_stages_are_descent_on_diagonals_for_unequal_coordinates():
    scales, max_length, lr = [0.8, 1.5], 5, 5e-3
    tokens, weight = grid("gaussian", 2, max_length, np.diag(scales))
    A, B = (torch.diag(torch.tensor(x, dtype=torch.float64)) for x in ([0.2, 0.3], [0.4, 0.1]))
    path = theory.anisotropic_path(a=[0.2, 0.3], b=[0.4, 0.1], scales=scales, max_length=max_length, lr=lr, steps=5)
    for a, b in path:
        assert torch.allclose(A, torch.diag(torch.tensor(a)), atol=1e-13)
        assert torch.allclose(B, torch.diag(torch.tensor(b)), atol=1e-13)
        expected = theory.anisotropic_loss(a, b, scales=scales, max_length=max_length)
        assert loss(torch.diag(torch.tensor(a)), torch.diag(torch.tensor(b)), tokens, weight).item() == pytest.approx(
            expected, rel=1e-12
        )
        dA, dB = gradients(A, B, tokens, weight)
        A, B = A - lr * dA, B - lr * dB


def test_stage_times():
    """Each coordinate follows its own logistic, the later one a little delayed and to a little less."""
    scales, lr = [1.5, 1.0], 2e-5
    predicted = theory.stage_half_times(scales, product=1e-4, max_length=30)
    path = theory.anisotropic_path(a=[1e-2] * 2, b=[1e-2] * 2, scales=scales, max_length=30, lr=lr, steps=4000)
    products = path.prod(1)
    measured = lr * (products > products[-1] / 2).argmax(0)
    assert measured / predicted == pytest.approx([1.0, 1.033], abs=0.01)
    assert predicted[1] / predicted[0] > 4


@pytest.mark.parametrize(("dim", "max_length", "correlation"), [(2, 6, None), (3, 4, None), (2, 6, 0.6), (3, 4, 0.3)])
def test_the_gradient_off_the_plane(dim, max_length, correlation):
    same = np.full((dim, dim), correlation or 0.0) + (1 - (correlation or 0.0)) * np.eye(dim)
    law = "ones" if correlation is None else "gaussian"
    tokens, weight = grid(law, dim, max_length, None if correlation is None else np.linalg.cholesky(same))
    eye = torch.eye(dim, dtype=torch.float64)
    found = [block[0, 1].item() for block in gradients(0.7 * eye, 0.4 * eye, tokens, weight)]
    expected = theory.off_plane_gradient(a=0.7, b=0.4, dim=dim, max_length=max_length, correlation=correlation)
    assert found == pytest.approx(expected, rel=1e-10)
    if (dim, max_length) == (2, 6):
        known = (-0.3666667, 0.4083333) if correlation is None else (2.1624, 2.7342)
        assert found == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize(("dim", "max_length"), [(2, 5), (3, 4)])
def test_ones_loss_and_its_optimum(dim, max_length):
    tokens, weight = grid("ones", dim, max_length)
    eye, full = torch.eye(dim, dtype=torch.float64), torch.ones(dim, dim, dtype=torch.float64)
    for a, a_off, b, b_off in ((0.9, -0.2, 0.7, 0.3), (0.4, 0.0, 1.1, 0.0)):
        value = loss((a - a_off) * eye + a_off * full, (b - b_off) * eye + b_off * full, tokens, weight)
        expected = theory.ones_loss(a=a, a_off=a_off, b=b, b_off=b_off, dim=dim, max_length=max_length)
        assert value.item() == pytest.approx(expected, rel=1e-12)

    def flat(x: np.ndarray) -> tuple[float, np.ndarray]:
        A, B = torch.tensor(x, dtype=torch.float64).view(2, dim, dim).unbind()
        return loss(A, B, tokens, weight).item(), torch.stack(gradients(A, B, tokens, weight)).numpy().ravel()

    start = np.random.default_rng(0).normal(size=2 * dim * dim)
    best = theory.ones_optimum(dim=dim, max_length=max_length, difference=-2.0)
    assert minimize(flat, start, jac=True).fun == pytest.approx(best.loss, rel=1e-6)
    kept = best.a**2 + (dim - 1) * best.a_off**2 - best.b**2 - (dim - 1) * best.b_off**2
    assert kept == pytest.approx(-2.0, rel=1e-12)


@pytest.mark.parametrize(
    ("dim", "max_length", "loss", "ratios"),
    [
        (2, 8, 1.29472, (-0.11724, -0.25472)),
        (3, 8, 3.39102, (-0.11955, -0.15861)),
        (5, 8, 8.43495, (-0.0893, -0.0929)),
        (5, 100, 38.17958, (-0.05258, -0.03285)),
    ],
)
def test_known_optima_of_ones(dim, max_length, loss, ratios):
    best = theory.ones_optimum(dim=dim, max_length=max_length)
    assert best.loss == pytest.approx(loss, abs=6e-6)
    assert (best.a_off / best.a, best.b_off / best.b) == pytest.approx(ratios, abs=6e-5)
    y = theory.initial_token_product(moments_of("ones", dim), max_length=max_length)
    masked = dim * theory.plane_loss(moments_of("ones", dim), max_length=max_length).at(y)
    assert (
        best.loss
        < masked
        == pytest.approx(theory.ones_loss(a=y, a_off=0, b=1, b_off=0, dim=dim, max_length=max_length), rel=1e-12)
    )


@pytest.mark.parametrize(  # d = 5, 100 tokens: a b after 10, 50, 100, 200 steps
    ("law", "scale", "lr", "start", "products"),
    [
        ("gaussian", 0.5, 1e-3, (0.1, 0.1), (0.0143, 0.0580, 0.2589, 0.7326)),
        ("gaussian", 1.0, 1e-4, (0.5, 1.5), (0.2031, 0.1919, 0.1919, 0.1919)),
        ("gaussian", 2.0, 2e-6, (2.0, 2.0), (0.1330, 0.0682, 0.0542, 0.0488)),
        ("one-hot", 0.5, 3e-2, (0.1, 0.1), (0.0205, 0.3403, 3.1515, 3.9995)),
        ("ones", 1.0, 5e-4, (0.1, 0.1), (0.0256, 0.5038, 0.8227, 0.8258)),
    ],
)
def test_the_simulations_of_the_authors(law, scale, lr, start, products):
    moments = theory.first_token_moments(law, dim=5, scale=scale)
    path = theory.descent_path(moments, a=start[0], b=start[1], max_length=100, lr=lr, steps=200)
    assert path[[10, 50, 100, 200]].prod(1) == pytest.approx(products, abs=6e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: theory.plane_loss(m, max_length=2), "max_length must be at least 3, got 2"),
        (lambda m: theory.plane_loss((1, 3, 15, 6), max_length=5), "moments must be those of first_token_moments"),
        (lambda m: theory.descent_path(m, a=1, b=1, max_length=5, lr=0.0, steps=1), r"lr must be greater than 0\.0"),
        (lambda m: theory.descent_path(m, a=1, b=1, max_length=5, lr=0.1, steps=-1), "steps must be at least 0"),
        (lambda m: theory.descent_path(m, a=math.nan, b=1, max_length=5, lr=1, steps=1), "a must be a finite number"),
        (lambda m: theory.off_plane_gradient(a=math.nan, b=1, dim=3, max_length=5), "a must be a finite number"),
        (
            lambda m: theory.off_plane_gradient(a=1, b=1, dim=3, max_length=5, correlation=-0.6),
            r"correlation of every two of 3 coordinates must be from -0\.5 to 1, got -0\.6",
        ),
        (lambda m: theory.stage_half_times([1.0, 0.0], product=0.1, max_length=5), "scales must be above 0 each"),
        (
            lambda m: theory.anisotropic_path(a=[1], b=[1], scales=[-1.0], max_length=5, lr=0.1, steps=1),
            r"scales must be above 0 each, got \[-1\.0\]",
        ),
        (lambda m: theory.flow_path(m, a=1, b=1, max_length=5, times=[-1.0]), "times must be at least 0, got -1"),
        (lambda m: theory.half_time(m, product=9.0, max_length=5), "product must be below its end 0.1"),
        (lambda m: theory.largest_start(m, max_length=5, lr=9.0), "lr must be at most 0.2"),
        (lambda m: theory.equal_phase_gain([0.5], [1.0], product=1.0), "signs must be 1 or -1 each"),
        (lambda m: theory.stage_half_times([1.0], product=1.0, max_length=5), r"product must be below every 1 / \(5"),
    ],
)
def test_refuses(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        call(moments_of("gaussian", 3))
