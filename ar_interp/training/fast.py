"""Steps that are faster on a CPU than differentiating `batched`, and tested to be equal to it.

The step of one member takes its parameters by name, without the ensemble axis and requiring gradients, and tokens
s_1, ..., s_{n+1} [batch pos dim]. It returns the squared errors from T = first_length on, mean over the batch, the
products of parameters that this depends on, and its gradients with respect to them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.config import Config, ModelConfig
from ar_interp.training.batched import Parameters, is_paper_figure7
from ar_interp.training.linear_stack import is_linear_stack, linear_stack_step
from ar_interp.training.positional_heads import figure7_step

Step = Callable[[Parameters, Tensor, int], tuple[Float[Tensor, "member"], Parameters]]


def fast_step(config: Config) -> Step | None:
    """Losses and gradients of every member on real s_1, ..., s_{n+1} [member batch pos dim], written by hand.

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
