"""Innocent models: other weights of which every claim must say what it says of the shipped ones."""

from ar_interp.sabotage import gauges
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.diagonal import H5, H10, PAIRS_H5, PAIRS_H8, PAIRS_H10, set_to
from ar_interp.sabotage.edits import N_CTX, as_it_is, changed_run, innocent
from ar_interp.sabotage.general import FIRST, FULL, HAAR, STACK
from ar_interp.sabotage.general import PAIRS as AUGMENTED_PAIRS
from ar_interp.sabotage.trained import refitted
from ar_interp.theory import kappa_family

FIRST_SEED = 100  # apart from those of the shipped models
retrained = refitted(first_seed=FIRST_SEED)  # from other initial weights


GAUGE = "A -> c G A, B -> G^{-T} B, P -> P / c with a random G: the prediction is the same function."
SEED = "Other initial weights, and L-BFGS on the exact loss: another point of the same set of minima."
SCALARS = "QK -> c QK and OV -> OV / c in every layer: the same function."

INNOCENT: dict[str, Sabotage] = {
    "random gauge (unitary, 5 heads)": innocent(H5, GAUGE, gauges.regauged_heads),
    "random gauge (unitary, 10 heads)": innocent(H10, GAUGE, gauges.regauged_heads),
    "random gauge (pairs, 5 heads)": innocent(PAIRS_H5, GAUGE, gauges.regauged_heads),
    "random gauge (pairs, 8 heads)": innocent(PAIRS_H8, GAUGE, gauges.regauged_heads),
    "heads in another order": innocent(H10, "A and B permuted together.", gauges.heads_reordered),
    "coordinates in another order": innocent(H5, "The family does not order them.", gauges.coordinates_reordered),
    "pairs in another order": innocent(
        PAIRS_H5,
        "The family orders neither pairs nor partners.",
        gauges.coordinates_reordered,
    ),
    "other weights where P is not used": innocent(PAIRS_H5, "Nothing reads them.", gauges.unused_weights_random),
    "another seed (unitary, 5 heads)": innocent(H5, SEED, retrained),
    "another seed (unitary, 10 heads)": innocent(H10, SEED, retrained),
    "another seed (pairs, 10 heads)": innocent(PAIRS_H10, f"{SEED} It has another kappa.", retrained),
    "trained on the unitary family (pairs, 10 heads)": innocent(
        PAIRS_H10,
        "kappa = 0 is a minimum of conjugate pairs too. That p_{T-1} knows it becomes void: 0 has no sign to turn.",
        refitted(other=True, first_seed=FIRST_SEED),
    ),
    "another kappa": innocent(
        PAIRS_H10,
        "kappa = .4 in C and in P, another point of the same set of minima.",
        set_to(kappa_family(dim=10, kappa=0.4, n_ctx=N_CTX)),
    ),
    "another seed (augmented, pairs)": Sabotage(
        base=AUGMENTED_PAIRS,
        description=SEED,
        make=changed_run(refitted(first_seed=FIRST_SEED, n_seeds=4)),
        healthy=as_it_is,
    ),
    "another basis of the head, other signs": innocent(
        FULL,
        "W_Q -> D W_Q G, W_K -> W_K G^{-T}, W_V -> W_V H, W_O -> H^{-1} W_O D: the loss is the same.",
        gauges.regauged_full_head,
    ),
    "rescaled (augmented, Haar)": innocent(HAAR, SCALARS, gauges.rescaled_layers),
    "odd scalars turned": innocent(HAAR, "-W has the law of W.", gauges.odd_scalars_turned),
    "rescaled (two layers)": innocent(STACK, SCALARS, gauges.rescaled_layers),
    "rescaled (first tokens)": innocent(FIRST, SCALARS, gauges.rescaled_layers),
}
