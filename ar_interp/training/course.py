"""The course of a training, which can go on from a state: descent of all members, or L-BFGS of one after another."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ar_interp._checks import as_tensor, check_integer
from ar_interp._files import check_keys
from ar_interp._parts import MAX_LOGGED, STEP_COLUMNS
from ar_interp._tensors import Likes
from ar_interp.setting import Setting
from ar_interp.training.config import TrainConfig
from ar_interp.training.descent import Descent, Layout, loss_and_gradient
from ar_interp.training.form import Parameters
from ar_interp.training.objectives import Objective
from ar_interp.training.states import Facts, States

N_LOGGED = 200  # points of the recorded history, but for those of its beginning
N_BY_OCTAVE = 8  # from one power of two to the next, in the beginning
SNAPSHOT_SIZE = 2**11  # weights of a model of which those along training are kept
TWISTER = 624  # numbers that a generator of the CPU makes at once


class AllDivergedError(Exception):
    """No member's loss is finite any more; caught by `train`, never shown."""


class Log:
    """History, progress bar, snapshots and the last good state."""

    def __init__(self, setting: Setting, training: TrainConfig, progress: bool, layout: Layout) -> None:
        self.n_lengths = setting.config.n_ctx - training.first_length + 1
        follows = training.optimizer != "lbfgs" and type(setting).record is not Setting.record
        self.every = 1 if follows and training.steps < MAX_LOGGED else max(1, training.steps // N_LOGGED)
        self.rows: list[dict[str, float]] = []
        self.curves: list[Tensor] = []
        self.record_of = setting.record if follows else None
        self.recorded: list[Mapping[str, Tensor]] = []
        self.layout = layout
        self.snapshots: dict[int, Tensor] = {}
        self.diverged = torch.zeros(training.n_seeds, dtype=torch.bool, device="cpu")
        self.diverged_by = 0
        self.last_good: Tensor
        self.last_good_step = 0
        self.minimum = setting.minimum
        self.total = training.n_seeds if training.optimizer == "lbfgs" else training.steps
        self.unit = "seed" if training.optimizer == "lbfgs" else "step"
        self.bar = tqdm(total=self.total, unit=self.unit, disable=not progress, leave=False)

    def record(self, step: int, losses: Tensor, flat: Tensor) -> Tensor | None:
        """A row of the history: the losses of all members before update `step`, which the weights `flat` gave.

        Returns:
            which members have diverged, if some did since the last row; they are left out of later rows, and
            `last_good` keeps their weights of then.
        """
        losses = losses.detach() / self.n_lengths
        self.curves.append(losses.cpu())
        lost = ~torch.isfinite(losses)
        gone = lost.cpu() | self.diverged
        news = lost if (gone != self.diverged).any() else None
        if news is not None:
            self.diverged, self.diverged_by = gone, step
            if gone.all():
                raise AllDivergedError
        went_on = ~gone.to(losses.device)
        self.last_good = torch.where(went_on[:, None], flat, self.last_good) if gone.any() else flat
        self.last_good_step = step
        losses = losses[went_on]
        low, middle, high = torch.quantile(
            losses, torch.tensor([0, 0.5, 1], dtype=losses.dtype, device=losses.device).to(losses)
        ).tolist()
        self.rows.append(dict(zip(STEP_COLUMNS, (step, low, middle, high), strict=True)))
        if self.record_of is not None:
            self.recorded.append(self.record_of(self.layout.named(flat)))
        shown = {"loss": f"{low:.4g}"} | ({} if self.minimum is None else {"minimum": f"{self.minimum:g}"})
        self.bar.set_postfix(shown, refresh=False)
        return news

    def notes(self, step: int) -> bool:
        """Whether the history has a row of a step: densely in the beginning, so that a fast descent is seen."""
        dense = max(1, 2 ** step.bit_length() // (2 * N_BY_OCTAVE))
        return step % self.every == 0 or step % min(dense, self.every) == 0

    def go_on_from(self, done: int, states: States) -> None:
        """Show that so many steps, or members, are done."""
        self.bar.n = self.bar.initial = done
        states.say(f"training goes on from {self.unit} {done} of {self.total}")


class _Descending:
    """All that descent reads and changes, as a state holds it."""

    def __init__(self, descent: Descent, log: Log, generators: Sequence[torch.Generator]) -> None:
        self.descent, self.log, self.generators = descent, log, generators
        self.followed = {} if log.record_of is None else log.record_of(descent.layout.named(descent.flat))

    def facts(self) -> Facts:
        log = self.log
        return {
            "step": int(self.descent.count),
            "diverged_by": log.diverged_by,
            "last_good_step": log.last_good_step,
        }

    def tensors(self) -> dict[str, Tensor]:
        log, step = self.log, int(self.descent.count)
        rows = [[row[name] for name in STEP_COLUMNS[1:]] for row in log.rows]
        along = {f"snapshots.{k}": flat for k, flat in log.snapshots.items() if k <= step}
        history = torch.tensor(rows, dtype=torch.float64, device="cpu").view(len(rows), 3)
        followed = {
            f"followed.{name}": torch.stack([first, *(row[name] for row in log.recorded)])[1:]
            for name, first in self.followed.items()
        }
        return self._fixed() | along | followed | {"history": history}

    def _fixed(self) -> dict[str, Tensor]:
        """Those whose shape does not depend on the step."""
        descent, log = self.descent, self.log
        found = {"weights": descent.flat, "losses": descent.losses, "stopped": descent.stopped}
        found |= {"last_good": log.last_good, "diverged": log.diverged}
        if descent.training.optimizer == "adam":
            found |= {"mean": descent.mean, "square": descent.square}
        if self.generators:
            found["generators"] = torch.stack([generator.get_state() for generator in self.generators])
        return found

    def likes_of(self, facts: Facts) -> Likes:
        """Dtypes and shapes of the tensors that go with facts, which are checked."""
        check_keys(facts, set(self.facts()), set(self.facts()), "facts")
        step = check_integer("step", facts["step"], low=0, high=self.descent.training.steps)
        for name in ("diverged_by", "last_good_step"):
            check_integer(name, facts[name], low=0, high=step)
        likes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in self._fixed().items()}
        if self.log.snapshots:
            powers = [2**k for k in range(step.bit_length())]
            likes |= {f"snapshots.{k}": likes["weights"] for k in [0, *powers]}
        rows = len(self._rows_until(step))
        likes |= {f"followed.{name}": (x.dtype, (rows, *x.shape)) for name, x in self.followed.items()}
        return likes | {"history": (torch.float64, (rows, 3))}

    def _rows_until(self, step: int) -> list[int]:
        return [*filter(self.log.notes, range(step))]

    def restore(self, facts: Facts, tensors: dict[str, Tensor]) -> None:
        """Put everything where it was."""
        descent, log, step = self.descent, self.log, facts["step"]
        if tensors["diverged"].all():
            raise ValueError("all members have diverged.")
        if not tensors["history"].isfinite().all():
            raise ValueError("history must be finite.")
        if self.generators:
            _set_states(self.generators, tensors["generators"])
        for name in ("weights", "losses", "stopped", "mean", "square"):
            if name in tensors:
                self._fixed()[name].copy_(tensors[name])
        descent.count.fill_(step)
        log.last_good, log.diverged = tensors["last_good"].to(descent.flat.device), tensors["diverged"]
        log.diverged_by, log.last_good_step = facts["diverged_by"], facts["last_good_step"]
        descent.going.copy_(~log.diverged)
        descent.some_rest |= bool(log.diverged.any())
        rows = zip(self._rows_until(step), tensors["history"].tolist(), strict=True)
        log.rows = [dict(zip(STEP_COLUMNS, (k, *losses), strict=True)) for k, losses in rows]
        followed = {name: tensors[f"followed.{name}"].to(descent.flat.device) for name in self.followed}
        log.recorded = [{name: x[k] for name, x in followed.items()} for k in range(len(log.rows) if followed else 0)]
        along = {name: flat for name, flat in tensors.items() if name.startswith("snapshots.")}
        log.snapshots = {int(name.partition(".")[2]): flat.to(descent.flat.device) for name, flat in along.items()}


def _set_states(generators: Sequence[torch.Generator], states: Tensor) -> None:
    """Set generators to states that may come from anybody."""
    if generators[0].device.type == "cpu":  # torch would draw from beyond its numbers where these two do not fit
        left, _, following, high = states.view(torch.int32)[:, 2:6].T
        fits = (left + following == TWISTER + 1) | ((left == 1) & (following == 0))
        if not (fits & (high == 0)).all():
            raise ValueError("generators are in no state that they could be in.")
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state.clone())  # of a row of several, torch reads the wrong memory


def descend(
    objective: Objective,
    parameters: Parameters,
    training: TrainConfig,
    log: Log,
    generators: Sequence[torch.Generator],
    compiled: bool,
    states: States | None,
) -> tuple[Parameters, int]:
    """Gradient steps on all members at once; where they end, and how many were made."""
    stop = None if training.stop_below is None else training.stop_below * log.n_lengths
    descent = Descent(objective, parameters, training, stop_below=stop, generators=generators, compiled=compiled)
    log.last_good = descent.flat.clone()
    if descent.flat.shape[1] <= SNAPSHOT_SIZE:
        log.snapshots[0] = log.last_good
    state = _Descending(descent, log, generators if training.objective == "sampled" else ())
    if states is not None and states.resume(state.likes_of, state.restore):
        log.go_on_from(int(descent.count), states)
    done = int(descent.count)
    over = done == training.steps or bool(descent.stopped)
    while not over:
        logged = log.notes(done)
        before = descent.flat.clone() if logged else descent.flat
        descent.advance(1)
        done += 1
        due = states is not None and states.due(done)
        looks = logged or due or log.notes(done) or done == training.steps
        if stop is not None and looks and descent.stopped:
            break
        if logged:
            lost = log.record(done - 1, descent.losses, before)
            if lost is not None:
                descent.leave_out(lost, log.last_good)
            log.bar.update(done - log.bar.n)
        if log.snapshots and done.bit_count() == 1:
            log.snapshots[done] = descent.flat.clone()
        over = done == training.steps
        if states is not None and due and not over:
            states.keep(done, state.facts(), state.tensors())
    steps = int(descent.count)
    if states is not None:
        states.keep(steps, state.facts(), state.tensors())
    losses = descent.losses
    if stop is None or not descent.stopped:
        losses = loss_and_gradient(objective, descent.layout, descent.flat)[0]
    lost = log.record(steps, losses, descent.flat.clone())
    if lost is not None:
        descent.leave_out(lost, log.last_good)
    return descent.layout.named(descent.flat), steps


def minimise(
    objectives: Sequence[Objective],
    parameters: Parameters,
    training: TrainConfig,
    log: Log,
    states: States | None,
) -> tuple[Parameters, int]:
    """SciPy's L-BFGS-B on each member's objective in turn; where they end, and the largest number of iterations.

    It has no state that can be had: whole members are kept.
    """
    layout = Layout(parameters)
    flat = layout.flat(parameters)
    log.last_good = flat.clone()
    curves: list[list[float]] = []

    def likes_of(facts: Facts) -> Likes:
        check_keys(facts, {"members", "iterations"}, {"members", "iterations"}, "facts")
        members = check_integer("members", facts["members"], low=1, high=training.n_seeds)
        iterations = check_integer("iterations", facts["iterations"], low=0, high=training.steps)
        curves_like = (torch.float64, (members, iterations + 1))
        return {"weights": (flat.dtype, tuple(flat.shape)), "curves": curves_like}

    def restore(facts: Facts, tensors: dict[str, Tensor]) -> None:
        flat.copy_(tensors["weights"])
        curves[:] = tensors["curves"].tolist()

    if states is not None and states.resume(likes_of, restore):
        log.go_on_from(len(curves), states)
    for k in range(len(curves), training.n_seeds):
        member = flat[k]

        def value_and_gradient(x: np.ndarray, like: Tensor = member, k: int = k) -> tuple[float, np.ndarray]:
            if states is not None:
                states.give_way(k)
            losses, gradient = loss_and_gradient(objectives[k], layout, as_tensor(x).to(like)[None])
            return losses.item(), gradient[0].double().cpu().numpy()

        x, curve = _lbfgs(value_and_gradient, member.double().cpu().numpy(), training.steps)
        member.copy_(as_tensor(x))
        curves.append(curve)
        log.bar.update()
        if states is not None and (states.due(k + 1, after=0.0) or k + 1 == training.n_seeds):
            whole = torch.from_numpy(_of_one_length(curves))
            states.keep(k + 1, {"members": k + 1, "iterations": whole.shape[1] - 1}, {"weights": flat, "curves": whole})
    losses = _of_one_length(curves)
    last = losses.shape[1] - 1
    for step in [*filter(log.notes, range(last)), last]:
        log.record(step, torch.from_numpy(losses[:, step]).to(flat.device), flat)
    return layout.named(flat), last


def _of_one_length(curves: list[list[float]]) -> np.ndarray:
    """[member iteration]; a member that is done stays where it is."""
    longest = max(map(len, curves))
    return np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])


def _lbfgs(value_and_gradient: Callable, start: np.ndarray, steps: int) -> tuple[np.ndarray, list[float]]:
    """Where L-BFGS-B ends, and the loss before each iteration and at the end."""
    curve = [value_and_gradient(start)[0]]

    def follow(intermediate_result: "scipy.optimize.OptimizeResult") -> None:
        curve.append(float(intermediate_result.fun))

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0.0, "gtol": 1e-13, "maxcor": 30}
    result = scipy.optimize.minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", callback=follow, options=options
    )
    return result.x, curve
