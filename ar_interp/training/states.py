"""States of a training in a folder: whatever ends it, the same training goes on from the newest with the same bits.

A state is one safetensors file with JSON in its header, so that numbers and facts cannot disagree; its name is the
number of steps (of members, for L-BFGS) and the start of its checksum. The two newest are kept.
"""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp._files import LONGEST_MESSAGE, CheckpointError, faults_of, name_of, shortened
from ar_interp._tensors import Likes, read_facts_and_tensors, to_bytes
from ar_interp._writing import SCRATCH, claimed, write_file

SCHEMA = 1
SECONDS = 60.0  # of descent between two states
SHARE = 20  # writing takes at most one part in so many of the time
KEPT = 2
NAME = re.compile(r"(\d{12})-([0-9a-f]{32})\.safetensors")
OF_THE_MACHINE = ("device", "threads", "versions")  # on which the last bits depend
VERSIONED = ("ar-interp", "torch", "llvmlite", "scipy")

Facts = dict[str, Any]


class States:
    """The states of one training, for one process at a time: a context in which they can be read and written.

    Args:
        folder: where they lie; made where it is missing, and removed at the end if nothing is in it.
        every: also write one at each multiple of so many steps; else only by time.
        say: is told where a training goes on and where it stopped.

    Attributes:
        came: the signals on which to write a state and stop.
        training: all that determines the result, see `identity`; set by the training.
    """

    def __init__(
        self, folder: str | Path, *, every: int | None = None, say: Callable[[str], object] = lambda text: None
    ) -> None:
        self.folder, self.say = Path(folder), say
        self.every = every if every is None else check_integer("every", every, low=1)
        if (self.folder / "config.json").exists():
            raise ValueError(
                f"resume must be a folder for states of a training, got the checkpoint {folder}: init= begins from "
                "its weights."
            )
        self.came: list[int] = []
        self.training: Facts = {}
        self._kept: list[Path] = []
        self._written, self._cost, self._failed = time.monotonic(), 0.0, False
        self._stack = ExitStack()

    def __enter__(self) -> "States":
        self._stack.enter_context(claimed(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            for scratch in self.folder.glob(f".*{SCRATCH}"):
                scratch.unlink()
        self._stack.close()
        with suppress(OSError):  # it is not empty
            self.folder.rmdir()

    def found(self) -> list[Path]:
        """The files of states, the newest last."""
        return sorted(path for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name))

    def clear(self) -> None:
        """Remove all states."""
        self._remove_others([])

    def resume(self, likes_of: Callable[[Facts], Likes], restore: Callable[[Facts, dict[str, Tensor]], None]) -> bool:
        """Restore the newest state that is whole; whether there was one.

        Args:
            likes_of: checks the facts; dtypes and shapes of the tensors that go with them.
            restore: takes over both; after an error it is called with an older state.
        Raises:
            ValueError: a whole state of another training, or of another machine.
        """

        def checked(facts: Facts) -> Likes:
            where = name_of(path)
            if facts.get("schema") != SCHEMA:
                raise ValueError(f"{path} was written by another version of ar_interp. Remove it.")
            self._check_same(facts.pop("training", {}))
            del facts["schema"]
            with faults_of(where):
                return likes_of(facts)

        found = self.found()
        while found:
            path = found[-1]
            try:
                facts, tensors = read_facts_and_tensors(path, checked, path.stem.partition("-")[2])
                with faults_of(name_of(path)):
                    restore(facts, tensors)
            except CheckpointError as error:
                warnings.warn(f"{error} Training goes on from the state before it, if there is one.", stacklevel=2)
                found.pop()
            else:
                self._kept = found[-KEPT:]
                return True
        return False

    def _check_same(self, theirs: object) -> None:
        different = difference(theirs, self.training)
        if different is None:
            return
        of_the_machine = different.startswith(OF_THE_MACHINE)
        which = "a training that would not end in the same bits here" if of_the_machine else "another training"
        raise ValueError(
            f"{self.folder} holds states of {which}: {different}. Go on with that one, choose another folder, or begin "
            "anew by removing this one (--again does)."
        )

    def due(self, step: int, after: float = SECONDS) -> bool:
        """A state should be written now: by number, by seconds since the last, or as a signal came."""
        due = self.came or (self.every is not None and step % self.every == 0)
        return bool(due) or time.monotonic() >= self._written + max(after, SHARE * self._cost)

    def keep(self, step: int, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
        """Write a state. Where that fails a warning says so once, and the ones before are kept.

        Raises:
            KeyboardInterrupt: a signal came, and training is to stop.
        """
        began = time.monotonic()
        data = to_bytes(tensors, {"schema": SCHEMA, "training": self.training, **facts})
        path = self.folder / f"{step:012d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        try:
            write_file(path, data)
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"no state can be written at {step}: {path}: {error.strerror}. Training goes on; {self._newest}.",
                    stacklevel=2,
                )
            self._failed = True
        else:
            self._kept = [*[other for other in self._kept if other != path], path][-KEPT:]
            self._remove_others(self._kept)
            self._failed = False
        self._written = time.monotonic()
        self._cost = self._written - began
        self.give_way(step)

    def give_way(self, step: int) -> None:
        """Stop where a signal came.

        Raises:
            KeyboardInterrupt: one came.
        """
        if self.came:
            self.say(f"training stopped at {step}; {self._newest}, the same again goes on from there")
            raise KeyboardInterrupt

    @property
    def _newest(self) -> str:
        return f"the newest state is that of {int(self._kept[-1].name[:12])}" if self._kept else "there is no state"

    def _remove_others(self, kept: list[Path]) -> None:
        for path in self.found():
            if path not in kept:
                with suppress(OSError):
                    path.unlink()


def task(config: Any, process: Any, training: Any) -> Facts:
    """Config, process and training but for its device, ready for JSON."""
    how = {name: value for name, value in training.to_dict().items() if name != "device"}
    return json.loads(json.dumps({"model": config.to_dict(), "process": process.to_dict(), "training": how}))


def identity(config: Any, process: Any, training: Any, start: Tensor) -> Facts:
    """All that determines the last bit of a training, as far as it can be known, ready for JSON.

    Args:
        start: the weights that the members begin with.
    """
    return task(config, process, training) | {
        "initial weights": hashlib.sha256(start.cpu().numpy().tobytes()).hexdigest(),
        "device": start.device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in VERSIONED},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def difference(theirs: Any, ours: Any, name: str = "") -> str | None:
    """The first entry of two objects of JSON that is not the same, in words, if there is one."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        found = (difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key) for key in keys)
        return next(filter(None, found), None)
    if type(theirs) is type(ours) and theirs == ours:
        return None
    there, here = (shortened(repr(value), LONGEST_MESSAGE // 4) for value in (theirs, ours))
    return f"{name or 'the description'} is {there} there and {here} here"
