"""Files that may come from anybody: each is opened once, and what is checked of it is what is used."""

import difflib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

LONGEST_MESSAGE = 300
LONGEST_INTEGER = 20  # digits
LONGEST_TEXT = 200
_TAIL = 80
_LIBRARY, _VERSION = re.compile(r"[A-Za-z][\w.-]{,99}", re.ASCII), re.compile(r"\d[\w.+!-]{,99}", re.ASCII)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # no waiting for the other end of a pipe


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted or read; the message names the file and the fault, in at most 300 letters."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))


class _RefusedError(ValueError):
    """JSON that the standard library would take."""


def shortened(text: str, longest: int) -> str:
    """The text in one line of printable letters, without its middle where it is longer than that."""
    if len(text) > longest:
        text = f"{text[: longest - _TAIL - 3]} … {text[-_TAIL:]}"
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= longest else f"{shown[: longest - 2]} …"


@contextmanager
def faults_of(where: str) -> Iterator[None]:
    """A context in which every error is a fault of the file that is checked inside."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{where}: {error}") from error


def name_of(path: Path) -> str:
    """Folder and file, as messages name it."""
    whole = path.absolute()
    return f"{shortened(whole.parent.name, LONGEST_MESSAGE // 3)}/{whole.name}"


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """A regular file, open for reading, and its size in bytes.

    Raises:
        CheckpointError: it cannot be opened, or is a pipe, a device, a folder.
    """
    where = name_of(path)
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{where} cannot be read: it is not a regular file.")
            yield file, status.st_size
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror}.") from error


def read_text(path: Path, limit: int) -> str:
    """The text of a file of a checkpoint, if it is UTF-8 and no longer than the limit in bytes."""
    where = name_of(path)
    with opened(path) as (file, size):
        content = file.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise CheckpointError(f"{where} is larger than {limit} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 text.") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text, without NaN, infinities, endless integers and keys that stand twice."""
    try:
        value = _DECODER.decode(text)
    except _RefusedError as error:
        raise CheckpointError(f"{where}: {error}") from error
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
        name = shortened(unknown[0], LONGEST_MESSAGE // 3)
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else f" Known: {', '.join(sorted(known))}."
        raise CheckpointError(f"{where}: unknown key {name!r}.{hint}")
    missing = sorted(required - set(values))
    if missing:
        raise CheckpointError(f"{where}: {missing[0]!r} is missing.")


def check_text(name: str, value: object, *, longest: int = LONGEST_TEXT) -> str:
    """`value` as a short string of printable letters."""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"{name} must be a string of at most {longest} printable letters, got {value!r}.")
    return value


def check_versions(values: object, where: str, needed: tuple[str, ...] = ()) -> dict[str, str]:
    """Names of libraries, those that are needed among them, and their versions."""
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise CheckpointError(f"{where}: versions must map names to strings.")
    check_keys(values, set(values), set(needed), f"{where}: versions")
    for name, value in values.items():
        if not (_LIBRARY.fullmatch(name) and _VERSION.fullmatch(value)):
            got = shortened(f"{name!r}: {value!r}", LONGEST_TEXT // 2)
            raise CheckpointError(f"{where}: versions must be like 'torch': '2.6.0+cpu', got {got}.")
    return values


def _no_constant(constant: str) -> None:
    raise _RefusedError(f"{constant} is not allowed.")


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise _RefusedError(f"an integer of {len(digits)} digits is not allowed.")
    return int(digits)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _RefusedError(f"key {shortened(twice, LONGEST_MESSAGE // 3)!r} stands twice.")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=_no_key_twice)
