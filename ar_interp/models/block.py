"""`Block`: one layer, of attention and what may follow it."""

from jaxtyping import Float, Inexact
from torch import Tensor, nn

from ar_interp.models.attention import Part, attention_of
from ar_interp.models.config import ModelConfig
from ar_interp.models.hooks import HookPoint, OwnHookPoint

LAYER_NORM_EPS = 1e-5


class LayerNorm(Part):
    """w (x - mean) / sqrt(variance + 1e-5) + b over the last axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "blocks.0.ln1_post.")
        self.hook_scale = HookPoint()  # [batch pos 1]
        self.hook_normalized = HookPoint()  # [batch pos d_model]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + LAYER_NORM_EPS).sqrt())
        return self.hook_normalized(x / scale) * self.w + self.b


class MLP(Part):
    """gelu(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "blocks.0.mlp.")
        self.hook_pre = HookPoint()  # [batch pos d_mlp]
        self.hook_post = HookPoint()  # [batch pos d_mlp]

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        W_in, W_out = self.W_in.to(resid.dtype), self.W_out.to(resid.dtype)
        post = self.hook_post(nn.functional.gelu(self.hook_pre(resid @ W_in + self.b_in)))
        return post @ W_out + self.b_out


class Block(nn.Module):
    """Attention, LayerNorm on its output and an MLP where the config has them, residual connections or none."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.hook_resid_pre = OwnHookPoint()  # [batch pos d_model]
        self.attn = attention_of(config)
        self.ln1_post = LayerNorm(config) if config.layer_norm else nn.Identity()
        self.hook_attn_out = HookPoint()  # [batch pos d_model]
        self.mlp = MLP(config) if config.d_mlp else None
        if config.d_mlp:
            self.hook_resid_mid = HookPoint()  # [batch pos d_model]
            self.hook_mlp_in = OwnHookPoint()  # [batch pos d_model]
            self.hook_mlp_out = HookPoint()  # [batch pos d_model]
        self.hook_resid_post = HookPoint()  # [batch pos d_model]

    def forward(
        self, resid: Inexact[Tensor, "batch pos d_model"], positions: Inexact[Tensor, "pos d_model"] | None = None
    ) -> Inexact[Tensor, "batch pos d_model"]:
        resid = self.hook_resid_pre(resid)
        attn_out = self.hook_attn_out(self.ln1_post(self.attn(resid, positions)))
        resid = resid + attn_out if self.residual else attn_out
        if self.mlp is not None:
            resid = self.hook_resid_mid(resid)
            resid = resid + self.hook_mlp_out(self.mlp(self.hook_mlp_in(resid)))
        return self.hook_resid_post(resid)
