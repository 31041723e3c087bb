"""Sabotaged diagonal heads on conjugate pairs.

At the minimum C is c [[1, k], [k, 1]] on every pair, p_T = 1 / c, p_{T-1} = -k p_T / (1 + k) and nothing else in P;
with fewer heads than coordinates k = 1, C has rank d / 2 and A B^T = 2c I. There A is the same on both coordinates of a
pair, so that all that is made from its rows has k = 1, and shows nothing of sin(theta).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import N_CTX, Change, changed, edited
from ar_interp.sabotage.functions import memorises
from ar_interp.sabotage.trained import refitted, trapped
from ar_interp.sabotage.unitary import BY_CHANCE, NO_FINDING, READABLE_BEFORE, control, of_scale
from ar_interp.studies.heads_measured import flipped_previous
from ar_interp.theory import KappaFamily, factor_heads, kappa_family, positional_weights, valley_at_infinity

H5, H8, H10 = (f"diagonal-orthogonal-h{n_heads}" for n_heads in (5, 8, 10))
on_h5, on_h8 = (partial(Sabotage, base=base) for base in (H5, H8))

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
    C[:2, :2] = torch.eye(2)
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


PAIRS: dict[str, Sabotage] = {
    "untrained, ten times smaller (pairs, 5 heads)": on_h5(
        description="Gaussian weights of standard deviation .01: no structure, and sin(theta) can be read.",
        make=changed(of_scale(0.01)),
        must_fail=("loss", "heads", "positions", "estimate/sin"),
        undecided={"heads/rank": ANY_FIVE, "positions/scrub": BY_CHANCE, "estimate": BY_CHANCE},
    ),
    "trained on the unitary family (pairs, 5 heads)": on_h5(
        description="C is c times any projector of rank 5 with p_{T-1} = 0: orthogonal heads and a projector, but not "
        "over the pairs; half of the coordinates' energy is on the diagonal, so that tr C / 10 = c / 2.",
        make=changed(refitted(other=True)),
        must_fail=("loss", "heads", "positions", "estimate/sin"),
        but=("heads/projector", "heads/orthogonal", "heads/cosine", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE
        | {"positions/cut": "kappa of a random projector is by chance, and the cost of p_{T-1} = 0 that of 0"},
    ),
    "keys exchanged between two heads": on_h5(
        description="C mixes pairs, A B^T has two rows exchanged. Rows of A still are the same on both coordinates of "
        "a pair, so that kappa is 1 everywhere; P is untouched, and tr C is 3/5 of what it was.",
        make=edited(keys_exchanged),
        must_fail=("loss", "heads", "positions/identity", "positions/cut"),
        but=("heads/same kappa", "heads/kappa one"),
        undecided=VOID_FOR_FIVE
        | {"positions/scale": "the coordinates that C covers, over which its trace is divided, depend on the gauge"},
    ),
    "P transposed": on_h5(
        description="The weight of s_T goes to s_{T-2}, that of s_{T-1} stays: nothing reaches the target. Heads are "
        "untouched.",
        make=edited(transposed),
        must_fail=("loss", "heads/ablation", "positions", "estimate"),
        but=("estimate/sin",),
        undecided=VOID_FOR_FIVE,
    ),
    "sign of p_{T-1} turned": on_h5(
        description="2 cos(theta) s_T + s_{T-1}: heads, p_T and older keys are untouched.",
        make=changed(control(flipped_previous)),
        must_fail=("loss", "heads/ablation", "positions"),
        but=("positions/scale", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE,
    ),
    "p_{T-1} removed": on_h5(
        description="2 cos(theta) s_T alone: the loss is kappa^2 d, and a head costs nothing, since its partner terms "
        "err as much as its own help.",
        make=edited(previous_removed),
        must_fail=("loss", "heads/ablation", "positions"),
        but=("positions/scale", "positions/older keys", "positions/scrub"),
        undecided=VOID_FOR_FIVE,
    ),
    "one '-' block, trapped": on_h5(
        description="The local minimum with one block of kappa near -1: cross terms between pairs, older keys of a few "
        "per cent of p_T, and the phase of the trapped pair read as sin(theta) in place of cos(theta).",
        make=changed(trapped),
        must_fail=("loss", "heads", "positions", "estimate/cos", "estimate/sin"),
        undecided={
            "heads/rank": ANY_FIVE,
            "positions/scrub": "older keys from elsewhere lose .09 % of what is recovered, the tolerance is .1 %",
        },
    ),
    "predicts with one memorised W (pairs)": on_h5(
        description="Healthy weights and scores beside a prediction W_0 s_T.",
        make=changed(memorises),
        must_fail=(
            "loss/fresh",
            "heads/ablation",
            "positions/identity",
            "positions/cut",
            "positions/scrub",
            "estimate",
        ),
        but=("estimate/sin",),
        undecided=VOID_FOR_FIVE,
    ),
    "kappa mixed between blocks": on_h8(
        description="kappa = 1 on four pairs and 0 on one: rank 6, mean kappa .8. P is that of kappa = 1; cutting "
        "s_{T-1} costs 7.5 where .8^2 d = 6.4.",
        make=changed(set_to(mixed_kappa())),
        must_fail=("loss", "heads", "positions/kappa", "positions/identity", "positions/cut"),
        but=("heads/pairs",),
        undecided={"estimate/cos": NO_FINDING},
    ),
    "on the way to infinity, kappa near -1": on_h8(
        description="A point of the second valley, epsilon = .1: the same kappa in all blocks, -.98, and a large "
        "p_{T-1}, though not as large as kappa says; epsilon 11^T / d mixes the pairs. Cutting s_{T-1} costs 9.80, "
        "kappa^2 d is 9.61.",
        make=changed(set_to(valley_at_infinity(dim=10, epsilon=0.1, n_ctx=N_CTX))),
        must_fail=("loss", "heads", "positions"),
        but=("heads/same kappa", "positions/older keys", "positions/scrub"),
        undecided={"estimate/cos": NO_FINDING},
    ),
    "kappa in C that P does not know": Sabotage(
        base=H10,
        description="kappa = 1/2 in every block of C, p_{T-1} = 0: heads and newest key are at a minimum, the encoding "
        "is not that of this kappa, and the loss is kappa^2 d.",
        make=changed(set_to(ignored_kappa())),
        must_fail=("loss", "heads/ablation", "positions/kappa", "positions/identity", "positions/cut"),
        undecided=READABLE_BEFORE,
    ),
}
