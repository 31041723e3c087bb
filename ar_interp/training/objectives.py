"""What is minimised: a function of an ensemble's stacked parameters that returns one loss per member.

Every objective is the loss per coordinate sum, summed over the context lengths T = 2..n_ctx.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P, ModelConfig
from ar_interp.processes import Process
from ar_interp.theory import orthogonal_minimum, population_loss, positional_population_loss, unitary_minimum

Parameters = dict[str, Tensor]  # name -> [ensemble ...]
Objective = Callable[[Parameters], Float[Tensor, "ensemble"]]


def has_population_loss(config: ModelConfig, process: Process) -> str | None:
    """None where the exact population loss exists, else the reason why it does not."""
    if process.noise:
        return f"noise is {process.noise}, the closed form holds without noise"
    if process.initial.law != "ones" or process.initial.scale != 1:
        return f"first_token is {process.initial}, the closed form holds for ones"
    if config.heads == "diagonal" and process.mu != 1:
        return f"mu is {process.mu}, the closed form of trained heads holds for mu = 1"
    return None


def population_objective(config: ModelConfig, process: Process) -> Objective:
    """The exact expectation over the process (`theory.population_loss`, `theory.positional_population_loss`).

    Raises:
        ValueError: no closed form for this process; the message says why.
    """
    reason = has_population_loss(config, process)
    if reason:
        raise ValueError(f"no exact population loss here: {reason}. Use TrainConfig(objective='sampled').")
    if config.heads == "unit":
        return lambda parameters: positional_population_loss(parameters[POSITIONAL_P], mu=process.mu)
    family = "orthogonal" if process.conjugate_pairs else "unitary"

    def loss(parameters: Parameters) -> Float[Tensor, "ensemble"]:
        C = parameters[HEAD_B].mT @ parameters[HEAD_A]
        return population_loss(C, parameters[POSITIONAL_P], family=family)

    return loss


def sampled_objective(
    config: ModelConfig, process: Process, *, batch: int, generators: Sequence[torch.Generator]
) -> Objective:
    """The mean over a fresh batch of the hooked model's squared error; one generator for each member."""
    from ar_interp.models.transformer import HookedARTransformer

    model = HookedARTransformer(config, device=generators[0].device)

    def member_loss(parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        predictions = functional_call(model, parameters, (inputs,))
        error = (predictions - targets)[:, 1:]  # position 0 has no query
        return error.abs().square().sum((-1, -2)).mean()

    def loss(parameters: Parameters) -> Float[Tensor, "ensemble"]:
        tokens = torch.stack([process.sample(batch, config.n_ctx + 1, generator=g).tokens for g in generators])
        return vmap(member_loss)(parameters, tokens[:, :, :-1], tokens[:, :, 1:])

    return loss


def theoretical_minimum(config: ModelConfig, process: Process) -> float | None:
    """Smallest population loss per context length, where theory has one."""
    if has_population_loss(config, process):
        return None
    if config.heads == "unit":
        return 0.0
    minimum = orthogonal_minimum if process.conjugate_pairs else unitary_minimum
    return minimum(dim=config.dim, n_heads=config.n_heads)
