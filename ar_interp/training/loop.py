"""`train`: from a config and a process to a run, one member or an ensemble of seeds."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor
from tqdm.auto import tqdm

from ar_interp import seeds
from ar_interp._checks import as_tensor
from ar_interp._moods import calm
from ar_interp._parts import MAX_LOGGED
from ar_interp.checkpoints import TrainingRun, loaded, weights_of
from ar_interp.models.config import Config
from ar_interp.processes import Process
from ar_interp.setting import Setting, setting_of
from ar_interp.training.batched import Parameters, form_of
from ar_interp.training.config import TrainConfig
from ar_interp.training.descent import Descent, Layout, loss_and_gradient
from ar_interp.training.objectives import (
    Objective,
    compiled_where_possible,
    of_entries,
    population_objective,
    sampled_objective,
    squared_errors,
)

N_LOGGED = 200  # points of the recorded history
EVALUATION_BATCH, EVALUATION_TOKENS = 4096, 2**20  # held-out sequences, fewer where these are too many tokens
EVALUATION_PART = {"cpu": 64, "cuda": 4096}  # sequences at once, over all members: on a CPU scores stay in the cache
COMPILED_FROM = 5000  # steps of a training on a GPU that are worth the time of torch.compile, some twenty seconds
SNAPSHOT_SIZE = 2**11  # weights of a model of which those along training are kept
TRIM = 0.01  # share of the worst sequences that the trimmed loss leaves out


class DivergenceError(RuntimeError):
    """The losses of all members left the finite numbers; `run` is the last good state."""

    def __init__(self, message: str, run: TrainingRun) -> None:
        super().__init__(message)
        self.run = run


class _AllDivergedError(Exception):  # caught here, never shown
    pass


@calm(gradients=True)
def train(
    config: Config,
    process: Process,
    training: TrainConfig | None = None,
    *,
    init: Any = None,
    progress: bool = True,
) -> TrainingRun:
    """Train one model, or an ensemble of seeds of which the best is kept.

    The same arguments on the same machine with the same number of threads (`torch.get_num_threads()`, recorded as
    `threads` of the run) give the same result bit for bit.

    Args:
        config: the model.
        process: what it learns; its dim is the model's.
        training: how; `TrainConfig()` if left out.
        init: weights to begin from, e.g. to fine-tune: a checkpoint, its name or folder, a run, a model or tensors by
            name. All members begin there; the run's `origin` says so. Fresh ones of each seed if left out.
        progress: show a bar with the loss, the theoretical minimum and the time left.
    Raises:
        ValueError: sizes that do not agree, or a population loss where theory has none.
        DivergenceError: no member's loss is finite any more; its `run` holds the last good state. A member that
            diverges alone is left at its own last good state, with a warning and a column `diverged` in `members`.
    """
    for argument, value, wanted in (("config", config, Config), ("process", process, Process)):
        if not isinstance(value, wanted):
            raise ValueError(
                f"{argument} must be a {wanted.__name__}, got {type(value).__name__}: train(config, process)."
            )
    training = training or TrainConfig()
    config.check_process(process)
    if training.first_length > config.n_ctx:
        raise ValueError(f"first_length must be at most n_ctx = {config.n_ctx}, got {training.first_length}.")
    if config.parity_obstruction:
        warnings.warn(f"training is in vain: {config.parity_obstruction}.", stacklevel=2)
    setting = setting_of(config, process)
    device = training.resolve_device()
    member_seeds = range(training.seed, training.seed + training.n_seeds)
    generators = [seeds.generator_of(seed, device) for seed in member_seeds]
    compiled = device.type == "cuda" and training.optimizer != "lbfgs" and training.steps >= COMPILED_FROM
    if training.objective == "population":
        objective = population_objective(setting, solve=training.solve)
        objective = compiled_where_possible(objective) if compiled else objective
    else:
        sizes = {"batch": training.batch, "first_length": training.first_length, "fresh": training.fresh}
        objective = sampled_objective(config, process, generators=generators, compiled=compiled, **sizes)
    trained: Parameters = {}
    if training.entries != "all":
        trained = {name: mask.to(device) for name, mask in config.entries(training.entries).items()}  # type: ignore[attr-defined]
        objective = of_entries(objective, trained)
    origin = ""
    if init is None:
        parameters = initial_members(config, training, device)
    else:
        begun = loaded(init, "init") if not isinstance(init, Mapping) else init
        parameters = {
            name: value.to(device).expand(training.n_seeds, *value.shape).clone()
            for name, value in weights_of(begun, config, "init").items()
        }
        origin = f"training began from the weights of {getattr(begun, 'name', type(begun).__name__)}"
    parameters = {name: value * trained[name] for name, value in parameters.items()} if trained else parameters
    layout = Layout(parameters)
    log = _Log(setting, training, progress, layout)
    descend = _minimise if training.optimizer == "lbfgs" else _descend
    try:
        parameters, steps = descend(objective, parameters, training, log, generators, compiled)
        all_lost = False
    except _AllDivergedError:
        parameters, steps, all_lost = layout.named(log.last_good), log.last_good_step, True
    log.bar.close()
    if training.solve:
        parameters = setting.solved(parameters)

    final = {name: losses / log.n_lengths for name, losses in _final_losses(parameters, setting, training).items()}
    lost = log.diverged.cpu()
    kept = final["loss"].cpu().masked_fill(lost & (not all_lost), torch.inf)
    best = int(kept.argmin())
    columns = {"seed": list(member_seeds)} | {name: losses.tolist() for name, losses in final.items()}
    for name, values in (("lr", training.lrs), ("init_scale", training.init_scales)):
        columns |= {name: list(values)} if values else {}
    signs = setting.record(parameters).get("minus") if training.n_seeds > 1 else None
    columns |= {} if signs is None else {"minus": signs.tolist()}
    columns |= {"diverged": lost.int().tolist()} if lost.any() else {}
    history = pd.DataFrame(log.rows)
    for name in log.recorded[0] if log.recorded else ():
        history[name] = [row[name][best].item() for row in log.recorded]
    run = TrainingRun(
        config=config,
        process=process,
        training=training,
        parameters=member_of(parameters, best),
        history=history,
        members=pd.DataFrame(columns),
        seed=member_seeds[best],
        steps=steps,
        origin=origin,
        snapshots={step: member_of(layout.named(flat), best) for step, flat in log.snapshots.items() if step < steps},
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        ensemble={name: tensor.detach().cpu() for name, tensor in parameters.items()},
    )
    if lost.any():
        of = [seed for seed, gone in zip(member_seeds, lost.tolist(), strict=True) if gone][:8]
        said = (
            f"diverged by step {log.diverged_by} (seeds {of}): the loss is not finite. Try a smaller lr or init_scale."
        )
        if all_lost:
            raise DivergenceError(f"training {said} error.run holds the state at step {steps}.", run)
        warnings.warn(f"{int(lost.sum())} of {training.n_seeds} members {said} The others went on.", stacklevel=2)
    return run


def member_of(parameters: Parameters, member: int) -> Parameters:
    """The weights of one member, on the CPU."""
    return {name: tensor[member].detach().cpu().clone() for name, tensor in parameters.items()}


def initial_members(config: Config, training: TrainConfig, device: torch.device) -> Parameters:
    """The initial weights of every member, stacked.

    Raises:
        ValueError: init_scales where the config has none, or does not use it; a start that it has not.
    """
    configs = [config] * training.n_seeds
    if training.start:
        begun = config.gradient_step(*training.start)  # type: ignore[attr-defined]
        return {name: value.to(device).expand(training.n_seeds, *value.shape).clone() for name, value in begun.items()}
    if training.init_scales:
        if getattr(config, "init_scale", None) is None or getattr(config, "init", "gaussian") != "gaussian":
            raise ValueError("init_scales needs a config with init='gaussian': its init_scale is what they replace.")
        configs = [replace(config, init_scale=scale) for scale in training.init_scales]  # type: ignore[type-var]
    members = [own.initial_parameters(seed=training.seed + k) for k, own in enumerate(configs)]
    return {name: torch.stack([m[name] for m in members]).to(device) for name in members[0]}


class _Log:
    """History, progress bar, snapshots and the last good state."""

    def __init__(self, setting: Setting, training: TrainConfig, progress: bool, layout: Layout) -> None:
        self.n_lengths = setting.config.n_ctx - training.first_length + 1
        follows = training.optimizer != "lbfgs" and type(setting).record is not Setting.record
        self.every = 1 if follows and training.steps < MAX_LOGGED else max(1, training.steps // N_LOGGED)
        self.rows: list[dict[str, float]] = []
        self.record_of = setting.record if follows else None
        self.recorded: list[Mapping[str, Tensor]] = []
        self.layout = layout
        self.snapshots: dict[int, Tensor] = {}
        self.diverged = torch.zeros(training.n_seeds, dtype=torch.bool, device="cpu")
        self.diverged_by = 0
        self.last_good: Tensor
        self.last_good_step = 0
        self.minimum = setting.minimum
        total = training.n_seeds if training.optimizer == "lbfgs" else training.steps
        unit = "seed" if training.optimizer == "lbfgs" else "step"
        self.bar = tqdm(total=total, unit=unit, disable=not progress, leave=False)

    def record(self, step: int, losses: Tensor, flat: Tensor) -> Tensor | None:
        """A row of the history: the losses of all members before update `step`, which the weights `flat` gave.

        Returns:
            which members have diverged, if some did since the last row; they are left out of later rows, and
            `last_good` keeps their weights of then.
        """
        losses = losses.detach() / self.n_lengths
        lost = ~torch.isfinite(losses)
        gone = lost.cpu() | self.diverged
        news = lost if (gone != self.diverged).any() else None
        if news is not None:
            self.diverged, self.diverged_by = gone, step
            if gone.all():
                raise _AllDivergedError
        went_on = ~gone.to(losses.device)
        self.last_good = torch.where(went_on[:, None], flat, self.last_good) if gone.any() else flat
        self.last_good_step = step
        losses = losses[went_on]
        low, middle, high = torch.quantile(
            losses, torch.tensor([0, 0.5, 1], dtype=losses.dtype, device=losses.device).to(losses)
        ).tolist()
        self.rows.append({"step": step, "loss_min": low, "loss_median": middle, "loss_max": high})
        if self.record_of is not None:
            self.recorded.append(self.record_of(self.layout.named(flat)))
        shown = {"loss": f"{low:.4g}"} | ({} if self.minimum is None else {"minimum": f"{self.minimum:g}"})
        self.bar.set_postfix(shown, refresh=False)
        return news


def _descend(
    objective: Objective,
    parameters: Parameters,
    training: TrainConfig,
    log: _Log,
    generators: Sequence[torch.Generator],
    compiled: bool,
) -> tuple[Parameters, int]:
    """Gradient steps on all members at once; where they end, and how many were made."""
    stop = None if training.stop_below is None else training.stop_below * log.n_lengths
    descent = Descent(objective, parameters, training, stop_below=stop, generators=generators, compiled=compiled)
    log.last_good = descent.flat.clone()
    if descent.flat.shape[1] <= SNAPSHOT_SIZE:
        log.snapshots[0] = log.last_good
    for done in range(0, training.steps, log.every):
        before = descent.flat.clone()
        descent.advance(1)
        if stop is None or not descent.stopped:
            lost = log.record(done, descent.losses, before)
            if lost is not None:
                descent.leave_out(lost, log.last_good)
            _advance(descent, done + 1, min(done + log.every, training.steps), log.snapshots)
        if stop is not None and descent.stopped:
            break
        log.bar.update(min(log.every, training.steps - done))
    steps = int(descent.count)
    losses = descent.losses
    if stop is None or not descent.stopped:
        losses = loss_and_gradient(objective, descent.layout, descent.flat)[0]
    lost = log.record(steps, losses, descent.flat.clone())
    if lost is not None:
        descent.leave_out(lost, log.last_good)
    return descent.layout.named(descent.flat), steps


def _advance(descent: Descent, start: int, end: int, snapshots: dict[int, Tensor]) -> None:
    """Updates from `start` to `end`, with a snapshot wherever their number is a power of two, if there are any."""
    done = start
    for power in range(end.bit_length()):
        step = 2**power
        if snapshots and start <= step <= end:
            descent.advance(step - done)
            snapshots[step] = descent.flat.clone()
            done = step
    descent.advance(end - done)


def _minimise(
    objective: Objective, parameters: Parameters, training: TrainConfig, log: _Log, *_: object
) -> tuple[Parameters, int]:
    """SciPy's L-BFGS-B on each member in turn; where they end, and the largest number of iterations."""
    layout = Layout(parameters)
    flat = layout.flat(parameters)
    log.last_good = flat.clone()
    curves: list[list[float]] = []
    for member in flat:

        def value_and_gradient(x: np.ndarray, like: Tensor = member) -> tuple[float, np.ndarray]:
            losses, gradient = loss_and_gradient(objective, layout, as_tensor(x).to(like)[None])
            return losses.item(), gradient[0].double().cpu().numpy()

        x, curve = _lbfgs(value_and_gradient, member.double().cpu().numpy(), training.steps)
        member.copy_(as_tensor(x))
        curves.append(curve)
        log.bar.update()
    longest = max(map(len, curves))
    losses = np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])  # a finished member stays
    for step in [*range(0, longest - 1, log.every), longest - 1]:
        log.record(step, torch.from_numpy(losses[:, step]).to(flat.device), flat)
    return layout.named(flat), longest - 1


def _lbfgs(value_and_gradient: Callable, start: np.ndarray, steps: int) -> tuple[np.ndarray, list[float]]:
    """Where L-BFGS-B ends, and the loss before each iteration and at the end."""
    curve = [value_and_gradient(start)[0]]

    def follow(intermediate_result: OptimizeResult) -> None:
        curve.append(float(intermediate_result.fun))

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0.0, "gtol": 1e-13, "maxcor": 30}
    result = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", callback=follow, options=options)
    return result.x, curve


def _final_losses(parameters: Parameters, setting: Setting, training: TrainConfig) -> dict[str, Tensor]:
    """The population loss where there is one, else the error on one held-out batch that all members share."""
    if setting.no_exact_loss is None:
        return {"loss": setting.exact_loss(parameters).detach()}
    config, process = setting.config, setting.process
    device = next(iter(parameters.values())).device
    generator = seeds.generator_of(seeds.FINAL_LOSSES, device)
    batch = max(1, min(EVALUATION_BATCH, EVALUATION_TOKENS // config.n_ctx))
    sequences = process.contexts(batch, config.n_ctx, generator=generator, dtype=config.torch_dtype)
    form = form_of(config, process.real_tokens)
    shared = sequences.tokens.expand(training.n_seeds, -1, -1, -1)
    at_once = min(EVALUATION_PART[device.type], EVALUATION_TOKENS // (4 * config.n_ctx))
    parts = shared.split(max(1, at_once // training.n_seeds), dim=1)
    with torch.no_grad():
        products = form.collapse(parameters, config.n_ctx)
        errors = torch.cat([squared_errors(form, products, part, training.first_length) for part in parts], dim=1)
    kept = torch.sort(errors, dim=1)[0][:, : round((1 - TRIM) * batch)]
    return {"loss": errors.mean(1), "trimmed": kept.mean(1)}
