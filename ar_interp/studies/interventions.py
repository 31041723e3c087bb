"""Claims that several studies make about what a model *uses*: a part is moved, scaled or replaced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured, claim
from ar_interp.claims.estimate import CONTEXTS
from ar_interp.claims.tolerances import TOLERANCES
from ar_interp.estimators import OLS
from ar_interp.models.opened import as_model
from ar_interp.probes.context import LAST, estimates_of
from ar_interp.probes.paths import Path
from ar_interp.probes.scrubbing import COMPLEMENT, WRONG_KEYS, scrub
from ar_interp.probes.swap import SwappedContext
from ar_interp.processes import Sequences

SCALING = "a stationary point: the error is a parabola in the scale of what the last layer writes"
SCRUBBING = "Chan et al. 2022, causal scrubbing, of the structure that Sander et al. 2024 find"
N_SOLVED = 64  # contexts that least squares is tried on
N_SCRUBBED = 1024


class Expected(NamedTuple):
    """The squared error that theory allows the swap beyond the ceiling's.

    Attributes:
        because: a clause that says why.
        by_pair: (source, target) -> |moved - goal|^2 - |ceiling - goal|^2 of each pair at the last T.
        mean: of these over that of |goal|^2, where it has a closed form; else that of the same pairs.
    """

    because: str
    by_pair: Callable[[Sequences, Sequences], Float[Tensor, "batch"]]
    mean: float | None = None


def excess_of(swapped: SwappedContext) -> Float[Tensor, "batch"]:
    """|moved - goal|^2 - |ceiling - goal|^2 of each pair."""
    return energy(swapped.moved - swapped.goal) - energy(swapped.through - swapped.goal)


def energy(predictions: Inexact[Tensor, "batch pos dim"]) -> Float[Tensor, "batch"]:
    """|x|^2, summed over positions."""
    return predictions.detach().abs().double().square().sum((1, 2)).cpu()


def estimate_claim(
    measured: Measured,
    statement: str,
    *,
    source: str,
    reference: Callable[[Sequences], Inexact[Tensor, "batch dim dim"]] | None = None,
    predicted: float | None = None,
) -> Claim:
    """Claim about how far the model's estimate of W is from W: |Ŵ - W|^2 / |W|^2 at the longest context.

    The reference's distance is measured on the same contexts: what is sampled is the difference between the two.

    Args:
        statement: says what theory expects.
        reference: contexts -> an estimate of W from them, that theory says the model's is; W itself if left out.
        predicted: the expectation of the reference's distance; its mean over the same contexts if left out.
    """
    contexts = measured.fresh(TOLERANCES["estimate/W"].n, seeds.ESTIMATES, least=2)
    W, size = contexts.W, energy(contexts.W)
    beyond = torch.zeros_like(size) if reference is None else energy(reference(contexts) - W)
    sampled = (beyond.sum() / size.sum()).item()
    expected = sampled if predicted is None else predicted
    known = 0.0 if reference is None else expected  # of the mean of what is subtracted
    few = contexts[: min(len(contexts), N_SOLVED)]
    solved = energy(OLS().estimate(few.pairs())[:, -1] - few.W).sum().item() / energy(few.W).sum().item()

    @torch.no_grad()
    def distance(m: Measured) -> Estimate:
        off = energy(estimates_of(as_model(m.model), contexts, places=LAST)[-1][:, -1] - W)
        return Estimate.ratio(off - beyond, size).less(-known)

    return measured.claim(
        "estimate/W",
        f"{statement}: |Ŵ - W|^2 / |W|^2 at T = {contexts.length} (least squares: {solved:.2g})",
        distance,
        evidence="activations",
        source=source,
        tolerance="estimate/W",
        predicted=expected,
    )


def scale_claim(measured: Measured) -> Claim:
    """Claim that nothing is gained by scaling what the last layer writes: the parabola has its bottom at 1."""
    best = best_scale(measured)
    return claim(
        "loss/best scale",
        "Scaling what the last layer writes can only add to the error: best factor",
        evidence="causal",
        source=SCALING,
        tolerance="best scale",
        predicted=1,
        measured=best,
        control=("the same model, writing twice as much", best.over(2)),
    )


@torch.no_grad()
def best_scale(measured: Measured) -> Estimate:
    """argmin over g of E|rest + g written - target|^2, T >= 2: E<written, missing> / E|written|^2.

    Where theory has a stand-in that is best as it is, so that both terms are its power, only the differences from it
    are sampled, if they vary less.
    """
    hook = f"blocks.{measured.config.n_layers - 1}.hook_attn_out"
    stand_in = measured.stand_in
    terms, beyond = [], []
    for part, predictions in zip(measured.parts, measured.predicted, strict=True):
        targets = part.targets
        with measured.model.hooks(fwd_hooks=[(hook, lambda value, hook: torch.zeros_like(value))]):
            rest = measured.model(part.inputs)
        terms.append(_terms(predictions - rest, targets - rest))
        if stand_in is not None:
            beyond.append(stand_in.power + terms[-1] - _terms(stand_in.predict(part.inputs), targets))
    pairs = [torch.cat(each, dim=1) for each in (terms, beyond) if each]
    found = [Estimate.ratio(above, below) for above, below in pairs]
    return min(found, key=lambda each: each.half_width)


def _terms(written: Tensor, missing: Tensor) -> Float[Tensor, "term=2 batch"]:
    """<written, missing> and |written|^2, means over T >= 2."""
    written, missing = (x[:, 1:] for x in (written, missing))
    n = written.shape[1]
    return torch.stack([(written.conj() * missing).real.sum((1, 2)), written.abs().square().sum((1, 2))]).double() / n


def keys_claim(measured: Measured) -> Claim:
    """Claim that only the keys that theory names matter: all else may come from another sequence."""
    keys = measured.setting.hypothesis
    return _scrub_claim(
        measured,
        "positions/scrub",
        f"Only the key{'s T and T-1 matter' if len(keys) > 1 else ' T matters'}: share of the loss that is recovered "
        "with all else taken from another sequence",
        keys,
        control=("older keys instead", WRONG_KEYS),
        tolerance="scrubbed keys",
        predicted=1,
    )


def step_claim(measured: Measured) -> Claim:
    """Claim about the share of one augmented layer that is the gradient step alone."""
    setting = measured.setting
    return _scrub_claim(
        measured,
        "step/scrub",
        "Only <s_{t-1}, s_T> s_t matters, as far as in the best block scalars: share of the loss that is recovered "
        "with all other paths taken from another sequence",
        [Path(*path) for path in setting.hypothesis],
        control=("all other paths instead", COMPLEMENT),
        tolerance="scrubbed paths",
        predicted=setting.recovered_by_step(),
    )


def _scrub_claim(
    measured: Measured, name: str, statement: str, hypothesis: Any, control: tuple[str, str], **fields: Any
) -> Claim:
    contexts = measured.fresh(N_SCRUBBED, seeds.REMOVAL)
    scrubbed = scrub(measured.model, contexts, hypothesis, n_resamples=1)
    description, condition = control
    return claim(
        name,
        statement,
        evidence="causal",
        source=SCRUBBING,
        measured=Estimate(scrubbed.recovered, {CONTEXTS: 1.96 * scrubbed.standard_error}, len(contexts)),
        control=(description, scrubbed.controls[condition]),
        **fields,
    )
