"""Steps that are faster than differentiating the hooked model, and tested to be equal to it.

The step of one member takes its parameters by name, without the ensemble axis and requiring gradients, and tokens
s_1, ..., s_{n+1} [batch pos dim]. It returns the squared errors from T = first_length on, mean over the batch, the
products of parameters that this depends on, and its gradients with respect to them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.config import Config, ModelConfig, is_plain_full
from ar_interp.training.linear_stack import is_linear_stack, linear_stack_step
from ar_interp.training.positional_heads import (
    figure7_step,
    is_paper_figure7,
    shared_positions_predictions,
)

Parameters = dict[str, Tensor]  # name -> [ensemble ...]
Step = Callable[[Parameters, Tensor, int], tuple[Float[Tensor, "ensemble"], Parameters]]
Predict = Callable[[Parameters, Tensor], Tensor]  # tokens [ensemble batch pos dim] -> predictions


def fast_step(config: Config) -> Step | None:
    """Losses and gradients of every member on real s_1, ..., s_{n+1} [ensemble batch pos dim], written by hand.

    None where there is no such step for the architecture.
    """
    if type(config) is not ModelConfig:
        return None
    alone = linear_stack_step if is_linear_stack(config) else figure7_step if is_paper_figure7(config) else None
    if alone is None:
        return None

    def step(parameters: Parameters, tokens: Tensor, first_length: int) -> tuple[Tensor, Parameters]:
        losses, gradients = [], []
        for i, sequences in enumerate(tokens):
            leaves = {name: tensor[i].detach().requires_grad_() for name, tensor in parameters.items()}
            loss, products, theirs = alone(config, leaves, sequences, first_length)
            losses.append(loss)
            gradients.append(torch.autograd.grad(products, list(leaves.values()), theirs))
        stacked = (torch.stack(members) for members in zip(*gradients, strict=True))
        return torch.stack(losses), dict(zip(parameters, stacked, strict=True))

    return step


def fast_predictions(config: Config) -> Predict | None:
    """Predictions of every member on real sequences, to be differentiated; None where there is no faster way."""
    if not isinstance(config, ModelConfig) or not is_plain_full(config):
        return None
    return lambda parameters, tokens: shared_positions_predictions(config, parameters, tokens)
