"""Sabotaged diagonal heads on conjugate pairs.

At the minimum C is c [[1, k], [k, 1]] on every pair, p_T = 1 / c, p_{T-1} = -k p_T / (1 + k) and nothing else in P;
with fewer heads than coordinates k = 1, C has rank d / 2 and A B^T = 2c I. There A is the same on both coordinates of a
pair, so that all that is made from its rows has k = 1, and shows nothing of sin(theta).
"""

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

ANY_FIVE = "any five heads have rank five, and cos(theta) can be read before training too: void"
VOID_FOR_FIVE: dict[str, Any] = {"undecided": ("heads/rank", "estimate/cos"), "why": ANY_FIVE}


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


PAIRS = (
    Sabotage(
        name="untrained, ten times smaller (pairs, 5 heads)",
        base=H5,
        description="Gaussian weights of standard deviation .01: no structure, and sin(theta) can be read.",
        make=changed(of_scale(0.01)),
        must_fail=("loss", "heads", "positions", "estimate/sin"),
        undecided=("heads/rank", "positions/scrub", "estimate"),
        why=f"{BY_CHANCE}; {ANY_FIVE}",
    ),
    Sabotage(
        name="trained on the unitary family (pairs, 5 heads)",
        base=H5,
        description="C is c times any projector of rank 5 with p_{T-1} = 0: orthogonal heads and a projector, but not "
        "over the pairs; half of the coordinates' energy is on the diagonal, so that tr C / 10 = c / 2.",
        make=changed(refitted(other=True)),
        must_fail=("loss", "heads", "positions", "estimate/sin"),
        but=frozenset(
            {"heads/projector", "heads/orthogonal", "heads/cosine", "positions/older keys", "positions/scrub"}
        ),
        undecided=("heads/rank", "positions/cut", "estimate/cos"),
        why=f"{ANY_FIVE}; kappa of a random projector is by chance, and the cost of p_{{T-1}} = 0 that of 0",
    ),
    Sabotage(
        name="keys exchanged between two heads",
        base=H5,
        description="C mixes pairs, A B^T has two rows exchanged. Rows of A still are the same on both coordinates of "
        "a pair, so that kappa is 1 everywhere; P is untouched, and tr C is 3/5 of what it was.",
        make=edited(keys_exchanged),
        must_fail=("loss", "heads", "positions/identity", "positions/cut"),
        but=frozenset({"heads/same kappa", "heads/kappa one"}),
        undecided=("heads/rank", "positions/scale", "estimate/cos"),
        why=f"{ANY_FIVE}; the coordinates that C covers, over which its trace is divided, depend on the gauge",
    ),
    Sabotage(
        name="P transposed",
        base=H5,
        description="The weight of s_T goes to s_{T-2}, that of s_{T-1} stays: nothing reaches the target. Heads are "
        "untouched.",
        make=edited(transposed),
        must_fail=("loss", "heads/ablation", "positions", "estimate"),
        but=frozenset({"estimate/sin"}),
        **VOID_FOR_FIVE,
    ),
    Sabotage(
        name="sign of p_{T-1} turned",
        base=H5,
        description="2 cos(theta) s_T + s_{T-1}: heads, p_T and older keys are untouched.",
        make=changed(control(flipped_previous)),
        must_fail=("loss", "heads/ablation", "positions"),
        but=frozenset({"positions/scale", "positions/older keys", "positions/scrub"}),
        **VOID_FOR_FIVE,
    ),
    Sabotage(
        name="p_{T-1} removed",
        base=H5,
        description="2 cos(theta) s_T alone: the loss is kappa^2 d, and a head costs nothing, since its partner terms "
        "err as much as its own help.",
        make=edited(previous_removed),
        must_fail=("loss", "heads/ablation", "positions"),
        but=frozenset({"positions/scale", "positions/older keys", "positions/scrub"}),
        **VOID_FOR_FIVE,
    ),
    Sabotage(
        name="one '-' block, trapped",
        base=H5,
        description="The local minimum with one block of kappa near -1: cross terms between pairs, older keys of a few "
        "per cent of p_T, and the phase of the trapped pair read as sin(theta) in place of cos(theta).",
        make=changed(trapped),
        must_fail=("loss", "heads", "positions", "estimate/cos", "estimate/sin"),
        undecided=("heads/rank", "positions/scrub"),
        why=f"{ANY_FIVE}; with its older keys from elsewhere .09 % of the loss is not recovered, the tolerance is .1 %",
    ),
    Sabotage(
        name="predicts with one memorised W (pairs)",
        base=H5,
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
        but=frozenset({"estimate/sin"}),
        **VOID_FOR_FIVE,
    ),
    Sabotage(
        name="kappa mixed between blocks",
        base=H8,
        description="kappa = 1 on four pairs and 0 on one: rank 6, mean kappa .8. P is that of kappa = 1; cutting "
        "s_{T-1} costs 7.5 where .8^2 d = 6.4.",
        make=changed(set_to(mixed_kappa())),
        must_fail=("loss", "heads", "positions/kappa", "positions/identity", "positions/cut"),
        but=frozenset({"heads/pairs"}),
        undecided=("estimate/cos",),
        why=NO_FINDING,
    ),
    Sabotage(
        name="on the way to infinity, kappa near -1",
        base=H8,
        description="A point of the second valley, epsilon = .1: the same kappa in all blocks, -.98, and a large "
        "p_{T-1}, though not as large as kappa says; epsilon 11^T / d mixes the pairs. Cutting s_{T-1} costs 9.80, "
        "kappa^2 d is 9.61.",
        make=changed(set_to(valley_at_infinity(dim=10, epsilon=0.1, n_ctx=N_CTX))),
        must_fail=("loss", "heads", "positions"),
        but=frozenset({"heads/same kappa", "positions/older keys", "positions/scrub"}),
        undecided=("estimate/cos",),
        why=NO_FINDING,
    ),
    Sabotage(
        name="kappa in C that P does not know",
        base=H10,
        description="kappa = 1/2 in every block of C, p_{T-1} = 0: heads and newest key are at a minimum, the encoding "
        "is not that of this kappa, and the loss is kappa^2 d.",
        make=changed(set_to(ignored_kappa())),
        must_fail=("loss", "heads/ablation", "positions/kappa", "positions/identity", "positions/cut"),
        **READABLE_BEFORE,
    ),
)
