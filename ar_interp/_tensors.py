"""Tensors as the bytes of a safetensors file, and back: out of memory, never out of a mapped file."""

import hashlib
import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ar_interp._checks import wrapping
from ar_interp._files import CheckpointError, name_of, opened, parse

MAX_HEADER_BYTES = 2**21
MAX_FACTS_BYTES = 2**25  # of a header that holds facts too
KINDS = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
FACTS = "facts"

Shapes = Mapping[str, tuple[int, ...]]
Likes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def to_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> bytes:
    """The file that holds these tensors, each with memory of its own, and facts as JSON in its header."""
    metadata = None if facts is None else {FACTS: json.dumps(facts, allow_nan=False)}
    return save({name: x.detach().to("cpu", copy=True).contiguous() for name, x in tensors.items()}, metadata)


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
    _, tensors = _read(
        path, lambda _, names: {name: (dtype, shape) for name, shape in shapes_of(names).items()}, MAX_HEADER_BYTES
    )
    largest = torch.finfo(dtype).max ** 0.25
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} has NaN or infinite entries.")
        if tensor.abs().max() > largest:
            raise CheckpointError(f"{where}: {name} has entries beyond {largest:.0e}, whose products overflow.")
    return tensors


def read_facts_and_tensors(
    path: Path, likes_of: Callable[[dict[str, Any]], Likes], sha256: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts in the header of a safetensors file, and its tensors, whose entries may be any.

    Args:
        path: the file.
        likes_of: dtype and shape of each tensor by name; it checks the facts.
        sha256: how the checksum of the file begins.
    Raises:
        CheckpointError: not such a file, another checksum, no facts; names, shapes or dtypes that are not these.
    """
    with opened(path) as (file, _):
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256):
            raise CheckpointError(f"{name_of(path)} is damaged: its checksum is another.")
    return _read(path, lambda facts, _: likes_of(facts), MAX_FACTS_BYTES)


def _read(
    path: Path, likes_of: Callable[[dict[str, Any], set[str]], Likes], longest: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a file, as far as its header and `likes_of` agree on them."""
    where = name_of(path)
    with opened(path) as (file, size):
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size, longest):
            raise CheckpointError(f"{where} cannot be read: it is not a safetensors file.")
        header = file.read(length)
        facts, likes = _expected(header, size - 8 - length, likes_of, where)
        content = start + header + file.read(sum(dtype.itemsize * prod(shape) for dtype, shape in likes.values()))
    try:
        tensors = {name: tensor.clone() for name, tensor in load(content).items()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error
    return facts, {name: tensors[name] for name in likes}


def _expected(
    header: bytes, data_size: int, likes_of: Callable[[dict[str, Any], set[str]], Likes], where: str
) -> tuple[dict[str, Any], Likes]:
    """Facts, dtypes and shapes, if the header has the same tensors and the file is as long as they ask for."""
    try:
        found = parse(header.decode(), where)
        metadata = found.pop("__metadata__", {})
        facts = parse(metadata[FACTS], where) if FACTS in metadata else {}
        stated = {name: (one["dtype"], one["shape"], one["data_offsets"][1]) for name, one in found.items()}
        end = max((end for _, _, end in stated.values()), default=0)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(where, f"{where} cannot be read: its header", 1)) from error
    except (ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{where} cannot be read: its header is not that of a safetensors file.") from error
    if end != data_size:
        raise CheckpointError(f"{where} cannot be read: it holds {data_size} bytes of tensors, its header says {end}.")
    likes = likes_of(facts, set(stated))
    odd = sorted(stated.keys() ^ likes.keys())
    if odd:
        fault = "is missing" if odd[0] in likes else "is unknown to the config"
        raise CheckpointError(f"{where}: tensor {odd[0]!r} {fault}.{wrapping(stated)}")
    for name, (dtype, shape) in likes.items():
        kind, own, _ = stated[name]
        if own != list(shape):
            raise CheckpointError(f"{where}: {name} must have shape {list(shape)}, got {own}.")
        if kind != KINDS[dtype]:
            raise CheckpointError(f"{where}: {name} must be {KINDS[dtype]}, got {kind}.")
    return facts, likes
