"""`train`: from a config and a process to a run, one member or an ensemble of seeds."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ar_interp import seeds
from ar_interp._moods import calm
from ar_interp._signals import held
from ar_interp.checkpoints import TrainingRun, loaded, weights_of
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig
from ar_interp.processes import Process
from ar_interp.setting import Setting, setting_of
from ar_interp.training.batched import entry_for, form_of
from ar_interp.training.config import TrainConfig
from ar_interp.training.course import AllDivergedError, Log, descend, minimise
from ar_interp.training.descent import Layout
from ar_interp.training.form import Parameters
from ar_interp.training.objectives import (
    Objective,
    compiled_where_possible,
    of_entries,
    population_objective,
    sampled_objective,
    squared_errors,
    with_ridge,
)
from ar_interp.training.states import States, identity

EVALUATION_BATCH, EVALUATION_TOKENS = 4096, 2**20  # held-out sequences, fewer where these are too many tokens
EVALUATION_PART = {"cpu": 64, "cuda": 4096}  # sequences at once, over all members: on a CPU scores stay in the cache
COMPILED_FROM = 5000  # steps of a training on a GPU that are worth the time of torch.compile, some twenty seconds
TRIM = 0.01  # share of the worst sequences that the trimmed loss leaves out


class DivergenceError(RuntimeError):
    """The losses of all members left the finite numbers; `run` is the last good state."""

    def __init__(self, message: str, run: TrainingRun) -> None:
        super().__init__(message)
        self.run = run


@calm(gradients=True)
def train(
    config: Config,
    process: Process,
    training: TrainConfig | None = None,
    *,
    init: Any = None,
    progress: bool = True,
    resume: str | Path | States | None = None,
    every: int | None = None,
) -> TrainingRun:
    """Train one model, or an ensemble of seeds of which the best is kept.

    The same arguments on the same machine with the same number of threads (`torch.get_num_threads()`, recorded as
    `threads` of the run) give the same result bit for bit. The last bits of L-BFGS are those of SciPy's OpenBLAS, which
    chooses its kernels by the processor (OPENBLAS_CORETYPE).

    Args:
        config: the model.
        process: what it learns; its dim is the model's.
        training: how; `TrainConfig()` if left out.
        init: weights to begin from, e.g. to fine-tune: a checkpoint, its name or folder, a run, a model or tensors by
            name. All members begin there; the run's `origin` says so. Fresh ones of each seed if left out.
        progress: show a bar with the loss, the theoretical minimum and the time left.
        resume: a folder for states of this training, of which the two newest are kept. Where there is one the training
            goes on from it, and ends with the same bits as one that was never stopped. Meanwhile SIGINT and SIGTERM
            write a state before they act. The last state stays: remove the folder once the run is saved.
        every: also write a state at each multiple of so many steps (with L-BFGS, members); else each minute.
    Raises:
        ValueError: sizes that do not agree, or a population loss where theory has none; a folder with states of another
            training, or of one that would not end in the same bits here.
        BlockingIOError: another process is at work in the folder `resume`.
        DivergenceError: no member's loss is finite any more; its `run` holds the last good state. A member that
            diverges alone is left at its own last good state, with a warning and a column `diverged` in `members`.
    """
    for argument, value, wanted in (("config", config, Config), ("process", process, Process)):
        if not isinstance(value, wanted):
            raise ValueError(
                f"{argument} must be a {wanted.__name__}, got {type(value).__name__}: train(config, process)."
            )
    if resume is None:
        if every is not None:
            raise ValueError("every goes with resume, the folder that states are written to.")
        return _train(config, process, training or TrainConfig(), init, progress, None)
    folder = nullcontext(resume) if isinstance(resume, States) else States(resume, every=every, say=_say(progress))
    with folder as states, held() as states.came:
        return _train(config, process, training or TrainConfig(), init, progress, states)


def _say(progress: bool) -> Callable[[str], object]:
    """Say something above a bar, if there is one."""
    return tqdm.write if progress else lambda text: None


def _train(
    config: Config, process: Process, training: TrainConfig, init: Any, progress: bool, states: States | None
) -> TrainingRun:
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
    trained: Parameters = {}
    if training.entries != "all":
        trained = {name: mask.to(device) for name, mask in config.entries(training.entries).items()}  # type: ignore[attr-defined]

    def objective_of(generators: Sequence[torch.Generator]) -> Objective:
        """The loss of the members that have these generators."""
        if training.objective == "population":
            objective = population_objective(setting, solve=training.solve)
            objective = compiled_where_possible(objective) if compiled else objective
        else:
            options = {name: getattr(training, name) for name in ("batch", "first_length", "fresh", "pool")}
            objective = sampled_objective(config, process, generators=generators, compiled=compiled, **options)
        objective = of_entries(objective, trained) if trained else objective
        return with_ridge(objective, training.ridge) if training.ridge else objective

    in_turn = training.optimizer == "lbfgs"
    objectives = [objective_of(own) for own in ([[own] for own in generators] if in_turn else [generators])]
    parameters, origin = _beginning(config, training, init)
    parameters = {name: value.to(device) * trained.get(name, 1) for name, value in parameters.items()}
    layout = Layout(parameters)
    log = Log(setting, training, progress, layout)
    if states is not None:
        states.training = identity(config, process, training, layout.flat(parameters))
    try:
        if in_turn:
            parameters, steps = minimise(objectives, parameters, training, log, states)
        else:
            parameters, steps = descend(objectives[0], parameters, training, log, generators, compiled, states)
        all_lost = False
    except AllDivergedError:
        parameters, steps, all_lost = layout.named(log.last_good), log.last_good_step, True
    log.bar.close()
    if training.solve:
        parameters = setting.solved(parameters)

    final = _final_losses(parameters, setting, training, log.n_lengths)
    lost = log.diverged.cpu()
    kept = final["loss"].cpu().masked_fill(lost & (not all_lost), torch.inf)
    best = int(kept.argmin())
    columns = {"seed": list(member_seeds)} | {name: losses.tolist() for name, losses in final.items()}
    for name, values in (("lr", training.lrs), ("init_scale", training.init_scales)):
        columns |= {name: list(values)} if values else {}
    if training.n_seeds > 1:
        columns |= {name: values.tolist() for name, values in setting.of_members(parameters).items()}
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
        curves=torch.stack(log.curves).numpy() if len(log.curves) == len(log.rows) > 0 else None,
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


def _beginning(config: Config, training: TrainConfig, init: Any) -> tuple[Parameters, str]:
    """The initial weights of every member, stacked, and what they come from if they are not drawn.

    Raises:
        ValueError: init_scales where the config has none, or does not use it; a start that it has not.
    """
    origin, configs = "", [config] * training.n_seeds
    if init is not None:
        begun = init if isinstance(init, Mapping) else loaded(init, "init")
        members = [weights_of(begun, config, "init")] * training.n_seeds
        origin = f"training began from the weights of {getattr(begun, 'name', type(begun).__name__)}"
    elif training.start:
        if not hasattr(config, "gradient_step"):
            raise ValueError(
                f"start goes with ModelConfig.augmented(...), not with {type(config).__name__}: a and b are "
                "of a gradient step."
            )
        members = [config.gradient_step(*training.start)] * training.n_seeds  # type: ignore[attr-defined]
    else:
        if training.init_scales:
            if getattr(config, "init_scale", None) is None or getattr(config, "init", "gaussian") != "gaussian":
                raise ValueError(
                    "init_scales needs a config with init='gaussian': its init_scale is what they replace."
                )
            configs = [replace(config, init_scale=scale) for scale in training.init_scales]  # type: ignore[type-var]
        members = [own.initial_parameters(seed=training.seed + k) for k, own in enumerate(configs)]
    return {name: torch.stack([own[name] for own in members]) for name in members[0]}, origin


def final_loss(run: TrainingRun, weights: Mapping[str, Tensor]) -> float:
    """The loss that training on a CPU would log of these weights at its end, wherever they are now.

    Args:
        run: whose config, process and contexts count.
        weights: of the shapes of its config.
    """
    setting, training = setting_of(run.config, run.process), replace(run.training, n_seeds=1)
    lengths = getattr(run.config, "n_ctx", 1) - training.first_length + 1
    parameters = {name: weights[name].detach().cpu()[None] for name in run.config.parameter_shapes}
    return _final_losses(parameters, setting, training, lengths)["loss"].item()


def _final_losses(parameters: Parameters, setting: Setting, training: TrainConfig, n_lengths: int) -> dict[str, Tensor]:
    """The population loss where there is one, else the error on one held-out batch that all members share; with what
    else the contexts count of it.
    """
    if setting.no_exact_loss is None:
        return {"loss": setting.exact_loss(parameters).detach() / n_lengths}
    config, process = setting.config, setting.process.unseen
    device = next(iter(parameters.values())).device
    generator = seeds.generator_of(seeds.FINAL_LOSSES, device)
    batch = max(1, min(EVALUATION_BATCH, EVALUATION_TOKENS // config.n_ctx))
    sequences = process.contexts(batch, config.n_ctx, generator=generator, dtype=config.torch_dtype)
    form = form_of(config, process.real_tokens)
    if type(config) is not ModelConfig:  # on the contexts of any task, as in training
        inputs = sequences.inputs
        with torch.no_grad():
            predictions = form.predict(parameters, inputs.expand(training.n_seeds, *inputs.shape))
        losses = [sequences.losses(own, first_length=training.first_length, observed=True) for own in predictions]
        counted = [sequences.shares(own) for own in predictions]
        return _summed(torch.stack(losses)) | {
            name: torch.stack([own[name] for own in counted]).double().mean(1) for name in counted[0]
        }
    shared = sequences.tokens.expand(training.n_seeds, -1, -1, -1)
    at_once = min(entry_for(device, EVALUATION_PART), EVALUATION_TOKENS // (4 * config.n_ctx))
    parts = shared.split(max(1, at_once // training.n_seeds), dim=1)
    with torch.no_grad():
        products = form.collapse(parameters, config.n_ctx)
        errors = torch.cat([squared_errors(form, products, part, training.first_length) for part in parts], dim=1)
    return _summed(errors / n_lengths)


def _summed(errors: Float[Tensor, "member batch"]) -> dict[str, Tensor]:
    """The mean over a batch, and without the largest errors."""
    kept = torch.sort(errors, dim=1)[0][:, : round((1 - TRIM) * errors.shape[1])]
    return {"loss": errors.mean(1), "trimmed": kept.mean(1)}
