"""Needs of each probe: any TransformerLens HookedRootModule that has them can be probed, not only ours.

`NAMES` says what a name stands for, `PROTOCOL` which names a probe reads: `@needs` at each probe declares them;
`ari.conformance` tries a model on both, and `ari.adapt` gives these names to a model that has others. Weights
are attributes, properties or parameters; hooks are looked up in `hook_dict`, which `HookedRootModule.setup()` fills,
and where a name has | either will do; `config` is any object with the attributes asked for, say
`types.SimpleNamespace(encoding="augmented", ...)`, and a model without one is one bare layer on plain tokens. Two names
more are read where a model has them and the caller passes none: `process`, the family that the model is about, and
`untrained(seed)`, which makes its control.

All probes share these arguments: `model`, any that has what the probe needs, or the checkpoint, run, name or folder
that it is in; `sequences`, a token longer than the contexts to look at; `layer` and `head`, from 0; `seed`, of whatever
is drawn; `batch_size`, how many contexts are worked on at a time, by default as many as `batches.NUMBERS` holds: it
changes memory and time, not the result.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_seed
from ar_interp._moods import calm
from ar_interp.checkpoints import model_of
from ar_interp.models.opened import Model, as_model
from ar_interp.processes.base import Process, check_process
from ar_interp.processes.contexts import Contexts, Sequences, brought

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LAYER = re.compile(r"^blocks\.(\d+)\.")

NAMES: dict[str, str] = {
    "forward": "(tokens [batch pos dim]) -> predictions [batch pos dim]",
    "run_with_cache": "(tokens, names_filter=...) -> predictions, activations by hook name",
    "hooks": "(fwd_hooks=...), a context manager",
    "read_out": "(resid [batch pos d_model]) -> predictions [batch pos dim]",
    **dict.fromkeys(("W_Q", "W_K", "W_V"), "[layer head d_model d_head]"),
    "W_O": "[layer head d_head d_model]",
    "W_U": "[d_model dim]",
    "P": "[query key], row T - 2 for the context of length T",
    "features": "(x [points]) -> [points feature], the functions of x that a layer on prompts attends with",
    "Gamma": "[feature feature], their form between a query (rows) and the examples",
    "config": "a RegressionConfig or NextTokenConfig, of which theory speaks",
    "maps": "[*step source symbol out], what each symbol adds at each source",
    "generate": "(prompts [batch prompt]) -> prompts with the chains that the model writes [batch pos]",
    "hook_contributions": "[batch step source symbol], what each token adds to the logits",
    "config.encoding": "'plain' for tokens s_t, 'augmented' for (0, s_t, s_{t-1})",
    "config.dim": "size of s_t",
    "config.d_model": "width of the residual stream",
    "config.n_layers": "number of layers",
    "config.attention": "'linear', else steps per pair are compared with",
    "config.linear": "False where attention is softmax",
    "config.heads": "'diagonal' or 'full'",
    "config.residual": "whether layers add to the stream",
    "config.biases": "whether heads have them",
    "config.unembed": "whether the read-out is trained",
    "config.repeats": "how often a plain token holds s_t",
    "config.layer_norm": "whether there is one",
    "config.d_mlp": "width of the MLPs, 0 for none",
    "config.scale_scores": "whether scores are divided by sqrt(config.head_width)",
    "config.head_width": "d_head",
    "hook_embed": "[batch pos d_model]",
    **{f"blocks.{{layer}}.hook_{name}": "[batch pos d_model]" for name in ("resid_pre", "attn_out", "resid_post")},
    **{f"blocks.{{layer}}.attn.hook_{name}": "[batch pos head d_head]" for name in "qkvz"},
    **{f"blocks.{{layer}}.attn.hook_{name}": "[batch head query key]" for name in ("attn_scores", "pattern")},
    "blocks.{layer}.attn.hook_kv_state": "[batch pos head d_head d_head], sum over keys of conj(k_t) v_t^T",
    "blocks.{layer}.attn.hook_result|hook_z": "[batch pos head d_model] or [batch pos head d_head]",
}

BARE = "no config"
PLAIN = "plain tokens"
DIAGONAL = "plain tokens, diagonal heads"
FULL = "plain tokens, full heads"
SPREAD = "plain tokens, deep or nonlinear attention"
AUGMENTED = "augmented tokens"
LINEAR = "augmented tokens, linear attention"
NOT_LINEAR = "augmented tokens, other attention"
FOREIGN = "diagonal heads, no ModelConfig"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The names that a probe reads; `{layer}` stands for every layer.

    Attributes:
        always: of every model.
        when: besides, of models of a kind: `BARE`, `PLAIN` (`DIAGONAL`, `FULL` or `SPREAD`), `AUGMENTED` (`LINEAR` or
            `NOT_LINEAR`), `FOREIGN`.
        scope: the kind of models that the probe is for, or in words what no name tells of them.
        arguments: what it must be given beside the model.
        options: model -> what it must be given besides, since this model has it not or needs it so.
        fits: raises the `ValueError` with which the probe refuses a model for its weights.
        reads_any: it reads whatever hooks it is asked to.
        compares: with the one W of each sequence.
        about: the kind of contexts that it, or its process, is about.
    """

    always: tuple[str, ...] = ()
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scope: str = "any"
    arguments: tuple[str, ...] = ()
    options: Callable[[Model], str] = lambda model: ""
    fits: Callable[[Model], object] = lambda model: None
    reads_any: bool = False
    compares: bool = False
    about: type[Contexts] = Contexts


WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")
RUN = ("forward", "run_with_cache", "hooks")
PATTERNS = ("blocks.{layer}.attn.hook_pattern",)
BY_KEYS = (
    "blocks.{layer}.attn.hook_attn_scores", *PATTERNS, "blocks.{layer}.attn.hook_v", "blocks.{layer}.attn.hook_z",
    "blocks.{layer}.hook_attn_out",
)  # fmt: skip


def process_option(model: Model) -> str:
    """The process, where the model knows none."""
    return "" if model.process else "process=..."


def length_option(model: Model) -> str:
    """The longest context, where the model says none."""
    return "" if model.n_ctx else "n_ctx=..."


def control_option(model: Model) -> str:
    """The control model, where the model makes none."""
    return "" if model.makes_control else "untrained=..."


PROTOCOL: dict[str, Needs]
_TABLE = {
    "verify": Needs(
        always=("forward",),
        when={FOREIGN: (*RUN, *WEIGHTS, "P", *BY_KEYS)},
        scope="any; claims of theory are about one layer of diagonal heads, of this package also about general ones",
        options=process_option,
    )
}


def needs(
    *always: str,
    when: Mapping[str, tuple[str, ...]] | None = None,
    scope: str = "any",
    options: Callable[[Model], str] = lambda model: "",
    fits: Callable[[Model], object] = lambda model: None,
    sequences: int = 1,
    length: int = 1,
    compares: bool = False,
) -> Callable[[Callable[Concatenate[Model, Arguments], Result]], Callable[Concatenate[object, Arguments], Result]]:
    """Declare what a probe reads, see `Needs`, and check and prepare what it is given.

    The probe is given a `Model` that has all of what it needs, and finite weights; sequences and tokens on the model's
    device, in the higher precision of the two, detached, finite, and as many and as long as it needs. It runs under
    `calm`, and alone on a model whose hooks act in every thread.

    Args:
        sequences, length: the least number of contexts and of inputs in each.
        compares: with the one matrix W of each sequence, so that sequences with several are refused.
    """

    def declare(
        probe: Callable[Concatenate[Model, Arguments], Result],
    ) -> Callable[Concatenate[object, Arguments], Result]:
        name, arguments_of = probe.__name__, signature(probe)
        required = [
            p.name if p.kind is p.POSITIONAL_OR_KEYWORD else f"{p.name}=..."
            for p in arguments_of.parameters.values()
            if p.default is p.empty
        ][1:]
        about = _about([p.annotation for p in arguments_of.parameters.values()])
        _TABLE[name] = Needs(
            always=always,
            when=when or {},
            scope=scope,
            arguments=tuple(required),
            options=options,
            fits=fits,
            reads_any=bool({"hook", "hooks"} & set(arguments_of.parameters)),
            compares=compares,
            about=about,
        )

        @wraps(probe)
        def opened(model: object, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            found = _opened(model)
            with calm(), found.turn, found.counted(name):
                check(found, name)
                found.check_finite()
                given = arguments_of.bind(found, *arguments, **options)
                contexts = any(isinstance(value, Contexts) for value in given.arguments.values())
                task = None if contexts else given.arguments.get("process") or found.process
                if why_not := other_task(name, about, task):
                    raise ValueError(f"{why_not}.")
                for argument, value in given.arguments.items():
                    if argument == "process":
                        check_process(value)
                    _check_kind(argument, value, arguments_of.parameters[argument].annotation)
                    if argument == "seed":
                        given.arguments[argument] = check_seed(value)
                    elif argument == "untrained" and value is not None:
                        given.arguments[argument] = _opened(value, argument)
                    elif isinstance(value, Contexts):
                        if compares:
                            check_one_matrix(argument, value, name)
                        given.arguments[argument] = _brought(argument, value, found, (sequences, length))
                    elif isinstance(value, Tensor):
                        given.arguments[argument] = _brought_tokens(argument, value, found)
                    elif argument == "batch_size" and value is not None:
                        given.arguments[argument] = min(check_integer(argument, value, low=1, high=None), sys.maxsize)
                try:
                    return probe(*given.args, **given.kwargs)
                except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
                    raise ValueError(
                        f"{name} of {found.name} met numbers without a decomposition, most likely overflow: its "
                        f"weights go up to {found.largest_weight:.2g}. Check its predictions on these sequences."
                    ) from error

        return opened

    return declare


def _opened(model: object, name: str = "model") -> Model:
    """The model of a name, a folder, a checkpoint, a run, or as it is."""
    return as_model(model if isinstance(model, Model) else model_of(model, name))


def _about(annotations: Sequence[object]) -> type[Contexts]:
    """The kind of contexts that the arguments of a probe are annotated with, or that their processes make."""
    named = [kind for annotation in annotations for kind in (annotation, *get_args(annotation))]
    kinds = [kind for kind in named if isinstance(kind, type)]
    made = (kind.makes if issubclass(kind, Process) else kind for kind in kinds if issubclass(kind, Contexts | Process))
    return next((kind for kind in made if kind is not Contexts), Contexts)


def other_task(probe: str, about: type[Contexts], task: Any) -> str:
    """Why a probe says nothing of contexts or a process; empty where it does, or where none are known."""
    makes = getattr(task, "makes", type(task))
    if about is Contexts or makes is Contexts or not issubclass(makes, Contexts) or issubclass(makes, about):
        return ""
    named = f"the task of this model, {task.kind!r}, makes" if hasattr(task, "kind") else "these are"
    return f"{probe} is for {about.__name__}, and {named} {makes.__name__}"


def _check_kind(argument: str, value: object, wanted: object) -> None:
    """Refuse another kind of data where sequences or tokens are wanted."""
    if isinstance(wanted, type) and issubclass(wanted, Contexts) and not isinstance(value, wanted):
        tokens = "they hold W beside the tokens, " if isinstance(value, Tensor) and wanted is Sequences else ""
        own = ", or ari.Sequences(tokens=tokens, W=W) of your own" if wanted is Sequences else ""
        raise ValueError(
            f"{argument} must be {wanted.__name__}, got {type(value).__name__}: {tokens}make them with "
            f"process.contexts(n, length, seed=0) of the model's task{own}."
        )
    if isinstance(value, Contexts) and not (isinstance(wanted, type) and issubclass(wanted, Contexts)):
        raise ValueError(f"{argument} must be tokens [batch pos dim], got {type(value).__name__}: pass its .inputs.")


def _brought(argument: str, contexts: Contexts, model: Model, least: tuple[int, int]) -> Contexts:
    """The contexts where the model is.

    Raises:
        ValueError: too few, too short, not finite; the message says which sequence and position.
    """
    n, length = least
    if len(contexts) < n:
        raise ValueError(
            f"{argument} must hold at least {n} sequence{'s' * (n > 1)} for this probe, got {len(contexts)}: sample "
            "more with process.contexts(n, length, seed=...)."
        )
    if contexts.length < length:
        raise ValueError(
            f"{argument}: contexts must be at least {length} inputs long, got {contexts.length}: sample them with "
            "process.contexts(n, length, seed=...)."
        )
    for name, value in contexts.tensors().items():
        _check_finite(f"{argument}.{name}", value, "row" if name == "W" else "position")
    return contexts.to(model.device, model.dtype)


def _brought_tokens(argument: str, tokens: Tensor, model: Model) -> Tensor:
    if 0 in tokens.shape:
        raise ValueError(f"{argument} must not be empty, got shape {list(tokens.shape)}.")
    _check_finite(argument, tokens)
    return brought(tokens, model.device, model.dtype)


def check_one_matrix(argument: str, task: object, probe: str) -> None:
    """Refuse sequences, or a process, of several matrices each, which leave no W to compare with."""
    n = getattr(task, "n_matrices", 1)
    if n > 1:
        raise ValueError(
            f"{argument} must have one W each for {probe}, got W [batch {n} dim dim], the matrices of s_t, s_{{t-1}} "
            "and so on: no single one makes the next token. Sample stacked states (s_t, s_{t-1}), which have one (see "
            "AutoregressiveProcess). Defined all the same are probes that compare with no W, such as full_jacobian, "
            "identify_algorithm and ablate_layers."
        )


def _check_finite(name: str, value: Tensor, second: str = "position") -> None:
    """Refuse NaN, infinity, and what overflows when it is squared."""
    wrong = ~torch.isfinite(value.abs().square())
    if not wrong.any():
        return
    at = wrong.nonzero()[0].tolist()
    where = " ".join(f"{axis} {i}," for axis, i in zip(("sequence", second), at[:-1], strict=False))
    raise ValueError(
        f"{name} must be finite, and so must squares: {value[tuple(at)].item():g} in {where} coordinate {at[-1]} (all "
        f"from 0); {int(wrong.flatten(1).any(1).sum())} of {len(value)} sequences have such entries. Leave them out."
    )


def __getattr__(name: str) -> dict[str, Needs]:
    """`PROTOCOL`, which is complete once all probes are imported."""
    if name != "PROTOCOL":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    return dict(sorted(_TABLE.items()))


def check(model: object, probe: str) -> None:
    """Refuse a model that lacks what a probe needs.

    Raises:
        ValueError: it does; the message names its type, the probe, all that is missing and what that stands for.
    """
    lacking = missing(model, probe)
    if lacking:
        meanings = "; ".join(f"{name} {NAMES[LAYER.sub('blocks.{layer}.', name)]}" for name in lacking)
        raise ValueError(
            f"model of type {_opened(model).name} cannot be probed: it lacks {', '.join(lacking)}. {probe} needs "
            f"{meanings}. Give it weights and config as attributes or properties, hooks as HookPoints of these names "
            "before it calls setup(), or use ari.adapt; ari.conformance(model) says what the other probes need."
        )


def missing(model: object, probe: str) -> tuple[str, ...]:
    """The names that a probe needs, see `needed`, and a model lacks, or has as None."""
    opened = _opened(model)
    return tuple(name for name in needed(opened, probe) if not _has(opened, name))


def needed(model: object, probe: str) -> tuple[str, ...]:
    """The names that a probe needs of a model of this kind, for each of its layers.

    Raises:
        ValueError: a probe that is not in `PROTOCOL`.
    """
    opened = _opened(model)
    table = _TABLE if probe in _TABLE else __getattr__("PROTOCOL")
    row = table[check_choice("probe", probe, tuple(table))]
    names = [*row.always, *(name for kind in kinds(opened) for name in row.when.get(kind, ()))]
    layers = range(opened.n_layers)
    return tuple(dict.fromkeys(name.format(layer=layer) for name in names for layer in layers))


def kinds(model: Model) -> tuple[str, ...]:
    """The kinds of models, see `Needs`, that it is one of."""
    whose = () if model.has_model_config or not model.is_diagonal else (FOREIGN,)
    if not model.has_config:
        return (BARE, *whose)
    if model.is_augmented:
        return (AUGMENTED, LINEAR if model.is_linear else NOT_LINEAR)
    if not model.has_own_path:
        return (PLAIN, SPREAD)
    return (PLAIN, DIAGONAL if model.is_diagonal else FULL, *whose)


def either(name: str) -> list[str]:
    """The hooks of which one is enough, a|b."""
    path, dot, last = name.rpartition(".")
    return [f"{path}{dot}{hook}" for hook in last.split("|")]


def _has(model: Model, name: str) -> bool:
    if "hook_" in name:
        return any(hook in model.hook_names for hook in either(name))
    found: Any = model.module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None and getattr(found, "__name__", "") != "_forward_unimplemented"  # torch's
