"""The battery: expectations are theory's, outcomes follow from them, claims fail where they must and nowhere else."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from zoo import claim, known_function

import ar_interp as ari
from ar_interp.claims import Claims
from ar_interp.sabotage import BATTERY, BatteryResult, Sabotage, Sensitivity, gauges, run_battery, sensitivity
from ar_interp.sabotage.battery import PARTS
from ar_interp.sabotage.core import cells
from ar_interp.sabotage.diagonal import duplicated, head_removed, mixed_kappa, older_keys, turned
from ar_interp.sabotage.edits import N_CTX, changed, edited, healthy, of_scale, scaled
from ar_interp.sabotage.functions import copies, least_squares, mean_estimate, memorises
from ar_interp.sabotage.general import A3
from ar_interp.sabotage.innocent import retrained
from ar_interp.sabotage.trained import independent_tokens, short_contexts, shuffled_targets, trapped
from ar_interp.theory import population_loss, trapped_levels

UNITARY, PAIRS = "diagonal-unitary-h5", "diagonal-orthogonal-h5"
HAAR, FULL = "augmented-haar-short", "augmented-unitary-full"

load = cache(ari.load)

# of every kind: nothing or the wrong thing learned, heads, positions, function, block scalars, runs, innocents, chains
SLIGHT = ("one '-' block, trapped",)  # it takes as many contexts as claims plan with to tell
OF_WEIGHTS = (  # which say what is computed
    "untrained (unitary, 5 heads)",
    "one head removed",
    "trained on the unitary family (pairs, 5 heads)",
    "P transposed",
    "P at the optimum",
    "steps miscounted",
    "random gauge (unitary, 5 heads)",
    "odd scalars turned",
)
OF_FUNCTIONS = (
    "Ŵ replaced by its mean",
    "predicts with one memorised W (pairs)",
    "copies s_T (augmented, Haar)",
    "zeros for a batch of one",
    "newest score by older tokens",
    "hooks of its own",
    "chain, a memory",
)
REPRESENTATIVE = (*SLIGHT, *OF_WEIGHTS, *OF_FUNCTIONS)


@pytest.fixture(scope="module")
def result() -> BatteryResult:
    with known_function():
        parts = [run_battery(SLIGHT), run_battery(OF_WEIGHTS, n=256)]
    parts.append(run_battery(OF_FUNCTIONS, n=256))
    return BatteryResult(frame=pd.concat([part.frame for part in parts], ignore_index=True))


# ---- what the battery finds


def test_no_claim_holds_where_its_structure_is_gone(result):
    assert result.false_positives[["model", "claim"]].to_numpy().tolist() == []


def test_no_claim_fails_where_its_structure_is_there(result):
    assert result.misses[["model", "claim"]].to_numpy().tolist() == []


def test_every_claim_that_must_fail_somewhere_does(result):
    expected_of = result.frame[result.frame["expected"] == "fail"]["claim"].unique()
    assert set(result.never_failed) == set(result.frame["claim"]) - set(expected_of)


def test_healthy_weights_deceive_claims_about_weights_alone(result):
    """What comes out of an impostor is not what its weights say: behaviour and causes tell."""
    impostor = result.frame[result.frame["model"] == "predicts with one memorised W (pairs)"]
    by_weights = impostor["evidence"] == "weights"
    assert set(impostor[by_weights]["verdict"]) == {"holds", "void"}
    assert set(impostor[impostor["evidence"].isin(["behaviour", "causal"])]["verdict"]) == {"fails", "void"}


def test_the_matrix_holds_every_verdict_once(result):
    matrix = result.matrix()
    assert list(matrix.index) == list(REPRESENTATIVE)
    assert matrix.notna().sum().sum() == len(result.frame)
    assert matrix.loc["P transposed", "positions/scale"] == "fails"
    assert matrix.loc["P transposed", "heads/orthogonal"] == "holds"
    assert result.counts.to_numpy().sum() == len(result.frame)
    assert (
        result.counts.loc["fail", "ok"]
        == ((result.frame["expected"] == "fail") & (result.frame["verdict"] == "fails")).sum()
    )


# ---- the list


def test_the_battery_is_what_it_says():
    assert {sabotage.innocent for sabotage in BATTERY.values()} == {True, False}
    for name, sabotage in BATTERY.items():
        assert bool(sabotage.must_fail) != sabotage.innocent, name
        assert not (sabotage.innocent and sabotage.undecided), name
    assert len(BATTERY) == sum(map(len, PARTS.values())), "a name of two parts"
    assert {sabotage.base for sabotage in BATTERY.values()} <= set(ari.available())


# ---- outcomes


def sabotage(**changes) -> Sabotage:
    return Sabotage(**{"base": UNITARY, "description": "d", "make": changed(copies), **changes})


def test_the_most_specific_name_counts():
    options = {
        "must_fail": ("heads", "step/b"),
        "but": ("heads/a",),
        "undecided": {"heads/b": "why", "step": "why"},
    }
    entry = sabotage(**options)
    names = ("heads/a", "heads/b", "heads/c", "step/a", "step/b", "loss/a")
    assert [entry.expected(name) for name in names] == ["hold", "free", "fail", "free", "fail", "hold"]


VERDICT = {"holds": {}, "fails": {"measured": 9.0}, "void": {"control": 1.0}, "undecided": {"control": float("nan")}}


@pytest.mark.parametrize(
    ("expected", "verdict", "before", "outcome"),
    [
        ("fail", "holds", "", "false positive"),
        ("fail", "fails", "", "ok"),
        ("fail", "void", "", "void"),
        ("fail", "undecided", "", "undecided"),
        ("hold", "holds", "", "ok"),
        ("hold", "fails", "", "miss"),
        ("hold", "void", "", "void"),
        ("hold", "undecided", "", "undecided"),
        ("free", "holds", "", "free"),
        ("free", "fails", "", "free"),
        ("unchanged", "holds", "holds", "ok"),
        ("unchanged", "fails", "holds", "miss"),
        ("unchanged", "void", "holds", "void"),
        ("unchanged", "void", "void", "ok"),
        ("unchanged", "fails", "void", "miss"),
        ("unchanged", "fails", "fails", "ok"),
        ("unchanged", "undecided", "holds", "undecided"),
        ("unchanged", "undecided", "undecided", "ok"),
        ("unchanged", "holds", "fails", "ok"),
    ],
)
def test_the_outcome(expected, verdict, before, outcome):
    options = {
        "fail": {"must_fail": ("heads/a",)},
        "hold": {},
        "free": {"undecided": {"heads/a": "why"}},
        "unchanged": {"healthy": changed(copies)},
    }[expected]
    claims = Claims("x", (claim(**VERDICT[verdict]),))
    (row,) = cells("x", sabotage(**options), claims, {"heads/a": before} if before else {})
    assert (row["verdict"], row["expected"], row["outcome"]) == (verdict, expected, outcome)


def result_of(*rows: tuple[str, str, str, str]) -> BatteryResult:
    """Rows of claim, verdict, expected, outcome; a model each."""
    frame = pd.DataFrame(rows, columns=["claim", "verdict", "expected", "outcome"])
    return BatteryResult(frame=frame.assign(model=[f"model {i}" for i in range(len(rows))], evidence="weights"))


def test_a_claim_that_only_ever_holds_is_named():
    found = result_of(
        ("heads/a", "fails", "fail", "ok"),
        ("heads/a", "holds", "fail", "false positive"),
        ("heads/b", "holds", "fail", "false positive"),
        ("heads/c", "void", "fail", "void"),
        ("heads/d", "fails", "hold", "miss"),
    )
    assert found.never_failed == ("heads/b", "heads/d")
    assert found.false_positives["model"].tolist() == ["model 1", "model 2"]
    assert found.misses["claim"].tolist() == ["heads/d"]
    assert found.counts.loc["fail"].tolist() == [1, 2, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run_battery(["no such model"]),
            r"names must be of the battery, got \['no such model'\]; it has untrained",
        ),
        (lambda: run_battery([]), r"names must be of the battery, got \[\]"),
        (lambda: run_battery(["P transposed"], seed=-1), "seed must be"),
        (lambda: sabotage(must_fail=("a",), undecided={"a": "why"}), "must not overlap, two name"),
        (
            lambda: cells("x", sabotage(must_fail=("heads/none",)), Claims("x", (claim(),)), {}),
            r"expectations of 'x' name claims that are not made of it: \['heads/none'\]",
        ),
        (lambda: sensitivity(UNITARY, scales=(1e-2, 1e-3)), "scales must ascend and seeds must not be empty"),
        (lambda: sensitivity(UNITARY, seeds=()), "scales must ascend and seeds must not be empty"),
        (lambda: sensitivity(UNITARY, scales=(0.0,)), "scales must be"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- how models are made


def loss(model) -> float:
    """Exact, of diagonal heads, per context length."""
    family = "orthogonal" if model.process.conjugate_pairs else "unitary"
    C = model.B.detach().T @ model.A.detach()
    return population_loss(C, model.P.detach(), family=family).item() / (model.config.n_ctx - 1)


def test_the_healthy_model_is_the_shipped_one_on_shorter_contexts():
    checkpoint = load(PAIRS)
    short = healthy(checkpoint)
    tokens = checkpoint.process.sample(8, N_CTX, seed=0).tokens
    assert_close(short(tokens), checkpoint.model(tokens))
    assert short.P.triu(2).abs().max() == 0
    assert healthy(load(HAAR)).config == load(HAAR).config


@pytest.mark.parametrize(
    ("base", "edit"),
    [
        (UNITARY, duplicated),
        (UNITARY, head_removed),
        (UNITARY, turned),
        (UNITARY, older_keys),
        (HAAR, scaled("QK_blocks", A3, 0.0)),
    ],
)
def test_edits_leave_the_shipped_model_as_it_is(base, edit):
    checkpoint = load(base)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    other = edited(edit)(checkpoint, 0)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())
    assert any(not torch.equal(x, y) for x, y in zip(other.parameters(), healthy(checkpoint).parameters(), strict=True))


def test_edits_do_what_they_say_to_the_loss():
    """By hand, from |C|^2 sum p_t^2 - 2 p_T tr C + d at C = c Pi of rank 5 with A B^T = c I."""
    checkpoint = load(UNITARY)
    model = healthy(checkpoint)
    share = (model.A[0].norm() * model.B[0].norm() * model.P[0, 1]).square().item()  # |b_1 a_1^T / c|^2, 1 if balanced
    assert loss(edited(head_removed)(checkpoint, 0)) == pytest.approx(5 + share, abs=1e-9)
    assert loss(edited(turned)(checkpoint, 0)) == pytest.approx(5 + 4 * share, abs=1e-9)
    noisy = edited(older_keys)(checkpoint, 3)
    older = noisy.P.detach().tril(-1)[:-1].square().sum().item()
    C = model.B.T @ model.A
    assert loss(noisy) == pytest.approx(5 + older * C.square().sum().item() / (N_CTX - 1), abs=1e-9)


def test_gaussian_weights_have_the_scale_that_was_asked_for():
    fresh = of_scale(0.01)(healthy(load(UNITARY)), load(UNITARY), 0)
    assert torch.cat([fresh.A.flatten(), fresh.B.flatten()]).std().item() == pytest.approx(0.01, rel=0.2)


def test_mixed_kappa_is_of_rank_six_and_mean_kappa_four_fifths():
    C = mixed_kappa().C
    assert torch.linalg.matrix_rank(C) == 6
    assert C.sum() / C.trace() - 1 == pytest.approx(0.8)


@pytest.mark.parametrize("impostor", [copies, memorises, least_squares, mean_estimate])
def test_impostors_have_the_weights_and_activations_of_the_healthy_model(impostor):
    checkpoint = load(UNITARY)
    model = healthy(checkpoint)
    other = impostor(model, checkpoint, 0)
    tokens = checkpoint.process.sample(16, N_CTX, seed=1).tokens
    predictions, cache = other.run_with_cache(tokens)
    own, seen = model.run_with_cache(tokens)
    assert_close(cache["blocks.0.attn.hook_pattern"], seen["blocks.0.attn.hook_pattern"])
    assert not torch.allclose(predictions, own, atol=0.1)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(point.has_hooks() for point in other.hook_dict.values())


def test_impostors_answer_what_they_say():
    checkpoint = load(UNITARY)
    sequences = checkpoint.process.sample(16, N_CTX, seed=1)
    model = healthy(checkpoint)
    assert_close(copies(model, checkpoint, 0)(sequences.tokens), sequences.tokens)
    W = checkpoint.process.sample(1, 2, seed=4).W[0]
    assert_close(memorises(model, checkpoint, 4)(sequences.tokens), torch.einsum("ij,btj->bti", W, sequences.tokens))
    after = ari.estimators.OLS()(sequences.tokens)
    assert_close(least_squares(model, checkpoint, 0)(sequences.tokens), after)
    mean = mean_estimate(model, checkpoint, 0)
    pattern = model.run_with_cache(checkpoint.process.sample(1024, N_CTX, seed=0).tokens)[1][
        "blocks.0.attn.hook_pattern"
    ]
    values = torch.einsum("hts,bshi->bti", pattern.mean(0), sequences.tokens[:, :, None] * model.B)
    assert_close(mean(sequences.tokens), values)


def test_hooks_work_inside_an_impostor():
    checkpoint = load(UNITARY)
    other = mean_estimate(healthy(checkpoint), checkpoint, 0)
    tokens = checkpoint.process.sample(4, N_CTX, seed=1).tokens
    with other.hooks(fwd_hooks=[("blocks.0.attn.hook_v", lambda v, hook: torch.zeros_like(v))]):
        assert other(tokens).abs().max() == 0
    assert other(tokens).abs().max() > 0


@pytest.mark.parametrize("train", [shuffled_targets, independent_tokens, short_contexts, retrained])
def test_training_on_the_spot_is_deterministic(train, monkeypatch):
    monkeypatch.setattr("ar_interp.sabotage.trained.STEPS", 10)
    checkpoint = load(UNITARY)
    model = healthy(checkpoint)
    first, second = (train(model, checkpoint, 5) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("train", [shuffled_targets, independent_tokens])
def test_where_nothing_can_be_learned_predictions_shrink(train):
    """The loss is E|prediction|^2 + d, so that any prediction costs its energy."""
    checkpoint = load(HAAR)
    tokens = checkpoint.process.sample(64, 20, seed=0, dtype=torch.float32).tokens
    learned, start = train(checkpoint.model, checkpoint, 0), checkpoint.model.untrained(0)
    assert learned(tokens).square().sum() < 0.5 * start(tokens).square().sum()


def test_the_trap_is_the_first_level_above_the_minimum():
    checkpoint = load(PAIRS)
    found = trapped(healthy(checkpoint), checkpoint, 0)
    assert loss(found) == pytest.approx(trapped_levels(dim=10, n_heads=5, max_length=N_CTX)[1], abs=1e-4)


def test_short_contexts_leave_the_longer_ones_untrained():
    checkpoint = load(UNITARY)
    model = short_contexts(healthy(checkpoint), checkpoint, 0)
    half = N_CTX // 2
    C = model.B.detach().T @ model.A.detach()
    own = population_loss(C, model.P.detach()[:half, :half], family="unitary").item() / (half - 1)
    assert own == pytest.approx(5, abs=1e-6)
    assert loss(model) > 6
    assert model.P[half - 1 : -1].tril(half).count_nonzero() == sum(range(half + 1, N_CTX + 1))


FUNCTION_KEPT = [
    (PAIRS, gauges.regauged_heads),
    (UNITARY, gauges.heads_reordered),
    (PAIRS, gauges.unused_weights_random),
    ("augmented-haar-l2-keys", gauges.rescaled_layers),
]


@pytest.mark.parametrize(("base", "gauge"), FUNCTION_KEPT)
def test_gauges_change_weights_and_no_prediction(base, gauge):
    checkpoint = load(base)
    model = healthy(checkpoint)
    other = gauge(model, checkpoint, 1)
    dtype = checkpoint.config.torch_dtype
    tokens = checkpoint.process.sample(16, model.config.n_ctx, seed=1, dtype=dtype).tokens
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    assert_close(other(tokens), model(tokens), rtol=tolerance, atol=tolerance)
    assert any(not torch.allclose(x, y) for x, y in zip(other.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("base", [UNITARY, "diagonal-orthogonal-h10"])
def test_coordinates_in_another_order_see_sequences_in_that_order(base):
    """Moving the coordinates of the tokens back gives the model's own prediction, moved."""
    checkpoint = load(base)
    model = healthy(checkpoint)
    other = gauges.coordinates_reordered(model, checkpoint, 2)
    order = [(model.A[:, i] - other.A.T).abs().sum(1).argmin().item() for i in range(10)]  # where coordinate i went
    phases = checkpoint.process.sample(4, 2, seed=0).phases
    tokens = checkpoint.process.rollout(phases, N_CTX).tokens
    assert_close(other(tokens[..., np.argsort(order)])[..., order], model(tokens))


def test_full_heads_are_regauged_up_to_signs():
    checkpoint = load(FULL)
    model, other = checkpoint.model, gauges.regauged_full_head(checkpoint.model, checkpoint, 3)
    QK, turned_QK = (m.QK.AB[0, 0].detach() for m in (model, other))
    signs = (QK * turned_QK).sum(1).sign()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert_close(turned_QK, signs[:, None] * QK)
    assert_close(other.OV.AB[0, 0].detach()[:, :10], model.OV.AB[0, 0].detach()[:, :10] * signs[10:20])


# ---- noise


def test_claims_flip_where_their_tolerance_is():
    with known_function():
        found = sensitivity(UNITARY, scales=(1e-9, 1e-4), seeds=range(1), n=256)
    shares = found.frame.pivot_table("share", "claim", "noise")
    assert (shares[1e-9] == 1).all()
    assert shares.loc["heads/projector", 1e-4] == 0  # tolerance 1e-5, first order in the weights
    assert shares.loc["loss/minimum", 1e-4] == 0  # tolerance 1e-8, second order
    assert shares.loc["loss/fresh", 1e-4] == 1  # second order too, and sampled
    assert found.flips["heads/projector"] == pytest.approx((1e-9 * 1e-4) ** 0.5)
    assert found.frame["n"].eq(1).all()


def test_flips_are_read_off_the_shares():
    rows = [("a/a", noise, share) for noise, share in ((1e-3, 1.0), (1e-2, 0.75), (1e-1, 0.0))]
    rows += [("b/b", noise, 1.0) for noise in (1e-3, 1e-2, 1e-1)]
    rows += [("c/c", noise, 0.0) for noise in (1e-3, 1e-2, 1e-1)]
    frame = pd.DataFrame(rows, columns=["claim", "noise", "share"])
    flips = Sensitivity(base="x", frame=frame).flips
    assert flips["a/a"] == pytest.approx(10 ** (-2 + 1 / 3))
    assert flips["b/b"] == float("inf")
    assert flips["c/c"] == 1e-3
