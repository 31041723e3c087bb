"""Sabotaged diagonal heads on the unitary family.

At the minimum C = c Pi with a projector Pi of rank min(H, d), A B^T = c I (for H <= d), p_T = 1 / c and nothing else in
P. The loss of any weights is |C|^2 sum p_t^2 + p_{T-1}^2 |C 1|^2 - 2 p_T tr C + d: only the newest key, and of C only
its trace, reach the target; all else is noise. So whoever keeps p_T tr C keeps the estimate that a swap moves and a
scrub needs, whatever it is worth.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import Change, changed, edited, scaled
from ar_interp.sabotage.functions import copies, mean_estimate, memorises
from ar_interp.sabotage.trained import independent_tokens, refitted, short_contexts, shuffled_targets
from ar_interp.studies.heads_measured import permuted_heads, shifted_positions

H5, H10 = "diagonal-unitary-h5", "diagonal-unitary-h10"
on_h5, on_h10 = (partial(Sabotage, base=base) for base in (H5, H10))

BY_CHANCE = "p_T tr C, which is what reaches the target, is what it happens to be"
NO_FINDING = "readable before training too, so void wherever it can be read"
READABLE_BEFORE: dict[str, str] = dict.fromkeys(("estimate/cos", "estimate/sin"), NO_FINDING)
NOTHING_LEARNED: dict[str, Any] = {
    "must_fail": ("loss", "heads", "positions"),
    "undecided": dict.fromkeys(("positions/scrub", "estimate"), BY_CHANCE),
}


def of_scale(scale: float) -> Change:
    """Gaussian weights of this standard deviation."""

    def make(model: Any, checkpoint: Checkpoint, seed: int) -> Any:
        fresh = model.untrained(seed)
        for weights in fresh.state_dict().values():
            weights *= scale / model.config.init_scale
        return fresh

    return make


def control(sabotage: Callable[[Any, Any], Any]) -> Change:
    """One of the controls of the claims themselves."""
    return lambda model, checkpoint, seed: sabotage(model, checkpoint.process)


def duplicated(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    for name in "AB":
        weights[name][1] = weights[name][0]


head_removed, turned, doubled = scaled("B", 0, 0.0), scaled("A", 0, -1.0), scaled("A", ..., 2.0)


def older_keys(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    P = weights["P"]
    noise = torch.randn(P.shape, generator=generator, dtype=P.dtype).tril(-1)
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
        must_fail=("loss", "heads", "positions"),
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
        | {"heads/ablation": "they cost 2 kappa too little or too much, which a small kappa hides in sampling"},
    ),
    "keys permuted between heads": on_h5(
        description="C = sum b_h a_{h+1}^T, so that tr C = tr A B^T = 0: nothing reaches the target. P is untouched.",
        make=changed(control(permuted_heads)),
        must_fail=("loss", "heads", "positions/scale", "positions/scrub", "estimate"),
    ),
    "one head twice": on_h10(
        description="Head 2 is head 1: A B^T has two equal rows, C loses a dimension and tr C / rank grows to 10/9; "
        "nine of ten linear forms of the eigenvalues are left to read. The trace, and with it what is used, stays.",
        make=edited(duplicated),
        must_fail=("loss", "heads", "positions/scale", "positions/identity", "estimate/cos", "estimate/sin"),
    ),
    "one head removed": on_h5(
        description="C is a projector of rank 4, not 5, and the loss about 6. The other heads are orthogonal still, "
        "cosines and tr C / rank are theirs.",
        make=edited(head_removed),
        must_fail=("loss", "heads"),
        but=("heads/cosine",),
        undecided={"heads/ablation": "what a head that writes nothing costs, over the nothing that it writes"},
    ),
    "one head's sign turned": on_h5(
        description="A B^T = c diag(-1, 1, ..): no multiple of I, C no projector, tr C = 3c. Cosines between heads do "
        "not see it, and P is untouched.",
        make=edited(turned),
        must_fail=("loss", "heads", "positions/scale"),
        but=("heads/cosine",),
    ),
    "one head twice (20 heads)": Sabotage(
        base="diagonal-unitary-h20",
        description="With more heads than coordinates it is the frame that breaks: C is c (I + b_1 a_1^T - b_2 a_2^T).",
        make=edited(duplicated),
        must_fail=("loss", "heads", "positions/scale", "positions/identity"),
        undecided=READABLE_BEFORE,
    ),
    "P shifted by one key": on_h10(
        description="p_T is now p_{T-1}: the newest key, the only one that reaches the target, has no weight, and what "
        "has it is noise. Heads are untouched, and no key before T-1 gets anything.",
        make=changed(control(shifted_positions)),
        must_fail=("loss", "heads/ablation", "positions", "estimate"),
        but=("positions/older keys",),
        undecided=READABLE_BEFORE,
    ),
    "P random before the last two entries": on_h5(
        description="Older keys get weights of half p_T: noise beside an intact estimate, at other frequencies than "
        "the target's, so that taking it from another sequence costs nothing; a removed head takes its noise along.",
        make=edited(older_keys),
        must_fail=("loss", "heads/ablation", "positions/older keys"),
    ),
    "trained on contexts half as long (unitary)": on_h5(
        description="C is at its minimum, the positional weights of the longer contexts are as before training.",
        make=changed(short_contexts),
        must_fail=("loss", "heads/ablation", "positions"),
        undecided=dict.fromkeys(("positions/scrub", "estimate"), BY_CHANCE),
    ),
    "twice the prediction": on_h5(
        description="C doubled and p_T not halved: c p_T = 2, and removing a head costs nothing. The shape of C and of "
        "P, and what is used, are as they were.",
        make=edited(doubled),
        must_fail=("loss", "heads/ablation", "positions/scale"),
    ),
    "predicts with one memorised W (unitary)": on_h10(
        description="The weights are those of the healthy model, and so is all they say; the prediction is W_0 s_T.",
        make=changed(memorises),
        must_fail=("loss/fresh", "heads/ablation", "positions/identity", "positions/scrub", "estimate"),
        undecided=READABLE_BEFORE,
    ),
    "copies s_T (unitary)": on_h5(
        description="Healthy weights beside a prediction that ignores them: error 2d.",
        make=changed(copies),
        must_fail=("loss/fresh", "heads/ablation", "positions/scrub", "estimate"),
    ),
    "Ŵ replaced by its mean": on_h5(
        description="The pattern of every sequence is the mean of 1024: weights and scores are healthy, the prediction "
        "knows nothing of W.",
        make=changed(mean_estimate),
        must_fail=("loss/fresh", "heads/ablation", "positions/scrub", "estimate"),
    ),
}
