"""Augmented linear attention on Haar W: what one layer finds there, and how many gradient steps a depth is worth."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ar_interp.claims import Claim, Estimate, Subject
from ar_interp.claims.estimate import REFERENCE
from ar_interp.models.config import ModelConfig
from ar_interp.processes import HaarOrthogonal
from ar_interp.setting import HaarStack
from ar_interp.studies.base import Exhibit, Recipe, Structure, Study
from ar_interp.theory import BlockScalarMinimum, haar_one_step_minimum, haar_step_size
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.blocks_measured import BlocksMeasured

HAAR = "one gradient step on Haar W by moments of traces; best block scalars by least squares on sequences"

N_SEEDS = 64  # of which the best is kept: descent on the loss of a stack ends in many valleys


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.blocks_measured import BlocksMeasured
    from ar_interp.studies.interventions import scale_claim, step_claim
    from ar_interp.studies.stack_claims import StackMeasured, stack_claims, steps_claims
    from ar_interp.studies.swap_claims import swap_claims

    if subject.config.n_layers == 1:
        measured = BlocksMeasured(subject)
        yield from _layer_claims(measured)
        yield step_claim(measured)
        yield measured.estimate_claim(measured.setting.best.a[1], source=HAAR)
    else:
        measured = StackMeasured(subject)
        yield from stack_claims(measured)
    yield from steps_claims(measured)
    yield scale_claim(measured)
    yield from swap_claims(measured)


def _layer_claims(m: "BlocksMeasured") -> Iterator[Claim]:
    """One layer against the best block scalars."""
    best = m.setting.best

    def of_best(read: Callable[[BlockScalarMinimum], float]) -> Estimate:
        value, error = m.setting.near(m.second_value, read)
        return Estimate(value, {REFERENCE: 1.96 * error}, m.setting.n_reference)

    statement = f"The error on fresh sequences is that of the best block scalars, {best.loss:.4f}"
    fresh = partial(m.loss_claim, "loss/fresh", source=HAAR, tolerance="loss ratio", reference=best.loss)
    claim = partial(m.claim, evidence="weights", source=HAAR)
    if m.setting.per_key:
        yield fresh(statement)
    else:
        sizes = {"dim": m.config.dim, "max_length": m.config.n_ctx}
        pure, step = haar_one_step_minimum(**sizes), haar_step_size(**sizes)
        yield fresh(
            f"{statement}, below the best pure gradient step's {pure:.4f}",
            control=("the best pure gradient step", Estimate(pure).over(of_best(lambda best: best.loss))),
        )
        yield claim(
            "step/size",
            "The step size a2 b1 is that of the nearest best block scalars: its ratio to the best pure gradient step's",
            lambda m: m.blocks.step_size / step,
            tolerance="step size, Haar",
            predicted=of_best(lambda best: best.a[1] / step),
        )
    yield claim(
        "step/second path",
        "There is a second path as strong as in the nearest best block scalars: a3 / a2",
        lambda m: m.second_path,
        tolerance="second path, Haar",
        predicted=of_best(lambda best: best.a[2] / best.a[1]),
    )
    yield claim(
        "step/second value",
        "The value of s_{t-1} is read as in the nearest of the best block scalars, two of which are about as good: "
        "|b2 / b1|",
        lambda m: m.second_value,
        tolerance="second value, Haar",
        predicted=of_best(lambda best: abs(best.b[1])),
    )


def _exhibits() -> tuple[Exhibit, ...]:
    """The comparison with estimators bears on what depth is worth."""
    from ar_interp.studies.behaviour_exhibits import EXHIBITS

    names = ("error_by_position", "algorithm_match")
    return tuple(replace(exhibit, structure="depth") for exhibit in EXHIBITS if exhibit.name in names)


def _recipe(
    n_layers: int, attention: str, n_ctx: int = 50, known_failures: Mapping[str, tuple[float, float]] | None = None
) -> Recipe:
    layers = "One augmented layer" if n_layers == 1 else f"{n_layers} augmented layers"
    raw = attention == "linear"
    return Recipe(
        summary=f"{layers} on Haar W, blocks that are multiples of the identity, "
        + ("scores as they are" if raw else "scores divided by the number of keys")
        + f"; d = 5, contexts up to {n_ctx}, {N_SEEDS} seeds.",
        config=ModelConfig.augmented(
            dim=5,
            n_ctx=n_ctx,
            n_layers=n_layers,
            heads="block-scalar",
            attention=attention,
            init_scale=0.1 if raw else 0.3,
            dtype="float32",
        ),
        process=HaarOrthogonal(5),
        training=TrainConfig(
            objective="sampled",
            optimizer="adam",
            lr=1e-2 if raw else 3e-2,
            schedule="cosine",
            warmup=50,
            clip=10.0,
            steps=2500,
            batch=128,
            n_seeds=N_SEEDS,
        ),
        known_failures=known_failures or {},
    )


STRUCTURES = {
    "depth": Structure(
        title="What depth is worth",
        meaning="If each layer took one more gradient step, L layers would err as L steps do. They do better, since "
        "layers transform keys and values too; the question is how many steps they are worth.",
        formulas=(
            "k steps of gradient descent from 0: W_k = W (I - (I - eta S)^k), S = Σ_{t<T} s_t s_t^*, with tuned eta.",
            "k iterations of Newton and Schulz are 2^k steps of gradient descent.",
        ),
    ),
}

STUDY = Study(
    name="depth",
    source="Sander et al. 2024, augmented tokens on Haar W, and what deeper stacks do",
    question="How many steps of gradient descent is a stack of layers worth?",
    covers=lambda setting: isinstance(setting, HaarStack),
    recipes={
        # known failures: the shipped model's value, give or take three times its uncertainty. Later queries read
        # s_{T-1}, a second copy of W, which stays the target's when the states alone are moved
        "augmented-haar-short": _recipe(1, "linear", n_ctx=20),
        "augmented-haar-l1": _recipe(1, "linear"),
        "augmented-haar-l2": _recipe(2, "linear", known_failures={"estimate/swap error": (0.05, 21.0)}),
        "augmented-haar-l3": _recipe(3, "linear", known_failures={"estimate/swap error": (0.92, 1.88)}),
        "augmented-haar-l4": _recipe(4, "linear", known_failures={"estimate/swap error": (0.17, 1.92)}),
        "augmented-haar-l1-keys": _recipe(1, "linear/keys"),
        "augmented-haar-l2-keys": _recipe(
            2, "linear/keys", known_failures={"estimate/swap": (0.76, 0.93), "estimate/swap error": (0.5, 0.84)}
        ),
        "augmented-haar-l3-keys": _recipe(
            3, "linear/keys", known_failures={"estimate/swap error": (0.17, 0.28), "outside/growth": (1.0, 1.21)}
        ),
        "augmented-haar-l4-keys": _recipe(4, "linear/keys", known_failures={"estimate/swap error": (0.26, 0.36)}),
    },
    claims=_claims,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
