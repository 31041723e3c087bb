"""Assertions for a project's own tests: a structure is there, or the message says what was measured and likely wrong.

    import ar_interp as ari

    def test_heads():
        ari.testing.assert_heads_orthogonal("runs/mine")

Each takes a model, a checkpoint, a training run, or the name or folder of a checkpoint, and returns what the probe
found. It raises AssertionError where the structure is absent, and where an untrained model passes as well, so that the
measurement could not tell; ValueError where the model is none that could have it. `assert_claim` does so for a claim of
your own. With pytest's `--ar-checkpoint=DIR` all claims about a checkpoint are tests of their own, see `pytest_plugin`.
Would the claims notice a broken model?
`run_battery` asks them about the sabotaged and innocent ones of `BATTERY`, `sensitivity` about noise on the weights.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ar_interp import diagnoses
from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp._moods import calm
from ar_interp.checkpoints import loaded, model_of
from ar_interp.claims import Claim, subject_of
from ar_interp.claims.estimate import as_estimate
from ar_interp.claims.tolerances import TOLERANCES
from ar_interp.claims.verdicts import HOLDS, OUTSIDE
from ar_interp.diagnoses import Check, Sign
from ar_interp.models.opened import Model, as_model
from ar_interp.models.weights import process_of
from ar_interp.probes.blocks import BLOCKS, AugmentedBlocks, augmented_blocks
from ar_interp.probes.context import ONE_STEP, RecoveredContext, recover_context
from ar_interp.probes.heads import HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.protocol import check, missing
from ar_interp.probes.swap import SwappedContext, swap_context
from ar_interp.processes import AutoregressiveProcess, CommutingProcess, Sequences
from ar_interp.sabotage import BATTERY, BatteryResult, Sabotage, Sensitivity, run_battery, sensitivity
from ar_interp.seeds import ASSERTIONS, ASSERTIONS_SOURCE, ASSERTIONS_TARGET, SWAP_SOURCE, SWAP_TARGET, UNTRAINED
from ar_interp.studies.blocks_measured import without_signs
from ar_interp.studies.heads_measured import untrained as untrained_heads
from ar_interp.studies.swap_claims import controls_of, swapped_of

__all__ = [
    "BATTERY",
    "BatteryResult",
    "Sabotage",
    "Sensitivity",
    "assert_claim",
    "assert_context_is_causal",
    "assert_gradient_step",
    "assert_heads_orthogonal",
    "assert_recovers_context",
    "assert_trigonometric_encoding",
    "run_battery",
    "sensitivity",
]

N_SEQUENCES = 256
REFERENCES = {"W": TOLERANCES["identity"][0], "OLS": TOLERANCES["identity"][0], ONE_STEP: TOLERANCES["estimate"][0]}

Found = TypeVar("Found")
Reading = tuple[Found, list[Check]]


@calm()
def assert_claim(claim: Claim) -> Claim:
    """The claim holds: its interval lies within the tolerance, and that of its control outside.

    Returns:
        The claim.
    Raises:
        AssertionError: it fails, is undecided (then it says which n would decide it), or void.
    """
    __tracebackhide__ = True
    if not isinstance(claim, Claim):
        raise ValueError(f"claim must be a Claim, e.g. ari.verify(model)['heads/rank'], got {type(claim).__name__}.")
    if claim.verdict != HOLDS:
        raise AssertionError(claim.describe())
    return claim


def assert_recovers_context(
    subject: object,
    *,
    reference: str = "W",
    tolerance: float | None = None,
    length: int | None = None,
    process: AutoregressiveProcess | None = None,
    untrained: object = None,
) -> RecoveredContext:
    """The model's estimate of W is W, or what an estimator makes of the same context.

    Measured is |Ŵ - reference|_F / |Ŵ|_F at T = `length`, over 256 fresh sequences, with Ŵ as in `recover_context`.
    Diagonal heads recover W where there are enough of them; one augmented layer takes one gradient step, and cannot.

    Args:
        subject: a conforming model, a `Checkpoint`, a `TrainingRun`, or the name or folder of a checkpoint.
        reference: `W`, `OLS` (least squares), or `one gradient step`, of the size nearest to the model's.
        tolerance: if left out .001 for W and least squares, as far as a degenerate minimum (kappa = 1) leaves the
            weights, and .1 for the gradient step, which for conjugate pairs and Haar W comes with a second path.
        length: T, at least 2; the longest that the model takes if left out.
        process: the family; the subject's own if left out.
        untrained: the control model; made from the subject if left out.
    """
    __tracebackhide__ = True
    check_choice("reference", reference, tuple(REFERENCES))
    tolerance = REFERENCES[reference] if tolerance is None else check_number("tolerance", tolerance, low=0.0)
    model, process = _resolve(subject, process, "recover_context")
    length = _length("length", length, model)
    sequences = process.contexts(N_SEQUENCES, length, seed=ASSERTIONS, device=model.device)

    def read(model: Model) -> Reading[RecoveredContext]:
        found = recover_context(model, sequences)
        distance = diagnoses.relative_distances(found)[reference]
        return found, [Check(f"|Ŵ - {reference}| / |Ŵ| at T = {length}", distance, 0, tolerance)]

    return _settle(
        f"the estimate of W is not {reference}",
        (model, process, untrained),
        read,
        lambda found, beside: diagnoses.context_signs(found, beside, model, process, REFERENCES),
    )


@calm()
def assert_heads_orthogonal(
    subject: object,
    *,
    tolerance: float = TOLERANCES["heads"][0],
    process: AutoregressiveProcess | None = None,
    untrained: object = None,
) -> HeadOrthogonality:
    """The heads of a diagonal model are orthogonal, <a_h, b_h'> = 0 for h != h', as far as their number allows.

    With M = A B^T and C = B^T A: E_M = |M / m - I| / sqrt(n_heads) is zero where C has a dimension for each head; where
    heads outnumber the coordinates M / m is a projector, and in between (conjugate pairs, kappa = 1) C / m is one. C
    must have all the dimensions that so many heads can give it.

    Args:
        subject: a conforming model, a `Checkpoint`, a `TrainingRun`, or the name or folder of a checkpoint.
        tolerance: 1e-5, first order in the weights: about the square root of what float64 descent leaves of the loss.
        process: the family; the subject's own if left out.
        untrained: the control model; made from the subject if left out.
    """
    __tracebackhide__ = True
    tolerance = check_number("tolerance", tolerance, low=0.0)
    model, family = _resolve_diagonal(subject, process, "head_orthogonality")

    def read(model: Model) -> Reading[HeadOrthogonality]:
        found = head_orthogonality(model)
        n_heads, dim = found.A.shape
        full = min(n_heads, family.n_free)
        if found.kind == "identity":
            statistic = Check("E_M", found.e_m, 0, tolerance)
        elif n_heads > dim:
            statistic = Check("|M^2 - m M| / m^2", found.e_p, 0, tolerance)
        else:
            statistic = Check("|C^2 - m C| / m^2", found.e_c, 0, tolerance)
        return found, [statistic, Check("rank C", found.rank, max(full, found.rank), 0)]

    return _settle(
        "heads are not orthogonal",
        (model, family, untrained),
        read,
        lambda found, _: diagnoses.head_signs(found, model, family),
    )


@calm()
def assert_trigonometric_encoding(
    subject: object,
    *,
    tolerance: float = TOLERANCES["identity"][0],
    process: AutoregressiveProcess | None = None,
    untrained: object = None,
) -> PositionalStructure:
    """The positional encoding of a diagonal model on conjugate pairs holds the trigonometric identity.

    p_{T-1} / p_T = -kappa / (1 + kappa) with kappa read from C, no older key has a weight, and the prediction is
    lambda^T for every angle and T; for kappa = 1 it is s_{T+1} = 2 cos(theta) s_T - s_{T-1}.

    Args:
        subject: a conforming model, a `Checkpoint`, a `TrainingRun`, or the name or folder of a checkpoint.
        tolerance: .001, of three amplitudes: the minimum at kappa = 1 is degenerate, so that the loss leaves the
            weights 1e-4 or so.
        process: the family; the subject's own if left out.
        untrained: the control model; made from the subject if left out.
    """
    __tracebackhide__ = True
    tolerance = check_number("tolerance", tolerance, low=0.0)
    model, family = _resolve_diagonal(subject, process, "positional_structure")
    if not family.conjugate_pairs:
        raise ValueError(
            f"process must have conjugate pairs, got {family}: the identity needs the partner's eigenvalue; pass "
            "process=CommutingOrthogonal(dim) if that is what the model was trained on."
        )

    def read(model: Model) -> Reading[PositionalStructure]:
        found = positional_structure(model, process=family)
        return found, [
            Check("p_{T-1} / p_T", found.ratio, found.ratio_from_kappa, tolerance),
            Check("norm of P on keys before T-1 over |P|", found.off_mass**0.5, 0, tolerance),
            Check("sup |prediction - lambda^T|", found.residual, 0, tolerance),
        ]

    return _settle(
        "the positional encoding does not hold the trigonometric identity",
        (model, family, untrained),
        read,
        lambda found, beside: diagnoses.positional_signs(found, beside, model, family),
    )


@calm()
def assert_gradient_step(
    subject: object,
    *,
    tolerance: float = TOLERANCES["other scalars, sampled"][0],
    max_length: int | None = None,
    process: AutoregressiveProcess | None = None,
    untrained: object = None,
) -> AugmentedBlocks:
    """One augmented layer with one linear head takes the step of gradient descent that is best on its process.

    Measured are the step size a2 b1 over the best block scalars' (eta of `theory.optimal_step_size` on the unitary
    family), how far the other products are from theirs, over a2 b1, and how far the blocks are from multiples of the
    identity. The others vanish on the unitary family; conjugate pairs and Haar W have a second path a3. Where theory
    has no closed form the best are estimated from 20 000 sequences, to about .01. Signs D of full matrices, D Ŵ D, are
    gauge.

    Args:
        subject: a conforming model, a `Checkpoint`, a `TrainingRun`, or the name or folder of a checkpoint.
        tolerance: .05, gradient noise of sampled training in the least determined products; training on the exact loss
            leaves 1e-5. With Haar W and contexts of 50 tokens the loss is flat along b2 and .1 is needed.
        max_length: the longest context trained on; the longest that the model takes if left out.
        process: the family; the subject's own if left out.
        untrained: the control model; made from the subject if left out.
    """
    __tracebackhide__ = True
    tolerance = check_number("tolerance", tolerance, low=0.0)
    model, process = _resolve(subject, process, "augmented_blocks")
    config, shape = model.config, (1, 1, BLOCKS * process.dim)
    dressed = model.has_model_config and (config.unembed or config.layer_norm or config.d_mlp or config.biases)
    if tuple(model.W_Q.shape[:3]) != shape or not model.is_linear or dressed:
        summary = config.summary if model.has_model_config else model.attention
        raise ValueError(
            f"model must be one bare layer with a linear head on tokens (0, s_t, s_{{t-1}}), W_Q {[*shape, 'd_head']}; "
            f"got {summary}, W_Q {list(model.W_Q.shape)}: see identify_algorithm."
        )
    max_length = _length("max_length", max_length, model)
    best = diagnoses.best_products(process, max_length, model.attention)
    signed = model.has_model_config and model.has_full_heads and process.has_eigenbasis

    def read(model: Model) -> Reading[AugmentedBlocks]:
        found = augmented_blocks(without_signs(model.module) if signed else model)
        return found, [
            *diagnoses.product_checks(found, best, tolerance),
            Check("distance of the blocks from multiples of the identity", found.defect(), 0, tolerance),
        ]

    return _settle(
        "the layer does not take the best gradient step",
        (model, process, untrained),
        read,
        lambda found, _: diagnoses.step_signs(found, process, max_length, model.attention, tolerance),
    )


@calm()
def assert_context_is_causal(
    subject: object,
    *,
    tolerance: float = TOLERANCES["swap"][0],
    length: int | None = None,
    process: AutoregressiveProcess | None = None,
) -> SwappedContext:
    """The prediction follows the estimate of W that is put in its place, and nothing else.

    The estimate of one sequence is moved into another (`swap_context`), for as many fresh pairs as decide it. What is
    asked is what `verify` asks: the score, as a share of what is possible, must be 1 (or more), the squared error that
    of the ceiling, but for what theory expects beyond it, and no control (a state of the same W, of another sequence,
    a random one) may score. 95 % intervals over the pairs must lie within the tolerance wholly.

    Args:
        subject: a conforming model, a `Checkpoint`, a `TrainingRun`, or the name or folder of a checkpoint.
        tolerance: .05: a twentieth of the prediction may come from elsewhere, or steer where it must not.
        length: T, at least 2; the longest that the model takes if left out.
        process: the family; the subject's own if left out.
    """
    __tracebackhide__ = True
    tolerance = check_number("tolerance", tolerance, low=0.0)
    model, process = _resolve(subject, process, "swap_context")
    length = _length("length", length, model)
    uses = {SWAP_SOURCE: ASSERTIONS_SOURCE, SWAP_TARGET: ASSERTIONS_TARGET}

    def draw(n: int, use: int) -> Sequences:
        return process.contexts(n, length, seed=uses[use], device=model.device)

    def read(model: Model) -> Reading[SwappedContext]:
        moved = swapped_of(model.module, subject_of(model.module, process), draw)
        return moved.found, [
            Check(f"share of the possible score at T = {length}", moved.share, 1, tolerance, "at least"),
            Check("squared error beyond the ceiling's", moved.excess, moved.expected_excess, tolerance, moved.side),
            Check("largest score of the controls", moved.steering, 0, tolerance),
        ]

    few = [draw(N_SEQUENCES, use) for use in uses]
    return _settle(
        "the context is not causal",
        (model, process, None),
        read,
        lambda found, _: diagnoses.swap_signs(
            found, tolerance, lambda layer: swap_context(model, *few, positions=[length], layers=[layer])
        ),
        against=lambda found, checks: [
            check._replace(measured=control) for check, control in zip(checks, controls_of(found).values(), strict=True)
        ],
    )


def _settle(
    absent: str,
    subject: tuple[Model, AutoregressiveProcess, object],
    read: Callable[[Model], Reading[Found]],
    signs: Callable[[Found, Found], Iterable[Sign]],
    against: Callable[[Found, list[Check]], list[Check]] | None = None,
) -> Found:
    """Finding of `read` about the model, where its checks pass and those of the control do not.

    Args:
        absent: what to say where they do not.
        subject: model, process, and the control model, made here if None.
        signs: of what is likely wrong, from the findings about model and control.
        against: (findings, checks) -> the same checks of controls, each of which must fail; those of the control
            model, of which one must fail, if left out.
    """
    __tracebackhide__ = True
    model, process, untrained = subject
    found, checks = read(model)
    if against is None:
        beside, controls = read(_control(model, process) if untrained is None else as_model(untrained))
        told = not all(control.passes for control in controls)
    else:
        beside, controls = found, against(found, checks)
        told = all(control.place == OUTSIDE for control in controls)
    word = "untrained" if against is None else "control"
    failed = [
        f"{check}, expected {check.expected:.4g} within {check.tolerance:g} ({word} "
        f"{as_estimate(control.measured).value:.3g}){check.limit}"
        for check, control in zip(checks, controls, strict=True)
        if not check.passes
    ]
    if failed:
        cause = diagnoses.likely_cause(model, process, read, signs(found, beside))
        raise AssertionError(f"{absent}: {'; '.join(failed)}.\nLikely cause: {cause}")
    if not told:
        an = "an untrained model" if against is None else "a control"
        exact = all(as_estimate(control.measured).value == control.expected for control in controls)
        cause = "so small a model cannot lack the structure" if exact else "the tolerance is too wide"
        raise AssertionError(
            f"nothing is shown: {an} passes too, with {', '.join(map(str, controls))} within "
            f"{checks[0].tolerance:g}.\nLikely cause: {cause}."
        )
    return found


def _resolve(subject: Any, process: AutoregressiveProcess | None, probe: str) -> tuple[Model, AutoregressiveProcess]:
    """The model, checked for the probe, and its process."""
    subject = loaded(subject, "subject")
    model = as_model(model_of(subject))
    check(model, probe)
    process = process or getattr(subject, "process", None)
    if process is None:
        raise ValueError("process is needed to sample sequences of it; pass process=..., e.g. CommutingUnitary(10).")
    if model.has_model_config:
        model.config.check_process(process)
    return model, process


def _resolve_diagonal(
    subject: Any, process: AutoregressiveProcess | None, probe: str
) -> tuple[Model, CommutingProcess]:
    model, process = _resolve(subject, process, probe)
    return model, process_of(model, process)


def _length(name: str, given: int | None, model: Model) -> int:
    """The length given, else that of the longest context that the model takes."""
    if given is None and model.n_ctx is None:
        raise ValueError(f"{name} is needed: {model.name} has no config.n_ctx; pass {name}=...")
    return check_integer(name, model.n_ctx if given is None else given, low=2, high=model.n_ctx)


def _control(model: Model, process: AutoregressiveProcess) -> Model:
    """An untrained model of the same architecture."""
    if process.has_eigenbasis and not model.makes_control and not missing(model, "head_orthogonality"):
        return as_model(untrained_heads(model, process))
    return model.untrained(UNTRAINED)


def __dir__() -> list[str]:
    return __all__
