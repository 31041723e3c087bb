"""Models that means, norms, few pairs or few angles would let pass: each hides where these do not look."""

from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.positional import N_OFFSETS
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.diagonal import (
    H5,
    H10,
    NO_FINDING,
    READABLE_BEFORE,
    VOID_FOR_FIVE,
    on_h10,
    on_pairs_h5,
    on_pairs_h8,
    set_to,
)
from ar_interp.sabotage.edits import N_CTX, answering, changed, edited, innocent, on_weights
from ar_interp.sabotage.gauges import steeply_regauged_heads
from ar_interp.sabotage.general import FULL, on_full
from ar_interp.seeds import ANGLES, generator_of
from ar_interp.theory import KappaFamily, factor_heads, kappa_family

H20 = "diagonal-unitary-h20"
UNREAD = "nothing reads it: the read-out block of a token is zero"
ASIDE = 0.1  # share of the prediction that passes by the hooks


def alternating(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """p_{T-1} = p_T / 2 and -p_T / 2 by turns from T = 3 on."""
    P = weights["P"]
    for row in range(1, N_CTX - 1):
        P[row, row] = 0.5 * (-1) ** row * P[row, row + 1]


def kappas_around_one() -> KappaFamily:
    """kappa = 1.3, .7, 1, 1, 1 on the five pairs."""
    C, P = kappa_family(dim=10, kappa=1.0, n_ctx=N_CTX)
    for pair, kappa in enumerate((1.3, 0.7)):
        place = slice(2 * pair, 2 * pair + 2)
        C[place, place] = torch.tensor([[1.0, kappa], [kappa, 1.0]], dtype=C.dtype, device=C.device)
    return KappaFamily(C, P)


def unread_values(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Values of the read-out block a thousand times those of s_t."""
    W_V = weights["W_V"]
    dim = W_V.shape[1] // 3
    W_V[:, :dim] = 1000 * W_V[:, dim : 2 * dim]


def uneven_values(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Values of s_t with noise of half their norm, beside a huge block that nobody reads."""
    W_V = weights["W_V"]
    dim = W_V.shape[1] // 3
    values = W_V[:, dim : 2 * dim]
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype, device="cpu")
    values += 0.5 * values.norm() / noise.norm() * noise
    unread_values(weights, generator)


def older_values_of_both_signs(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Values of s_{t-1} as strong as those of s_t, every other coordinate negated: their mean diagonal is zero."""
    W_V = weights["W_V"]
    dim = W_V.shape[1] // 3
    signs = torch.ones(dim, dtype=W_V.dtype, device=W_V.device)
    signs[::2] = -1
    W_V[:, 2 * dim :] = signs[:, None] * W_V[:, dim : 2 * dim]


def passes_by(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Mixes the hooked prediction with that of a copy which no hook reaches: the function is the same."""
    return answering(model, lambda other, own, tokens: (1 - ASIDE) * own(tokens) + ASIDE * model(tokens))


def unseen_angles(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """A row of C with what vanishes at every angle of the grid: orthogonal to the relative angles of all of it."""
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    C, dim = B.mT @ A, A.shape[1]
    offsets = (
        2 * torch.pi * torch.rand(N_OFFSETS, dim, generator=generator_of(ANGLES), dtype=torch.float64, device="cpu")
    )
    offsets[0] = 0
    seen = torch.cat([offsets.cos(), offsets.sin()])[:, 1:]
    hidden = torch.linalg.svd(seen)[2][-1]
    C[0, 1:] += C[0, 0] * hidden
    A, B = factor_heads(C, n_heads=len(A), seed=seed)
    return HookedARTransformer.from_diagonal(A, B, P, process=checkpoint.process)


def dead_head(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """One head fewer that makes the same C, and one whose values are zero."""
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    keys, values = factor_heads(B.mT @ A, n_heads=len(A) - 1, seed=seed)
    A, B = (torch.cat([kept, rest]) for kept, rest in ((keys, A[:1]), (values, torch.zeros_like(B[:1]))))
    return HookedARTransformer.from_diagonal(A, B, P, process=checkpoint.process)


BESIDE = "what the target's s_{T-1} adds is noise in the swap as in its ceiling, up to sampling"
SAMPLED = {"outside": "errors outside the law of training are sampled, and these faults are small there"}
SIGNS = "signs of the diagonal are no gauge where coordinates differ"

HIDDEN: dict[str, Sabotage] = {
    "p_{T-1} of both signs": on_h10(
        description="p_{T-1} = +-p_T / 2 by turns: its mean over T vanishes, and every prediction errs by a half.",
        make=edited(alternating),
        must_fail=("loss", "heads/ablation", "positions/newest", "positions/identity", "estimate/W"),
        undecided=READABLE_BEFORE | SAMPLED | {"estimate/swap error": BESIDE},
    ),
    "kappa around one": on_pairs_h8(
        description="kappa = 1.3, .7, 1, 1, 1: 1 in the mean, and P is that of 1; two blocks have both eigenvalues.",
        make=changed(set_to(kappas_around_one())),
        must_fail=("loss", "heads", "positions/identity", "positions/cut"),
        but=("heads/pairs",),
        undecided={
            "estimate/cos": NO_FINDING,
            "estimate/W": "half of what is missing of kappa, squared: .009 where the tolerance is .02",
            "estimate/swap error": "2 kappa^2 of the mean kappa, .02 below that of the blocks",
            **SAMPLED,
        },
    ),
    "values of s_{t-1} of both signs": on_full(
        description="b2 = +-b1 by coordinate: 0 in the mean, and as large a path as the step.",
        make=edited(older_values_of_both_signs),
        must_fail=("loss", "step/other blocks", "estimate/W"),
        undecided={
            "step/signs": SIGNS,
            "step/scrub": "noise that other sequences make as well",
            "estimate/step": SIGNS,
            **SAMPLED,
        },
    ),
    "uneven values beside a huge block": on_full(
        description="Values of s_t with noise of half their norm; the largest OV block is a thousand times larger and "
        f"{UNREAD}.",
        make=edited(uneven_values),
        must_fail=("loss/fresh", "step/OV", "estimate/step", "estimate/W"),
        undecided=dict.fromkeys(
            (
                "step/signs",
                "step/size",
                "step/scrub",
                "step/others",
                "loss/best scale",
                "estimate/swap",
                "estimate/swap error",
            ),
            "the mean diagonal keeps what it is by chance",
        )
        | SAMPLED,
    ),
    "a tenth of the prediction passes by the hooks": on_h10(
        description="The function is that of the weights, and a tenth of it does not follow what is moved.",
        make=changed(passes_by),
        must_fail=("model/function", "heads/ablation", "estimate/swap"),
        undecided=READABLE_BEFORE,
    ),
    "a tenth of the prediction passes by the hooks (pairs)": on_pairs_h5(
        description="As above, on conjugate pairs.",
        make=changed(passes_by),
        must_fail=("model/function", "heads/ablation", "positions/cut", "estimate/swap", "estimate/swap error"),
        undecided=VOID_FOR_FIVE,
    ),
    "an error at angles that are not on the grid (10 heads)": on_h10(
        description="A row of C with noise that vanishes at every angle that predictions are seen at.",
        make=changed(unseen_angles),
        must_fail=("loss", "heads", "positions/identity", "estimate/W"),
        undecided=READABLE_BEFORE | SAMPLED,
    ),
    "an error at angles that are not on the grid (20 heads)": Sabotage(
        base=H20,
        description="As above, with more heads than coordinates.",
        make=changed(unseen_angles),
        must_fail=("loss", "heads", "positions/identity", "estimate/W"),
        undecided=READABLE_BEFORE | SAMPLED,
    ),
    "a dead head": innocent(H20, "A head that writes nothing costs nothing.", dead_head),
    "a gauge of condition 1000": innocent(H10, "A -> G A, B -> G^{-T} B: the same function.", steeply_regauged_heads),
    "a gauge of condition 1000 (5 heads)": innocent(
        H5, "A -> G A, B -> G^{-T} B: the same function.", steeply_regauged_heads
    ),
    "a huge block that nobody reads": innocent(FULL, f"OV of the read-out block: {UNREAD}.", on_weights(unread_values)),
}
