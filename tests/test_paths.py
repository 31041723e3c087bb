"""Paths through augmented attention: against loops, against exact losses, at known answers and in foreign models."""

import numpy as np
import pytest
import torch
from cases import HAAR
from oracles import attend, number_of, path_alone, project, read_out, streams
from torch import nn
from torch.testing import assert_close
from zoo import augmented, foreign_and_ours, one_gradient_step, scalar_layer

import ar_interp as ari
from ar_interp.probes import paths as module
from ar_interp.probes.paths import CURRENT, GRADIENT_STEP, PATHS, PREVIOUS, READ_OUT, SECOND_PATH, Path
from ar_interp.probes.paths import path_contributions as measure
from ar_interp.theory import block_scalar_quadratic

PAIRS = ari.CommutingOrthogonal(4)
UNITARY = ari.CommutingUnitary(4)
ERRORS = 4  # standard errors
STACKS = {
    "full": (HAAR, {"n_heads": 2, "n_layers": 2, "init_scale": 0.4}),
    "complex": (UNITARY, {"n_heads": 2, "n_layers": 2, "d_head": 5, "scale_scores": True}),
    "block-scalar": (PAIRS, {"heads": "block-scalar", "n_layers": 2, "attention": "linear/keys", "init_scale": 0.5}),
    "dressed": (HAAR, {"n_layers": 2, "attention": "linear/pairs", "unembed": True, "d_mlp": 6, "init_scale": 0.6}),
    "positions": (HAAR, {"n_layers": 2, "positional": "multiplicative", "init_scale": 0.8}),
    "no stream": (HAAR, {"n_layers": 2, "positional": "additive", "residual": False, "shared_output": True}),
    "learned weights": (HAAR, {"positional": "softmax", "init_scale": 0.6}),
}


def mean_square(x):
    """Over T = 2..length; the sum over coordinates."""
    return x.abs().square().sum(-1)[..., 1:].mean(-1)


@torch.no_grad()
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layer", [0, 1])
def test_paths_are_the_loops(stack, layer):
    process, options = STACKS[stack]
    if layer >= options.get("n_layers", 1):
        return
    model, sequences = augmented(process, **options), process.sample(2, 5, seed=3)
    result = measure(model, sequences, layer=layer)
    some = [i for i, path in enumerate(PATHS) if path == GRADIENT_STEP or i % 7 == 4 * layer]
    expected = {name: torch.empty(len(some), 2, dtype=torch.float64) for name in ("cut", "only", "change")}
    own, size = torch.empty(2, 2, dtype=torch.float64)
    for n, tokens in enumerate(sequences.tokens):
        inputs, target = tokens[:-1], tokens[1:]
        before = streams(model, inputs)
        prediction = read_out(model, before[-1])
        own[n], size[n] = mean_square(prediction - target), mean_square(prediction)
        whole = attend(model, layer, *(project(model, layer, before[layer], part) for part in "QKV"))
        alone = [path_alone(model, layer, before[layer], path) for path in PATHS]
        assert_close(result.written.flatten(0, 2)[:, n], torch.stack(alone) @ model.W_U.to(alone[0].dtype))
        for i, number in enumerate(some):
            cut = read_out(model, streams(model, inputs, whole - alone[number], layer)[-1])
            only = read_out(model, streams(model, inputs, alone[number], layer)[-1])
            expected["cut"][i, n], expected["only"][i, n] = mean_square(cut - target), mean_square(only - target)
            expected["change"][i, n] = mean_square(cut - prediction)
    costs = expected["cut"] - own
    wanted = {
        "loss_without": expected["cut"].mean(1),
        "loss_only": expected["only"].mean(1),
        "cost": costs.mean(1),
        "cost_se": costs.std(1) / 2**0.5,
        "effect": expected["change"].mean(1) / size.mean(),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(result.table[name].to_numpy()[some], values, rtol=1e-7, atol=1e-9)
    assert result.loss == pytest.approx(own.mean().item())


@torch.no_grad()
@pytest.mark.parametrize("stack", STACKS)
def test_they_sum_to_the_layer(stack):
    process, options = STACKS[stack]
    model, sequences = augmented(process, **options), process.sample(8, 9, seed=4)
    inputs, targets = sequences.tokens[:, :-1], sequences.tokens[:, 1:]
    for layer in range(model.config.n_layers):
        result = measure(model, sequences, layer=layer)
        output = f"blocks.{layer}.hook_attn_out"
        whole = model.run_with_cache(inputs, names_filter=output)[1][output] @ model.W_U.to(inputs.dtype)
        parts = result.written.flatten(0, 2)
        assert_close(parts.sum(0), whole)
        assert result.sum_error < 1e-14
        assert result.table["share"].sum() == pytest.approx(1)
        assert result[result.best]["cost"] == result.table["cost"].max()
        inner = (parts.conj() * whole)[:, :, 1:].real.sum((1, 2, 3)) / whole[:, 1:].abs().square().sum()
        onto = (parts.conj() * targets)[:, :, 1:].real.sum((1, 2, 3)) / targets[:, 1:].abs().square().sum()
        np.testing.assert_allclose(result.table["share"], inner, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.table["toward_target"], onto, rtol=1e-9, atol=1e-12)
        energy = parts[:, :, 1:].abs().square().sum((1, 2, 3)) / whole[:, 1:].abs().square().sum()
        np.testing.assert_allclose(result.table["energy"], energy, rtol=1e-9)
        silent = [READ_OUT in path for path in PATHS]
        if layer == 0 and model.config.positional != "additive":
            assert (result.table["energy"].to_numpy() == 0).tolist() == silent


@pytest.mark.parametrize("options", [{"biases": True}, {"layer_norm": True}], ids=str)
def test_the_self_check_fails_where_there_is_no_sum(options, monkeypatch):
    monkeypatch.setattr(module, "has_paths", lambda model: True)
    assert measure(augmented(**options), HAAR.sample(8, 9, seed=4)).sum_error > 0.1


def test_of_a_single_layer_the_effect_is_the_energy():
    result = measure(augmented(n_heads=3), HAAR.sample(8, 9, seed=4))
    np.testing.assert_allclose(result.table["effect"], result.table["energy"])


@pytest.mark.parametrize("process", [UNITARY, PAIRS, HAAR], ids=lambda p: p.kind)
def test_one_gradient_step_is_one_path(process):
    result = measure(one_gradient_step(0.13, process), process.sample(16, 9, seed=5))
    assert result.best == GRADIENT_STEP
    assert result.carrying() == (GRADIENT_STEP,)
    row = result[GRADIENT_STEP]
    assert (row["energy"], row["share"], row["effect"]) == pytest.approx((1, 1, 1))
    assert (row["energy_se"], row["share_se"]) == pytest.approx((0, 0), abs=1e-12)
    size = 1.0 if process is HAAR else process.dim  # |s_t|^2
    assert row["loss_without"] == pytest.approx(size)
    assert row["loss_only"] == pytest.approx(result.loss)
    assert row["cost"] == pytest.approx(size - result.loss)
    assert row["cost_se"] == pytest.approx(result.loss_se)
    for path in set(PATHS) - {GRADIENT_STEP}:
        found = result[path]
        assert (found["energy"], found["cost"], found["cost_se"]) == (0, 0, 0)
        assert found["loss_only"] == pytest.approx(size)


def test_an_untrained_model_carries_its_prediction_elsewhere():
    model = one_gradient_step(0.13)
    trained, untrained = (measure(m, HAAR.sample(64, 9, seed=6)) for m in (model, model.untrained(3)))
    assert trained.carrying(0.5) == (GRADIENT_STEP,)
    assert GRADIENT_STEP not in untrained.carrying(0.5)
    assert untrained[GRADIENT_STEP]["share"] < 0.5


@pytest.mark.parametrize("process", [UNITARY, PAIRS], ids=lambda p: p.kind)
def test_cuts_cost_what_the_exact_loss_says(process):
    a, b = [0.02, 0.15, -0.04, 0.03], [1.0, 0.3]
    quadratic = block_scalar_quadratic(dim=4, max_length=5, conjugate_pairs=process is PAIRS)
    g, n = np.outer(a, b).ravel(), 4

    def loss(g):
        return (quadratic.constant - 2 * quadratic.h @ g + g @ quadratic.G @ g) / n

    result = measure(scalar_layer(a, b, process=process, n_ctx=5), process.sample(800, 6, seed=7))
    energies = g**2 * quadratic.G.diagonal() / (g @ quadratic.G @ g)
    shares = g * (quadratic.G @ g) / (g @ quadratic.G @ g)
    onto = g * quadratic.h / (4 * n)
    for path in PATHS:
        row, i = result[path], number_of(path)
        if i is None:
            assert row["energy"] == row["cost"] == 0
            continue
        cut = np.where(np.arange(8) == i, 0, g)
        assert abs(row["cost"] - (loss(cut) - loss(g))) < ERRORS * row["cost_se"]
        for name, truth in (("energy", energies), ("share", shares), ("toward_target", onto)):
            assert abs(row[name] - truth[i]) < ERRORS * row[f"{name}_se"] + 1e-12, (path, name)
        assert row["effect"] == pytest.approx(row["energy"])
    assert abs(result.loss - loss(g)) < ERRORS * result.loss_se


def test_two_paths_can_do_the_same_and_cancel():
    """<s_{t-1}|s_{T-1}> = <s_t|s_T> for orthogonal W, but for t = 1 where there is no s_{t-1}."""
    model = scalar_layer([0.5, 0.1, 0.0, -0.5], process=HAAR, n_ctx=8)
    sequences = HAAR.sample(5, 9, seed=8)
    result = measure(model, sequences)
    current, previous = (result.written[i, i, 1] for i in (1, 2))
    first, inputs = sequences.tokens[:, :1], sequences.tokens[:, :-1]
    assert_close(current + previous, 0.5 * (first * inputs).sum(-1, keepdim=True) * first.expand_as(inputs))
    assert min(result[Path(name, name, CURRENT)]["energy"] for name in (CURRENT, PREVIOUS)) > 1


def test_conjugate_pairs_use_the_second_path():
    checkpoint = ari.load("augmented-orthogonal")
    result = measure(checkpoint.model, checkpoint.process.sample(64, 21, seed=9))
    assert result.best == GRADIENT_STEP
    assert result.carrying(1e-3) == (GRADIENT_STEP, SECOND_PATH)
    assert result[SECOND_PATH]["toward_target"] < 0


def test_the_size_of_batches_changes_nothing():
    model, sequences = augmented(n_heads=2, n_layers=2), HAAR.sample(3, 9, seed=1)
    whole = measure(model, sequences, layer=1)
    parts = measure(model, sequences, layer=1, batch_size=2)
    assert_close(parts.written, whole.written)
    numbers = [frame.drop(columns=["query", "key", "value", "path"]) for frame in (parts.table, whole.table)]
    np.testing.assert_allclose(*numbers)
    assert parts.sum_error == pytest.approx(whole.sum_error, rel=0.5)


def test_a_foreign_model_is_taken_apart():
    sequences = HAAR.sample(6, 9, seed=2)
    foreign, ours = (measure(model, sequences) for model in foreign_and_ours())
    assert_close(foreign.written, ours.written)
    np.testing.assert_allclose(foreign.table["cost"], ours.table["cost"])


def test_the_frame_has_a_row_per_path():
    result = measure(augmented(), HAAR.sample(4, 6, seed=0))
    frame = result.to_frame()
    assert [Path(*row) for row in frame[["query", "key", "value"]].to_numpy()] == list(PATHS)
    assert frame["path"][PATHS.index(GRADIENT_STEP)] == str(GRADIENT_STEP) == "<s_{t-1}|s_T> s_t"
    assert str(Path(PREVIOUS, READ_OUT, PREVIOUS)) == "<read-out|s_{T-1}> s_{t-1}"
    assert str(Path(READ_OUT, CURRENT, READ_OUT)) == "<s_t|read-out> read-out"
    assert (frame["n"] == 4).all()
    assert result.n == 4
    assert result.written.shape == (3, 3, 3, 4, 5, 4)
    effects = [result[path]["effect"] for path in result.carrying(1e-9)]
    assert len(effects) == 8
    assert effects == sorted(effects, reverse=True)


def test_hooks_are_gone_after_an_error():
    model, calls = augmented(), []

    def fail(value, hook):
        calls.append(hook.name)
        if len(calls) == 4:  # the model, the paths, and then the runs with one path cut
            raise RuntimeError

    with model.hooks([("blocks.0.hook_resid_post", fail)]), pytest.raises(RuntimeError):
        measure(model, HAAR.sample(4, 6, seed=0))
    assert not any(hook.has_hooks() for hook in model.hook_dict.values())


@pytest.mark.parametrize(
    "options",
    [{"attention": "softmax"}, {"biases": True}, {"layer_norm": True}],
    ids=["softmax", "biases", "LayerNorm"],
)
def test_what_is_no_sum_of_paths_is_refused(options):
    model, sequences = augmented(**options), HAAR.sample(4, 6, seed=0)
    with pytest.raises(ValueError, match=r"linear attention without biases or LayerNorm.*scrub"):
        measure(model, sequences)


def test_errors():
    model, sequences = augmented(), HAAR.sample(4, 6, seed=0)
    plain = ari.HookedARTransformer(ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=1))
    with pytest.raises(ValueError, match="needs augmented tokens"):
        measure(plain, sequences)
    with pytest.raises(ValueError, match="layer must be at most 0, got 1"):
        measure(model, sequences, layer=1)
    with pytest.raises(ValueError, match="sequences must hold at least 2 sequences"):
        measure(model, sequences[:1])
    with pytest.raises(ValueError, match="contexts must be at least 2 inputs long, got 1"):
        measure(model, HAAR.sample(4, 2, seed=0))
    result = measure(model, sequences)
    with pytest.raises(ValueError, match="threshold must be greater than 0"):
        result.carrying(0)
    with pytest.raises(ValueError, match="path must be a Path of three blocks 'read-out', 's_t'"):
        result[Path("s_T", PREVIOUS, CURRENT)]
    with pytest.raises(ValueError, match="cannot be probed: it lacks"):
        measure(nn.Linear(2, 2), sequences)
