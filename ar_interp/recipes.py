"""The shipped checkpoints by name. `trained/` is made from nothing else: `ar-interp train NAME`."""

from dataclasses import dataclass

from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, Process
from ar_interp.training.config import TrainConfig

POSITIONAL_LR = 0.5  # on the mean over the n_ctx - 1 context lengths, as the authors train it
POSITIONAL_STOP = 1e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes a checkpoint, and a sentence on what it shows."""

    summary: str
    config: ModelConfig
    process: Process
    training: TrainConfig


def _unitary(n_heads: int) -> Recipe:
    kind = "fewer heads than coordinates: C becomes a projector of rank 5" if n_heads < 10 else "C becomes c I"
    return Recipe(
        summary=f"Diagonal heads on commuting unitary W, {n_heads} heads for d = 10 ({kind}), by gradient descent.",
        config=ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=20),
        process=CommutingUnitary(10),
        training=TrainConfig(optimizer="gd", lr=1e-2, steps=8000),
    )


def _orthogonal(n_heads: int, summary: str, training: TrainConfig) -> Recipe:
    return Recipe(
        summary=summary,
        config=ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=20),
        process=CommutingOrthogonal(10),
        training=training,
    )


def _positional(mu: float) -> Recipe:
    n_ctx = 30
    return Recipe(
        summary=f"Only a positional encoding, lambda = exp(i theta / {mu:g}): descent from zero, stopped early as the "
        "authors do. What it shows is the spectral filter of unfinished descent, not the optimum.",
        config=ModelConfig.positional_only(n_ctx=n_ctx),
        process=CommutingUnitary(1, mu=mu),
        training=TrainConfig(optimizer="gd", lr=POSITIONAL_LR / (n_ctx - 1), steps=2000, stop_below=POSITIONAL_STOP),
    )


RECIPES: dict[str, Recipe] = {
    "diagonal-unitary-h5": _unitary(5),
    "diagonal-unitary-h10": _unitary(10),
    "diagonal-unitary-h20": _unitary(20),
    "diagonal-orthogonal-h5": _orthogonal(
        5,
        "Conjugate pairs with half as many heads as coordinates: each head takes one pair (kappa = 1). Most seeds of "
        "gradient descent are trapped, so the best of 1024 is kept and the share that escapes is a result.",
        TrainConfig(optimizer="gd", lr=3e-4, steps=15000, n_seeds=1024),
    ),
    "diagonal-orthogonal-h8": _orthogonal(
        8,
        "Conjugate pairs with 8 heads for d = 10: rank 8 leaves only kappa = 1, of rank 5. A valley at infinity "
        "draws some seeds and the minimum is degenerate, so L-BFGS and the best of 32 seeds.",
        TrainConfig(optimizer="lbfgs", steps=1000, n_seeds=32),
    ),
    "diagonal-orthogonal-h10": _orthogonal(
        10,
        "Conjugate pairs with as many heads as coordinates: any kappa but -1 is optimal; gradient descent picks one.",
        TrainConfig(optimizer="gd", lr=3e-4, steps=20000),
    ),
    **{f"positional-mu{mu:g}": _positional(mu) for mu in (50.0, 100.0, 200.0, 300.0)},
    "diagonal-unitary-h10-sampled": Recipe(
        summary="As diagonal-unitary-h10, but from fresh sampled batches instead of the exact population loss.",
        config=ModelConfig.diagonal(dim=10, n_heads=10, n_ctx=20),
        process=CommutingUnitary(10),
        training=TrainConfig(objective="sampled", optimizer="gd", lr=5e-3, steps=1500, batch=128),
    ),
}
