"""How many contexts a probe works on at a time: as many as it is told, or as a budget of memory holds."""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

from jaxtyping import Inexact
from torch import Tensor

from ar_interp.models.attention import CHUNK, LONG, WEIGHING
from ar_interp.models.opened import Model
from ar_interp.processes import Contexts

NUMBERS = 2**25  # held at a time, about: 256 MiB in double precision
MOST = 256  # contexts at a time: more are no faster
MANY = 8192  # contexts, from which on what serves many at once is worth it
TOGETHER = 512  # contexts at a time where all is done to many at once: more leave the cache


def at_a_time(batch_size: int | None, numbers: int, *, most: int | None = MOST) -> int:
    """How many contexts are worked on at a time: `batch_size`, or as many as `NUMBERS` holds and at most `most`.

    Args:
        numbers: that one context takes, about.
    """
    fits = max(1, NUMBERS // numbers)
    return batch_size or (fits if most is None else min(fits, most))


def numbers_in(model: Model, length: int, hooks: Iterable[str]) -> int:
    """How many numbers the activations of these hooks are made of, for one context of this length; at least 1."""
    n_heads, d_head, d_model = sizes_of(model)
    sizes = {
        "hook_kv_state": (length, n_heads, d_head, d_head),
        "hook_attn_scores": (n_heads, length, length),
        "hook_pattern": (n_heads, length, length),
    }
    other = (length, max(d_model, n_heads * d_head))
    return max(1, sum(prod(sizes.get(name.rpartition(".")[2], other)) for name in hooks))


def numbers_in_pass(model: Model, length: int) -> int:
    """How many numbers one context takes in a forward pass: a layer's scores, and its tokens in every layer."""
    n_heads, d_head, d_model = sizes_of(model)
    by_states = model.is_ours and model.is_linear and model.config.positional not in WEIGHING and length >= LONG
    scores = n_heads * length * (CHUNK if by_states else length)
    return scores + model.n_layers * length * (d_model + 4 * n_heads * d_head)


def sizes_of(model: Model) -> tuple[int, int, int]:
    """Heads, d_head and d_model, as far as the model tells."""
    W = getattr(model, "W_Q", None)
    if W is not None and W.ndim == 4:
        return W.shape[1], W.shape[3], W.shape[2]
    return 1, model.d_model or 1, model.d_model or 1


def in_parts(function: Callable[[Any], Tensor], contexts: Contexts, size: int, *, dim: int = 0) -> Tensor:
    """The function on so many contexts at a time; `dim` is the axis of the contexts in its result."""
    return side_by_side(map(function, contexts.split(size)), len(contexts), dim=dim)


def side_by_side(parts: Iterable[Tensor], n: int, *, dim: int = 0) -> Tensor:
    """Values of n contexts that come in parts, as one tensor; no two copies of the whole are held at a time."""
    found, start = None, 0
    for own in parts:
        size = own.shape[dim]
        if size == n:
            return own
        if found is None:
            found = own.new_empty(*own.shape[:dim], n, *own.shape[dim + 1 :])
        found.narrow(dim, start, size).copy_(own)
        start += size
    assert found is not None  # there is a context
    return found


def innermost(values: Inexact[Tensor, "batch *shape"]) -> Inexact[Tensor, "batch *shape"]:
    """Values rearranged so that those of all contexts lie side by side: what is done to many contexts at once, number
    by number, then reads memory in order."""
    if values.stride(0) <= 1:  # they are, or all are one
        return values
    turned = values.flatten(1).t().contiguous()
    return turned.reshape(*values.shape[1:], len(values)).movedim(-1, 0)
