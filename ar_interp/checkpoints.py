"""Checkpoint folders: model.safetensors, config.json, metrics.jsonl, README.md. Everything read is untrusted.

Nothing is unpickled. config.json is checked key by key before any tensor is made, the names, shapes and dtypes in the
header of model.safetensors against it before any tensor is read, and the values before the model is handed out.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_device, check_integer, wrapping
from ar_interp._facts import describe as describe
from ar_interp._files import CheckpointError as CheckpointError
from ar_interp._files import check_keys, check_text, check_versions, faults_of, name_of, parse, read_text
from ar_interp._kinds import Kind
from ar_interp._moods import calm
from ar_interp._parts import (
    LARGEST,
    STEP_COLUMNS,
    build,
    build_config,
    build_process,
    check_comes_back,
    read_metrics,
    read_snapshots,
)
from ar_interp._shipped import available as available
from ar_interp._shipped import find
from ar_interp._shipped import trained_folder as trained_folder
from ar_interp._shown import Shown
from ar_interp._tensors import read_tensors, to_bytes
from ar_interp._writing import SCRATCH, as_bytes, exchanged, try_folder, write_new
from ar_interp.processes import Contexts, HaarOrthogonal, Process
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.models.plain import PlainModel
    from ar_interp.models.transformer import HookedARTransformer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "TrainingRun",
    "available",
    "check_place",
    "describe",
    "from_ical_state_dict",
    "is_shipped",
    "load",
    "loaded",
    "model_of",
    "save",
    "trained_folder",
]


SCHEMA = 1
MAX_CONFIG_BYTES = 2**20
KEYS = {"schema", "model", "process", "training", "seed", "steps", "device", "versions"}
TRAINING_KEYS = {
    "objective", "optimizer", "lr", "beta2", "schedule", "warmup", "clip", "first_length", "steps", "batch", "seed",
    "n_seeds", "stop_below", "device",
}  # fmt: skip
MORE_KEYS = {"threads", "origin"}  # of later folders
FILES = ("model.safetensors", "config.json", "metrics.jsonl", "README.md")
SNAPSHOTS = "snapshots.safetensors"  # of small models
CLAIMS = "claims.json"  # what was verified of these weights, see `records`
N_FRESH = 1024  # contexts that weights from elsewhere are measured on
VERSIONED = ("ar-interp", "torch", "transformer-lens", "numpy", "scipy")

Run = TypeVar("Run", bound="TrainingRun")


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Shown):
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
        threads: of torch, on whose number the last bits depend; None where it is not known.
        snapshots: step -> weights of the same member before that update, at steps that double; of small models that
            were trained by descent.
        origin: where the weights come from, or began, if not from this training alone: a sentence without its full
            stop; empty otherwise.
        ensemble: weights of every member, [member ...], where it was trained here; files hold the best one alone.
        curves: the loss of every member at each row of `history`, [row member], where it was trained here in one go.
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
    threads: int | None = None
    origin: str = ""
    ensemble: Mapping[str, Tensor] = field(default_factory=dict)
    curves: Float[np.ndarray, "row member"] | None = None

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
        found = {step: replace(self, parameters=parameters).model for step, parameters in self.snapshots.items()}
        return {**found, self.steps: self.model}

    def to(self: Run, device: str | torch.device) -> Run:
        """A copy of the run with its weights on a device.

        Raises:
            ValueError: this machine has no such device.
        """
        device = check_device("device", device)
        along = {step: _moved(parameters, device) for step, parameters in self.snapshots.items()}
        return replace(self, parameters=_moved(self.parameters, device), snapshots=along)

    def to_torch(self) -> "PlainModel":
        """The model as a bare torch module with the same predictions, without hooks; `torch.export` takes it."""
        from ar_interp.models.plain import PlainModel

        return PlainModel(self.config, self.parameters).eval()  # exporters warn of modules that train

    def with_weights(self, weights: Any, *, origin: str = "") -> "TrainingRun":
        """A run with weights that were changed elsewhere: nothing is said of a training that they do not come from.

        Its history is empty, it has made no steps, and its one loss is measured on fresh contexts.

        Args:
            weights: a model with this config, or its parameters by name.
            origin: where they come from; `weights changed elsewhere, from NAME` if left out.
        Raises:
            ValueError: other names or shapes than the config's, weights or losses that are not finite.
        """
        parameters = weights_of(weights, self.config)
        source = getattr(self, "name", "a training run")
        run = TrainingRun(
            config=self.config,
            process=self.process,
            training=TrainConfig(),
            parameters=parameters,
            history=pd.DataFrame(columns=list(STEP_COLUMNS)),
            members=pd.DataFrame(),
            seed=0,
            steps=0,
            device="none",
            origin=origin or f"weights changed elsewhere, from {source}",
        )
        contexts = self.process.contexts(
            N_FRESH, self.config.n_ctx, seed=seeds.FINAL_LOSSES, dtype=self.config.torch_dtype
        )
        with torch.no_grad():
            loss = contexts.losses(run.model.cpu()(contexts.inputs)).mean().item()
        return replace(run, members=pd.DataFrame({"seed": [0], "loss": [loss]}))

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


def is_shipped(checkpoint: Checkpoint) -> bool:
    """The checkpoint lies in the shipped folder, by whatever path it was loaded; a copy does not."""
    return checkpoint.path.resolve().parent == trained_folder().resolve()


def _moved(parameters: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in parameters.items()}


@calm()
def load(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Args:
        name_or_path: a shipped name (`available()` lists them) or a folder.
        device: where the model goes.
    Raises:
        CheckpointError: no such checkpoint; unknown, missing or wrong entries in config.json; tensors whose names,
            shapes or dtypes are not the config's; NaN.
        ValueError: this machine has no such device; something else than a name or a path.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"name_or_path must be a name or a folder, got {type(name_or_path).__name__}.")
    return _read(find(name_or_path)).to(device)


def loaded(subject: Any, name: str = "model") -> Any:
    """The subject itself: the checkpoint of a name or a path, else the run or model that it is already.

    Args:
        name: of the argument, for messages.
    Raises:
        CheckpointError: no such checkpoint.
        ValueError: data or a number, which are no subject.
    """
    if isinstance(subject, str | Path):
        return load(subject)
    if isinstance(subject, Contexts | Tensor | Kind | float | int | EllipsisType):
        first = "" if name == "untrained" else ": it comes first, e.g. ari.recover_context(model, sequences)"
        raise ValueError(
            f"{name} must be a model, a checkpoint or run, or the name or folder of a checkpoint, got "
            f"{type(subject).__name__}{first}."
        )
    return subject


def model_of(subject: Any, name: str = "model") -> Any:
    """The model of a subject, see `loaded`."""
    found = loaded(subject, name)
    return found.model if isinstance(found, TrainingRun) else found


def weights_of(given: Any, config: Any, name: str = "weights") -> dict[str, Tensor]:
    """A copy of weights that fit a config, in its precision.

    Args:
        given: a model, a subject that has one (see `loaded`), or tensors by name.
        name: of the argument, for messages.
    Raises:
        ValueError: other names or shapes than the config's, or numbers that are not finite.
    """
    found: Any = given if isinstance(given, Mapping) else model_of(given, name)
    tensors = found.state_dict() if hasattr(found, "state_dict") else found
    shapes, theirs = config.parameter_shapes, {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = sorted(key for key in theirs.keys() | shapes.keys() if theirs.get(key) != shapes.get(key))
    if wrong:
        raise ValueError(
            f"{name} must have the names and shapes of the config: {wrong[0]!r} is {theirs.get(wrong[0], 'missing')}, "
            f"and {shapes.get(wrong[0], 'missing')} in the config.{wrapping(theirs)}"
        )
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} must be finite: {key} is not.")
    return {key: tensors[key].detach().cpu().to(config.torch_dtype).clone() for key in shapes}


def _read(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, every part of it checked."""
    where = name_of(folder / "config.json")
    raw = parse(read_text(folder / "config.json", MAX_CONFIG_BYTES), where)
    check_keys(raw, KEYS | MORE_KEYS, KEYS, where)
    if type(raw["schema"]) is not int or raw["schema"] != SCHEMA:
        raise CheckpointError(f"{where}: schema must be {SCHEMA}, got {raw['schema']!r}. Is it from another version?")
    config = build_config(raw["model"], f"{where}: model")
    process = build_process(raw["process"], f"{where}: process")
    training = build(TrainConfig, raw["training"], f"{where}: training", TRAINING_KEYS)
    versions = check_versions(raw["versions"], where, VERSIONED)
    with faults_of(where):
        config.check_process(process)
        trained_on, origin = check_text("device", raw["device"]), check_text("origin", raw.get("origin", ""))
        seed, steps = (check_integer(name, raw[name], low=0, high=LARGEST) for name in ("seed", "steps"))
        threads = check_integer("threads", raw["threads"], low=1, high=LARGEST) if "threads" in raw else None
    tensors = read_tensors(folder / FILES[0], lambda names: config.parameter_shapes, config.torch_dtype)
    from ar_interp.training.objectives import check_no_overflow  # which knows training, and so checkpoints

    with faults_of(name_of(folder / FILES[0])):
        check_no_overflow(config, process, tensors)
    history, members = read_metrics(folder / "metrics.jsonl", training.n_seeds)
    return Checkpoint(
        name=folder.absolute().name,
        path=folder,
        parameters=tensors,
        config=config,
        process=process,
        training=training,
        history=history,
        members=members,
        seed=seed,
        steps=steps,
        device=trained_on,
        threads=threads,
        snapshots=read_snapshots(folder / SNAPSHOTS, config, steps),
        versions=versions,
        origin=origin,
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
        ValueError: a name that is missing or unknown, shapes that are not one of the two models', NaN; shapes that
            are both models' (one layer, one head, a read-out from 3 dim to 3 dim) where no process says which.
    """
    from ar_interp.models.ical import from_state_dict

    return from_state_dict(state_dict, process=process, dtype=dtype)


def save(run: Any, path: str | Path, *, card: str | None = None, overwrite: bool = False) -> Path:
    """Write a run as a checkpoint folder, whole or not at all.

    Args:
        run: a `TrainingRun`, or anything with the attributes of one that are written: model, config, process,
            training, history, members, seed, steps, device, and snapshots where there are any.
        path: the folder to make.
        card: the text of README.md; what the config says if left out.
        overwrite: replace a checkpoint that is already there; files in it that are not of a checkpoint stay.
            Anything else is never replaced.
    Raises:
        FileExistsError: the folder is there, or is no checkpoint.
        ValueError: the run would not be the same, or not load at all, when it is read.
        OSError: it cannot be written; what was there is there still.
    """
    if not isinstance(getattr(run, "training", None), TrainConfig):
        raise ValueError(
            f"run must be a TrainingRun, got {type(run).__name__}: ari.train gives one, checkpoint.with_weights(model) "
            "makes one of weights that were changed elsewhere."
        )
    path = Path(path)
    _check_free(path, overwrite)
    check_comes_back("config", run.config, build_config)
    check_comes_back("process", run.process, build_process)
    try:
        files = _files_of(run, path.absolute().name, card)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the run cannot be saved: {error}") from error
    with exchanged(path, _is_ours, lambda place: _check_free(place, overwrite)) as folder:
        for name, content in files.items():
            write_new(folder / name, content)
        try:
            _read(folder)
        except CheckpointError as error:
            raise ValueError(f"the run cannot be saved, it would not load: {error}") from error
    return path


def check_place(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that saving a run at `path` would, as far as it can be known before there is a run."""
    _check_free(Path(path), overwrite)
    try_folder(path)


def _files_of(run: Any, name: str, card: str | None) -> dict[str, bytes]:
    """The content of each file of a checkpoint."""
    threads = getattr(run, "threads", None)
    config = {
        "schema": SCHEMA,
        "model": run.config.to_dict(),
        "process": run.process.to_dict(),
        "training": run.training.to_dict(),
        "seed": run.seed,
        "steps": run.steps,
        "device": run.device,
        **({"threads": threads} if threads else {}),
        **({"origin": run.origin} if getattr(run, "origin", "") else {}),
        "versions": {name: version(name) for name in VERSIONED},
    }
    rows = [*run.history.to_dict("records"), *run.members.to_dict("records")]
    texts = (
        json.dumps(config, indent=2, allow_nan=False) + "\n",
        "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows),
        card or describe(run, name),
    )
    found = {FILES[0]: to_bytes(run.model.state_dict())}
    snapshots = getattr(run, "snapshots", {})
    if snapshots:
        found[SNAPSHOTS] = to_bytes({f"{step}/{key}": x for step, one in snapshots.items() for key, x in one.items()})
    return found | {name: as_bytes(text) for name, text in zip(FILES[1:], texts, strict=True)}


def _is_ours(name: str) -> bool:
    """A file of this name in a checkpoint is a part of it, or on its way to be one."""
    return name in (*FILES, SNAPSHOTS, CLAIMS) or (name.startswith(".") and name.endswith(SCRATCH))


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse a path where something is that must stay."""
    if not os.path.lexists(path) or (overwrite and _is_checkpoint(path)):
        return
    raise FileExistsError(f"{path} is there already. Choose another path, or overwrite=True for a checkpoint.")


def _is_checkpoint(path: Path) -> bool:
    """The folder's config.json is that of a checkpoint of this schema."""
    try:
        raw = parse(read_text(path / "config.json", MAX_CONFIG_BYTES), str(path))
    except CheckpointError:
        return False
    return raw.keys() - MORE_KEYS == KEYS and raw["schema"] == SCHEMA


def __dir__() -> list[str]:
    return __all__
