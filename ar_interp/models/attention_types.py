"""Attention types: what becomes of the scores <query, key> before they weigh the values.

A type of your own is a subclass of `LinearAttention` or `NonlinearAttention` with a `kind`, in a module of your own:
`ModelConfig(attention=kind)` then builds, trains, saves and loads.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._kinds import Kind

Scores = Inexact[Tensor, "batch head query key"]


class AttentionType(Kind, ABC, root=True):
    """One way from scores to the pattern that weighs the values: pattern(scores) * share(T) * positional weights.

    Attributes:
        kind: the name in `ModelConfig.attention` and in a saved file.
        linear: what a head writes is linear in its queries, keys and values; stated by `LinearAttention` and
            `NonlinearAttention`, of which a new type is a subclass.
        future: what the scores of future keys are before `pattern`.
        normalised: each row of the pattern sums to 1, so that no positional weights may multiply it.
    """

    linear: ClassVar[bool]
    future: ClassVar[float]
    normalised: ClassVar[bool] = False

    @abstractmethod
    def pattern(self, scores: Scores) -> Scores:
        """The pattern, without positional weights."""

    @abstractmethod
    def share(self, T: Float[Tensor, "query 1"]) -> Float[Tensor, "query #key"] | None:
        """The factor of the scores of each destination or pair, whatever their content; None where there is none."""


class LinearAttention(AttentionType):
    """Scores as they are, times a factor that knows positions alone.

    Subclasses write `share`. T holds 1, 2, ..., the number of keys that each destination sees, in the precision of the
    scores and on their device; the answer is [query 1] or [query key], finite also for future keys, whose scores are 0.
    """

    linear: ClassVar[bool] = True
    future: ClassVar[float] = 0.0

    def pattern(self, scores: Scores) -> Scores:
        return scores


class NonlinearAttention(AttentionType):
    """Any other function of the scores; tokens must be real.

    Subclasses write `pattern`, of scores that are -inf where the key lies in the future; there, and where nobody asks,
    the pattern is set to zero whatever they answer.
    """

    linear: ClassVar[bool] = False
    future: ClassVar[float] = -torch.inf

    def share(self, T: Float[Tensor, "query 1"]) -> None:
        return None


class Linear(LinearAttention):
    """Scores as they are."""

    kind: ClassVar[str] = "linear"

    def share(self, T: Float[Tensor, "query 1"]) -> None:
        return None


class PerKey(LinearAttention):
    """Scores divided by the number of keys T."""

    kind: ClassVar[str] = "linear/keys"

    def share(self, T: Float[Tensor, "query 1"]) -> Float[Tensor, "query 1"]:
        return 1 / T


class PerPair(LinearAttention):
    """Scores divided by the number of pairs T - 1."""

    kind: ClassVar[str] = "linear/pairs"

    def share(self, T: Float[Tensor, "query 1"]) -> Float[Tensor, "query 1"]:
        return 1 / (T - 1).clamp(min=1)


class Softmax(NonlinearAttention):
    """The softmax of the scores, as in any transformer."""

    kind: ClassVar[str] = "softmax"
    normalised: ClassVar[bool] = True

    def pattern(self, scores: Scores) -> Scores:
        return scores.softmax(-1)
