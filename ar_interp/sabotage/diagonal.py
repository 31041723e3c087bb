"""Sabotaged diagonal heads.

Unitary family: at the minimum C = c Pi with a projector Pi of rank min(H, d), A B^T = c I (for H <= d), p_T = 1 / c and
nothing else in P. The loss of any weights is |C|^2 sum p_t^2 + p_{T-1}^2 |C 1|^2 - 2 p_T tr C + d: only the newest key,
and of C only its trace, reach the target; all else is noise. So whoever keeps p_T tr C keeps the estimate that a swap
moves and a scrub needs, whatever it is worth.

Conjugate pairs: at the minimum C is c [[1, k], [k, 1]] on every pair, p_T = 1 / c, p_{T-1} = -k p_T / (1 + k) and
nothing else in P; with fewer heads than coordinates k = 1, C has rank d / 2 and A B^T = 2c I. There A is the same on
both coordinates of a pair, so that all that is made from its rows has k = 1, and shows nothing of sin(theta).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import N_CTX, Change, changed, edited, of_scale, scaled
from ar_interp.sabotage.functions import copies, mean_estimate, memorises
from ar_interp.sabotage.trained import independent_tokens, refitted, short_contexts, shuffled_targets, trapped
from ar_interp.studies.heads_measured import flipped_previous, permuted_heads, shifted_positions
from ar_interp.theory import KappaFamily, factor_heads, kappa_family, positional_weights, valley_at_infinity

H5, H10 = "diagonal-unitary-h5", "diagonal-unitary-h10"
on_h5, on_h10 = (partial(Sabotage, base=base) for base in (H5, H10))

BY_CHANCE = "p_T tr C, which is what reaches the target, is what it happens to be"
NO_FINDING = "readable before training too, so void wherever it can be read"
READABLE_BEFORE: dict[str, str] = dict.fromkeys(("estimate/cos", "estimate/sin"), NO_FINDING)
NOTHING_LEARNED: dict[str, Any] = {
    "must_fail": ("loss", "heads", "positions", "outside"),
    "undecided": dict.fromkeys(("positions/scrub", "estimate"), BY_CHANCE),
}


def control(sabotage: Callable[[Any, Any], Any]) -> Change:
    """One of the controls of the claims themselves."""
    return lambda model, checkpoint, seed: sabotage(model, checkpoint.process)


def duplicated(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    for name in "AB":
        weights[name][1] = weights[name][0]


head_removed, turned, doubled = scaled("B", 0, 0.0), scaled("A", 0, -1.0), scaled("A", ..., 2.0)


def older_keys(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    P = weights["P"]
    noise = torch.randn(P.shape, generator=generator, dtype=P.dtype, device="cpu").tril(-1)
    P[:-1] += 0.5 * P[0, 1] * noise[:-1]


UNITARY: dict[str, Sabotage] = {
    "untrained (unitary, 5 heads)": on_h5(
        description="Gaussian weights of standard deviation .1: no structure at all.",
        make=changed(of_scale(0.1)),
        **NOTHING_LEARNED,
    ),
    "untrained, ten times larger (unitary, 10 heads)": on_h10(
        description="Gaussian weights of standard deviation 1: no structure, and predictions larger than the tokens.",
        make=changed(of_scale(1.0)),
        must_fail=("loss", "heads", "positions", "outside"),
        undecided={"positions/scrub": BY_CHANCE, "estimate": f"{BY_CHANCE}; {NO_FINDING}"},
    ),
    "trained on shuffled targets": on_h5(
        description="Targets of another sequence: the loss is E|prediction|^2 + d, which is least at no prediction.",
        make=changed(shuffled_targets),
        **NOTHING_LEARNED,
    ),
    "trained on i.i.d. tokens (unitary)": on_h5(
        description="Tokens that have nothing to do with each other: again no prediction is best.",
        make=changed(independent_tokens),
        **NOTHING_LEARNED,
    ),
    "trained on conjugate pairs (unitary, 10 heads)": on_h10(
        description="The other family's minimum: C = c (I + kappa J) with the partners' J and p_{T-1} = -kappa p_T / "
        "(1 + kappa), kappa by chance; the loss here is 2 kappa^2 d. Diagonal and newest key keep c p_T = 1.",
        make=changed(refitted(other=True)),
        must_fail=("loss", "heads", "positions/newest", "positions/identity"),
        undecided=READABLE_BEFORE
        | {
            "heads/ablation": "they cost 2 kappa too little or too much, which a small kappa hides in sampling",
            "outside": "a small kappa moves these errors by its square, about the tolerance",
        },
    ),
    "keys permuted between heads": on_h5(
        description="C = sum b_h a_{h+1}^T, so that tr C = tr A B^T = 0: nothing reaches the target. P is untouched.",
        make=changed(control(permuted_heads)),
        must_fail=("loss", "heads", "positions/scale", "positions/scrub", "estimate", "outside"),
    ),
    "one head twice": on_h10(
        description="Head 2 is head 1: A B^T has two equal rows, C loses a dimension and tr C / rank grows to 10/9; "
        "nine of ten linear forms of the eigenvalues are left to read. The trace, and with it what is used, stays.",
        make=edited(duplicated),
        must_fail=(
            "loss",
            "heads",
            "positions/scale",
            "positions/identity",
            "estimate/cos",
            "estimate/sin",
            "outside",
            "estimate/W",
        ),
    ),
    "one head removed": on_h5(
        description="C is a projector of rank 4, not 5, and the loss about 6. The other heads are orthogonal still, "
        "cosines and tr C / rank are theirs.",
        make=edited(head_removed),
        must_fail=("loss", "heads", "outside", "estimate/W"),
        but=("heads/cosine", "heads/ablation"),
    ),
    "one head's sign turned": on_h5(
        description="A B^T = c diag(-1, 1, ..): no multiple of I, C no projector, tr C = 3c. Cosines between heads do "
        "not see it, and P is untouched.",
        make=edited(turned),
        must_fail=("loss", "heads", "positions/scale", "outside", "estimate/W"),
        but=("heads/cosine",),
    ),
    "one head twice (20 heads)": Sabotage(
        base="diagonal-unitary-h20",
        description="With more heads than coordinates it is the frame that breaks: C is c (I + b_1 a_1^T - b_2 a_2^T).",
        make=edited(duplicated),
        must_fail=("loss", "heads", "positions/scale", "positions/identity", "outside", "estimate/W"),
        undecided=READABLE_BEFORE,
    ),
    "P shifted by one key": on_h10(
        description="p_T is now p_{T-1}: the newest key, the only one that reaches the target, has no weight, and what "
        "has it is noise. Heads are untouched, and no key before T-1 gets anything.",
        make=changed(control(shifted_positions)),
        must_fail=("loss", "heads/ablation", "positions", "estimate", "outside"),
        but=("positions/older keys",),
        undecided=READABLE_BEFORE,
    ),
    "P random before the last two entries": on_h5(
        description="Older keys get weights of half p_T: noise beside an intact estimate, at other frequencies than "
        "the target's, so that taking it from another sequence costs nothing; a removed head takes its noise along.",
        make=edited(older_keys),
        must_fail=("loss", "heads/ablation", "positions/older keys", "outside", "estimate/W"),
        undecided={"positions/scrub": "other noise of the same size, which sampling tells to more than a thousandth"},
    ),
    "trained on contexts half as long (unitary)": on_h5(
        description="C is at its minimum, the positional weights of the longer contexts are as before training.",
        make=changed(short_contexts),
        must_fail=("loss", "heads/ablation", "positions", "outside"),
        undecided=dict.fromkeys(("positions/scrub", "estimate"), BY_CHANCE),
    ),
    "twice the prediction": on_h5(
        description="C doubled and p_T not halved: c p_T = 2, and removing a head costs nothing. The shape of C and of "
        "P, and what is used, are as they were.",
        make=edited(doubled),
        must_fail=("loss", "heads/ablation", "positions/scale", "outside", "estimate/W"),
    ),
    "predicts with one memorised W (unitary)": on_h10(
        description="The weights are those of the healthy model, and so is all they say; the prediction is W_0 s_T.",
        make=changed(memorises),
        must_fail=(
            "model",
            "loss/fresh",
            "heads/ablation",
            "positions/identity",
            "positions/scrub",
            "estimate",
            "outside",
        ),
        undecided=READABLE_BEFORE,
        but=("estimate/W",),
    ),
    "copies s_T (unitary)": on_h5(
        description="Healthy weights beside a prediction that ignores them: error 2d.",
        make=changed(copies),
        must_fail=("model", "loss/fresh", "heads/ablation", "positions/scrub", "estimate", "outside"),
        but=("estimate/W",),
    ),
    "Ŵ replaced by its mean": on_h5(
        description="The pattern of every sequence is the mean of 1024: weights and scores are healthy, the prediction "
        "knows nothing of W.",
        make=changed(mean_estimate),
        must_fail=("model", "loss/fresh", "heads/ablation", "positions/scrub", "estimate", "outside"),
        but=("estimate/W",),
    ),
}


# ---- conjugate pairs

PAIRS_H5, PAIRS_H8, PAIRS_H10 = (f"diagonal-orthogonal-h{n_heads}" for n_heads in (5, 8, 10))
on_pairs_h5, on_pairs_h8 = (partial(Sabotage, base=base) for base in (PAIRS_H5, PAIRS_H8))

ANY_FIVE = "any five heads have rank five, and cos(theta) can be read before training too: void"
VOID_FOR_FIVE: dict[str, str] = dict.fromkeys(("heads/rank", "estimate/cos"), ANY_FIVE)


def set_to(solution: KappaFamily) -> Change:
    """These C and P, in balanced heads."""

    def make(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        A, B = factor_heads(solution.C, n_heads=model.config.n_heads, seed=seed)
        return HookedARTransformer.from_diagonal(A, B, solution.P, process=checkpoint.process)

    return make


def mixed_kappa() -> KappaFamily:
    """kappa = 1 on four pairs, 0 on the fifth."""
    C, P = kappa_family(dim=10, kappa=1.0, n_ctx=N_CTX)
    C[:2, :2] = torch.eye(2, dtype=C.dtype, device=C.device)
    return KappaFamily(C, P)


def ignored_kappa() -> KappaFamily:
    """kappa = 1/2 in C, and P of kappa = 0."""
    C, _ = kappa_family(dim=10, kappa=0.5, n_ctx=N_CTX)
    return KappaFamily(C, positional_weights(n_ctx=N_CTX, previous=0.0, last=1.0))


def keys_exchanged(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    weights["A"][:2] = weights["A"][:2].flip(0)


def transposed(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    weights["P"].copy_(weights["P"].T.clone())


def previous_removed(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    weights["P"].fill_diagonal_(0)


# W is missed, and the swap errs by what is missing, not by 2 kappa^2 for a kappa of all pairs
MOVED = ("estimate/W", "estimate/swap error")

PAIRS: dict[str, Sabotage] = {
    "untrained, ten times smaller (pairs, 5 heads)": on_pairs_h5(
        description="Gaussian weights of standard deviation .01: no structure, and sin(theta) can be read.",
        make=changed(of_scale(0.01)),
        must_fail=("loss", "heads", "positions", "estimate/sin", "outside"),
        undecided={"heads/rank": ANY_FIVE, "positions/scrub": BY_CHANCE, "estimate": BY_CHANCE},
    ),
    "trained on the unitary family (pairs, 5 heads)": on_pairs_h5(
        description="C is c times any projector of rank 5 with p_{T-1} = 0: orthogonal heads and a projector, but not "
        "over the pairs; half of the coordinates' energy is on the diagonal, so that tr C / 10 = c / 2.",
        make=changed(refitted(other=True)),
        must_fail=("loss", "heads", "positions", "estimate/sin", "outside", "estimate/W"),
        but=("heads/projector", "heads/orthogonal", "heads/cosine", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE
        | {"positions/cut": "kappa of a random projector is by chance, and the cost of p_{T-1} = 0 that of 0"},
    ),
    "keys exchanged between two heads": on_pairs_h5(
        description="C mixes pairs, A B^T has two rows exchanged. Rows of A still are the same on both coordinates of "
        "a pair, so that kappa is 1 everywhere; P is untouched, and tr C is 3/5 of what it was.",
        make=edited(keys_exchanged),
        must_fail=("loss", "heads", "positions/identity", "positions/cut", "outside", *MOVED),
        but=("heads/same kappa", "heads/kappa one"),
        undecided=VOID_FOR_FIVE
        | {"positions/scale": "the coordinates that C covers, over which its trace is divided, depend on the gauge"},
    ),
    "P transposed": on_pairs_h5(
        description="The weight of s_T goes to s_{T-2}, that of s_{T-1} stays: nothing reaches the target. Heads are "
        "untouched.",
        make=edited(transposed),
        must_fail=("loss", "heads/ablation", "positions", "estimate", "outside"),
        but=("estimate/sin",),
        undecided=VOID_FOR_FIVE | {"estimate/swap error": "what is moved holds nothing of W, and neither errs by it"},
    ),
    "sign of p_{T-1} turned": on_pairs_h5(
        description="2 cos(theta) s_T + s_{T-1}: heads, p_T and older keys are untouched.",
        make=changed(control(flipped_previous)),
        must_fail=("loss", "heads/ablation", "positions", "outside", *MOVED),
        but=("positions/scale", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE,
    ),
    "p_{T-1} removed": on_pairs_h5(
        description="2 cos(theta) s_T alone: the loss is kappa^2 d, and a head costs nothing, since its partner terms "
        "err as much as its own help.",
        make=edited(previous_removed),
        must_fail=("loss", "heads/ablation", "positions", "outside", *MOVED),
        but=("positions/scale", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE,
    ),
    "one '-' block, trapped": on_pairs_h5(
        description="The local minimum with one block of kappa near -1: cross terms between pairs, older keys of a few "
        "per cent of p_T, and the phase of the trapped pair read as sin(theta) in place of cos(theta).",
        make=changed(trapped),
        must_fail=("loss", "heads", "positions", "estimate/cos", "estimate/sin", "outside", *MOVED),
        undecided={
            "heads/rank": ANY_FIVE,
            "positions/scrub": "older keys from elsewhere lose .09 % of what is recovered, the tolerance is .1 %",
        },
    ),
    "predicts with one memorised W (pairs)": on_pairs_h5(
        description="Healthy weights and scores beside a prediction W_0 s_T.",
        make=changed(memorises),
        must_fail=(
            "model",
            "loss/fresh",
            "heads/ablation",
            "positions/identity",
            "positions/cut",
            "positions/scrub",
            "estimate",
            "outside",
        ),
        but=(
            "estimate/W",
            "estimate/sin",
        ),
        undecided=VOID_FOR_FIVE,
    ),
    "kappa mixed between blocks": on_pairs_h8(
        description="kappa = 1 on four pairs and 0 on one: rank 6, mean kappa .8. P is that of kappa = 1; cutting "
        "s_{T-1} costs 7.5 where .8^2 d = 6.4.",
        make=changed(set_to(mixed_kappa())),
        must_fail=("loss", "heads", "positions/kappa", "positions/identity", "positions/cut", "outside", *MOVED),
        but=("heads/pairs",),
        undecided={"estimate/cos": NO_FINDING},
    ),
    "on the way to infinity, kappa near -1": on_pairs_h8(
        description="A point of the second valley, epsilon = .1: the same kappa in all blocks, -.98, and a large "
        "p_{T-1}, though not as large as kappa says; epsilon 11^T / d mixes the pairs. Cutting s_{T-1} costs 9.80, "
        "kappa^2 d is 9.61.",
        make=changed(set_to(valley_at_infinity(dim=10, epsilon=0.1, n_ctx=N_CTX))),
        must_fail=("loss", "heads", "positions", "outside"),
        but=("heads/same kappa", "positions/older keys", "positions/scrub"),
        undecided={"estimate/cos": NO_FINDING},
    ),
    "kappa in C that P does not know": Sabotage(
        base=PAIRS_H10,
        description="kappa = 1/2 in every block of C, p_{T-1} = 0: heads and newest key are at a minimum, the encoding "
        "is not that of this kappa, and the loss is kappa^2 d.",
        make=changed(set_to(ignored_kappa())),
        must_fail=(
            "loss",
            "heads/ablation",
            "positions/kappa",
            "positions/identity",
            "positions/cut",
            "outside",
            *MOVED,
        ),
        undecided=READABLE_BEFORE,
    ),
}
