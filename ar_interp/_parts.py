"""The parts of a checkpoint folder beside its weights, each built from text that anybody may have written."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor

from ar_interp._files import LONGEST_INTEGER, CheckpointError, check_keys, faults_of, name_of, parse, read_text
from ar_interp._kinds import Kind
from ar_interp._tensors import Shapes, read_tensors
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.models.features import RegressionConfig as RegressionConfig  # a kind that files name
from ar_interp.processes import FirstToken, Process

FIRST_TOKEN_KEYS = ("law", "scale", "n_nonzero")
MAX_ROW_BYTES = 2**8  # of metrics.jsonl
MAX_LOGGED = 2**12  # rows of the history
MAX_SNAPSHOTS = 64
LARGEST = 2**63 - 1
STEP_COLUMNS = ("step", "loss_min", "loss_median", "loss_max")
MEMBER_COLUMNS = ("seed", "loss")
RECORDED_COLUMNS = ("a", "b", "off_plane", "minus", *(f"product_{j}" for j in range(1, 17)))  # of `Setting.record`
OPTIONAL_MEMBER_COLUMNS = ("trimmed", "exact", "lr", "init_scale", "diverged", "minus", "last")

T = TypeVar("T")


def build(cls: type[T], values: Any, where: str, written: Iterable[str] = ()) -> T:
    """A dataclass from untrusted JSON: no unknown key, none missing, each value checked by the class.

    Args:
        written: keys that are always written, also those with a default.
    """
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    required = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    check_keys(values, set(known), required.union(written), where)
    with faults_of(where):
        return cls(**values)


def build_config(values: Any, where: str) -> Config:
    return build_kind(Config, {"kind": ModelConfig.kind, **values} if isinstance(values, dict) else values, where)


def build_process(values: Any, where: str) -> Process:
    if isinstance(values, dict) and "first_token" in values:
        values = {
            **values,
            "first_token": build(FirstToken, values["first_token"], f"{where}.first_token", FIRST_TOKEN_KEYS),
        }
    return build_kind(Process, values, where)


def build_kind(root: type[Kind], values: Any, where: str) -> Any:
    """One of the classes that are known already: no file names a module."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} must be an object, got {type(values).__name__}.")
    with faults_of(where):
        found = root.find(values.get("kind"))
    return build(found, {key: value for key, value in values.items() if key != "kind"}, where)


def check_comes_back(name: str, value: Any, build: Callable[[Any, str], Any]) -> None:
    """Loading will give the same again, attribute by attribute."""
    cls = type(value)
    declared = {field.name for field in fields(cls)}
    lost = {key for key, hint in get_annotations(cls).items() if "ClassVar" not in str(hint)} - declared
    fault = None
    try:
        again = vars(build(json.loads(json.dumps(value.to_dict(), allow_nan=False)), name))
        lost |= {key for key, own in vars(value).items() if key not in again or again[key] != own}
    except (ValueError, TypeError) as error:
        fault = error
    if fault or lost:
        raise ValueError(
            f"{name} cannot be saved, it would not load as it is: {fault or 'it loses ' + ', '.join(sorted(lost))}. "
            f"Decorate {cls.__name__} with @dataclass(frozen=True), with fields that JSON can hold."
        ) from fault


def read_snapshots(path: Path, config: Config, steps: int) -> dict[int, dict[str, Tensor]]:
    """Weights along training, of steps up to the last; none where the file is not there."""
    if not path.exists():
        return {}
    where = name_of(path)
    order: list[int] = []

    def shapes_of(names: set[str]) -> Shapes:
        found = {name.partition("/")[0] for name in names}
        if len(found) > MAX_SNAPSHOTS:
            raise CheckpointError(f"{where}: at most {MAX_SNAPSHOTS} steps, got {len(found)}.")
        for step in found:
            known = step.isascii() and step.isdecimal() and len(step) < LONGEST_INTEGER
            if not (known and str(int(step)) == step and int(step) <= steps):
                raise CheckpointError(f"{where}: names start with a step, 0 to {steps}, got {step[:20]!r}.")
        order.extend(sorted(map(int, found)))
        return {f"{step}/{name}": shape for step in order for name, shape in config.parameter_shapes.items()}

    tensors = read_tensors(path, shapes_of, config.torch_dtype)
    return {step: {name: tensors[f"{step}/{name}"] for name in config.parameter_shapes} for step in order}


def read_metrics(path: Path, n_seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the history and those of the members, of an ensemble of so many seeds."""
    where = name_of(path)
    most = n_seeds + MAX_LOGGED
    lines = read_text(path, MAX_ROW_BYTES * most).splitlines()
    if len(lines) > most:
        raise CheckpointError(f"{where} holds {len(lines)} lines, more than {n_seeds} seed(s) leave.")
    history: list[dict[str, float]] = []
    members: list[dict[str, float]] = []
    known: set[tuple[str, ...]] = set()
    for number, line in enumerate(lines, start=1):
        row = parse(line, f"{where} line {number}")
        integer, rows = ("seed", members) if "seed" in row else ("step", history)
        if tuple(row) not in known:
            columns, optional = (
                (MEMBER_COLUMNS, OPTIONAL_MEMBER_COLUMNS) if rows is members else (STEP_COLUMNS, RECORDED_COLUMNS)
            )
            check_keys(row, {*columns, *optional}, set(columns), f"{where} line {number}")
            known.add(tuple(row))
        for key, value in row.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                raise CheckpointError(f"{where} line {number}: {key} must be a finite number, got {value!r}.")
        if type(row[integer]) is not int or not 0 <= row[integer] <= LARGEST:
            raise CheckpointError(f"{where} line {number}: {integer} must be a count, got {row[integer]!r}.")
        rows.append(row)
    if not members:
        raise CheckpointError(f"{where} holds no final loss (a line with seed and loss).")
    recorded = [name for name in RECORDED_COLUMNS if history and name in history[0]]
    return pd.DataFrame(history, columns=[*STEP_COLUMNS, *recorded]), pd.DataFrame(members)
