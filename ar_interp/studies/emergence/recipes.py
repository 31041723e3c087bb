"""The trainings of the study of emergence."""

from typing import Any

from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingUnitary, FirstToken
from ar_interp.studies.base import Recipe
from ar_interp.training.config import TrainConfig

AUTHORS = "five coordinates and 100 tokens, as the authors simulate it"
OF_THE_AUTHORS: dict[str, Any] = {"dim": 5, "n_ctx": 99, "objective": "sampled", "steps": 200}


def _recipe(
    finding: str, law: FirstToken | str, *, dim: int = 2, n_ctx: int = 5, init_scale: float = 0.1, **training: object
) -> Recipe:
    found = FirstToken(law) if isinstance(law, str) else law
    return Recipe(
        summary=f"One layer with QK and OV as its parameters, first tokens of law {found.law!r}: {finding}.",
        config=ModelConfig.augmented(
            dim=dim, n_ctx=n_ctx, heads="merged", attention="linear/pairs", init_scale=init_scale
        ),
        process=CommutingUnitary(dim, first_token=found),
        training=TrainConfig(**{"optimizer": "gd", **training}),  # type: ignore[arg-type]
    )


RECIPES: dict[str, Recipe] = {
    "emergence-gaussian": _recipe(
        "a plateau, a drop, exactly as the recursion says", "gaussian", start=(0.01, 0.01), lr=1 / 2400, steps=1200
    ),
    "emergence-gaussian-unbalanced": _recipe(
        "a and b end apart, and a² - b² shrinks with every step", "gaussian", start=(0.5, 1.5), lr=0.002, steps=300
    ),
    "emergence-signs": _recipe(
        "from a and b of unequal sign, past the saddle", "signs", start=(0.1, -0.3), lr=0.01, steps=300
    ),
    "emergence-onehot": _recipe("from above", "one-hot", start=(2.0, 2.0), lr=0.025, steps=150),
    "emergence-ones": _recipe(
        "the plane is left, and off-diagonal entries appear", "ones", start=(0.1, 0.1), lr=0.01, steps=800
    ),
    "emergence-ones-masked": _recipe(
        "diagonals alone, as the authors mask it", "ones", start=(0.1, 0.1), lr=0.01, steps=400, entries="diagonal"
    ),
    "emergence-correlated": _recipe(
        "correlation .6, where the plane is left at once",
        FirstToken("gaussian", correlation=0.6),
        start=(0.7, 0.4),
        lr=0.002,
        steps=1000,
    ),
    "emergence-anisotropic": _recipe(
        "variances 4 and 1 emerge one after the other, as a preconditioned step",
        FirstToken("gaussian", scales=(2.0, 1.0)),
        start=(0.01, 0.01),
        lr=0.0005,
        steps=1000,
    ),
    "emergence-gaussian-sampled": _recipe(
        "five coordinates, fresh sequences at every step",
        "gaussian",
        dim=5,
        n_ctx=19,
        objective="sampled",
        start=(0.1, 0.3),
        lr=0.0005,
        steps=80,
        batch=2048,
    ),
    "emergence-gaussian-d5": _recipe(
        f"{AUTHORS}, fresh sequences at every step", "gaussian", start=(0.1, 0.1), lr=5e-5, batch=256, **OF_THE_AUTHORS
    ),
    "emergence-onehot-d5": _recipe(
        f"{AUTHORS}: one sequence has the gradient of all in the plane",
        "one-hot",
        start=(0.1, 0.1),
        lr=5e-4,
        batch=64,
        **OF_THE_AUTHORS,
    ),
    "emergence-ones-masked-d5": _recipe(
        f"{AUTHORS}, diagonals alone",
        "ones",
        start=(0.1, 0.1),
        lr=2.5e-4,
        batch=64,
        entries="diagonal",
        **OF_THE_AUTHORS,
    ),
    "emergence-random": _recipe(
        "1024 random starts of the main blocks, a quarter of which end as one gradient step",
        "signs",
        dim=3,
        n_ctx=4,
        lr=0.025,
        steps=400,
        n_seeds=1024,
        entries="main",
    ),
    "emergence-random-all": _recipe(
        "512 random starts of all entries; the share of reflected steps is measured, not predicted",
        "gaussian",
        lr=0.01,
        steps=1500,
        n_seeds=512,
    ),
    "emergence-reflected": _recipe(
        "from random weights of all entries, sampled: a reflected step",
        "signs",
        dim=5,
        n_ctx=19,
        init_scale=0.2,
        objective="sampled",
        optimizer="adam",
        lr=0.02,
        schedule="cosine",
        steps=300,
        batch=256,
    ),
}
