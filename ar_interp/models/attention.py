"""Diagonal linear heads and the multiplicative positional encoding."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from ar_interp.models.config import ModelConfig

QUERY_LAG = 1  # the prediction at position t asks with token t - 1


class MultiplicativePositional(nn.Module):
    """Weights P [query key] that multiply the scores.

    Row r belongs to the query token r and so to the prediction one position later: it holds p for T = r + 2 in its
    first r + 2 entries. What lies right of them, and the last row, is never used.
    """

    def __init__(self, n_ctx: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.zeros(n_ctx, n_ctx, dtype=dtype))

    def forward(self, pos: int) -> Float[Tensor, "query key"]:
        """[pos pos], row t for the prediction at position t; the first row, which has no query, is zero."""
        first = self.P.new_zeros(1, pos)
        return torch.cat([first, self.P[: pos - QUERY_LAG, :pos]]).tril()


class DiagonalAttention(nn.Module):
    """Heads with W_K = diag(a_h), W_V = diag(b_h), W_Q = W_O = I, linear attention, the query conjugated.

    scores_h(t, t') = sum_i conj(q_{t-1,i}) k_{t',i}; pattern = scores * P; z_h = sum_t' pattern_h(t, t') v_{t'}.
    Rows of `hook_attn_scores` and `hook_pattern` are destinations: row t is asked by token t - 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads = torch.ones(config.n_heads, config.dim, dtype=config.torch_dtype)
        if config.heads == "diagonal":
            self.A = nn.Parameter(heads.clone())
            self.B = nn.Parameter(heads.clone())
        else:
            self.register_buffer("A", heads.clone(), persistent=False)
            self.register_buffer("B", heads.clone(), persistent=False)
        self.positional = MultiplicativePositional(config.n_ctx, config.torch_dtype)
        self.hook_q = HookPoint()  # [batch pos head d_head]
        self.hook_k = HookPoint()  # [batch pos head d_head]
        self.hook_v = HookPoint()  # [batch pos head d_head]
        self.hook_attn_scores = HookPoint()  # [batch head query key]
        self.hook_pos_weights = HookPoint()  # [query key]
        self.hook_pattern = HookPoint()  # [batch head query key]
        self.hook_kv_state = HookPoint()  # [batch pos head d_head d_head]
        self.hook_z = HookPoint()  # [batch pos head d_head]
        self.hook_result = HookPoint()  # [batch pos head d_model]

    def forward(self, resid: Inexact[Tensor, "batch pos d_model"]) -> Inexact[Tensor, "batch pos d_model"]:
        every_head = resid[:, :, None, :]
        q = self.hook_q(every_head.expand(-1, -1, self.A.shape[0], -1))
        k = self.hook_k(every_head * self.A)
        v = self.hook_v(every_head * self.B)
        asked = torch.cat([torch.zeros_like(q[:, :QUERY_LAG]), q[:, :-QUERY_LAG]], dim=1).conj()

        scores = torch.einsum("bthi,bshi->bhts", asked, k).tril()
        scores = self.hook_attn_scores(scores)
        weights = self.hook_pos_weights(self.positional(resid.shape[1]))
        pattern = self.hook_pattern(scores * weights)
        z = torch.einsum("bhts,bshj->bthj", pattern, v)
        if self.hook_kv_state.has_hooks():  # the same sum, keys and values first; what a hook changes is added
            state = torch.einsum("ts,bshi,bshj->bthij", weights.to(k.dtype), k, v)
            z = z + torch.einsum("bthi,bthij->bthj", asked, self.hook_kv_state(state) - state)
        return self.hook_result(self.hook_z(z)).sum(dim=2)

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return torch.eye(self.A.shape[1], dtype=self.A.dtype, device=self.A.device).expand(len(self.A), -1, -1)

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return torch.diag_embed(self.A)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return torch.diag_embed(self.B)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.W_Q
