"""Sequences to tokens of the residual stream."""

import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp.models.config import ModelConfig


def encode(config: ModelConfig, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos d_model"]:
    """`plain`: s_t, `repeats` times. `augmented`: (0, s_t, s_{t-1}) with s_0 = 0. Leading axes are free."""
    if config.encoding == "augmented":
        zero = torch.zeros_like(tokens)
        previous = torch.cat([zero[..., :1, :], tokens[..., :-1, :]], dim=-2)
        return torch.cat([zero, tokens, previous], dim=-1)
    return torch.cat([tokens] * config.repeats, dim=-1) if config.repeats > 1 else tokens
