"""Encodings: how s_1, ..., s_T become tokens of the residual stream.

An encoding of your own is a subclass of `Encoding` with a `kind`, in a module of your own.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp._kinds import Kind


class Encoding(Kind, ABC, root=True):
    """One way to make tokens, of blocks of size dim side by side; the prediction is read from the first.

    Attributes:
        kind: the name in `ModelConfig.encoding` and in a saved file.
        blocks: their names.
        conjugated: `query` or `key`, the side of complex scores that is conjugated: the one that holds the older state,
            as only then does the product with the value reach the target's phases.
        holds_previous: a token holds s_{t-1} beside s_t; it goes with query_lag = 0 and repeats = 1.
    """

    blocks: ClassVar[tuple[str, ...]]
    conjugated: ClassVar[str]
    holds_previous: ClassVar[bool]

    @abstractmethod
    def encode(self, tokens: Inexact[Tensor, "*batch pos dim"]) -> Inexact[Tensor, "*batch pos width"]:
        """The blocks of every token; a token at position t knows s_1, ..., s_t alone."""


class Plain(Encoding):
    """e_t = s_t, which asks with s_{T-1} for the key s_t and the value s_t."""

    kind: ClassVar[str] = "plain"
    blocks: ClassVar[tuple[str, ...]] = ("s_t",)
    conjugated: ClassVar[str] = "query"
    holds_previous: ClassVar[bool] = False

    def encode(self, tokens: Inexact[Tensor, "*batch pos dim"]) -> Inexact[Tensor, "*batch pos dim"]:
        return tokens


class Augmented(Encoding):
    """e_t = (0, s_t, s_{t-1}) with s_0 = 0, which asks with s_T for the key s_{t-1} and the value s_t."""

    kind: ClassVar[str] = "augmented"
    blocks: ClassVar[tuple[str, ...]] = ("read-out", "s_t", "s_{t-1}")
    conjugated: ClassVar[str] = "key"
    holds_previous: ClassVar[bool] = True

    def encode(self, tokens: Inexact[Tensor, "*batch pos dim"]) -> Inexact[Tensor, "*batch pos 3*dim"]:
        zero = torch.zeros_like(tokens)
        previous = torch.cat([zero[..., :1, :], tokens[..., :-1, :]], dim=-2)
        return torch.cat([zero, tokens, previous], dim=-1)


def encode(config: Any, tokens: Inexact[Tensor, "*batch pos dim"]) -> Inexact[Tensor, "*batch pos d_model"]:
    """The tokens of a `ModelConfig`: those of its encoding, `repeats` times."""
    encoded = Encoding.find(config.encoding)().encode(tokens)
    return torch.cat([encoded] * config.repeats, dim=-1) if config.repeats > 1 else encoded
