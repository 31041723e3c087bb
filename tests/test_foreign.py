"""Two models written outside the package, with nothing of ours but the names in `probes.protocol`."""

import pytest
import torch
from oracles import failing
from torch import nn
from zoo import ForeignDiagonal, GradientStep

import ar_interp as ari
from ar_interp.probes.blocks import augmented_blocks
from ar_interp.probes.context import ONE_STEP, SCORES
from ar_interp.theory import factor_heads, kappa_family, optimal_step_size


@pytest.fixture(scope="module")
def foreign():
    torch.manual_seed(0)
    solution = kappa_family(dim=6, kappa=1.0, n_ctx=8, scale=1.4)
    return ForeignDiagonal(*factor_heads(solution.C, n_heads=3, seed=1), solution.P)


@pytest.fixture(scope="module")
def process():
    return ari.CommutingOrthogonal(6)


def test_every_claim_can_be_made_of_it(foreign, process):
    claims = ari.verify(foreign, process=process, seed=0, n=256)
    assert failing(claims) == set()
    for name in ("heads/orthogonal", "heads/kappa one", "positions/identity", "loss/minimum", "estimate/swap"):
        assert claims[name].verdict == "holds", name


def test_its_estimate_of_W_is_recovered(foreign, process):
    sequences = process.sample(60, 9, seed=0)
    control = ari.HookedARTransformer(ari.ModelConfig.diagonal(dim=6, n_heads=3, n_ctx=8), seed=9)
    recovered = ari.recover_context(foreign, sequences)
    torch.testing.assert_close(recovered.estimate[:, 1:], sequences.W[:, None].expand(-1, 7, -1, -1))
    sines = ari.probe_activations(foreign, sequences, hooks=SCORES, positions=[8], target="sin", untrained=control)
    assert (sines.frame["score"] < 0.05).all()
    assert (sines.frame["untrained"] > 0.9).all()


def test_sabotage_of_it_fails(foreign, process):
    broken = ForeignDiagonal(foreign.attn.W_K.diagonal(0, -2, -1), torch.ones(3, 6, dtype=torch.float64), foreign.P)
    assert not ari.verify(broken, process=process, seed=0, n=64).passed


def test_a_control_must_be_given_where_none_can_be_made(foreign, process):
    with pytest.raises(ValueError, match="untrained must be given: ForeignDiagonal cannot make its own control"):
        ari.probe_activations(foreign, process.sample(60, 9, seed=0), hooks=SCORES)


def test_what_is_missing_is_named(process):
    with pytest.raises(ValueError, match="Linear cannot be probed: it lacks W_V, W_O, run_with_cache"):
        ari.recover_context(nn.Linear(2, 2), process.sample(4, 9, seed=0))


# ---- augmented tokens, full matrices

DIM, LENGTH = 4, 8
ETA = optimal_step_size(dim=DIM, max_length=LENGTH)
FAMILIES = {"complex": ari.CommutingUnitary(DIM), "real": ari.HaarOrthogonal(DIM)}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


@pytest.fixture(scope="module")
def gradient_step():
    torch.manual_seed(0)
    return GradientStep(dim=DIM, step_size=ETA)


def test_the_blocks_of_full_matrices_are_one_step(gradient_step):
    blocks = augmented_blocks(gradient_step)
    expected = torch.zeros(4, 2, dtype=torch.float64)
    expected[1, 0] = ETA
    torch.testing.assert_close(blocks.products, expected, rtol=0, atol=1e-15)
    assert max(blocks.QK_defect.max(), blocks.OV_defect.max()) < 1e-14


def test_its_circuits_know_the_tokens_from_its_config(gradient_step):
    found = ari.circuits(gradient_step)
    assert found.QK_spectrum.S.shape == (1, 1, DIM)
    shares = found.blocks.set_index(["circuit", "row", "column"])["share"]
    assert shares["QK", "s_t", "s_{t-1}"] == pytest.approx(1)
    assert shares["OV", "s_t", "read-out"] == pytest.approx(1)


@every_family
def test_its_estimate_is_the_sum_of_pairs(gradient_step, family):
    sequences = family.sample(20, LENGTH + 1, seed=0)
    recovered = ari.recover_context(gradient_step, sequences)
    for T in range(1, LENGTH + 1):
        pairs = zip(sequences.tokens[:, 1:T].unbind(1), sequences.tokens[:, : T - 1].unbind(1), strict=True)
        naive = sum((torch.einsum("bi,bj->bij", new, old.conj()) for new, old in pairs), 0 * sequences.W)
        torch.testing.assert_close(recovered.estimate[:, T - 1], ETA * naive, rtol=0, atol=1e-14)
    assert recovered.step_size == pytest.approx(ETA)
    assert recovered.distances.set_index("reference").loc[ONE_STEP, "distance_per_row"].max() < 1e-28


@every_family
def test_swapping_its_state_moves_all_of_the_estimate(gradient_step, family):
    source, target = (family.sample(200, LENGTH + 1, seed=seed) for seed in (0, 1))
    swapped = ari.swap_context(gradient_step, source, target)
    assert swapped.what == "key-value state"
    assert swapped.ceiling > 10 * swapped.standard_error
    assert swapped.score == pytest.approx(swapped.ceiling, rel=1e-12)
    assert max(abs(score) for score in swapped.controls.values()) < swapped.ceiling / 10
    estimate = ari.recover_context(gradient_step, source).estimate
    moved = torch.einsum("btij,btj->bti", estimate, target.tokens[:, :-1])[:, 1:]
    torch.testing.assert_close(swapped.moved, moved, rtol=0, atol=1e-14)
    assert not any(hook.has_hooks() for hook in gradient_step.hook_points())


def test_it_is_identified_as_one_step(gradient_step):
    family = FAMILIES["complex"]
    sequences = family.sample(400, LENGTH + 1, seed=0)
    identified = ari.identify_algorithm(gradient_step, sequences, process=family)
    assert identified.best() == "1 step"
    assert identified.equivalent_steps == pytest.approx(1, abs=0.01)
