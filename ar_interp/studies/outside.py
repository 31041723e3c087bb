"""Outside the training law: rules that agree on it differ there, and theory says by how much."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims import Claim, Estimate, Subject, claim
from ar_interp.estimators import OLS, DiagonalOLS, Ridge
from ar_interp.processes import Sequences
from ar_interp.setting import DiagonalHeads, FirstTokenLaw, GradientStep, HaarStack, OneCoordinate, PlainHeads
from ar_interp.studies.base import Study
from ar_interp.theory import (
    initial_token_error,
    last_pair_noise_error,
    optimal_step_size,
    recurrence_error,
    step_error,
)

SOURCE = "what theory says that training finds, on contexts of another law; by counting modes"
FIXED = "fixed steps: an error polynomial in S, of which the scale is that of the tokens trained on"
ROTATED = "blocks that are multiples of the identity commute with every rotation of the tokens"
INVARIANT = "convexity and invariance: one head A = B = I is optimal where the law of s_1 is rotation-invariant"
NOISE, NORM, RADIUS = 0.2, 2.0, 0.9
N_CONTEXTS = 256
PART = 256  # contexts at once: scores of many heads
TINY = 1e-300  # no prediction is smaller but zero
NOTHING = 1e-6  # a relative error that is rounding, or the square of what the weights miss
COARSER = 1.1  # the same of tokens half as long


DOES = {
    DiagonalHeads: "the newest keys with the conjugate for the inverse",
    OneCoordinate: "the filter of unfinished descent",
    **dict.fromkeys((GradientStep, FirstTokenLaw, HaarStack), "one gradient step of the size trained"),
}


def _claims(subject: Subject) -> Iterator[Claim]:
    setting = subject.setting
    if isinstance(setting, PlainHeads):
        yield from _plain_claims(subject)
        return
    model, theory = _models(subject)
    if theory is not None:
        yield from _law_claims(subject, model, theory)
    if isinstance(setting, HaarStack):
        yield from _stack_claims(subject)


def _models(subject: Subject) -> tuple[Any, Any]:
    """The model, free of the gauge that theory leaves it, and a model with theory's weights, or None."""
    from ar_interp.studies.blocks_measured import without_signs

    setting, model, run = subject.setting, subject.model, subject.run
    if isinstance(setting, OneCoordinate):
        filters = [] if run is None else setting.filters(run.training, run.steps)
        if not filters:
            return model, None
        theory = setting.config.build(subject.process, device=model.W_Q.device).requires_grad_(False)
        for row, spectral in enumerate(filters):
            theory.P[row, : row + 2] = spectral.p
        return model, theory
    if isinstance(setting, GradientStep) and setting.full:
        model = without_signs(model)
    return model, setting.ideal(model)


def _law_claims(subject: Subject, model: Any, theory: Any) -> Iterator[Claim]:
    """The error is that of theory's weights, condition by condition, and least squares has another."""
    from ar_interp.probes.outside import Condition, counted, no_longer

    setting, n_ctx = subject.setting, subject.config.n_ctx
    process: Any = subject.process
    heads = isinstance(setting, DiagonalHeads | OneCoordinate)
    law = "signs" if process.initial.law == "gaussian" else "gaussian"
    exact = heads or (subject.run is not None and subject.run.training.objective == "population")
    does = DOES[type(setting)]
    cases = [
        (Condition(name="noise", noise=NOISE), f"Under noise of {NOISE:g} of a coordinate"),
        (Condition(name="norm", norm=NORM), f"On tokens {NORM:g} times as long"),
        (Condition(name="first token", law=law), f"On first tokens of law {law!r}"),
        (Condition(name="circle", radius=RADIUS), f"For W with eigenvalues of modulus {RADIUS:g}"),
    ]
    if not no_longer(subject.config):
        cases.append((Condition(name="longer", longer=2), f"In contexts of T = {n_ctx + 1}..{2 * n_ctx}"))
    for condition, where in cases:
        contexts = _contexts(subject, condition)

        def errors(predict: Callable[[Sequences], Tensor], x: Sequences = contexts, c: Any = condition) -> Tensor:
            return counted(x, predict(x), c, n_ctx)[0]

        def by(module: Any, c: Any = condition) -> Callable[[Sequences], Tensor]:
            ready = module.lengthened(2 * n_ctx) if c.longer > 1 else module
            return torch.no_grad()(lambda x: ready(x.inputs))

        wanted, energy = counted(contexts, by(theory)(contexts), condition, n_ctx)
        if wanted.mean() < NOTHING * energy.mean():
            continue
        rival, name = _least_squares(subject, condition, by_coordinate=heads)
        exactly = closed_form(setting, condition, theory)
        share = (wanted.mean().item() if exactly is None else exactly) / energy.mean().item()
        yield claim(
            f"outside/{condition.name}",
            f"{where} the model errs like {does}, {share:.4g} of |s_{{T+1}}|^2: ratio of the errors on "
            "the same contexts",
            evidence="behaviour",
            source=SOURCE,
            tolerance="outside, exact" if exact else "outside, sampled",
            predicted=1,
            measured=Estimate.ratio(errors(by(model)), wanted),
            control=(name, Estimate.ratio(errors(rival), wanted)),
        )


def _least_squares(
    subject: Subject, condition: Any, *, by_coordinate: bool
) -> tuple[Callable[[Sequences], Tensor], str]:
    """Least squares over all pairs; with noise, where it does not know the coordinates, with a penalty for it."""
    process: Any = subject.process
    if by_coordinate or (process.has_eigenbasis and not condition.noise):
        return lambda x: DiagonalOLS()(x.pairs()), "least squares over all pairs, by coordinate"
    if condition.noise:
        size = process.initial.mean_square(process.dim)
        return lambda x: Ridge(penalty=condition.noise**2 * size)(x.pairs()), "ridge regression over all pairs"
    return lambda x: OLS()(x.pairs()), "least squares over all pairs"


def closed_form(setting: Any, condition: Any, theory: Any) -> float | None:
    """The exact expectation of theory's error under a condition, the mean over its lengths, or None."""
    n_ctx, dim, at = setting.config.n_ctx, setting.config.dim, None
    lengths = range(n_ctx + 1, 2 * n_ctx + 1) if condition.longer > 1 else range(2, n_ctx + 1)
    tokens = {"norm": condition.norm, "radius": condition.radius}
    if isinstance(setting, DiagonalHeads):
        if condition.name in ("norm", "circle"):
            C = theory.B.T @ theory.A
            kappa = (C[0, 1] / C[0, 0]).item() if setting.pairs else 0.0
            covered = setting.rank * (2 if setting.pairs else 1)
            at = partial(recurrence_error, dim=dim, covered=covered, kappa=kappa, **tokens)
        if condition.name == "noise" and not setting.pairs and setting.rank == dim:
            at = partial(last_pair_noise_error, dim=dim, noise=condition.noise)
    elif isinstance(setting, GradientStep) and not setting.pairs and condition.name in ("norm", "circle", "longer"):
        at = partial(step_error, dim=dim, step_size=optimal_step_size(dim=dim, max_length=n_ctx), **tokens)
    elif isinstance(setting, FirstTokenLaw) and condition.name == "longer":
        error = partial(initial_token_error, setting.moments, product=setting.product)
        return float(np.mean([dim * error(length=T) for T in lengths]))
    return None if at is None else float(np.mean([at(length=T) for T in lengths]))


def _stack_claims(subject: Subject) -> Iterator[Claim]:
    """Fixed steps do not fit tokens of another size; undivided scores grow with T; no direction is preferred."""
    from ar_interp.probes.outside import AS_TRAINED, Condition

    own = _contexts(subject, Condition(name=AS_TRAINED))

    @torch.no_grad()
    def at_half(predict: Callable[[Tensor], Tensor]) -> Estimate:
        small = replace(own, tokens=own.tokens / 2)
        found, trained = (x.losses(predict(x.inputs)) for x in (small, own))
        return Estimate.mean((4 * found / trained).log()).exp()

    yield claim(
        "outside/smaller",
        "On tokens half as long the relative error is larger, since the model's steps are of a fixed size: geometric "
        f"mean of the ratio, {COARSER:g} at least",
        evidence="behaviour",
        source=FIXED,
        tolerance="outside, bound",
        predicted=COARSER,
        side="at least",
        measured=at_half(subject.model),
        control=("least squares over all pairs, which fits any size", at_half(OLS())),
    )
    if subject.config.n_layers > 1:
        yield _growth_claim(subject)
    yield _direction_claim(subject, own)


def _growth_claim(subject: Subject) -> Claim:
    """Scores that are divided by T stay of one size beyond the lengths trained on, others grow."""
    from ar_interp.probes.outside import Condition

    setting: Any = subject.setting
    n_ctx, per_key, model = subject.config.n_ctx, setting.per_key, subject.model
    long = _contexts(subject, Condition(name="longer", longer=2), needed=2 * N_CONTEXTS)

    @torch.no_grad()
    def growth(predict: Callable[[Tensor], Tensor]) -> Estimate:
        errors = long.errors(predict(long.inputs)).double()
        return Estimate.mean((errors[:, n_ctx:].mean(1) / errors[:, n_ctx // 2 : n_ctx].mean(1)).log()).exp()

    control = "ridge regression over all pairs", growth(Ridge(penalty=1.0))
    if per_key:
        undivided = replace(subject.config, attention="linear", n_ctx=2 * n_ctx).build(device=model.W_Q.device)
        undivided.load_state_dict(model.state_dict())
        for block in undivided.requires_grad_(False).blocks:
            block.attn.QK_blocks.div_(n_ctx)
        control = f"the same weights with all scores divided by {n_ctx}", growth(undivided)
    then = "does not rise, since scores are divided by T" if per_key else "rises, since scores grow with T"
    return claim(
        "outside/growth",
        f"Beyond the lengths trained on, T = {n_ctx + 1}..{2 * n_ctx}, the error {then}: geometric mean of the error "
        f"over that at T = {n_ctx // 2 + 1}..{n_ctx}",
        evidence="behaviour",
        source=FIXED,
        tolerance="outside, bound",
        predicted=1,
        side="at most" if per_key else "at least",
        measured=growth(model.lengthened(2 * n_ctx)),
        control=control,
    )


def _direction_claim(subject: Subject, own: Sequences) -> Claim:
    generator = seeds.generator_of(subject.seed_of(seeds.OUTSIDE))
    drawn = torch.randn(
        len(own), own.inputs.shape[-1], own.inputs.shape[-1], generator=generator, dtype=torch.float64, device="cpu"
    )
    turn = torch.linalg.qr(drawn)[0].to(own.inputs.device)

    @torch.no_grad()
    def deviation(predict: Callable[[Tensor], Tensor]) -> Estimate:
        turned, expected = predict(own.inputs @ turn.mT), predict(own.inputs) @ turn.mT
        off, *sizes = (x.abs().square().flatten(1).sum(1) for x in (turned - expected, turned, expected))
        return Estimate.mean((off / (sizes[0] + sizes[1]).clamp(min=TINY)).sqrt())

    return claim(
        "outside/directions",
        "No direction is preferred, of s_1 or of W: with all tokens of a context rotated the predictions are rotated, "
        "distance relative to both",
        evidence="behaviour",
        source=ROTATED,
        tolerance="outside, rounding",
        measured=deviation(subject.model),
        control=("least squares by coordinate, which has one", deviation(DiagonalOLS())),
    )


def _plain_claims(subject: Subject) -> Iterator[Claim]:
    """What is gained from a fixed first token is lost where it is not fixed."""
    from ar_interp.probes.outside import AS_TRAINED, Condition

    setting: Any = subject.setting
    if setting.parity or setting.invariant:
        return

    @torch.no_grad()
    def loss(law: str | None) -> Estimate:
        contexts = _contexts(
            subject, Condition(name=AS_TRAINED, law=law), needed=4096, dtype=subject.config.torch_dtype
        )
        losses = [part.losses(subject.model(part.inputs)) for part in contexts.split(PART)]
        return Estimate.mean(torch.cat(losses).double()).over(setting.one_head)

    yield claim(
        "outside/any first token",
        "On first tokens uniform on the sphere the model errs no less than the best head that knows no direction, "
        f"{setting.one_head:.4f}: their ratio",
        evidence="behaviour",
        source=INVARIANT,
        tolerance="loss ratio",
        predicted=1,
        side="at least",
        measured=loss("sphere"),
        control=("on the first token trained on", loss(None)),
    )


def _contexts(subject: Subject, condition: Any, needed: int = N_CONTEXTS, **options: Any) -> Sequences:
    options |= {"seed": subject.seed_of(seeds.OUTSIDE), "device": subject.model.W_Q.device}
    return condition.contexts(subject.process, subject.size(needed), subject.config.n_ctx, **options)


STUDY = Study(
    name="outside the training law",
    source="the settings of Sander et al. 2024 and Zheng et al. 2024, on contexts of other laws",
    question="Which rule did training find: the one that also holds elsewhere, or one that agrees with it here alone?",
    covers=lambda setting: isinstance(
        setting, DiagonalHeads | OneCoordinate | GradientStep | FirstTokenLaw | HaarStack | PlainHeads
    ),
    claims=_claims,
)
