"""A bench for trainings: cases, a clock, sections that stand alone, and what is known to be right."""

import json
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import reference
import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor

import ar_interp as ari
from ar_interp.training.descent import as_graph

DIM, N_CTX = reference.DIM, reference.N_CTX
PROCESS = ari.HaarOrthogonal(DIM)
SECONDS_IN_ALL = 345.0
ALWAYS = ("machine", "roofline", "outputs")
Config = ari.ModelConfig


@dataclass(frozen=True)
class Case:
    """A training that is timed; `target` in ms a step, or a member and step where there are many."""

    name: str
    config: Config
    batch: int
    members: int = 1
    plain: Callable[[], torch.nn.Module] | None = None
    target: float | None = None
    compiled: bool = True


def figure5(n_layers: int, **sizes: Any) -> Config:
    return Config.paper_figure5(n_layers=n_layers, **sizes)


def figure7(n_heads: int, **sizes: Any) -> Config:
    return Config.paper_figure7(n_heads=n_heads, **sizes)


def block_scalars(n_layers: int) -> Config:
    return Config.augmented(
        dim=DIM, n_ctx=N_CTX, n_layers=n_layers, heads="block-scalar", attention="linear/keys", dtype="float32",
        init_scale=0.3,
    )  # fmt: skip


class TooSlowError(BaseException):  # which no library takes for a failure of its own
    """A section took longer than it may."""


@contextmanager
def at_most(seconds: float):
    """Raise `TooSlowError` in the block after so many seconds."""

    def late(*_: object) -> None:
        raise TooSlowError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """The device, what was found, and which architectures are right.

    Attributes:
        found: results by section, for JSON.
        wrong: names of what failed its check.
    """

    def __init__(self, device: str, quick: bool, path: str | None, only: Sequence[str] = ()) -> None:
        self.device, self.quick, self.path = torch.device(device), quick, path
        self.start = time.perf_counter()
        self.found: dict[str, Any] = {}
        self.targets: dict[str, dict[str, Any]] = {}
        self.right: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.only = [text.lower() for text in only]

    @property
    def left(self) -> float:
        return SECONDS_IN_ALL - (time.perf_counter() - self.start)

    def section(self, name: str, function: Callable[..., Any], seconds: float) -> None:
        """Run one section, if it is asked for, and write what is known so far."""
        if self.only and name not in ALWAYS and not any(text in name.lower() for text in self.only):
            return
        begun = time.perf_counter()
        allowed = min(seconds, self.left)
        if allowed < 2:
            self.found[name] = {"error": "no time left"}
            print(f"\n## {name}: no time left", flush=True)
            return
        print(f"\n## {name}", flush=True)
        try:
            with at_most(allowed):
                self.found[name] = function(self) or self.found.get(name)
        except (Exception, TooSlowError) as error:  # the other sections go on
            self.found.setdefault(name, {})
            self.wrong[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            print(f"FAILED: {self.wrong[name]}", flush=True)
            traceback.print_exc(limit=-4, file=sys.stdout)
        print(f"({time.perf_counter() - begun:.1f} s)", flush=True)
        self.write()

    def check(self, name: str, error: float, largest: float) -> bool:
        good = error <= largest  # NaN is not
        print(f"{'right' if good else 'WRONG'}: {name}: {error:.1e} (<= {largest:.0e})", flush=True)
        (self.right.add(name) if good else self.wrong.__setitem__(name, f"{error:.1e} > {largest:.0e}"))
        return good

    def target(self, name: str, value: float, largest: float, unit: str) -> None:
        best = self.targets.get(name)
        if best is None or value < best["found"]:
            self.targets[name] = {"found": value, "target": largest, "unit": unit, "met": value <= largest}

    def write(self) -> None:
        if self.path:
            whole = {**self.found, "targets": self.targets, "wrong": self.wrong}
            with open(self.path, "w") as file:
                json.dump(whole, file, indent=2)

    def seconds(self, function: Callable[[], Any], n: int, rounds: int = 5) -> float:
        """Wall time of a call: the median over rounds of the mean of n."""
        if self.quick:
            n, rounds = 1, 2
        function()
        times = []
        for _ in range(rounds):
            self.wait()
            begun = time.perf_counter()
            for _ in range(n):
                function()
            self.wait()
            times.append((time.perf_counter() - begun) / n)
        return median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def generators(self, n: int, seed: int = 0) -> list[torch.Generator]:
        return [torch.Generator(self.device).manual_seed(seed + k) for k in range(n)]

    def graph(self, function: Callable[[], Any], generators: Sequence[torch.Generator] = ()) -> Callable[[], Any]:
        """The function as a CUDA graph; as it is on a CPU."""
        if self.device.type != "cuda":
            return function
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a graph or nothing
            return as_graph(function, [], generators)[0]


def initial(config: Config, members: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    drawn = [config.initial_parameters(seed=k) for k in range(members)]
    return {name: torch.stack([one[name] for one in drawn]).to(device, dtype) for name in drawn[0]}


def how(members: int, lr: float = 1e-2) -> ari.TrainConfig:
    return ari.TrainConfig(objective="sampled", optimizer="adam", lr=lr, steps=10**6, n_seeds=members, first_length=1)


def relative(found: Tensor, expected: Tensor | None) -> float:
    assert expected is not None
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())
