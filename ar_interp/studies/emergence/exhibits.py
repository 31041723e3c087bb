"""Exhibits of how training finds the gradient step."""

from functools import partial
from typing import Any

from ar_interp import figures
from ar_interp.claims import Subject
from ar_interp.probes.emergence import descent_along, sign_pattern, stage_times
from ar_interp.setting import Emergence
from ar_interp.studies.exhibit import Result, exhibit


def _has_record(subject: Subject) -> bool:
    return subject.run is not None and "a" in subject.run.history and bool(subject.run.training.start)


def _setting(subject: Subject) -> Any:
    assert isinstance(subject.setting, Emergence)
    return subject.setting


ALONG = "ari.descent_along(checkpoint)"
_along = Result(
    code={"along": ALONG},
    measure=lambda subject: (descent_along(subject.run),),  # type: ignore[arg-type]
    applies=lambda subject: _has_record(subject) and not _setting(subject).law.scales,  # those have stages
)
_portrait = Result(
    code={"along": ALONG, "flows": "setting.flows(checkpoint.training.start)"},
    measure=lambda subject: (descent_along(subject.run), _setting(subject).flows(subject.run.training.start)),
    applies=lambda subject: _has_record(subject) and _setting(subject).moments is not None,
)
_stages = Result(
    code={"along": ALONG, "stages": "ari.stage_times(checkpoint)"},
    measure=lambda subject: (descent_along(subject.run), stage_times(subject.run)),
    applies=lambda subject: _has_record(subject) and bool(_setting(subject).law.scales),
)
_pattern = Result(
    code={"pattern": "ari.sign_pattern(checkpoint)"},
    measure=lambda subject: (sign_pattern(subject.model),),
    applies=lambda subject: _setting(subject).in_plane and not _setting(subject).law.one_at_a_time,
)
_members = Result(
    code={"members": "checkpoint.members", "dim": "checkpoint.config.dim"},
    measure=lambda subject: (subject.run.members, subject.config.dim),
    applies=lambda subject: subject.run is not None and "minus" in subject.run.members,
)
_training = partial(exhibit, page="Overview", structure="emergence", evidence="training")

EXHIBITS = (
    _training(
        figures.phase_portrait,
        _portrait,
        title="The path of training in the plane of gradient steps",
        look="Dots are the trained layer step by step, the line is the recursion, without a fitted number. Look "
        "whether dots leave the line, and how the end depends on the start.",
    ),
    _training(
        figures.plateau_and_drop,
        _along,
        title="Plateau and drop",
        look="The step size a b against the step. Look at the length of the plateau, and whether anything grows off "
        "the plane.",
        wide=True,
    ),
    _training(
        figures.emergence_stages,
        _stages,
        title="Stages of unequal coordinates",
        look="Every coordinate has a plateau and a drop of its own. Look at the dotted half times, a line each.",
        wide=True,
    ),
    _training(
        figures.sign_patterns,
        _members,
        structure="signs",
        title="Signs that random starts end with",
        look="Bars are the starts by the number of coordinates whose sign differs from the others. Look at the share "
        "without any, which alone takes a gradient step.",
    ),
    exhibit(
        figures.reflected_step,
        _pattern,
        title="Gradient step or reflected step",
        page="Algorithm",
        structure="signs",
        evidence="behaviour",
        look="All eigenvalues are one number here, so that the signs of the coordinates show. Look whether the dots "
        "are on the grey line of a gradient step or on the diamonds of its own signs.",
    ),
)
