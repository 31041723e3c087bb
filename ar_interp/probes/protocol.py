"""What each probe needs of a model: any TransformerLens HookedRootModule that has it can be probed, not only ours.

`NAMES` says what a name stands for, `PROTOCOL` which names a probe reads. Weights are attributes, properties or
parameters; hooks are looked up in `hook_dict`, which `HookedRootModule.setup()` fills, and where a name has | either
will do; `config` is any object with the attributes asked for, say `types.SimpleNamespace(encoding="augmented", ...)`,
and a model without one is one bare layer on plain tokens. Two names more are read where a model has them and the caller
passes none: `process`, the family that the model is about, and `untrained(seed)`, which makes its control.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ar_interp._checks import check_choice
from ar_interp.models.config import ModelConfig

LAYER = re.compile(r"^blocks\.(\d+)\.")

NAMES: dict[str, str] = {
    "forward": "(tokens [batch pos dim]) -> predictions [batch pos dim]",
    "run_with_cache": "(tokens, names_filter=...) -> predictions, activations by hook name",
    "hooks": "(fwd_hooks=...), a context manager",
    "read_out": "(resid [batch pos d_model]) -> predictions [batch pos dim]",
    "W_Q": "[layer head d_model d_head]",
    "W_K": "[layer head d_model d_head]",
    "W_V": "[layer head d_model d_head]",
    "W_O": "[layer head d_head d_model]",
    "W_U": "[d_model dim]",
    "P": "[query key], row T - 2 for the context of length T",
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
    "blocks.{layer}.hook_resid_pre": "[batch pos d_model]",
    "blocks.{layer}.hook_attn_out": "[batch pos d_model]",
    "blocks.{layer}.hook_resid_post": "[batch pos d_model]",
    "blocks.{layer}.attn.hook_q": "[batch pos head d_head]",
    "blocks.{layer}.attn.hook_k": "[batch pos head d_head]",
    "blocks.{layer}.attn.hook_v": "[batch pos head d_head]",
    "blocks.{layer}.attn.hook_attn_scores": "[batch head query key]",
    "blocks.{layer}.attn.hook_pattern": "[batch head query key]",
    "blocks.{layer}.attn.hook_kv_state": "[batch pos head d_head d_head], sum over keys of conj(k_t) v_t^T",
    "blocks.{layer}.attn.hook_z": "[batch pos head d_head]",
    "blocks.{layer}.attn.hook_result|hook_z": "[batch pos head d_model] or [batch pos head d_head]",
}

BARE = "no config"
PLAIN = "plain tokens"
DIAGONAL = "plain tokens, diagonal heads"
FULL = "plain tokens, full heads"
AUGMENTED = "augmented tokens"
LINEAR = "augmented tokens, linear attention"
OTHER = "augmented tokens, other attention"
FOREIGN = "no ModelConfig"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The names that a probe reads; `{layer}` stands for every layer.

    Attributes:
        always: of every model.
        when: besides, of models of a kind: `BARE`, `PLAIN` (`DIAGONAL` or `FULL`), `AUGMENTED` (`LINEAR` or `OTHER`),
            `FOREIGN`.
        scope: the kind of models that the probe is for, or in words what no name tells of them.
    """

    always: tuple[str, ...] = ()
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scope: str = "any"


WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")
SCORES = ("blocks.{layer}.attn.hook_attn_scores",)
PATTERNS = ("blocks.{layer}.attn.hook_pattern",)
STATES = ("blocks.{layer}.attn.hook_kv_state",)
CIRCUIT = ("W_V", "W_O", "run_with_cache", "blocks.0.attn.hook_pattern")
DRESS = ("config.n_layers", "config.residual", "config.biases", "config.unembed", "config.repeats")
JACOBIAN = (
    "forward", "hooks", "read_out", "config.encoding", "config.dim", "config.n_layers", "hook_embed",
    "blocks.{layer}.attn.hook_v", "blocks.{layer}.hook_resid_post",
)  # fmt: skip
BY_QUERY = (*JACOBIAN, "blocks.{layer}.attn.hook_k")
BY_VALUE = (*JACOBIAN, *PATTERNS, "blocks.{layer}.attn.hook_z")
ESTIMATE = {
    BARE: CIRCUIT,
    PLAIN: (*CIRCUIT, "config.encoding", "config.heads", "config.attention"),
    FULL: (*BY_VALUE, *DRESS),
    AUGMENTED: (*BY_QUERY, "config.attention"),
}
REMOVAL = ("forward", "run_with_cache", "hooks")
BY_KEYS = (
    *SCORES, *PATTERNS, "blocks.{layer}.attn.hook_v", "blocks.{layer}.attn.hook_z", "blocks.{layer}.hook_attn_out"
)  # fmt: skip
BY_PATHS = (
    *REMOVAL, "W_Q", "W_K", "W_V", "config.encoding", "config.linear", "config.biases", "config.layer_norm",
    "blocks.{layer}.hook_resid_pre", "blocks.{layer}.hook_attn_out", "blocks.{layer}.attn.hook_q",
    "blocks.{layer}.attn.hook_k", "blocks.{layer}.attn.hook_v",
)  # fmt: skip
READ = "any, with the hooks that are read"

PROTOCOL: dict[str, Needs] = {
    "circuits": Needs(always=WEIGHTS, scope="any; its blocks need augmented tokens, and config or dim=..."),
    "augmented_blocks": Needs(always=WEIGHTS, scope="augmented tokens, one head in a layer"),
    "head_orthogonality": Needs(always=(*WEIGHTS, "P"), scope="one layer of diagonal heads"),
    "positional_structure": Needs(always=("forward", *WEIGHTS, "P"), scope="one layer of diagonal heads"),
    "recover_context": Needs(always=("forward",), when=ESTIMATE),
    "query_jacobian": Needs(always=BY_QUERY, scope=AUGMENTED),
    "value_jacobian": Needs(always=BY_VALUE, scope=PLAIN),
    "exact_circuit": Needs(
        always=(
            "run_with_cache", "W_Q", "W_O", "W_U", "config.encoding", "config.d_model", "config.n_layers",
            "config.linear", "config.residual", "config.layer_norm", "config.d_mlp", "config.scale_scores",
            "config.head_width",
        ),
        when={LINEAR: STATES},
        scope=LINEAR,
    ),
    "identify_algorithm": Needs(
        always=("run_with_cache",),
        when=ESTIMATE
        | {BARE: ("forward", *CIRCUIT), DIAGONAL: ("read_out", "config.n_layers", "blocks.{layer}.hook_resid_post")},
    ),
    "swap_context": Needs(
        always=("forward", "run_with_cache", "hooks"),
        when={
            BARE: PATTERNS,
            PLAIN: ("config.encoding", "config.heads", *PATTERNS),
            FULL: DRESS,
            AUGMENTED: ("config.encoding", "config.linear", "hook_embed"),
            LINEAR: STATES,
            OTHER: ("blocks.{layer}.attn.hook_k", "blocks.{layer}.attn.hook_v"),
        },
    ),
    "ablate_heads": Needs(always=(*REMOVAL, "blocks.{layer}.attn.hook_result|hook_z")),
    "ablate_positions": Needs(always=(*REMOVAL, *PATTERNS)),
    "path_contributions": Needs(always=(*BY_PATHS, "W_U"), scope="augmented tokens, linear attention without biases"),
    "scrub": Needs(
        always=(*REMOVAL, "W_Q"),
        when={BARE: BY_KEYS, PLAIN: ("config.encoding", *BY_KEYS), AUGMENTED: BY_PATHS},
    ),
    "read_phases": Needs(always=("run_with_cache",), scope=READ),
    "probe_activations": Needs(always=("run_with_cache",), scope=READ),
    "data_efficiency": Needs(always=("run_with_cache",), scope=READ),
    "verify": Needs(
        when={FOREIGN: (*REMOVAL, *WEIGHTS, "P", *BY_KEYS)},
        scope="one layer of diagonal heads; of this package also general ones",
    ),
}  # fmt: skip


def check(model: Any, probe: str) -> None:
    """Refuse a model that lacks what a probe needs.

    Raises:
        ValueError: it does; the message names its type, the probe, all that is missing and what that stands for.
    """
    lacking = missing(model, probe)
    if lacking:
        meanings = "; ".join(f"{name} {NAMES[LAYER.sub('blocks.{layer}.', name)]}" for name in lacking)
        raise ValueError(
            f"model of type {type(model).__name__} cannot be probed: it lacks {', '.join(lacking)}. {probe} needs "
            f"{meanings}. Give it weights and config as attributes or properties, hooks as HookPoints of these names "
            "before it calls setup(); probes.protocol.conformance(model) says what the other probes need."
        )


def missing(model: Any, probe: str) -> tuple[str, ...]:
    """The names that a probe needs and a model lacks, or has as None.

    Raises:
        ValueError: a probe that is not in `PROTOCOL`.
    """
    return tuple(name for name in needed(model, probe) if not _has(model, name))


def needed(model: Any, probe: str) -> tuple[str, ...]:
    """The names that a probe needs of a model of this kind, for each of its layers.

    Raises:
        ValueError: a probe that is not in `PROTOCOL`.
    """
    needs = PROTOCOL[check_choice("probe", probe, tuple(PROTOCOL))]
    names = [*needs.always, *(name for kind in _kinds(model) for name in needs.when.get(kind, ()))]
    layers = range(_n_layers(model))
    return tuple(dict.fromkeys(name.format(layer=layer) for name in names for layer in layers))


def conformance(model: Any) -> pd.DataFrame:
    """What can be asked of a model, as far as names tell.

    Returns:
        A row per probe: usable; missing, the names that the model lacks; scope, the models that the probe is for.
    """
    kinds, rows = _kinds(model), []
    for probe, needs in PROTOCOL.items():
        lacking = ", ".join(missing(model, probe))
        usable = not lacking and (needs.scope in kinds or needs.scope not in (PLAIN, AUGMENTED, LINEAR))
        rows.append({"probe": probe, "usable": usable, "missing": lacking, "scope": needs.scope})
    return pd.DataFrame(rows)


def _kinds(model: Any) -> tuple[str, ...]:
    config = getattr(model, "config", None)
    whose = () if isinstance(config, ModelConfig) else (FOREIGN,)
    if config is None:
        return (BARE, *whose)
    if getattr(config, "encoding", None) != "augmented":
        heads = DIAGONAL if getattr(config, "heads", None) in ("diagonal", "unit") else FULL
        return (PLAIN, heads, *whose)
    return (AUGMENTED, LINEAR if getattr(config, "linear", True) else OTHER, *whose)


def _n_layers(model: Any) -> int:
    hooked = [1 + int(found[1]) for found in map(LAYER.match, _hooks(model)) if found]
    return max([1, getattr(getattr(model, "config", None), "n_layers", 1), *hooked])


def _hooks(model: Any) -> Mapping[str, Any]:
    return getattr(model, "hook_dict", {})


def _has(model: Any, name: str) -> bool:
    *parts, last = name.split(".")
    if "hook_" in last:
        return any(".".join([*parts, hook]) in _hooks(model) for hook in last.split("|"))
    for part in [*parts, last]:
        model = getattr(model, part, None)
    return model is not None
