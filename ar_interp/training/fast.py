"""Losses and gradients by machine code of our own, many times faster on a CPU than differentiating `batched`.

It is there with the extra `fast` (llvmlite), for the two architectures of the recipes; tested to be equal.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ar_interp.models.config import ModelConfig
from ar_interp.training.batched import Stack, SumOfHeads, is_paper_figure7
from ar_interp.training.form import Form, Parameters, Products, Tokens

MOST_HEADS = 128  # beyond, their sum in `SumOfHeads` is cheaper than one after another

Errors = Callable[[Products, Tensor, Tensor, Tensor], tuple[Tensor, Products]]
Step = Callable[[Products, Tokens, int], tuple[Tensor, Products]]


@cache
def available() -> bool:
    """Whether llvmlite is installed and loads."""
    try:
        import llvmlite.binding  # noqa: F401
    except ModuleNotFoundError:
        return False
    except (ImportError, OSError) as error:
        warnings.warn(f"training is slower than it could be: llvmlite does not load ({error}).", stacklevel=2)
        return False
    return True


def fast_step(form: Form) -> tuple[Callable[[Parameters, int], Products], Step] | None:
    """Products of the parameters, and losses and gradients from them on real tokens, as functions; None without."""
    config = form.config
    if type(config) is not ModelConfig or not available():
        return None
    from ar_interp.training import fast_heads, fast_stack

    if is_paper_figure7(config) and config.n_heads <= MOST_HEADS:
        return SumOfHeads(config).heads, partial(_step, fast_heads.errors)
    if isinstance(form, Stack) and fast_stack.computes(form):
        return form.collapse, partial(_step, partial(fast_stack.errors, form))
    return None


def _step(errors: Errors, products: Products, tokens: Tokens, first_length: int) -> tuple[Tensor, Products]:
    from ar_interp.training.vectors import LANES

    batch, fill = tokens.shape[1], -tokens.shape[1] % LANES
    sequences = tokens.permute(0, 2, 3, 1)
    sequences = (pad(sequences, (0, fill)) if fill else sequences.contiguous()).unflatten(-1, (-1, LANES))
    mask = pad(tokens.new_ones(batch), (0, fill))
    counted = (torch.arange(1, tokens.shape[2], device=tokens.device) >= first_length).to(tokens.dtype)
    losses, gradients = errors(products, sequences, mask, counted)
    return losses / batch, {name: gradient * (2 / batch) for name, gradient in gradients.items()}
