"""Objectives of training: each member's loss, a differentiable function of an ensemble's stacked parameters.

All are the sum of squared errors over coordinates and over the context lengths T = first_length..n_ctx.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.setting import Setting
from ar_interp.training.batched import entry_for, form_of
from ar_interp.training.fast import fast_step
from ar_interp.training.form import Form, Parameters, Tokens

Objective = Callable[[Parameters], Float[Tensor, "member"]]

AT_ONCE = {  # bytes of one activation
    "cpu": 2**20,  # fastest of 1/2, 1, 2, 4 MB, with 1 MB of L2
    "cuda": 2**31,  # of which a step holds some ten or twenty
}


def population_objective(setting: Setting, *, solve: bool = False) -> Objective:
    """The exact expectation over the process, as theory has it.

    Args:
        solve: with the weights that theory solves for at their best.
    Raises:
        ValueError: no closed form for this model and process; the message says why.
    """
    if setting.no_exact_loss:
        setting.exact_loss({})
    return (lambda parameters: setting.exact_loss(setting.solved(parameters))) if solve else setting.exact_loss


def sampled_objective(
    config: Config,
    process: Any,
    *,
    batch: int,
    generators: Sequence[torch.Generator],
    first_length: int = 2,
    fresh: bool = True,
    pool: int | None = None,
    compiled: bool = False,
) -> Objective:
    """The mean over a fresh batch of the model's squared error; one generator for each member.

    Kinds of models of their own are trained on the `contexts` of any task, through the model itself.

    Args:
        fresh: else the first batch is the only one.
        pool: contexts of each member that batches are taken from; None for no end of them.
        compiled: tokens and loss go through `torch.compile` as one.
    """
    n_ctx, dtype = config.n_ctx, config.torch_dtype
    fused = compiled and type(config) is ModelConfig and process.real_tokens
    if type(config) is ModelConfig:
        form, errors = form_of(config, process.real_tokens), at_once if fused else mean_errors

        def drawn(n: int) -> Any:
            return process.drawn(n, n_ctx + 1, generators, dtype)

        def taken(whole: Any, rows: Tensor) -> Any:
            members = torch.arange(len(rows), device=rows.device)[:, None]
            return tuple(part.expand(len(rows), *part.shape[1:])[members, rows] for part in whole)

        def losses(parameters: Parameters, drawn: Any) -> Float[Tensor, "member"]:
            return errors(form, parameters, process.from_drawn(drawn, n_ctx + 1, dtype), first_length)
    else:  # the loss of what is observed, as the contexts count it, times the number of context lengths
        form = form_of(config)

        def drawn(n: int) -> Any:
            return [process.contexts(n, n_ctx, generator=g, dtype=dtype) for g in generators]

        def taken(whole: Any, rows: Tensor) -> Any:
            return [own[mine] for own, mine in zip(whole, rows, strict=True)]

        def losses(parameters: Parameters, drawn: Any) -> Float[Tensor, "member"]:
            return (n_ctx - first_length + 1) * form.mean_losses(parameters, drawn, first_length)

    losses_on = compiled_where_possible(losses) if fused else losses
    kept = None if fresh and pool is None else drawn(pool or batch)

    def draw() -> Any:
        if pool is None:
            return drawn(batch) if fresh else kept
        orders = [torch.randperm(pool, generator=g, device=g.device) for g in generators]
        return taken(kept, torch.stack(orders)[:, :batch])

    return lambda parameters: losses_on(parameters, draw())


def of_entries(objective: Objective, trained: Parameters) -> Objective:
    """The objective where only the entries that are 1 in `trained` count, and so receive a gradient."""
    return lambda parameters: objective({name: W * trained[name] for name, W in parameters.items()})


def with_ridge(objective: Objective, ridge: float) -> Objective:
    """The objective plus `ridge` times the sum of squares of each member's weights."""

    def losses(parameters: Parameters) -> Float[Tensor, "member"]:
        squares = [W.flatten(1).square().sum(1) for W in parameters.values()]
        return objective(parameters) + ridge * torch.stack(squares).sum(0)

    return losses


def compiled_where_possible(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through `torch.compile`, or as it is, with a warning, where that fails."""
    chosen = torch.compile(function, dynamic=False)

    def call(*arguments: Any) -> Any:
        nonlocal chosen
        try:
            return chosen(*arguments)
        except Exception as error:  # no compiler for the device, or a fault of the one there is
            if chosen is function:
                raise
            warnings.warn(f"torch.compile failed ({type(error).__name__}); training goes on without.", stacklevel=2)
            chosen = function
            return function(*arguments)

    return call


def at_once(form: Form, parameters: Parameters, tokens: Tokens, first_length: int) -> Float[Tensor, "member"]:
    """Each member's squared error, mean over its sequences s_1, ..., s_{n+1}."""
    products = form.collapse(parameters, tokens.shape[2] - 1)
    return squared_errors(form, products, tokens, first_length).mean(1)


def mean_errors(form: Form, parameters: Parameters, tokens: Tokens, first_length: int) -> Float[Tensor, "member"]:
    """`at_once`, in pieces that fit a CPU's cache or a GPU's memory, or by `fast_step` where there is one."""
    members, batch, length, _ = tokens.shape
    on_cpu = tokens.device.type == "cpu"
    fast = fast_step(form) if on_cpu and not tokens.is_complex() else None
    if fast is not None:
        collapse, step = fast
        return _known(lambda held: step(held, tokens, first_length), collapse(parameters, length - 1))
    size = members * form.elements(length - 1) * tokens.element_size()
    piece = max(1, entry_for(tokens.device, AT_ONCE) // size)
    if piece >= batch:
        return at_once(form, parameters, tokens, first_length)

    def in_pieces(held: Parameters) -> tuple[Tensor, Parameters]:
        parts = [
            value_and_gradients(lambda p, part=part: squared_errors(form, p, part, first_length).sum(1) / batch, held)
            for part in tokens.split(piece, dim=1)
        ]
        losses, gradients = zip(*parts, strict=True)
        return torch.stack(losses).sum(0), {name: torch.stack([g[name] for g in gradients]).sum(0) for name in held}

    return _known(in_pieces, form.collapse(parameters, length - 1))


def check_no_overflow(config: Config, process: Any, parameters: Parameters) -> None:
    """Refuse weights whose errors on the process are not finite; those of other kinds are left to their own model.

    Raises:
        ValueError: they are not.
    """
    if type(config) is not ModelConfig:
        return
    form = form_of(config, process.real_tokens)
    products = form.collapse({name: weights[None] for name, weights in parameters.items()}, config.n_ctx)
    tokens = process.contexts(2, config.n_ctx, seed=seeds.TRIED, dtype=config.torch_dtype).tokens
    if not torch.isfinite(squared_errors(form, products, tokens[None], 2)).all():
        name, largest = max(((n, W.abs().max().item()) for n, W in parameters.items()), key=lambda pair: pair[1])
        raise ValueError(
            f"the weights overflow: their errors on sequences of {process.kind!r} are not finite; {name} goes up to "
            f"{largest:.2g}."
        )


def squared_errors(
    form: Form, products: Parameters, tokens: Tokens, first_length: int
) -> Float[Tensor, "member batch"]:
    """|prediction - s_{T+1}|^2 of every sequence, summed over T = first_length..n_ctx."""
    error = (form.predict(products, tokens[:, :, :-1]) - tokens[:, :, 1:])[:, :, first_length - 1 :]
    if error.is_complex():
        error = torch.view_as_real(error).flatten(-2)
    return error.square().sum((-1, -2))


class _Known(torch.autograd.Function):
    """Losses of members whose gradients were computed with them."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Any], names: list[str], *tensors: Tensor) -> Tensor:
        with torch.enable_grad():
            losses, gradients = compute({name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)})
        ctx.gradients = [gradients[name] for name in names]
        return losses.detach()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        return (None, None, *(g * outputs[0].view(-1, *[1] * (g.ndim - 1)) for g in ctx.gradients))


def _known(compute: Callable[[Parameters], tuple[Tensor, Parameters]], parameters: Parameters) -> Tensor:
    return _Known.apply(compute, list(parameters), *parameters.values())  # type: ignore[return-value]


def value_and_gradients(objective: Objective, parameters: Parameters) -> tuple[Float[Tensor, "member"], Parameters]:
    """Each member's loss, and its gradient with respect to its own parameters, by differentiating their sum."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    losses = objective(tensors)
    gradients = torch.autograd.grad(losses.sum(), list(tensors.values()))
    return losses.detach(), dict(zip(tensors, gradients, strict=True))
