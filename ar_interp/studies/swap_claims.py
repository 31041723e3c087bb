"""Claims about the swap: the estimate of one sequence in the forward pass of another, and what theory expects of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured, Subject, claim
from ar_interp.claims.estimate import CONTEXTS
from ar_interp.claims.tolerances import TOLERANCES
from ar_interp.claims.verdicts import Side
from ar_interp.models.opened import as_model
from ar_interp.probes.swap import CONTROLS, OTHER, RANDOM, SWAP, SwappedContext, swap_context
from ar_interp.processes import Sequences
from ar_interp.setting import DiagonalHeads, GradientStep, HaarStack
from ar_interp.studies.blocks_measured import BlocksMeasured
from ar_interp.studies.heads_measured import HeadsMeasured
from ar_interp.studies.interventions import Expected, energy, excess_of

SWAPPING = "activation patching of the in-context map of Sander et al. 2024: prediction = W_source s_T(target)"


def expected_of(subject: Subject) -> Expected | None:
    """Error of the swap that theory expects beyond the ceiling, where it expects any."""
    setting = subject.setting
    if isinstance(setting, DiagonalHeads):
        return HeadsMeasured(subject).left_behind if setting.pairs else None
    second = isinstance(setting, GradientStep) and setting.pairs
    if second or (isinstance(setting, HaarStack) and setting.config.n_layers == 1):
        return BlocksMeasured(subject).second_query
    return None


class Swapped(NamedTuple):
    """A swap of so many pairs that its rows are decided, and what they are.

    Attributes:
        share: the score of the swap over the ceiling's; at least 1.
        excess: its squared error less the ceiling's; `expected_excess`, or at most 0 where theory names none.
        steering: the largest score of the controls; 0.
        because: why an excess is expected; empty where none is.
    """

    found: SwappedContext
    tolerance: str
    share: Estimate
    excess: Estimate
    expected_excess: float
    steering: Estimate
    because: str

    @property
    def side(self) -> Side:
        """Equality where an excess is expected, else a bound from above."""
        return "equal to" if self.because else "at most"


def swapped_of(model: Any, subject: Subject, draw: Callable[[int, int], Sequences]) -> Swapped:
    """The swap of a model at the last T.

    Args:
        draw: (number, use of the seed) -> sequences.
    """
    tolerance = "swap" if as_model(model).is_augmented else "swap of patterns"
    source, target = (draw(TOLERANCES[tolerance].n, use) for use in (seeds.SWAP_SOURCE, seeds.SWAP_TARGET))
    found, expected = swap_context(model, source, target, positions=[target.length]), expected_of(subject)
    goal, beyond = energy(found.goal), excess_of(found)
    known, mean = torch.zeros_like(goal), 0.0
    if expected is not None:
        known = expected.by_pair(source, target)
        mean = (known.sum() / goal.sum()).item() if expected.mean is None else expected.mean
    scores = [_last(found, name, "score") for name in CONTROLS]
    errors = np.array([score.half_width for score in scores]) / 1.96
    return Swapped(
        found=found,
        tolerance=tolerance,
        share=_last(found, SWAP, "normalised"),
        excess=Estimate.ratio(beyond - known, goal).less(-mean),
        expected_excess=mean,
        steering=Estimate.largest(np.array([score.value for score in scores]), errors, found.n),
        because="" if expected is None else expected.because,
    )


def controls_of(swapped: SwappedContext) -> dict[str, Estimate]:
    """Controls of the share, the excess and the swap's own controls, by description, in this order."""
    return {
        "a random state of the same norm": _last(swapped, RANDOM, "normalised"),
        "the state of another source": _last(swapped, OTHER, "relative_excess"),
        "the swap itself": _last(swapped, SWAP, "score"),
    }


def swap_claims(measured: Measured) -> list[Claim]:
    """Claims that the prediction turns with the estimate, to where it must, and with nothing else.

    The score, a share of the ceiling's, keeps what lies along W_source s_T(target); the excess of the squared error
    keeps all. The share can exceed 1 where the target's s_{T-1} is read besides, see `swap_context`.
    """
    moved = swapped_of(measured.model, measured.subject, lambda n, use: measured.fresh(n, use, least=2))
    found, swap = moved.found, partial(claim, evidence="causal", source=SWAPPING, tolerance=moved.tolerance)
    random, other, itself = controls_of(found).items()
    left = f", but for what {moved.because}" if moved.because else ""
    return [
        swap(
            "estimate/swap",
            f"Another sequence's {found.what} makes the prediction W_source s_T(target): share of what is possible, "
            f"{found.ceiling:.3f} (score {found.score:.3f})",
            predicted=1,
            side="at least",
            measured=moved.share,
            control=random,
        ),
        swap(
            "estimate/swap error",
            f"Moved, the estimate predicts W_source s_T(target) as well as it can{left}: relative squared error "
            f"({found.error:.3g}), less the ceiling's ({found.error - found.excess:.3g})",
            predicted=moved.expected_excess,
            side=moved.side,
            measured=moved.excess,
            control=other,
        ),
        swap(
            "estimate/controls",
            "The state of a sequence with the target's own W, of another source, and a random one do not steer: "
            "largest score",
            measured=moved.steering,
            control=itself,
        ),
    ]


def _last(swapped: SwappedContext, condition: str, column: str) -> Estimate:
    frame = swapped.by_position
    value, error = (frame.loc[frame["condition"] == condition, name].iloc[-1] for name in (column, f"{column}_se"))
    return Estimate(float(value), {CONTEXTS: 1.96 * float(error)}, swapped.n)
