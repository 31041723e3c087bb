"""Sabotaged general models: augmented layers and stacks, first tokens, plain heads, the paper's models, positions.

One augmented layer predicts with products of scalars (a1..a4) x (b1, b2). On the unitary family only a2 b1, one
gradient step, reaches the target, and all else is noise; on conjugate pairs and Haar W a little a3 helps; W and -W have
the same law, so that a1, a4 and b2 (the odd ones) meet neither the target nor the step. So scrubs and swaps ask for the
share of what reaches the target, and do not mind the size of the step or noise beside it.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.models.block_scalars import CURRENT, PREVIOUS, READ_OUT
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Make, Sabotage
from ar_interp.sabotage.edits import (
    Edit,
    changed,
    changed_run,
    edited,
    of_scale,
    on_weights,
    scaled,
    untrained,
    with_weights,
)
from ar_interp.sabotage.functions import copies, least_squares
from ar_interp.sabotage.trained import fitted, independent_tokens, refitted

PAIRS, FULL, HAAR = "augmented-orthogonal", "augmented-unitary-full", "augmented-haar-short"
STACK, FIRST, FILTER = "augmented-haar-l2-keys", "initial-gaussian", "positional-mu100"
STILL_A_STEP = dict.fromkeys(
    ("outside/circle", "outside/smaller"), "it still takes a step of fixed size, which is short of what fits there"
)
on_full, on_haar, on_first, on_filter = (partial(Sabotage, base=base) for base in (FULL, HAAR, FIRST, FILTER))
A1, A2, A3 = (0, CURRENT, CURRENT), (0, CURRENT, PREVIOUS), (0, PREVIOUS, CURRENT)  # of QK_blocks [head query key]
B1, B2 = (0, CURRENT, READ_OUT), (0, PREVIOUS, READ_OUT)  # of OV_blocks [head read written]

DEEP = tuple(f"depth/{what}" for what in ("every layer", "tokens", "steps", "every length"))  # what layers are worth
BY_CHANCE = "what reaches the target is what the weights happen to be"
NOTHING_WRITTEN = {"loss/blow-ups": "a prediction this small is seldom worse than none"}
BEFORE = "the shipped model has blow-ups already"


def set_beside(index: tuple[int, ...], other: tuple[int, ...], share: float, blocks: str) -> Edit:
    """One scalar set to a share of another."""

    def edit(weights: dict[str, Tensor], generator: torch.Generator) -> None:
        weights[blocks][index] = share * weights[blocks][other]

    return edit


def queries_for_keys(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    W_Q, W_K = weights["W_Q"].clone(), weights["W_K"].clone()
    weights["W_Q"].copy_(W_K)
    weights["W_K"].copy_(W_Q)


def keys_of_both(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    W_K = weights["W_K"]
    dim = W_K.shape[1] // 3
    W_K[:, dim : 2 * dim] += 0.5 * W_K[:, 2 * dim :]


def only_newest(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    P = weights["P"]
    P.zero_()
    P.diagonal(1).fill_(1.0)


def layers_exchanged(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    exchanged = {"blocks.0.": "blocks.1.", "blocks.1.": "blocks.0."}
    return with_weights(model, {exchanged[name[:9]] + name[9:]: value for name, value in model.state_dict().items()})


def weights_of(name: str) -> Make:
    """Another checkpoint's model."""
    return lambda checkpoint, seed: checkpoints.load(name).model


def _short(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    config = replace(model.config, n_ctx=model.config.n_ctx // 2)
    return fitted(config, checkpoint.process, seed, n_seeds=4).model


def _initial(base: str, scale: float, description: str, *more: str, **expected: Any) -> Sabotage:
    """Gaussian weights of this standard deviation, of which no loss is right."""
    make = changed(of_scale(scale))
    return Sabotage(base=base, description=description, make=make, must_fail=("loss", *more), **expected)


GENERAL: dict[str, Sabotage] = {
    "trained on contexts half as long (augmented)": Sabotage(
        base="augmented-unitary",
        description="The best gradient step for T <= 10, .0652 where .0455 is best for T <= 20.",
        make=changed_run(_short),
        must_fail=("loss", "step/size", "outside", "estimate/W"),
    ),
    "trained on the unitary family (augmented)": Sabotage(
        base=PAIRS,
        description="The pure gradient step of 3 / (2 T_max + 3d - 4), best among its like on conjugate pairs too, but "
        "without the second path a3.",
        make=changed_run(refitted(other=True, n_seeds=4)),
        must_fail=("loss", "step/size", "step/second path", "outside"),
        but=("loss/best scale",),
        undecided={"loss/fresh": "an error half a per cent above the minimum, where the tolerance is one"},
    ),
    "queries asked with keys": on_full(
        description="W_Q and W_K exchanged: s_{T-1} asks keys s_t, which reaches no phase of the target. The QK block "
        "of the step is empty and another one carries all. OV is untouched, up to signs that are read off the empty "
        "block.",
        make=edited(queries_for_keys),
        must_fail=("loss", "step", "estimate", "outside"),
        undecided=dict.fromkeys(("step/signs", "step/OV"), "signs are read off a block that is empty")
        | {"estimate/swap error": "what is moved holds nothing of W"},
    ),
    "signs of queries alone": on_full(
        description="Every other coordinate of the query negated, and not of the prediction: half a gauge. QK is "
        "healthy up to it, OV is not; the prediction is D W s_T, of which nothing is left on average.",
        make=edited(scaled("W_Q", (slice(None), slice(None, None, 2)), -1.0)),
        must_fail=("loss", "step", "estimate", "outside"),
        but=("step/QK", "step/other blocks"),
        undecided={"step/signs": "an error this far from the best scalars' is sampled, to a hundredth"},
    ),
    "keys of s_t too": on_full(
        description="W_K reads s_t half as strongly as s_{t-1}: beside the step s_T asks keys s_t, which is noise. The "
        "block of the step and OV are as they were; another QK block is half of the step's identity. All coordinates "
        "are in phase in <s_T|s_T> s_T, and with signs they are not: signs are no gauge any more.",
        make=edited(keys_of_both),
        must_fail=(
            "loss",
            "step/signs",
            "step/other blocks",
            "step/others",
            "estimate/step",
            "estimate/W",
            "outside",
        ),
    ),
    "untrained (augmented, Haar)": on_haar(
        description="Initial block scalars: no step size, no ratio, an error near that of predicting zero.",
        make=changed(of_scale(0.1)),
        must_fail=("loss", "step", "depth/steps", "outside"),
        undecided=NOTHING_WRITTEN
        | {"step/second value": "b2 / b1 is by chance", "step/scrub": BY_CHANCE, "estimate": BY_CHANCE},
        but=("outside/directions",),
    ),
    "trained on i.i.d. tokens (augmented, Haar)": on_haar(
        description="No prediction is best: the step shrinks to nothing.",
        make=changed(independent_tokens),
        must_fail=("loss", "step/size", "depth/steps", "outside"),
        undecided=NOTHING_WRITTEN | {"step": "ratios of nothing", "estimate": BY_CHANCE},
        but=("outside/directions",),
    ),
    "a3 removed": on_haar(
        description="Without the second path its error is above the best pure gradient step's, 3 % over the best block "
        "scalars, and 1/1.09 of the step would be best. What is left is the step, and used as such.",
        make=edited(scaled("QK_blocks", A3, 0.0)),
        must_fail=("loss", "step/second path", "outside", "estimate/swap error"),
        undecided={"loss/blow-ups": BEFORE} | STILL_A_STEP,
        but=("outside/directions",),
    ),
    "b2 added": on_haar(
        description="b2 = b1 / 2: adds a quarter of the prediction's energy as noise of the wrong parity, so that less "
        "of it would be best; the step, its second path and what is used stay.",
        make=edited(set_beside(B2, B1, 0.5, "OV_blocks")),
        must_fail=("loss", "outside", "estimate/W"),
        undecided={"loss/blow-ups": BEFORE}
        | STILL_A_STEP
        | dict.fromkeys(("step/second path", "step/second value"), "a second minimum at .37 is as deep"),
        but=("outside/directions",),
    ),
    "copies s_T (augmented, Haar)": on_haar(
        description="Healthy weights beside a prediction of error 2, above 1 on most sequences.",
        make=changed(copies),
        must_fail=("model", "depth/steps", "loss", "step/scrub", "estimate", "outside"),
        but=(
            "estimate/W",
            "outside/directions",
        ),
    ),
    "predicts by least squares": on_haar(
        description="Healthy weights beside a prediction that one layer cannot make: too good an error, without "
        "blow-ups, by nothing that can be moved or scaled.",
        make=changed(least_squares),
        must_fail=("model", "depth/steps", "loss", "step/scrub", "estimate", "outside"),
        but=("estimate/W", "outside/directions", "loss/blow-ups"),
    ),
    "layers exchanged": Sabotage(
        base=STACK,
        description="What layer 1 writes for layer 2 comes too late, and nothing makes the size of the last write the "
        "best: the error is far above one step's.",
        make=changed(layers_exchanged),
        must_fail=("loss", *DEEP, "outside"),
        undecided={
            "loss/blow-ups": "no theory of what two layers in the wrong order are worth",
            "estimate": "no theory of a swap that leaves the states of healthy layers entangled",
        },
        but=("outside/directions",),
    ),
    "untrained, ten times larger (two layers)": Sabotage(
        base=STACK,
        description="Predictions far larger than the tokens, of no parity.",
        make=changed(of_scale(3.0)),
        must_fail=("loss", *DEEP, "depth/parity", "outside"),
        undecided={"estimate": BY_CHANCE, "outside/growth": "scores are divided by T all the same"},
        but=("outside/directions",),
    ),
    "trained on other first tokens": on_first(
        description="The step size for s_1 = 1 on Gaussian first tokens: a pure step, of the error that its size says, "
        "and not the best one.",
        make=weights_of("initial-ones"),
        must_fail=("step/size", "loss/best scale", "outside", "estimate/W"),
    ),
    "step size doubled": on_first(
        description="A gradient step still and nothing else, of the error that its size says, but half of it is best.",
        make=edited(scaled("QK_blocks", A2, 2.0)),
        must_fail=("step/size", "loss/best scale", "outside", "estimate/W"),
    ),
    "a1 added": on_first(
        description="<s_t|s_T> s_t beside the step, half its size: noise to the target, so that less would be best; "
        "what is used is the step.",
        make=edited(set_beside(A1, A2, 0.5, "QK_blocks")),
        must_fail=("step/others", "loss", "outside", "estimate/W"),
        undecided={"step/scrub": "what is beside the step is sampled"},
    ),
    "untrained (positional only)": on_filter(
        description="Initial weights in a run that counts its steps right: e_T is the optimum, whatever the model.",
        make=changed_run(untrained),
        must_fail=("filter", "outside"),
        but=("filter/unfinished",),
    ),
    "P at the optimum": on_filter(
        description="Descent that went to the end: p = e_T. That it stopped above cannot be told any more.",
        make=changed_run(on_weights(only_newest)),
        must_fail=("filter", "outside"),
    ),
    "untrained (asked with s_T)": _initial(
        "plain-haar-parity",
        1.0,
        "Larger errors than predicting zero, of the parity that all weights have.",
        "mechanism/silent",
        but=("mechanism/parity",),
    ),
    "untrained (one plain head)": _initial(
        "plain-haar-h1",
        0.3,
        "Not the error of the best head, and not at the best scale.",
        "mechanism/invariant",
        "mechanism/unexplained",
        undecided={"mechanism": BY_CHANCE},
    ),
    "untrained (one plain head, fixed first token)": _initial(
        "plain-haar-fixed-h1",
        0.3,
        "Not below the best invariant head's error, and not at the best scale.",
        "mechanism/invariant",
        "mechanism/unexplained",
        undecided={"mechanism": BY_CHANCE, "outside": BY_CHANCE},
    ),
    "untrained (figure 5)": Sabotage(
        base="figure5-l1",
        description="Initial weights of the paper's model, LayerNorm and read-out included.",
        make=changed(untrained),
        must_fail=("loss", "mechanism"),
        undecided={"estimate": BY_CHANCE},
    ),
}
