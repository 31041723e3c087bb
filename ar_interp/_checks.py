"""Checks of what users pass: each names the argument, the rule and what came."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from ar_interp._shown import typed

WRAPPERS = (  # prefix of the names of weights, who puts it there, where the model is
    ("_orig_mod.", "torch.compile", "model._orig_mod"),
    ("module.", "DataParallel", "model.module"),
    ("_fsdp_wrapped_module.", "FullyShardedDataParallel", "model.module"),
    ("model.", "a module around the model", "wrapper.model"),
)

MOST = 10**9  # of things to be counted, where nothing else is said: more would never end, or fit no memory


def check_integer(name: str, value: object, *, low: int, high: int | None = MOST) -> int:
    """`value` as an int within [low, high], for None without an upper end; a ValueError that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, got {typed(value)}.")
    value = int(value)
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {typed(value)}.")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {high}, got {typed(value)}.")
    return value


def check_seed(value: object) -> int:
    """`value` as a seed: an integer >= 0 of any size."""
    return check_integer("seed", value, low=0, high=None)


def check_several(name: str, values: Iterable[object] | None, *, low: int, high: int) -> tuple[int, ...]:
    """Distinct integers within [low, high], ascending; all of them for None."""
    if values is None:
        return tuple(range(low, high + 1))
    try:
        values = list(values)
    except TypeError as error:
        raise ValueError(f"{name} must be several integers, such as [0, 1], got {typed(values)}.") from error
    found = tuple(sorted({check_integer(name, value, low=low, high=high) for value in values}))
    if not found:
        raise ValueError(f"{name} is empty; leave it out for all.")
    return found


def check_number(name: str, value: object, *, low: float, high: float = math.inf, strict: bool = False) -> float:
    """`value` as a finite float from low (above low when `strict`) to high."""
    if isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value):
        raise ValueError(f"{name} must be a finite number, got {typed(value)}.")
    if value < low or (strict and value == low):
        raise ValueError(f"{name} must be {'greater than' if strict else 'at least'} {low}, got {value}.")
    found = float(value)
    if found > high:
        raise ValueError(f"{name} must be at most {high:g}, got {value}.")
    return found


def check_boolean(name: str, value: object) -> bool:
    """`value` when it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {typed(value)}.")
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """`value` when it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {typed(value)}.")
    return str(value)


def check_device(name: str, value: object) -> torch.device:
    """`value` as a device that this machine has."""
    try:
        return torch.empty(0, dtype=torch.float32, device=value).device  # type: ignore[arg-type] - what is tried
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n")[0][:150]
        raise ValueError(f"{name} must be one that this machine has, such as 'cpu', got {value!r}: {said}") from error


def as_real_array(name: str, value: object, *, shape: tuple[int | str, ...]) -> Tensor:
    """`value` (tensor, array or nested list) as a finite float64 tensor of the given shape.

    Strings in `shape` name free sizes: `("head", "dim")` accepts any matrix.
    """
    try:
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    wanted = " ".join(map(str, shape))
    if tensor.ndim != len(shape) or any(
        isinstance(rule, int) and size != rule for rule, size in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}.")
    if 0 in tensor.shape:
        raise ValueError(f"{name} must not be empty, got shape {list(tensor.shape)}.")
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, got {tensor.dtype}.")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} has NaN or infinite entries.")
    return tensor.detach().to(torch.float64)


def as_tensor(value: object) -> Tensor:
    """A tensor as it is; an array or nested list in its own precision, on the CPU."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def wrapping(names: Iterable[str]) -> str:
    """A sentence about the wrapper that the names of weights come from, if all of them do; else nothing."""
    names = list(names)
    for prefix, wrapper, inner in WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return (
                f" All names start with {prefix!r}, as {wrapper} writes them: take the weights of the model inside it "
                f"(`{inner}`), or cut the prefix off."
            )
    return ""
