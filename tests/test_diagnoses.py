"""The likely cause of a failed assertion: every fault that a model is given must be the one that is named."""

from functools import partial

import pytest
import torch
from cases import N_CTX, D
from zoo import (
    ETA,
    augmented,
    best_step,
    copying,
    edited,
    model_of,
    orthogonal_model,
    projector,
    step,
    unitary_model,
    with_row,
)

import ar_interp as ari
from ar_interp import diagnoses, theory
from ar_interp.models.config import ModelConfig
from ar_interp.probes.swap import swap_context
from ar_interp.testing import (
    assert_context_is_causal,
    assert_gradient_step,
    assert_heads_orthogonal,
    assert_recovers_context,
    assert_trigonometric_encoding,
)

UNITARY, PAIRS = ari.CommutingUnitary(D), ari.CommutingOrthogonal(D)

pytestmark = pytest.mark.usefixtures("few_pairs")


def noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)


def previous(P: torch.Tensor) -> torch.Tensor:
    """p_{T-1} of every row, in its place."""
    return P.diagonal().diag()


def of_pairs(diagonal: torch.Tensor, kappas: torch.Tensor, n_heads: int = 3) -> ari.HookedARTransformer:
    """Heads whose C has this diagonal and blocks diagonal [[1, kappa], [kappa, 1]]; P is that of kappa = 1."""
    blocks = [torch.tensor([[1.0, kappa], [kappa, 1.0]]) for kappa in kappas.tolist()]
    C = (torch.block_diag(*blocks) * diagonal).double()
    A, B = theory.factor_heads(C, n_heads=n_heads, seed=3)
    return ari.HookedARTransformer.from_diagonal(
        A, B, theory.kappa_family(dim=D, kappa=1.0, n_ctx=N_CTX).P, process=PAIRS
    )


SABOTAGED = {
    "permuted": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (A.roll(1, 0), B, P)),
        r"heads permuted between A and B: each a_h belongs to the b_h' of largest \|<a_h, b_h'>\| \(undoing that gives "
        r"E_M = \d\.\d+e-1\d, rank C = 4\)",
    ),
    "permuted frame": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(9), lambda A, B, P: (A.roll(1, 0), B, P)),
        r"heads permuted .*\(undoing that gives \|M\^2 - m M\| / m\^2 = ",
    ),
    "permuted projector": (
        assert_heads_orthogonal,
        lambda: edited(orthogonal_model(5, kappa=1.0), lambda A, B, P: (A.roll(1, 0), B, P)),
        r"heads permuted .*\(undoing that gives \|C\^2 - m C\| / m\^2 = ",
    ),
    "turned head": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (with_row(A, 2, -A[2]), B, P)),
        r"the sign of <a_h, b_h> is turned in heads \[2\]",
    ),
    "stronger head": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (with_row(A, 1, 2 * A[1]), B, P)),
        r"heads of unequal strength, <a_h, b_h> from -2.6 to -1.3 \(undoing",
    ),
    "dead head": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (with_row(A, 3, 0), B, P)),
        r"heads \[3\] are dead: \|a_h\| \|b_h\| is below 1% of the largest",
    ),
    "same keys": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (with_row(A, 1, A[0]), B, P)),
        "heads 0 and 1 are alike: cosine 1.0000 of their keys a_h",
    ),
    "same values": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (A, with_row(B, 3, -B[1]), P)),
        "heads 1 and 3 are alike: cosine 1.0000 of their values b_h",
    ),
    "kappa": (assert_heads_orthogonal, lambda: orthogonal_model(D, kappa=0.4), r"kappa = 0.4: M has the eigenvalues"),
    "a missing dimension": (
        assert_heads_orthogonal,
        lambda: model_of(theory.projector_family(projector(5), n_ctx=N_CTX), 9, UNITARY),
        "C has rank 5, and 6 eigenvalues are free",
    ),
    "unfinished heads": (
        assert_heads_orthogonal,
        lambda: edited(unitary_model(4), lambda A, B, P: (A + 0.01 * noise(A), B, P)),
        r"descent is not finished: cosines of a_h and b_h 1.00 in the mean, of a_h and b_h' 0.01 \(rms\)",
    ),
    "untrained heads": (
        assert_heads_orthogonal,
        lambda: unitary_model(D).untrained(1),
        r"the heads look untrained: cosines .* where random ones have 0 and 0.41",
    ),
    "P early": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P.roll(-1, 1))),
        r"P is one key too early: p_T stands where p_{T-1} belongs \(undoing that gives p_{T-1} / p_T = -0.5,",
    ),
    "P late": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P.roll(1, 1))),
        r"P is one key too late, or its rows a context length: row r is for T = r \+ 2 \(undoing",
    ),
    "P far too early": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P.roll(-2, 1).tril())),
        r"P is shifted: key T-2 holds 83% of \|P\|\^2",
    ),
    "p_{T-1} turned": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P - 2 * previous(P))),
        r"the sign of p_{T-1} is turned \(undoing",
    ),
    "older keys": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P + 0.1 * torch.ones_like(P).tril(-1))),
        r"keys before T-1 have weights \(undoing",
    ),
    "scale": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, 1.1 * P)),
        r"c p_T is not 1, but from 1.1 to 1.1 \(undoing",
    ),
    "another kappa": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(D, kappa=0.4), lambda A, B, P: (A, B, P + 0.3 * previous(P))),
        r"p_{T-1} does not belong to kappa = 0.4 \(undoing",
    ),
    "few heads for the pairs": (
        assert_trigonometric_encoding,
        lambda: orthogonal_model(2, kappa=1.0),
        "2 heads hold at most 2 of the 3 conjugate pairs",
    ),
    "an empty pair": (
        assert_trigonometric_encoding,
        lambda: of_pairs(torch.tensor([1.0, 1, 1, 1, 0, 0]), torch.ones(3)),
        "C is empty on 2 of 6 coordinates",
    ),
    "untrained P": (
        assert_trigonometric_encoding,
        lambda: orthogonal_model(3, kappa=1.0).untrained(1),
        r"P looks untrained: keys before T-1 hold 51% of \|P\|\^2, before training 64%",
    ),
    "a trapped pair": (
        assert_trigonometric_encoding,
        lambda: of_pairs(torch.ones(6), torch.tensor([1.0, -1, 1])),
        "a local minimum: 1 of 3 pairs are trapped with kappa < 0",
    ),
    "the valley": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(D, kappa=-0.7), lambda A, B, P: (A + 0.01 * noise(A), B, P)),
        "the valley at infinity: kappa = -0.70",
    ),
    "unfinished P": (
        assert_trigonometric_encoding,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A + 0.01 * noise(A), B, P)),
        r"descent is not finished: kappa differs by 0.021 between pairs, c p_T from 1 by 0.0011",
    ),
    "a pair of its own kappa": (
        assert_trigonometric_encoding,
        lambda: of_pairs(torch.ones(6), torch.tensor([1.0, 0.0, 1.0]), n_heads=4),
        "not known: none of the usual signs is there",
    ),
    "W without a sign": (
        assert_recovers_context,
        lambda: edited(orthogonal_model(3, kappa=1.0), lambda A, B, P: (A, B, P - 2 * previous(P))),
        r"the sign of p_{T-1} is turned \(undoing that gives \|Ŵ - W\| / \|Ŵ\| at T = 8 = \d",
    ),
    "few heads for W": (assert_recovers_context, lambda: unitary_model(4), "C has rank 4, and 6 eigenvalues are free"),
    "a step for W": (
        assert_recovers_context,
        step,
        r"one gradient step, of size 0.115\d* \(relative distance \d.*\): pass reference='one gradient step'",
    ),
    "W in part": (
        assert_recovers_context,
        lambda: edited(unitary_model(D), lambda A, B, P: (A + 0.01 * noise(A), B, 1.1 * P)),
        r"training is not finished, or noisy: the estimate is W up to 0.09",
    ),
    "no W": (
        assert_recovers_context,
        lambda: unitary_model(D).untrained(1),
        r"next to nothing, \|Ŵ\| / \|W\| = 0.0\d*, before training 0.0",
    ),
    "always the same W": (
        assert_recovers_context,
        lambda: copying(),
        r"not in context: it differs between sequences by 0 of its norm, W by 1",
    ),
    "no reference": (
        assert_recovers_context,
        lambda: step(a1=3 * ETA),
        "none of the references, relative distances W 0.97, one gradient step 0.95, OLS 0.97: see identify_algorithm",
    ),
    "shorter contexts": (
        assert_gradient_step,
        lambda: step(theory.optimal_step_size(dim=4, max_length=4)),
        r"trained on other contexts: a2 b1 = 0.1875 is best for T = 2..4, not 9 \(0.1154\); if so pass max_length=4",
    ),
    "negated": (assert_gradient_step, lambda: step(-ETA), "the sign of the step is turned"),
    "untrained step": (assert_gradient_step, lambda: step().untrained(1), "the layer looks untrained: its step size"),
    "another norm": (
        assert_gradient_step,
        lambda: step(4 * ETA),
        r"first tokens had \|s_1\|\^2 = 1 instead of dim: the step is 4 times",
    ),
    "pairs": (
        assert_gradient_step,
        lambda: best_step(ari.CommutingOrthogonal(4)),
        r"it was trained on CommutingOrthogonal\(dim=4.*: its products are the best there",
    ),
    "Haar": (
        assert_gradient_step,
        lambda: best_step(ari.HaarOrthogonal(4)),
        r"it was trained on HaarOrthogonal\(dim=4.*: its products are the best there",
    ),
    "a second path": (
        assert_gradient_step,
        lambda: step(a4=-ETA / 2),
        r"a second path: s_{T-1} asks for s_{t-1} and is answered s_t, with -0.500 of a2 b1; theory has 0",
    ),
    "a noisy step": (
        partial(assert_gradient_step, tolerance=1e-3),
        lambda: step(a1=0.02 * ETA),
        "training is not finished, or noisy: s_T asks for s_t and is answered s_t, with 0.020 of a2 b1; theory has 0",
    ),
    "uneven blocks": (
        assert_gradient_step,
        lambda: augmented(ari.CommutingUnitary(4), heads="full", init_scale=0.5, seed=9),
        r"blocks of (QK|OV) are no multiples of the identity \(0.\d* of the largest is left\)",
    ),
    "P early, behaviour": (
        partial(assert_context_is_causal, length=4),
        lambda: edited(unitary_model(D), lambda A, B, P: (A, B, P.roll(-1, 1))),
        r"P is one key too early: .* \(undoing that gives share of the possible score at T = 4 = 1,",
    ),
    "knows nothing": (
        partial(assert_context_is_causal, length=2),
        lambda: unitary_model(D).untrained(1),
        r"the model knows nothing of W: .* \(ceiling -?0.0",
    ),
    "ignores": (
        assert_context_is_causal,
        lambda: ari.HookedARTransformer(ModelConfig.paper_figure7(n_heads=1, n_ctx=8), process=ari.HaarOrthogonal(5)),
        r"the prediction ignores the attention pattern: it stays what it was \(score -?0.0\d, kept (1.0|0.9)\d\)",
    ),
    "too alike": (
        partial(assert_context_is_causal, length=10),
        lambda: ari.load("positional-mu100"),
        r"the sequences are too alike to tell: their predictions differ by 0.001",
    ),
    "in the query": (
        partial(assert_context_is_causal, length=5),
        lambda: ari.load("figure5-l1"),
        "own query: the score is 0.58 of 0.61",
    ),
    "elsewhere": (
        assert_context_is_causal,
        lambda: ari.load("plain-haar-h1"),
        r"W is used elsewhere too: 0.\d+ of the target's own prediction is left",
    ),
}


@pytest.mark.parametrize("name", list(SABOTAGED))
def test_the_likely_cause_is_the_fault_that_the_model_has(name):
    check, model, cause = SABOTAGED[name]
    with pytest.raises(AssertionError, match=r"\nLikely cause: .*" + cause):
        check(model())


def test_without_a_fault_in_the_weights_controls_that_steer_are_named():
    """A result in which the other source scores, and nothing else is odd."""
    model = unitary_model(D)
    found = swap_context(model, *(UNITARY.sample(64, N_CTX + 1, seed=seed) for seed in (1, 2)), positions=[N_CTX])
    odd = found.by_position["condition"] == "other W"
    found.by_position.loc[odd, "normalised"] = 0.4
    signs = diagnoses.swap_signs(found, 0.05, lambda layer: found)
    assert [cause for there, cause in signs if there] == [
        "what steers is not W alone: other W scores 0.40 of the ceiling"
    ]
