"""HookedARTransformer: the model of the paper with a TransformerLens hook in every place that matters."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn
from transformer_lens import ActivationCache, FactoredMatrix, HookedRootModule
from transformer_lens.config import TransformerLensConfig
from transformer_lens.hook_points import HookPoint

from ar_interp._checks import as_real_array
from ar_interp.models.attention import DiagonalAttention
from ar_interp.models.config import ModelConfig, check_process, initial_parameters
from ar_interp.processes import Process

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


class Block(nn.Module):
    """One attention layer, without residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hook_resid_pre = HookPoint()  # [batch pos d_model]
        self.attn = DiagonalAttention(config)
        self.hook_attn_out = HookPoint()  # [batch pos d_model]
        self.hook_resid_post = HookPoint()  # [batch pos d_model]

    def forward(self, resid: Inexact[Tensor, "batch pos d_model"]) -> Inexact[Tensor, "batch pos d_model"]:
        attn_out = self.hook_attn_out(self.attn(self.hook_resid_pre(resid)))
        return self.hook_resid_post(attn_out)


class HookedARTransformer(HookedRootModule):
    """Predicts s_{t+1} from s_1..s_t at every position t; hooks and their shapes are TransformerLens's.

    prediction_T = sum_{t<=T} p_t sum_h b_h * s_t <s_{T-1} | a_h * s_t>, <x|y> = sum_i conj(x_i) y_i
    (Sander et al. 2024, non-augmented tokens). The first position has no query and predicts zero.

    Args:
        config: sizes and kind of heads.
        process: what the model is about; probes read it to know the family. Optional.
        seed: of the Gaussian initial weights, N(0, config.init_scale^2).
        device: where the weights lie.

    Attributes:
        config: the `ModelConfig`.
        cfg: the same as TransformerLens's tools expect it.
        process: as given, or None.
    """

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
            check_process(config, process)
        self.config = config
        self.process = process
        self.cfg = TransformerLensConfig(
            d_model=config.dim,
            d_head=config.dim,
            n_layers=1,
            n_ctx=config.n_ctx,
            n_heads=config.n_heads,
            device=str(device),
            attn_only=True,
            normalization_type=None,
            positional_embedding_type="multiplicative",
            use_attn_result=True,
            dtype=config.torch_dtype,
        )
        self.hook_embed = HookPoint()  # [batch pos d_model]
        self.blocks = nn.ModuleList([Block(config)])
        self.load_state_dict(initial_parameters(config, seed=seed))
        self.setup()
        self.to(device)

    @classmethod
    def from_diagonal(cls, A: object, B: object, P: object, *, process: Process | None = None) -> "HookedARTransformer":
        """A model with these weights, published or made by hand.

        Args:
            A, B: key and value diagonals, [head dim]; C = B^T A.
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
        model = cls(ModelConfig.diagonal(dim=dim, n_heads=n_heads, n_ctx=len(P)), process=process)
        with torch.no_grad():
            model.A.copy_(A)
            model.B.copy_(B)
            model.P.copy_(P)
        return model

    def untrained(self, seed: int) -> "HookedARTransformer":
        """The same architecture with fresh Gaussian weights: the control of a probe.

        A model whose own initial weights are zero gets the standard deviation 0.1.
        """
        scale = self.config.init_scale or 0.1
        config = ModelConfig(**{**self.config.to_dict(), "init_scale": scale})
        return HookedARTransformer(config, process=self.process, seed=seed, device=self.P.device)

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction of s_{t+1} at each position t, zero at the first.

        Raises:
            ValueError: tokens that are not [batch pos dim], or longer than n_ctx.
        """
        if tokens.ndim != 3 or tokens.shape[-1] != self.config.dim:
            raise ValueError(f"tokens must have shape [batch pos {self.config.dim}], got {list(tokens.shape)}.")
        if not 1 <= tokens.shape[1] <= self.config.n_ctx:
            raise ValueError(
                f"tokens must hold 1 to n_ctx = {self.config.n_ctx} positions, got {tokens.shape[1]}. "
                "Cut the sequences, or make a model with a larger n_ctx."
            )
        if not (tokens.is_floating_point() or tokens.is_complex()):
            raise ValueError(f"tokens must be real or complex floating point, got {tokens.dtype}.")
        resid = self.hook_embed(tokens)
        for block in self.blocks:
            resid = block(resid)
        return resid

    @property
    def attn(self) -> DiagonalAttention:
        """The one attention layer."""
        return self.blocks[0].attn  # type: ignore[return-value]

    @property
    def A(self) -> Float[Tensor, "head dim"]:
        """Key diagonals a_h."""
        return self.attn.A

    @property
    def B(self) -> Float[Tensor, "head dim"]:
        """Value diagonals b_h."""
        return self.attn.B

    @property
    def P(self) -> Float[Tensor, "query key"]:
        """Positional weights in the authors' layout, see `from_diagonal`."""
        return self.attn.positional.P

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self.attn.W_Q[None]

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self.attn.W_K[None]

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self.attn.W_V[None]

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        return self.attn.W_O[None]

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of every head, [layer head d_model d_model]."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [layer head d_model d_model]."""
        return FactoredMatrix(self.W_V, self.W_O)

    def hook_names(self) -> list[str]:
        """Every hook, in the order of the forward pass."""
        return list(self.hook_dict)

    def run_with_cache(  # type: ignore[override] - TransformerLens returns a plain dict
        self, *model_args: Any, names_filter: NamesFilter = None, **kwargs: Any
    ) -> tuple[Inexact[Tensor, "batch pos dim"], ActivationCache]:
        """The predictions and an ActivationCache of what `names_filter` selects (all if left out).

        Raises:
            ValueError: a filter that names an unknown hook or selects none.
        """
        self._check_filter(names_filter)
        if names_filter is not None and not isinstance(names_filter, str) and not callable(names_filter):
            names_filter = list(names_filter)
        predictions, cache = super().run_with_cache(*model_args, names_filter=names_filter, **kwargs)
        return predictions, ActivationCache(cache, self)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[tuple[str | Callable[[str], bool], Callable]] = (),
        bwd_hooks: Iterable[tuple[str | Callable[[str], bool], Callable]] = (),
        *args: Any,
        **kwargs: Any,
    ) -> Iterator["HookedARTransformer"]:
        """TransformerLens's context manager; an unknown hook is an error, and the hooks are gone after one."""
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        for name, _ in [*fwd_hooks, *bwd_hooks]:
            self._check_filter(name)
        with super().hooks(fwd_hooks, bwd_hooks, *args, **kwargs):
            yield self

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """Add a hook that stays until `reset_hooks`; an unknown name is an error."""
        self._check_filter(name)
        super().add_hook(name, *args, **kwargs)

    def _check_filter(self, names_filter: NamesFilter) -> None:
        names = self.hook_names()
        if names_filter is None:
            return
        if callable(names_filter):
            if not any(names_filter(name) for name in names):
                raise ValueError("names_filter selects no hook of this model; model.hook_names() lists all.")
            return
        wanted = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        if not wanted:
            raise ValueError("names_filter is empty and selects no hook; leave it out to cache all.")
        for name in wanted:
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise ValueError(
                    f"hook {name!r} does not exist (the model has {len(self.blocks)} block). "
                    f"Did you mean {nearest[0]!r}? model.hook_names() lists all."
                )
