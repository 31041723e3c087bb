"""Full heads of one non-augmented layer: how many it can use, and what asking with the wrong token costs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ar_interp.checkpoints import TrainingRun, available, load
from ar_interp.claims import Claim, Estimate, Measured, Subject, claim
from ar_interp.models.config import ModelConfig
from ar_interp.processes import HaarOrthogonal
from ar_interp.setting import PlainHeads
from ar_interp.studies.base import Recipe, Study
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.general_models.measured import GeneralMeasured

INVARIANT = (
    "convexity in sum_h A_h (x) B_h: the mean over the rotations that leave the law as it is errs no more; Haar W has "
    "all of them, a fixed first token those that leave s_1 alone"
)
ONE_HEAD = (
    "convexity and invariance: for a first token of rotation-invariant law one head A = B = I is optimal; its weights "
    "by least squares on sequences"
)
MORE_HEADS = "numerical optimisation: a fixed first token leaves room for about dim heads"
PARITY = "W and -W have the same law: bias-free linear attention that asks with s_T has the wrong parity"
BATCH = 1024  # standard error .005, the saving of a single head is .02


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.general_models.measured import GeneralMeasured
    from ar_interp.studies.interventions import scale_claim

    measured = GeneralMeasured(subject)
    if measured.setting.parity:
        yield from _parity_claims(measured)
    elif measured.setting.invariant:
        yield _one_head_claim(measured)
        yield scale_claim(measured)
        yield from _invariant_claims(measured)
    else:
        yield _many_heads_claim(measured)
        yield from _enough_heads_claims(subject)
        yield scale_claim(measured)
        yield from _invariant_claims(measured)


def _invariant_claims(m: "GeneralMeasured") -> Iterator[Claim]:
    """Claims that the heads prefer no direction but that of a fixed first token, and read the newest key."""
    fixed, causal = not m.setting.invariant, partial(m.claim, evidence="causal", source=INVARIANT)
    rotations = "rotations that leave s_1 alone" if fixed else "all rotations"
    control = ("all rotations", m.share_off(fixed=False)) if fixed else None
    yield m.claim(
        "mechanism/invariant",
        f"sum_h A_h (x) B_h, with the key and the value one token, commutes with {rotations}: norm of its rest, over "
        "its norm",
        lambda m: m.share_off(fixed=fixed),
        control=control,
        evidence="weights",
        source=INVARIANT,
        tolerance="invariant",
        side="at most",
    )
    yield m.claim(
        "mechanism/unexplained",
        f"The prediction is what maps that commute with {rotations} make of s_{{T-1}} and s_t, summed with the "
        "positional weights: share of it that is not",
        lambda m: m.unexplained_by(m.invariant(fixed=fixed)),
        control=("all rotations", m.unexplained_by(m.invariant(fixed=False))) if fixed else None,
        evidence="behaviour",
        source=INVARIANT,
        tolerance="invariant prediction",
        side="at most",
    )
    newest, previous = (m.without_keys(lambda T, lag=lag: T - lag) for lag in (0, 1))
    yield causal(
        "mechanism/newest key",
        "Older keys are there to mend what the newest does: with the attention to s_T cut the error is no less than "
        "that of predicting zero",
        lambda m: m.error(hooks=[newest]),
        control=("with the attention to s_{T-1} cut", m.error(hooks=[previous])),
        tolerance="newest key",
        predicted=1,
        side="at least",
    )
    if fixed:
        yield m.claim(
            "mechanism/first token",
            "The model knows s_1: on contexts that start elsewhere on the sphere its error is no less than that of the "
            "best head that knows nothing",
            lambda m: m.of(m.model, replace(m.process, first_token="sphere")).loss(),
            control=("contexts that start as in training", m.loss()),
            evidence="behaviour",
            source=INVARIANT,
            tolerance="beyond",
            predicted=m.setting.one_head,
            side="at least",
        )
    else:
        yield causal(
            "mechanism/newest alone",
            "With the attention to s_T alone the error is the mean over T of 1 - (2 c p_T - (c p_T)^2) / d, c the "
            "coefficient of I (x) I in the heads",
            lambda m: m.error(hooks=[m.with_key_alone(0)]),
            control=("the attention to s_{T-1} alone", m.error(hooks=[m.with_key_alone(1)])),
            tolerance="newest key",
            predicted=m.of_key_alone(),
        )


def _parity_claims(m: "GeneralMeasured") -> Iterator[Claim]:
    """Claims that heads which ask with s_T can do nothing."""
    yield m.loss_claim(
        "loss/parity",
        "Asked with s_T the model cannot beat predicting zero: error on fresh sequences",
        source=PARITY,
        tolerance="zero predictor",
        reference=1.0,
        control=("the best head that asks with s_{T-1}", m.setting.one_head),
    )
    nothing = m.errors_of(torch.zeros_like)[:, 1:]
    yield m.claim(
        "loss/removed",
        "Removing all heads costs nothing: error without them, less the error with them",
        lambda m: Estimate.mean((nothing - m.errors[:, 1:]).mean(1)),
        evidence="causal",
        source=PARITY,
        tolerance="zero predictor",
        control=("the best head that asks with s_{T-1}", 1 - m.setting.one_head),
    )
    yield m.claim(
        "mechanism/parity",
        "With the sign of every other token turned the prediction turns as (-1)^{T-1}, against the target: distance "
        "from that, over the size of predictions",
        lambda m: m.parity_defect(),
        control=("the same weights asked with s_{T-1}", m.of(m.asked_before()).parity_defect()),
        evidence="behaviour",
        source=PARITY,
        tolerance="parity",
        side="at most",
    )
    yield m.claim(
        "mechanism/silent",
        "The model has learned to predict nothing: mean of |prediction|^2",
        lambda m: m.size(),
        control=("the best head that asks with s_{T-1}", 1 - m.setting.one_head),
        evidence="behaviour",
        source=PARITY,
        tolerance="silent",
        side="at most",
    )


def _one_head_claim(m: Measured) -> Claim:
    return m.loss_claim(
        "loss/one head",
        f"One head is as good as any number: the error of {m.config.n_heads} over that of the best single head with "
        f"A = B = I, {m.setting.one_head:.4f}",
        source=ONE_HEAD,
        tolerance="loss ratio",
        reference=m.setting.one_head,
    )


def _many_heads_claim(m: Measured) -> Claim:
    one_head, n_batches = m.setting.one_head, max(m.n // BATCH, 1)

    def share_below(m: Measured) -> Estimate:
        losses = [batch.mean().item() for batch in m.losses().chunk(n_batches)]
        return Estimate(sum(loss < one_head for loss in losses) / n_batches, n=n_batches)

    return m.claim(
        "loss/many heads",
        "With a fixed first token the model errs less than the best invariant head can: share of fresh batches",
        share_below,
        evidence="behaviour",
        source=MORE_HEADS,
        tolerance="every batch",
        predicted=1,
    )


def _enough_heads_claims(subject: Subject) -> Iterator[Claim]:
    run, dim = subject.run, subject.config.dim
    if run is None or run.config.n_heads != dim:
        return
    one, many = (_sibling_loss(run, n_heads) for n_heads in (1, dim**2))
    if one and many:
        yield claim(
            "loss/enough heads",
            f"With as many heads as coordinates nothing is lost: their final error over that of dim^2 = {dim**2}, "
            "which are enough for any map",
            evidence="training",
            source=MORE_HEADS,
            tolerance="loss ratio",
            predicted=1,
            measured=run.members["loss"].to_numpy().min() / many,  # all on the same held-out sequences
            control=("one head", one / many),
        )


def _sibling_loss(run: TrainingRun, n_heads: int) -> float | None:
    """Final loss of the shipped checkpoint that differs from this one only in the number of heads."""
    wanted = replace(run.config, n_heads=n_heads)
    for name, recipe in STUDY.recipes.items():
        if (recipe.config, recipe.process) == (wanted, run.process) and name in available():
            return load(name).members["loss"].to_numpy().min()
    return None


def _recipe(n_heads: int, law: str, query_lag: int = 1) -> Recipe:
    first = "a fixed first token" if law == "unit-ones" else "first tokens on the sphere"
    finding = f"asked with s_{{T-1}}, {first}" if query_lag else "asked with s_T: it cannot beat predicting zero"
    return Recipe(
        summary=f"One layer, {n_heads} full linear head{'s' if n_heads > 1 else ''}, plain tokens, Haar W, {finding}.",
        config=ModelConfig.full(dim=5, n_ctx=50, n_heads=n_heads, query_lag=query_lag, init_scale=0.3, dtype="float32"),
        process=HaarOrthogonal(5, first_token=law),
        training=TrainConfig(
            objective="sampled", optimizer="adam", lr=1e-2, schedule="cosine", warmup=50, steps=1500, batch=256
        ),
    )


STUDY = Study(
    name="head count",
    source="Sander et al. 2024, non-augmented tokens on Haar W",
    question="How many full heads can one layer use, and with which token must it ask?",
    covers=lambda setting: isinstance(setting, PlainHeads),
    recipes={
        **{f"plain-haar-h{n_heads}": _recipe(n_heads, "sphere") for n_heads in (1, 5, 25)},
        **{f"plain-haar-fixed-h{n_heads}": _recipe(n_heads, "unit-ones") for n_heads in (1, 25, 5)},
        "plain-haar-parity": _recipe(5, "sphere", query_lag=0),
    },
    claims=_claims,
)
