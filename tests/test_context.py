"""The in-context estimate: exact circuit against naive sums, regression against its controls."""

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from zoo import augmented, one_gradient_step, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp.models.opened import as_model
from ar_interp.probes import context
from ar_interp.probes.context import SCORES
from ar_interp.probes.jacobian import exact_circuit, query_jacobian, value_jacobian
from ar_interp.probes.readout import probe_activations

STACKS = {
    "full": {"n_heads": 2, "n_layers": 3},
    "block-scalar": {"heads": "block-scalar", "n_layers": 3, "attention": "linear/keys"},
    "dressed": {
        "n_heads": 2, "n_layers": 2, "scale_scores": True, "biases": True, "unembed": True, "shared_output": True,
    },
    "no stream": {"n_layers": 2, "residual": False, "init_scale": 0.5, "d_head": 5, "positional": "multiplicative"},
    "single precision": {"n_layers": 2, "dtype": "float32"},
}  # fmt: skip


@pytest.fixture(scope="module")
def recovered():
    model = orthogonal_model(D, kappa=1.0)
    sequences = model.process.sample(64, N_CTX + 1, seed=0)
    return model, sequences, ari.recover_context(model, sequences)


def test_the_circuit_is_the_naive_sum():
    model = orthogonal_model(D, kappa=0.4).untrained(1)
    sequences = model.process.sample(3, N_CTX + 1, seed=1)
    result = ari.recover_context(model, sequences)
    A, B, P, tokens = (x.detach() for x in (model.A, model.B, model.P, sequences.tokens))
    for T in range(2, N_CTX + 1):
        query = tokens[0, T - 2].conj()
        for j in range(D):
            coefficients = [
                P[T - 2, t] * sum(b[j] * (a * query * tokens[0, t]).sum() for a, b in zip(A, B, strict=True))
                for t in range(T)
            ]
            torch.testing.assert_close(result.in_context_map[0, T - 1, j, j], coefficients[-1])
            whole = sum(c * tokens[0, t, j] for t, c in enumerate(coefficients)) / tokens[0, T - 1, j]
            torch.testing.assert_close(result.estimate[0, T - 1, j, j], whole)


def test_the_estimate_applied_to_the_last_token_is_the_prediction(recovered):
    model, sequences, result = recovered
    inputs = sequences.tokens[:, :-1]
    applied = torch.einsum("btij,btj->bti", result.estimate, inputs)
    torch.testing.assert_close(applied, model(inputs).detach())


@pytest.mark.parametrize(("long", "kind"), [(False, "own path"), (True, "own path"), (False, "full")])
def test_estimates_at_the_longest_context_alone_are_the_last_of_all(recovered, long, kind, monkeypatch):
    monkeypatch.setattr(context, "LONG", 2 if long else N_CTX + 1)
    (model, sequences, _), options = recovered, {"kind": kind, "batch_size": 30}
    every = context.estimates_of(as_model(model), sequences, **options)
    assert torch.equal(
        context.estimates_of(as_model(model), sequences, places=context.LAST, **options), every[:, :, -1:]
    )


def test_at_zero_loss_the_estimate_is_W_from_the_second_token_on(recovered):
    _, sequences, result = recovered
    torch.testing.assert_close(result.estimate[:, 1:], sequences.W[:, None].expand(-1, N_CTX - 1, -1, -1))


def test_with_kappa_one_the_heads_carry_two_cosines_and_no_sign(recovered):
    _, sequences, result = recovered
    gamma = result.in_context_map[:, 1:].diagonal(0, -2, -1)
    torch.testing.assert_close(gamma.real, 2 * sequences.phases.cos()[:, None].expand_as(gamma.real))
    assert gamma.imag.abs().max() < 1e-12


def test_errors_stand_beside_the_estimators(recovered):
    _, _, result = recovered
    errors = result.errors.set_index(["estimator", "T"])
    assert errors.loc[("model", 2), "context_error_per_row"] < 1e-20
    assert errors.loc[("model", 1), "context_error_per_row"] == pytest.approx(1)
    assert errors.loc[("diagonal OLS", 2), "context_error_per_row"] < 1e-20
    assert errors.loc[("zero", 5), "error_per_token"] == pytest.approx(D)
    assert errors.loc[("OLS", D), "context_error_per_row"] > 1e-3
    assert errors.loc[("OLS", D + 1), "context_error_per_row"] < 1e-6
    assert (result.errors["n"] == 64).all()


def phases_read(model, sequences, **options):
    """The rows of cos and sin of the phases, read off the scores unless another hook is asked for."""
    asked = {"hooks": SCORES, "positions": [sequences.length], **options}
    return probe_activations(model, sequences, target=("cos", "sin"), **asked).frame.set_index("target")


def test_sines_cannot_be_read_where_kappa_is_one_and_can_before_training():
    model = orthogonal_model(D // 2, kappa=1.0)
    read = phases_read(model, model.process.sample(400, N_CTX + 1, seed=0))
    assert read["score"]["cos"] > 0.99
    assert abs(read["score"]["sin"]) < 0.05
    assert (read["untrained"] > 0.99).all()  # so that cos(theta) being readable is no finding
    assert read["shuffled"]["cos"] < 0.05
    assert (read["n_test"] == 120).all()


def test_rounding_errors_are_not_read():
    """Imaginary scores of size 1e-9 hold the sines exactly; a probe that rescales every feature reads them."""
    model = orthogonal_model(D // 2, kappa=1.0)
    with torch.no_grad():
        model.A[:, ::2] *= 1 + 1e-9
    assert abs(phases_read(model, model.process.sample(400, N_CTX + 1, seed=0))["score"]["sin"]) < 0.05


def test_with_as_many_heads_as_coordinates_readability_says_nothing():
    model = unitary_model(D)
    read = phases_read(model, model.process.sample(400, N_CTX + 1, seed=0))
    assert (read[["score", "untrained"]] > 0.99).all(axis=None)


def test_other_activations_can_be_probed():
    model = unitary_model(D)
    sequences = model.process.sample(100, N_CTX + 1, seed=0)
    read = phases_read(model, sequences, hooks="blocks.0.attn.hook_z", positions=[2])
    assert (read["T"] == 2).all()
    assert np.isfinite(read["score"]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: phases_read(m, s[:20]), "at least 50 sequences to split, got 20"),
        (lambda m, s: phases_read(m, s, positions=[1]), "positions must be at least 2, got 1"),
        (lambda m, s: phases_read(m, s, hooks="blocks.0.attn.hook_pos_weights"), "has no batch and position axes"),
        (lambda m, s: phases_read(m, s, hooks="blocks.0.attn.hook_score"), "Did you mean 'blocks.0.attn.hook_attn_sco"),
        (
            lambda m, s: ari.recover_context(m, m.process.sample(4, 2, seed=0)),
            "contexts must be at least 2 inputs long, got 1",
        ),
        (
            lambda m, s: ari.recover_context(m, m.process.sample(4, 6, seed=0, basis="rotation")),
            "must be in the eigenbasis",
        ),
    ],
)
def test_refusals(call, message):
    model = orthogonal_model(D, kappa=1.0)
    sequences = model.process.sample(60, N_CTX + 1, seed=0)
    with pytest.raises(ValueError, match=message):
        call(model, sequences)


# ---- augmented tokens


@pytest.mark.parametrize("process", [HAAR, ari.CommutingUnitary(4)], ids=lambda p: p.kind)
@pytest.mark.parametrize("stack", STACKS)
def test_the_query_jacobian_is_the_exact_circuit(process, stack):
    model, tokens = augmented(process, **STACKS[stack]), process.sample(3, 9, seed=0).tokens
    jacobian, circuit = query_jacobian(model, tokens), exact_circuit(model, tokens)
    torch.testing.assert_close(jacobian, circuit[..., 4:8], rtol=1e-9, atol=1e-12)
    assert jacobian.abs().max() > 1e-3


@pytest.mark.parametrize("process", [HAAR, ari.CommutingUnitary(4)], ids=lambda p: p.kind)
def test_one_layer_is_its_circuit_times_both_tokens(process):
    model, tokens = augmented(process, n_heads=2), process.sample(3, 9, seed=0).tokens
    circuit = exact_circuit(model, tokens)
    previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    parts = (
        torch.einsum("btij,btj->bti", block, s)
        for block, s in ((circuit[..., 4:8], tokens), (circuit[..., 8:], previous))
    )
    torch.testing.assert_close(sum(parts), model(tokens).detach())


def test_of_block_scalars_the_estimate_is_the_naive_sum():
    process = ari.CommutingUnitary(4)
    model, tokens = augmented(process, heads="block-scalar", init_scale=1.0), process.sample(2, 9, seed=0).tokens
    a, jacobian = model.block_scalars, query_jacobian(model, tokens)
    for T in range(9):
        expected = torch.zeros(4, 4, dtype=tokens.dtype)
        for t in range(T + 1):
            now, before = tokens[1, t], tokens[1, t - 1] if t else torch.zeros_like(tokens[1, 0])
            expected += torch.outer(a.b1 * now + a.b2 * before, (a.a1 * now + a.a2 * before).conj())
        torch.testing.assert_close(jacobian[1, T], expected)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "softmax", "d_mlp": 7, "n_layers": 2, "init_scale": 0.5},
        {"layer_norm": True, "biases": True, "unembed": True, "scale_scores": True, "n_layers": 2, "init_scale": 0.5},
    ],
    ids=["softmax, MLP", "LayerNorm"],
)
def test_the_query_jacobian_is_the_difference_with_keys_and_values_held(options):
    model, tokens = augmented(**options), HAAR.sample(2, 9, seed=0).tokens
    with torch.no_grad():
        held = model.run_with_cache(tokens)[1]
        hooks = [
            (f"blocks.{layer}.attn.hook_{part}", lambda value, hook: held[hook.name])
            for layer in range(2)
            for part in "kv"
        ]

        def predict(i: int, step: float) -> torch.Tensor:
            def push(token, hook):
                token[..., 4 + i] += step
                return token

            return model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", push), *hooks])

        columns = [(predict(i, 1e-5) - predict(i, -1e-5)) / 2e-5 for i in range(4)]
    torch.testing.assert_close(query_jacobian(model, tokens), torch.stack(columns, dim=-1), rtol=1e-6, atol=1e-9)


def test_a_layer_in_between_is_that_of_the_shorter_stack():
    deep, tokens = augmented(n_layers=3), HAAR.sample(2, 9, seed=0).tokens
    short = augmented(n_layers=2)
    short.load_state_dict({name: value for name, value in deep.state_dict().items() if ".2." not in name})
    torch.testing.assert_close(query_jacobian(deep, tokens, layer=1), query_jacobian(short, tokens))


@pytest.mark.parametrize("process", [HAAR, ari.CommutingUnitary(4)], ids=lambda p: p.kind)
def test_a_hand_made_gradient_step_is_recovered(process):
    model, sequences = one_gradient_step(0.13, process), process.sample(20, 10, seed=0)
    result = ari.recover_context(model, sequences)
    assert result.step_size == pytest.approx(0.13)
    distances = result.distances.set_index(["reference", "T"])
    assert distances.loc["one gradient step", "distance_per_row"].max() < 1e-25
    assert distances.loc["OLS", "distance_per_row"].min() >= 0
    errors = result.errors.set_index(["estimator", "T"])
    np.testing.assert_allclose(distances.loc["W", "distance_per_row"], errors.loc["model", "context_error_per_row"])
    for column in ("context_error_per_row", "error_per_token"):
        np.testing.assert_allclose(errors.loc["one gradient step", column], errors.loc["model", column])
    assert ("diagonal OLS" in errors.index) == (process is not HAAR)
    torch.testing.assert_close(result.estimate, result.in_context_map)


def test_an_untrained_stack_is_no_gradient_step():
    """The control: at the best step size there is no step in it, and most of Ŵ is left over."""
    model, sequences = augmented(n_layers=2), HAAR.sample(50, 10, seed=0)
    result = ari.recover_context(model, sequences)
    left = result.distances[result.distances["reference"] == "one gradient step"]["distance_per_row"].mean()
    assert left > 0.8 * result.estimate.square().sum((-1, -2)).mean().item() / 4


def test_steps_are_counted_per_pair_where_attention_is():
    model = augmented(heads="block-scalar", attention="linear/pairs", init_scale=0)
    model.load_state_dict(one_gradient_step(1.5).state_dict())
    result = ari.recover_context(model, HAAR.sample(20, 10, seed=0))
    assert result.step_size == pytest.approx(1.5)
    assert result.distances.set_index("reference").loc["one gradient step", "distance_per_row"].max() < 1e-25


# ---- plain tokens and full heads


def test_of_full_heads_the_newest_value_is_the_estimate():
    config = ari.ModelConfig.full(dim=4, n_ctx=9, n_heads=3, init_scale=0.5)
    model, sequences = ari.HookedARTransformer(config, process=HAAR), HAAR.sample(5, 10, seed=0)
    result = ari.recover_context(model, sequences)
    _, cache = model.run_with_cache(sequences.tokens[:, :-1])
    for T in range(9):
        naive = sum(cache["pattern", 0][2, h, T, T] * (model.W_V[0, h] @ model.W_O[0, h]).T for h in range(3))
        torch.testing.assert_close(result.estimate[2, T], naive.detach())
    assert set(result.errors["estimator"]) == {"model", "OLS", "one gradient step", "zero"}


def test_the_value_jacobian_is_the_difference_with_patterns_held():
    """The paper's model: tokens twice, biases, LayerNorm, positions."""
    config = ari.ModelConfig.paper_figure7(dim=4, n_ctx=6, n_heads=2, dtype="float64")
    model, tokens = ari.HookedARTransformer(config, process=HAAR, seed=2), HAAR.sample(2, 6, seed=0).tokens
    jacobian = value_jacobian(model, tokens)
    with torch.no_grad():
        held = model.run_with_cache(tokens)[1]["pattern", 0]
        hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: held)
        for T in range(6):
            for i in range(4):
                step = torch.zeros_like(tokens)
                step[:, T, i] = 1e-5
                ahead, behind = (model.run_with_hooks(tokens + s, fwd_hooks=[hook])[:, T] for s in (step, -step))
                torch.testing.assert_close(jacobian[:, T, :, i], (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


def test_full_heads_on_the_eigenbasis_are_read_as_diagonal_ones_are():
    process = ari.CommutingUnitary(4)
    config = ari.ModelConfig.full(dim=4, n_ctx=9, n_heads=2, init_scale=0.5)
    model, sequences = ari.HookedARTransformer(config, process=process), process.sample(5, 10, seed=0)
    applied = torch.einsum("btij,btj->bti", ari.recover_context(model, sequences).estimate, sequences.tokens[:, :-1])
    torch.testing.assert_close(applied, model(sequences.tokens[:, :-1]).detach())


def full_model() -> ari.HookedARTransformer:
    return ari.HookedARTransformer(ari.ModelConfig.full(dim=4, n_ctx=9, n_heads=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda tokens: query_jacobian(full_model(), tokens),
            "query_jacobian is for augmented tokens, these are plain",
        ),
        (
            lambda tokens: value_jacobian(augmented(), tokens),
            "value_jacobian is for plain tokens, .* use query_jacobian",
        ),
        (lambda tokens: exact_circuit(augmented(layer_norm=True), tokens), "needs linear attention alone"),
        (lambda tokens: exact_circuit(augmented(attention="softmax"), tokens), "needs linear attention alone"),
        (lambda tokens: query_jacobian(augmented(), tokens, layer=1), "layer must be at most 0, got 1"),
        (lambda tokens: ari.recover_context(unitary_model(D), HAAR.sample(4, 6, seed=0)), "must be in the eigenbasis"),
    ],
)
def test_refusals_of_general_models(call, message):
    with pytest.raises(ValueError, match=message):
        call(HAAR.sample(2, 9, seed=0).tokens)


def test_phases_are_read_off_an_activation_where_asked():
    model, process = unitary_model(D), ari.CommutingUnitary(D)
    sequences = process.contexts(100, 6, seed=4)
    found = ari.recover_context(model, sequences, probe_hook="blocks.0.attn.hook_attn_scores")
    swept = ari.probe_activations(
        model, sequences, hooks=["blocks.0.attn.hook_attn_scores"], positions=[6], target=["cos", "sin"]
    ).frame
    assert [readout.target for readout in found.readouts] == ["cos", "sin"]
    assert [readout.r2 for readout in found.readouts] == swept["score"].tolist()
    assert ari.recover_context(model, sequences).readouts == ()
