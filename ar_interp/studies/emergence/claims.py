"""Claims about the training of merged heads: its path, the signs that it ends with, and which starts do."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ar_interp.claims import Claim, Subject
from ar_interp.theory import off_plane_gradient, ones_optimum

if TYPE_CHECKING:
    from ar_interp.studies.emergence.measured import EmergenceMeasured

SOURCE = "Zheng et al. 2024, arXiv 2405.16845; the recursion is exact"
FLOW = "Zheng et al. 2024, arXiv 2405.16845; gradient flow in closed form"
MODES = "not in Zheng et al. 2024: by counting the modes of the phases"
SLOW = 0.02  # mu = lr slope below which the flow's half time is claimed of descent


def claims_of(subject: Subject) -> Iterator[Claim]:
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
                "The loss stays on a plateau, then drops: a b is half of its end y* at ln(y*/y - 1) / (2 slope): their "
                "ratio",
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
