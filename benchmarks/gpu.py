"""Training on a GPU: first that it is right, then how fast it is, beside the plain loop on the same card.

Every section stands alone: what fails or takes too long is said, and the others go on. An architecture whose losses or
gradients are wrong is not timed. The plain loop (`reference.py`) has its sequences on the device; ours draws its own.

    python benchmarks/gpu.py [--json FILE] [--device cuda] [--quick] [--only TEXT ...] [--autotune]
"""

import argparse
import gc
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import reference
import torch
import torch._dynamo
import torch._inductor.config
from gpu_bench import (
    DIM,
    N_CTX,
    PROCESS,
    SECONDS_IN_ALL,
    Bench,
    Case,
    Config,
    block_scalars,
    figure5,
    figure7,
    how,
    initial,
)
from gpu_checks import curves, haar_law, outputs, population_check, seeds
from torch import Tensor

import ar_interp as ari
from ar_interp.setting import setting_of
from ar_interp.training.descent import Descent
from ar_interp.training.objectives import (
    compiled_where_possible,
    population_objective,
    sampled_objective,
)

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
