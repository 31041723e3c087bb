"""How a model is trained. Plain data."""

import math
from dataclasses import asdict, dataclass

import torch

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp.seeds import TRAINING_LIMIT

OBJECTIVES = ("population", "sampled")
OPTIMIZERS = ("gd", "adam", "lbfgs")
SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        objective: `population` (the exact expectation) or `sampled` (a fresh batch at each step).
        optimizer: `gd` (plain gradient descent), `adam`, or `lbfgs` (population only: where just the minimum matters).
        lr: step size, for the loss summed over context lengths and over coordinates; unused by `lbfgs`.
        beta2: decay of Adam's mean of squared gradients; .95 is faster for short trainings on small batches.
        schedule: lr over the steps: `constant`, or down to zero as a `cosine` or `linear`.
        warmup: steps over which lr rises to its value.
        clip: largest norm of a member's gradient, longer ones are shortened to it; None is never.
        first_length: shortest context in the loss; the longest is n_ctx.
        steps: updates at most.
        batch: sequences in a sampled batch.
        seed: seed of the first member; member k starts from, and samples with, seed + k, all below 2**31.
        n_seeds: members trained together as one ensemble; the one with the lowest final loss becomes the model.
        stop_below: stop once the loss per context length of every member is below this.
        device: `auto` (CUDA where there is one, else the CPU), or a torch device.
    """

    objective: str = "population"
    optimizer: str = "gd"
    lr: float = 1e-2
    beta2: float = 0.999
    schedule: str = "constant"
    warmup: int = 0
    clip: float | None = None
    first_length: int = 2
    steps: int = 2000
    batch: int = 256
    seed: int = 0
    n_seeds: int = 1
    stop_below: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("lr", self.lr, low=0.0, strict=True)
        check_number("beta2", self.beta2, low=0.0)
        if self.beta2 >= 1:
            raise ValueError(f"beta2 must be below 1, got {self.beta2}.")
        check_integer("warmup", self.warmup, low=0, high=10**9)
        check_integer("first_length", self.first_length, low=1, high=2**14)
        if self.clip is not None:
            check_number("clip", self.clip, low=0.0, strict=True)
        check_integer("steps", self.steps, low=1, high=10**9)
        check_integer("batch", self.batch, low=1, high=10**7)
        check_integer("seed", self.seed, low=0, high=TRAINING_LIMIT - 1)
        check_integer("n_seeds", self.n_seeds, low=1, high=10**6)
        if self.seed + self.n_seeds > TRAINING_LIMIT:
            raise ValueError(
                f"seed + n_seeds must be at most 2**31, got {self.seed} + {self.n_seeds}: members have the seeds "
                "from `seed` on, and what lies above is kept for measuring."
            )
        if self.stop_below is not None:
            check_number("stop_below", self.stop_below, low=0.0, strict=True)
        if self.objective == "sampled" and self.optimizer == "lbfgs":
            raise ValueError(
                "optimizer 'lbfgs' needs the exact gradients of objective 'population'; use 'gd' or 'adam'."
            )
        if self.optimizer == "lbfgs" and self.stop_below is not None:
            raise ValueError("stop_below goes with 'gd' and 'adam'; 'lbfgs' runs to convergence or to `steps`.")
        if self.objective == "population" and self.first_length != 2:
            raise ValueError(
                "first_length must be 2 for objective 'population': its closed form is the sum from T = 2."
            )
        if self.device != "auto":
            try:
                torch.device(self.device)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"device must be 'auto' or a torch device, got {self.device!r}.") from error

    def resolve_device(self) -> torch.device:
        """The device that training will use here.

        Raises:
            ValueError: CUDA asked for where there is none.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda' but this machine has no usable GPU; use device='auto' or 'cpu'.")
        return device

    def lr_at(self, step: int) -> float:
        """The step size of update `step`, counted from 0."""
        left = 1 - step / self.steps
        factor = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.schedule]
        return self.lr * factor * min(1.0, (step + 1) / (self.warmup + 1))

    def to_dict(self) -> dict[str, object]:
        """The fields, ready for JSON."""
        return asdict(self)
