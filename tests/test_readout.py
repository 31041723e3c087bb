"""Regression probes on activations made by hand: what is in them must be found, and what is not must not be."""

import numpy as np
import pandas as pd
import pytest
import torch
from cases import N_CTX, N_READ, READ_HOOK, D, noise, planted
from oracles import read_row
from sklearn.linear_model import Ridge
from zoo import Exposed, orthogonal_model

import ar_interp as ari
from ar_interp.estimators import OLS
from ar_interp.probes.context import SCORES
from ar_interp.probes.readout import activations, probe_activations
from ar_interp.probes.readout_fits import Split, fit_probe
from ar_interp.probes.readout_targets import TARGETS, target_values

HAAR = ari.HaarOrthogonal(3)
OTHER = "blocks.1.hook_resid_post"


# ---- what is there is found, and what is not is not


def test_a_linear_function_of_W_is_read_and_noise_is_not():
    mixed = torch.from_numpy(noise(9, 9, seed=1))
    model = Exposed(
        lambda tokens: OLS().estimate(tokens).flatten(2) @ mixed, lambda tokens: (1e4 * tokens.cumsum(1)).sin()
    )
    untrained = Exposed(lambda tokens: tokens[..., :1] ** 3, lambda tokens: tokens)
    sequences = HAAR.sample(400, 9, seed=0)
    sweep = probe_activations(model, sequences, positions=[3, 8], untrained=untrained)
    frame = sweep.frame.set_index(["hook", "T"])
    assert frame.loc[(READ_HOOK, 8), "score"] > 1 - 1e-6
    assert frame.loc[(READ_HOOK, 8), "selectivity_low"] > 0.5
    assert frame.loc[(READ_HOOK, 3), "score"] < 0.95  # two pairs do not fix a 3 x 3 matrix
    assert abs(frame.loc[(OTHER, 8), "score"]) < 0.05
    assert sweep.best()[["hook", "T"]].tolist() == [READ_HOOK, 8]
    assert sweep.to_frame() is sweep.frame


def test_a_projection_reads_what_is_linear_in_the_input_and_nothing_else():
    """Of W, s_2 = W s_1 holds one part in dim."""
    model = Exposed(lambda tokens: OLS().estimate(tokens).flatten(2))
    sequences = HAAR.sample(1000, 9, seed=0)
    frame = probe_activations(model, sequences, positions=[2, 8], untrained=model).frame.set_index("T")
    assert frame.loc[2, "projection"] == pytest.approx(1 / 3, abs=0.03)
    assert frame.loc[8, "projection"] < 0.5
    previous = probe_activations(model, sequences, positions=[3], target="previous token", untrained=model).frame
    assert previous["projection"].item() > 1 - 1e-6


def test_a_control_that_knows_as_much_leaves_no_selectivity():
    values = noise(N_READ, 2, seed=1)
    turned = values @ noise(2, 2, seed=2)
    row = read_row(turned, values, control=values)
    assert row["score"] > 1 - 1e-6
    assert row["untrained"] > 1 - 1e-6
    assert abs(row["selectivity"]) < 1e-6
    assert read_row(turned, values)["selectivity"] > 0.9


@pytest.mark.parametrize("width", [50, N_READ, 3 * N_READ])
def test_what_only_memorising_could_fit_is_not_read(width):
    features, values = noise(N_READ, width, seed=1), noise(N_READ, 2, seed=2)
    memorised = fit_probe(features, values)
    assert width < N_READ or Ridge(alpha=1e-6).fit(features, values).score(features, values) > 0.99
    assert memorised.predict(features).shape == values.shape
    row = read_row(features, values)
    assert abs(row["score"]) < 0.1
    assert abs(row["shuffled"]) < 0.1
    assert row["low"] - 0.05 < 0 < row["high"] + 0.05


def test_the_number_of_the_row_does_not_leak():
    """Neither the order of the sequences nor a name that each has for itself says anything of the others.

    Of p features R^2 fluctuates by 2 sqrt(p / (n_train n_test)) = .03.
    """
    index = np.arange(N_READ, dtype=float)[:, None]
    assert abs(read_row(noise(N_READ, 4, seed=1), index)["score"]) < 0.12
    assert read_row(np.eye(N_READ), index)["score"] < 0.12


def test_shuffled_targets_are_not_read_where_true_ones_are():
    """A slope of standard error 1 / sqrt(n_train) moves R^2 by twice as much: .05 in the mean of eight."""
    values = noise(N_READ, 8, seed=1)
    row = read_row(values, values)
    assert row["score"] > 1 - 1e-6
    assert abs(row["shuffled"]) < 0.2


def test_rows_of_a_sweep():
    process = ari.CommutingUnitary(4)
    config = ari.ModelConfig.augmented(dim=4, n_ctx=6, n_layers=2, init_scale=0.3)
    model = ari.HookedARTransformer(config, process=process, seed=1)
    frame = probe_activations(model, process.sample(60, 7, seed=0)).frame
    hooks = ["hook_embed"]
    for layer in (0, 1):
        hooks += [f"blocks.{layer}.{part}" for part in (
            "hook_resid_pre", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_kv_state", "attn.hook_z",
            "hook_resid_post",
        )]  # fmt: skip
    assert set(frame["hook"]) == set(hooks)
    assert len(frame) == len(hooks) * 3
    assert sorted(set(frame["T"])) == [2, 5, 6]
    assert frame[["layer", "T"]].apply(tuple, axis=1).is_monotonic_increasing
    assert set(frame.loc[frame["hook"] == "hook_embed", "layer"]) == {-1}
    assert not frame.isna().any(axis=None)
    assert (frame["n_train"] == 42).all()
    assert (frame["n_test"] == 18).all()
    controls = frame[["shuffled", "projection", "untrained"]].max(axis=1)
    pd.testing.assert_series_equal(frame["selectivity"], frame["score"] - controls, check_names=False)
    assert ((frame["low"] <= frame["score"]) & (frame["score"] <= frame["high"])).all()
    embedded = frame[(frame["hook"] == "hook_embed") & (frame["T"] == 5)]
    assert set(embedded["n_features"]) == {16}  # of 24: the read-out block is zero
    again = probe_activations(model, process.sample(60, 7, seed=0), hooks="hook_embed").frame
    pd.testing.assert_frame_equal(frame[frame["hook"] == "hook_embed"], again)


def test_hooks_can_be_named_or_filtered():
    process = ari.CommutingOrthogonal(4)
    model = ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=5), process=process)
    sequences = process.sample(60, 6, seed=0)
    for hooks in (SCORES, [SCORES, SCORES], lambda name: name.endswith("attn_scores")):
        frame = probe_activations(model, sequences, hooks=hooks, positions=[5]).frame
        assert frame["hook"].tolist() == [SCORES]


def test_trained_heads_lose_the_sign_that_untrained_ones_hold():
    model = orthogonal_model(D // 2, kappa=1.0)
    sequences = model.process.sample(400, N_CTX + 1, seed=0)
    frame = probe_activations(
        model, sequences, hooks=SCORES, positions=[N_CTX], target=["cos", "sin", "sign of sin"]
    ).frame.set_index("target")
    assert frame.loc["cos", "score"] > 0.99
    assert frame.loc["sin", "selectivity_high"] < -0.9
    assert frame.loc["sign of sin", "untrained"] > 0.9
    assert abs(frame.loc["sign of sin", "score"] - 0.5) < 0.15
    assert frame["metric"].tolist() == ["r2", "r2", "accuracy"]


# ---- discrete targets


def test_planted_classes_are_read():
    signs = noise(N_READ, 2, seed=1) > 0
    row = read_row(np.concatenate([signs + 0.1 * noise(N_READ, 2, seed=2), noise(N_READ, 3, seed=3)], axis=1), signs)
    assert row["metric"] == "accuracy"
    assert row["score"] == 1
    assert abs(row["untrained"] - 0.5) < 0.15
    assert abs(row["baseline"] - 0.5) < 0.15


def test_of_unequal_classes_the_baseline_is_the_most_frequent():
    classes = np.digitize(noise(N_READ, 1, seed=1), [-0.5, 1.5])
    row = read_row(noise(N_READ, 3, seed=2), classes)
    assert row["baseline"] == np.mean(classes[Split.of(N_READ, seed=0).test] == 1)
    assert row["score"] == pytest.approx(row["baseline"], abs=0.05)
    assert read_row(np.eye(3)[classes[:, 0]], classes)["score"] == 1


# ---- what is read off a model


def test_features_are_the_activation_at_T():
    process = ari.CommutingUnitary(3)
    config = ari.ModelConfig.augmented(dim=3, n_ctx=6, n_heads=2, init_scale=0.3)
    model = ari.HookedARTransformer(config, process=process)
    tokens = process.sample(300, 6, seed=0).tokens  # more than a chunk
    hooks = [SCORES, "blocks.0.attn.hook_kv_state", READ_HOOK]
    found = activations(model, tokens, hooks, [2, 4])
    _, cache = model.run_with_cache(tokens)
    for T in (2, 4):
        for hook, value in zip(
            hooks, (cache[SCORES][:, :, T - 1], cache[hooks[1]][:, T - 1], cache[READ_HOOK][:, T - 1]), strict=True
        ):
            for b in (0, 299):
                flat = value[b].flatten().detach().numpy()
                np.testing.assert_allclose(found[hook, T][b], np.concatenate([flat.real, flat.imag]), atol=1e-12)
            assert found[hook, T].dtype == np.float64
    assert not any(point.has_hooks() for point in model.hook_dict.values())


def test_keys_to_come_of_a_softmax_are_no_features():
    config = ari.ModelConfig.augmented(dim=3, n_ctx=6, attention="softmax", dtype="float32")
    found = activations(ari.HookedARTransformer(config, process=HAAR), HAAR.sample(60, 6, seed=0).tokens, [SCORES], [3])
    features = found[SCORES, 3]
    assert (features[:, 3:] == 0).all()
    assert (features[:, :3] != 0).any(0).all()


def test_an_unknown_control_is_refused_and_its_own_is_made():
    sequences, model = HAAR.sample(60, 6, seed=0), Exposed(lambda tokens: tokens)
    with pytest.raises(ValueError, match="untrained must be given: Exposed cannot make its own control"):
        probe_activations(model, sequences)
    model.untrained = lambda seed: Exposed(lambda tokens: tokens[..., :1])
    assert not probe_activations(model, sequences).frame.isna().any(axis=None)


# ---- targets


def test_targets_are_what_they_say():
    unitary, orthogonal = ari.CommutingUnitary(4), ari.CommutingOrthogonal(4)
    complex_, paired, real = (process.sample(50, 8, seed=0) for process in (unitary, orthogonal, HAAR))
    s, T = complex_.tokens.numpy(), 5
    for b in range(50):
        S = sum(np.outer(s[b, t], s[b, t].conj()) for t in range(T - 1))
        penalty = np.mean(np.abs(s[b, T - 1]) ** 2)
        solved = np.linalg.inv(S + penalty * np.eye(4)) @ s[b, T - 1]
        np.testing.assert_allclose(
            target_values("preconditioned input", complex_, T)[b], [*solved.real, *solved.imag], rtol=1e-9, atol=1e-12
        )
    np.testing.assert_array_equal(target_values("previous token", real, T), real.tokens[:, 3])
    np.testing.assert_array_equal(target_values("next token", real, T), real.tokens[:, 5])
    np.testing.assert_array_equal(target_values("W", real, T), real.W.flatten(1))
    theta = paired.phases[:, ::2]
    np.testing.assert_array_equal(target_values("W", paired, T), torch.cat([theta.cos(), theta.sin()], dim=1))
    np.testing.assert_array_equal(target_values("sign of sin", paired, T), theta.sin() > 0)
    assert target_values("sign of sin", paired, T).dtype.kind == "i"
    assert target_values("cos", complex_, T).shape == (50, 4)
    assert set(TARGETS) == {"W", "cos", "sin", "sign of sin", "previous token", "next token", "preconditioned input"}


def test_a_gradient_step_on_the_preconditioned_input_is_ridge_regression():
    sequences, T = HAAR.sample(50, 9, seed=0), 7
    tokens = sequences.tokens
    step = tokens[:, 1:T].mT @ tokens[:, : T - 1]  # sum_{t<T} s_{t+1} s_t^T
    asked = torch.from_numpy(target_values("preconditioned input", sequences, T))
    found = (step @ asked[..., None])[..., 0]
    ridge = ari.estimators.Ridge(penalty=1 / 3)(tokens[:, :T])[:, -1]
    torch.testing.assert_close(found, ridge)


def test_what_is_the_same_in_every_sequence_is_left_out():
    sequences = HAAR.sample(60, 6, seed=0)  # all begin with the same token
    model = Exposed(lambda tokens: tokens)
    frame = probe_activations(model, sequences, target=["W", "previous token"], untrained=model).frame
    assert set(zip(frame["target"], frame["T"], strict=True)) == {("W", 2), ("W", 5), ("previous token", 5)}
    half = np.stack([noise(60, seed=1), np.full(60, 7.0)], axis=1)
    assert target_values(planted(half), sequences, 3).shape == (60, 1)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hooks": lambda name: False},
            "hooks selects no hook of this model; it has hook_embed, blocks.0.hook_resid_pre",
        ),
        ({"hooks": []}, "hooks selects no hook"),
        ({"hooks": "blocks.2.hook_resid_post"}, r"'blocks.2.hook_resid_post' does not exist .* Did you mean 'blocks.0"),
        ({"hooks": "blocks.0.attn.hook_pos_weights"}, "has no batch and position axes"),
        ({"positions": [1]}, "positions must be at least 2, got 1"),
        ({"positions": [7]}, "positions must be at most 6, got 7"),
        ({"target": "s_t"}, "target must be one of 'W', .* or a function, got 's_t'"),
        ({"target": ["cos", "sin", "cos"]}, "target must hold each name once, got .'cos', 'sin', 'cos'."),
        ({"target": lambda sequences, T: np.zeros(60)}, "is the same in every sequence at T = 2"),
        (
            {"target": lambda sequences, T: np.zeros(7)},
            r"must give numbers \[batch value\] for 60 sequences, got float64",
        ),
        ({"target": lambda sequences, T: np.array(["a"] * 60)}, "must give numbers"),
        ({"target": lambda sequences, T: np.full(60, np.nan)}, "has NaN or infinite entries at T = 2"),
        ({"target": lambda sequences, T: np.arange(60) < 3}, "two classes of at least 8 training sequences, got"),
    ],
)
def test_refusals(options, message):
    process = ari.CommutingOrthogonal(4)
    model = ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=6), process=process)
    sequences = process.sample(60, 7, seed=0)
    with pytest.raises(ValueError, match=message):
        probe_activations(model, sequences, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: probe_activations(m, s[:49], untrained=m), "at least 50 sequences to split, got 49"),
        (lambda m, s: probe_activations(m, s, untrained=m, target="cos"), "sequences must carry phases"),
        (
            lambda m, s: probe_activations(m, s, untrained=m, hooks="hook_embed"),
            "'hook_embed' does not exist; .* Exposed",
        ),
        (lambda m, s: probe_activations(torch.nn.Linear(2, 2), s), "it lacks run_with_cache"),
        (
            lambda m, s: probe_activations(Exposed(lambda x: x / 0), s, untrained=m),
            "'blocks.0.hook_resid_post' has NaN or infinite entries at T = 2",
        ),
        (lambda m, s: probe_activations(m, s, untrained=m).best("cos"), "'cos' was not probed, only 'W'"),
    ],
)
def test_refusals_of_other_models(call, message):
    model, sequences = Exposed(lambda tokens: tokens), HAAR.sample(60, 6, seed=0)
    with pytest.raises(ValueError, match=message):
        call(model, sequences)
