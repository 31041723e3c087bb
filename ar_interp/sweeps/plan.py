"""`Plan`: a sweep as anybody wrote it, checked and cut into shards of which each has the name of all that makes it."""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from inspect import Parameter, get_annotations, signature
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

from ar_interp._checks import check_choice, check_integer, check_seed
from ar_interp._files import CheckpointError, check_keys, check_text, faults_of, name_of, read_text
from ar_interp._parts import build, build_config, build_process
from ar_interp._shown import Shown
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.processes import Process
from ar_interp.setting import setting_of
from ar_interp.sweeps.columns import Column
from ar_interp.training.config import TrainConfig

SCHEMA = 1  # of a shard; raised where the same shard would have other numbers
MAX_BYTES = 2**16  # of the file
MAX_VALUES = 2**10  # of an axis
MAX_SEEDS = 10**6
MAX_SHARDS = 10**5
SHARD = 256  # seeds; of small models as many cost little more than a few
PRESETS = ("diagonal", "positional_only", "augmented", "full", "paper_figure5", "paper_figure7")
KNOWN = {"model", "process", "seeds", "shard", "grid", "training", "measure"}
REQUIRED = {"model", "process", "seeds", "grid"}
OF_SHARD = {  # fields of a training that a sweep sets itself, or that would tie the seeds of a shard together
    "n_seeds": "write `seeds` at the top",
    "lrs": "let `lr` be an axis of the grid",
    "init_scales": "let `init_scale` be an axis of the grid",
    "stop_below": "it waits for all seeds of a shard, and none may depend on another",
}

Value = int | float | str | bool


@dataclass(frozen=True, kw_only=True)
class Shard(Shown):
    """Trainings of one point of the grid with seeds that follow each other, made as one ensemble.

    Attributes:
        point: the value of every axis.
        config, process, training: what is trained; `training` has the first seed and how many.
        columns: what is measured beside the loss.
    """

    point: Mapping[str, Value]
    config: Config
    process: Process
    training: TrainConfig
    columns: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """All that determines the rows, as canonical JSON."""
        content = {
            "schema": SCHEMA,
            "point": dict(self.point),
            "config": self.config.to_dict(),
            "process": self.process.to_dict(),
            "training": self.training.to_dict(),
            "columns": self.columns,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def name(self) -> str:
        """The hash of `text`, which names its file."""
        return name_of_text(self.text)

    @property
    def where(self) -> str:
        """Point and seeds of the shard, for messages."""
        first, n = self.training.seed, self.training.n_seeds
        at = ", ".join(f"{name} = {value!r}" for name, value in self.point.items())
        return f"{at}, seeds {first}..{first + n - 1}"

    @classmethod
    def of_text(cls, text: str) -> "Shard":
        """The shard that `text` says."""
        content = json.loads(text)
        return cls(
            point=content["point"],
            config=build_config(content["config"], "config"),
            process=build_process(content["process"], "process"),
            training=build(TrainConfig, content["training"], "training"),
            columns=tuple(content["columns"]),
        )


@dataclass(frozen=True, kw_only=True)
class Plan(Shown):
    """All shards of a sweep.

    Attributes:
        axes: names of the grid's columns, in order.
        columns: names of the columns beside the loss.
        n_points: of the grid.
    """

    axes: tuple[str, ...]
    columns: tuple[str, ...]
    n_points: int
    shards: tuple[Shard, ...]

    @property
    def n_seeds(self) -> int:
        """Trainings in all."""
        return sum(shard.training.n_seeds for shard in self.shards)


def name_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_plan(source: str | Path | Mapping[str, Any]) -> Plan:
    """The plan that a TOML file, or a mapping of the same form, asks for.

    Raises:
        ValueError: a key, a value or a combination that cannot be; the message names it.
    """
    if isinstance(source, Mapping):
        return _planned(source, "sweep")
    where = name_of(Path(source))
    try:
        values = tomllib.loads(read_text(Path(source), MAX_BYTES))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid TOML: {error}") from error
    return _planned(values, where)


def _planned(values: Mapping[str, Any], where: str) -> Plan:
    check_keys(values, KNOWN, REQUIRED, where)
    measure = values.get("measure", {})
    check_keys(measure, {"columns"}, set(), f"{where}: measure")
    columns = _names("measure.columns", measure.get("columns", []), where)
    with faults_of(where):
        preset = getattr(ModelConfig, check_choice("model", values["model"], PRESETS))
        family = Process.find(values["process"], "process")
        n_seeds = check_integer("seeds", values["seeds"], low=1, high=MAX_SEEDS)
        size = check_integer("shard", values.get("shard", SHARD), low=1, high=2**14)
        for name in columns:
            Column.find(name, "measure.columns")
    of_training = {field.name for field in fields(TrainConfig)} - OF_SHARD.keys()
    common = dict(_table(values.get("training", {}), f"{where}: training"))
    _refuse_of_shard(common, f"{where}: training")
    check_keys(common, of_training, set(), f"{where}: training")
    common = {key: _typed(TrainConfig, key, value) for key, value in common.items()}
    with faults_of(f"{where}: training"):
        first = check_seed(common.pop("seed", 0))
    grids = values["grid"] if isinstance(values["grid"], list) else [values["grid"]]
    model_fields = _fields_of(preset)
    tables = [
        _axes(grid, (model_fields, family, common), f"{where}: grid{f'[{k}]' if len(grids) > 1 else ''}")
        for k, grid in enumerate(grids)
    ]
    if not tables:
        raise CheckpointError(f"{where}: grid is empty: write [grid] and a list for each axis.")
    if any(table.keys() != tables[0].keys() for table in tables):
        raise CheckpointError(f"{where}: every table of [[grid]] must have the same axes, {', '.join(tables[0])}.")
    n_points = sum(prod(map(len, table.values())) for table in tables)
    if n_points * ceil(n_seeds / size) > MAX_SHARDS:
        raise CheckpointError(
            f"{where}: {n_points:,} points of the grid with {n_seeds:,} seeds are {n_points * ceil(n_seeds / size):,} "
            f"shards of {size} seeds, at most {MAX_SHARDS:,} are allowed: take larger shards (`shard`) or fewer points."
        )
    shards: list[Shard] = []
    for point in (dict(zip(table, each, strict=True)) for table in tables for each in product(*table.values())):
        shards.extend(_cut(_whole(point, preset, family, common, columns, where), first, n_seeds, size, where))
    if len({shard.name for shard in shards}) < len(shards):
        raise CheckpointError(f"{where}: a point of the grid stands in two of its tables.")
    for name in columns:
        if not any(Column.find(name).speaks_of(setting_of(s.config, s.process)) for s in shards):
            meaning = Column.find(name).meaning
            raise CheckpointError(f"{where}: measure.columns: {name!r} has no value at any point: {meaning}.")
    return Plan(axes=tuple(tables[0]), columns=columns, n_points=n_points, shards=tuple(shards))


def _whole(
    point: dict[str, Value], preset: Any, family: type[Any], common: dict, columns: tuple[str, ...], where: str
) -> Shard:
    """A point of the grid, its seeds not yet cut."""
    of_model, of_family = _fields_of(preset), {field.name for field in fields(family)}
    at = ", ".join(f"{key} = {value!r}" for key, value in point.items())
    with faults_of(f"{where}: at {at}"):
        config = preset(**{key: value for key, value in point.items() if key in of_model})
        own = {key: value for key, value in point.items() if key in of_family}
        process = family(**{**own, "dim": config.dim})
        trained = {key: value for key, value in point.items() if key not in of_model and key not in of_family}
        training = TrainConfig(**{**common, **trained})
        config.check_process(process)
        if training.first_length > config.n_ctx:
            raise ValueError(f"first_length must be at most n_ctx, got {training.first_length}.")
        setting = setting_of(config, process)
        if training.objective == "population" and setting.no_exact_loss:
            raise ValueError(f"training.objective must be 'sampled' where {setting.no_exact_loss}.")
    return Shard(point=point, config=config, process=process, training=training, columns=columns)


def _cut(whole: Shard, first: int, n_seeds: int, size: int, where: str) -> Iterator[Shard]:
    """Shards of a point: seeds from the first one on, cut after every `size` of them."""
    for start in range(0, n_seeds, size):
        with faults_of(where):
            training = replace(whole.training, seed=first + start, n_seeds=min(size, n_seeds - start))
        yield replace(whole, training=training)


def _fields_of(preset: Any) -> dict[str, bool]:
    """Names of the fields that a preset takes, and whether it needs them."""
    taken = signature(preset).parameters
    found = {
        name: each.default is Parameter.empty for name, each in taken.items() if each.kind is Parameter.KEYWORD_ONLY
    }
    if any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
        found = {field.name: False for field in fields(ModelConfig)} | found
    return found


def _axes(
    grid: Any, known: tuple[dict[str, bool], type[Any], Mapping[str, Any]], where: str
) -> dict[str, tuple[Value, ...]]:
    """The values of every axis of a table."""
    of_model, family, common = known
    grid = _table(grid, where)
    _refuse_of_shard(grid, where)
    of_training = {field.name for field in fields(TrainConfig)} - OF_SHARD.keys() - {"seed"}
    of_family = {field.name for field in fields(family)} - {"dim"}
    check_keys(grid, of_training | of_family | of_model.keys(), {key for key, must in of_model.items() if must}, where)
    for key in grid.keys() & common.keys():
        raise CheckpointError(f"{where}: {key!r} is in [training] too; leave it in one of them.")
    found = {}
    for key, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not 1 <= len(values) <= MAX_VALUES:
            raise CheckpointError(
                f"{where}.{key} must be a list of 1 to {MAX_VALUES} values, got {values!r}: write {key} = [...]."
            )
        owner = ModelConfig if key in of_model else family if key in of_family else TrainConfig
        with faults_of(f"{where}.{key}"):
            typed = tuple(_typed(owner, key, value) for value in values)
        if len({type(value) for value in typed}) > 1 or len(set(typed)) < len(typed):
            raise CheckpointError(f"{where}.{key} must hold different values of one type, got {list(values)!r}.")
        found[key] = typed
    return found


def _typed(owner: type, key: str, value: Any) -> Value:
    """A value of a field in one type: 1 is 1.0 where the field holds numbers that need not be integers."""
    if not isinstance(value, int | float | str | bool):
        raise ValueError(f"{key} must be a number, a text, true or false, got {value!r}.")
    if isinstance(value, str):
        return check_text(key, value)
    hints = {name: hint for cls in reversed(owner.__mro__) for name, hint in get_annotations(cls).items()}
    takes_float = hints[key] is float or float in getattr(hints[key], "__args__", ())
    return float(value) if takes_float and type(value) is int and abs(value) < 2**53 else value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where} must be a table, got {value!r}.")
    return value


def _names(name: str, values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(v, str) for v in values):
        raise CheckpointError(f"{where}: {name} must be a list of names, got {values!r}.")
    if len(set(values)) < len(values):
        raise CheckpointError(f"{where}: {name} has a name twice, {list(values)!r}.")
    return tuple(values)


def _refuse_of_shard(table: Mapping[str, Any], where: str) -> None:
    for key in OF_SHARD.keys() & table.keys():
        raise CheckpointError(f"{where}: {key!r} cannot be set here: {OF_SHARD[key]}.")
