"""Innocent models: other weights of which every claim must say what it says of the shipped ones."""

from ar_interp.sabotage import gauges
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import N_CTX, Change, as_it_is, changed, changed_run, shipped
from ar_interp.sabotage.general import FIRST, FULL, HAAR, STACK
from ar_interp.sabotage.general import PAIRS as AUGMENTED_PAIRS
from ar_interp.sabotage.pairs import H5 as PAIRS_H5
from ar_interp.sabotage.pairs import H8 as PAIRS_H8
from ar_interp.sabotage.pairs import H10 as PAIRS_H10
from ar_interp.sabotage.pairs import set_to
from ar_interp.sabotage.trained import refitted
from ar_interp.sabotage.unitary import H5, H10
from ar_interp.theory import kappa_family

FIRST_SEED = 100  # apart from those of the shipped models


retrained = refitted(first_seed=FIRST_SEED)  # from other initial weights


def _innocent(name: str, base: str, description: str, change: Change) -> Sabotage:
    return Sabotage(name=name, base=base, description=description, make=changed(change), healthy=shipped)


GAUGE = "A -> c G A, B -> G^{-T} B, P -> P / c with a random G: the prediction is the same function."
SEED = "Other initial weights, and L-BFGS on the exact loss: another point of the same set of minima."
SCALARS = "QK -> c QK and OV -> OV / c in every layer: the same function."

INNOCENT = (
    _innocent("random gauge (unitary, 5 heads)", H5, GAUGE, gauges.regauged_heads),
    _innocent("random gauge (unitary, 10 heads)", H10, GAUGE, gauges.regauged_heads),
    _innocent("random gauge (pairs, 5 heads)", PAIRS_H5, GAUGE, gauges.regauged_heads),
    _innocent("random gauge (pairs, 8 heads)", PAIRS_H8, GAUGE, gauges.regauged_heads),
    _innocent("heads in another order", H10, "A and B permuted together.", gauges.heads_reordered),
    _innocent("coordinates in another order", H5, "The family does not order them.", gauges.coordinates_reordered),
    _innocent(
        "pairs in another order",
        PAIRS_H5,
        "The family orders neither pairs nor partners.",
        gauges.coordinates_reordered,
    ),
    _innocent("other weights where P is not used", PAIRS_H5, "Nothing reads them.", gauges.unused_weights_random),
    _innocent("another seed (unitary, 5 heads)", H5, SEED, retrained),
    _innocent("another seed (unitary, 10 heads)", H10, SEED, retrained),
    _innocent("another seed (pairs, 10 heads)", PAIRS_H10, f"{SEED} It has another kappa.", retrained),
    _innocent(
        "trained on the unitary family (pairs, 10 heads)",
        PAIRS_H10,
        "kappa = 0 is a minimum of conjugate pairs too. That p_{T-1} knows it becomes void: 0 has no sign to turn.",
        refitted(other=True, first_seed=FIRST_SEED),
    ),
    _innocent(
        "another kappa",
        PAIRS_H10,
        "kappa = .4 in C and in P, another point of the same set of minima.",
        set_to(kappa_family(dim=10, kappa=0.4, n_ctx=N_CTX)),
    ),
    Sabotage(
        name="another seed (augmented, pairs)",
        base=AUGMENTED_PAIRS,
        description=SEED,
        make=changed_run(refitted(first_seed=FIRST_SEED, n_seeds=4)),
        healthy=as_it_is,
    ),
    _innocent(
        "another basis of the head, other signs",
        FULL,
        "W_Q -> D W_Q G, W_K -> W_K G^{-T}, W_V -> W_V H, W_O -> H^{-1} W_O D: the loss is the same.",
        gauges.regauged_full_head,
    ),
    _innocent("rescaled (augmented, Haar)", HAAR, SCALARS, gauges.rescaled_layers),
    _innocent("odd scalars turned", HAAR, "-W has the law of W.", gauges.odd_scalars_turned),
    _innocent("rescaled (two layers)", STACK, SCALARS, gauges.rescaled_layers),
    _innocent("rescaled (first tokens)", FIRST, SCALARS, gauges.rescaled_layers),
)
