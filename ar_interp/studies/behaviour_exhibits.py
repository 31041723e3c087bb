"""Exhibits of what a model predicts and estimates, and of how it was trained."""

from functools import partial
from typing import Any

import plotly.graph_objects as go

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.probes.algorithm import AlgorithmIdentification, identify_algorithm
from ar_interp.probes.context import RecoveredContext, recover_context
from ar_interp.probes.protocol import missing
from ar_interp.probes.readout_efficiency import DataEfficiency, data_efficiency
from ar_interp.probes.readout_targets import TARGETS
from ar_interp.seeds import EXHIBITS as SEED
from ar_interp.studies.base import Control, Exhibit

N = 64  # contexts that a figure rests on, or shows one of
N_FITTED = 256  # where estimators or probes are fitted to them
SAME_LOSS = 1e-6  # seeds that end so close to each other make no figure

SETTING = "setting = ari.setting_of(checkpoint.config, checkpoint.process)\n"
CONTEXTS = f"contexts = checkpoint.process.contexts({N}, checkpoint.config.n_ctx, seed={SEED})\n"
MANY = CONTEXTS.replace(f"({N},", f"({N_FITTED},")
RECOVERED = f"{SETTING}{CONTEXTS}recovered = ari.recover_context(checkpoint.model, contexts)\n"
IDENTIFIED = f"{MANY}identification = ari.identify_algorithm(checkpoint.model, contexts)\n"


def contexts_of(subject: Subject, n: int = N, seed: int = SEED) -> Any:
    """The contexts that exhibits of a model rest on."""
    assert subject.process is not None  # exhibits are made of models whose process is known
    return subject.process.contexts(n, subject.config.n_ctx, seed=seed)


def position_control(subject: Subject, **options: Any) -> Control:
    """The context length T that a figure looks at."""
    n_ctx = subject.config.n_ctx
    return Control(name="position", label="Context length T", default=n_ctx // 2, low=2, high=n_ctx, **options)


def _one_of_them(subject: Subject) -> tuple[Control, ...]:
    return position_control(subject), Control(name="sequence", label="Sequence", high=N - 1)


def _predict(subject: Subject) -> tuple[Any, Any]:
    contexts = contexts_of(subject)
    return contexts, subject.model(contexts.inputs).detach()


def _recover(subject: Subject) -> RecoveredContext:
    return recover_context(subject.model, contexts_of(subject))


def _identify(subject: Subject) -> AlgorithmIdentification:
    return identify_algorithm(subject.model, contexts_of(subject, N_FITTED))


def _read(subject: Subject, *, hook: str, read: str) -> DataEfficiency:
    return data_efficiency(subject.model, contexts_of(subject, N_FITTED), hook=hook, target=read)


def _readings(subject: Subject) -> tuple[Control, ...]:
    hooks = tuple(name for name in subject.model.hook_dict if name.endswith(("hook_attn_out", "hook_resid_pre")))
    choice = partial(Control, kind="choice", remeasures=True)
    return (
        choice(name="hook", label="Activation", default=hooks[-1], options=hooks),
        choice(name="read", label="What is read", default="next token", options=tuple(TARGETS)),
    )


def _history(subject: Subject) -> Any:
    return subject.run.history if subject.run else ()


def _losses_differ(subject: Subject) -> bool:
    losses = [0.0] if subject.run is None else subject.run.members["loss"]
    return max(losses) - min(losses) > SAME_LOSS


def _draw(name: str, subject: Subject, result: Any, **place: Any) -> go.Figure:
    return getattr(figures, name)(result, subject.setting, **place)


def _draw_alone(name: str, subject: Subject, result: Any) -> go.Figure:
    return getattr(figures, name)(result)


_estimate = partial(
    Exhibit,
    page="In-context W",
    structure="estimate",
    evidence="activations",
    measure=_recover,
    applies=lambda subject: not missing(subject.model, "recover_context"),
)
_algorithm = partial(
    Exhibit,
    page="Algorithm",
    structure="loss",
    evidence="behaviour",
    measure=_identify,
    applies=lambda subject: not missing(subject.model, "identify_algorithm"),
    wide=True,
)
_training = partial(Exhibit, page="Overview", structure="descent", evidence="training", wide=True)

EXHIBITS = (
    Exhibit(
        name="prediction",
        title="One sequence and its prediction",
        page="In-context W",
        structure="loss",
        evidence="behaviour",
        look="Rings are one sequence, dots what the model predicts from all that came before; the right panel has "
        "every coordinate of the token at the dashed line. Look for dots outside their rings.",
        measure=_predict,
        draw=lambda subject, result, **place: figures.prediction(*result, setting=subject.setting, **place),
        code=f"{SETTING}{CONTEXTS}predictions = checkpoint.model(contexts.inputs).detach()\n"
        "ari.figures.prediction(contexts, predictions, setting, sequence={sequence}, position={position}).show()",
        controls=_one_of_them,
        wide=True,
    ),
    _estimate(
        name="context_error",
        title="Error of the estimate of W",
        look="The error of the estimate of W that is read from inside the model, beside what statistics makes of the "
        "same context. Look at how early and how far the model's line falls.",
        draw=partial(_draw, "context_error"),
        code=f"{RECOVERED}ari.figures.context_error(recovered, setting).show()",
    ),
    _estimate(
        name="phases_on_circle",
        title="Eigenvalues of the estimate",
        look="One sequence in the complex plane: rings are the eigenvalues of the true W, dots what the model's "
        "estimate has in their place, crosses what its heads carry alone. Look whether dots sit in rings.",
        draw=partial(_draw, "phases_on_circle"),
        code=RECOVERED + "ari.figures.phases_on_circle(recovered, setting, sequence={sequence}, position={position})"
        ".show()",
        controls=_one_of_them,
        applies=lambda subject: bool(subject.process and subject.process.has_eigenbasis),
    ),
    _estimate(
        name="context_matrices",
        title="W and its estimate",
        look="W of one sequence and the model's estimate, entry by entry. Look for entries of another colour.",
        draw=partial(_draw, "context_matrices"),
        code=RECOVERED + "ari.figures.context_matrices(recovered, setting, sequence={sequence}, position={position})"
        ".show()",
        controls=_one_of_them,
        applies=lambda subject: subject.config.dim > 1,
        wide=True,
    ),
    _algorithm(
        name="error_by_position",
        title="Errors of the model and of estimators",
        look="Solid lines are the model after each of its layers, the others are statistical estimators on the same "
        "contexts. Look for the line that the model's last layer lies on.",
        draw=partial(_draw_alone, "error_by_position"),
        code=f"{IDENTIFIED}ari.figures.error_by_position(identification).show()",
    ),
    _algorithm(
        name="algorithm_match",
        title="Nearest estimators",
        look="Each row is an estimator. Look for one that is near in its predictions (left) and alike both in its "
        "errors and in how its estimate of W looks (right, 1 is the same).",
        draw=partial(_draw_alone, "algorithm_match"),
        code=f"{IDENTIFIED}ari.figures.algorithm_match(identification).show()",
    ),
    _algorithm(
        name="steps_by_layer",
        title="Gradient steps by layer",
        structure="depth",
        look="How many steps of gradient descent are as good as the prediction after each layer. Look whether the "
        "points follow the dotted line, a step per layer, or leave it upwards.",
        draw=partial(_draw_alone, "steps_by_layer"),
        code=f"{IDENTIFIED}ari.figures.steps_by_layer(identification).show()",
        applies=lambda subject: subject.config.n_layers > 1,
    ),
    Exhibit(
        name="data_efficiency",
        title="Contexts that it takes to read W",
        page="Readout",
        structure="estimate",
        evidence="activations",
        look="A linear probe reads a target off one activation, fitted to more and more contexts. Look at how early "
        "its line rises above those of the controls.",
        measure=_read,
        draw=lambda subject, result, **chosen: figures.data_efficiency(result),
        code=MANY + "found = ari.data_efficiency(checkpoint.model, contexts, hook={hook!r}, target={read!r})\n"
        "ari.figures.data_efficiency(found).show()",
        controls=_readings,
        applies=lambda subject: not missing(subject.model, "data_efficiency"),
        wide=True,
    ),
    _training(
        name="training_history",
        title="Loss over training",
        look="Both axes are logarithmic. Look at the plateaus, and at where the line ends.",
        measure=_history,
        draw=partial(_draw, "training_history"),
        code=f"{SETTING}ari.figures.training_history(checkpoint.history, setting).show()",
        applies=lambda subject: len(_history(subject)) > 0,
    ),
    _training(
        name="member_levels",
        title="Final losses of all seeds",
        look="Where training ended from each of its random beginnings; the best one is the model that is opened. Look "
        "at how rare the left-most bar is, and whether the others stand at the dashed lines where theory has any.",
        measure=lambda subject: (subject.run.members, subject.setting.levels),
        draw=lambda subject, result: figures.member_levels(*result),
        code=f"{SETTING}ari.figures.member_levels(checkpoint.members, setting.levels).show()",
        applies=_losses_differ,
    ),
)
