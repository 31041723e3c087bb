"""What is minimised: a function of an ensemble's stacked parameters that returns losses and gradients, one per member.

Every objective is the sum of squared errors over coordinates and over the context lengths T = first_length..n_ctx.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.processes import CommutingProcess, Process
from ar_interp.theory import (
    block_scalar_loss,
    block_scalar_minimum,
    orthogonal_minimum,
    population_loss,
    positional_population_loss,
    unitary_minimum,
)
from ar_interp.training.fast import Parameters, Predict, fast_predictions, fast_step

Objective = Callable[[Parameters], tuple[Float[Tensor, "ensemble"], Parameters]]  # losses, gradients


def has_population_loss(config: ModelConfig, process: Process) -> str | None:
    """None where the exact population loss exists, else the reason why it does not."""
    if not isinstance(process, CommutingProcess):
        return f"process is {process.kind}, closed forms hold for commuting families"
    if process.noise:
        return f"noise is {process.noise}, the closed form holds without noise"
    if process.initial.law != "ones" or process.initial.scale != 1:
        return f"first_token is {process.initial}, the closed form holds for ones"
    if config.heads == "full":
        return "heads are full, closed forms hold for diagonal and block-scalar ones"
    if config.heads == "block-scalar" and not _is_one_linear_layer(config):
        return "the closed form of block-scalar heads holds for one layer, one head and plain linear attention"
    if config.heads != "unit" and process.mu != 1:
        return f"mu is {process.mu}, the closed form of trained heads holds for mu = 1"
    return None


def _is_one_linear_layer(config: ModelConfig) -> bool:
    extras = config.layer_norm or config.d_mlp or config.unembed or config.positional != "none"
    return (config.n_layers, config.n_heads, config.attention) == (1, 1, "linear") and not extras


def population_objective(config: ModelConfig, process: Process) -> Objective:
    """The exact expectation over the process, from `theory`.

    Raises:
        ValueError: no closed form for this process; the message says why.
    """
    reason = has_population_loss(config, process)
    if reason:
        raise ValueError(f"no exact population loss here: {reason}. Use TrainConfig(objective='sampled').")
    assert isinstance(process, CommutingProcess)
    mu, pairs = process.mu, process.conjugate_pairs

    def loss(parameters: Parameters) -> Float[Tensor, "ensemble"]:
        if config.heads == "unit":
            return positional_population_loss(parameters[POSITIONAL_P], mu=mu)
        if config.heads == "diagonal":
            C = parameters[HEAD_B].mT @ parameters[HEAD_A]
            return population_loss(C, parameters[POSITIONAL_P], family="orthogonal" if pairs else "unitary")
        QK, OV = (parameters[f"blocks.0.attn.{name}_blocks"][:, 0] for name in ("QK", "OV"))
        a, b = QK[:, 1:, 1:].flatten(1), OV[:, 1:, 0]
        return block_scalar_loss(a, b, dim=config.dim, max_length=config.n_ctx, conjugate_pairs=pairs)

    return lambda parameters: value_and_gradients(loss, parameters)


def sampled_objective(
    config: ModelConfig,
    process: Process,
    *,
    batch: int,
    generators: Sequence[torch.Generator],
    first_length: int = 2,
) -> Objective:
    """The mean over a fresh batch of the model's squared error; one generator for each member.

    Computed by `fast_step` where it knows the architecture, else by differentiating the hooked model.
    """
    step = None if isinstance(process, CommutingProcess) else fast_step(config)
    fast = None if isinstance(process, CommutingProcess) else fast_predictions(config)
    predict = fast or predictions_of(config, device=generators[0].device)

    def objective(parameters: Parameters) -> tuple[Float[Tensor, "ensemble"], Parameters]:
        tokens = torch.stack(
            [process.sample(batch, config.n_ctx + 1, generator=g, dtype=config.torch_dtype).tokens for g in generators]
        )
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


def predictions_of(config: ModelConfig, *, device: torch.device) -> Predict:
    """Predictions of every member by the hooked model."""
    from ar_interp.models.transformer import HookedARTransformer

    model = HookedARTransformer(config, device=device)
    return vmap(lambda parameters, tokens: functional_call(model, parameters, (tokens,)))


def squared_errors(
    predict: Predict, parameters: Parameters, tokens: Tensor, first_length: int
) -> Float[Tensor, "ensemble batch"]:
    """|prediction - s_{T+1}|^2 of every sequence, summed over T = first_length..n_ctx."""
    error = (predict(parameters, tokens[:, :, :-1]) - tokens[:, :, 1:])[:, :, first_length - 1 :]
    return error.abs().square().sum((-1, -2))


def theoretical_minimum(config: ModelConfig, process: Process) -> float | None:
    """Smallest population loss per context length, where theory has one."""
    if has_population_loss(config, process):
        return None
    assert isinstance(process, CommutingProcess)
    if config.heads == "unit":
        return 0.0
    if config.heads == "block-scalar":
        sizes = {"dim": config.dim, "max_length": config.n_ctx}
        return block_scalar_minimum(**sizes, conjugate_pairs=process.conjugate_pairs).loss
    minimum = orthogonal_minimum if process.conjugate_pairs else unitary_minimum
    return minimum(dim=config.dim, n_heads=config.n_heads)
