"""The controls that exhibits share, by name: what a reader may choose, and within which range for a model."""

from collections.abc import Callable
from functools import partial

from ar_interp.claims import Subject
from ar_interp.probes.paths import GRADIENT_STEP, SECOND_PATH
from ar_interp.probes.readout_targets import TARGETS
from ar_interp.studies.base import Control

N = 64  # contexts that a figure rests on, or shows one of

_choice = partial(Control, kind="choice")


def _position(subject: Subject) -> Control:
    n_ctx = subject.config.n_ctx
    return Control(name="position", label="Context length T", default=n_ctx // 2, low=2, high=n_ctx)


def _hook(subject: Subject) -> Control:
    hooks = tuple(name for name in subject.model.hook_dict if name.endswith(("hook_attn_out", "hook_resid_pre")))
    return _choice(name="hook", label="Activation", default=hooks[-1], options=hooks)


def _hypothesis(subject: Subject) -> Control:
    step, second = tuple(GRADIENT_STEP), tuple(SECOND_PATH)
    paths = has_blocks(subject)
    options = ((step,), (step, second)) if paths else ((0,), (0, 1), (0, 1, 2))
    return _choice(
        name="hypothesis",
        label="All that matters",
        default=subject.setting.hypothesis or options[0 if paths else 1],
        options=options,
        meaning="Paths (query, key, value), or offsets of keys from the newest, 0.",
    )


def has_blocks(subject: Subject) -> bool:
    """Whether its tokens have blocks, so that a layer is a sum of paths; else it is a sum over keys."""
    return getattr(subject.config, "encoding", "plain") == "augmented"


def _sequence(name: str, label: str) -> Callable[[Subject], Control]:
    return lambda subject: Control(name=name, label=label, high=N - 1)


CONTROLS: dict[str, Callable[[Subject], Control]] = {
    "position": _position,
    "sequence": _sequence("sequence", "Sequence"),
    "source": _sequence("source", "Source sequence"),
    "target": _sequence("target", "Target sequence"),
    "layer": lambda subject: Control(name="layer", label="Layer", high=subject.config.n_layers - 1),
    "head": lambda subject: Control(name="head", label="Head", high=subject.config.n_heads - 1),
    "hook": _hook,
    "read": lambda subject: _choice(name="read", label="What is read", default="next token", options=tuple(TARGETS)),
    "hypothesis": _hypothesis,
}
