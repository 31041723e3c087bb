"""`adapt`: any TransformerLens HookedRootModule under the names that probes read, see `protocol`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import isclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor
from transformer_lens import HookedRootModule

from ar_interp._checks import check_choice, check_integer
from ar_interp._moods import calm
from ar_interp.models.hooks import Hook, in_this_thread
from ar_interp.models.opened import N_TRIED, Model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.probes.protocol import NAMES, either
from ar_interp.processes import Process
from ar_interp.seeds import TRIED, generator_of

LAYER = "{layer}"
STATED = tuple(name.removeprefix("config.") for name in NAMES if name.startswith("config."))
OWN = ("W_Q", "W_K", "W_V", "W_O", "W_U", "P")  # read where the model has them
ROUNDING = 1e-4  # of predictions: dropout changes more


class Point(NamedTuple):
    """The place of a hook, which it is told."""

    name: str

    def layer(self) -> int:
        """The number of the block."""
        return int(self.name.split(".")[1])


class Adapted(HookedRootModule):
    """A module with the names, config and tokens that probes read; `adapt` makes it.

    Its hooks are those of the module, under the names of `protocol` where there is one. Weights and modes are the
    module's own: what it learns afterwards is seen.

    Attributes:
        module: what was adapted.
        config: the attributes of `protocol`, and n_ctx.
        process: what it is about, or None.
        untrained: seed -> a control adapted alike; only where there is one.
    """

    untrained: Any

    def __init__(
        self,
        module: HookedRootModule,
        names: Mapping[str, str],
        config: SimpleNamespace,
        process: Process | None,
        embed: Callable[[Tensor], Any],
        predict: Callable[[Any], Tensor],
    ) -> None:
        super().__init__()
        self.module, self.config, self.process = module, config, process
        self.names, self.embed, self.predict = dict(names), embed, predict
        renamed = set(names.values())
        own = {name: name for name in module.hook_dict if name not in renamed}
        self.places = own | self.names
        self.hook_dict = {name: module.hook_dict[place] for name, place in self.places.items()}
        self.mod_dict = {**self.hook_dict}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name) if name in OWN else super().__getattr__(name)

    def __repr__(self) -> str:
        config = self.config
        return (
            f"Adapted({type(self.module).__name__}: dim {config.dim}, n_ctx {config.n_ctx}, {config.n_layers} layer(s) "
            f"of {config.attention} attention, {len(self.names)} hooks renamed)"
        )

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction of s_{t+1} at each position, in the precision of the module.

        Raises:
            ValueError: more tokens than n_ctx.
        """
        if tokens.shape[1] > self.config.n_ctx:
            raise ValueError(
                f"contexts must be at most n_ctx = {self.config.n_ctx} inputs long, got {tokens.shape[1]}."
            )
        dtype = next((W.dtype for W in self.module.parameters()), tokens.dtype)
        return self.predict(self.module(self.embed(tokens.to(dtype.to_complex() if tokens.is_complex() else dtype))))

    @contextmanager
    def hooks(
        self, fwd_hooks: Iterable[Hook] = (), bwd_hooks: Iterable[Hook] = (), *modes: bool, **options: bool
    ) -> Iterator["Adapted"]:
        """Hooks by the names of `hook_dict` for as long as the context lasts, in this thread alone."""
        forward: list[Hook] = [(place, in_this_thread(hook)) for place, hook in self._at_places(fwd_hooks)]
        with self.module.hooks(forward, self._at_places(bwd_hooks), *modes, **options):
            yield self

    @property
    def read_out(self) -> Callable[[Tensor], Tensor] | None:
        """resid [batch pos d_model] -> the predictions if the stream after the last layer were that."""
        last = f"blocks.{self.config.n_layers - 1}.hook_resid_post"
        return self._from(last) if last in self.hook_dict else None

    def _from(self, last: str) -> Callable[[Tensor], Tensor]:
        def predicted(resid: Tensor) -> Tensor:
            tokens = torch.zeros(*resid.shape[:2], self.config.dim, dtype=resid.dtype, device=resid.device)
            with self.hooks([(last, lambda value, hook: resid)]):
                return self(tokens)

        return predicted

    def _at_places(self, hooks: Iterable[Hook]) -> list[Hook]:
        """The hooks by the module's own names; they are told ours."""
        return [
            (self.places[name], _named(hook, name))
            for which, hook in hooks
            for name in ([which] if isinstance(which, str) else filter(which, self.hook_dict))
        ]


def _named(hook: Callable, name: str) -> Callable:
    return lambda value, hook, own=hook: own(value, hook=Point(name))


@calm()
def adapt(
    model: HookedRootModule,
    *,
    process: Process | None = None,
    dim: int | None = None,
    n_ctx: int | None = None,
    hooks: Mapping[str, str] | None = None,
    embed: Callable[[Tensor], Any] | None = None,
    predict: Callable[[Any], Tensor] | None = None,
    untrained: Callable[[int], HookedRootModule] | None = None,
    **config: Any,
) -> Adapted:
    """Make a model that probes, `verify` and `conformance` take of any HookedRootModule, for plain tokens s_t.

    The model runs on two contexts, of n_ctx tokens and of one. `ari.conformance` says what can be asked of it then:
    the more hooks are named, the more. Weights are read where it has attributes W_Q, W_K, W_V, W_O (`protocol.NAMES`).

    Args:
        model: its hooks must be set up, `self.setup()` at the end of its `__init__`.
        process: what its sequences are of; gives dim.
        dim: size of s_t, where there is no process.
        n_ctx: the longest context that it takes; of `model.cfg` or `model.config` if left out.
        hooks: name in `protocol.NAMES` -> name of its hook, where they differ, `{layer}` in both for every layer:
            {"blocks.{layer}.hook_resid_post": "layers.{layer}.hook_out"}.
        embed: tokens [batch pos dim] -> what its forward pass takes; as they are if left out.
        predict: what its forward pass gives -> predictions [batch pos dim]; as it is if left out.
        untrained: seed -> a fresh model of the same architecture, the control of regression probes.
        config: what a name does not tell (`protocol.NAMES`), e.g. attention="linear"; softmax if left out.
    Raises:
        ValueError: no HookedRootModule, or one without hooks; hooks or names that do not exist; no size of tokens or
            n_ctx; a forward pass that fails, gives no finite [batch pos dim], or differs from call to call.
    """
    module = _module_of(model)
    places, stated = _places(module, {} if hooks is None else hooks), _stated(config)
    for name, function in (("embed", embed), ("predict", predict), ("untrained", untrained)):
        if function is not None and (not callable(function) or isinstance(function, HookedRootModule)):
            raise ValueError(f"{name} must be a function, got {type(function).__name__}.")
    process = getattr(module, "process", None) if process is None else process
    untrained = getattr(module, "untrained", None) if untrained is None else untrained
    dim = _size_of_tokens(process, dim)
    n_ctx = check_integer("n_ctx", _n_ctx(module, n_ctx), low=2)
    layers = [int(n) for n in re.findall(r"^blocks\.(\d+)\.", "\n".join([*places, *module.hook_dict]), re.MULTILINE)]
    form = {"encoding": "plain", "heads": "full", "attention": "softmax", "n_layers": 1 + max(layers, default=0)}
    form |= {"residual": True, "biases": True, "unembed": True, "repeats": 1, "dim": dim, "n_ctx": n_ctx} | stated
    form.setdefault("linear", form["attention"].startswith("linear"))
    parts = (places, SimpleNamespace(**form), process, embed or _same, predict or _same)
    made = Adapted(module, *parts)
    _check_runs(made)
    if untrained is not None:
        made.untrained = lambda seed: Adapted(_control(untrained(seed), module), *parts)
    return made


def _same(value: Any) -> Any:
    return value


def _module_of(model: Any, name: str = "model") -> HookedRootModule:
    module = model.module if isinstance(model, Model) else getattr(model, "_orig_mod", model)
    if isinstance(module, HookedARTransformer | Adapted):
        raise ValueError(f"{name} of type {type(module).__name__} has these names already: pass it to probes as it is.")
    if not isinstance(module, HookedRootModule):
        raise ValueError(
            f"{name} must be a transformer_lens HookedRootModule, got {type(module).__name__}: derive from it, put "
            "HookPoints where activations are to be seen, and call self.setup() at the end of __init__."
        )
    if not getattr(module, "hook_dict", None):
        raise ValueError(
            f"{name} of type {type(module).__name__} has no hooks: put HookPoints where activations are to be seen, "
            "and call self.setup() at the end of its __init__."
        )
    return module


def _control(model: Any, trained: HookedRootModule) -> HookedRootModule:
    """A fresh model of the same architecture."""
    module = _module_of(model, "untrained(seed)")
    if module is trained or module.hook_dict.keys() != trained.hook_dict.keys():
        raise ValueError(
            "untrained(seed) must give a new model with the hooks of the adapted one, got "
            f"{'the model itself' if module is trained else f'{len(module.hook_dict)} hooks'}."
        )
    return module


def _places(module: HookedRootModule, hooks: Mapping[str, str]) -> dict[str, str]:
    """Name -> place of each hook that is named, in every layer."""
    if not isinstance(hooks, Mapping):
        raise ValueError(f"hooks must map names to names of hooks of the model, got {type(hooks).__name__}.")
    known = [part for name in NAMES if "hook_" in name for part in either(name)]
    found: dict[str, str] = {}
    for name, place in hooks.items():
        general = re.sub(r"^blocks\.\d+\.", f"blocks.{LAYER}.", str(name))
        if general not in known:
            raise ValueError(f"hooks names {name!r}, which no probe reads.{_near(general, known)}")
        if (LAYER in name) != (LAYER in str(place)):
            raise ValueError(f"hooks must have {LAYER} in both names or in none, got {name!r}: {place!r}.")
        layers = range(len(module.hook_dict)) if LAYER in name else (0,)
        there = [(name.replace(LAYER, str(i)), str(place).replace(LAYER, str(i))) for i in layers]
        there = [(ours, theirs) for ours, theirs in there if theirs in module.hook_dict]
        if not there:
            wanted = str(place).replace(LAYER, "0")
            raise ValueError(f"the model has no hook {wanted!r}, which hooks names.{_near(wanted, module.hook_dict)}")
        found |= dict(there)
    return found


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else f" There are {', '.join(sorted(known))}."


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [name for name in config if name not in STATED]
    if unknown:
        raise ValueError(f"adapt takes no {unknown[0]!r}; what it may be told of the model is {', '.join(STATED)}.")
    check_choice("encoding", config.get("encoding", "plain"), ("plain", "augmented"))
    check_integer("n_layers", config.get("n_layers", 1), low=1)
    if not isinstance(config.get("attention", ""), str):
        raise ValueError(f"attention must be a name, such as 'softmax' or 'linear', got {config['attention']!r}.")
    return dict(config)


def _size_of_tokens(process: Any, dim: int | None) -> int:
    if process is not None and (isclass(process) or not hasattr(process, "contexts")):
        raise ValueError(f"process must be an AutoregressiveProcess, such as HaarOrthogonal(5), got {process!r:.150}.")
    if process is None and dim is None:
        raise ValueError("dim or process is needed to know the size of a token: pass e.g. process=HaarOrthogonal(3).")
    if process is not None and dim not in (None, process.dim):
        raise ValueError(f"process has dim {process.dim} but dim is {dim}; they must agree.")
    return check_integer("dim", dim if process is None else process.dim, low=1)


def _n_ctx(module: HookedRootModule, n_ctx: int | None) -> int:
    for holder in (getattr(module, "cfg", None), getattr(module, "config", None)):
        n_ctx = getattr(holder, "n_ctx", None) if n_ctx is None else n_ctx
    if n_ctx is None:
        raise ValueError("n_ctx is needed, the longest context that the model takes: pass n_ctx=....")
    return n_ctx


@torch.no_grad()
def _check_runs(made: Adapted) -> None:
    """Refuse a forward pass that gives no predictions."""
    config, device = made.config, Model(made).device
    for length in (config.n_ctx, 1):
        if made.process is None:
            tokens = torch.randn(
                N_TRIED, length, config.dim, generator=generator_of(TRIED), dtype=torch.float64, device="cpu"
            )
            expected = list(tokens.shape)
        else:
            contexts = made.process.contexts(N_TRIED, length, seed=TRIED)
            tokens, expected = contexts.inputs, list(contexts.targets.shape)
        tokens = tokens.to(device)
        given = f"tokens {list(tokens.shape)}, {'complex' if tokens.is_complex() else 'real'}"
        try:
            found = made(tokens)
        except Exception as error:  # whatever a model of somebody else raises
            said = str(error).partition("\n")[0]
            hint = "predict" if made.embed is not _same else "embed"
            raise ValueError(
                f"the model fails on {given}: {type(error).__name__}: {said}. It must take every length up to n_ctx = "
                f"{config.n_ctx}; pass {hint}=... where it takes or gives something else."
            ) from error
        shown = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shown != expected:
            raise ValueError(
                f"the model gives {shown} for {given}, and a prediction is {expected}: pass predict=..., e.g. "
                f"predict=lambda output: output[..., :{expected[-1]}]."
            )
        if not torch.isfinite(found).all():
            raise ValueError(f"the model gives NaN or infinite predictions for {given}.")
        if (found - made(tokens)).abs().max() > ROUNDING * found.abs().max():
            raise ValueError("the model predicts something else at a second call: call model.eval() if it has dropout.")
