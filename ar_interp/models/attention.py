"""Attention: heads of four kinds, multiplicative positional encodings; `attention_types` says what scores become.

Rows of `hook_attn_scores` and `hook_pattern` are destinations: with query_lag = 1 row t is asked by token t - 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Inexact, Integer
from torch import Tensor, nn

from ar_interp.models.attention_types import AttentionType, LinearAttention
from ar_interp.models.config import BLOCKS, ModelConfig
from ar_interp.models.encodings import Encoding
from ar_interp.models.hooks import HookPoint, OwnHookPoint

Resid = Inexact[Tensor, "batch pos d_model"]
PerHead = Inexact[Tensor, "batch pos head d_head"]

CHUNK = 128  # positions of a long context whose scores are made at a time
WEIGHING = ("multiplicative", "softmax")  # positional encodings that weigh every key
_STATES_AT: ContextVar[Tensor | None] = ContextVar("states_at", default=None)
LONG = 512  # from here on linear attention without a hook on its scores goes by chunks


class Part(nn.Module):
    """A module with the parameters that `ModelConfig.parameter_shapes` has under a prefix, zero until loaded.

    Those named in `optional` are None where the config has none.
    """

    if TYPE_CHECKING:  # which parameters there are is known at run time alone

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, config: ModelConfig, prefix: str, optional: tuple[str, ...] = ()) -> None:
        super().__init__()
        for name in optional:
            self.register_parameter(name, None)
        for name, shape in config.parameter_shapes.items():
            own = name.removeprefix(prefix)
            if name.startswith(prefix) and "." not in own:
                self.register_parameter(own, nn.Parameter(torch.zeros(shape, dtype=config.torch_dtype, device="cpu")))


class MultiplicativePositional(Part):
    """Weights P [query key] that multiply the scores.

    With query_lag = 1 row r belongs to the query token r and so to the prediction one position later: it holds p for
    T = r + 2 in its first r + 2 entries. What lies right of them, and the last row, is never used. With query_lag = 0
    row r holds p for T = r + 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "blocks.0.attn.positional.")
        self.query_lag = config.query_lag

    def forward(self, pos: int) -> Float[Tensor, "query key"]:
        """[pos pos], row t for the prediction at position t; a row that has no query is zero."""
        rows = self.P[: pos - self.query_lag, :pos]
        return torch.cat([self.P.new_zeros(self.query_lag, pos), rows]).tril()


class Attention(Part):
    """One layer of causal attention; subclasses say what the heads are.

    scores_h(t, t') = <query_h(t - query_lag), key_h(t')>, where the encoding says which side is conjugated; pattern =
    what the attention type makes of the scores x its share x positional weights; z_h(t) = sum_t' pattern_h(t, t')
    v_h(t').

    Linear attention whose weights are the same for all keys, on contexts of `LONG` positions or more and without a hook
    on scores or pattern, is a running state sum_t' k(t') v(t')^T, `causal_sums`: time and memory are linear in T.

    Attributes:
        pattern_limit: most bytes of a pattern [batch head query key]; what asks for more is refused. Raise it where the
            memory is there: `Attention.pattern_limit = 2**35`.
    """

    pattern_limit: ClassVar[int] = 2**32

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "blocks.0.attn.", optional=("b_O",))
        self.config = config
        self.attention_type = AttentionType.find(config.attention)()
        self.conjugated = Encoding.find(config.encoding).conjugated
        if config.positional == "multiplicative":
            self.positional = MultiplicativePositional(config)
        self.hook_q = OwnHookPoint()  # [batch pos head d_head]
        self.hook_k = OwnHookPoint()  # [batch pos head d_head]
        self.hook_v = HookPoint()  # [batch pos head d_head]
        self.hook_attn_scores = HookPoint()  # [batch head query key]
        if config.positional in WEIGHING:
            self.hook_pos_weights = HookPoint()  # [query key], [head query key] for softmax
        self.hook_pattern = HookPoint()  # [batch head query key]
        if self.attention_type.linear:
            self.hook_kv_state = OwnHookPoint()  # [batch pos head d_head d_head]
        self.hook_z = HookPoint()  # [batch pos head d_head]
        self.hook_result = HookPoint()  # [batch pos head d_model]

    def project(self, resid: Resid) -> tuple[PerHead, PerHead, PerHead]:
        """Queries, keys and values."""
        raise NotImplementedError

    def output(self, z: PerHead) -> Inexact[Tensor, "batch pos head d_model"]:
        """The output of each head, written to the residual stream."""
        raise NotImplementedError

    def forward(self, resid: Resid, positions: Inexact[Tensor, "pos d_model"] | None = None) -> Resid:
        q, k, v = self.project(resid)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        z = (self._by_states if self._is_long(resid.shape[1]) else self._by_scores)(*self.compared(q, k), v, positions)
        result = self.hook_result(self.output(self.hook_z(z)))
        result = result.squeeze(2) if result.shape[2] == 1 else result.sum(dim=2)  # a sum of one is a slow copy
        return result if self.b_O is None else result + self.b_O.to(result.dtype)

    def compared(self, q: PerHead, k: PerHead) -> tuple[PerHead, PerHead]:
        """The two whose products are the scores: the query of each destination, scaled, zero where there is none, and
        the keys, of which one is conjugated."""
        lag = self.config.query_lag
        if lag:
            q = torch.cat([torch.zeros_like(q[:, :lag]), q[:, : q.shape[1] - lag]], dim=1)
        q, k = (q.conj(), k) if self.conjugated == "query" else (q, k.conj())
        return q * self._scale, k

    def _is_long(self, pos: int) -> bool:
        """Whether a long context has scores that no key weighs by its place, and nobody looks at them."""
        looked_at = self.hook_attn_scores.has_hooks() or self.hook_pattern.has_hooks()
        return pos >= LONG and self.key_blind and not looked_at

    @property
    def key_blind(self) -> bool:
        """Whether linear attention weighs no key by its place: z_T is a running sum, times the `share` of T."""
        if type(self.attention_type).pattern is not LinearAttention.pattern or self.config.positional in WEIGHING:
            return False
        share = self.share(2, torch.float64)
        return share is None or share.shape[-1] == 1

    def _by_states(self, asked: PerHead, k: PerHead, v: PerHead, positions: Tensor | None) -> PerHead:
        """z by running states, without a pattern."""
        share = self.share(k.shape[1], k.real.dtype)
        z = causal_sums(asked, k, v)
        z = z if share is None else z * share[:, :, None]
        if not self.hook_kv_state.has_hooks():
            return z
        at = _STATES_AT.get()
        if at is None:
            state = torch.einsum("bthi,bthj->bthij", k, v).cumsum(1)
        else:
            state, share = _sums_at(at, k, v), share if share is None else share[at]
        return self._edited(z, asked, state if share is None else state * share[:, :, None, None])

    def _by_scores(self, asked: PerHead, k: PerHead, v: PerHead, positions: Tensor | None) -> PerHead:
        """z by the pattern [batch head query key]."""
        batch, pos, n_heads, _ = k.shape
        self._check_pattern(batch * n_heads * pos**2 * k.element_size())
        scores = torch.einsum("bthi,bshi->bhts", asked, k)
        future = torch.ones(pos, pos, dtype=torch.bool, device=scores.device).triu(1)
        scores = self.hook_attn_scores(scores.masked_fill_(future, self.attention_type.future))
        weights = self._weights(pos, positions, scores.real.dtype)
        pattern = self.attention_type.pattern(scores)
        pattern = pattern if weights is None else pattern * weights
        if not self.attention_type.linear:
            unasked = (torch.arange(pos, device=scores.device) < self.config.query_lag)[:, None]
            pattern = pattern.masked_fill(future | unasked, 0)
        pattern = self.hook_pattern(pattern)
        z = torch.einsum("bhts,bshj->bthj", pattern, v)
        if self.attention_type.linear and self.hook_kv_state.has_hooks():
            return self._edited(z, asked, self._states(k, v, weights))
        return z

    def states(self, resid: Resid, at: Integer[Tensor, "asked"]) -> Inexact[Tensor, "batch asked head d_head d_head"]:
        """`hook_kv_state` at these positions, ascending, of attention that is `key_blind`: without scores or hooks."""
        q, k, v = self.project(resid)
        state, share = _sums_at(at, self.compared(q, k)[1], v), self.share(resid.shape[1], resid.real.dtype)
        return state if share is None else state * share[at, :, None, None]

    def _check_pattern(self, size: int) -> None:
        if size > self.pattern_limit:
            raise ValueError(
                f"tokens ask for a pattern [batch head query key] of {size / 2**30:.3g} GiB, more than "
                f"Attention.pattern_limit = {self.pattern_limit / 2**30:.3g} GiB. Give fewer or shorter sequences; "
                f"linear attention without positional weights needs no pattern from {LONG} positions on, unless "
                "something hooks attn_scores or pattern (say which activations to cache: names_filter); or "
                "raise ar_interp.models.attention.Attention.pattern_limit."
            )

    @property
    def _scale(self) -> float:
        return self.config.head_width**-0.5 if self.config.scale_scores else 1.0

    def _weights(self, pos: int, positions: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "... query key"] | None:
        """The factor of the pattern: positional weights and the share of the attention type."""
        weights = None
        if self.config.positional == "multiplicative":
            weights = self.hook_pos_weights(self.positional(pos))
        elif self.config.positional == "softmax":
            assert positions is not None
            q, k, _ = self.project(positions[None, :pos])
            asked = self.compared(q, k)[0]
            scores = torch.einsum("bthi,bshi->bhts", asked, k)[0]
            future = torch.ones(pos, pos, dtype=torch.bool, device=scores.device).triu(1)
            weights = self.hook_pos_weights(scores.masked_fill(future, -torch.inf).softmax(-1))
        share = self.share(pos, dtype)
        if share is None:
            return weights
        return share.expand(pos, pos) if weights is None else weights * share

    def share(self, pos: int, dtype: torch.dtype) -> Float[Tensor, "query #key"] | None:
        """Factor that the attention type multiplies every destination's scores by, if any."""
        T = torch.arange(1, pos + 1, device=next(self.parameters()).device, dtype=dtype)[:, None]
        return self.attention_type.share(T)

    def _states(
        self, k: PerHead, v: PerHead, weights: Tensor | None
    ) -> Inexact[Tensor, "batch asked head d_head d_head"]:
        """sum_t' w(t, t') k(t') v(t')^T for every destination t, or for those of `states_at`."""
        pos = k.shape[1]
        weights = k.new_ones(pos, pos).tril() if weights is None else weights.tril()
        at = _STATES_AT.get()
        per_head = weights.to(k.dtype).expand(k.shape[2], pos, pos)
        per_head = per_head if at is None else per_head[:, at]
        return torch.einsum("hts,bshi,bshj->bthij", per_head, k, v)

    def _edited(self, z: PerHead, asked: PerHead, state: Tensor) -> PerHead:
        """z = query times state, as a hook on the state changes it."""
        at = _STATES_AT.get()
        asked = asked if at is None else asked[:, at]
        change = torch.einsum("bthi,bthij->bthj", asked, self.hook_kv_state(state) - state)
        return z + change if at is None else z.index_add(1, at, change)


@contextmanager
def states_at(positions: Integer[Tensor, "asked"]) -> Iterator[None]:
    """`hook_kv_state` shows and changes the states at these positions alone, ascending, in this thread: of a long
    context there is no room for all."""
    token = _STATES_AT.set(positions)
    try:
        yield
    finally:
        _STATES_AT.reset(token)


def _sums_at(at: Integer[Tensor, "asked"], k: PerHead, v: PerHead) -> Inexact[Tensor, "batch asked head d_head d_head"]:
    """sum_{t' <= t} k(t') v(t')^T for some t."""
    start, sums = 0, []
    for end in (at + 1).tolist():
        added = torch.einsum("bshi,bshj->bhij", k[:, start:end], v[:, start:end])
        sums.append(sums[-1] + added if sums else added)
        start = end
    return torch.stack(sums, dim=1)


def causal_sums(asked: PerHead, k: PerHead, v: PerHead) -> PerHead:
    """sum_{t' <= t} (asked(t) . k(t')) v(t'): by scores inside chunks of `CHUNK` positions, by a state between them."""
    state, written = None, []
    for q_own, k_own, v_own in zip(*(x.split(CHUNK, dim=1) for x in (asked, k, v)), strict=True):
        scores = torch.einsum("bthi,bshi->bhts", q_own, k_own).tril()
        z = torch.einsum("bhts,bshj->bthj", scores, v_own)
        written.append(z if state is None else z + torch.einsum("bthi,bhij->bthj", q_own, state))
        added = torch.einsum("bshi,bshj->bhij", k_own, v_own)
        state = added if state is None else state + added
    return torch.cat(written, dim=1)


class IdentityAttention(Attention):
    """Heads as wide as the residual stream; of W_Q, W_K, W_V and W_O those that a subclass leaves are the identity."""

    def output(self, z: PerHead) -> Inexact[Tensor, "batch pos head d_model"]:
        return z

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        own = next(iter([*self.parameters(), *self.buffers()]))
        identity = torch.eye(self.config.d_model, dtype=own.dtype, device=own.device)
        return identity.expand(self.config.n_heads, -1, -1)

    W_K = W_V = W_O = W_Q


class DiagonalAttention(IdentityAttention):
    """W_K = diag(a_h), W_V = diag(b_h), W_Q = W_O = I."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.heads == "unit":
            for name in "AB":
                ones = torch.ones(config.n_heads, config.dim, dtype=config.torch_dtype, device="cpu")
                self.register_buffer(name, ones, persistent=False)

    def project(self, resid: Resid) -> tuple[PerHead, PerHead, PerHead]:
        every_head = resid[:, :, None, :]
        return every_head.expand(-1, -1, self.A.shape[0], -1), every_head * self.A, every_head * self.B

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return torch.diag_embed(self.A)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return torch.diag_embed(self.B)


class BlockScalarAttention(IdentityAttention):
    """Augmented tokens with W_Q = QK_blocks (x) I, W_V = OV_blocks (x) I, W_K = W_O = I.

    Blocks are (read-out, s_t, s_{t-1}): a1..a4 are QK_blocks[1:, 1:] row by row (rows of the query), b1 and b2 are
    OV_blocks[1:, 0].
    """

    def project(self, resid: Resid) -> tuple[PerHead, PerHead, PerHead]:
        blocks = resid.unflatten(-1, (BLOCKS, self.config.dim))
        q, v = (
            torch.einsum("btci,hce->bthei", blocks, weights.to(resid.dtype)).flatten(-2)
            for weights in (self.QK_blocks, self.OV_blocks)
        )
        return q, resid[:, :, None, :].expand_as(q), v

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self._times_identity(self.QK_blocks)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self._times_identity(self.OV_blocks)

    def _times_identity(self, blocks: Tensor) -> Float[Tensor, "head d_model d_head"]:
        return torch.kron(blocks, torch.eye(self.config.dim, dtype=blocks.dtype, device=blocks.device))


class MergedAttention(IdentityAttention):
    """W_Q = QK, W_V = OV, W_K = W_O = I: the circuits of a head are its parameters."""

    def project(self, resid: Resid) -> tuple[PerHead, PerHead, PerHead]:
        q, v = (torch.einsum("btm,hmi->bthi", resid, W.to(resid.dtype)) for W in (self.QK, self.OV))
        return q, resid[:, :, None, :].expand_as(q), v

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.QK

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self.OV


class FullAttention(Attention):
    """W_Q, W_K, W_V [head d_model d_head] and W_O [head d_head d_model], with or without biases."""

    @property
    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        """W_O of every head."""
        return self._parameters["W_O"]  # type: ignore[return-value] - `SharedOutputAttention` has a property

    def project(self, resid: Resid) -> tuple[PerHead, PerHead, PerHead]:
        def apply(part: str) -> PerHead:
            W, b = getattr(self, f"W_{part}"), getattr(self, f"b_{part}", None)
            projected = torch.einsum("btm,hmi->bthi", resid, W.to(resid.dtype))
            return projected if b is None else projected + b.to(resid.dtype)

        return apply("Q"), apply("K"), apply("V")

    def output(self, z: PerHead) -> Inexact[Tensor, "batch pos head d_model"]:
        return torch.einsum("bthi,him->bthm", z, self.output_weights.to(z.dtype))


class SharedOutputAttention(FullAttention):
    """Full heads whose sum is multiplied by one W_O."""

    @property
    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        return self._parameters["shared_W_O"].expand(self.config.n_heads, -1, -1)  # type: ignore[union-attr]

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.output_weights


def attention_of(config: ModelConfig) -> Attention:
    """The layer that the config asks for."""
    full = SharedOutputAttention if config.shared_output else FullAttention
    diagonal = {"diagonal": DiagonalAttention, "unit": DiagonalAttention}
    kinds = {**diagonal, "block-scalar": BlockScalarAttention, "merged": MergedAttention}
    return kinds.get(config.heads, full)(config)
