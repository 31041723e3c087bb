"""How a model is trained. Plain data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_boolean, check_choice, check_device, check_integer, check_number
from ar_interp.seeds import TRAINING_LIMIT

OBJECTIVES = ("population", "sampled")
OPTIMIZERS = ("gd", "adam", "lbfgs")
SCHEDULES = ("constant", "cosine", "linear")
ENTRIES = ("all", "main", "diagonal")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        objective: `population` (the exact expectation) or `sampled` (a fresh batch at each step).
        optimizer: `gd` (plain gradient descent), `adam`, or `lbfgs` (where just the minimum matters: of the population
            loss, or of one batch that stays, `fresh=False`).
        lr: step size, for the loss summed over context lengths and over coordinates; unused by `lbfgs`.
        beta2: decay of Adam's mean of squared gradients; .95 is faster for short trainings on small batches.
        schedule: lr over the steps: `constant`, or down to zero as a `cosine` or `linear`.
        warmup: steps over which lr rises to its value.
        clip: largest norm of a member's gradient, longer ones are shortened to it; None is never.
        first_length: shortest context in the loss; the longest is n_ctx.
        steps: updates at most.
        batch: sequences in a sampled batch.
        fresh: a sampled batch is fresh at each step; else the first one is all that is seen.
        ridge: times the sum of squares of all weights, added to the loss that is descended; the final loss is without.
        pool: sampled batches are taken from so many contexts, drawn once for each member; None for no end of them.
        solve: weights that theory solves for, given the others, are solved for at each step (population only).
        seed: seed of the first member; member k starts from, and samples with, seed + k, all below 2**31.
        n_seeds: members trained together as one ensemble; the one with the lowest final loss becomes the model.
        lrs: step size of each member, in place of `lr`.
        init_scales: standard deviation of each member's initial weights, in place of the config's.
        start: (a, b) of the gradient step that members begin as, QK block (s_T, s_{t-1}) = a I and OV block of
            s_t = b I, all else 0; for block-scalar and merged heads. Fresh weights of each seed if left out.
        entries: which entries of merged heads are trained: `all`, those of these two `main` blocks, or of their
            `diagonal`; the others start at 0 and stay there.
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
    fresh: bool = True
    ridge: float = 0.0
    pool: int | None = None
    solve: bool = False
    seed: int = 0
    n_seeds: int = 1
    lrs: Sequence[float] = ()
    init_scales: Sequence[float] = ()
    start: Sequence[float] = ()
    entries: str = "all"
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
        check_boolean("fresh", self.fresh)
        check_number("ridge", self.ridge, low=0.0)
        if self.pool is not None:
            check_integer("pool", self.pool, low=self.batch, high=10**7)
            if self.objective != "sampled" or not self.fresh:
                raise ValueError(
                    "pool goes with objective 'sampled' and fresh batches from it: TrainConfig(objective='sampled', "
                    f"batch={self.batch}, pool={self.pool}); with fresh=False the first batch is the pool."
                )
        check_boolean("solve", self.solve)
        if self.solve and self.objective != "population":
            raise ValueError("solve goes with objective 'population': theory solves for the least expected loss.")
        check_integer("seed", self.seed, low=0, high=TRAINING_LIMIT - 1)
        check_integer("n_seeds", self.n_seeds, low=1, high=10**5)
        if self.seed + self.n_seeds > TRAINING_LIMIT:
            raise ValueError(
                f"seed + n_seeds must be at most 2**31, got {self.seed} + {self.n_seeds}: members have the seeds "
                "from `seed` on, and what lies above is kept for measuring."
            )
        for name in ("lrs", "init_scales"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or len(values) not in (0, self.n_seeds):
                raise ValueError(f"{name} must hold one number for each of the {self.n_seeds} members, got {values!r}.")
            numbers = tuple(
                check_number(f"{name}[{k}]", x, low=0.0, strict=name == "lrs") for k, x in enumerate(values)
            )
            object.__setattr__(self, name, numbers)
        if not isinstance(self.start, (list, tuple)) or len(self.start) not in (0, 2):
            raise ValueError(f"start must hold two numbers, a and b, got {self.start!r}.")
        start = tuple(check_number(f"start[{k}]", x, low=-inf) for k, x in enumerate(self.start))
        object.__setattr__(self, "start", start)
        check_choice("entries", self.entries, ENTRIES)
        if self.lrs and self.optimizer == "lbfgs":
            raise ValueError("lrs goes with 'gd' and 'adam'; 'lbfgs' finds its own step sizes.")
        if self.stop_below is not None:
            check_number("stop_below", self.stop_below, low=0.0, strict=True)
        if self.objective == "sampled" and self.fresh and self.optimizer == "lbfgs":
            raise ValueError(
                "optimizer 'lbfgs' needs one loss to minimise, got fresh batches: pass fresh=False for one batch that "
                "stays, objective='population', or use 'gd' or 'adam'."
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
            ValueError: one that this machine has not.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return check_device("device", self.device)

    @property
    def member_lrs(self) -> Sequence[float]:
        """The step size of each member, before the schedule."""
        return self.lrs or (self.lr,) * self.n_seeds

    def share_of_lr(self, step: Float[Tensor, "*steps"]) -> Float[Tensor, "*steps"]:
        """The schedule: the part of its step size that a member takes at update `step`, counted from 0."""
        left = 1 - step / self.steps
        if self.schedule == "cosine":
            left = (1 - torch.cos(torch.pi * left)) / 2
        elif self.schedule == "constant":
            left = torch.ones_like(left)
        return left * ((step + 1) / (self.warmup + 1)).clamp(max=1.0)

    def to_dict(self) -> dict[str, object]:
        """The fields, ready for JSON; those of single members where there are any."""
        return {name: value for name, value in asdict(self).items() if value != ()}
