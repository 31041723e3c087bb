"""Objectives of training: functions of an ensemble's stacked parameters that return each member's loss and gradients.

All are the sum of squared errors over coordinates and over the context lengths T = first_length..n_ctx.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from ar_interp.models.config import Config
from ar_interp.processes import Process
from ar_interp.setting import Setting
from ar_interp.training.fast import Parameters, Predict, fast_predictions, fast_step

Objective = Callable[[Parameters], tuple[Float[Tensor, "ensemble"], Parameters]]  # losses, gradients


def population_objective(setting: Setting) -> Objective:
    """The exact expectation over the process, as theory has it.

    Raises:
        ValueError: no closed form for this model and process; the message says why.
    """
    if setting.no_exact_loss:
        setting.exact_loss({})
    return lambda parameters: value_and_gradients(setting.exact_loss, parameters)


def sampled_objective(
    config: Config,
    process: Process,
    *,
    batch: int,
    generators: Sequence[torch.Generator],
    first_length: int = 2,
) -> Objective:
    """The mean over a fresh batch of the model's squared error; one generator for each member.

    Computed by `fast_step` where it knows the architecture, else by differentiating the hooked model.
    """
    step, fast = (fast_step(config), fast_predictions(config)) if process.real_tokens else (None, None)
    predict = fast or predictions_of(config, device=generators[0].device)

    def objective(parameters: Parameters) -> tuple[Float[Tensor, "ensemble"], Parameters]:
        drawn = [process.contexts(batch, config.n_ctx, generator=g, dtype=config.torch_dtype) for g in generators]
        tokens = torch.stack([contexts.tokens for contexts in drawn])
        if step is not None:
            return step(parameters, tokens, first_length)
        return value_and_gradients(lambda p: squared_errors(predict, p, tokens, first_length).mean(1), parameters)

    return objective


def value_and_gradients(
    loss: Callable[[Parameters], Float[Tensor, "ensemble"]], parameters: Parameters
) -> tuple[Float[Tensor, "ensemble"], Parameters]:
    """Each member's loss, and its gradient with respect to its own parameters, by differentiating their sum."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    losses = loss(tensors)
    gradients = torch.autograd.grad(losses.sum(), list(tensors.values()))
    return losses.detach(), dict(zip(tensors, gradients, strict=True))


def predictions_of(config: Config, *, device: torch.device) -> Predict:
    """Predictions of every member by the hooked model."""
    model = config.build(device=device)
    return vmap(lambda parameters, tokens: functional_call(model, parameters, (tokens,)))


def squared_errors(
    predict: Predict, parameters: Parameters, tokens: Tensor, first_length: int
) -> Float[Tensor, "ensemble batch"]:
    """|prediction - s_{T+1}|^2 of every sequence, summed over T = first_length..n_ctx."""
    error = (predict(parameters, tokens[:, :, :-1]) - tokens[:, :, 1:])[:, :, first_length - 1 :]
    return error.abs().square().sum((-1, -2))
