"""Swapping the estimate of W: against loops over sequences and positions, at known answers, and its controls."""

import numpy as np
import pytest
import torch
from cases import HAAR, N_CTX, D
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from zoo import ForeignDiagonal, augmented, edited, one_gradient_step, orthogonal_model, step, unitary_model

import ar_interp as ari
from ar_interp.claims import Estimate
from ar_interp.models.opened import as_model
from ar_interp.probes.jacobian import exact_circuit
from ar_interp.probes.swap import CEILING, CONTROLS, SWAP, _random_like, swap_context

STACKS = {
    "state": {"n_heads": 2, "n_layers": 3},
    "state, LayerNorm": {
        "n_heads": 2, "n_layers": 2, "layer_norm": True, "biases": True, "unembed": True, "scale_scores": True,
        "attention": "linear/pairs",
    },
    "keys and values": {"n_layers": 2, "attention": "softmax", "d_mlp": 7, "init_scale": 0.5},
    "positions": {"n_layers": 2, "positional": "multiplicative"},
}  # fmt: skip


def pair(process, n: int, length: int) -> tuple[ari.Sequences, ari.Sequences]:
    return process.sample(n, length + 1, seed=11), process.sample(n, length + 1, seed=12)


def rows(result, condition: str):
    found = result.by_position
    return found[found["condition"] == condition].set_index("T")


def naive(model, source, target, layers, suffixes):
    """Each sequence and T alone, cut off at T, in the chosen layers alone: what moves is put at T and nowhere else."""
    n, length, dim = target.tokens[:, :-1].shape
    n_layers = model.config.n_layers
    moved, honest = (torch.zeros(n, length, dim, dtype=target.tokens.dtype) for _ in range(2))
    for i in range(n):
        for T in range(2, length + 1):
            a, b = source.tokens[i : i + 1, :T], target.tokens[i : i + 1, :T]
            held = {
                f"blocks.{layer}.attn.{suffix}": model.run_with_cache(a if layer in layers else b)[1][
                    f"blocks.{layer}.attn.{suffix}"
                ]
                for layer in range(n_layers)
                for suffix in suffixes
            }
            hooks = [(name, lambda value, hook, held=held: held[hook.name]) for name in held]
            moved[i, T - 1] = model.run_with_hooks(b, fwd_hooks=hooks)[0, -1]
            powers = [torch.linalg.matrix_power(source.W[i].mH, T - t) for t in range(1, T + 1)]
            orbit = torch.stack([power @ b[0, -1] for power in powers])[None]
            cache = model.run_with_cache(a)[1]
            hooks = [(name, lambda value, hook, cache=cache: cache[hook.name]) for name in held]
            honest[i, T - 1] = model.run_with_hooks(orbit, fwd_hooks=hooks)[0, -1]
    return moved[:, 1:], honest[:, 1:]


def least_squares(moved, goal, own) -> np.ndarray:
    """score and kept."""
    columns = [torch.view_as_real(x.to(torch.complex128)).flatten().numpy() for x in (goal, own, moved)]
    return np.linalg.lstsq(np.stack(columns[:2], axis=1), columns[2], rcond=None)[0]


@torch.no_grad()
def check_against_loops(model, source, target, layers, suffixes):
    result = swap_context(model, source, target, layers=layers)
    moved, honest = naive(model, source, target, layers, suffixes)
    torch.testing.assert_close(result.moved, moved, rtol=1e-9, atol=1e-12)
    own, inputs = model(target.tokens[:, :-1])[:, 1:], target.tokens[:, 1:-1]
    goal = torch.stack([inputs[i] @ source.W[i].T for i in range(len(inputs))])
    torch.testing.assert_close((result.own, result.goal), (own, goal))
    swap, ceiling = (rows(result, name) for name in (SWAP, CEILING))
    for T in range(2, target.tokens.shape[1]):
        at = slice(T - 2, T - 1)
        score, kept = least_squares(moved[:, at], goal[:, at], own[:, at])
        best = least_squares(honest[:, at], goal[:, at], own[:, at])[0]
        found = swap.loc[T, ["score", "kept", "projection", "relative_error", "change"]].to_numpy(float)
        a, b, c = (x[:, at] for x in (moved, goal, own))
        inner = [(x.conj() * y).sum().real.item() for x, y in ((a - c, b - c), (b - c, b - c), (a - b, a - b), (b, b))]
        change = ((a - c).norm() / c.norm()).item() ** 2
        np.testing.assert_allclose(
            found, [score, kept, inner[0] / inner[1], inner[2] / inner[3], change], rtol=1e-7, atol=1e-10
        )
        assert ceiling.loc[T, "score"] == pytest.approx(best, rel=1e-7, abs=1e-10)
        if not np.isnan(swap.loc[T, "normalised"]):
            assert swap.loc[T, "normalised"] == pytest.approx(score / best)


@pytest.mark.parametrize("layers", [None, (0,), (1,)])
@pytest.mark.parametrize("stack", STACKS)
def test_augmented_swaps_are_those_one_by_one(stack, layers):
    model = augmented(**STACKS[stack])
    suffixes = ("hook_kv_state",) if model.config.linear else ("hook_k", "hook_v")
    check_against_loops(model, *pair(HAAR, 3, 5), layers or range(model.config.n_layers), suffixes)


@pytest.mark.parametrize("lag", [0, 1])
def test_plain_swaps_are_those_one_by_one(lag):
    config = ari.ModelConfig.full(dim=4, n_ctx=6, n_heads=2, query_lag=lag, residual=True, init_scale=0.6)
    check_against_loops(ari.HookedARTransformer(config), *pair(HAAR, 3, 6), (0,), ("hook_pattern",))


def test_diagonal_swaps_are_the_naive_sum():
    model = orthogonal_model(D, kappa=0.4).untrained(1)
    source, target = pair(model.process, 3, N_CTX)
    check_against_loops(model, source, target, (0,), ("hook_pattern",))
    moved = swap_context(model, source, target).moved
    A, B, P = (x.detach() for x in (model.A, model.B, model.P))
    for T in range(2, N_CTX + 1):
        query = source.tokens[1, T - 2].conj()
        expected = sum(
            P[T - 2, t] * b * target.tokens[1, t] * (a * query * source.tokens[1, t]).sum()
            for t in range(T)
            for a, b in zip(A, B, strict=True)
        )
        torch.testing.assert_close(moved[1, T - 2], expected)


def test_states_and_keys_with_values_are_the_same_for_linear_attention():
    model, (source, target) = augmented(**STACKS["state"]), pair(HAAR, 4, 8)
    held = model.run_with_cache(source.tokens[:, :-1])[1]
    names = [f"blocks.{layer}.attn.hook_{part}" for layer in range(3) for part in "kv"]
    hooks = [(name, lambda value, hook: held[hook.name]) for name in names]
    expected = model.run_with_hooks(target.tokens[:, :-1], fwd_hooks=hooks)
    torch.testing.assert_close(swap_context(model, source, target).moved, expected[:, 1:].detach())


@pytest.mark.parametrize("process", [HAAR, ari.CommutingUnitary(4)], ids=lambda p: p.kind)
def test_a_gradient_step_of_the_source_is_applied_to_the_targets_token(process):
    eta, model = 0.13, one_gradient_step(0.13, process)
    source, target = pair(process, 5, 9)
    result = swap_context(model, source, target)
    assert result.what == "key-value state"
    for i in range(5):
        for T in range(2, 10):
            s, last = source.tokens[i], target.tokens[i, T - 1]
            estimate = eta * sum(torch.outer(s[t + 1], s[t].conj()) for t in range(T - 1))
            assert (result.moved[i, T - 2] - estimate @ last).abs().max() < 1e-12
    circuit = exact_circuit(model, source.tokens[:, :-1])[:, 1:, :, 4:8]
    torch.testing.assert_close(result.moved, torch.einsum("btij,btj->bti", circuit, target.tokens[:, 1:-1]))
    assert rows(result, SWAP)["normalised"].dropna().to_numpy() == pytest.approx(1)  # the query holds no W


def test_a_perfect_unitary_model_is_steered_in_full():
    model = unitary_model(D)
    result = swap_context(model, *pair(model.process, 40, N_CTX))
    assert result.what == "attention pattern"
    swap = rows(result, SWAP)
    for column, value in {
        "score": 1,
        "kept": 0,
        "normalised": 1,
        "projection": 1,
        "relative_error": 0,
        "score_se": 0,
    }.items():
        assert np.abs(swap[column] - value).max() < 1e-10
    assert np.abs(rows(result, "same W")["change"]).max() < 1e-10
    assert np.abs(rows(result, "same W")["score"]).max() < 1e-10


@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_older_values_keep_what_kappa_gives_them(kappa):
    """kappa (conj(λ_source) - conj(λ_target)) s_T is left; with values of the source's W, nothing is."""
    model = orthogonal_model(D, kappa=kappa)
    source, target = pair(model.process, 400, N_CTX)
    result = swap_context(model, source, target)
    phases = [torch.exp(-1j * sequences.phases)[:, None] for sequences in (source, target)]
    left = kappa * (phases[0] - phases[1]) * target.tokens[:, 1:-1]
    torch.testing.assert_close(result.moved, result.goal + left)
    assert result.score == pytest.approx(1, abs=4 * result.standard_error)
    assert result.error == pytest.approx(2 * kappa**2, rel=0.1)
    for control in CONTROLS:
        row = rows(result, control).loc[N_CTX]
        assert abs(row["score"]) <= 4 * row["score_se"] + 1e-12, control
    ceiling = rows(result, CEILING)
    assert np.abs(ceiling["score"] - 1).max() < 1e-10
    assert np.abs(ceiling["relative_error"]).max() < 1e-10


def test_a_model_that_copies_does_not_move():
    model = augmented(init_scale=0, unembed=True)
    with torch.no_grad():
        model.get_parameter("unembed.W_U")[4:8] = torch.eye(4)
    result = swap_context(model, *pair(HAAR, 20, 8))
    torch.testing.assert_close(result.moved, result.own)
    assert result.score == pytest.approx(0, abs=1e-12)
    assert rows(result, SWAP)["kept"].to_numpy() == pytest.approx(1)
    assert np.isnan(result.normalised)


def test_a_model_that_predicts_nothing_has_no_score():
    result = swap_context(augmented(init_scale=0), *pair(HAAR, 20, 8))
    assert (result.score, result.ceiling) == (0, 0)
    assert np.isnan(result.normalised)


def test_erasing_a_prediction_is_no_steering():
    """Half of it is by the projection alone, which is why the score is another number."""
    model = one_gradient_step(1.0)
    source, target = pair(HAAR, 400, 9)
    nothing = source.__class__(tokens=torch.zeros_like(source.tokens), W=source.W, phases=None)
    result = swap_context(model, nothing, target)
    assert result.moved.abs().max() < 1e-14
    assert result.score == pytest.approx(0, abs=1e-14)
    assert rows(result, SWAP).loc[9, "projection"] > 0.4


def test_untrained_models_are_not_steered():
    result = swap_context(augmented(n_layers=2, init_scale=0.1), *pair(HAAR, 400, 9))
    assert abs(result.score) < 0.05
    assert abs(result.ceiling) < 0.05
    explosive = swap_context(augmented(n_layers=2, init_scale=0.3), *pair(HAAR, 400, 9))
    assert abs(explosive.score) < 4 * explosive.standard_error
    assert np.isnan(explosive.normalised)


def test_the_standard_error_is_the_jackknifes():
    model, (source, target) = one_gradient_step(0.1), pair(HAAR, 80, 9)
    result = swap_context(model, source, target)
    left_out = []
    for i in range(80):
        rest = torch.arange(80) != i
        left_out.append(least_squares(*(x[rest, -1:] for x in (result.moved, result.goal, result.own)))[0])
    assert result.standard_error == pytest.approx((79 * np.var(left_out)) ** 0.5, rel=0.1)
    normalised_se = rows(result, CEILING)["normalised_se"].to_numpy()
    assert np.nanmax(normalised_se) < 1e-12  # it is 1 by definition


@pytest.mark.parametrize("name", ["augmented-unitary", "augmented-haar-l1", "augmented-haar-l4-keys"])
def test_shipped_models_are_steered(name):
    checkpoint = ari.load(name)
    result = swap_context(checkpoint.model, *pair(checkpoint.process, 300, 20), positions=(20,))
    assert result.normalised >= 0.95
    assert abs(rows(result, SWAP).loc[20, "kept"]) <= 0.06
    for control, score in result.controls.items():
        assert abs(score) <= 0.05, control
    assert result.controls.keys() == set(CONTROLS)
    assert rows(result, "same W").loc[20, "kept"] > 0.5


def test_layers_and_positions_are_chosen():
    model, sequences = augmented(n_layers=3), pair(HAAR, 10, 8)
    result = swap_context(model, *sequences, layers=[2, 0], positions=[7, 3])
    whole = swap_context(model, *sequences, layers=(0, 2))
    assert (result.layers, result.positions, result.n) == ((0, 2), (3, 7), 10)
    assert result.moved.shape == (10, 2, 4)
    torch.testing.assert_close(result.moved, whole.moved[:, [1, 5]])
    assert result.score == pytest.approx(rows(whole, SWAP).loc[7, "score"])
    assert result.to_frame() is result.by_position
    assert set(result.by_position["condition"]) == {SWAP, CEILING, *CONTROLS}
    assert result.controls["other W"] == rows(result, "other W")["score"].iloc[-1]
    assert set(result.by_position["n"]) == {10}


def test_more_sequences_than_meet_each_other(monkeypatch):
    model, sequences = augmented(n_layers=2), pair(HAAR, 10, 6)
    whole = swap_context(model, *sequences).by_position
    monkeypatch.setattr("ar_interp.probes.swap.PAIRED", 4)
    parts = swap_context(model, *sequences, batch_size=3).by_position
    for condition in (SWAP, CEILING):  # other sequences are those of the same group
        chosen = whole["condition"] == condition
        for column in ("score", "score_se", "relative_error"):
            np.testing.assert_allclose(parts[column][chosen], whole[column][chosen])


def test_random_states_follow_the_seed_and_have_the_norm_of_the_sources():
    model, sequences = one_gradient_step(0.1), pair(HAAR, 50, 6)
    runs = [rows(swap_context(model, *sequences, seed=seed), "random state")["score"].to_numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()


def gauged(model, G):
    """The same function by other heads: A -> G A, B -> G^{-T} B."""
    return edited(model, lambda A, B, P: (G @ A, torch.linalg.inv(G).T @ B, P))


@pytest.mark.parametrize("hook", ["hook_kv_state", "hook_k", "hook_v", "hook_pattern"])
def test_random_states_have_the_norm_of_the_sources_where_they_are_read(hook):
    model = as_model(augmented(heads="full", n_heads=3) if hook != "hook_pattern" else unitary_model(3))
    width = model.W_Q.shape[-1]
    shape = {"hook_kv_state": (2, 5, 3, width, width), "hook_pattern": (2, 3, 5, 5)}.get(hook, (2, 5, 3, width))
    value = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = value.tril() if hook == "hook_pattern" else value
    drawn = _random_like(
        value, f"blocks.0.attn.{hook}", model, torch.arange(5), lambda name, like: torch.randn_like(like)
    )
    W_Q, W_O, circuits = model.W_Q[0], model.W_O[0], model.W_V[0] @ model.W_O[0]
    read = {
        "hook_kv_state": lambda x: torch.einsum("hai,bthij,hjc->bthac", W_Q, x, W_O).norm(dim=(-2, -1)),
        "hook_k": lambda x: torch.einsum("hai,bthi->btha", W_Q, x).norm(dim=-1),
        "hook_v": lambda x: torch.einsum("bthj,hjc->bthc", x, W_O).norm(dim=-1),
        "hook_pattern": lambda x: torch.einsum("bhts,hac->btsac", x, circuits).flatten(-3).norm(dim=-1),
    }[hook]
    torch.testing.assert_close(read(drawn), read(value))
    assert (drawn.triu(1).abs().max() == 0) == (hook == "hook_pattern")


def test_no_gauge_makes_a_random_state_steer():
    model = unitary_model(D)
    G = torch.diag(torch.logspace(0, 3, D, dtype=torch.float64)) @ torch.linalg.qr(torch.randn(D, D).double())[0]
    plain, turned = (
        swap_context(each, *pair(model.process, 400, N_CTX), positions=[N_CTX]) for each in (model, gauged(model, G))
    )
    assert turned.controls["random state"] == pytest.approx(0, abs=0.1)
    errors = [rows(each, "random state")["relative_error"].item() for each in (plain, turned)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_the_excess_is_the_error_above_the_ceilings_pair_by_pair():
    process = ari.HaarOrthogonal(4)
    whole = swap_context(step(0.1, process), *pair(process, 60, 6))
    assert whole.excess == pytest.approx(0, abs=1e-12)
    part = swap_context(step(0.1, process, a3=0.3), *pair(process, 500, 6), positions=[6])
    moved, ceiling = (rows(part, name).iloc[0] for name in (SWAP, CEILING))
    assert part.excess == pytest.approx(moved["relative_error"] - ceiling["relative_error"])
    errors = [(x - part.goal).square().sum((1, 2)) for x in (part.moved, part.through, part.goal * 0)]
    found = Estimate.ratio(errors[0] - errors[1], errors[2])
    assert (part.excess, moved["relative_excess_se"]) == pytest.approx((found.value, found.half_width / 1.96), rel=0.01)


def test_other_models_are_swapped_by_their_patterns():
    model = unitary_model(D)
    foreign = ForeignDiagonal(model.A.detach(), model.B.detach(), model.P.detach())
    ours, theirs = (swap_context(m, *pair(model.process, 20, N_CTX)) for m in (model, foreign))
    torch.testing.assert_close(theirs.moved, ours.moved)
    assert theirs.score == pytest.approx(1)


@pytest.mark.parametrize("broken", [1, 2, 3, 4])
def test_hooks_are_gone_after_an_exception(broken):
    model, sequences = augmented(n_layers=2), pair(HAAR, 4, 6)
    before = model(sequences[0].tokens[:, :-1])
    runs = 0

    def fail(module, inputs, output):
        nonlocal runs
        runs += 1
        if runs == broken:
            raise RuntimeError("broken")

    handle = model.blocks[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        swap_context(model, *sequences)
    handle.remove()
    assert not any(point.has_hooks() for point in model.hook_dict.values())
    assert torch.equal(model(sequences[0].tokens[:, :-1]), before)


def test_a_hook_of_the_users_stays():
    model, sequences = augmented(), pair(HAAR, 4, 6)
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: 2 * z)
    result = swap_context(model, *sequences)
    torch.testing.assert_close(result.own, model(sequences[1].tokens[:, :-1])[:, 1:].detach())
    assert model.hook_dict["blocks.0.attn.hook_z"].has_hooks()


class Hookless(HookedRootModule):
    """Has all but the pattern's hook."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.W_V = self.W_O = torch.eye(6)[None, None]
        self.hook_resid = HookPoint()
        self.setup()

    def forward(self, tokens):
        return self.hook_resid(tokens)


UNITARY = ari.CommutingUnitary(6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: swap_context(augmented(), a, HAAR.sample(3, 9, seed=1)), r"same shape .* got \[4, 8, 4\] and "),
        (lambda a, b: swap_context(augmented(), a, b[:3]), r"got \[4, 8, 4\] and \[3, 8, 4\]"),
        (lambda a, b: swap_context(augmented(), a, HAAR.sample(4, 8, seed=1)), r"\[4, 8, 4\] and \[4, 7, 4\]"),
        (
            lambda a, b: swap_context(augmented(), a, ari.CommutingUnitary(4).sample(4, 9, seed=1)),
            "both be real or both complex, got real and complex",
        ),
        (lambda a, b: swap_context(augmented(), a[:1], b[:1]), "at least 2 sequences for this probe, got 1"),
        (lambda a, b: swap_context(augmented(), a, a), "have the same W, so there is nothing to move"),
        (lambda a, b: swap_context(augmented(), a, b, layers=[1]), "layers must be at most 0, got 1"),
        (lambda a, b: swap_context(augmented(), a, b, layers=[]), "layers is empty"),
        (lambda a, b: swap_context(augmented(), a, b, positions=[1]), "positions must be at least 2, got 1"),
        (lambda a, b: swap_context(augmented(), a, b, positions=[9]), "positions must be at most 8, got 9"),
        (lambda a, b: swap_context(augmented(), *pair(HAAR, 4, 1)), "contexts must be at least 2 inputs long, got 1"),
        (lambda a, b: swap_context(Hookless(), *pair(UNITARY, 4, 5)), r"it lacks blocks\.0\.attn\.hook_pattern\."),
        (lambda a, b: swap_context(nn.Identity(), a, b), "it lacks run_with_cache, hooks, "),
        (lambda a, b: swap_context(unitary_model(D), *pair(ari.HaarOrthogonal(6), 4, 5)), "must be in the eigenbasis"),
        (
            lambda a, b: swap_context(augmented(), ari.Sequences(tokens=a.tokens, W=0 * a.W, phases=None), b),
            "source.W must be invertible",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair(HAAR, 4, 8))
