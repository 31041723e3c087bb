"""Claims about models on noisy tokens: the step, the heads, the line that every predictor M y_T is stuck at."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ar_interp.claims import Claim, Estimate, Subject, claim
from ar_interp.models.config import ModelConfig
from ar_interp.setting import NoisyHeads, NoisyStep
from ar_interp.theory import (
    kalman_error,
    noisy_step_loss,
    optimal_step_size,
    phase_error,
)

if TYPE_CHECKING:
    from ar_interp.studies.blocks_measured import BlocksMeasured
    from ar_interp.studies.noise.measured import Lines, NoisyHeadsMeasured

SOURCE = "not in Sander et al. 2024; by counting modes and Wick's theorem"
BAYES = "uniform phases: the posterior given the rotated observations, and its Fisher information"
PAIRS = "as many pairs as coordinates, whose Gram matrix is next to singular in some contexts"
TURNS = "W and -W have the same law, so that keys of overlap z and -z have to weigh in with opposite signs"
PRODUCT = "the noise of y_T is independent of all that is made of older tokens"
UNCLAIMED = 3  # layers: fewer keep the noise of y_T, more see through it, and nothing says which these do


def claims_of(subject: Subject) -> Iterator[Claim]:
    """The claims about a model on noisy tokens."""
    from ar_interp.studies.blocks_measured import BlocksMeasured
    from ar_interp.studies.noise.measured import Lines, NoisyHeadsMeasured

    setting = subject.setting
    if isinstance(setting, NoisyStep):
        yield from _step_claims(BlocksMeasured(subject))
    elif isinstance(setting, NoisyHeads):
        heads = NoisyHeadsMeasured(subject)
        yield from _heads_claims(heads)
        if setting.pairs and setting.kappa:
            yield from _few_heads_claims(heads)
        elif setting.pairs:
            yield from _kappa_claims(heads)
    yield from _line_claims(Lines(subject))


def _step_claims(m: "BlocksMeasured") -> Iterator[Claim]:
    """The step that noise makes shorter, or, in stationary sequences, process noise longer."""
    setting: NoisyStep = m.setting
    step, plain = setting.best.a[1], optimal_step_size(dim=m.config.dim, max_length=m.config.n_ctx)
    claimed = partial(m.claim, evidence="weights", source=SOURCE)
    lengths = range(2, m.config.n_ctx + 1)
    options: dict[str, Any] = setting.noise | {"dim": m.config.dim, "stationary": m.process.stationary}
    worse = sum(noisy_step_loss(length=T, step_size=plain, **options) for T in lengths) / len(lengths)
    yield m.loss_claim(
        "loss/fresh",
        f"The error on fresh sequences is the minimum over all block scalars under noise, {setting.best.loss:.4f}",
        source=SOURCE,
        tolerance="loss ratio",
        reference=setting.best.loss,
        control=("the step of noiseless tokens", worse / setting.best.loss),
    )
    yield claimed(
        "step/size",
        f"The step size a2 b1 is that of noisy tokens, {step:.8f}: their ratio",
        lambda m: m.blocks.step_size / step,
        tolerance="step size, sampled",
        predicted=1,
        control=(f"that of noiseless tokens, {plain:.8f}", plain / step),
    )
    yield claimed(
        "step/others",
        "Every product of scalars but a2 b1 is zero, noise or not: largest, over a2 b1",
        lambda m: m.share_beside_step(),
        tolerance="other scalars, sampled",
    )


def _heads_claims(m: "NoisyHeadsMeasured") -> Iterator[Claim]:
    setting: NoisyHeads = m.setting
    exact = setting.no_exact_loss is None
    if exact:
        yield m.claim(
            "loss/minimum",
            f"The loss is at its minimum under noise, {setting.best:.6f}",
            lambda m: m.expected_loss,
            evidence="weights",
            source=SOURCE,
            tolerance="minimum",
            predicted=setting.best,
        )
    yield m.loss_claim(
        "loss/fresh",
        f"The error on fresh sequences is the minimum under noise, {setting.best:.4f}",
        source=SOURCE,
        tolerance="loss ratio",
        reference=setting.best,
        control=("the heads trained without noise", m.noiseless.loss().over(setting.best)),
    )
    yield m.claim(
        "positions/shrunk",
        "The newest key writes as much as noise leaves worth writing: c p_T over theory's, at the T where it is "
        "farthest from 1",
        lambda m: m.newest,
        evidence="weights",
        source=SOURCE,
        tolerance="noisy keys",
        predicted=1,
        control=("the heads trained without noise", m.noiseless.newest),
    )


def _kappa_claims(m: "NoisyHeadsMeasured") -> Iterator[Claim]:
    """At least as many heads as coordinates: of all kappa that are as good without noise one is left."""
    claimed = partial(
        m.claim, evidence="weights", source=SOURCE, control=("the heads trained without noise", m.noiseless)
    )
    yield claimed(
        "heads/kappa zero",
        "Noise leaves only kappa = 0 in every block of C: the value farthest from 0",
        lambda m: m.farthest_kappa(0),
        tolerance="noisy keys",
    )
    yield claimed(
        "positions/newest alone",
        "Noise leaves only the newest key: largest |p_t / p_T| of any other, over T",
        lambda m: m.other_keys,
        tolerance="noisy keys",
    )
    if m.setting.no_exact_loss is None:
        yield m.claim(
            "heads/kappa penalty",
            "A kappa of 1/2, put in by hand with the p_{T-1} that follows it, costs kappa^2 v^2 4 r (1 + 3 r + r^2) a "
            "coordinate, of curvature 8 v^2 r (1 + 3 r + r^2): ratio of the growth of the loss to it",
            lambda m: m.penalty,
            evidence="causal",
            source=SOURCE,
            tolerance="penalty",
            predicted=1,
            control=("without noise, where every kappa is as good", 0.0),
        )


def _few_heads_claims(m: "NoisyHeadsMeasured") -> Iterator[Claim]:
    """Half as many heads as coordinates: the identity 2 cos(theta) s_T - s_{T-1} bends."""
    setting: Any = m.setting
    claimed = partial(m.claim, evidence="weights", source=SOURCE, tolerance="noisy keys")
    bent = setting.keys(m.config.n_ctx).p
    yield claimed(
        "heads/kappa one",
        "Half as many heads as coordinates leave only kappa = 1 in every block of C: the value farthest from 1",
        lambda m: m.farthest_kappa(1),
        predicted=1,
    )
    yield claimed(
        "heads/mixing",
        "Heads mix the other pairs in, all alike, to average their noise: C_ji / C_jj, the value farthest from "
        "theory's",
        lambda m: m.mixing,
        predicted=setting.mixing,
        control=("the heads trained without noise", 0.0),
        tolerance="mixing",
    )
    yield claimed(
        "positions/bent",
        "The identity 2 cos(theta) s_T - s_{T-1} bends: p_{T-1} / p_T over theory's, which at T = "
        f"{m.config.n_ctx} is {bent[-2] / bent[-1]:.4f}; at the T where it is farthest from 1",
        lambda m: m.ratio_to_bent,
        predicted=1,
        control=("-1/2, as without noise", -0.5 * bent[-1] / bent[-2]),
    )
    yield claimed(
        "positions/averaging",
        "Older keys are subtracted too, each alike: p_t / p_T over theory's, the value farthest from 1",
        lambda m: m.older_to_bent,
        predicted=1,
        control=("no older key, as without noise", 0.0),
    )
    more = NoisyHeads(ModelConfig.diagonal(dim=m.config.dim, n_heads=m.config.dim, n_ctx=m.config.n_ctx), m.process)
    yield m.claim(
        "loss/head count",
        "Half as many heads as coordinates do as well as all of them without noise, but not with it: the error over "
        f"the minimum of {m.config.dim} heads",
        lambda m: m.loss().over(more.best),
        evidence="behaviour",
        source=SOURCE,
        tolerance="loss ratio",
        predicted=setting.best / more.best,
        control=(f"{m.config.dim} heads", 1.0),
    )


def _line_claims(m: "Lines") -> Iterator[Claim]:
    """What Bayes and least squares do with the same tokens, and the line that a matrix times y_T does not cross."""
    dim, n_ctx, noise = m.config.dim, m.config.n_ctx, m.setting.noise
    sizes = {"dim": dim, "length": n_ctx} | noise
    stationary = m.process.stationary
    if noise["observation_variance"] and m.process.has_eigenbasis and not stationary:
        least = Estimate.mean(m.least_squares)
        bound = phase_error(**sizes)
        yield claim(
            "noise/Bayes",
            f"The conditional mean of the next token given {n_ctx} noisy ones errs by its filter's error and that of "
            f"the phase, {bound:.4g}, to leading order: their ratio",
            evidence="behaviour",
            source=BAYES,
            tolerance="Bayes",
            predicted=1,
            measured=Estimate.mean(m.bayes).over(bound),
            control=("least squares by coordinate", least.over(bound)),
        )
        if noise["process_variance"]:
            filtered = kalman_error(**sizes)
            yield claim(
                "noise/filter",
                f"A predictor that knows W errs by the filter's error, {filtered:.4g}: their ratio",
                evidence="behaviour",
                source="the Kalman filter, one variance for all coordinates since W keeps norms",
                tolerance="Bayes",
                predicted=1,
                measured=Estimate.mean(m.known).over(filtered),
                control=("least squares by coordinate", least.over(filtered)),
            )
        yield claim(
            "noise/least squares",
            "Under noise least squares is not the conditional mean: median over contexts of its error over that mean's",
            evidence="behaviour",
            source=BAYES,
            tolerance="not Bayes",
            predicted=1.5,
            side="at least",
            measured=_median(m.least_squares / m.bayes),
            control=("the filter that knows W", _median(m.known / m.bayes)),
        )
    elif noise["observation_variance"] and not stationary and n_ctx > dim:
        yield claim(
            "noise/least squares",
            f"At T = d + 1 = {dim + 1} least squares divides by next to nothing, and few contexts make its mean: "
            "median over contexts of its error over that of ridge regression",
            evidence="behaviour",
            source=PAIRS,
            tolerance="not Bayes",
            predicted=1.5,
            side="at least",
            measured=m.over_ridge,
            control=("ridge regression itself", 1.0),
        )
    if noise["observation_variance"] and not stationary:
        yield from _depth_claims(m)


def _depth_claims(m: "Lines") -> Iterator[Claim]:
    """Few layers multiply y_T by an estimate of W and keep its noise; deeper ones estimate the state."""
    n_layers, linear, run = m.config.n_layers, m.config.linear, m.subject.run
    if run is not None and "last" in run.members:
        yield claim(
            "noise/log",
            "The error that training logged for the kept seed is that of the shipped weights: their ratio",
            evidence="training",
            source="the errors of all seeds on the same sequences",
            tolerance="logged error",
            predicted=1,
            measured=m.over_logged,
            control=("predicting zero", float(1 / run.members["last"].to_numpy().min())),
        )
    if n_layers == UNCLAIMED:
        return
    above = n_layers < UNCLAIMED
    line = partial(
        claim,
        source=PRODUCT if linear and n_layers == 1 else f"{PRODUCT}; for {'depth' if linear else 'softmax'} measured",
        tolerance="the line",
        predicted=1,
        side="at least" if above else "at most",
        control=(
            ("the filter that knows W", Estimate.mean(m.known).over(m.line))
            if above
            else ("ridge regression over all pairs", Estimate.mean(m.ridge()).over(m.line))
        ),
    )
    model, models = ("does not see", "do not see") if above else ("sees", "see")
    yield line(
        "noise/line",
        f"At T = {m.config.n_ctx} the model {model} through the noise of y_T: its error over that of the best multiple "
        f"of W y_T, {m.line:.4f}",
        evidence="behaviour",
        measured=Estimate.mean(m.own).over(m.line),
    )
    if run is not None and "last" in run.members:
        yield line(
            "noise/line, seeds",
            f"Over training seeds models {models} through the noise of y_T: mean over {len(run.members)} of their "
            "errors over that of the best multiple of W y_T",
            evidence="training",
            measured=m.over_seeds,
        )
    if not linear:
        yield claim(
            "noise/one step",
            "Softmax weights do better than those of the best single gradient step on the same contexts: the error "
            "over that step's",
            evidence="behaviour",
            source="measured, not derived",
            tolerance="the line",
            predicted=1,
            side="at most",
            measured=Estimate.ratio(m.own, m.one_step),
            control=("untrained", Estimate.ratio(m.untrained.own, m.one_step)),
        )
    if not linear and m.config.n_layers == 1 and m.config.n_heads == 2:
        yield claim(
            "noise/two heads",
            "Two softmax heads ask for <s_{t-1}, s_T> and write s_t with opposite signs, so that together they "
            "turn with it, as the weights of a step do: the second head's score and value over the first's, the larger",
            evidence="weights",
            source=TURNS,
            tolerance="opposite signs",
            predicted=0,
            side="at most",
            measured=m.second_head,
            control=("two heads alike", 1.0),
        )


def _median(values: Any) -> Estimate:
    from ar_interp.studies.noise.measured import median

    return median(values)
