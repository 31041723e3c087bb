"""The ordinary exhibit: a figure builder and a result, from which measuring, drawing, controls and code follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from typing import Any

import plotly.graph_objects as go

from ar_interp.claims import Subject
from ar_interp.models.opened import as_model
from ar_interp.probes.protocol import missing
from ar_interp.seeds import EXHIBITS as SEED
from ar_interp.seeds import UNTRAINED
from ar_interp.studies.base import Control, Exhibit
from ar_interp.studies.controls import CONTROLS, N

N_FITTED = 256  # contexts where estimators or probes are fitted to them


def contexts_of(subject: Subject, n: int = N, seed: int = SEED) -> Any:
    """The contexts that exhibits of a model rest on."""
    assert subject.process is not None  # exhibits are made of models whose process is known
    return subject.process.contexts(n, subject.config.n_ctx, seed=seed).to(as_model(subject.model).device)


def contexts_code(n: int = N, seed: int = SEED) -> str:
    """The expression that draws the contexts of `contexts_of`."""
    return f"checkpoint.process.contexts({n}, checkpoint.config.n_ctx, seed={seed})"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Values that figures are drawn of, how they are measured, and the Python that makes them.

    Attributes:
        code: name -> expression, in the order of `measure`; names are those of arguments of figure builders.
        measure: (subject, **values of controls) -> a tuple, a value for each name.
        remeasures: names of the controls that `measure` takes, which stand as `{name}` in the code.
        before: lines that the expressions need.
        applies: whether the model has it.
        controls: those that `CONTROLS` has not.
    """

    code: Mapping[str, str]
    measure: Callable[..., tuple[Any, ...]]
    remeasures: tuple[str, ...] = ()
    before: str = ""
    applies: Callable[[Subject], bool] = lambda subject: True
    controls: Mapping[str, Callable[[Subject], Control]] = field(default_factory=dict)


def probed(name: str, probe: Callable[..., Any], *, n: int = N, **controls: str) -> Result:
    """The result of a probe on the shared contexts, of every model that has what the probe needs.

    Args:
        name: of the result.
        controls: arguments of the probe -> names of the controls that give them.
    """
    options = "".join(f", {argument}={{{control}!r}}" for argument, control in controls.items())

    def measure(subject: Subject, **values: Any) -> tuple[Any]:
        chosen = {argument: values[control] for argument, control in controls.items()}
        return (probe(subject.model, contexts_of(subject, n), **chosen),)

    return Result(
        code={name: f"ari.{probe.__name__}(checkpoint.model, contexts{options})"},
        measure=measure,
        remeasures=tuple(controls.values()),
        before=f"contexts = {contexts_code(n)}\n",
        applies=lambda subject: not missing(subject.model, probe.__name__),
    )


def has_estimate(subject: Subject) -> bool:
    """Whether a path of the last token alone holds an estimate of W, and there is one W to estimate."""
    return as_model(subject.model).has_own_path and getattr(subject.process, "n_matrices", 1) == 1


def beside_untrained(name: str, probe: Callable[[Any], Any], applies: Callable[[Subject], bool]) -> Result:
    """The result of a probe of the weights, and of fresh weights in the same architecture."""

    def measure(subject: Subject) -> tuple[Any, Any]:
        return probe(subject.model), probe(subject.model.untrained(seed=UNTRAINED))

    of = f"ari.{probe.__name__}"
    code = {
        name: f"{of}(checkpoint.model)",
        "untrained": f"{of}(checkpoint.model.untrained(seed={UNTRAINED}))",
    }
    return Result(code=code, measure=measure, applies=applies)


def exhibit(
    builder: Callable[..., go.Figure],
    result: Result,
    *,
    name: str = "",
    applies: Callable[[Subject], bool] = lambda subject: True,
    **fields: Any,
) -> Exhibit:
    """The exhibit of a builder of `ar_interp.figures`.

    Arguments of the builder are looked up by name among the values of the result, then `setting`; those that are left
    and have no default are controls.

    Args:
        name: that of the builder if left out.
        applies: whether the model has it, beside what the result asks for.
        fields: other fields of `Exhibit`.
    """
    arguments = [
        argument
        for argument in signature(builder).parameters.values()
        if argument.name in result.code or argument.default is Parameter.empty
    ]
    names = {argument.name for argument in arguments}
    makers = {**CONTROLS, **result.controls}

    def controls(subject: Subject) -> tuple[Control, ...]:
        chosen = [name for name in makers if name in names or name in result.remeasures]
        return tuple(replace(makers[name](subject), remeasures=name in result.remeasures) for name in chosen)

    def draw(subject: Subject, measured: tuple[Any, ...], **values: Any) -> go.Figure:
        known = {**values, "setting": subject.setting, **dict(zip(result.code, measured, strict=True))}
        return builder(**{name: known[name] for name in names})

    lines = "".join(f"{name} = {line}\n" for name, line in result.code.items() if name in names)
    given = ", ".join(_written(argument, result) for argument in arguments)
    code = f"{lines}ari.figures.{builder.__name__}({given}).show()"
    setting = "setting = ari.setting_of(checkpoint.config, checkpoint.process)\n" if "setting" in code else ""
    return Exhibit(
        name=name or builder.__name__,
        measure=result.measure,
        draw=draw,
        code=result.before + setting + code,
        controls=controls,
        applies=lambda subject: result.applies(subject) and applies(subject),
        **fields,
    )


def _written(argument: Parameter, result: Result) -> str:
    """An argument as the code gives it."""
    value = argument.name if argument.name in {"setting", *result.code} else f"{{{argument.name}!r}}"
    return f"{argument.name}={value}" if argument.kind is Parameter.KEYWORD_ONLY else value
