"""`as_model`: a model of this package or of somebody else, as the one typed object that probes read."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor
from transformer_lens import HookedRootModule

from ar_interp._shown import watched
from ar_interp.models.base import Config
from ar_interp.models.block_scalars import BlockScalars
from ar_interp.models.config import ModelConfig
from ar_interp.models.hooks import Hook, in_this_thread
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.models.weights import diagonal_weights
from ar_interp.processes import Process
from ar_interp.seeds import TRIED

Tokens = Inexact[Tensor, "batch pos dim"] | Int[Tensor, "batch pos"]  # vectors, or ids of symbols
LAYER = re.compile(r"^blocks\.(\d+)\.", re.MULTILINE)
TURN = RLock()
N_TRIED, SHORT = 2, 8  # contexts and their length where nothing says one
WHERE = "probes.protocol.NAMES says what they stand for, ari.conformance(model) what else is missing"


class ForeignConfig:
    """The config of a foreign model: any object with the attributes that `probes.protocol` names.

    Raises:
        AttributeError: one that is read and missing.
    """

    kind = "foreign"

    def __init__(self, stated: object) -> None:
        self._stated = stated

    def __getattr__(self, name: str) -> Any:
        value = None if name.startswith("_") else getattr(self._stated, name, None)
        if value is None:
            raise AttributeError(f"the model's config lacks {name!r}; {WHERE}.")
        return value


class Model:
    """A model as probes read it, by the names of `probes.protocol`.

    Attributes:
        module: the model itself.
        name: its type.
        is_ours: it is a `HookedARTransformer`, whose hooks and edits are known.
        makes_control: it has `untrained`.
        process: what it is about, where it knows.
        has_config: a model without one is one bare layer on plain tokens.
        has_model_config: its config is a `ModelConfig`.
        is_augmented: tokens are (0, s_t, s_{t-1}).
        is_diagonal: heads are diagonal on plain tokens, or fixed to 1, as far as a config says.
        has_full_heads: heads are full matrices.
        is_linear: attention is linear in queries, keys and values.
        attention: the kind of an `AttentionType`.
        normalises: attention divides by the number of keys, of pairs, or by softmax: what to compare steps per pair
            with.
        n_layers: what the config says, or hooks tell; at least 1.
        has_own_path: a path of the last token alone holds the estimate of W: not on plain tokens in deep or nonlinear
            attention.
        d_model: width of the residual stream, where a config says it.
    """

    def __init__(self, module: Any) -> None:
        self.module: Any = getattr(module, "_orig_mod", module)  # torch.compile's, which would not see hooks
        module = self.module
        self.name = type(module).__name__
        self.is_ours = isinstance(module, HookedARTransformer)
        self.makes_control = hasattr(module, "untrained")
        self.process: Process | None = getattr(module, "process", None)
        config = getattr(module, "config", None)

        def stated(name: str, otherwise: Any) -> Any:
            found = getattr(config, name, None)
            return otherwise if found is None else found

        self.has_config = config is not None
        self.has_model_config = isinstance(config, ModelConfig)
        self.is_augmented = stated("encoding", "plain") == "augmented"
        self.is_diagonal = config is None or stated("heads", "") in ("diagonal", "unit")
        self.has_full_heads = stated("heads", "") == "full"
        self.is_linear: bool = stated("linear", True)
        self.attention: str = stated("attention", "linear")
        self.normalises = self.attention != "linear"
        self.n_layers = max(1, stated("n_layers", 1), *(1 + int(n) for n in LAYER.findall("\n".join(self.hook_names))))
        self.has_own_path = self.is_augmented or (self.n_layers == 1 and self.is_linear)
        self.d_model: int | None = stated("d_model", None)
        self._n_ctx: int | None = stated("n_ctx", None)
        self._bar: Any = None

    @cached_property
    def config(self) -> Any:
        """Config of the model; bare diagonal heads are those of a `ModelConfig` where a foreign model states none."""
        stated = getattr(self.module, "config", None)
        if isinstance(stated, Config):
            return stated
        if stated is None:
            with suppress(ValueError):
                return self.bare_config
        return ForeignConfig(stated)

    @property
    def n_ctx(self) -> int | None:
        """The longest context, where a config or the positions P say it."""
        P = getattr(self.module, "P", None)
        return self._n_ctx or (None if P is None else len(P))

    @property
    def bare_config(self) -> ModelConfig:
        """The config of one layer of diagonal heads with these weights.

        Raises:
            ValueError: the weights are missing or others.
        """
        weights = diagonal_weights(self)
        n_heads, dim = weights.A.shape
        return ModelConfig.diagonal(dim=dim, n_heads=n_heads, n_ctx=len(weights.P))

    # ---- weights

    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer head d_model d_head"]
    W_V: Float[Tensor, "layer head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    W_U: Float[Tensor, "d_model dim"]
    P: Float[Tensor, "query key"]
    read_out: Callable[[Inexact[Tensor, "batch pos d_model"]], Inexact[Tensor, "batch pos dim"]]

    def __getattr__(self, name: str) -> Any:
        """The module's own, of the names above."""
        if name not in Model.__annotations__:
            raise AttributeError(f"Model has no attribute {name!r}.")
        value = getattr(self.module, name, None)
        if value is None:
            raise AttributeError(f"model of type {self.name} lacks {name}; {WHERE}.")
        return value

    @property
    def block_scalars(self) -> BlockScalars:
        """a1..a4, b1, b2 of one layer of block scalars."""
        return self.module.block_scalars

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters of the model by name; W_Q and the like where it has none."""
        if named := dict(getattr(self.module, "named_parameters", dict)()):
            return named
        found = {name: getattr(self.module, name, None) for name in Model.__annotations__}
        return {name: W for name, W in found.items() if isinstance(W, Tensor)}

    @property
    def device(self) -> torch.device:
        """Device of the model's first weights."""
        return getattr(next(iter(self.weights.values()), None), "device", torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """Precision of the model's first weights; None where there are none."""
        return getattr(next(iter(self.weights.values()), None), "dtype", None)

    @property
    def largest_weight(self) -> float:
        """The largest absolute value of a weight."""
        return max((W.detach().abs().max().item() for W in self.weights.values() if W.numel()), default=0.0)

    def check_finite(self) -> None:
        """Refuse weights that are NaN or infinite, or have no values.

        Raises:
            ValueError: it has some; the message names them.
        """
        if any(W.is_meta for W in self.weights.values()):
            raise ValueError(f"model of type {self.name} is on the device 'meta', which holds no values.")
        wrong = [name for name, W in self.weights.items() if not torch.isfinite(W).all()]
        if wrong:
            raise ValueError(f"model of type {self.name} has NaN or infinite entries in {', '.join(wrong)}.")

    def check_computes(self, process: Process) -> tuple[Tokens, Tensor]:
        """A few sequences of the process and the predictions there; a model whose errors are not finite is refused.

        Raises:
            ValueError: it is one.
        """
        self.check_finite()
        contexts = process.contexts(N_TRIED, self.n_ctx or SHORT, seed=TRIED).to(self.device)
        inputs = contexts.inputs
        if self.dtype and not are_ids(inputs):
            inputs = inputs.to(self.dtype.to_complex() if inputs.is_complex() else self.dtype)
        predictions = self(inputs)
        if not torch.isfinite(contexts.errors(predictions)).all():
            raise ValueError(
                f"model of type {self.name} overflows: its errors on sequences of {process.kind!r} are not finite. Its "
                f"weights go up to {self.largest_weight:.2g}; has training diverged?"
            )
        return inputs, predictions

    # ---- what it does

    def __call__(self, tokens: Tokens) -> Inexact[Tensor, "batch pos out"]:
        if self._bar is not None:
            self._bar.update()
        return self.module(tokens)

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """A bar that counts runs of the model for whoever looks on; of a probe within a probe the outer one's."""
        if self._bar is not None:
            yield
            return
        with watched(desc=name, unit=" runs of the model") as self._bar:
            try:
                yield
            finally:
                self._bar = None

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every hook."""
        return tuple(getattr(self.module, "hook_dict", ()))

    @property
    def is_hooked(self) -> bool:
        """Whether somebody's hooks act on a model of this package, or look at it."""
        return any(hook.has_hooks() for hook in self.module.hook_dict.values())

    def run_with_cache(
        self, tokens: Tokens, names_filter: str | Sequence[str] | None
    ) -> tuple[Tensor, Any]:  # an ActivationCache, or a mapping like it
        """The predictions, and the activations of these hooks; of all for None."""
        if getattr(type(self.module), "run_with_cache", None) is not HookedRootModule.run_with_cache:
            return self.module.run_with_cache(tokens, names_filter=names_filter)
        found: dict[str, Tensor] = {}  # TransformerLens's own would also keep what another thread's tokens give

        def keep(value: Tensor, hook: Any) -> None:
            found[hook.name] = value.detach()

        names = [names_filter] if isinstance(names_filter, str) else names_filter or self.hook_names
        with self.hooks([(name, keep) for name in names if name in self.hook_names]):
            return self(tokens), found

    def activations(self, tokens: Tokens, names: list[str]) -> dict[str, Tensor]:
        """The activations of these hooks; of none without a forward pass."""
        if not names:
            return {}
        cache = self.run_with_cache(tokens, names)[1]
        return {name: cache[name] for name in names}

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """The lock that a probe holds: hooks of a foreign model are in the model, so that two at a time would meet."""
        return nullcontext() if self.is_ours else TURN

    def hooks(self, fwd_hooks: Iterable[Hook]) -> AbstractContextManager[Any]:
        """Hooks for as long as the context lasts, in this thread alone."""
        if self.is_ours:
            return self.module.hooks(fwd_hooks=fwd_hooks)
        return self.module.hooks(fwd_hooks=[(names, in_this_thread(hook)) for names, hook in fwd_hooks])

    def untrained(self, seed: int) -> "Model":
        """A model of the same architecture with fresh weights.

        Raises:
            ValueError: it cannot make one.
        """
        if not self.makes_control:
            raise ValueError(
                f"untrained must be given: {self.name} cannot make its own control. Pass the same architecture with "
                "fresh weights."
            )
        return as_model(self.module.untrained(seed))


def are_ids(tokens: Tensor) -> bool:
    """Whether tokens are symbols of a vocabulary, not vectors."""
    return not (tokens.is_floating_point() or tokens.is_complex())


def as_model(model: object) -> Model:
    """The model as probes read it: any that has what the probe at hand needs, see `probes.protocol`."""
    return model if isinstance(model, Model) else Model(model)
