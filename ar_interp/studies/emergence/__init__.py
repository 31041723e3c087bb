"""How training finds the gradient step: plain descent beside its exact recursion, and the signs that it ends with."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ar_interp.claims import Claim, Subject
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingUnitary, FirstToken
from ar_interp.setting import Emergence
from ar_interp.studies.base import Exhibit, Recipe, Structure, Study
from ar_interp.theory import off_plane_gradient, ones_optimum
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.emergence.measured import EmergenceMeasured

SOURCE = "Zheng et al. 2024, arXiv 2405.16845; the recursion is exact"
FLOW = "Zheng et al. 2024, arXiv 2405.16845; gradient flow in closed form"
MODES = "not in Zheng et al. 2024: by counting the modes of the phases"
SLOW = 0.02  # mu = lr slope below which the flow's half time is claimed of descent


def _claims(subject: Subject) -> Iterator[Claim]:
    """Claims about the path of training where it is known, and about the layer that it ends with."""
    from ar_interp.studies.emergence.measured import EmergenceMeasured
    from ar_interp.studies.logged import log_claims

    m = EmergenceMeasured(subject)
    run, law = subject.run, m.setting.law
    if run is not None and "a" in run.history and run.training.start:
        yield from _path_claims(m)
        if m.stages is not None:
            yield from _stage_claims(m)
        if m.leaves:
            yield from _leaving_claims(m)
        yield from log_claims(m, "emergence")
    if m.setting.in_plane and m.setting.no_exact_loss is None:
        yield _loss_claim(m)
    if m.setting.in_plane and not law.one_at_a_time:
        yield from _sign_claims(m)
    if law.law == "ones":
        yield from _ones_claims(m)
    if run is not None and len(run.members) > 1 and "minus" in run.members:
        yield from _share_claims(m)


def _path_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """The path in the plane (a, b) beside the recursion, which speaks of training that stays there."""
    training = m.run.training
    exact = training.objective == "population"
    if m.stays:
        yield m.claim(
            "emergence/plane",
            "Training never leaves the plane of gradient steps: largest norm of what lies off it, over the weights'",
            lambda m: m.off_plane,
            evidence="training",
            source=MODES,
            tolerance="off plane" if exact else "full blocks",
            control=("fresh weights of all entries", m.untrained.off_plane_of_weights),
        )
    if not m.follows:
        return
    tolerance = "recursion" if exact else "recursion, sampled"
    claim = partial(m.claim, evidence="training", source=SOURCE, tolerance=tolerance)
    other = m.other_law
    yield claim(
        "emergence/path",
        f"The step size a b follows the recursion of plain descent at {len(m.along.by_step)} steps: largest deviation "
        f"over its end {m.setting.product:.6g}",
        lambda m: m.deviation("product") / m.setting.product,
        control=(
            f"the recursion for first tokens of law {other.law!r}",
            m.deviation("product", law=other) / m.setting.product,
        ),
    )
    a, b = training.start
    if a == b:
        if exact and m.mu <= SLOW:
            yield m.claim(
                "emergence/half time",
                "A plateau, then a drop: a b is half of its end y* at ln(y*/y - 1) / (2 slope): their ratio",
                lambda m: m.half_time_ratio(),
                evidence="training",
                source=FLOW,
                tolerance="half time",
                predicted=1,
                control=("the half time from a b ten times as large", m.half_time_ratio(10.0)),
            )
        return
    yield claim(
        "emergence/factors",
        f"a and b, one by one, follow the recursion from ({a:g}, {b:g}): largest deviation over the root of the step "
        "size's end",
        lambda m: m.deviation("a", "b") / m.setting.product**0.5,
        control=("a and b that change places", m.swapped_deviation / m.setting.product**0.5),
    )
    if not exact:
        return
    yield claim(
        "emergence/difference",
        "a^2 - b^2 shrinks by the product of 1 - lr^2 (slope - curvature a b)^2 over the steps: what is left of it",
        lambda m: m.difference_left[0],
        predicted=m.difference_left[1],
        control=("exact conservation, which the flow has", 1.0),
    )


def _stage_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """Coordinates of unequal size."""
    assert m.stages is not None
    table, names = m.stages, [f"product_{j + 1}" for j in range(m.config.dim)]
    claim = partial(m.claim, evidence="training", source=MODES, tolerance="stage")
    ends = table["predicted_end"].to_numpy()
    yield claim(
        "emergence/stages",
        "The step size of every coordinate follows its own recursion: largest deviation over the largest end",
        lambda m: m.deviation(*names) / ends.max(),
        control=("coordinates that change places", m.exchanged_deviation / ends.max()),
    )
    half, predicted = table["measured"].to_numpy(), table["predicted"].to_numpy()
    yield claim(
        "emergence/order",
        f"Coordinates emerge one after the other: half times of the last and the first, {half[-1]:.4g} and "
        f"{half[0]:.4g} steps, their ratio over the recursion's",
        lambda m: half[-1] / half[0] / (predicted[-1] / predicted[0]),
        predicted=1,
        control=("all at once", predicted[0] / predicted[-1]),
    )
    yield claim(
        "emergence/preconditioner",
        "The step size of a small coordinate ends larger, as of a preconditioned step: the last over the first",
        lambda m: m.end_ratio,
        predicted=ends[-1] / ends[0],
        control=("one gradient step for all", 1.0),
    )


def _leaving_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """Laws that have no invariant plane: the first step off it."""
    law, (a, b) = m.setting.law, m.run.training.start
    correlation = law.correlation if law.law == "gaussian" else None
    sizes = {"dim": m.config.dim, "max_length": m.setting.max_length, "correlation": correlation}
    expected: dict[str, float] = dict(zip(("keys", "values"), off_plane_gradient(a=a, b=b, **sizes), strict=True))
    for name, said in {"keys": "A", "values": "B"}.items():
        yield m.claim(
            f"emergence/leaves, {name}",
            f"The first step leaves the plane as the gradient of the off-diagonal of {said} says: their ratio",
            lambda m, name=name: m.first_step[name] / expected[name],
            evidence="training",
            source=MODES,
            tolerance="first step off the plane",
            predicted=1,
            control=("a plane that is invariant", 0.0),
        )


def _ones_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """First tokens 1_dim: off-diagonal entries of a size that no start changes."""
    best = ones_optimum(dim=m.config.dim, max_length=m.setting.max_length)
    masked, exact = m.run is not None and m.run.training.entries == "diagonal", m.setting.no_exact_loss is None
    if masked:
        cost = m.masked_loss / m.of_training_loss(best.loss) - 1
        yield m.claim(
            "emergence/masked loss",
            f"Training of the diagonals alone ends above the minimum over all entries, by {cost:.4g} of it: excess "
            "over this",
            lambda m: (
                (m.expected_loss / m.of_training_loss(best.loss) - 1) / cost
                if exact
                else m.loss().over(m.of_training_loss(best.loss)).less(1).over(cost)
            ),
            evidence="weights" if exact else "behaviour",
            source=MODES,
            tolerance="block optimum" if exact else "cost of masks",
            predicted=1,
            control=("the minimum over all entries", 0.0),
        )
        return
    for name, said, ratio in (("keys", "A", best.a_off / best.a), ("values", "B", best.b_off / best.b)):
        yield m.claim(
            f"emergence/off-diagonal, {name}",
            f"{said} has off-diagonal entries of the sign opposite to its diagonal's: their ratio to it, which "
            "no start changes",
            lambda m, name=name: m.off_diagonal[name],
            evidence="weights",
            source=MODES,
            tolerance="all-ones optimum",
            predicted=ratio,
            control=("masked training, of the diagonals alone", 0.0),
        )
    yield m.claim(
        "emergence/loss",
        "The loss is at the minimum over all entries, below that of gradient steps: their ratio",
        lambda m: m.expected_loss / m.of_training_loss(best.loss),
        evidence="weights",
        source=MODES,
        tolerance="block optimum",
        predicted=1,
        control=("the best gradient step", m.masked_loss / m.of_training_loss(best.loss)),
    )


def _loss_claim(m: "EmergenceMeasured") -> Claim:
    best, nothing = m.of_training_loss(m.best_loss), m.config.dim * m.setting.moments.kappa0
    return m.claim(
        "emergence/loss",
        "The loss is that of the best gradient step: excess over it, in units of the loss of predicting zero",
        lambda m: (m.expected_loss - best) / nothing,
        evidence="weights",
        source=SOURCE,
        tolerance="block optimum",
    )


def _sign_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """The step up to signs D of coordinates: D M D, of the same loss, and another function unless D = +-I."""
    exact = m.setting.no_exact_loss is None
    pattern, table = m.pattern, m.pattern.by_coordinate
    claim = partial(m.claim, source=MODES)
    said = "".join("-+"[x > 0] for x in table["values"])
    yield claim(
        "signs/behaviour",
        f"Signs of values, of keys and of predictions agree, {said} up to a common one: coordinates where they differ",
        lambda m: m.signs_that_differ(),
        evidence="behaviour",
        tolerance="rank",
        control=("one sign more in the values alone", m.half_turned.signs_that_differ()),
    )
    reflected = pattern.reflected
    yield claim(
        "signs/gain",
        "Where W = lambda I, prediction over target is a b D_j sum_r D_r |x_1r|^2 for signs D: largest deviation over "
        "that of a gradient step, a b |x_1|^2",
        lambda m: m.gain_deviation("predicted"),
        evidence="behaviour",
        tolerance="equal-phase gain, exact" if exact else "equal-phase gain",
        control=(
            ("a gradient step, D = I", m.gain_deviation("one_step"))
            if reflected
            else ("the first coordinate reflected", m.gain_deviation("predicted", flipped=True))
        ),
    )
    turned = m.distance_from_step(turned=True)
    yield claim(
        "signs/step",
        "With signs D on query and prediction the layer is one gradient step of its own size: root mean square of the "
        "difference on fresh sequences, over the step's",
        lambda m: turned,
        evidence="behaviour",
        tolerance="recursion" if exact else "full blocks",
        control=(
            ("as it is: a reflected step is another function", m.distance_from_step())
            if reflected
            else ("with the first coordinate reflected", m.distance_from_step(flipped=True))
        ),
    )


def _share_claims(m: "EmergenceMeasured") -> Iterator[Claim]:
    """Random starts: which share reaches the block optimum, and which is a gradient step."""
    from ar_interp.studies.logged import log_claims

    reached = m.reached
    yield from log_claims(m, "signs")
    yield m.claim(
        "signs/reached",
        f"Every start ends at the block optimum, whatever its signs: share of {reached.n}",
        lambda m: m.reached,
        evidence="training",
        source=MODES,
        tolerance="reached",
        predicted=1,
        side="at least",
        control=("those that are a gradient step", m.one_step_share),
    )
    if m.run.training.entries == "main":
        predicted = 2.0 ** (1 - m.config.dim)
        yield m.claim(
            "signs/share",
            f"Random starts of the main blocks end as one gradient step in 2^(1 - d) = {predicted:g} of the cases, "
            "else as a reflected one: share",
            lambda m: m.one_step_share,
            evidence="training",
            source=MODES,
            tolerance="random starts",
            predicted=predicted,
            control=("every start", 1.0),
        )


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


AUTHORS = "five coordinates and 100 tokens, as the authors simulate it"
OF_THE_AUTHORS: dict[str, Any] = {"dim": 5, "n_ctx": 99, "objective": "sampled", "steps": 200}


def _exhibits() -> tuple[Exhibit, ...]:
    from ar_interp.studies.emergence.exhibits import EXHIBITS

    return EXHIBITS


STRUCTURES = {
    "emergence": Structure(
        title="How training finds the step",
        meaning="A gradient step is a layer whose two circuits are multiples a and b of the identity; its step size is "
        "a b. Plain descent from such a layer stays in this plane for many laws of the first token, and the whole path "
        "is known: a plateau whose length grows with the logarithm of the start, a drop, and an end that depends on "
        "the start in a and b, but not in a b. Where coordinates differ each has a plateau of its own.",
        formulas=(
            "loss/2 = d (constant - slope y + curvature y²/2), y = a b; slope = n κ₁, curvature = n κ₂ + κ₃ Σ 1/(t-1).",
            "Descent: a + b ← (1 + lr r)(a + b), a - b ← (1 - lr r)(a - b), r = slope - curvature a b.",
            "Flow conserves a² - b²; from a = b, y(t) = y*/(1 + (y*/y₀ - 1) e^{-2 slope t}).",
            "Gaussian coordinates of size σ_j: a_j b_j tends to about 1/(5 σ_j²), after a time of about "
            "ln(1/(5 σ_j² y₀))/(6 n σ_j⁴).",
        ),
    ),
    "signs": Structure(
        title="Reflected steps",
        meaning="For independent phases the loss does not see signs of coordinates that enter keys and values alike, "
        "so training from random weights ends with any pattern D of signs. Only D = ±I is a gradient step; the others "
        "compute D M D, a reflected step with the same loss on the training law, and another function.",
        formulas=(
            "L(B D, A D) = L(B, A) for every diagonal D of signs.",
            "Where W = λ I: prediction_j / target_j = a b D_j Σ_r D_r |x_{1r}|².",
        ),
    ),
}

STUDY = Study(
    name="emergence",
    source="Zheng et al. 2024, arXiv 2405.16845",
    question="How does training find the gradient step, and which one does it find?",
    covers=lambda setting: isinstance(setting, Emergence),
    recipes={
        "emergence-gaussian": _recipe(
            "a plateau, a drop, exactly as the recursion says", "gaussian", start=(0.01, 0.01), lr=1 / 2400, steps=1200
        ),
        "emergence-gaussian-unbalanced": _recipe(
            "a and b end apart, and a² - b² shrinks with every step",
            "gaussian",
            start=(0.5, 1.5),
            lr=0.002,
            steps=300,
        ),
        "emergence-signs": _recipe(
            "from a and b of unequal sign, past the saddle", "signs", start=(0.1, -0.3), lr=0.01, steps=300
        ),
        "emergence-onehot": _recipe("from above", "one-hot", start=(2.0, 2.0), lr=0.025, steps=150),
        "emergence-ones": _recipe(
            "the plane is left, and off-diagonal entries appear", "ones", start=(0.1, 0.1), lr=0.01, steps=800
        ),
        "emergence-ones-masked": _recipe(
            "diagonals alone, as the authors mask it",
            "ones",
            start=(0.1, 0.1),
            lr=0.01,
            steps=400,
            entries="diagonal",
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
            f"{AUTHORS}, fresh sequences at every step",
            "gaussian",
            start=(0.1, 0.1),
            lr=5e-5,
            batch=256,
            **OF_THE_AUTHORS,
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
    },
    claims=_claims,
    exhibits=_exhibits,
    structures=STRUCTURES,
)
