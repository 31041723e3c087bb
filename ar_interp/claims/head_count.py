"""Claims about how many full heads one non-augmented layer can use, and about asking with the wrong token."""

from dataclasses import replace

from ar_interp.checkpoints import Trained, available, load
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.general import N_SEQUENCES, GeneralSubject
from ar_interp.recipes import RECIPES
from ar_interp.setting.sampled import best_equivariant_head

ONE_HEAD = (
    "convexity and invariance: for a first token of rotation-invariant law one head A = B = I is optimal; its weights "
    "by least squares on sequences"
)
MORE_HEADS = "numerical optimisation: a fixed first token leaves room for about dim heads"
PARITY = "W and -W have the same law: bias-free linear attention that asks with s_T has the wrong parity"
INVARIANT = ("sphere", "gaussian")
BATCH = 1024  # standard error .005, the saving of a single head is .02


def head_count_claims(subject: GeneralSubject, run: Trained | None) -> list[Claim]:
    """Of one bias-free linear layer with full heads and a multiplicative encoding, on Haar W of norm 1."""
    one_head = best_equivariant_head(subject.process, subject.config.n_ctx)
    if subject.config.parity_obstruction:
        return [
            subject.loss_claim(
                "loss/parity",
                "Asked with s_T it cannot beat predicting zero: error on fresh sequences",
                source=PARITY,
                tolerance="zero predictor",
                reference=1.0,
                control=("the best head that asks with s_{T-1}", one_head),
            )
        ]
    if subject.process.initial.law in INVARIANT:
        return [
            subject.loss_claim(
                "loss/one head",
                f"One head is as good as any number: the error of {subject.config.n_heads} over that of the best single"
                f" head with A = B = I, {one_head:.4f}",
                source=ONE_HEAD,
                tolerance="loss ratio",
                reference=one_head,
            )
        ]
    claims = [
        subject.claim(
            "loss/many heads",
            "With a fixed first token it errs less than the best invariant head can: share of fresh batches",
            lambda m: (m.errors[:, 1:].mean(1).unflatten(0, (-1, BATCH)).mean(1) < one_head).double().mean().item(),
            source=MORE_HEADS,
            tolerance="every batch",
            predicted=1,
            n=N_SEQUENCES // BATCH,
        )
    ]
    dim = subject.config.dim
    one, many = (_sibling_loss(run, n_heads) for n_heads in (1, dim**2))
    if run is not None and run.config.n_heads == dim and one and many:
        claims.append(
            claim(
                "loss/enough heads",
                f"dim heads are enough: their final error over that of dim^2 = {dim**2}, which are enough for any map",
                source=MORE_HEADS,
                tolerance="loss ratio",
                predicted=1,
                measured=run.members["loss"].to_numpy().min() / many,  # all on the same held-out sequences
                n=len(run.members),
                control=("one head", one / many),
            )
        )
    return claims


def _sibling_loss(run: Trained | None, n_heads: int) -> float | None:
    """Final loss of the shipped checkpoint that differs from this one only in the number of heads."""
    if run is None:
        return None
    wanted = replace(run.config, n_heads=n_heads)
    for name, recipe in RECIPES.items():
        if (recipe.config, recipe.process) == (wanted, run.process) and name in available():
            return load(name).members["loss"].to_numpy().min()
    return None
