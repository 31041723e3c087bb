"""Exhibits of what a model predicts and estimates, and of how it was trained."""

from dataclasses import replace
from functools import partial
from typing import Any

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.probes.algorithm import identify_algorithm
from ar_interp.probes.along import structure_along
from ar_interp.probes.context import recover_context
from ar_interp.probes.outside import OutsideErrors, outside_errors
from ar_interp.probes.protocol import missing
from ar_interp.probes.readout_efficiency import data_efficiency
from ar_interp.seeds import EXHIBITS as SEED
from ar_interp.setting import DiagonalHeads
from ar_interp.studies.exhibit import N_FITTED, Result, contexts_code, contexts_of, exhibit, has_estimate, probed

SAME_LOSS = 1e-6  # seeds that end so close to each other make no figure


def _predict(subject: Subject) -> tuple[Any, Any]:
    contexts = contexts_of(subject)
    return contexts, subject.model(contexts.inputs).detach()


def _measure_outside(subject: Subject) -> OutsideErrors:
    process: Any = subject.process
    theory = subject.setting.ideal(subject.model)
    return outside_errors(subject.model, process, theory=theory, seed=SEED)


def _losses_differ(subject: Subject) -> bool:
    losses = [0.0] if subject.run is None else subject.run.members["loss"]
    return max(losses) - min(losses) > SAME_LOSS


_predicted = Result(
    code={"sequences": contexts_code(), "predictions": "checkpoint.model(sequences.inputs).detach()"},
    measure=_predict,
)
_history = Result(
    code={"history": "checkpoint.history"},
    measure=lambda subject: (subject.run.history,),
    applies=lambda subject: subject.run is not None and len(subject.run.history) > 0,
)
_members = Result(
    code={"members": "checkpoint.members", "levels": "setting.levels"},
    measure=lambda subject: (subject.run.members, subject.setting.levels),
    applies=_losses_differ,
)
_recovered = probed("recovered", recover_context)
_estimate = partial(
    exhibit,
    result=replace(
        _recovered,
        applies=lambda subject: _recovered.applies(subject) and has_estimate(subject),
    ),
    page="In-context W",
    structure="estimate",
    evidence="activations",
)
_algorithm = partial(
    exhibit,
    result=probed("identification", identify_algorithm, n=N_FITTED),
    page="Algorithm",
    evidence="behaviour",
    wide=True,
)
_outside = partial(
    exhibit,
    result=Result(
        code={
            "outside": "ari.outside_errors("
            f"checkpoint.model, checkpoint.process, theory=setting.ideal(checkpoint.model), seed={SEED})"
        },
        measure=lambda subject: (_measure_outside(subject),),
        applies=lambda subject: not missing(subject.model, "outside_errors"),
    ),
    page="Algorithm",
    structure="outside",
    evidence="behaviour",
    wide=True,
)
_along = Result(
    code={"along": "ari.structure_along(checkpoint.models_along, checkpoint.process)"},
    measure=lambda subject: (structure_along(subject.run.models_along, subject.process),),
    applies=lambda subject: (
        subject.run is not None and len(subject.run.snapshots) > 0 and isinstance(subject.setting, DiagonalHeads)
    ),
)
_training = partial(exhibit, page="Overview", structure="descent", evidence="training", wide=True)

EXHIBITS = (
    exhibit(
        figures.prediction,
        _predicted,
        title="One sequence and its prediction",
        page="In-context W",
        structure="loss",
        evidence="behaviour",
        look="Rings are one sequence, dots what the model predicts from all that came before; the right panel has "
        "every coordinate of the token at the dashed line. Look for dots outside their rings.",
        wide=True,
    ),
    _estimate(
        figures.context_error,
        title="Error of the estimate of W",
        look="The error of the estimate of W that is read from inside the model, beside what statistics makes of the "
        "same context. Look at how early and how far the model's line falls.",
    ),
    _estimate(
        figures.phases_on_circle,
        title="Eigenvalues of the estimate",
        look="One sequence in the complex plane: rings are the eigenvalues of the true W, dots what the model's "
        "estimate has in their place, crosses what its heads carry alone. Look whether dots sit in rings.",
        applies=lambda subject: bool(subject.process and subject.process.has_eigenbasis),
    ),
    _estimate(
        figures.context_matrices,
        title="W and its estimate",
        look="W of one sequence and the model's estimate, entry by entry. Look for entries of another colour.",
        applies=lambda subject: subject.config.dim > 1,
        wide=True,
    ),
    _algorithm(
        figures.error_by_position,
        title="Errors of the model and of estimators",
        structure="loss",
        look="Solid lines are the model after each of its layers, the others are statistical estimators on the same "
        "contexts. Look for the line that the model's last layer lies on.",
    ),
    _algorithm(
        figures.algorithm_match,
        title="Nearest estimators",
        structure="loss",
        look="Each row is an estimator. Look for one that is near in its predictions (left) and alike both in its "
        "errors and in how its estimate of W looks (right, 1 is the same).",
    ),
    _algorithm(
        figures.steps_by_layer,
        title="Gradient steps by layer",
        structure="depth",
        look="How many steps of gradient descent are as good as the prediction after each layer. Look whether the "
        "points follow the dotted line, a step per layer, or leave it upwards.",
        applies=lambda subject: subject.config.n_layers > 1,
    ),
    exhibit(
        figures.data_efficiency,
        probed("found", data_efficiency, n=N_FITTED, hook="hook", target="read"),
        title="Contexts that it takes to read W",
        page="Readout",
        structure="estimate",
        evidence="activations",
        look="A linear probe reads a target off one activation, fitted to more and more contexts. Look at how early "
        "its line rises above those of the controls.",
        wide=True,
    ),
    _outside(
        figures.outside_errors,
        title="Errors outside the training law",
        look="Noise, tokens of another norm, other first tokens, W off the unit circle, longer contexts: each row "
        "changes one thing of what the model was trained on. Look for rows in which it errs more than as trained while "
        "least squares does not, and whether theory's diamonds are there with it.",
    ),
    _outside(
        figures.outside_table,
        title="The same errors as numbers",
        look="Relative errors: 1 is what predicting zero has. Look along a row.",
    ),
    _training(
        figures.training_history,
        _history,
        title="Loss over training",
        look="Both axes are logarithmic. Look at the plateaus, and at where the line ends.",
    ),
    _training(
        figures.along_training,
        _along,
        title="Structure along training",
        look="Each line is the distance of one structure from what theory says of the end. Look which of them falls "
        "first, and at balance, which is conserved from the start.",
    ),
    _training(
        figures.member_levels,
        _members,
        title="Final losses of all seeds",
        look="Where training ended from each of its random beginnings; the best one is the model that is opened. Look "
        "at how rare the left-most bar is, and whether the others stand at the dashed lines where theory has any.",
    ),
)
