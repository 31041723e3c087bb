"""HookedARTransformer: the model of the paper with a TransformerLens hook in every place that matters."""

import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Inexact, Integer
from torch import Tensor, nn
from transformer_lens import FactoredMatrix
from transformer_lens.config import TransformerLensConfig

from ar_interp._checks import as_real_array, check_integer
from ar_interp._moods import calm
from ar_interp.models.attention import Part
from ar_interp.models.block import Block
from ar_interp.models.block_scalars import SCALAR_PLACES, BlockScalars
from ar_interp.models.cache import ARCache
from ar_interp.models.config import ModelConfig
from ar_interp.models.encodings import encode
from ar_interp.models.hooks import NamesFilter, OwnHookPoint, StrictHooks
from ar_interp.processes import Contexts, Process


class _Registered(threading.local):
    """Tokens that ids stand for, of each model; every thread has its own."""

    def __init__(self) -> None:
        self.banks: WeakKeyDictionary[HookedARTransformer, Tensor] = WeakKeyDictionary()


_REGISTERED = _Registered()


class HookedARTransformer(StrictHooks):
    """Predicts s_{t+1} from s_1..s_t at every position t; hooks and their shapes are TransformerLens's.

    The diagonal setting is prediction_T = sum_{t<=T} p_t sum_h b_h * s_t <s_{T-1} | a_h * s_t>,
    <x|y> = sum_i conj(x_i) y_i (Sander et al. 2024, non-augmented tokens); the config says what else it can be. With
    query_lag = 1 the first position has no query, and the prediction there is what is left without attention.

    Args:
        config: tokens, heads, attention and sizes.
        process: the data that the model is about; probes read it to know the family. Optional.
        seed: seed of the initial weights, see `ModelConfig.initial_parameters`.
        device: where the weights lie.

    Attributes:
        config: the `ModelConfig`.
        cfg: the same as TransformerLens's tools expect it.
        process: as given, or None.
    """

    @calm()
    def __init__(
        self,
        config: ModelConfig,
        *,
        process: Process | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if process is not None:
            config.check_process(process)
        self.config = config
        self.process = process
        self.cfg = TransformerLensConfig(
            d_model=config.d_model,
            d_head=config.head_width,
            n_layers=config.n_layers,
            n_ctx=config.n_ctx,
            n_heads=config.n_heads,
            d_mlp=config.d_mlp or None,
            act_fn="gelu",
            device=str(device),
            attn_only=not config.d_mlp,
            normalization_type=None,
            positional_embedding_type=config.positional,
            use_attn_result=True,
            dtype=config.torch_dtype,
        )
        self.hook_embed = OwnHookPoint()  # [batch pos d_model]
        if config.positional in ("additive", "softmax"):
            self.pos_embed = Part(config, "pos_embed.")
        if config.positional == "additive":
            self.hook_pos_embed = OwnHookPoint()  # [batch pos d_model]
        self.blocks: Sequence[Block] = nn.ModuleList([Block(config) for _ in range(config.n_layers)])  # type: ignore
        self.unembed = Part(config, "unembed.") if config.unembed else None
        self.load_state_dict(config.initial_parameters(seed=seed))
        self.setup()
        self.to(device)

    @classmethod
    @calm()
    def from_diagonal(cls, A: object, B: object, P: object, *, process: Process | None = None) -> "HookedARTransformer":
        """A model with these weights, published or made by hand.

        Args:
            A, B: key and value diagonals, [head dim]; C = B^T A. The model lies where A does.
            P: [n_ctx n_ctx], the layout of the authors' arrays: row r (from 0) holds p for T = r + 2, so that
                p_{T-1} = P[r, r] and p_T = P[r, r + 1]; what lies right of p_T, and the last row, is ignored.
            process: the family the weights are for; the probes' verdicts depend on it.
        Raises:
            ValueError: shapes that do not fit each other, NaN or infinite entries, a P that is not square.
        """
        A = as_real_array("A", A, shape=("head", "dim"))
        B = as_real_array("B", B, shape=tuple(A.shape))
        P = as_real_array("P", P, shape=("n_ctx", "n_ctx"))
        if P.shape[0] != P.shape[1] or len(P) < 2:
            raise ValueError(
                f"P must be [n_ctx n_ctx] with n_ctx >= 2, got {list(P.shape)}. Row r holds the weights of T = r + 2 "
                "in its first r + 2 entries; pad with zeros."
            )
        n_heads, dim = A.shape
        model = cls(ModelConfig.diagonal(dim=dim, n_heads=n_heads, n_ctx=len(P)), process=process, device=A.device)
        model.A.copy_(A)
        model.B.copy_(B)
        model.P.copy_(P)
        return model

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.parameters())
        config, about = self.config, "" if self.process is None else f", process {self.process.kind}"
        return (
            f"{type(self).__name__}({config.summary}; d = {config.dim}, n_ctx = {config.n_ctx}{about}; {n} weights, "
            f"{len(self.hook_dict)} hooks, see hook_names())"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def untrained(self, seed: int) -> "HookedARTransformer":
        """A model of the same architecture with fresh initial weights: the control of a probe.

        A model whose own initial weights are zero gets the standard deviation 0.1.
        """
        config = replace(self.config, init_scale=self.config.init_scale or 0.1)
        device = next(self.parameters()).device
        return HookedARTransformer(config, process=self.process, seed=seed, device=device)

    def lengthened(self, n_ctx: int) -> "HookedARTransformer":
        """A copy with the same weights that takes contexts of up to n_ctx tokens: does the model generalise in length?

        Args:
            n_ctx: at least the model's own.
        Raises:
            ValueError: a smaller n_ctx; a model with positional weights, which end at its own n_ctx.
        """
        check_integer("n_ctx", n_ctx, low=self.config.n_ctx)
        if self.config.no_longer and n_ctx > self.config.n_ctx:
            raise ValueError(
                f"n_ctx must be {self.config.n_ctx}, got {n_ctx}: {self.config.no_longer}. Train a model with a larger "
                "n_ctx, or one with positional='none'."
            )
        longer = deepcopy(self)
        longer.config = replace(self.config, n_ctx=n_ctx)
        longer.cfg.n_ctx = n_ctx
        return longer

    def forward(
        self, tokens: Inexact[Tensor, "batch pos dim"] | Integer[Tensor, "batch pos"]
    ) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction of s_{t+1} at each position t.

        Computed in the higher of the precisions of tokens and weights.

        Args:
            tokens: s_t; or the ids that `register_sequences` gave for them.
        Raises:
            ValueError: tokens that are not [batch pos dim], longer than n_ctx, or complex where the model has softmax,
                LayerNorm or an MLP; ids without registered sequences.
        """
        resid = self.hook_embed(encode(self.config, self._checked(tokens)))
        positions = None
        if self.config.positional in ("additive", "softmax"):
            positions = self.pos_embed.W_pos[: resid.shape[1]].to(resid.dtype)
        if self.config.positional == "additive":
            assert positions is not None
            resid = resid + self.hook_pos_embed(positions.expand_as(resid))
        for block in self.blocks:
            resid = block(resid, positions)
        return self.read_out(resid)

    def read_out(self, resid: Inexact[Tensor, "batch pos d_model"]) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction that the residual stream holds at any depth: its first dim coordinates, or x W_U + b_U."""
        if self.unembed is None:
            return resid[..., : self.config.dim]
        return resid @ self.unembed.W_U.to(resid.dtype) + self.unembed.b_U.to(resid.dtype)

    def register_sequences(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Integer[Tensor, "batch pos"]:
        """Integer ids that the model takes in place of these tokens.

        TransformerLens's patching counts positions along the last axis of what it is given, which for continuous
        tokens is `dim`: give it ids instead. The ids are those of the last sequences registered in this thread.
        """
        bank = _REGISTERED.banks[self] = tokens.flatten(0, 1)
        return torch.arange(len(bank), device=tokens.device).reshape(tokens.shape[:2])

    @property
    def bank(self) -> Inexact[Tensor, "id dim"] | None:
        """The tokens that ids stand for in this thread."""
        return _REGISTERED.banks.get(self)

    def _checked(self, tokens: Tensor) -> Inexact[Tensor, "batch pos dim"]:
        config = self.config
        if not isinstance(tokens, Tensor):
            of = ": pass its .inputs" if isinstance(tokens, Contexts) else ""
            raise ValueError(f"tokens must be a tensor [batch pos {config.dim}], got {type(tokens).__name__}{of}.")
        if tokens.ndim == 2 and not (tokens.is_floating_point() or tokens.is_complex()):
            if self.bank is None:
                raise ValueError("tokens are ids but no sequences are registered: ids = model.register_sequences(...).")
            tokens = self.bank[tokens]
        if tokens.ndim != 3 or tokens.shape[-1] != config.dim:
            raise ValueError(f"tokens must have shape [batch pos {config.dim}], got {list(tokens.shape)}.")
        if not 1 <= tokens.shape[1] <= config.n_ctx:
            longer = f"train one with more: {config.no_longer}"
            if not config.no_longer:
                longer = f"take a copy that allows more: model.lengthened({tokens.shape[1]})"
            raise ValueError(
                f"tokens must hold 1 to n_ctx = {config.n_ctx} positions, got {tokens.shape[1]}"
                + (f". Cut the sequences, or {longer}." if tokens.shape[1] else ".")
            )
        if not (tokens.is_floating_point() or tokens.is_complex()):
            raise ValueError(f"tokens must be real or complex floating point, got {tokens.dtype}.")
        if tokens.is_complex() and config.needs_real_tokens:
            raise ValueError(
                "tokens must be real: nonlinear attention, softmax, LayerNorm and MLP have no complex version. Sample "
                "the sequences in a real basis (basis='rotation' for CommutingOrthogonal)."
            )
        return tokens.to(torch.promote_types(tokens.dtype, config.torch_dtype))

    @property
    def A(self) -> Float[Tensor, "head dim"]:
        """Key diagonals a_h of diagonal heads."""
        return self._first_layer("A", "diagonal heads")

    @property
    def B(self) -> Float[Tensor, "head dim"]:
        """Value diagonals b_h of diagonal heads."""
        return self._first_layer("B", "diagonal heads")

    @property
    def P(self) -> Float[Tensor, "query key"]:
        """Positional weights in the authors' layout, see `from_diagonal`."""
        return self._first_layer("positional", "a multiplicative positional encoding").P

    def __getattr__(self, name: str) -> Any:
        """nn.Module's, which would hide why a property of this class has no value."""
        if isinstance(getattr(type(self), name, None), property):
            return object.__getattribute__(self, name)
        return super().__getattr__(name)

    def _first_layer(self, name: str, what: str) -> Any:
        found = getattr(self.blocks[0].attn, name, None)
        if found is None:
            raise AttributeError(f"this model has no {what}: {self.config.summary}.")
        return found

    @property
    def block_scalars(self) -> BlockScalars:
        """a1..a4, b1, b2 of a one-layer block-scalar model; its prediction depends on their products alone."""
        if self.config.heads != "block-scalar" or (self.config.n_layers, self.config.n_heads) != (1, 1):
            raise AttributeError(
                f"only one layer with one block-scalar head has a1..a4, b1, b2: {self.config.summary}."
            )
        return BlockScalars(*(self.block_scalar(name).item() for name in BlockScalars._fields))

    def block_scalar(self, name: str) -> Float[Tensor, "head"]:
        """One of a1..a4, b1, b2 of every head of the first layer, as a view into its weights."""
        circuit, row, column = SCALAR_PLACES[name]
        return self.get_parameter(f"blocks.0.attn.{circuit}_blocks")[:, row, column]

    W_Q = property(lambda self: self._stacked("W_Q"), doc="[layer head d_model d_head]")
    W_K = property(lambda self: self._stacked("W_K"), doc="[layer head d_model d_head]")
    W_V = property(lambda self: self._stacked("W_V"), doc="[layer head d_model d_head]")
    W_O = property(lambda self: self._stacked("W_O"), doc="[layer head d_head d_model]")

    def _stacked(self, name: str) -> Tensor:
        return torch.stack([getattr(block.attn, name) for block in self.blocks])

    @property
    def W_U(self) -> Float[Tensor, "d_model dim"]:
        """The read-out of the prediction from the residual stream."""
        if self.unembed is not None:
            return self.unembed.W_U
        device = next(self.parameters()).device
        return torch.eye(self.config.d_model, self.config.dim, dtype=self.config.torch_dtype, device=device)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Sum of what the layers before `layer` write whatever their input, for TransformerLens's decompositions."""
        total = torch.zeros(self.config.d_model, dtype=self.config.torch_dtype, device=next(self.parameters()).device)
        for i, block in enumerate(self.blocks[: layer + mlp_input]):
            if block.attn.b_O is not None:
                total = total + block.attn.b_O
            if include_mlp_biases and block.mlp is not None and i < layer:
                total = total + block.mlp.b_out
        return total

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of every head, [layer head d_model d_model]."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [layer head d_model d_model]."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def hooks_stand_in(self) -> str:  # type: ignore[override]
        n = len(self.blocks)
        return f" (the model has {n} {'block' if n == 1 else 'blocks'})"

    def run_with_cache(
        self, *model_args: Any, names_filter: NamesFilter = None, **kwargs: Any
    ) -> tuple[Inexact[Tensor, "batch pos dim"], ARCache]:
        """The predictions and an ActivationCache of what `names_filter` selects (all if left out).

        Raises:
            ValueError: a filter that names an unknown hook or selects none.
        """
        predictions, cache = super().run_with_cache(*model_args, names_filter=names_filter, **kwargs)
        return predictions, ARCache(cache, self)
