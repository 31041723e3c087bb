"""The contract of data: what a task gives to a model and what it asks for."""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from ar_interp._shown import Shown, shown, shown_html

C = TypeVar("C", bound="Contexts")


class Pairs(NamedTuple):
    """The (x_t, y_t) that a statistician would regress.

    With the context of position T go the pairs before it and x_T; y_T is what is asked for.
    """

    x: Inexact[Tensor, "batch pos dim"]
    y: Inexact[Tensor, "batch pos out"]

    __repr__ = shown
    _repr_html_ = shown_html


class Contexts(Shown, ABC):
    """The data of a task: at each position T a model sees the inputs up to T and is asked for the target there.

    Subclasses are dataclasses with `inputs`, `targets` and `pairs`.
    """

    @property
    @abstractmethod
    def inputs(self) -> Tensor:
        """[batch pos ...], what the model is given."""

    @property
    @abstractmethod
    def targets(self) -> Inexact[Tensor, "batch pos dim"]:
        """The right answer at each position."""

    @property
    def clean_targets(self) -> Inexact[Tensor, "batch pos dim"]:
        """The targets without noise of observation, with which `errors` compares."""
        return self.targets

    @abstractmethod
    def pairs(self) -> Pairs:
        """The pairs that a regression on the same context would use."""

    def __getitem__(self: C, index: slice | Tensor) -> C:
        """Some of the contexts, of which all tensors have one entry each."""
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})  # type: ignore[type-var] - dataclasses

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def length(self) -> int:
        """The longest context, T = 1..length."""
        return self.inputs.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Contexts":
        """A copy of the contexts on a device, without gradients, and at least in the precision of `dtype`."""
        moved = copy(self)
        vars(moved).update({name: brought(value, device, dtype) for name, value in self.tensors().items()})
        return moved

    def split(self, size: int) -> "tuple[Contexts, ...]":
        """The contexts in parts of at most `size`, in order."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))

    def errors(
        self, predictions: Inexact[Tensor, "batch pos dim"], *, observed: bool = False
    ) -> Float[Tensor, "batch pos"]:
        """|prediction - target|^2 at every position, summed over coordinates; of the clean target where there is one.

        Args:
            observed: of the target that is observed, which training goes by.
        Raises:
            ValueError: predictions of another shape than the targets.
        """
        if predictions.shape != self.targets.shape:
            raise ValueError(
                f"predictions must have the targets' shape {list(self.targets.shape)}, got {list(predictions.shape)}: "
                "one for each position of `inputs`."
            )
        apart = predictions - (self.targets if observed else self.clean_targets)
        return (apart.abs() if apart.is_complex() else apart).square().sum(-1)

    def losses(
        self, predictions: Inexact[Tensor, "batch pos dim"], *, first_length: int = 2, observed: bool = False
    ) -> Float[Tensor, "batch"]:
        """The loss of each context: the mean of `errors` over T = first_length..length, see `ar_interp.theory`."""
        return self.errors(predictions, observed=observed)[:, first_length - 1 :].mean(1)

    def shares(self, predictions: Inexact[Tensor, "batch pos dim"]) -> dict[str, Bool[Tensor, "batch"]]:
        """Counts of each context beside its loss: columns of the members of an ensemble. None by default."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Sequences(Contexts):
    """A batch of sequences and the W that made each.

    The task is to predict the next token: inputs s_1..s_n, targets s_2..s_{n+1}, pairs (s_t, s_{t+1}). Where tokens are
    observed with noise, inputs, targets and pairs are what is observed, and `errors` are those of the clean targets.

    Attributes:
        tokens: s_1, ..., s_{n+1}, or what is observed of them; complex in the eigenbasis, real in a real basis.
        W: the true matrix in the same coordinates, clean[:, t + 1] = W clean[:, t] + noise; of a process with several
            matrices all of them, clean[:, t + 1] = sum_k W[:, k] clean[:, t - k] + noise.
        phases: angle of each eigenvalue of W, radians, in the order of the eigenbasis; None where the eigenvectors
            are random too.
        states: s_1, ..., s_{n+1} where tokens are observed with noise; None where they are the states themselves.
    """

    tokens: Inexact[Tensor, "batch pos dim"]
    W: Inexact[Tensor, "batch dim dim"] | Inexact[Tensor, "batch matrix dim dim"]
    phases: Float[Tensor, "batch dim"] | None = None
    states: Inexact[Tensor, "batch pos dim"] | None = None

    @property
    def clean(self) -> Inexact[Tensor, "batch pos dim"]:
        """s_1, ..., s_{n+1}, without noise of observation."""
        return self.tokens if self.states is None else self.states

    @property
    def clean_targets(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.clean[:, 1:]

    @property
    def inputs(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.tokens[:, 1:]

    @property
    def n_matrices(self) -> int:
        """How many matrices make the next token."""
        return 1 if self.W.ndim == 3 else self.W.shape[1]

    def pairs(self) -> Pairs:
        return Pairs(self.inputs, self.targets)

    def __len__(self) -> int:
        return len(self.tokens)


def brought(values: Tensor, device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values on a device, without their history; numbers that are no integers in the higher precision of the two."""
    values = values.detach().to(device)
    if dtype is not None and (values.is_floating_point() or values.is_complex()):
        values = values.to(torch.promote_types(values.dtype, dtype))
    return values.clone() if values.is_inference() else values  # which no gradient may pass
