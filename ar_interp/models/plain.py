"""`PlainModel`: the function of a model as a bare torch module, without hooks, for whoever wants only predictions."""

from collections.abc import Mapping

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from ar_interp.models.closed_form import closed_form, no_closed_form
from ar_interp.models.config import ModelConfig


class PlainModel(nn.Module):
    """tokens [batch pos dim] -> predictions [batch pos dim] by the closed form of the weights.

    It has no hooks and nothing of TransformerLens, trains like any module, and goes through `torch.export.export`,
    whose result needs this package no more, with a dynamic batch where asked. Models of real tokens go through
    `torch.onnx.export` too, with `dynamo=True` (needs onnxscript) or without (needs onnx), with predictions that are
    the same to 1e-7; ONNX has no complex numbers.
    Computed in double precision; predictions have the precision of tokens and weights, whichever is higher.

    Args:
        config: what the weights mean.
        parameters: by the names of `config.parameter_shapes`; copied.
    Raises:
        ValueError: no closed form is written for a part of the model.
    """

    def __init__(self, config: ModelConfig, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        reason = no_closed_form(config)
        if reason:
            raise ValueError(f"to_torch needs a closed form of the model: {reason}.")
        self.config = config
        self.names = {name: name.replace(".", "_") for name in config.parameter_shapes}
        for name, own in self.names.items():
            self.register_parameter(own, nn.Parameter(parameters[name].detach().clone()))

    def forward(self, tokens: Inexact[Tensor, "batch pos dim"]) -> Inexact[Tensor, "batch pos dim"]:
        """The prediction of s_{t+1} at each position t."""
        weights = {name: getattr(self, own).double() for name, own in self.names.items()}
        predictions = closed_form(self.config, weights, tokens)
        return predictions.to(torch.promote_types(tokens.dtype, self.config.torch_dtype))
