"""Gradient steps on all members at once; a step on a GPU is one CUDA graph.

All that a step reads and changes lies on the device and keeps its place: weights, Adam's means, the number of updates,
which members go on, losses, the state of the generators. So a graph replays it, and nothing waits for the host.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ar_interp.training.config import TrainConfig
from ar_interp.training.form import Parameters
from ar_interp.training.objectives import Objective, compiled_where_possible, value_and_gradients

BETA1, EPS = 0.9, 1e-8  # of Adam
WARM_UP = 3  # steps before a graph is captured, whose effects are undone


class Layout:
    """Names and shapes of a member's parameters, in one row of numbers."""

    def __init__(self, parameters: Parameters) -> None:
        self.shapes = {name: tensor.shape[1:] for name, tensor in parameters.items()}

    def flat(self, parameters: Parameters) -> Float[Tensor, "member number"]:
        """Side by side, a copy."""
        return torch.cat([parameters[name].flatten(1) for name in self.shapes], dim=1)

    def named(self, flat: Float[Tensor, "member number"]) -> Parameters:
        """The parts of the rows, contiguous on a CPU, whose passes over strided members are slow."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()], dim=1)
        if flat.device.type == "cpu":
            parts = [part.contiguous() for part in parts]
        return {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def loss_and_gradient(
    objective: Objective, layout: Layout, flat: Float[Tensor, "member number"]
) -> tuple[Float[Tensor, "member"], Float[Tensor, "member number"]]:
    """Each member's loss and its gradient with respect to its own row."""
    losses, gradients = value_and_gradients(lambda rows: objective(layout.named(rows["flat"])), {"flat": flat})
    return losses, gradients["flat"]


class Descent:
    """Plain gradient descent, or Adam.

    Args:
        objective: each member's loss.
        parameters: where the members start.
        training: step sizes, schedule, clipping, when to stop.
        stop_below: stop once the loss of every member that goes on is below this.
        generators: those that the objective draws from.
        compiled: the update of the weights goes through `torch.compile`.

    Attributes:
        flat: the weights [member number], see `Layout`.
        losses: [member], before the last update.
        going: [member], which of them go on.
        on_graph: a step is one CUDA graph.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Parameters,
        training: TrainConfig,
        *,
        stop_below: float | None = None,
        generators: Sequence[torch.Generator] = (),
        compiled: bool = False,
    ) -> None:
        self.objective, self.training, self.stop_below = objective, training, stop_below
        self.layout = Layout(parameters)
        self.flat = self.layout.flat(parameters)
        members, device = len(self.flat), self.flat.device
        self.rates = self.flat.new_tensor(training.member_lrs)[:, None]
        self.losses = self.flat.new_zeros(members)
        self.going = torch.ones(members, dtype=torch.bool, device=device)
        self.stopped = torch.zeros((), dtype=torch.bool, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)  # of updates
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self._move = compiled_where_possible(self._descend) if compiled else self._descend
        self.some_rest = device.type == "cuda" or stop_below is not None  # a graph cannot ask
        self.on_graph = False
        self._run = self.update
        if device.type == "cuda" and not training.solve:  # the attempt to record eigenvectors breaks their library
            state = [self.flat, self.losses, self.stopped, self.count, self.mean, self.square]
            self._run, self.on_graph = as_graph(self.update, state, generators)

    def update(self) -> None:
        """One step, in place."""
        losses, gradient = loss_and_gradient(self.objective, self.layout, self.flat)
        with torch.no_grad():
            self._move(losses, gradient)

    def _descend(self, losses: Tensor, gradient: Tensor) -> None:
        training, going = self.training, self.going
        if self.stop_below is None:
            self.losses.copy_(losses)
        else:
            self.losses.copy_(torch.where(self.stopped, self.losses, losses))
            self.stopped |= ((losses < self.stop_below) | ~going).all()
            going = going & ~self.stopped
        if self.some_rest:
            gradient = gradient.masked_fill(~going[:, None], 0.0)
        if training.clip is not None:
            gradient = clipped(gradient, training.clip)
        rates = self.rates * training.share_of_lr(self.count)
        if training.optimizer == "adam":
            self.mean.lerp_(gradient, 1 - BETA1)
            self.square.mul_(training.beta2).addcmul_(gradient, gradient, value=1 - training.beta2)
            bias1, bias2 = (1 - beta ** (self.count + 1) for beta in (BETA1, training.beta2))
            gradient = self.mean / (self.square.sqrt() / bias2.sqrt()).add_(EPS)
            rates = rates / bias1
            if self.some_rest:
                rates = rates * going[:, None]
        self.flat.addcmul_(rates, gradient, value=-1)
        self.count += 1 if self.stop_below is None else ~self.stopped

    def advance(self, n: int) -> None:
        """n updates; fewer where all are below `stop_below`: then the state stays as it is."""
        look = self.stop_below is not None and not self.on_graph
        for _ in range(n):
            if look and self.stopped:
                return
            self._run()

    def leave_out(self, members: Bool[Tensor, "member"], back_to: Float[Tensor, "member number"]) -> None:
        """Members that go no further, and where they are put; the others do not notice."""
        self.flat.copy_(torch.where(members[:, None], back_to, self.flat))
        for means in (self.mean, self.square):
            means.masked_fill_(members[:, None], 0.0)
        self.going &= ~members
        self.some_rest = True


def clipped(gradient: Float[Tensor, "member number"], largest: float) -> Float[Tensor, "member number"]:
    """Each member's gradient, shortened to norm `largest` where it is longer."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient * (largest / norm).clamp(max=1.0)


def as_graph(
    update: Callable[[], None], state: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> tuple[Callable[[], None], bool]:
    """A function that does what `update` does by replaying one CUDA graph, and True; itself and False if that fails.

    Numbers drawn are those of a call without a graph: each replay moves the generators on.

    Args:
        state: all tensors that `update` changes; they, and the generators, are left as they were.
    """
    kept, seeds = [tensor.clone() for tensor in state], [generator.get_state() for generator in generators]
    stream = torch.cuda.current_stream()
    run, captured = update, False
    try:
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                update()
        stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with warnings.catch_warnings(), torch.cuda.graph(graph):
            warnings.filterwarnings("ignore", "The CUDA Graph is empty")  # beside the error that says why
            update()
        run, captured = graph.replay, True
    except (RuntimeError, AttributeError) as error:  # an operation that waits for the host, or an old torch
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        reason = str(error).partition("\n")[0]
        warnings.warn(f"training launches its operations one by one: no CUDA graph ({reason}).", stacklevel=3)
    for tensor, value in zip(state, kept, strict=True):
        tensor.copy_(value)
    for generator, seed in zip(generators, seeds, strict=True):
        generator.set_state(seed)
    return run, captured
