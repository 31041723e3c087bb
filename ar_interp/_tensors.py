"""Tensors as the bytes of a safetensors file, and back: out of memory, never out of a mapped file."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ar_interp._checks import wrapping
from ar_interp._files import CheckpointError, name_of, opened, parse

MAX_HEADER_BYTES = 2**21
KINDS = {torch.float64: "F64", torch.float32: "F32"}

Shapes = Mapping[str, tuple[int, ...]]


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The file that holds these tensors, each with memory of its own."""
    return save({name: x.detach().to("cpu", copy=True).contiguous() for name, x in tensors.items()})


def read_tensors(path: Path, shapes_of: Callable[[set[str]], Shapes], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if they are those that the config has, and numbers that can be reckoned with.

    Args:
        path: the file.
        shapes_of: the shape of each tensor by name, which may depend on the names in the file.
        dtype: that all of them must have.
    Raises:
        CheckpointError: not such a file; names, shapes or dtypes that are not the config's; NaN, infinities, and
            numbers of which a product of four overflows.
    """
    where = name_of(path)
    with opened(path) as (file, size):
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size, MAX_HEADER_BYTES):
            raise CheckpointError(f"{where} cannot be read: it is not a safetensors file.")
        header = file.read(length)
        shapes = _shapes(header, size - 8 - length, shapes_of, dtype, where)
        content = start + header + file.read(sum(map(prod, shapes.values())) * dtype.itemsize)
    try:
        tensors = {name: tensor.clone() for name, tensor in load(content).items()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error
    largest = torch.finfo(dtype).max ** 0.25
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} has NaN or infinite entries.")
        if tensor.abs().max() > largest:
            raise CheckpointError(f"{where}: {name} has entries beyond {largest:.0e}, whose products overflow.")
    return {name: tensors[name] for name in shapes}


def _shapes(
    header: bytes, data_size: int, shapes_of: Callable[[set[str]], Shapes], dtype: torch.dtype, where: str
) -> Shapes:
    """The shapes that the config has, if the header has the same and the file is as long as they ask for."""
    try:
        found = parse(header.decode(), where)
        found.pop("__metadata__", None)
        stated = {name: (one["dtype"], one["shape"], one["data_offsets"][1]) for name, one in found.items()}
        end = max((end for _, _, end in stated.values()), default=0)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(where, f"{where} cannot be read: its header", 1)) from error
    except (ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{where} cannot be read: its header is not that of a safetensors file.") from error
    if end != data_size:
        raise CheckpointError(f"{where} cannot be read: it holds {data_size} bytes of tensors, its header says {end}.")
    shapes = shapes_of(set(stated))
    odd = sorted(stated.keys() ^ shapes.keys())
    if odd:
        fault = "is missing" if odd[0] in shapes else "is unknown to the config"
        raise CheckpointError(f"{where}: tensor {odd[0]!r} {fault}.{wrapping(stated)}")
    for name, shape in shapes.items():
        kind, own, _ = stated[name]
        if own != list(shape):
            raise CheckpointError(f"{where}: {name} must have shape {list(shape)}, got {own}.")
        if kind != KINDS[dtype]:
            raise CheckpointError(f"{where}: {name} must be {KINDS[dtype]}, got {kind}.")
    return shapes
