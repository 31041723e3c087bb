"""Recipes of the study of regression."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ar_interp.models.features import RegressionConfig
from ar_interp.processes import NonparametricRegression
from ar_interp.studies.base import Recipe
from ar_interp.training.config import TrainConfig


def _by_rank(frequencies: Sequence[int], constant: float) -> NonparametricRegression:
    """Variances rank^-3 of cos and sin at these frequencies and another of the constant, divided by their sum."""
    variances = [constant] + [0.0] * (2 * max(frequencies))
    for rank, m in enumerate(frequencies, start=1):
        variances[2 * m - 1] = variances[2 * m] = rank**-3.0
    *_, total = accumulate(variances)  # in this order: `sum` has other last digits from Python 3.12 on
    return NonparametricRegression(variances=[value / total for value in variances])


ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 3e-3, "schedule": "cosine", "steps": 2000, "device": "cpu"}
ON_TASKS: dict[str, Any] = {**ADAM, "objective": "sampled", "steps": 1500, "batch": 64}
HIGH = _by_rank([3, 5, 1, 2, 4, *range(6, 41)], constant=1e-3)
SMOOTH = NonparametricRegression(smoothness=1.0)
HAAR = NonparametricRegression("haar", smoothness=0.4)
SQUARES = _by_rank([j**2 for j in range(1, 13)], constant=1.0)


def _on_tasks(n: int, what: str) -> Recipe:
    return Recipe(
        summary=f"The four features of regression-high from {n} sampled tasks, one noisy answer each, eight seeds: "
        f"{what}.",
        config=RegressionConfig(n_features=4, n_ctx=33, n_inputs=6, dtype="float32"),
        process=HIGH,
        training=TrainConfig(**ON_TASKS, pool=n, n_seeds=8),
    )


RECIPES: dict[str, Recipe] = {
    "regression-high": Recipe(
        summary="Four features for a prior whose strongest frequencies are 3 and 5: exactly these are learned.",
        config=RegressionConfig(n_features=4, n_ctx=33, n_inputs=6),
        process=HIGH,
        training=TrainConfig(**ADAM),
    ),
    "regression-high-k1": Recipe(
        summary="The same from cos and sin(2 pi x) alone: descent is stuck, a strong frequency is not found.",
        config=RegressionConfig(n_features=4, n_ctx=33, n_inputs=1),
        process=HIGH,
        training=TrainConfig(**ADAM),
        known_failures={
            "loss/minimum": (0.02, 0.07),
            "features/best": (0.02, 0.07),
            "features/span": (75, 90),
            "features/curve": (0.7, 1.7),
            "features/order": (0.17, 0.24),
            "features/smoothness": (0.33, 0.46),
            "kernel/spectrum": (0.2, 0.6),
            "prompts/longer": (0.1, 0.25),
        },
    ),
    "regression-smooth": Recipe(
        summary="Five features for a smooth prior, from cos and sin(2 pi x): those of lowest frequency.",
        config=RegressionConfig(n_features=5, n_ctx=33, n_inputs=1),
        process=SMOOTH,
        training=TrainConfig(**ADAM),
    ),
    "regression-haar": Recipe(
        summary="Eight features of six binary digits of x for a Haar prior: the wavelets of three levels.",
        config=RegressionConfig(n_features=8, n_ctx=65, inputs="digits", n_inputs=6),
        process=HAAR,
        training=TrainConfig(**ADAM, solve=True),
    ),
    "regression-smooth-n9": Recipe(
        summary="Nine features for a smooth prior, Gamma solved for at each step: untrained ones nearly suffice.",
        config=RegressionConfig(n_features=9, n_ctx=65, n_inputs=1),
        process=SMOOTH,
        training=TrainConfig(**ADAM, solve=True),
    ),
    "regression-squares": Recipe(
        summary="Seven features for variances j^-3 at frequency j^2: learned, not the first by frequency.",
        config=RegressionConfig(n_features=7, n_ctx=65, n_inputs=9),
        process=SQUARES,
        training=TrainConfig(**ADAM, solve=True),
    ),
    "regression-high-t64": _on_tasks(64, "they are fitted to the noise"),
    "regression-high-t512": _on_tasks(512, "much of it is still noise"),
    "regression-high-t4096": _on_tasks(4096, "near what the population gives"),
    "regression-smooth-softmax": Recipe(
        summary="Softmax attention on the prompts of regression-smooth, a baseline: nearer to Bayes than linear.",
        config=RegressionConfig(n_features=5, n_ctx=33, n_inputs=1, attention="softmax", dtype="float32"),
        process=SMOOTH,
        training=TrainConfig(**ON_TASKS),
    ),
}
