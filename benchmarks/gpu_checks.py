"""Whether training on a device is right: against the plain models, the CPU, and itself with the same seed."""

import math
import warnings
from dataclasses import replace
from itertools import product
from typing import Any

import reference
import torch
import torch._dynamo
import torch._inductor.config
from gpu_bench import DIM, N_CTX, PROCESS, Bench, Config, block_scalars, figure5, figure7, how, initial, relative
from torch import Tensor

import ar_interp as ari
from ar_interp.processes.haar import by_doubling, product_of_reflections
from ar_interp.training.batched import form_of
from ar_interp.training.descent import Descent
from ar_interp.training.objectives import (
    at_once,
    compiled_where_possible,
    value_and_gradients,
)

CURVE_STEPS = 50


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
