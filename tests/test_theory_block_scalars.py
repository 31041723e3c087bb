"""All block scalars of an augmented layer: over a grid of phases (exact), over samples, and by search."""

import numpy as np
import pytest
import torch
from cases import EXACT, both_families
from oracles import feature, grid_sequences, quadratic
from scipy.optimize import minimize
from torch.testing import assert_close

from ar_interp.processes import CommutingOrthogonal, CommutingUnitary
from ar_interp.theory.block_scalars import block_scalar_loss, block_scalar_minimum, block_scalar_quadratic
from ar_interp.theory.gradient_step import block_scalar_optimum, one_step_loss, one_step_minimum, optimal_step_size

LAGS = [  # (key, query, value) of a1 b1, a1 b2, ..., a4 b2, spelled out
    (0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1),
]  # fmt: skip


def layer(tokens: torch.Tensor, T: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The layer with its matrices: tokens (0, s_t, s_{t-1}), keys and queries of their last two blocks."""
    previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    e = torch.cat([torch.zeros_like(tokens), tokens, previous], dim=-1)[:, :T]
    blocks, eye = torch.zeros(3, 3, dtype=a.dtype), torch.eye(tokens.shape[-1], dtype=a.dtype)
    blocks[1:, 1:] = a.reshape(2, 2).T  # [key block, query block]; a1, a2 go with the query s_T
    key_query = torch.kron(blocks, eye).to(e.dtype)
    value = torch.kron(torch.tensor([[0.0, *b.tolist()]], dtype=a.dtype), eye).to(e.dtype)
    scores = torch.einsum("btx,xy,by->bt", e.conj(), key_query, e[:, -1])
    return torch.einsum("bt,btx,jx->bj", scores, e, value)


# ---- the loss


@pytest.mark.parametrize(
    ("family", "dim", "max_length"),
    [
        (CommutingUnitary, 1, 6),
        (CommutingUnitary, 2, 2),
        (CommutingUnitary, 2, 6),
        (CommutingUnitary, 3, 4),
        (CommutingOrthogonal, 2, 2),
        (CommutingOrthogonal, 2, 9),
        (CommutingOrthogonal, 4, 6),
        (CommutingOrthogonal, 6, 3),
    ],
)
def test_quadratic_is_the_expectation(family, dim, max_length):
    tokens = grid_sequences(family, dim, max_length + 1)
    lengths = range(2, max_length + 1)
    features = [[feature(tokens, T, *lags) for lags in LAGS] for T in lengths]
    G, h = quadratic(features, [tokens[:, T] for T in lengths])
    counted = block_scalar_quadratic(dim=dim, max_length=max_length, conjugate_pairs=family is CommutingOrthogonal)
    np.testing.assert_allclose(counted.G, G, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(counted.h, h, rtol=1e-12, atol=1e-10)
    assert counted.constant == dim * len(lengths)
    assert (counted.G.round() == counted.G).all()
    assert (counted.h.round() == counted.h).all()


@both_families
def test_loss_is_that_of_the_layer(family, random_tensor):
    dim, max_length = (2, 5) if family is CommutingUnitary else (4, 5)
    a, b = random_tensor(4, seed=0), random_tensor(2, seed=1)
    tokens = grid_sequences(family, dim, max_length + 1)
    errors = [layer(tokens, T, a, b) - tokens[:, T] for T in range(2, max_length + 1)]
    expected = sum(error.abs().square().sum(-1).mean() for error in errors)
    loss = block_scalar_loss(a, b, dim=dim, max_length=max_length, conjugate_pairs=family is CommutingOrthogonal)
    assert_close(loss, expected, **EXACT)


@both_families
def test_loss_is_the_mean_over_samples(family, assert_mean, random_tensor):
    dim, max_length = 10, 12
    a, b = 0.05 * random_tensor(4, seed=2), random_tensor(2, seed=3)
    tokens = family(dim).sample(5_000, max_length + 1, seed=4).tokens
    errors = [layer(tokens, T, a, b) - tokens[:, T] for T in range(2, max_length + 1)]
    loss = block_scalar_loss(a, b, dim=dim, max_length=max_length, conjugate_pairs=family is CommutingOrthogonal)
    assert_mean(sum(error.abs().square().sum(-1) for error in errors), loss)


@pytest.mark.parametrize("conjugate_pairs", [False, True])
def test_a2_alone_is_one_gradient_step(conjugate_pairs):
    dim, max_length, eta = 10, 50, 0.02
    a = torch.tensor([0, eta, 0, 0], dtype=torch.float64)
    b = torch.tensor([1, 0], dtype=torch.float64)
    expected = sum(one_step_loss(dim=dim, length=T, step_size=eta) for T in range(2, max_length + 1))
    loss = block_scalar_loss(a, b, dim=dim, max_length=max_length, conjugate_pairs=conjugate_pairs)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("conjugate_pairs", [False, True])
def test_loss_is_differentiable_in_batches(conjugate_pairs, random_tensor):
    sizes = {"dim": 4, "max_length": 5, "conjugate_pairs": conjugate_pairs}
    a, b = random_tensor(2, 3, 4, seed=5).requires_grad_(), random_tensor(2, 3, 2, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: block_scalar_loss(a, b, **sizes), (a, b))
    batch = block_scalar_loss(a, b, **sizes)
    assert batch.shape == (2, 3)
    assert_close(batch[1, 2], block_scalar_loss(a[1, 2], b[1, 2], **sizes), **EXACT)
    arrays = block_scalar_loss(a.detach().numpy(), b.detach().numpy(), **sizes)
    assert_close(arrays, batch.detach(), **EXACT)
    assert block_scalar_loss(a.float(), b.float(), **sizes).dtype == torch.float32


def test_the_cached_arrays_cannot_be_changed():
    quadratic = block_scalar_quadratic(dim=2, max_length=3, conjugate_pairs=True)
    with pytest.raises(ValueError, match="read-only"):
        quadratic.G[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        quadratic.h[0] = 1


# ---- its minimum


@pytest.mark.parametrize(
    ("dim", "max_length", "step_size", "total"),
    [
        (2, 20, 0.07142857, 10.857143),
        (4, 5, 0.16666667, 9.333333),
        (5, 50, 0.02702703, 79.459459),
        (10, 10, 0.06521739, 60.652174),
        (10, 20, 0.04545455, 103.636364),
        (10, 50, 0.02380952, 198.333333),
    ],
)
def test_known_unitary_minima(dim, max_length, step_size, total):
    best = block_scalar_minimum(dim=dim, max_length=max_length, conjugate_pairs=False)
    assert best.a == pytest.approx([0, step_size, 0, 0], abs=5.1e-9)
    assert best.b.tolist() == [1, 0]
    assert best.loss * (max_length - 1) == pytest.approx(total, abs=5.1e-7)


@pytest.mark.parametrize(("dim", "max_length"), [(1, 9), (2, 20), (3, 2), (10, 50)])
def test_unitary_minimum_is_the_pure_step(dim, max_length):
    best = block_scalar_minimum(dim=dim, max_length=max_length, conjugate_pairs=False)
    eta = optimal_step_size(dim=dim, max_length=max_length)
    np.testing.assert_allclose(best.a, [0, eta, 0, 0], rtol=0, atol=1e-12)
    assert best.b.tolist() == [1, 0]
    assert best.loss == pytest.approx(one_step_minimum(dim=dim, max_length=max_length), rel=1e-12)


@pytest.mark.parametrize(("dim", "max_length"), [(2, 2), (4, 5), (10, 10), (10, 20), (10, 50)])
def test_conjugate_pairs_of_many_coordinates_need_no_b2(dim, max_length):
    best = block_scalar_minimum(dim=dim, max_length=max_length, conjugate_pairs=True)
    without_b2 = block_scalar_optimum(dim=dim, max_length=max_length)
    np.testing.assert_allclose(best.a, [0, without_b2.a2, without_b2.a3, 0], rtol=0, atol=1e-12)
    assert best.b.tolist() == [1, 0]
    assert best.loss == pytest.approx(without_b2.loss, rel=1e-12)


@pytest.mark.parametrize(("dim", "max_length"), [(2, 2), (2, 20), (4, 50), (10, 50)])
def test_minimum_without_b2(dim, max_length):
    h, G, constant = block_scalar_quadratic(dim=dim, max_length=max_length, conjugate_pairs=True)
    h, G = h[::2], G[::2, ::2]  # the products with b1
    best = block_scalar_optimum(dim=dim, max_length=max_length)
    np.testing.assert_allclose(np.linalg.solve(G, h), [0, best.a2, best.a3, 0], rtol=0, atol=1e-12)
    assert (constant - h @ np.linalg.solve(G, h)) / (max_length - 1) == pytest.approx(best.loss, abs=1e-12)


@pytest.mark.parametrize(
    ("dim", "max_length", "loss", "b2"),
    [
        (4, 5, 2.21766, 0),
        (10, 10, 6.69426, 0),
        (10, 20, 5.42922, 0),
        (10, 50, 4.03899, 0),
        (4, 50, 1.21374, 0.32),
        (2, 20, 0.54338, 0.47),
    ],
)
def test_known_minima(dim, max_length, loss, b2):
    best = block_scalar_minimum(dim=dim, max_length=max_length, conjugate_pairs=True)
    assert best.loss == pytest.approx(loss, abs=5.1e-6)
    assert best.b == pytest.approx([1, b2], abs=0.0051)


@pytest.mark.parametrize(
    ("dim", "max_length", "conjugate_pairs"),
    [(1, 2, False), (2, 20, False), (2, 2, True), (2, 20, True), (4, 5, True), (4, 50, True)],
)
def test_no_descent_goes_below_the_minimum(dim, max_length, conjugate_pairs, random_tensor):
    """Over a and b at once, from 10 starts; both signs of b2 attain it."""
    sizes = {"dim": dim, "max_length": max_length, "conjugate_pairs": conjugate_pairs}
    best = block_scalar_minimum(**sizes)

    def mean_loss(scalars: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(scalars, dtype=torch.float64, requires_grad=True)
        loss = block_scalar_loss(x[:4], x[4:], **sizes) / (max_length - 1)
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.item(), gradient.numpy()

    starts = random_tensor(10, 6, seed=7).numpy() * [0.1, 0.1, 0.1, 0.1, 1, 1]
    found = [minimize(mean_loss, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-14}).fun for start in starts]
    assert min(found) == pytest.approx(best.loss, abs=1e-8)
    assert min(found) > best.loss - 1e-11

    for sign in (1, -1):
        loss, gradient = mean_loss(np.array([sign, 1, 1, sign, 1, sign]) * np.concatenate([best.a, best.b]))
        assert loss == pytest.approx(best.loss, abs=1e-11)
        np.testing.assert_allclose(gradient, 0, atol=1e-5)  # a search knows b2 to the root of the rounding


@pytest.mark.parametrize(("dim", "max_length", "conjugate_pairs"), [(1, 2, False), (1, 9, False), (2, 2, True)])
def test_features_that_coincide_are_not_used(dim, max_length, conjugate_pairs):
    best = block_scalar_minimum(dim=dim, max_length=max_length, conjugate_pairs=conjugate_pairs)
    np.testing.assert_allclose(best.a[[0, 3]], 0, atol=1e-12)
    assert best.b.tolist() == [1, 0]


# ---- what is refused


@pytest.mark.parametrize("function", [block_scalar_quadratic, block_scalar_minimum, lambda **sizes: loss_of(**sizes)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 2.0}, r"dim must be an integer, got 2\.0"),
        ({"dim": 3}, "dim must be even for conjugate pairs, got 3"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
    ],
)
def test_refuses_sizes(function, change, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        function(**{"dim": 4, "max_length": 5, "conjugate_pairs": True} | change)


def loss_of(a_shape: tuple[int, ...] = (4,), b_shape: tuple[int, ...] = (2,), **sizes) -> torch.Tensor:
    return block_scalar_loss(torch.ones(a_shape), torch.ones(b_shape), **sizes)


@pytest.mark.parametrize(("a_shape", "b_shape"), [((3,), (2,)), ((4,), (1,)), ((5, 4), (2,)), ((), (2,))])
def test_refuses_shapes(a_shape, b_shape, without_type_checks):
    with pytest.raises(ValueError, match=r"a must be \[\.\.\. 4\] and b \[\.\.\. 2\] with the same leading axes"):
        loss_of(a_shape, b_shape, dim=2, max_length=3, conjugate_pairs=False)
