"""Claims that several studies make about what a model *uses*: a part is moved, scaled or replaced."""

from functools import partial
from typing import Any

import numpy as np
import torch

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Measured, claim
from ar_interp.claims.estimate import CONTEXTS
from ar_interp.probes.paths import Path
from ar_interp.probes.scrubbing import COMPLEMENT, WRONG_KEYS, scrub
from ar_interp.probes.swap import CONTROLS, RANDOM, SWAP, SwappedContext, swap_context

SWAPPING = "activation patching of the in-context map of Sander et al. 2024: prediction = W_source s_T(target)"
SCALING = "a stationary point: the error is a parabola in the scale of what the last layer writes"
SCRUBBING = "Chan et al. 2022, causal scrubbing, of the structure that Sander et al. 2024 find"
N_PAIRS = 512
N_SCRUBBED = 1024


def swap_claims(measured: Measured) -> list[Claim]:
    """Claims that the prediction turns with the estimate, and with nothing else.

    The share of the ceiling is counted up to 1: it can be more where the target's s_{T-1} is read besides, see
    `swap_context`.
    """
    source, target = (measured.fresh(N_PAIRS, seed) for seed in (seeds.SWAP_SOURCE, seeds.SWAP_TARGET))
    swapped = swap_context(measured.model, source, target, positions=[measured.config.n_ctx])
    swap = partial(claim, evidence="causal", source=SWAPPING, tolerance="swap")
    return [
        swap(
            "estimate/swap",
            f"Another sequence's {swapped.what} makes the prediction W_source s_T(target): share of what is possible, "
            f"{swapped.ceiling:.3f} (score {swapped.score:.3f})",
            predicted=1,
            side="at least",
            measured=_last(swapped, SWAP, "normalised"),
            control=("a random state of the same norm", _last(swapped, RANDOM, "normalised")),
        ),
        swap(
            "estimate/controls",
            "The state of a sequence with the target's own W, of another source, and a random one do not steer: "
            "largest score",
            measured=_largest_control(swapped),
            control=("the swap itself", _last(swapped, SWAP, "score")),
        ),
    ]


def scale_claim(measured: Measured) -> Claim:
    """Claim that nothing is gained by scaling what the last layer writes: the parabola has its bottom at 1."""
    return measured.claim(
        "loss/best scale",
        "Scaling what the last layer writes can only add to the error: best factor",
        best_scale,
        evidence="causal",
        source=SCALING,
        tolerance="best scale",
        predicted=1,
    )


@torch.no_grad()
def best_scale(measured: Measured) -> Estimate:
    """argmin over g of E|rest + g written - target|^2, T >= 2."""
    hook = f"blocks.{measured.config.n_layers - 1}.hook_attn_out"
    inner, energy = [], []
    for part in measured.parts:
        predictions = measured.model(part.inputs)
        with measured.model.hooks(fwd_hooks=[(hook, lambda value, hook: torch.zeros_like(value))]):
            rest = measured.model(part.inputs)
        written, missing = ((x - rest)[:, 1:].flatten(1) for x in (predictions, part.targets))
        inner.append((written.conj() * missing).real.sum(-1))
        energy.append(written.abs().square().sum(-1))
    return Estimate.ratio(torch.cat(inner), torch.cat(energy))


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


def _last(swapped: SwappedContext, condition: str, column: str) -> Estimate:
    frame = swapped.by_position
    value, error = (frame.loc[frame["condition"] == condition, name].iloc[-1] for name in (column, f"{column}_se"))
    return Estimate(float(value), {CONTEXTS: 1.96 * float(error)}, swapped.n)


def _largest_control(swapped: SwappedContext) -> Estimate:
    found = [_last(swapped, name, "score") for name in CONTROLS]
    return Estimate.largest(
        np.array([one.value for one in found]), np.array([one.half_width for one in found]) / 1.96, swapped.n
    )
