"""Claims: verdicts that a person gets by hand, in every gauge; sabotage must fail; controls that pass make void."""

import json
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from cases import D
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import failing, names
from zoo import claim, orthogonal_model, unitary_model

import ar_interp as ari
from ar_interp.claims import Claims, Estimate, Tolerance
from ar_interp.claims.tolerances import TOLERANCES
from ar_interp.models.transformer import HookedARTransformer

verify = partial(ari.verify, seed=0, n=128)
pytestmark = pytest.mark.usefixtures("known_function")


def within(value: float, half_width: float) -> Estimate:
    return Estimate(value, {"contexts": half_width}, 100)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"measured": 1.2}, "fails"),
        ({"measured": within(1.05, 0.04)}, "holds"),
        ({"measured": within(1.05, 0.06)}, "undecided"),
        ({"measured": within(1.2, 0.09)}, "fails"),
        ({"measured": within(1.2, 0.11)}, "undecided"),
        ({"measured": within(1.0, 9.0)}, "undecided"),
        ({"measured": float("nan")}, "fails"),
        ({"control": 0.95}, "void"),
        ({"control": within(0.95, 0.2)}, "undecided"),
        ({"control": within(2.0, 0.8)}, "holds"),
        ({"measured": 1.2, "control": 0.95}, "fails"),
        ({"control": float("nan")}, "undecided"),
        ({"measured": float("nan"), "control": float("nan")}, "fails"),
        ({"measured": 7.0, "side": "at least", "control": 0.8}, "holds"),
        ({"measured": 0.95, "side": "at least", "control": 0.8}, "holds"),
        ({"measured": 0.85, "side": "at least", "control": 0.8}, "fails"),
        ({"measured": -7.0, "side": "at most"}, "holds"),
        ({"measured": within(1.09, 0.02), "side": "at most"}, "undecided"),
    ],
)
def test_the_verdict(changes, verdict):
    assert claim(**changes).verdict == verdict


@given(st.floats(-2, 4), st.floats(0, 3), st.floats(0, 3), st.sampled_from(["equal to", "at least", "at most"]))
def test_imprecision_never_helps(value, width, more, side):
    """A wider interval never turns a verdict into `holds`, nor into `fails`."""
    narrow, wide = (claim(measured=within(value, x), side=side).verdict for x in (width, width + more))
    assert wide in (narrow, "undecided")


def test_an_undecided_claim_says_what_would_decide_it():
    assert claim().limit == ""
    assert "limited by contexts, n = 100: about 159 would decide it" in claim(measured=within(1.05, 0.06)).limit
    assert "sits on a bound of the band: no number of contexts" in claim(measured=within(1.0999, 0.06)).limit
    assert "the control's interval, 0.9 to 1.3, reaches" in claim(control=within(1.1, 0.2)).limit
    seeds = Estimate(1.05, {"contexts": 0.01, "training seeds": 0.06}, 8)
    assert "limited by training seeds, n = 8" in claim(measured=seeds).limit


def test_a_claim_is_found_by_its_name():
    claims = Claims("x", (claim(), claim(name="positions/b")))
    assert claims["positions/b"].structure == "positions"
    with pytest.raises(KeyError, match=r"no claim 'positions/c' is made of x; made are heads/a, positions/b\."):
        claims["positions/c"]


def test_json_and_frame(tmp_path):
    claims = Claims("x", (claim(), claim(name="heads/b", measured=float("inf"))), seed=0)
    content = json.loads(claims.to_json(tmp_path / "claims.json"))
    assert json.loads((tmp_path / "claims.json").read_text()) == content
    assert content["schema"] == 1
    assert content["seed"] == 0
    assert set(content["versions"]) == {"ar_interp", "torch", "numpy"}
    rows = content["checkpoints"]["x"]
    wanted = {"statement", "source", "predicted", "measured", "interval", "uncertainty", "n", "tolerance", "control"}
    assert wanted | {"name", "evidence", "reason", "verdict", "side", "spread", "limit"} == set(rows[0])
    assert rows[0]["control"] == {"description": "c", "measured": 2.0, "interval": [2.0, 2.0]}
    assert rows[1]["measured"] == "inf"
    assert claims.to_frame()["verdict"].tolist() == ["holds", "fails"]
    assert not claims.passed
    assert Claims("x", claims.claims[:1]).passed


def test_every_tolerance_has_a_reason():
    assert all(tolerance.value >= 0 and len(tolerance.reason) > 5 for tolerance in TOLERANCES.values())


def test_the_planned_number_makes_the_half_width_a_third_of_the_tolerance():
    planned = Tolerance(0.05, "a reason", 0.4)
    assert 1.96 * planned.deviation / planned.n**0.5 == pytest.approx(planned.value / 3, rel=1e-3)


HEALTHY = {
    "unitary, fewer heads": lambda: unitary_model(4),
    "unitary, as many heads": lambda: unitary_model(D),
    "unitary, more heads": lambda: unitary_model(D + 3),
    "kappa 0": lambda: orthogonal_model(D, kappa=0.0),
    "kappa .4": lambda: orthogonal_model(D, kappa=0.4),
    "kappa 1, half as many heads": lambda: orthogonal_model(D // 2, kappa=1.0),
    "kappa 1, one head more": lambda: orthogonal_model(D // 2 + 1, kappa=1.0),
    "kappa 1, pairs uncovered": lambda: orthogonal_model(2, kappa=1.0),
}


@cache
def claims_of(name: str) -> Claims:
    return verify(HEALTHY[name]())


@pytest.mark.parametrize("name", HEALTHY)
def test_no_claim_fails_about_weights_at_a_closed_form(name):
    claims = claims_of(name)
    assert failing(claims) == set()
    assert claims["loss/minimum"].verdict == claims["positions/scale"].verdict == "holds"


def test_verdicts_of_kappa_one_by_hand():
    claims = ari.verify(HEALTHY["kappa 1, half as many heads"](), seed=0)
    for name in ("heads/kappa one", "positions/minus half", "positions/identity", "heads/orthogonal", "estimate/sin"):
        assert claims[name].verdict == "holds", name
    assert claims["heads/rank"].verdict == "void"  # any 3 heads have rank 3
    assert claims["estimate/cos"].verdict == "void"


def test_kappa_zero_makes_the_relation_void():
    """p_{T-1} = 0 whatever its sign: the control passes too."""
    assert claims_of("kappa 0")["positions/kappa"].verdict == "void"


def test_readability_is_void_with_as_many_heads_as_coordinates():
    claims = claims_of("unitary, as many heads")
    assert claims["estimate/cos"].verdict == claims["estimate/sin"].verdict == "void"


@given(seed=st.integers(0, 10**6), name=st.sampled_from(list(HEALTHY)))
@settings(max_examples=2, deadline=None)
def test_the_gauge_changes_no_verdict(seed, name):
    model = HEALTHY[name]()
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(len(model.A), len(model.A), generator=generator, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(random)
    G = U @ torch.diag(S.clamp(0.5, 2)) @ Vh
    c = -0.7  # (C, P) -> (c C, P / c) is the other freedom
    turned = HookedARTransformer.from_diagonal(
        c * G @ model.A.detach(),
        torch.linalg.inv(G).T @ model.B.detach(),
        model.P.detach() / c,
        process=model.process,
    )
    before = [(claim.name, claim.verdict) for claim in claims_of(name)]
    assert [(claim.name, claim.verdict) for claim in verify(turned)] == before


SABOTAGE = {
    "heads permuted": (lambda A, B, P: (A.roll(1, 0), B, P), "heads/orthogonal"),
    "P shifted": (lambda A, B, P: (A, B, P.roll(-1, 1)), "positions/scale"),
    "wrong sign of p_{T-1}": (lambda A, B, P: (A, B, P - 2 * P.diagonal().diag()), "positions/kappa"),
    "one head's sign": (lambda A, B, P: (A * A.new_tensor([[-1.0], [1], [1]]), B, P), "heads/kappa one"),
    "no previous key": (lambda A, B, P: (A, B, P - P.diagonal().diag()), "positions/identity"),
    "untrained": (lambda A, B, P: tuple(torch.randn_like(x) for x in (A, B, P)), "heads/pairs"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_fails(name):
    sabotage, target = SABOTAGE[name]
    torch.manual_seed(0)
    model = orthogonal_model(D // 2, kappa=1.0)
    weights = sabotage(model.A.detach(), model.B.detach(), model.P.detach())
    claims = verify(HookedARTransformer.from_diagonal(*weights, process=model.process), n=8)  # weights tell
    assert claims["loss/minimum"].verdict == "fails"
    if name != "one head's sign":  # turning one head swaps its pair's block for its negative: kappa stays 1
        assert claims[target].verdict == "fails"
    assert not claims.passed


def test_a_trapped_model_fails_at_kappa_and_at_the_minimum():
    from ar_interp.theory import factor_heads, positional_weights

    plus, minus = torch.ones(2, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    C = torch.block_diag(plus, plus, minus).double()
    A, B = factor_heads(C, n_heads=3)
    P = positional_weights(n_ctx=8, previous=-0.5, last=1.0)
    claims = verify(HookedARTransformer.from_diagonal(A, B, P, process=ari.CommutingOrthogonal(6)), n=8)
    assert claims["loss/minimum"].verdict == claims["heads/same kappa"].verdict == "fails"


def test_a_model_with_every_pair_trapped_is_measured_all_the_same():
    solution = ari.theory.kappa_family(dim=6, kappa=-0.5, n_ctx=8)
    C = solution.C.sign() * 0.7  # kappa = -1, which no finite ratio fits
    A, B = ari.theory.factor_heads(C, n_heads=3)
    model = HookedARTransformer.from_diagonal(A, B, solution.P, process=ari.CommutingOrthogonal(6))
    assert verify(model, n=8)["positions/kappa"].verdict == "fails"


@pytest.mark.parametrize("process", [ari.CommutingUnitary(4), ari.CommutingOrthogonal(4)], ids=lambda p: p.kind)
@pytest.mark.parametrize("n_heads", [1, 5])
def test_weights_that_are_zero_are_measured_all_the_same(process, n_heads):
    zeros = [torch.zeros(n_heads, 4), torch.zeros(n_heads, 4), torch.zeros(3, 3)]
    claims = verify(HookedARTransformer.from_diagonal(*zeros, process=process), n=8)
    assert claims["loss/minimum"].verdict == "fails"
    json.loads(claims.to_json())


@pytest.fixture(scope="module")
def ensemble():
    """A small run with traps: two heads on two pairs."""
    return ari.train(
        ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8),
        ari.CommutingOrthogonal(4),
        ari.TrainConfig(lr=1e-2, steps=800, n_seeds=12),
        progress=False,
    )


def test_claims_about_descent_come_with_a_run(ensemble):
    claims = verify(ensemble)
    assert claims["descent/levels"].measured > 0.9  # too few seeds to decide it
    assert "descent/scale" in names(claims)
    assert failing(claims) == set()
    assert "descent/levels" not in names(verify(ensemble.model, n=8))


def test_levels_that_are_not_there_fail(ensemble):
    moved = ensemble.members.assign(loss=ensemble.members["loss"] + 0.05)
    assert verify(replace(ensemble, members=moved), n=8)["descent/levels"].verdict == "fails"


def test_positional_only_runs_follow_the_filter():
    run = ari.train(
        ari.ModelConfig.positional_only(n_ctx=10),
        ari.CommutingUnitary(1, mu=60.0),
        ari.TrainConfig(lr=0.5 / 9, steps=3000, stop_below=1e-3),
        progress=False,
    )
    claims = verify(run)
    assert {claim.verdict for claim in claims} == {"holds"}
    late = replace(run, steps=run.steps + 50)
    assert verify(late, n=8)["filter/rows"].verdict == "fails"


@pytest.mark.parametrize(
    ("subject", "process", "message"),
    [
        (
            lambda: HookedARTransformer(ari.ModelConfig.positional_only(n_ctx=5)),
            ari.CommutingUnitary(1, mu=9),
            "compared with descent from zero: pass its checkpoint",
        ),
        (lambda: unitary_model(4), ari.HaarOrthogonal(D), "diagonal heads need an eigenbasis"),
        (lambda: unitary_model(4), ari.CommutingUnitary(D + 1), "they must agree"),
    ],
)
def test_refusals(subject, process, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        verify(subject(), process)


@pytest.mark.parametrize(
    ("process", "why"),
    [
        (ari.CommutingUnitary(D, noise=0.1), "noise is 0.1, under which no part of theory speaks of"),
        (ari.CommutingUnitary(D, first_token="gaussian"), "first_token is"),
        (ari.CommutingUnitary(D, mu=3.0), "mu is 3"),
    ],
)
def test_theory_makes_no_claim_where_it_is_silent(process, why):
    claims = verify(unitary_model(4), process)
    assert [(claim.name, claim.verdict) for claim in claims] == [("model/function", "holds")]
    assert claims.why_not.startswith(why)
