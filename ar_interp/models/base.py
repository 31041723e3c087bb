"""`Config`: an architecture as plain data, the root of all kinds of model."""

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ar_interp._kinds import Kind
from ar_interp.processes import Process


class Config(Kind, ABC, root=True):
    """An architecture as plain data that loads without TransformerLens.

    A model of your own is a frozen keyword-only dataclass of JSON values with a `kind` and what follows; each value is
    checked when it is made, since files come from strangers. `build` imports the model where it is called.

    Attributes:
        kind: the name in a saved file.
        dim: size of what a model sees at a position.
        n_ctx: longest context.
    """

    dim: int
    n_ctx: int

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor."""

    @property
    @abstractmethod
    def torch_dtype(self) -> torch.dtype:
        """The precision of the weights, torch.float32 or torch.float64."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The architecture in a line."""

    @property
    def initial_law(self) -> str:
        """The law of the initial weights, for the model card."""
        return "as the config draws them"

    @property
    def parity_obstruction(self) -> str | None:
        """Why training is in vain, or None."""
        return None

    @abstractmethod
    def check_process(self, process: object) -> None:
        """Raise a ValueError that says how to mend it where this model cannot be about the process."""

    @abstractmethod
    def initial_parameters(self, *, seed: int) -> dict[str, Tensor]:
        """Every trained tensor by name."""

    @abstractmethod
    def build(self, process: Process | None = None, *, device: str | torch.device = "cpu") -> Any:
        """The hooked model, whose `state_dict` has the names and shapes of `parameter_shapes`."""

    def to_dict(self) -> dict[str, object]:
        """The kind and the fields, ready for JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]
