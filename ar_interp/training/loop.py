"""`train`: from a config and a process to a run, one member or an ensemble of seeds."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor
from tqdm.auto import tqdm

from ar_interp import seeds
from ar_interp.checkpoints import TrainingRun
from ar_interp.models.config import Config
from ar_interp.processes import Process
from ar_interp.setting import Setting, setting_of
from ar_interp.training.config import TrainConfig
from ar_interp.training.objectives import (
    Objective,
    Parameters,
    population_objective,
    predictions_of,
    sampled_objective,
    squared_errors,
)

N_LOGGED = 200  # points of the recorded history
EVALUATION_BATCH = 4096
EVALUATION_PART = 64  # sequences at once, over all members: scores of many heads stay in the cache
TRIM = 0.01  # share of the worst sequences that the trimmed loss leaves out


class DivergenceError(RuntimeError):
    """The loss of a member left the finite numbers; `run` is the last good state."""

    def __init__(self, message: str, run: TrainingRun) -> None:
        super().__init__(message)
        self.run = run


class _Divergence(Exception):  # noqa: N818 - caught here, never shown
    def __init__(self, members: list[int], step: int) -> None:
        self.members, self.step = members, step


def train(
    config: Config, process: Process, training: TrainConfig | None = None, *, progress: bool = True
) -> TrainingRun:
    """Train one model, or an ensemble of seeds of which the best is kept.

    The same arguments on the same machine give the same result bit for bit.

    Args:
        config: the model.
        process: what it learns; its dim is the model's.
        training: how; `TrainConfig()` if left out.
        progress: show a bar with the loss, the theoretical minimum and the time left.
    Raises:
        ValueError: sizes that do not agree, or a population loss where theory has none.
        DivergenceError: a loss is no longer finite; its `run` holds the last good state.
    """
    training = training or TrainConfig()
    config.check_process(process)
    if training.first_length > config.n_ctx:
        raise ValueError(f"first_length must be at most n_ctx = {config.n_ctx}, got {training.first_length}.")
    if config.parity_obstruction:
        warnings.warn(f"training is in vain: {config.parity_obstruction}.", stacklevel=2)
    setting = setting_of(config, process)
    device = training.resolve_device()
    member_seeds = range(training.seed, training.seed + training.n_seeds)
    if training.objective == "population":
        objective = population_objective(setting)
    else:
        generators = [seeds.generator_of(seed, device) for seed in member_seeds]
        sizes = {"batch": training.batch, "first_length": training.first_length}
        objective = sampled_objective(config, process, generators=generators, **sizes)

    members = [config.initial_parameters(seed=seed) for seed in member_seeds]
    parameters = {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}
    log = _Log(setting, training, progress)
    log.keep(0, parameters)
    descend = _minimise if training.optimizer == "lbfgs" else _descend
    try:
        steps = descend(objective, parameters, training, log)
        diverged = None
    except _Divergence as stop:
        parameters, steps, diverged = log.last_good, log.last_good_step, stop
    log.bar.close()

    final = {name: losses / log.n_lengths for name, losses in _final_losses(parameters, setting, training).items()}
    best = int(final["loss"].argmin())
    run = TrainingRun(
        config=config,
        process=process,
        training=training,
        parameters={name: tensor[best].detach().cpu() for name, tensor in parameters.items()},
        history=pd.DataFrame(log.rows),
        members=pd.DataFrame({"seed": list(member_seeds)} | {name: losses.tolist() for name, losses in final.items()}),
        seed=member_seeds[best],
        steps=steps,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
    if diverged is not None:
        lost = [member_seeds[k] for k in diverged.members][:8]
        raise DivergenceError(
            f"training diverged by step {diverged.step} (seeds {lost}): the loss is not "
            f"finite. Try a smaller lr or init_scale. error.run holds the state at step {steps}.",
            run,
        )
    return run


class _Log:
    """History, progress bar and the last good state."""

    def __init__(self, setting: Setting, training: TrainConfig, progress: bool) -> None:
        self.n_lengths = setting.config.n_ctx - training.first_length + 1
        self.every = max(1, training.steps // N_LOGGED)
        self.rows: list[dict[str, float]] = []
        self.last_good: Parameters = {}
        self.last_good_step = 0
        self.minimum = setting.minimum
        total = training.n_seeds if training.optimizer == "lbfgs" else training.steps
        unit = "seed" if training.optimizer == "lbfgs" else "step"
        self.bar = tqdm(total=total, unit=unit, disable=not progress, leave=False)

    def record(self, step: int, losses: Tensor, parameters: Parameters) -> None:
        """A row of the history: the losses of all members before update `step`, which `parameters` gave."""
        losses = losses.detach() / self.n_lengths
        bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if bad:
            raise _Divergence(bad, step)
        self.keep(step, parameters)
        low, middle, high = torch.quantile(losses, torch.tensor([0, 0.5, 1], dtype=losses.dtype).to(losses)).tolist()
        self.rows.append({"step": step, "loss_min": low, "loss_median": middle, "loss_max": high})
        shown = {"loss": f"{low:.4g}"} | ({} if self.minimum is None else {"minimum": f"{self.minimum:g}"})
        self.bar.set_postfix(shown, refresh=False)

    def keep(self, step: int, parameters: Parameters) -> None:
        """Remember a state to fall back to."""
        self.last_good = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        self.last_good_step = step


def _descend(objective: Objective, parameters: Parameters, training: TrainConfig, log: _Log) -> int:
    """Gradient steps on all members at once; returns how many were made."""
    tensors = list(parameters.values())
    optimizer: torch.optim.Optimizer
    if training.optimizer == "gd":
        optimizer = torch.optim.SGD(tensors, lr=training.lr)
    else:
        optimizer = torch.optim.Adam(tensors, lr=training.lr, betas=(0.9, training.beta2))
    for step in range(training.steps):
        losses, gradients = objective(parameters)
        if step % log.every == 0:
            log.record(step, losses, parameters)
        if training.stop_below is not None and (losses < training.stop_below * log.n_lengths).all():
            log.record(step, losses, parameters)
            return step
        if training.clip is not None:
            _clip(list(gradients.values()), training.clip)
        for name, tensor in parameters.items():
            tensor.grad = gradients[name]
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        optimizer.step()
        log.bar.update()
    log.record(training.steps, objective(parameters)[0], parameters)
    return training.steps


def _clip(gradients: list[Tensor], largest: float) -> None:
    """Shorten each member's gradient, in place."""
    norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    factor = (largest / norm).clamp(max=1.0)
    for gradient in gradients:
        gradient *= factor.reshape(-1, *[1] * (gradient.ndim - 1))


def _minimise(objective: Objective, parameters: Parameters, training: TrainConfig, log: _Log) -> int:
    """SciPy's L-BFGS-B on each member in turn; returns the largest number of iterations."""
    curves: list[list[float]] = []
    for member in range(training.n_seeds):
        single = {name: tensor[member : member + 1].clone() for name, tensor in parameters.items()}
        value_and_gradient, scatter = _flat(objective, single)
        start = torch.cat([tensor.detach().flatten() for tensor in single.values()]).cpu().numpy()
        x, curve = _lbfgs(value_and_gradient, start, training.steps)
        scatter(x)
        for name, tensor in single.items():
            parameters[name][member] = tensor[0]
        curves.append(curve)
        log.bar.update()
    longest = max(map(len, curves))
    losses = np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])  # a finished member stays
    for step in range(0, longest - 1, log.every):
        log.record(step, torch.from_numpy(losses[:, step]), parameters)
    log.record(longest - 1, torch.from_numpy(losses[:, -1]), parameters)
    return longest - 1


def _lbfgs(value_and_gradient: Callable, start: np.ndarray, steps: int) -> tuple[np.ndarray, list[float]]:
    """Where L-BFGS-B ends, and the loss before each iteration and at the end."""
    curve = [value_and_gradient(start)[0]]

    def follow(intermediate_result: OptimizeResult) -> None:
        curve.append(float(intermediate_result.fun))

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0.0, "gtol": 1e-13, "maxcor": 30}
    result = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", callback=follow, options=options)
    return result.x, curve


def _flat(objective: Objective, single: Parameters) -> tuple[Callable, Callable]:
    """The objective of one member as a function of a flat float64 vector, and its inverse."""
    tensors = list(single.values())

    def scatter(x: np.ndarray) -> None:
        pieces = torch.as_tensor(x).split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.reshape(tensor.shape))

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        scatter(x)
        losses, gradients = objective(single)
        return losses.item(), torch.cat([gradients[name].flatten() for name in single]).double().cpu().numpy()

    return value_and_gradient, scatter


def _final_losses(parameters: Parameters, setting: Setting, training: TrainConfig) -> dict[str, Tensor]:
    """The population loss where there is one, else the error on one held-out batch that all members share."""
    if setting.no_exact_loss is None:
        return {"loss": setting.exact_loss(parameters).detach()}
    config, process = setting.config, setting.process
    device = next(iter(parameters.values())).device
    generator = seeds.generator_of(seeds.FINAL_LOSSES, device)
    sequences = process.contexts(EVALUATION_BATCH, config.n_ctx, generator=generator, dtype=config.torch_dtype)
    predict = predictions_of(config, device=device)
    shared = sequences.tokens.expand(training.n_seeds, -1, -1, -1)
    parts = shared.split(max(1, EVALUATION_PART // training.n_seeds), dim=1)
    with torch.no_grad():
        errors = torch.cat([squared_errors(predict, parameters, part, training.first_length) for part in parts], dim=1)
    kept = torch.sort(errors, dim=1)[0][:, : round((1 - TRIM) * EVALUATION_BATCH)]
    return {"loss": errors.mean(1), "trimmed": kept.mean(1)}
