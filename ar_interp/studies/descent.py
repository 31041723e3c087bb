"""The end of gradient descent on diagonal heads: the scale it picks, the traps, and the share of seeds that escape."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ar_interp.checkpoints import TrainingRun
from ar_interp.claims import Claim, Estimate, Subject, claim
from ar_interp.claims.estimate import SEEDS
from ar_interp.setting import DiagonalHeads
from ar_interp.studies.base import Structure, Study
from ar_interp.theory import gradient_descent_scale, trapped_levels

if TYPE_CHECKING:
    from ar_interp.studies.heads_measured import HeadsMeasured

FLOW = "conservation of |A|^2 - |P|^2 under gradient flow"
BALANCE = "conservation of A A^T - B B^T under gradient flow from small weights"
TRAPS = "local minima of the orthogonal loss, by numerical optimisation of their structure"
REFERENCE = (5, 10, 20)  # n_heads, dim, n_ctx of an earlier run of 256 seeds
EARLIER = (16, 256)  # seeds that escaped there, of how many
ALONE = (459, 1024)  # the same of one head, otherwise trained alike
MORE = 2  # times as often as independent heads
ON_LEVEL = 1e-3  # far below the distance between levels
ESCAPED = 0.01  # above the global minimum; the next level is .45 higher


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.heads_measured import HeadsMeasured
    from ar_interp.studies.logged import log_claims

    setting, run = subject.setting, subject.run
    assert isinstance(setting, DiagonalHeads)
    if run is None or run.training.optimizer != "gd":
        return
    if not setting.pairs or 2 * setting.config.n_heads == setting.config.dim:
        measured = HeadsMeasured(subject)
        yield _scale_claim(measured)
        yield _balance_claim(measured)
    if run.snapshots:
        yield _conserved_claim(run)
    if setting.levels is not None and len(run.members) > 1:
        yield from log_claims(HeadsMeasured(subject), "descent")
        yield _level_claim(run, setting.levels)
        if (setting.config.n_heads, setting.config.dim, setting.config.n_ctx) == REFERENCE:
            yield from _escape_claims(run, setting.minimum)


def _scale_claim(measured: "HeadsMeasured") -> Claim:
    config, family = measured.setting.config, measured.setting.family
    predicted = gradient_descent_scale(
        dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx, init_scale=config.init_scale, family=family
    )
    return measured.claim(
        "descent/scale",
        "Descent picks the scale |c| that follows from what gradient flow conserves",
        lambda m: abs(m.positions.scale),
        evidence="training",
        source=FLOW,
        tolerance="init scale",
        predicted=predicted,
    )


def _balance_claim(measured: "HeadsMeasured") -> Claim:
    """Claim about what balance, A A^T ~ B B^T, adds to the minimum; other gauges of the same minimum do not have it."""
    dim, n_heads = measured.setting.config.dim, measured.setting.config.n_heads
    balance = partial(measured.claim, "descent/balance", evidence="training", source=BALANCE)
    if n_heads > dim:
        return balance(
            "More heads than coordinates form a tight frame: E_M = sqrt(1 - d / H)",
            lambda m: m.heads.e_m,
            tolerance="balanced frame",
            predicted=(1 - dim / n_heads) ** 0.5,
        )
    return balance(
        "Keys become orthogonal among themselves: rms cos(a_h, a_h')",
        lambda m: m.heads.cosine_aa,
        tolerance="balanced cosine",
    )


def _conserved_claim(run: TrainingRun) -> Claim:
    """Balance is there from the start, and stays, while all else forms."""
    from ar_interp.probes.along import changes_of_grams

    along = changes_of_grams(run.models_along)
    conserved, formed = np.array([(each["conserved"], each["formed"]) for each in along.values()]).max(0)
    return claim(
        "descent/conserved",
        f"A A^T - B B^T is conserved along training, at {len(along)} steps from {min(along)} to {max(along)}: "
        "largest change over |A A^T| of the end",
        evidence="training",
        source=BALANCE,
        tolerance="conserved",
        measured=conserved,
        control=("the change of A A^T itself", formed),
    )


def _level_claim(run: TrainingRun, levels: np.ndarray) -> Claim:
    config, losses = run.config, run.members["loss"].to_numpy()
    n, settled = len(losses), _number_on(losses, levels)
    shorter = trapped_levels(dim=config.dim, n_heads=config.n_heads, max_length=config.n_ctx // 2)
    return claim(
        "descent/levels",
        f"Seeds end on a predicted level, one for each number of '-' blocks: share within {ON_LEVEL} "
        f"({n - settled} of {n} are on none)",
        evidence="training",
        source=TRAPS,
        tolerance="levels",
        predicted=1,
        side="at least",
        measured=Estimate.share(settled, n, SEEDS),
        control=("levels of contexts half as long", Estimate.share(_number_on(losses, shorter), n, SEEDS)),
    )


def _escape_claims(run: TrainingRun, minimum: float) -> Iterator[Claim]:
    """The share of seeds that escape every trap, at the size that earlier runs were made for."""
    losses, n_heads = run.members["loss"].to_numpy(), run.config.n_heads
    n, escaped = len(losses), int((losses < minimum + ESCAPED).sum())
    found, earlier = Estimate.share(escaped, n, SEEDS), Estimate.share(*EARLIER, SEEDS)
    alone = Estimate.share(*ALONE, SEEDS)
    independent = alone.value**n_heads
    spread = n_heads * alone.half_width / alone.value * independent
    share = partial(claim, evidence="training", source=TRAPS, measured=found)
    yield share(
        "descent/escape",
        f"Seeds escape every trap as often as in an earlier run, {EARLIER[0]} of {EARLIER[1]}: share, {escaped} of {n}",
        tolerance="share",
        predicted=earlier.value,
        control=("every seed escapes", 1.0),
    )
    yield share(
        "descent/dependence",
        f"Heads are not trapped independently: of single heads {ALONE[0]} of {ALONE[1]} seeds escape, of {n_heads} at "
        f"least twice as many as that to the power {n_heads}, {independent:.3g}: share, {escaped} of {n}",
        tolerance="independence",
        predicted=Estimate(MORE * independent, {SEEDS: MORE * spread}, ALONE[1]),
        side="at least",
        control=("independent heads", independent),
    )


def _number_on(losses: np.ndarray, levels: np.ndarray) -> int:
    return int((np.abs(losses[:, None] - levels).min(axis=1) < ON_LEVEL).sum())


STRUCTURES = {
    "descent": Structure(
        title="How training got there",
        meaning="The loss over training, and where other random beginnings ended: some structures are forced by the "
        "minimum, others are chosen by the path of gradient descent, and some seeds are trapped on the way.",
        formulas=(
            "Gradient flow conserves A A^T - B B^T and |A|^2 - |P|^2: keys balance values, and the scale c is fixed.",
        ),
    ),
}

STUDY = Study(
    name="descent",
    source="Sander et al. 2024, non-augmented tokens, and what gradient flow conserves",
    question="Which of the minima does gradient descent choose, and where is it trapped?",
    covers=lambda setting: isinstance(setting, DiagonalHeads),
    claims=_claims,
    structures=STRUCTURES,
)
