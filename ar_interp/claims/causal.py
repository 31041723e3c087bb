"""Claims about what a model *uses*: its estimate is moved, its parts are removed, and the prediction must follow."""

from typing import Any

import numpy as np
import torch

from ar_interp.claims.core import Claim, claim
from ar_interp.claims.general import N_SEQUENCES, GeneralMeasured, GeneralSubject
from ar_interp.claims.head_count import PARITY
from ar_interp.probes.swap import RANDOM, SWAP, SwappedContext, swap_context
from ar_interp.processes import Process
from ar_interp.setting.sampled import best_equivariant_head

SWAPPING = "activation patching of the in-context map of Sander et al. 2024: prediction = W_source s_T(target)"
SCALING = "a stationary point: the error is a parabola in the scale of what the last layer writes"
N_PAIRS = 512
SOURCE_SEED, TARGET_SEED = 2**43, 2**43 + 1  # apart from training, its evaluation and all other samples


def swap_claims(model: Any, process: Process, *, n_ctx: int, dtype: torch.dtype = torch.float64) -> list[Claim]:
    """Whether the prediction turns with the estimate, and with nothing else.

    The share of the ceiling is counted up to 1: it can be more where the target's s_{T-1} is read besides, see
    `swap_context`.
    """
    source, target = (process.sample(N_PAIRS, n_ctx + 1, seed=seed, dtype=dtype) for seed in (SOURCE_SEED, TARGET_SEED))
    swapped = swap_context(model, source, target, positions=[n_ctx])
    strongest = max(swapped.controls, key=lambda name: abs(swapped.controls[name]))
    return [
        claim(
            "estimate/swap",
            f"Another sequence's {swapped.what} makes the prediction W_source s_T(target): share of what is possible, "
            f"{swapped.ceiling:.3f} (score {swapped.score:.3f})",
            source=SWAPPING,
            tolerance="swap",
            predicted=1,
            measured=np.minimum(1, swapped.normalised),  # nan stays nan
            uncertainty=1.96 * _last(swapped, SWAP, "normalised_se"),
            n=N_PAIRS,
            control=("a random state of the same norm", _last(swapped, RANDOM, "normalised")),
        ),
        claim(
            "estimate/controls",
            "The state of a sequence with the target's own W, of another source, and a random one do not steer: "
            "largest score",
            source=SWAPPING,
            tolerance="swap",
            predicted=0,
            measured=abs(swapped.controls[strongest]),
            uncertainty=1.96 * _last(swapped, strongest, "score_se"),
            n=N_PAIRS,
            control=("the swap itself", swapped.score),
        ),
    ]


def causal_claims(subject: GeneralSubject) -> list[Claim]:
    """Of a general model: augmented ones hold their estimate in a state, which can be moved."""
    config = subject.config
    if config.parity_obstruction:
        return [_removal_claim(subject)]
    claims = [_scale_claim(subject)]
    if config.encoding == "augmented":
        claims += swap_claims(subject.model, subject.process, n_ctx=config.n_ctx, dtype=config.torch_dtype)
    return claims


def _scale_claim(subject: GeneralSubject) -> Claim:
    """Removing or doubling what the last layer writes: the parabola between them has its bottom at the model."""
    scale, uncertainty = _best_scale(subject)
    return subject.claim(
        "loss/best scale",
        "Scaling what the last layer writes can only add to the error: best factor",
        lambda m: scale if m is subject else _best_scale(m)[0],
        source=SCALING,
        tolerance="best scale",
        predicted=1,
        n=N_SEQUENCES,
        uncertainty=uncertainty,
    )


def _removal_claim(subject: GeneralSubject) -> Claim:
    """Of a model that can do nothing."""
    removed = torch.cat([tokens[:, 2:].abs().square().sum(-1) for tokens in subject.batches]).double()
    cost = (removed - subject.errors[:, 1:]).mean(1)
    one_head = best_equivariant_head(subject.process, subject.config.n_ctx)
    return subject.claim(
        "loss/removed",
        "Removing all heads costs nothing: error without them, less the error with them",
        lambda m: (removed - m.errors[:, 1:]).mean().item(),
        source=PARITY,
        tolerance="zero predictor",
        n=N_SEQUENCES,
        uncertainty=1.96 * (cost.std() / N_SEQUENCES**0.5).item(),
        control=(
            "the best head that asks with s_{T-1}",
            1 - one_head,
        ),
    )


@torch.no_grad()
def _best_scale(measured: GeneralMeasured) -> tuple[float, float]:
    """argmin over g of E|rest + g written - s_{T+1}|^2, T >= 2, and the half-width of its 95 % interval."""
    hook = f"blocks.{measured.config.n_layers - 1}.hook_attn_out"
    inner, energy = [], []
    for tokens in measured.batches:
        predictions = measured.model(tokens[:, :-1])
        with measured.model.hooks(fwd_hooks=[(hook, lambda value, hook: torch.zeros_like(value))]):
            rest = measured.model(tokens[:, :-1])
        written, missing = ((x - rest)[:, 1:].flatten(1) for x in (predictions, tokens[:, 1:]))
        inner.append((written.conj() * missing).real.sum(-1))
        energy.append(written.abs().square().sum(-1))
    h, G = torch.cat(inner).double(), torch.cat(energy).double()
    best = (h.sum() / G.sum()).item()
    return best, 1.96 * ((h - best * G).std() * len(G) ** 0.5 / G.sum()).item()


def _last(swapped: SwappedContext, condition: str, column: str) -> float:
    frame = swapped.by_position
    return float(frame.loc[frame["condition"] == condition, column].iloc[-1])
