"""Edits of weights: what they change, the loss that theory predicts for them, and the loss that is measured."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from torch import nn
from zoo import orthogonal_model, scalar_layer, unitary_model

import ar_interp as ari
from ar_interp import theory
from ar_interp.models.encodings import encode
from ar_interp.probes.ablations import ablate_positions
from ar_interp.probes.edits import EDITS, available_edits, edit_losses
from ar_interp.seeds import REFERENCES
from ar_interp.setting import setting_of
from ar_interp.setting.sampled import GROUPS, PART, sampled_quadratic

PAIRS = ari.CommutingOrthogonal(4)
SCALARS = (0.03, 0.2, -0.05, 0.04, 0.9, 0.2)


def layer(process, scalars=SCALARS, *, n_ctx: int = 7, **options) -> ari.HookedARTransformer:
    """One augmented layer of block scalars a1..a4, b1, b2."""
    return scalar_layer(scalars[:4], scalars[4:], process=process, n_ctx=n_ctx, init_scale=0, **options)


def random(process, n_heads: int = 4) -> ari.HookedARTransformer:
    config = ari.ModelConfig.diagonal(dim=process.dim, n_heads=n_heads, n_ctx=N_CTX, init_scale=0.4)
    return ari.HookedARTransformer(config, process=process, seed=4)


def slow() -> ari.HookedARTransformer:
    config = ari.ModelConfig.positional_only(n_ctx=N_CTX, init_scale=0.3)
    return ari.HookedARTransformer(config, process=ari.CommutingUnitary(1, mu=20.0))


MODELS = {
    "kappa": lambda: orthogonal_model(7, kappa=0.4),
    "unitary": lambda: unitary_model(4),
    "random": lambda: random(ari.CommutingOrthogonal(D)),
    "slow": slow,
    "pairs": lambda: layer(PAIRS),
    "pairs, signs": lambda: layer(ari.CommutingOrthogonal(4, first_token="signs")),
    "unitary layer, per key": lambda: layer(ari.CommutingUnitary(3), attention="linear/keys"),
    "pairs, per pair": lambda: layer(PAIRS, attention="linear/pairs"),
    "haar": lambda: layer(HAAR),
    "haar, per key": lambda: layer(HAAR, attention="linear/keys"),
    "gaussian": lambda: layer(ari.CommutingUnitary(3, first_token="gaussian"), attention="linear/pairs"),
    "noisy": lambda: layer(ari.CommutingOrthogonal(4, noise=0.3)),
    "fast pairs": lambda: layer(ari.CommutingOrthogonal(4, mu=2.0)),
}
ESTIMATED = ("haar", "haar, per key", "gaussian", "noisy", "fast pairs")
CASES = [(name, edit) for name in MODELS for edit in available_edits(MODELS[name]())]


# ---- what an edit changes


def test_positional_edits():
    model = random(PAIRS)
    T = torch.arange(2, N_CTX + 1)
    before = model.P[:-1].detach()
    halved = EDITS["previous position"].apply(model, 0.5).P[:-1]
    for t in range(1, N_CTX + 1):
        factor = torch.where(t == T - 1, 0.5, 1.0)
        torch.testing.assert_close(halved[:, t - 1], factor * before[:, t - 1])
    torch.testing.assert_close(EDITS["positional scale"].apply(model, -3.0).P, -3 * model.P)


def test_the_previous_position_of_a_model_asked_with_the_last_token():
    config = ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=2, query_lag=0)
    model = ari.HookedARTransformer(config, process=HAAR, seed=1)
    tokens = HAAR.sample(3, 6, seed=0).tokens
    weights = "blocks.0.attn.hook_pos_weights"
    before, after = (m.run_with_cache(tokens)[1][weights] for m in (model, EDITS["previous position"].apply(model, 2)))
    expected = before.clone()
    expected.diagonal(-1).mul_(2)
    torch.testing.assert_close(after, expected)


def test_a_head_is_rotated_toward_the_next():
    model = random(PAIRS)
    b_0, b_1 = model.B[:2].detach()
    quarter = EDITS["head rotation"].apply(model, math.pi / 2).B[0]
    assert (quarter @ b_0).item() == pytest.approx(0, abs=1e-12)
    assert quarter.norm().item() == pytest.approx(b_0.norm().item())
    assert torch.linalg.matrix_rank(torch.stack([quarter, b_0, b_1])) == 2
    assert (quarter @ b_1).item() > 0
    small = EDITS["head rotation"].apply(model, 0.3).B
    assert torch.cosine_similarity(small[0], b_0, dim=0).item() == pytest.approx(math.cos(0.3))
    torch.testing.assert_close(small[1:], model.B[1:])
    rescaled = ari.HookedARTransformer.from_diagonal(
        model.A / torch.tensor([[3.0], [0.1], [1], [1]]), model.B * torch.tensor([[3.0], [0.1], [1], [1]]), model.P
    )
    tokens = PAIRS.sample(3, N_CTX, seed=0).tokens
    turned = [EDITS["head rotation"].apply(m, 0.3)(tokens) for m in (model, rescaled)]
    torch.testing.assert_close(*turned)


def test_edits_of_block_scalars():
    model = layer(HAAR)
    assert EDITS["step size"].apply(model, 1.5).block_scalars == pytest.approx((0.03, 0.3, -0.05, 0.04, 0.9, 0.2))
    assert EDITS["second path"].apply(model, -1).block_scalars == pytest.approx((0.03, 0.2, 0.05, 0.04, 0.9, 0.2))


@pytest.mark.parametrize(("name", "edit"), CASES)
def test_the_model_stays_and_the_neutral_value_changes_nothing(name, edit):
    model = MODELS[name]()
    tokens = model.process.sample(3, 5, seed=0).tokens
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(tokens)
    assert torch.equal(EDITS[edit].apply(model, EDITS[edit].neutral)(tokens), before)
    EDITS[edit].apply(model, 0.7)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    low, high = EDITS[edit].span
    assert low <= EDITS[edit].neutral <= high


# ---- theory and measurement


@pytest.mark.parametrize(("name", "edit"), CASES)
def test_predicted_losses_are_the_measured_ones(name, edit):
    model = MODELS[name]()
    low, high = EDITS[edit].span
    result = edit_losses(model, edit, np.linspace(low, high, 4).tolist(), n=1500)
    table = result.to_frame()
    error = np.hypot(table["measured_se"], table["predicted_se"])
    assert ((table["measured"] - table["predicted"]).abs() <= 4 * error + 1e-9).all(), table
    assert (result.source, result.edit) == ("estimated" if name in ESTIMATED else "exact", edit)
    assert ((table["predicted_se"] > 0) == (name in ESTIMATED)).all()
    assert table["predicted"].max() - table["predicted"].min() > 1e-3 or (name, edit) == (
        "unitary",
        "previous position",
    )


def predicted(model, edit, *values) -> np.ndarray:
    return edit_losses(model, edit, values, n=2).to_frame()["predicted"].to_numpy()


def test_known_answers_at_minima():
    factors = np.array([-1.0, 0.0, 1.0, 2.5])
    kappa = orthogonal_model(7, kappa=0.4)
    lost = (factors - 1) ** 2  # of a part of the prediction
    np.testing.assert_allclose(predicted(kappa, "positional scale", *factors), D * lost, atol=1e-12)
    np.testing.assert_allclose(predicted(kappa, "previous position", *factors), 0.4**2 * D * lost, atol=1e-12)
    unitary = unitary_model(4)
    G = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A, B = (G @ unitary.A).detach(), (torch.linalg.inv(G).T @ unitary.B).detach()
    model = ari.HookedARTransformer.from_diagonal(A, B, unitary.P, process=unitary.process)
    cosine = torch.cosine_similarity(A[0], B[0], dim=0).item()
    angles = np.array([-2.0, 0.1, math.pi])
    expected = D - 4 + 2 * (1 - np.cos(angles)) / cosine**2
    np.testing.assert_allclose(predicted(model, "head rotation", *angles), expected, rtol=1e-9)


def test_known_answers_of_a_gradient_step():
    eta = 0.08
    pure = (0.0, eta, 0.0, 0.0, 1.0, 0.0)
    for process in (ari.CommutingUnitary(4), PAIRS):
        found = predicted(layer(process, pure, n_ctx=9), "step size", 0.5, 2.0)
        expected = [
            np.mean([theory.one_step_loss(dim=4, length=T, step_size=f * eta) for T in range(2, 10)]) for f in (0.5, 2)
        ]
        np.testing.assert_allclose(found, expected)
    moments = theory.first_token_moments("ones", dim=4)
    per_pair = layer(ari.CommutingUnitary(4), pure, n_ctx=9, attention="linear/pairs")
    expected = [
        4 * np.mean([theory.initial_token_error(moments, product=f * eta, length=T) for T in range(2, 10)])
        for f in (0.5, 2)
    ]
    np.testing.assert_allclose(predicted(per_pair, "step size", 0.5, 2.0), expected)


def test_a_previous_position_of_zero_is_the_ablation_of_that_key():
    model = orthogonal_model(5, kappa=1.0)
    sequences = model.process.sample(300, N_CTX + 1, seed=7)
    removed = ablate_positions(model, sequences, offsets=[1]).to_frame()
    edited = edit_losses(model, "previous position", [0.0], n=300, seed=7).to_frame()
    assert edited["measured"].item() == pytest.approx(removed["loss"].item(), rel=1e-9)
    assert edited["predicted"].item() == pytest.approx(removed["predicted"].item())  # the loss was 0


def test_all_values_see_the_same_sequences():
    model = MODELS["haar"]()
    many = edit_losses(model, "step size", [0.5, 1.0, 0.5], n=100, seed=3).to_frame()
    one = edit_losses(model, "step size", [1.0], n=100, seed=3).to_frame()
    assert many["measured"][0] == many["measured"][2]
    assert many["measured"][1] == one["measured"][0]
    assert edit_losses(model, "step size", [1.0], n=100, seed=4).to_frame()["measured"][0] != one["measured"][0]
    with torch.no_grad():
        tokens = HAAR.sample(100, 8, seed=3).tokens
        losses = (model(tokens[:, :-1]) - tokens[:, 1:])[:, 1:].square().sum(-1).mean(1)
    assert one["measured"][0] == pytest.approx(losses.mean().item())
    assert one["measured_se"][0] == pytest.approx((losses.std() / 10).item())


def test_nothing_is_predicted_where_theory_is_silent():
    silent = [
        random(ari.CommutingOrthogonal(D, noise=0.1)), random(ari.CommutingUnitary(D, mu=3.0)),
        layer(HAAR, unembed=True), layer(HAAR, layer_norm=True), layer(HAAR, positional="additive"),
        layer(HAAR, attention="softmax"), layer(HAAR, n_layers=2), layer(HAAR, n_heads=2),
        ari.HookedARTransformer(ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=2), process=HAAR),
    ]  # fmt: skip
    for model in silent:
        found = setting_of(model.config, model.process).expected_loss(model)
        assert math.isnan(found.loss)
        assert math.isnan(found.standard_error)
        assert found.source == "none"
    table = edit_losses(silent[0], "positional scale", [1.0], n=10).to_frame()
    assert table["predicted"].isna().all()
    assert table["measured"].notna().all()


# ---- the sampled quadratic


@pytest.mark.parametrize("attention", ["linear", "linear/keys", "linear/pairs"])
@pytest.mark.parametrize("process", [HAAR, ari.CommutingUnitary(3, first_token="gaussian")], ids=lambda p: p.kind)
def test_the_quadratic_is_the_loss_of_the_layer_on_its_sequences(process, attention):
    quadratic = sampled_quadratic(process, 7, attention, 3)
    tokens = process.sample(3 * PART, 8, seed=REFERENCES).tokens
    model = layer(process, attention=attention)
    with torch.no_grad():
        errors = (model(tokens[:, :-1]) - tokens[:, 1:])[:, 1:].abs().square().sum(-1).mean(1)
    parts = errors.reshape(3, PART).mean(1)
    loss, standard_error = quadratic.loss(np.array(SCALARS[:4]), np.array(SCALARS[4:]))
    assert loss == pytest.approx(errors.mean().item(), rel=1e-6)  # scalars are float32
    assert standard_error == pytest.approx((parts.std() / 3**0.5).item(), rel=1e-6)
    assert (quadratic.n, quadratic.n_lengths) == (3 * PART, 6)
    assert not quadratic.G.flags.writeable


def test_the_quadratic_is_that_of_every_product_by_loops():
    """Features by their definition, sum_t <key_t|query_T> value_t, for each sequence and T."""
    n_ctx, n = 5, 2 * PART
    quadratic = sampled_quadratic(HAAR, n_ctx, "linear/keys", 2)
    tokens = HAAR.sample(n, n_ctx + 1, seed=REFERENCES).tokens
    config = ari.ModelConfig.augmented(dim=4, n_ctx=n_ctx)
    context = encode(config, tokens[:, :-1])[..., 4:]  # s_t, s_{t-1}
    h, G, constant = np.zeros(8), np.zeros((8, 8)), 0.0
    for T in range(2, n_ctx + 1):
        features = []
        for query, key, value in np.ndindex(2, 2, 2):
            lag = [slice(4 * i, 4 * i + 4) for i in (query, key, value)]
            feature = torch.zeros(n, 4, dtype=torch.float64)
            for t in range(T):
                scores = (context[:, t, lag[1]] * context[:, T - 1, lag[0]]).sum(-1)
                feature += scores[:, None] * context[:, t, lag[2]] / T
            features.append(feature.flatten().numpy())
        rows, target = np.stack(features), tokens[:, T].flatten().numpy()
        h, G, constant = h + rows @ target / n, G + rows @ rows.T / n, constant + target @ target / n
    np.testing.assert_allclose(quadratic.mean.h, h, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(quadratic.mean.G, G, rtol=1e-10, atol=1e-12)
    assert quadratic.mean.constant == pytest.approx(constant)


def test_the_quadratic_of_a_commuting_process_is_the_exact_one():
    quadratic = sampled_quadratic(PAIRS, 6, "linear", 25)
    a, b = np.array(SCALARS[:4]), np.array(SCALARS[4:])
    loss, standard_error = quadratic.loss(a, b)
    exact = theory.block_scalar_loss(a, b, dim=4, max_length=6, conjugate_pairs=True).item() / 5
    assert 0 < abs(loss - exact) < 4 * standard_error


@pytest.mark.parametrize("read", [lambda best: best.loss, lambda best: abs(best.b[1] / best.b[0])], ids=["loss", "b2"])
def test_the_spread_is_that_of_independent_groups(read):
    """A number read off the mean of G groups varies as the G numbers of groups alone do, over the root of G."""
    quadratic = sampled_quadratic(PAIRS, 6, "linear", 2 * GROUPS)
    groups = [slice(2 * i, 2 * i + 2) for i in range(GROUPS)]
    alone = [replace(quadratic, h=quadratic.h[g], G=quadratic.G[g], constant=quadratic.constant[g]) for g in groups]
    expected = np.std([read(group.near(0.3)) for group in alone], ddof=1) / GROUPS**0.5
    assert quadratic.spread(read, 0.3) == pytest.approx(expected, rel=0.4)  # two estimates from 20 groups


# ---- which edits, and errors


def test_the_edits_of_each_kind_of_model():
    positions = ("previous position", "positional scale")
    assert available_edits(random(PAIRS)) == (*positions, "head rotation")
    assert available_edits(slow()) == positions
    assert available_edits(random(PAIRS, n_heads=1)) == positions
    assert available_edits(layer(HAAR)) == ("step size", "second path")
    plain = ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=2)
    assert available_edits(ari.HookedARTransformer(plain), HAAR) == positions
    for config in (
        ari.ModelConfig.augmented(dim=4, n_ctx=6),
        ari.ModelConfig.augmented(dim=4, n_ctx=6, n_layers=2, heads="block-scalar"),
        ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=2, n_layers=2, residual=True),
        ari.ModelConfig.paper_figure7(dim=4, n_ctx=6),
    ):
        assert available_edits(ari.HookedARTransformer(config), HAAR) == ()
    assert available_edits(nn.Linear(2, 2)) == ()
    parallel = ari.HookedARTransformer.from_diagonal(torch.ones(2, 4), torch.ones(2, 4), torch.ones(5, 5))
    assert available_edits(parallel, PAIRS) == positions


def test_what_is_refused():
    model = random(PAIRS)
    with pytest.raises(
        ValueError, match=r"edit must be one of 'previous position', 'positional scale', .*, got 'flip'"
    ):
        edit_losses(model, "flip", [1.0])
    with pytest.raises(
        ValueError, match=r"edit 'step size' does not apply to this model; those that do: 'previous pos"
    ):
        edit_losses(model, "step size", [1.0])
    with pytest.raises(ValueError, match="does not apply to this model; those that do: none"):
        EDITS["step size"].apply(nn.Linear(2, 2), 1.0)
    with pytest.raises(ValueError, match=r"values is empty; factor; 0 removes p_\{T-1\}, -1 turns its sign, e\.g\. 1"):
        edit_losses(model, "previous position", [])
    with pytest.raises(ValueError, match="values must be a finite number, got nan"):
        edit_losses(model, "previous position", [math.nan])
    with pytest.raises(ValueError, match="value must be a finite number, got inf"):
        EDITS["previous position"].apply(model, math.inf)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        edit_losses(model, "previous position", [1.0], n=1)
    nameless = ari.HookedARTransformer.from_diagonal(model.A, model.B, model.P)
    with pytest.raises(ValueError, match="process is needed to sample sequences; pass process="):
        edit_losses(nameless, "previous position", [1.0])
    with pytest.raises(ValueError, match="process is needed to sample sequences; pass process="):
        available_edits(nameless)
    with pytest.raises(ValueError, match=r"process must be CommutingUnitary, .*: diagonal heads need"):
        available_edits(model, HAAR)
    with pytest.raises(ValueError, match="process has dim 6 but the model has dim 4"):
        edit_losses(model, "previous position", [1.0], process=ari.CommutingUnitary(6))
