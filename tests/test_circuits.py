"""Circuits: what is read off factors must be what dense linear algebra says, and what was put in by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.utilities.matrix import composition_scores

import ar_interp as ari
from ar_interp.probes.circuits import Circuits, circuits
from ar_interp.probes.subspaces import principal_angles, projector

LAYERS, HEADS, D_MODEL = 3, 2, 6
SHAPES = [(D_MODEL, 2), (D_MODEL, D_MODEL), (D_MODEL, 9)]
DTYPES = [torch.float64, torch.complex128]
every_shape = pytest.mark.parametrize(("d_model", "d_head"), SHAPES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
I = torch.eye(D_MODEL, dtype=torch.float64)  # noqa: E741


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian(d_model: int, d_head: int, dtype: torch.dtype = torch.float64, n_layers: int = LAYERS, seed: int = 0):
    """A model that is nothing but weights."""
    shape = (n_layers, HEADS, d_model, d_head)
    weights = {f"W_{name}": draw(*shape, seed=10 * seed + i, dtype=dtype) for i, name in enumerate("QKVO")}
    return SimpleNamespace(**weights | {"W_O": weights["W_O"].mT})


def of_products(QK: Tensor, OV: Tensor) -> SimpleNamespace:
    """One head whose circuits are these [d_model d_model], or one per layer [layer d_model d_model]."""
    QK, OV = (X.reshape(-1, 1, *X.shape[-2:]) for X in (QK, OV))
    identity = torch.eye(QK.shape[-1], dtype=QK.dtype).expand_as(QK)
    return SimpleNamespace(W_Q=QK, W_K=identity, W_V=OV, W_O=identity)


def dense(model) -> tuple[Tensor, Tensor]:
    return model.W_Q @ model.W_K.conj().mT, model.W_V @ model.W_O


def same_multiset(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    cost = (found[:, None] - wanted).abs().numpy()
    pairs = scipy.optimize.linear_sum_assignment(cost)
    return bool(cost[pairs].max() < tolerance)


# ---- spectra


@every_shape
@every_dtype
def test_the_spectra_are_those_of_the_dense_products(d_model, d_head, dtype):
    model = gaussian(d_model, d_head, dtype)
    found = circuits(model, n_untrained=2)
    for X, factored, spectrum in zip(
        dense(model), (found.QK, found.OV), (found.QK_spectrum, found.OV_spectrum), strict=True
    ):
        rank = min(d_model, d_head)
        assert_close(factored.AB, X)
        assert_close((spectrum.U * spectrum.S[..., None, :]) @ spectrum.Vh, X)
        gram = torch.eye(rank, dtype=dtype).expand(LAYERS, HEADS, -1, -1)
        assert_close(spectrum.U.mH @ spectrum.U, gram)
        assert_close(spectrum.Vh @ spectrum.Vh.mH, gram)
        S = torch.linalg.svdvals(X)
        assert_close(spectrum.S, S[..., :rank])
        assert_close(spectrum.norm, torch.linalg.matrix_norm(X))
        p = S[..., :rank].square() / S.square().sum(-1, keepdim=True)
        assert_close(spectrum.shares, p)
        assert_close(spectrum.effective_rank, (-(p * p.log()).sum(-1)).exp())
        eigenvalues = torch.linalg.eigvals(X)
        padded = torch.nn.functional.pad(spectrum.eigenvalues, (0, d_model - rank))
        for layer in range(LAYERS):
            for head in range(HEADS):
                assert same_multiset(padded[layer, head], eigenvalues[layer, head], 1e-9)
        assert (spectrum.eigenvalues.abs().diff(dim=-1) <= 1e-12).all()
        trace = X.diagonal(0, -2, -1).sum(-1)
        assert_close(spectrum.positivity, (trace if dtype is torch.float64 else trace.real) / eigenvalues.abs().sum(-1))
        assert_close(spectrum.normality, eigenvalues.abs().square().sum(-1) / X.abs().square().sum((-2, -1)))


def test_ranks_and_eigenvalues_put_in_are_read_back():
    basis = torch.linalg.qr(draw(D_MODEL, D_MODEL, seed=1)).Q
    values = torch.tensor([3.0, 3.0, -1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    found = circuits(of_products(2.5 * basis[:, :3] @ basis[:, :3].T, basis @ torch.diag(values) @ basis.T))
    assert found.QK_spectrum.effective_rank.item() == pytest.approx(3)
    assert found.QK_spectrum.positivity.item() == pytest.approx(1)
    assert same_multiset(found.OV_spectrum.eigenvalues[0, 0], values.to(torch.complex128), 1e-12)
    assert found.OV_spectrum.positivity.item() == pytest.approx(4 / 8)
    assert found.OV_spectrum.normality.item() == pytest.approx(1)  # symmetric
    p = np.array([9, 9, 1, 1]) / 20
    assert found.OV_spectrum.effective_rank.item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    reversal = circuits(of_products(-I, I.roll(1, 0)))
    assert reversal.QK_spectrum.positivity.item() == pytest.approx(-1)
    assert reversal.OV_spectrum.positivity.item() == pytest.approx(0, abs=1e-12)  # roots of unity


def test_a_nilpotent_circuit_has_no_sign():
    """Its eigenvalues are zero; rounding after a change of basis makes them 1e-5, of any sign."""
    chain = torch.kron(torch.diag(torch.ones(2, dtype=torch.float64), 1), torch.eye(2, dtype=torch.float64))
    basis = draw(D_MODEL, D_MODEL, seed=2)
    found = circuits(of_products(basis @ chain @ torch.linalg.inv(basis), chain))
    for spectrum in (found.QK_spectrum, found.OV_spectrum):
        assert spectrum.normality.item() < 1e-9
        assert spectrum.positivity.isnan().all()
    assert found.OV_spectrum.effective_rank.item() == pytest.approx(4)


def test_a_head_that_is_zero_has_no_spectrum():
    frame = circuits(of_products(0 * I, I), dim=2).to_frame()
    assert frame.loc[0, ["effective_rank", "top_share", "positivity", "normality"]].isna().all()
    assert frame.loc[0, "norm"] == 0
    assert frame.loc[1, ["effective_rank", "positivity"]].tolist() == pytest.approx([6, 1])


@given(seed=st.integers(0, 10**6), complex_weights=st.booleans(), d_head=st.sampled_from([2, 6, 9]))
def test_the_gauge_changes_nothing(seed, complex_weights, d_head):
    dtype = DTYPES[complex_weights]
    model = gaussian(D_MODEL, d_head, dtype)
    U, S, Vh = torch.linalg.svd(draw(2, LAYERS, HEADS, d_head, d_head, seed=seed, dtype=dtype))
    G, H = (U * S.clamp(min=0.3)[..., None, :]) @ Vh
    turned = SimpleNamespace(
        W_Q=model.W_Q @ G,
        W_K=model.W_K @ torch.linalg.inv(G).mH,
        W_V=model.W_V @ H,
        W_O=torch.linalg.inv(H) @ model.W_O,
    )
    before, after = (circuits(each, dim=2, n_untrained=2) for each in (model, turned))
    for frame in ("blocks", "composition"):
        a, b = (getattr(each, frame).select_dtypes("number").to_numpy() for each in (before, after))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    a, b = (each.to_frame().select_dtypes("number").to_numpy() for each in (before, after))
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    if d_head < D_MODEL:
        spaces = (each.OV_spectrum.U[0, 0] for each in (before, after))
        assert_close(*(projector(space) for space in spaces))


# ---- composition


def composition_by_hand(model, kind: str, earlier: tuple[int, int], later: tuple[int, int]) -> float:
    QK, OV = dense(model)
    read = {"Q": QK[later], "K": QK[later].conj().mT, "V": OV[later]}[kind]
    norm = torch.linalg.matrix_norm
    return (norm(OV[earlier] @ read) / (norm(OV[earlier]) * norm(read))).item()


@every_shape
@every_dtype
def test_composition_scores_are_those_of_the_dense_products(d_model, d_head, dtype):
    model = gaussian(d_model, d_head, dtype)
    found = circuits(model, n_untrained=2)
    frame = found.composition
    assert len(frame) == 3 * 3 * HEADS**2  # three kinds, three pairs of layers
    for row in frame.itertuples():
        pair = (row.earlier_layer, row.earlier_head), (row.later_layer, row.later_head)
        assert row.earlier_layer < row.later_layer
        assert row.score == pytest.approx(composition_by_hand(model, row.kind, *pair))
        assert row.z == pytest.approx((row.score - row.untrained_mean) / row.untrained_sd)
    assert found.composition_scores.isnan().sum() == 3 * HEADS**2 * (LAYERS**2 - 3)


def test_composition_scores_are_those_of_transformer_lens():
    found = circuits(gaussian(D_MODEL, 3))
    for later, scores in zip((found.QK, found.QK.T, found.OV), found.composition_scores, strict=True):
        theirs = composition_scores(found.OV, later, broadcast_dims=True)
        assert_close(scores[0, :, 1:], theirs[0, :, 1:])
        assert_close(scores[1, :, 2], theirs[1, :, 2])


@pytest.mark.parametrize("kind", range(3))
def test_layers_that_compose_score_one_and_orthogonal_ones_zero(kind):
    u, v, w = torch.linalg.qr(draw(D_MODEL, 3, seed=4)).Q.T
    others = {0: (torch.outer(u, v), I), 1: (torch.outer(v, u), I), 2: (I, torch.outer(u, v))}
    QK, OV = others[kind]
    aligned = circuits(of_products(torch.stack([I, QK]), torch.stack([torch.outer(w, u), OV])))
    orthogonal = circuits(of_products(torch.stack([I, QK]), torch.stack([torch.outer(w, w), OV])))
    assert aligned.composition_scores[kind, 0, 0, 1, 0].item() == pytest.approx(1)
    assert orthogonal.composition_scores[kind, 0, 0, 1, 0].item() == pytest.approx(0, abs=1e-12)
    if kind < 2:  # the other side of QK reads v, which nothing writes
        assert aligned.composition_scores[1 - kind, 0, 0, 1, 0].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
def test_untrained_composition_has_mean_square_one_over_d_model(dtype):
    n = 400
    mean, sd = drawn = circuits(gaussian(9, 4, dtype), n_untrained=n, seed=1).untrained_composition
    # the square of a score of mean m and deviation s deviates by about 2 m s
    assert abs(mean**2 + sd**2 - 1 / 9) < 4 * 2 * mean * sd / n**0.5
    other, same_seed = gaussian(9, 4, dtype, seed=5), 1
    assert circuits(other, n_untrained=n, seed=same_seed).untrained_composition == drawn
    assert circuits(other, n_untrained=n, seed=2).untrained_composition != drawn


def test_untrained_models_score_what_is_expected_of_them(assert_mean):
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=3, n_ctx=4, n_layers=2, n_heads=20), seed=3)
    found = circuits(model)
    scores = found.composition_scores[:, 0, :, 1]  # [kind earlier later]
    mean, sd = found.untrained_composition
    # per earlier head, as scores that share a head are not independent
    assert_mean(scores.mean((0, 2)), mean)
    assert scores.std().item() == pytest.approx(sd, rel=0.25)


def test_one_layer_composes_with_none():
    frame = circuits(gaussian(4, 2, n_layers=1)).composition
    assert len(frame) == 0
    assert {"kind", "score", "untrained_mean", "untrained_sd", "z"} <= set(frame.columns)


# ---- blocks


@every_dtype
def test_blocks_are_those_cut_out_by_slices(dtype):
    dim = 2
    model = gaussian(3 * dim, 4, dtype)
    found = circuits(model, dim=dim)
    names = ("read-out", "s_t", "s_{t-1}")
    assert len(found.blocks) == LAYERS * HEADS * 2 * 9
    for row in found.blocks.itertuples():
        X = dense(model)[row.circuit == "OV"][row.layer, row.head]
        i, j = names.index(row.row), names.index(row.column)
        block = X[i * dim : (i + 1) * dim, j * dim : (j + 1) * dim]
        scalar = block.trace() / dim
        norm = torch.linalg.matrix_norm
        assert row.share == pytest.approx((norm(block) ** 2 / norm(X) ** 2).item())
        assert row.scalar == pytest.approx(scalar.item())
        assert row.distance == pytest.approx((norm(block - scalar * torch.eye(dim)) / norm(block)).item())
        assert row.off_diagonal == pytest.approx((norm(block - torch.diag(block.diagonal())) / norm(block)).item())
    assert_close(found.block_view.share.sum((-2, -1)), torch.ones(2, LAYERS, HEADS, dtype=torch.float64))


def test_blocks_of_untrained_gaussian_weights(assert_mean):
    dim = 4
    model = ari.HookedARTransformer(ari.ModelConfig.augmented(dim=dim, n_ctx=4, n_layers=2, n_heads=60), seed=7)
    view = circuits(model).block_view
    assert (view.untrained_share, view.untrained_distance) == pytest.approx((1 / 9, math.sqrt(1 - 1 / 16)))
    assert view.untrained_off_diagonal == pytest.approx(math.sqrt(1 - 1 / 4))
    heads = {"share": view.share, "distance": view.distance.square(), "off_diagonal": view.off_diagonal.square()}
    per_head = {name: values.permute(1, 2, 0, 3, 4).flatten(0, 1) for name, values in heads.items()}  # [head 2 3 3]
    assert_mean(per_head["share"], 1 / 9)
    # one block at a time is 18 tests at 4 standard errors; the mean over blocks is the sharp one
    assert_mean(per_head["distance"].mean((-3, -2, -1)), view.untrained_distance**2)
    assert_mean(per_head["off_diagonal"].mean((-3, -2, -1)), view.untrained_off_diagonal**2)


def test_a_trained_layer_lives_in_one_block_of_each_circuit():
    model = ari.load("augmented-unitary").model
    found = circuits(model)
    blocks = found.blocks.set_index(["circuit", "row", "column"])
    for block in (("QK", "s_t", "s_{t-1}"), ("OV", "s_t", "read-out")):
        assert blocks.loc[block, "share"] > 1 - 1e-6
        assert blocks.loc[block, "distance"] < 1e-6
    step = blocks.loc[("QK", "s_t", "s_{t-1}"), "scalar"] * blocks.loc[("OV", "s_t", "read-out"), "scalar"]
    assert step == pytest.approx(model.block_scalars.a2 * model.block_scalars.b1)
    assert found.to_frame()["effective_rank"].tolist() == pytest.approx([10, 10])
    assert found.to_frame()["positivity"].isna().all()  # nilpotent: one block of the stream into another


def test_full_heads_are_read_up_to_signs_by_the_distance_from_diagonals():
    """Trained on diagonal W they hold a diagonal of signs; their untrained blocks are nothing of the kind."""
    trained = ari.load("augmented-unitary-full").model
    for model, low, high in ((trained, 0.0, 0.05), (trained.untrained(0), 0.9, 1.0)):
        view = circuits(model).block_view
        for off_diagonal in (view.off_diagonal[0, 0, 0, 1, 2], view.off_diagonal[1, 0, 0, 1, 0]):
            assert low <= off_diagonal.item() < high


def test_models_without_augmented_tokens_have_no_blocks():
    found = circuits(gaussian(D_MODEL, 2))
    assert found.block_view is None
    with pytest.raises(ValueError, match=r"blocks need augmented tokens .* pass circuits\(model, dim=\.\.\.\)"):
        _ = found.blocks


# ---- diagonal heads


def test_diagonal_heads_give_A_B_and_C():
    A, B = draw(4, 5, seed=1), draw(4, 5, seed=2)
    model = ari.HookedARTransformer.from_diagonal(A, B, torch.ones(3, 3))
    found = circuits(model)
    assert_close(found.A, A[None])
    assert_close(found.B, B[None])
    assert_close(found.C, (B.T @ A)[None])
    assert_close(found.C[0], ari.head_orthogonality(model).C)
    assert_close(found.QK_spectrum.S[0], A.abs().sort(descending=True).values)
    for other in (gaussian(5, 5), of_products(I, I + I.roll(1, 0)), of_products(I + I.roll(1, 0), I)):
        found = circuits(other)
        assert (found.A, found.B, found.C) == (None, None, None)


# ---- subspaces


def rotated(angles: list[float], n: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Two subspaces with these principal angles, by any bases that are not orthonormal."""
    p = len(angles)
    basis = torch.linalg.qr(draw(n, n, seed=seed, dtype=dtype)).Q
    theta = torch.tensor(angles, dtype=torch.float64)
    X, Y = basis[:, :p], basis[:, :p] * theta.cos() + basis[:, p : 2 * p] * theta.sin()
    return X @ draw(p, p, seed=seed + 1, dtype=dtype), Y @ draw(p, p, seed=seed + 2, dtype=dtype)


@every_dtype
@pytest.mark.parametrize(
    "angles", [[1e-9, 1e-5, 0.3], [0.0, math.pi / 4, math.pi / 2], [0.7853, 0.7854, 0.7855], [math.pi / 2] * 3, [1e-9]]
)
def test_principal_angles_put_in_are_read_back(angles, dtype):
    X, Y = rotated(angles, 8, dtype, seed=20)
    found = principal_angles(X, Y)
    assert_close(found, torch.tensor(angles, dtype=torch.float64), rtol=1e-5, atol=1e-14)
    assert_close(found, torch.tensor(angles, dtype=torch.float64), rtol=0, atol=3e-14)
    assert_close(principal_angles(Y, X), found, rtol=0, atol=3e-14)


@every_dtype
@pytest.mark.parametrize(("p", "q"), [(2, 2), (4, 2), (2, 5), (6, 4), (8, 3), (1, 1)])
def test_principal_angles_are_scipys(p, q, dtype):
    X, Y = draw(8, p, seed=p, dtype=dtype), draw(8, q, seed=10 + q, dtype=dtype)
    found = principal_angles(X, Y)
    assert len(found) == min(p, q)
    scipys = scipy.linalg.subspace_angles(X.numpy(), Y.numpy())[::-1].copy()  # descending
    assert_close(found, torch.from_numpy(scipys), rtol=0, atol=1e-13)


def test_angles_of_a_real_and_a_complex_space():
    X = torch.tensor([[1.0], [0.0]])
    Y = torch.tensor([[1.0], [1j]], dtype=torch.complex64)
    assert_close(principal_angles(X, Y), torch.tensor([math.pi / 4], dtype=torch.float64))
    assert_close(principal_angles(1j * Y, Y), torch.zeros(1, dtype=torch.float64))


@every_dtype
def test_the_projector_is_one_and_knows_no_basis(dtype):
    X = draw(7, 3, seed=1, dtype=dtype)
    P = projector(X)
    assert_close(P @ P, P)
    assert_close(P, P.mH.resolve_conj())
    assert_close(P @ X, X)
    assert P.diagonal().sum().real.item() == pytest.approx(3)
    assert_close(projector(X @ draw(3, 3, seed=2, dtype=dtype)), P)
    Y = draw(7, 3, seed=3, dtype=dtype)
    sines = principal_angles(X, Y).sin()
    assert torch.linalg.matrix_norm(P - projector(Y)).square().item() == pytest.approx(2 * sines.square().sum().item())


# ---- errors


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.ones(4), "X must be a matrix \\[n p\\] with columns, got shape \\[4\\]"),
        (torch.ones(4, 0), "X must be a matrix"),
        (torch.ones(4, 2), "X \\[4, 2\\] must have linearly independent columns: pass a basis"),
        (torch.zeros(4, 1), "X \\[4, 1\\] must have linearly independent columns"),
        (draw(2, 3, seed=0), "X \\[2, 3\\] must have linearly independent columns"),
        (torch.full((4, 1), torch.nan), "X has NaN or infinite entries"),
        (torch.ones(3, 1), "X and Y must have as many rows, got \\[3, 1\\] and \\[4, 1\\]"),
    ],
)
def test_what_spans_no_subspace_is_refused(X, message):
    with pytest.raises(ValueError, match=message):
        principal_angles(X, torch.ones(4, 1))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"W_V": None}, {}, "type SimpleNamespace cannot be probed: it lacks W_V"),
        ({"W_Q": torch.ones(6, 2)}, {}, "W_Q must have the axes \\[layer head d_model d_head\\]; got \\[6, 2\\]"),
        ({"W_K": torch.ones(3, 1, 6, 2)}, {}, "W_K must have .*, as W_Q \\[3, 2, 6, 2\\] does; got \\[3, 1, 6, 2\\]"),
        ({"W_O": torch.ones(3, 2, 6, 2)}, {}, "W_O must have the axes \\[layer head d_head d_model\\], as W_Q"),
        ({"W_V": torch.full((3, 2, 6, 2), torch.inf)}, {}, "has NaN or infinite entries in W_V"),
        ({}, {"dim": 3}, "dim must be d_model / 3, .*: d_model is 6, got dim=3"),
        ({}, {"dim": 0}, "dim must be at least 1, got 0"),
        ({}, {"n_untrained": 1}, "n_untrained must be at least 2, got 1"),
        ({}, {"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_probed_is_said(change, options, message):
    model = SimpleNamespace(**vars(gaussian(D_MODEL, 2)) | change)
    with pytest.raises(ValueError, match=message):
        circuits(model, **options)


def test_the_frame_is_tidy():
    found = circuits(gaussian(D_MODEL, 2))
    assert isinstance(found, Circuits)
    frame = found.to_frame()
    assert len(frame) == LAYERS * HEADS * 2
    assert frame.columns.tolist() == [
        "layer", "head", "circuit", "norm", "effective_rank", "top_share", "positivity", "normality"
    ]  # fmt: skip
    row = frame.query("layer == 2 and head == 1 and circuit == 'OV'").iloc[0]
    assert row["norm"] == pytest.approx(found.OV_spectrum.norm[2, 1].item())
    assert row["positivity"] == pytest.approx(found.OV_spectrum.positivity[2, 1].item())
