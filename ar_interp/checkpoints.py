"""Checkpoint folders: model.safetensors, config.json, metrics.jsonl, README.md. Everything read is untrusted.

Nothing is unpickled. config.json is checked key by key before any tensor is made, the names, shapes and dtypes in the
header of model.safetensors against it before any tensor is read, and the values before the model is handed out.
"""

import difflib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp._files import CheckpointError as CheckpointError
from ar_interp._files import check_keys, faults_of, name_of, parse, read_tensors, read_text
from ar_interp._kinds import Kind
from ar_interp.models.config import Config, ModelConfig
from ar_interp.processes import FirstToken, HaarOrthogonal, Process
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.models.transformer import HookedARTransformer

SCHEMA = 1
MAX_CONFIG_BYTES = 2**20
MAX_METRICS_BYTES = 2**26
FILES = ("model.safetensors", "config.json", "metrics.jsonl", "README.md")
SNAPSHOTS = "snapshots.safetensors"  # of small models
MAX_SNAPSHOTS = 64
VERSIONED = ("ar-interp", "torch", "transformer-lens", "numpy", "scipy")
STEP_COLUMNS = ("step", "loss_min", "loss_median", "loss_max")
MEMBER_COLUMNS = ("seed", "loss")
OPTIONAL_MEMBER_COLUMNS = ("trimmed", "lr", "init_scale", "diverged")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A trained model and where it came from.

    Attributes:
        config: a `Config`.
        process: what it learned.
        training: how.
        parameters: weights of the member with the lowest final loss, by name.
        history: a row per logged step: step, and loss_min, loss_median, loss_max over the members. Losses are per
            context length (the training loss divided by n_ctx - 1).
        members: a row per seed of the ensemble: seed, loss (final).
        seed: seed of the member that became the model.
        steps: updates made.
        device: where it was trained.
        snapshots: step -> weights of the same member before that update, at steps that double; of small models that
            were trained by descent.
    """

    config: Any
    process: Process
    training: TrainConfig
    parameters: dict[str, Tensor]
    history: pd.DataFrame
    members: pd.DataFrame
    seed: int
    steps: int
    device: str
    snapshots: Mapping[int, dict[str, Tensor]] = field(default_factory=dict)

    @cached_property
    def model(self) -> "HookedARTransformer":
        """The hooked model, made when it is first asked for: all else can be shown without TransformerLens."""
        model = self.config.build(self.process, device=next(iter(self.parameters.values())).device)
        model.load_state_dict(self.parameters)
        return model

    @cached_property
    def models_along(self) -> "dict[int, HookedARTransformer]":
        """The models along training by the number of updates made; the last is `model`. Empty without snapshots."""
        if not self.snapshots:
            return {}
        found = {step: self.config.build(self.process) for step in self.snapshots}
        for step, parameters in self.snapshots.items():
            found[step].load_state_dict(parameters)
        return {**found, self.steps: self.model}

    def save(self, path: str | Path) -> Path:
        """Write the checkpoint folder `path`; see `checkpoints.save`."""
        return save(self, path)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(TrainingRun):
    """A `TrainingRun` that was read from a folder; its weights are checked.

    Attributes:
        name: name of the folder.
        path: the folder.
        versions: versions of the libraries it was trained with.
    """

    name: str
    path: Path
    versions: dict[str, str]


def trained_folder() -> Path:
    """Where the shipped checkpoints lie: inside an installed package, beside it in a clone."""
    package = Path(__file__).parent
    inside = package / "trained"
    return inside if inside.is_dir() else package.parent / "trained"


def available() -> list[str]:
    """Names of the shipped checkpoints."""
    folder = trained_folder()
    return sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file()) if folder.is_dir() else []


def is_shipped(checkpoint: Checkpoint) -> bool:
    """The checkpoint lies in the shipped folder, by whatever path it was loaded; a copy does not."""
    return checkpoint.path.resolve().parent == trained_folder().resolve()


def load(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Args:
        name_or_path: a shipped name (`available()` lists them) or a folder.
        device: where the model goes.
    Raises:
        CheckpointError: no such checkpoint; unknown, missing or wrong entries in config.json; tensors whose names,
            shapes or dtypes are not the config's; NaN.
    """
    folder = _find(name_or_path)
    where = name_of(folder / "config.json")
    raw = parse(read_text(folder / "config.json", MAX_CONFIG_BYTES), where)
    required = {"schema", "model", "process", "training", "seed", "steps", "device", "versions"}
    check_keys(raw, required, required, where)
    if raw["schema"] != SCHEMA:
        raise CheckpointError(f"{where}: schema must be {SCHEMA}, got {raw['schema']!r}. Is it from another version?")
    config = _build_config(raw["model"], f"{where}: model")
    process = _build_process(raw["process"], f"{where}: process")
    training = _build(TrainConfig, raw["training"], f"{where}: training")
    with faults_of(where):
        config.check_process(process)
    versions = raw["versions"]
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise CheckpointError(f"{where}: versions must map names to strings.")
    if not isinstance(raw["device"], str):
        raise CheckpointError(f"{where}: device must be a string, got {raw['device']!r}.")
    with faults_of(where):
        seed, steps = check_integer("seed", raw["seed"], low=0), check_integer("steps", raw["steps"], low=0)
    tensors = read_tensors(folder / "model.safetensors", config.parameter_shapes, config.torch_dtype)
    history, members = _read_metrics(folder / "metrics.jsonl")
    return Checkpoint(
        name=folder.name,
        path=folder,
        parameters={name: tensor.to(device) for name, tensor in tensors.items()},
        config=config,
        process=process,
        training=training,
        history=history,
        members=members,
        seed=seed,
        steps=steps,
        device=raw["device"],
        snapshots=_read_snapshots(folder / SNAPSHOTS, config, steps),
        versions=versions,
    )


def from_ical_state_dict(
    state_dict: Mapping[str, object], *, process: HaarOrthogonal | None = None, dtype: str = "float32"
) -> "HookedARTransformer":
    """A model from the weights of one of the authors' two general models (github.com/michaelsdr/ical).

    Which of the two (augmented.py: `ModelConfig.paper_figure5`; non_augmented.py: `ModelConfig.paper_figure7`), its
    sizes, heads and layers are read off the shapes. Its outputs are those of the authors' code on s_1..s_T, to 5e-7 in
    float32 for one layer and 1e-13 in float64; four augmented layers magnify the rounding of either to 2e-5 in float32.
    Of the augmented model's 3 dim outputs these are the first dim, the only ones that it is trained on.

    Args:
        state_dict: names and tensors (or arrays), loaded by the caller. `safetensors.torch.load_file` is safe on files
            from anybody; `torch.load` only with weights_only=True.
        process: what the weights were trained on, `HaarOrthogonal(dim)`; optional.
        dtype: precision of the model, `float32` or `float64`.
    Raises:
        ValueError: a name that is missing or unknown, shapes that are not one of the two models', NaN.
    """
    from ar_interp.models.ical import from_state_dict

    return from_state_dict(state_dict, process=process, dtype=dtype)


def save(run: TrainingRun, path: str | Path, *, card: str | None = None, overwrite: bool = False) -> Path:
    """Write a run as a checkpoint folder, whole or not at all.

    Args:
        path: the folder to make.
        card: the text of README.md; what the config says if left out.
        overwrite: replace a checkpoint that is already there (anything else is never replaced).
    Raises:
        FileExistsError: the folder is there.
        ValueError: the config or the process would not be the same when it is loaded.
    """
    path = Path(path)
    _check_comes_back("config", run.config, _build_config)
    _check_comes_back("process", run.process, _build_process)
    if path.exists() and not (overwrite and (path / "config.json").is_file()):
        raise FileExistsError(f"{path} is there already. Choose another path, or overwrite=True for a checkpoint.")
    config = {
        "schema": SCHEMA,
        "model": run.config.to_dict(),
        "process": run.process.to_dict(),
        "training": run.training.to_dict(),
        "seed": run.seed,
        "steps": run.steps,
        "device": run.device,
        "versions": {name: version(name) for name in VERSIONED},
    }
    rows = [*run.history.to_dict("records"), *run.members.to_dict("records")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        folder = Path(scratch) / path.name
        folder.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in run.model.state_dict().items()}, folder / FILES[0])
        if run.snapshots:
            along = {f"{step}/{name}": x for step, one in run.snapshots.items() for name, x in one.items()}
            save_file({name: x.detach().cpu().contiguous() for name, x in along.items()}, folder / SNAPSHOTS)
        (folder / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        (folder / "README.md").write_text(card or describe(run, path.name))
        if path.exists():
            path.rename(Path(scratch) / "replaced")
        shutil.move(folder, path)
    return path


def describe(run: TrainingRun, name: str, summary: str = "") -> str:
    """The model card's first part: what the model is and how it was made."""
    model, process, training = run.config, run.process, run.training
    losses = run.members["loss"]
    own = {field.name: getattr(process, field.name) for field in fields(process)}
    own = {name: value for name, value in own.items() if value and name not in ("dim", "first_token")}
    facts = "".join(f", {name} = {f'{value:g}' if isinstance(value, float) else value}" for name, value in own.items())
    lines = [
        f"# {name}",
        "",
        *([summary, ""] if summary else []),
        "## What it is",
        "",
        f"- {model.summary}; d = {model.dim}, n_ctx = {model.n_ctx}",
        f"- weights: {str(model.torch_dtype).removeprefix('torch.')}; tokens "
        + ("real" if process.real_tokens else "complex, in the eigenbasis"),
        f"- process: {process.kind}{facts}, first token {process.initial.law}",
        "",
        "## How it was made",
        "",
        f"- `ar-interp train {name}`",
        f"- {training.objective} loss, optimizer {training.optimizer}"
        + ("" if training.optimizer == "lbfgs" else f", lr {training.lr:.6g}")
        + f", {run.steps} steps"
        + (f", batch {training.batch}" if training.objective == "sampled" else "")
        + ("" if training.stop_below is None else f", stopped below {training.stop_below:g}"),
        f"- initial weights {model.initial_law}; {len(losses)} seed(s) from {training.seed}, "
        f"seed {run.seed} kept; trained on {run.device}",
        f"- final loss per context length {losses.min():.3g}; {(losses < losses.min() + 0.01).sum()} of "
        f"{len(losses)} seed(s) end within .01 of it",
        "",
    ]
    return "\n".join(lines)


def _find(name_or_path: str | Path) -> Path:
    names = available()
    if str(name_or_path) in names:
        return trained_folder() / str(name_or_path)
    path = Path(name_or_path)
    if path.is_dir():
        return path
    nearest = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise CheckpointError(f"no checkpoint {str(name_or_path)!r}: neither a shipped name nor a folder.{hint} Shipped: "
                          f"{', '.join(names) or 'none'}.")  # fmt: skip


def _build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from untrusted JSON: no unknown key, none missing, each value checked by the class."""
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    required = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    check_keys(values, set(known), required, where)
    with faults_of(where):
        return cls(**values)


def _build_config(values: Any, where: str) -> Config:
    return _build_kind(Config, {"kind": ModelConfig.kind, **values} if isinstance(values, dict) else values, where)


def _build_process(values: Any, where: str) -> Process:
    if isinstance(values, dict) and "first_token" in values:
        values = {**values, "first_token": _build(FirstToken, values["first_token"], f"{where}.first_token")}
    return _build_kind(Process, values, where)


def _build_kind(root: type[Kind], values: Any, where: str) -> Any:
    """One of the classes that are known already: no file names a module."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} must be an object, got {type(values).__name__}.")
    with faults_of(where):
        found = root.find(values.get("kind"))
    return _build(found, {key: value for key, value in values.items() if key != "kind"}, where)


def _check_comes_back(name: str, value: Any, build: Callable[[Any, str], Any]) -> None:
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


def _read_snapshots(path: Path, config: Config, steps: int) -> dict[int, dict[str, Tensor]]:
    """Weights along training, of steps up to the last; none where the file is not there."""
    if not path.exists():
        return {}
    where = name_of(path)
    with faults_of(where), safe_open(path, framework="pt") as file:
        found = sorted({name.partition("/")[0] for name in file.keys()})  # noqa: SIM118
    if len(found) > MAX_SNAPSHOTS:
        raise CheckpointError(f"{where}: at most {MAX_SNAPSHOTS} steps, got {len(found)}.")
    for step in found:
        if not (step.isascii() and step.isdecimal() and str(int(step)) == step and int(step) <= steps):
            raise CheckpointError(f"{where}: names start with a step, 0 to {steps}, got {step[:20]!r}.")
    order = sorted(map(int, found))
    shapes = {f"{step}/{name}": shape for step in order for name, shape in config.parameter_shapes.items()}
    tensors = read_tensors(path, shapes, config.torch_dtype)
    return {step: {name: tensors[f"{step}/{name}"] for name in config.parameter_shapes} for step in order}


def _read_metrics(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    where = name_of(path)
    history: list[dict[str, float]] = []
    members: list[dict[str, float]] = []
    for number, line in enumerate(read_text(path, MAX_METRICS_BYTES).splitlines(), start=1):
        row = parse(line, f"{where} line {number}")
        columns, optional = (MEMBER_COLUMNS, OPTIONAL_MEMBER_COLUMNS) if "seed" in row else (STEP_COLUMNS, ())
        check_keys(row, {*columns, *optional}, set(columns), f"{where} line {number}")
        with faults_of(f"{where} line {number}"):
            for key, value in row.items():
                check_number(key, value, low=-math.inf)
        (members if "seed" in row else history).append(row)
    if not members:
        raise CheckpointError(f"{where} holds no final loss (a line with seed and loss).")
    return pd.DataFrame(history, columns=list(STEP_COLUMNS)), pd.DataFrame(members)
