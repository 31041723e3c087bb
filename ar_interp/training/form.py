"""A form: one way to compute the predictions of all members at once, [member batch pos ...], differentiable."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.func import functional_call, vmap

from ar_interp.models.base import Config
from ar_interp.processes import Contexts

Parameters = dict[str, Tensor]  # name -> [member ...]
Products = dict[str, Tensor]
Tokens = Inexact[Tensor, "member batch pos dim"]


class Form(ABC):
    """One way to compute the predictions of an architecture."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        """Products of the weights that predictions at n_pos positions need."""

    @abstractmethod
    def predict(self, products: Products, tokens: Tokens) -> Tokens:
        """The predictions at each position."""

    def mean_losses(
        self, parameters: Parameters, contexts: Sequence[Contexts], first_length: int
    ) -> Float[Tensor, "member"]:
        """The mean loss of each member on its own contexts, as these count it, of what is observed."""
        predictions = self.predict(parameters, torch.stack([own.inputs for own in contexts]))
        losses = (
            own.losses(found, first_length=first_length, observed=True).mean()
            for own, found in zip(contexts, predictions, strict=True)
        )
        return torch.stack(list(losses))

    def elements(self, n_pos: int) -> int:
        """Numbers in the largest activation of a sequence, by which a CPU cuts batches into pieces."""
        return 1


class OwnModel(Form):
    """The hooked model of a config, under vmap; member by member, with a warning, where vmap cannot follow it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.model = None
        self.alone = False  # one member at a time

    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        return parameters

    def predict(self, products: Products, tokens: Tensor) -> Tensor:
        model = self.model = self.model or self.config.build(device=tokens.device)

        def predict(parameters: Parameters, own: Tensor) -> Tensor:
            return functional_call(model, parameters, (own,))

        if not self.alone:
            try:
                return vmap(predict)(products, tokens)
            except RuntimeError as error:
                self.alone = True
                reason = str(error).partition("\n")[0]
                warnings.warn(f"members of {self.config.kind!r} are computed one by one: {reason}", stacklevel=2)
        members = ({name: tensor[k] for name, tensor in products.items()} for k in range(len(tokens)))
        return torch.stack([predict(*pair) for pair in zip(members, tokens, strict=True)])
