"""Training on a GPU: first that it is right, then how fast it is, beside the plain loop on the same card.

Every section stands alone: what fails or takes too long is said, and the others go on. An architecture whose losses or
gradients are wrong is not timed. The plain loop (`reference.py`) has its sequences on the device; ours draws its own.

    python benchmarks/gpu.py [--json FILE] [--device cuda] [--quick] [--only TEXT ...] [--autotune]
"""

import argparse
import gc
import json
import math
import platform
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, product
from statistics import median
from typing import Any

import reference
import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor

import ar_interp as ari
from ar_interp.processes.haar import by_doubling, product_of_reflections
from ar_interp.setting import setting_of
from ar_interp.training.batched import form_of
from ar_interp.training.descent import Descent, as_graph
from ar_interp.training.objectives import (
    at_once,
    compiled_where_possible,
    population_objective,
    sampled_objective,
    value_and_gradients,
)

DIM, N_CTX = reference.DIM, reference.N_CTX
PROCESS = ari.HaarOrthogonal(DIM)
CURVE_STEPS = 50
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


CASES = (
    Case("figure 5, L = 4", figure5(4), 1024, 1, lambda: reference.Figure5(DIM, 4), 1.0),
    Case("figure 7, 25 heads", figure7(25), 1024, 1, lambda: reference.Figure7(DIM, 25, N_CTX), 1.0),
    Case("figure 7, 64 heads", figure7(64), 1024, 1, lambda: reference.Figure7(DIM, 64, N_CTX), 2.0),
    Case("figure 5, L = 4", figure5(4), 128, 64, None, 0.075),
    Case("figure 5, L = 1", figure5(1), 1024, 1, lambda: reference.Figure5(DIM, 1)),
    Case("figure 7, 1 head", figure7(1), 1024, 1, lambda: reference.Figure7(DIM, 1, N_CTX)),
    Case("figure 5, L = 4", figure5(4), 128, 8),
    Case("block scalars, L = 4, by keys", block_scalars(4), 128, 8),
)
QUICK = (
    Case("figure 5, L = 4", figure5(4), 32, 1, lambda: reference.Figure5(DIM, 4), 1.0, compiled=False),
    Case("figure 7, 25 heads", figure7(25), 16, 1, lambda: reference.Figure7(DIM, 25, N_CTX), 1.0, compiled=False),
    Case("figure 5, L = 4", figure5(4), 16, 2, None, 0.075, compiled=False),
)
POPULATION_TARGET, HAAR_TARGET = 0.3, 0.5  # us per member and step; ms


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


# ---- what the card can do


def machine(bench: Bench) -> dict[str, Any]:
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if cuda else platform.processor() or platform.machine()
    found = {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    print(found, flush=True)
    return found


def roofline(bench: Bench) -> dict[str, float]:
    size, n = (256, 2**20) if bench.quick else (8192, 2**28)
    a, b = (torch.randn(size, size, device=bench.device) for _ in "ab")
    rate = 2 * size**3 / bench.seconds(lambda: a @ b, 3)
    source, target = (torch.empty(n, device=bench.device) for _ in "st")
    bandwidth = 8 * n / bench.seconds(lambda: target.copy_(source), 10)
    del a, b, source, target
    tiny, many = torch.zeros(16, device=bench.device), 500

    def launches() -> None:
        for _ in range(many):
            tiny.add_(1)

    eager = bench.seconds(launches, 3) / many
    on_graph = bench.seconds(bench.graph(launches), 3) / many
    print(
        f"float32 products {rate / 1e12:.1f} TFLOP/s, copies {bandwidth / 1e9:.0f} GB/s, a launch {eager * 1e6:.1f} us"
    )
    print(f"alone and {on_graph * 1e6:.2f} us in a graph", flush=True)
    return {"flops": rate, "bytes": bandwidth, "launch": eager, "launch_in_graph": on_graph}


# ---- is it right?


def plain_weights(config: Config, parameters: dict[str, Tensor], plain: torch.nn.Module) -> None:
    """Give the reference the weights of one member of ours."""
    get = {name: tensor[0] for name, tensor in parameters.items()}
    theirs: dict[str, Tensor] = {"final.weight": get["unembed.W_U"].T, "final.bias": get["unembed.b_U"]}
    if "pos_embed.W_pos" in get:
        theirs["positions.weight"] = get["pos_embed.W_pos"]
    for layer in range(config.n_layers):
        attention, norm = ("attention.", "norm.") if theirs.get("positions.weight") is not None else (
            f"layers.{layer}.", f"norms.{layer}.")  # fmt: skip
        for part, name in {"Q": "queries", "K": "keys", "V": "values"}.items():
            theirs[f"{attention}{name}.weight"] = get[f"blocks.{layer}.attn.W_{part}"].mT.flatten(0, 1)
            theirs[f"{attention}{name}.bias"] = get[f"blocks.{layer}.attn.b_{part}"].flatten()
        theirs[f"{attention}out.weight"] = get[f"blocks.{layer}.attn.shared_W_O"].T
        theirs[f"{attention}out.bias"] = get[f"blocks.{layer}.attn.b_O"]
        theirs[f"{norm}weight"], theirs[f"{norm}bias"] = (get[f"blocks.{layer}.ln1_post.{x}"] for x in "wb")
    plain.load_state_dict(theirs)


def outputs(bench: Bench) -> None:
    """Predictions and gradients in float64 against the plain models, and against the CPU for other architectures."""
    tokens = PROCESS.sample(16, N_CTX + 1, seed=1).tokens.to(bench.device)
    plain_models: dict[str, tuple[Config, Any]] = {
        f"figure 5, L = {n}": (figure5(n, dtype="float64"), reference.Figure5(DIM, n)) for n in (1, 2, 4)
    }
    for n in (1, 25, 64):
        name = f"figure 7, {n} head{'s' if n > 1 else ''}"
        plain_models[name] = (figure7(n, dtype="float64"), reference.Figure7(DIM, n, N_CTX))
    for name, (config, plain) in plain_models.items():
        parameters = initial(config, 1, bench.device, torch.float64)
        plain = plain.to(bench.device, torch.float64)
        plain_weights(config, parameters, plain)
        loss = (plain(tokens[:, :-1]) - tokens[:, 1:]).square().sum((1, 2)).mean()
        loss.backward()
        form = form_of(config)
        losses, gradients = value_and_gradients(lambda p, form=form: at_once(form, p, tokens[None], 1), parameters)
        read = plain.final.weight.grad
        last = max(
            relative(gradients["unembed.W_U"][0].T, read),
            relative(gradients["blocks.0.attn.b_O"][0], plain_bias(plain).grad),
            relative(gradients["blocks.0.attn.shared_W_O"][0].T, plain_out(plain).weight.grad),
        )
        bench.check(name, max(relative(losses, loss.detach()[None]), last), 1e-9)
    others = {
        "block scalars, L = 4, by keys": replace(block_scalars(4), dtype="float64"),
        "25 full heads that share P": Config.full(dim=DIM, n_ctx=N_CTX, n_heads=25),
        "softmax": Config.augmented(dim=DIM, n_ctx=N_CTX, n_heads=2, n_layers=2, attention="softmax"),
        "MLP": Config.augmented(dim=DIM, n_ctx=N_CTX, n_layers=2, d_mlp=20, biases=True, unembed=True),
    }
    for name, config in others.items():
        parameters, form = initial(config, 3, torch.device("cpu"), torch.float64), form_of(config)
        there = {key: tensor.to(bench.device) for key, tensor in parameters.items()}
        three = tokens[:15].unflatten(0, (3, 5))
        here = value_and_gradients(lambda p, form=form, three=three: at_once(form, p, three.cpu(), 1), parameters)
        losses, gradients = value_and_gradients(lambda p, form=form, three=three: at_once(form, p, three, 1), there)
        error = max(relative(losses, here[0]), *(relative(gradients[key], here[1][key]) for key in gradients))
        bench.check(name, error, 1e-9)


def plain_out(plain: Any) -> torch.nn.Linear:
    return (plain.attention if hasattr(plain, "attention") else plain.layers[0]).out


def plain_bias(plain: Any) -> Tensor:
    return plain_out(plain).bias


def curves(bench: Bench) -> dict[str, float]:
    """The first losses on a graph against the CPU in float64 on the same sequences.

    In float64 both train on their own. In float32, and for figure 5, the CPU evaluates each step's own weights: Adam
    divides gradients by their own size, those too that are rounding alone, so that two trainings part in a few steps.
    """
    found = {}
    cases = [("figure 5, L = 4", figure5(4), 2), ("figure 7, 25 heads", figure7(25), 1)]
    cases += [("block scalars, L = 4, by keys", block_scalars(4), 2)]
    ways = [("float64", False), ("float32", False), ("float32", True)]
    batch, steps = 32, 10 if bench.quick else CURVE_STEPS
    for (name, config, members), (dtype, compiled) in product(cases, ways):
        if compiled and (bench.quick or name.startswith("block")):
            continue
        config = replace(config, dtype=dtype)
        form, generators = form_of(config), bench.generators(members)
        losses_of = compiled_where_possible(at_once) if compiled else at_once
        kept = torch.empty(members, batch, N_CTX + 1, DIM, device=bench.device, dtype=config.torch_dtype)

        def objective(parameters, form=form, losses_of=losses_of, kept=kept, generators=generators):
            tokens = PROCESS.of_members(batch, N_CTX + 1, generators, kept.dtype)
            kept.copy_(tokens)
            return losses_of(form, parameters, tokens, 1)

        parameters = initial(config, members, bench.device, config.torch_dtype)
        ours = Descent(objective, parameters, how(members), generators=generators, compiled=compiled)
        current, slow_form = [kept], form_of(replace(config, dtype="float64"))
        slow = Descent(
            lambda p, form=slow_form, current=current: at_once(form, p, current[0], 1),
            initial(config, members, torch.device("cpu"), torch.float64),
            how(members),
        )
        worst, before = 0.0, None
        for _ in range(steps):
            if dtype == "float32" or name.startswith("figure 5"):
                slow.flat.copy_(ours.flat)
            ours.advance(1)
            current[0] = kept.to("cpu", torch.float64, copy=True)
            assert before is None or not torch.equal(before, current[0]), "the same sequences twice"
            before = current[0]
            slow.advance(1)
            worst = max(worst, float((ours.losses.double().cpu() / slow.losses - 1).abs().max()))
        label = f"{name}: loss curve in {dtype}{', compiled' if compiled else ''}"
        label += ", on a graph" if ours.on_graph else ", without a graph"
        found[label] = worst
        if not bench.check(label, worst, 1e-5):
            bench.right.discard(name)
    return found


def seeds(bench: Bench) -> None:
    """The same seed, the same training; other members undisturbed by one that diverges."""

    def losses(lrs: tuple[float, ...], seed: int = 0) -> Tensor:
        training = replace(how(3), lrs=lrs, seed=seed, steps=40, batch=32, device=bench.device.type)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = ari.train(figure5(2), PROCESS, training, progress=False)
        return torch.tensor(run.members["loss"].to_numpy())

    same, again, other = losses((0.01,) * 3), losses((0.01,) * 3), losses((0.01,) * 3, seed=7)
    bench.check("the same seed twice", float((same - again).abs().max()), 0.0)
    bench.check("another seed differs", float((same == other).any()), 0.0)
    bench.check("a member that diverges is alone", float((losses((0.01, 1e38, 0.01)) - same)[[0, 2]].abs().max()), 0.0)


def haar_law(bench: Bench) -> None:
    n, d = 2**10 if bench.quick else 2**18, 5
    gaussian = torch.randn(n, d, d, dtype=torch.float64, device=bench.device, generator=bench.generators(1)[0])
    W = product_of_reflections(gaussian)
    identity = torch.eye(d, dtype=W.dtype, device=W.device)
    bench.check("W W^T = 1", float((W @ W.mT - identity).abs().max()), 1e-13)
    traces = torch.stack([W.diagonal(0, 1, 2).sum(1), (W @ W).diagonal(0, 1, 2).sum(1), torch.linalg.det(W)])
    moments = {"E W = 0": W.mean(0), "E W_ij^2 = 1/d": W.square().mean(0) - 1 / d}
    moments |= {"E W_11 W_22": (W[:, 0, 0] * W[:, 1, 1]).mean(), "E tr W": traces[0].mean()}
    moments |= {"E (tr W)^2 = 1": traces[0].square().mean() - 1, "E tr W^2 = 1": traces[1].mean() - 1}
    moments |= {"E det W": traces[2].mean(), "E W_11^4 = 3/(d (d + 2))": W[:, 0, 0].pow(4).mean() - 3 / (d * (d + 2))}
    for name, value in moments.items():
        bench.check(f"{name}, in units of n^-1/2", float(value.abs().max()) * math.sqrt(n), 6.0)
    first = torch.full((100, d), d**-0.5, dtype=W.dtype, device=W.device)
    states = [first]
    for _ in range(50):
        states.append((W[:100] @ states[-1][..., None])[..., 0])
    bench.check("sequences by doubling", relative(by_doubling(W[:100], first, 51), torch.stack(states, dim=1)), 1e-12)


def population_check(bench: Bench) -> None:
    for process in (ari.CommutingUnitary(10), ari.CommutingOrthogonal(10)):
        config = Config.diagonal(dim=10, n_heads=5, n_ctx=20)
        training = ari.TrainConfig(lr=3e-4, steps=300, n_seeds=4, device=bench.device.type)
        there, here = (
            torch.tensor(ari.train(config, process, t, progress=False).members["loss"].to_numpy())
            for t in (training, replace(training, device="cpu"))
        )
        bench.check(f"population descent, {process.kind}", relative(there, here), 1e-9)


# ---- how fast is it?


def flops(case: Case) -> float:
    """Multiplications and additions of a step, forward and twice that backward, without padding."""
    config, T = case.config, case.config.n_ctx
    sequences = case.batch * case.members
    if config.positional == "softmax":  # one product for any number of heads: K times features, and its gradient
        features = config.dim + config.dim * (config.dim + 1) // 2
        return 4.0 * sequences * T * (T + 1) / 2 * features * (config.dim + 1) * config.d_model
    width = config.d_model + 1
    return 3.0 * sequences * config.n_layers * config.n_heads * (4 * T * width**2 + 4 * T * (T + 1) / 2 * width)


def activations(case: Case) -> float:
    """Bytes of the residual stream written and read once, forward and backward."""
    config = case.config
    return 4.0 * 4 * case.batch * case.members * config.n_ctx * config.d_model * (config.n_layers + 1)


def plain_ms(bench: Bench, case: Case) -> float:
    """A step of the plain loop, its sequences on the device."""
    assert case.plain is not None
    torch.manual_seed(0)
    model = case.plain().to(bench.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=reference.LR)
    tokens = PROCESS.sample(4 * case.batch, N_CTX + 1, seed=0, dtype=torch.float32).tokens.to(bench.device)
    parts = cycle(tokens.contiguous().split(case.batch))

    def step() -> None:
        part = next(parts)
        reference.step(model, optimizer, part[:, :-1], part[:, 1:])

    return 1e3 * bench.seconds(step, 5, rounds=3)


def descent_of(bench: Bench, case: Case, compiled: bool) -> Descent:
    generators = bench.generators(case.members)
    objective = sampled_objective(
        case.config, PROCESS if case.config.dim == DIM else ari.HaarOrthogonal(case.config.dim), batch=case.batch,
        generators=generators, first_length=1, compiled=compiled,
    )  # fmt: skip
    parameters = initial(case.config, case.members, bench.device, case.config.torch_dtype)
    return Descent(objective, parameters, how(case.members), generators=generators, compiled=compiled)


def ours_ms(bench: Bench, case: Case, compiled: bool, rounds: int = 5) -> tuple[float, float, bool]:
    """A step, the seconds until the first, and whether it was a graph."""
    begun = time.perf_counter()
    descent = descent_of(bench, case, compiled)
    descent.advance(1)
    bench.wait()
    ready = time.perf_counter() - begun
    first = descent.losses.mean().item()
    took = 1e3 * bench.seconds(lambda: descent.advance(1), 20, rounds)
    if not descent.losses.mean().item() < first:
        raise AssertionError(f"the loss went from {first:.4g} to {descent.losses.mean().item():.4g}")
    return took, ready, descent.on_graph


def timings(cases: Sequence[Case], compiled: bool) -> Callable[[Bench], dict[str, Any]]:
    """The section that times cases."""

    def section(bench: Bench) -> dict[str, Any]:
        roof = bench.found.get("roofline") or {}
        found: dict[str, Any] = {}
        print("| model | batch x members | plain ms | ours ms | ratio | a member | ready after s | GEMM | memory |")
        print("|---|---|---|---|---|---|---|---|---|")
        for case in cases:
            label = f"{case.name}, {case.batch} x {case.members}"
            if case.name not in bench.right:
                print(f"| {label}: not timed, its losses are not known to be right |", flush=True)
                continue
            try:
                row: dict[str, Any] = {}
                if case.plain is not None:
                    before = (bench.found.get("timings") or {}).get(label) or {}
                    row["plain"] = before.get("plain") or plain_ms(bench, case)
                row["ours"], row["ready"], row["graph"] = ours_ms(bench, case, compiled)
                row["member"] = row["ours"] / case.members
                row["ratio"] = row.get("plain", math.nan) / row["ours"]
                row["gemm_share"] = flops(case) / (roof.get("flops", math.nan) * row["ours"] / 1e3)
                row["memory_share"] = activations(case) / (roof.get("bytes", math.nan) * row["ours"] / 1e3)
            except Exception as error:
                bench.wrong[label] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                print(f"| {label}: {bench.wrong[label]} |", flush=True)
                continue
            finally:
                free(bench)
            found[label] = row
            if not compiled:
                bench.found["timings"] = found
            if case.target is not None:
                many = case.members > 1
                bench.target(
                    label, row["member"] if many else row["ours"], case.target, "ms a member" if many else "ms"
                )
            print(
                f"| {case.name} | {case.batch} x {case.members} | {row.get('plain', math.nan):.2f} | {row['ours']:.3f} "
                f"| {row['ratio']:.1f} | {row['member']:.4f} | {row['ready']:.1f} | {row['gemm_share']:.1%} "
                f"| {row['memory_share']:.1%} |" + ("" if row["graph"] else " no graph"),
                flush=True,
            )
        return found

    return section


def free(bench: Bench) -> None:
    """Memory of what is done goes back."""
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def population(bench: Bench) -> dict[str, float]:
    found = {}
    config, process = Config.diagonal(dim=10, n_heads=5, n_ctx=20), ari.CommutingOrthogonal(10)
    for members in (8,) if bench.quick else (128, 1024, 16384):
        parameters = initial(config, members, bench.device, torch.float64)
        training = ari.TrainConfig(lr=3e-4, steps=10**6, n_seeds=members)
        for compiled in (False,) if bench.quick else (False, True):
            objective = population_objective(setting_of(config, process))
            objective = compiled_where_possible(objective) if compiled else objective
            descent = Descent(objective, parameters, training, compiled=compiled)
            took = 1e6 * bench.seconds(lambda descent=descent: descent.advance(1), 50) / members
            how_so = f"{'compiled, ' if compiled else ''}{'on a graph' if descent.on_graph else 'no graph'}"
            found[f"{members} members, {how_so}"] = took
            print(f"{members} members: {took:.3f} us per member and step, {how_so}", flush=True)
            if members == 1024:
                bench.target("population, 1024 members", took, POPULATION_TARGET, "us per member and step")
        free(bench)
    return found


def haar(bench: Bench) -> dict[str, float]:
    found = {}
    for dim, n in ((5, 64),) if bench.quick else ((5, 1024), (5, 16384), (5, 262144), (64, 4096)):
        process, generators = ari.HaarOrthogonal(dim), bench.generators(1)
        for compiled in (False,) if bench.quick or dim == 64 else (False, True):
            finish = compiled_where_possible(process.from_drawn) if compiled else process.from_drawn

            def draw(process=process, generators=generators, n=n, finish=finish) -> Tensor:
                sizes = N_CTX + 1, torch.float32
                return finish(process.drawn(n, sizes[0], generators, sizes[1]), *sizes)

            run = bench.graph(draw, generators)
            took = 1e3 * bench.seconds(run, 10)
            found[f"d = {dim}, {n}{', compiled' if compiled else ''}"] = took
            label = ", compiled" if compiled else ""
            print(f"d = {dim}: {n} matrices with sequences of {N_CTX + 1}: {took:.3f} ms{label}", flush=True)
            if (dim, n) == (5, 16384):
                bench.target("Haar, d = 5, 16384 matrices with sequences", took, HAAR_TARGET, "ms")
        free(bench)
    return found


def kernels(bench: Bench) -> dict[str, dict[str, float]]:
    """Where the time of a compiled step goes: microseconds by kernel, the longest first."""
    found = {}
    for case in (
        case for case in (QUICK if bench.quick else CASES) if case.target and case.name.startswith("figure 5")
    ):
        label = f"{case.name}, {case.batch} x {case.members}"
        descent = descent_of(bench, case, case.compiled)
        with torch.profiler.profile() as profile:
            descent.advance(5)
            bench.wait()
        events = [event for event in profile.events() or () if event.device_type.name == "CUDA" or bench.quick]
        times: dict[str, float] = {}
        for event in events:
            name = event.name[:100]
            times[name] = times.get(name, 0.0) + event.time_range.elapsed_us() / 5
        found[label] = dict(sorted(times.items(), key=lambda pair: -pair[1])[:25])
        print(f"{label}: {len(events) / 5:.0f} kernels, {sum(times.values()):.0f} us", flush=True)
        print(*(f"{took:8.1f} us  {name}" for name, took in found[label].items()), sep="\n", flush=True)
        free(bench)
    return found


def growth(bench: Bench) -> dict[str, dict[str, float]]:
    """One size at a time; graphs without `torch.compile`."""
    base = {"dim": DIM, "n_ctx": N_CTX}
    axes = {
        "T": [Case(str(T), figure5(2, dim=DIM, n_ctx=T), 256) for T in (25, 50, 100, 200, 400)],
        "d": [Case(str(d), figure5(2, dim=d, n_ctx=N_CTX), 256) for d in (2, 5, 10, 20)],
        "heads": [Case(str(h), figure7(h, **base), 256) for h in (1, 4, 8, 25, 64, 128)],
        "batch": [Case(str(b), figure5(2), b) for b in (64, 256, 1024, 4096, 16384)],
        "members": [Case(str(m), figure5(2), 64, m) for m in (1, 4, 16, 64, 256)],
    }
    found: dict[str, dict[str, float]] = {}
    for axis, cases in axes.items():
        found[axis] = {}
        for case in cases[:2] if bench.quick else cases:
            case = replace(case, batch=8, members=min(case.members, 2)) if bench.quick else case
            try:
                found[axis][case.name] = ours_ms(bench, case, False, rounds=3)[0]
            except Exception as error:
                bench.wrong[f"growth, {axis} = {case.name}"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            free(bench)
        print(f"{axis}: " + ", ".join(f"{at}: {took:.3f}" for at, took in found[axis].items()) + " ms", flush=True)
        bench.found["growth"] = found
    return found


def whole_training(bench: Bench) -> dict[str, float]:
    """A whole `ari.train`, log, evaluation and graph included."""
    sizes: dict[str, Any] = {"steps": 20, "batch": 16} if bench.quick else {"steps": 2500, "batch": 128}
    found = {}
    for members in (1, 8):
        training = ari.TrainConfig(
            objective="sampled", optimizer="adam", lr=1e-2, beta2=0.95, schedule="linear", warmup=100, first_length=1,
            n_seeds=members, device=bench.device.type, **sizes,
        )  # fmt: skip
        begun = time.perf_counter()
        run = ari.train(figure5(1 if bench.quick else 4), PROCESS, training, progress=False)
        found[f"{members} members"] = time.perf_counter() - begun
        best = run.members["loss"].min() / DIM
        print(f"{members} members: {found[f'{members} members']:.1f} s, error {best:.4f} per coordinate", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where the results go")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that the script runs")
    parser.add_argument("--only", nargs="+", default=(), help="only sections whose name holds one of these texts")
    parser.add_argument("--autotune", action="store_true", help="the compiler measures which products are fastest")
    arguments = parser.parse_args()
    warnings.simplefilter("default")
    torch.backends.cuda.matmul.allow_tf32 = False
    for limit in ("recompile_limit", "cache_size_limit"):  # of versions of one function, here one for each case
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 64)
    torch._inductor.config.max_autotune_gemm = arguments.autotune
    bench = Bench(arguments.device, arguments.quick, arguments.json, arguments.only)
    bench.section("machine", machine, 30)
    bench.section("roofline", roofline, 20)
    bench.section("outputs", outputs, 40)
    bench.section("Haar law", haar_law, 15)
    bench.section("seeds", seeds, 30)
    bench.section("population, right", population_check, 20)
    bench.section("loss curves", curves, 110)
    cases = QUICK if bench.quick else CASES
    bench.section("timings", timings(cases, False), 60)
    bench.section("Haar", haar, 40)
    bench.section("population", population, 40)
    compiled = [case for case in cases if case.compiled]
    for case in (case for case in compiled if case.target is not None):
        bench.section(f"compiled: {case.name}, {case.batch} x {case.members}", timings([case], True), 90)
    bench.section("kernels", kernels, 60)
    bench.section("growth", growth, 40)
    bench.section("whole training", whole_training, 30)
    for case in (case for case in compiled if case.target is None):
        bench.section(f"compiled: {case.name}, {case.batch} x {case.members}", timings([case], True), 40)
    print(
        f"\n## Targets, on {bench.found.get('machine', {}).get('device')}, {SECONDS_IN_ALL - bench.left:.0f} s in all"
    )
    if bench.wrong:
        print("wrong or failed:", *(f"  {name}: {why}" for name, why in bench.wrong.items()), sep="\n")
    for name, target in bench.targets.items():
        met = "met" if target["met"] else "NOT MET"
        print(f"{met}: {name}: {target['found']:.4g} {target['unit']} (to reach: {target['target']:g})")
    bench.write()
    sys.exit(1 if bench.wrong else 0)


if __name__ == "__main__":
    main()
