"""Files that may come from anybody: what is read of them is no larger, and nothing else, than it says."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted or read; the message names the file and the fault."""


@contextmanager
def faults_of(where: str) -> Iterator[None]:
    """Errors of what is checked inside are faults of the file."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def name_of(path: Path) -> str:
    """Folder and file, as messages name it."""
    return f"{path.parent.name}/{path.name}"


def read_text(path: Path, limit: int) -> str:
    """The text of a file of a checkpoint, if it is UTF-8 and no longer than the limit in bytes."""
    where = name_of(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror}.") from error
    if len(content) > limit:
        raise CheckpointError(f"{where} is larger than {limit} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 text.") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text, without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise CheckpointError(f"{where}: {constant} is not allowed.")

    try:
        value = json.loads(text, parse_constant=refuse)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be a JSON object, got {type(value).__name__}.")
    return value


def check_keys(values: object, known: set[str], required: set[str], where: str) -> None:
    """Refuse what is no object with these keys."""
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} must be an object, got {type(values).__name__}.")
    unknown = sorted(set(values) - known)
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else f" Known: {', '.join(sorted(known))}."
        raise CheckpointError(f"{where}: unknown key {unknown[0]!r}.{hint}")
    missing = sorted(required - set(values))
    if missing:
        raise CheckpointError(f"{where}: {missing[0]!r} is missing.")


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if they are finite and those that the config has, by name, shape and dtype."""
    where = name_of(path)
    kind = {torch.float64: "F64", torch.float32: "F32"}[dtype]
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(shapes):
                odd = sorted(names ^ set(shapes))[0]
                fault = "is missing" if odd in shapes else "is unknown to the config"
                raise CheckpointError(f"{where}: tensor {odd!r} {fault}.")
            for name, shape in shapes.items():
                header = file.get_slice(name)
                if tuple(header.get_shape()) != shape:
                    raise CheckpointError(f"{where}: {name} must have shape {list(shape)}, got {header.get_shape()}.")
                if header.get_dtype() != kind:
                    raise CheckpointError(f"{where}: {name} must be {kind}, got {header.get_dtype()}.")
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} has NaN or infinite entries.")
    return tensors
