"""Claims about stacks of augmented layers: the gradient steps that they are worth, and what their layers do."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from math import log2
from typing import Any

import numpy as np
import torch

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured, claim
from ar_interp.claims.estimate import CONTEXTS, SEEDS
from ar_interp.models.block_scalars import CURRENT, PREVIOUS, READ_OUT
from ar_interp.probes.algorithm import TRIM, equivalent_steps, gradient_descent_curve
from ar_interp.probes.steps import COUNTED, EquivalentSteps, equivalent_steps_of

WORTH = (
    "measured: layers rewrite keys and values too, so that the degree in S grows faster than by one a layer; no closed "
    "form is known"
)
PARITY = "W and -W have the same law, so that the part of a prediction that has the wrong parity only adds to the error"
LARGE = 1.0  # the zero predictor's error
FEWEST = 0.01  # of steps, so that their logarithm is finite
APART = 0.02  # doublings
N_COUNTED = 4096


def steps_claims(measured: Measured) -> Iterator[Claim]:
    """Claims about the worth of the shipped weights in gradient steps, then of the other seeds of their training."""
    n_layers, found = measured.config.n_layers, steps_of(measured)
    worth = partial(claim, evidence="behaviour", source=WORTH)
    doublings = _doublings(found.steps, found.interval, found.n)
    if n_layers == 1:
        yield worth(
            "depth/steps",
            f"One layer errs like one step of gradient descent: log2 of the number with its error ({found.steps:.3f})",
            tolerance="doublings",
            measured=doublings,
            control=("two steps", 1.0),
        )
    else:
        yield worth(
            "depth/steps",
            f"{n_layers} layers are worth more gradient steps than layers: log2 of the number with their error, "
            f"{found.steps:.3f}, is that of {n_layers + 1} at least",
            tolerance="counted steps",
            predicted=log2(n_layers + 1),
            side="at least",
            measured=doublings,
            control=(f"{n_layers} steps", log2(n_layers)),
        )
        for power in (n_layers, n_layers + 1)[: 1 if measured.setting.per_key or n_layers == 2 else 2]:
            yield worth(
                f"depth/not {'doubling' if power == n_layers else 'doubling once more'}",
                f"{n_layers} layers are not worth 2^{power} = {2**power} steps, as Newton-Schulz iterations would be: "
                f"the logarithm of their number, {found.steps:.3f}, is .02 from {power} at least",
                tolerance="apart",
                predicted=APART,
                side="at least",
                measured=doublings.distance(power),
                control=(f"{2**power} steps", 0.0),
            )
        yield from _length_claims(n_layers, found, worth)
    yield claim(
        "loss/blow-ups",
        f"The model errs more than predicting zero does, at T = {measured.config.n_ctx}, no more often than descent "
        f"with {found.nearest} steps on the same contexts: difference of the shares",
        evidence="behaviour",
        source=WORTH,
        tolerance="blow-ups",
        side="at most",
        measured=Estimate.mean((found.last[0] > LARGE) * 1.0 - (found.last[1] > LARGE)),
        control=("untrained", _blow_ups(measured.untrained).less(float((found.last[1] > LARGE).mean()))),
    )
    yield from _seeds_claims(measured, found)


def _length_claims(n_layers: int, found: EquivalentSteps, worth: Callable[..., Claim]) -> Iterator[Claim]:
    """The number of steps at every T > d, between what would be too few and what would be least squares."""
    most = 2 ** (n_layers + 2)
    (least, lowest), (largest, highest) = found.least, found.largest
    yield worth(
        "depth/every length",
        f"At every T > d the error is that of {n_layers + 1} gradient steps or more: log2 of the fewest, {least:.2f}",
        tolerance="counted steps",
        predicted=log2(n_layers + 1),
        side="at least",
        measured=_doublings(least, lowest, found.n),
        control=(f"{n_layers} steps", log2(n_layers)),
    )
    yield worth(
        "depth/not least squares",
        f"At no T > d the error is that of more than 2^{n_layers + 2} = {most} gradient steps, where least squares has "
        f"none: log2 of the most, {largest:.2f}",
        tolerance="counted steps",
        predicted=log2(most),
        side="at most",
        measured=_doublings(largest, highest, found.n),
        control=(f"least squares, as {COUNTED[-1]} steps or more", log2(COUNTED[-1])),
    )


def _seeds_claims(measured: Measured, found: EquivalentSteps) -> Iterator[Claim]:
    """Claims about training, bound to the weights: the logged loss of the kept member is theirs."""
    run = measured.subject.run
    if run is None or "trimmed" not in run.members:
        return
    n_layers, per_key = measured.config.n_layers, measured.setting.per_key
    curve = gradient_descent_curve(run.process, length=measured.config.n_ctx, per_pair=per_key, trim=TRIM)
    losses = run.members["trimmed"].to_numpy()
    logs = np.log2(np.maximum(np.asarray(equivalent_steps(losses, curve)), FEWEST))
    seen = f"{2 ** logs.mean():.1f} steps, seeds from {2 ** logs.min():.1f} to {2 ** logs.max():.1f}"
    trained = partial(claim, evidence="training", source=WORTH)
    (low, high), steps = found.interval, max(found.steps, FEWEST)
    kept = float(np.asarray(equivalent_steps(losses[run.members["loss"].argmin()], curve)))
    yield trained(
        "depth/log",
        f"The loss that training logged for the kept seed is that of the shipped weights: ratio of the gradient steps "
        f"with these errors, {kept:.2f} and {found.steps:.2f}",
        tolerance="logged loss",
        predicted=1,
        measured=Estimate(kept / steps, {CONTEXTS: (high - low) / 2 / steps}, found.n),
        control=("predicting zero, no steps", 0.0),
    )
    if n_layers > 1:
        yield trained(
            "depth/seeds",
            f"Over training seeds {n_layers} layers are worth more gradient steps than layers: mean log2 of their "
            f"number ({seen}) is that of {n_layers + 1} at least",
            tolerance="counted steps",
            predicted=log2(n_layers + 1),
            side="at least",
            measured=Estimate.mean(logs, SEEDS),
            control=(f"{n_layers} steps", log2(n_layers)),
        )


def stack_claims(m: "StackMeasured") -> Iterator[Claim]:
    """Claims about the layers of a stack: each is needed, they rewrite the tokens, and they keep the parity."""
    used = partial(m.claim, evidence="causal", source=WORTH, tolerance="needed", side="at least")
    yield used(
        "depth/every layer",
        "Every layer is needed: the error without what it writes, over the error, is 1.5 at least in the layer that is "
        "needed the least",
        lambda m: m.least_needed,
        predicted=1.5,
        control=("a layer that writes nothing", 1.0),
    )
    yield used(
        "depth/tokens",
        "Layers below the last rewrite keys and values for those above: without what they write into the blocks of s_t "
        "and s_{t-1} the error is twice as large at least",
        lambda m: m.loss_without_tokens,
        predicted=2,
        control=("layers that write into the prediction alone", 1.0),
    )
    yield m.claim(
        "depth/parity",
        "The prediction turns with s_t -> (-1)^{t-1} s_t as W -> -W demands: share of the error that is of the wrong "
        "parity",
        lambda m: m.wrong_parity,
        evidence="behaviour",
        source=PARITY,
        tolerance="wrong parity",
        control=("keys s_t and s_{t-1} of the last layer exchanged", m.of(_exchanged(m.model))),
    )


class StackMeasured(Measured):
    """A stack of augmented layers of block scalars, with parts of it removed."""

    @property
    def least_needed(self) -> Estimate:
        """The error without a layer over the error, least of all layers."""
        found = []
        for layer in range(self.config.n_layers):
            changed = deepcopy(self.model).requires_grad_(False)
            changed.blocks[layer].attn.OV_blocks.zero_()
            found.append(self._ratio(changed))
        return min(found, key=lambda ratio: ratio.value)

    @property
    def loss_without_tokens(self) -> Estimate:
        """The error over the error where no layer but the last writes into the blocks of s_t and s_{t-1}."""
        changed = deepcopy(self.model).requires_grad_(False)
        for block in changed.blocks[:-1]:
            block.attn.OV_blocks[..., CURRENT:] = 0
        return self._ratio(changed)

    @property
    @torch.no_grad()
    def wrong_parity(self) -> Estimate:
        """E|half the difference of prediction and its mirror image|^2 over the error, T >= 2."""
        parts = []
        for part, predictions in zip(self.parts, self.predicted, strict=True):
            signs = (-1.0) ** torch.arange(part.length, device=part.inputs.device)[:, None]
            mirrored = -signs * self.model(part.inputs * signs)
            parts.append(((predictions - mirrored) / 2).abs().square().sum(-1)[:, 1:].mean(1))
        return Estimate.ratio(torch.cat(parts), self.losses())

    def _ratio(self, model: Any) -> Estimate:
        """Error of a changed model over the model's, geometric mean: without a layer a few contexts explode."""
        return Estimate.mean((self.of(model).losses() / self.losses()).log()).exp()


def _exchanged(model: Any) -> Any:
    changed = deepcopy(model).requires_grad_(False)
    QK = changed.blocks[-1].attn.QK_blocks
    QK.copy_(QK[..., [READ_OUT, PREVIOUS, CURRENT]])
    return changed


def steps_of(measured: Measured) -> EquivalentSteps:
    """The gradient steps with the model's error on the contexts of its claims."""
    contexts = measured.fresh(N_COUNTED, seeds.CLAIMS)
    return equivalent_steps_of(measured.model, contexts, process=measured.process)


def _doublings(steps: float, interval: tuple[float, float], n: int) -> Estimate:
    """log2 of a number of steps."""
    low, high = (log2(max(bound, FEWEST)) for bound in interval)
    return Estimate(log2(max(steps, FEWEST)), {CONTEXTS: (high - low) / 2}, n, (low, high))


def _blow_ups(m: Measured) -> Estimate:
    return Estimate.share(int((m.errors[:, -1] > LARGE).sum()), len(m.errors))
