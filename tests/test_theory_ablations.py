"""What removing heads and keys costs: by quadrature over the phases, and in closed form at the minima."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ar_interp import theory
from ar_interp.theory.ablations import METHODS

D, N_CTX = 6, 7
CASES = [
    ("unitary", 1, 6, 1.0), ("unitary", 2, 5, 1.0), ("orthogonal", 2, 6, 1.0), ("orthogonal", 4, 4, 1.0),
    ("unitary", 1, 6, 3.7), ("unitary", 1, 5, 50.0),
]  # fmt: skip


def nodes(family: str, dim: int, length: int, mu: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and weights of a quadrature over the phases, exact for mu = 1 (trigonometric polynomials)."""
    if mu == 1:
        points = torch.exp(2j * torch.pi * torch.arange(2 * length + 2, dtype=torch.float64) / (2 * length + 2))
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    else:
        x, w = np.polynomial.legendre.leggauss(60)
        points, weights = torch.exp(1j * torch.pi * torch.tensor(x + 1) / mu), torch.tensor(w / 2)
    n_free = dim if family == "unitary" else dim // 2
    free = torch.cartesian_prod(*[points] * n_free).reshape(-1, n_free)
    joint = torch.cartesian_prod(*[weights] * n_free).reshape(-1, n_free).prod(-1)
    return free if family == "unitary" else torch.stack([free, free.conj()], -1).flatten(1), joint


def naive_costs(A, B, P, family, mu):
    """Costs of heads and of offsets by method, from the model's equation on every pair of nodes."""
    n_heads, dim = A.shape
    n_ctx = len(P)
    eigenvalues, w = nodes(family, dim, n_ctx, mu)
    heads = {method: torch.zeros(n_heads, dtype=torch.float64) for method in METHODS}
    offsets = {method: torch.zeros(n_ctx, dtype=torch.float64) for method in METHODS}

    def expected(error):
        return (w * error.abs().square().sum(-1)).sum()

    def expected_over_pairs(left, other):
        return torch.einsum("m,n,mn->", w, w, (left[:, None] + other).abs().square().sum(-1))

    for T in range(2, n_ctx + 1):
        s = [eigenvalues ** (t - 1) for t in range(1, T + 2)]
        pattern, values = {}, {}
        for h in range(n_heads):
            for t in range(1, T + 1):
                pattern[h, t] = P[T - 2, t - 1] * (s[T - 2].conj() * A[h] * s[t - 1]).sum(-1)
                values[h, t] = B[h] * s[t - 1]
        part = {key: pattern[key][:, None] * values[key] for key in pattern}
        error = sum(part.values()) - s[T]
        for h in range(n_heads):
            z = sum(part[h, t] for t in range(1, T + 1))
            left, mean = error - z, (w[:, None] * z).sum(0)
            heads["zero"][h] += expected(left) - expected(error)
            heads["mean"][h] += expected(left + mean) - expected(error)
            heads["resample"][h] += expected_over_pairs(left, z[None]) - expected(error)
        for k in range(T):
            keys = [(h, T - k) for h in range(n_heads)]
            left = error - sum(part[key] for key in keys)
            mean = sum((w * pattern[key]).sum() * values[key] for key in keys)
            other = sum(pattern[key][None, :, None] * values[key][:, None] for key in keys)
            offsets["zero"][k] += expected(left) - expected(error)
            offsets["mean"][k] += expected(left + mean) - expected(error)
            offsets["resample"][k] += expected_over_pairs(left, other) - expected(error)
    return [{method: cost / (n_ctx - 1) for method, cost in costs.items()} for costs in (heads, offsets)]


@pytest.mark.parametrize(("family", "dim", "n_ctx", "mu"), CASES)
def test_costs_are_the_exact_expectations(family, dim, n_ctx, mu, random_tensor):
    A, B = random_tensor(3, dim, seed=0), random_tensor(3, dim, seed=1)
    P = random_tensor(n_ctx, n_ctx, seed=2)
    heads, offsets = naive_costs(A, B, P, family, mu)
    for method in METHODS:
        options = {"family": family, "mu": mu, "method": method}
        assert_close(theory.head_removal_cost(A, B, P, **options), heads[method], rtol=1e-11, atol=1e-11)
        assert_close(theory.position_removal_cost(B.T @ A, P, **options), offsets[method], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("family", "mu", "dim"), [("orthogonal", 1.0, 4), ("unitary", 5.0, 1)])
@pytest.mark.parametrize("method", METHODS)
def test_ensembles_are_their_members(family, mu, dim, method, random_tensor):
    A, B, P = (
        random_tensor(2, 3, 2, dim, seed=0),
        random_tensor(2, 3, 2, dim, seed=1),
        random_tensor(2, 3, 5, 5, seed=2),
    )
    options = {"family": family, "mu": mu, "method": method}
    heads = theory.head_removal_cost(A, B, P, **options)
    offsets = theory.position_removal_cost(B.mT @ A, P, **options)
    assert heads.shape == (2, 3, 2)
    assert offsets.shape == (2, 3, 5)
    for i, j in np.ndindex(2, 3):
        assert_close(theory.head_removal_cost(A[i, j], B[i, j], P[i, j], **options), heads[i, j])
        assert_close(theory.position_removal_cost(B[i, j].T @ A[i, j], P[i, j], **options), offsets[i, j])


# ---- heads at the minima


def unitary_minimum(n_heads: int, *, scale: float = -1.3, seed: int = 0):
    """Balanced heads of a minimum, and its P."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0][:, : min(n_heads, D)]
    solution = theory.projector_family(basis @ basis.T, n_ctx=N_CTX, scale=scale)
    return *theory.factor_heads(solution.C, n_heads=n_heads, seed=seed), solution.P


def in_gauge(A, B, G):
    return G @ A, torch.linalg.inv(G).T @ B


@pytest.mark.parametrize("n_heads", [1, 3, 6])
def test_a_head_of_a_unitary_minimum_costs_one_over_cos_squared(n_heads, random_tensor):
    A, B, P = unitary_minimum(n_heads)
    A, B = in_gauge(A, B, random_tensor(n_heads, n_heads, seed=3))
    expected = 1 / torch.cosine_similarity(A, B, dim=1) ** 2
    assert_close(theory.head_removal_cost(A, B, P, family="unitary"), expected, rtol=1e-9, atol=1e-9)
    assert_close(theory.head_removal_cost(A, B, P, family="unitary", method="mean"), expected, rtol=1e-9, atol=1e-9)
    resampled = theory.head_removal_cost(A, B, P, family="unitary", method="resample")
    assert_close(resampled, 2 * expected, rtol=1e-9, atol=1e-9)
    one_by_one = theory.removal_cost_at_minimum(A[:, None], B[:, None], scale=-1.3)
    assert_close(one_by_one, expected, rtol=1e-9, atol=1e-9)
    assert n_heads == 1 or expected.max() > 1.5  # this gauge is not one of the cheap ones


def test_more_heads_than_coordinates_share_the_cost(random_tensor):
    A, B, P = unitary_minimum(9)
    A, B = in_gauge(A, B, random_tensor(9, 9, seed=4))
    expected = (A.norm(dim=1) * B.norm(dim=1) / 1.3) ** 2
    assert_close(theory.head_removal_cost(A, B, P, family="unitary"), expected, rtol=1e-8, atol=1e-8)
    assert_close(theory.removal_cost_at_minimum(A[:, None], B[:, None], scale=-1.3), expected)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (0.2, 1, 3, 7)])
def test_heads_that_are_orthogonal_cost_one_each(sizes):
    """Balanced heads, and any others with a_h a multiple of b_h."""
    A, B, P = unitary_minimum(4)
    A, B = in_gauge(A, B, torch.diag(torch.tensor(sizes, dtype=torch.float64)))
    assert_close(theory.head_removal_cost(A, B, P, family="unitary"), torch.ones(4, dtype=torch.float64))
    for k in range(1, 5):
        assert theory.removal_cost_at_minimum(A[:k], B[:k], scale=-1.3).item() == pytest.approx(k)


def pair_minimum(kappa: float, n_heads: int, *, n_pairs: int = D // 2, scale: float = 1.7, seed: int | None = None):
    solution = theory.kappa_family(dim=D, kappa=kappa, n_ctx=N_CTX, scale=scale, n_pairs=n_pairs)
    return *theory.factor_heads(solution.C, n_heads=n_heads, seed=seed), solution.P


@pytest.mark.parametrize(
    ("kappa", "n_heads", "n_pairs"), [(1.0, 3, 3), (1.0, 2, 2), (1.0, 5, 3), (0.0, 6, 3), (0.4, 6, 3), (-3.0, 7, 3)]
)
def test_closed_form_of_sets_of_heads_at_minima_of_conjugate_pairs(kappa, n_heads, n_pairs, random_tensor):
    A, B, P = pair_minimum(kappa, n_heads, n_pairs=n_pairs)
    A, B = in_gauge(A, B, random_tensor(n_heads, n_heads, seed=5))
    single = theory.removal_cost_at_minimum(A[:, None], B[:, None], scale=1.7, kappa=kappa)
    assert_close(theory.head_removal_cost(A, B, P, family="orthogonal"), single, rtol=1e-9, atol=1e-9)
    losses = [theory.population_loss(C, P, family="orthogonal") / (N_CTX - 1) for C in (B.T @ A, B[2:].T @ A[2:])]
    first_two = theory.removal_cost_at_minimum(A[:2], B[:2], scale=1.7, kappa=kappa)
    assert_close(first_two, losses[1] - losses[0], rtol=1e-9, atol=1e-9)


def test_a_head_that_takes_one_pair_costs_two(random_tensor):
    A = torch.kron(torch.eye(3), torch.ones(1, 2)).double()
    P = theory.kappa_family(dim=D, kappa=1.0, n_ctx=N_CTX, scale=1.7).P
    assert_close(theory.head_removal_cost(A, 1.7 * A, P, family="orthogonal"), torch.full((3,), 2.0).double())
    rotation = torch.linalg.qr(random_tensor(3, 3, seed=6))[0]
    turned = theory.head_removal_cost(*in_gauge(A, 1.7 * A, rotation), P, family="orthogonal")
    assert turned.min() > 2.1
    D_h = torch.einsum("hp,hq->hpq", rotation, rotation)  # the pairs' E of each head
    off = D_h - torch.diag_embed(D_h.diagonal(0, 1, 2))
    by_pairs = 4 - 2 * D_h.diagonal(0, 1, 2).square().sum(-1) + 2 * off.sum(-1).square().sum(-1)
    assert_close(turned, by_pairs)


@pytest.mark.parametrize("family", ["unitary", "orthogonal"])
def test_where_scaling_a_head_changes_nothing_its_cost_is_its_power(family, random_tensor):
    """At the best B for random A and P, far from any minimum."""
    A, P = random_tensor(2, 2, seed=0), random_tensor(4, 4, seed=1)

    def loss(B):
        return theory.population_loss(B.T @ A, P, family=family)

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(2, 2).double()).reshape(4, 4)
    slope = torch.autograd.functional.jacobian(loss, torch.zeros(2, 2).double()).flatten()
    B = -torch.linalg.solve(hessian, slope).reshape(2, 2)
    eigenvalues, w = nodes(family, 2, 4, 1.0)
    power = torch.zeros(2, dtype=torch.float64)
    for T in range(2, 5):
        s = [eigenvalues ** (t - 1) for t in range(1, T + 1)]
        for h in range(2):
            z = sum(P[T - 2, t] * (s[T - 2].conj() * A[h] * s[t]).sum(-1)[:, None] * B[h] * s[t] for t in range(T))
            power[h] += (w * z.abs().square().sum(-1)).sum() / 3
    assert_close(theory.head_removal_cost(A, B, P, family=family), power)
    assert (theory.head_removal_cost(A, 1.1 * B, P, family=family) - 1.21 * power).abs().min() > 1e-3


# ---- keys


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_keys_at_zero_loss(kappa):
    """s_{T+1} = (lambda + kappa conj(lambda)) s_T - kappa s_{T-1}: each part has its power."""
    solution = theory.kappa_family(dim=D, kappa=kappa, n_ctx=N_CTX, scale=-0.8)
    expected = torch.zeros(N_CTX, dtype=torch.float64)
    expected[0], expected[1] = D * (1 + kappa**2), D * kappa**2
    cut = theory.position_removal_cost(*solution, family="orthogonal")
    assert_close(cut, expected)
    expected[1] = 0  # the pattern at s_{T-1} is the same for every W
    assert_close(theory.position_removal_cost(*solution, family="orthogonal", method="mean"), expected)
    assert_close(theory.position_removal_cost(*solution, family="orthogonal", method="resample"), 2 * expected)


def test_keys_of_the_unitary_minimum():
    A, B, P = unitary_minimum(4)
    expected = torch.tensor([4.0] + [0.0] * (N_CTX - 1), dtype=torch.float64)  # what is left predicts nothing
    assert_close(theory.position_removal_cost(B.T @ A, P, family="unitary"), expected)


def test_keys_of_a_slow_signal():
    """Positional-only: (p - e_T)^T K (p - e_T) without one weight; far keys are missing from short contexts."""
    P = torch.zeros(5, 5, dtype=torch.float64)
    P[:-1] = torch.tensor([[0.3, 0.9, 0, 0, 0], [0.1, -0.2, 0.8, 0, 0], [0, 0.3, 0.1, 0.7, 0], [0.1, 0.2, 0.3, 0, 0.6]])
    costs = theory.position_removal_cost(torch.ones(1, 1).double(), P, family="unitary", mu=9.0)
    for k in range(5):
        expected = 0.0
        for T in range(2, 6):
            p = P[T - 2, :T]
            cut = p * (torch.arange(1, T + 1) != T - k)
            expected += (theory.positional_loss(cut, mu=9.0) - theory.positional_loss(p, mu=9.0)).item() / 4
        assert costs[k].item() == pytest.approx(expected, abs=1e-14)


# ---- errors


def test_what_is_refused(random_tensor):
    A, P = random_tensor(2, 4, seed=0), random_tensor(5, 5, seed=1)
    with pytest.raises(ValueError, match="method must be one of 'zero', 'mean', 'resample', got 'knockout'"):
        theory.head_removal_cost(A, A, P, family="unitary", method="knockout")
    with pytest.raises(ValueError, match="family must be one of 'unitary', 'orthogonal', got 'haar'"):
        theory.position_removal_cost(A.T @ A, P, family="haar")
    with pytest.raises(ValueError, match="mu must be 1 for 4 coordinates, got 2: others have closed forms"):
        theory.head_removal_cost(A, A, P, family="unitary", mu=2.0)
    with pytest.raises(ValueError, match="C must have even size for conjugate pairs, got 3"):
        theory.head_removal_cost(A[:, :3], A[:, :3], P, family="orthogonal")
    with pytest.raises(ValueError, match="scale must not be zero"):
        theory.removal_cost_at_minimum(A, A, scale=0.0)
    with pytest.raises(ValueError, match="kappa must differ from -1"):
        theory.removal_cost_at_minimum(A, A, scale=1.0, kappa=-1.0)
    with pytest.raises(ValueError, match="dim must be even for conjugate pairs, got 3"):
        theory.removal_cost_at_minimum(A[:, :3], A[:, :3], scale=1.0, kappa=1.0)
