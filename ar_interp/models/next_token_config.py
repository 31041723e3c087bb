"""Config of linear next-token predictors. Plain data, which loads without TransformerLens."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_choice, check_integer
from ar_interp.models.base import Config
from ar_interp.models.config import DTYPES, MAX_PARAMETERS
from ar_interp.processes.chains import MAX_SYMBOLS, MAX_TOKENS, ChainTask


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig(Config):
    """A linear next-token predictor. It starts from 0: its loss is convex.

    Attributes:
        dim: size of the vocabulary.
        n_prompt: tokens that are given.
        n_chain: tokens that are predicted, the answer included.
        window: K, newest tokens that one shared map sees; None for a map of its own for each step, of all tokens.
        dtype: `float64` or `float32`.
    """

    kind: ClassVar[str] = "next-token"

    dim: int
    n_prompt: int
    n_chain: int
    window: int | None = None
    dtype: str = "float64"

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, low=1, high=MAX_SYMBOLS)
        check_integer("n_prompt", self.n_prompt, low=1, high=MAX_TOKENS)
        check_integer("n_chain", self.n_chain, low=1, high=MAX_TOKENS)
        check_choice("dtype", self.dtype, tuple(DTYPES))
        if self.window is not None:
            check_integer("window", self.window, low=1, high=self.n_ctx)
        size = self.n_sources * self.dim**2 * (1 if self.window else self.n_chain)
        if size > MAX_PARAMETERS:
            raise ValueError(f"the model would have {size:,} weights, more than {MAX_PARAMETERS:,}: take a window.")

    @classmethod
    def of(cls, task: ChainTask, **options: Any) -> "NextTokenConfig":
        """The model of a task's sizes; `options` are window and dtype."""
        return cls(dim=task.dim, n_prompt=task.n_prompt, n_chain=task.n_chain, **options)

    @property
    def n_ctx(self) -> int:  # type: ignore[override] - a number that follows from others
        return self.n_prompt + self.n_chain - 1

    @property
    def n_sources(self) -> int:
        """Tokens that the logits are a sum over."""
        return self.window or self.n_ctx

    def sources(self, n_pos: int) -> Int[Tensor, "step source"]:
        """The places among n_pos tokens that each step of the chain sees, in the order of W; -1 where there is none."""
        n_steps, n_sources = n_pos - self.n_prompt + 1, self.window or n_pos
        step, source = torch.arange(n_steps, device="cpu")[:, None], torch.arange(n_sources, device="cpu")
        if self.window:
            return (self.n_prompt - 1 + step - source).clamp(min=-1)
        return torch.where(source < self.n_prompt + step, source, -1)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        steps = () if self.window else (self.n_chain,)
        return {"W": (*steps, self.n_sources, self.dim, self.dim), "b": (*steps, self.dim)}

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def summary(self) -> str:
        sees = f"the last {self.window} tokens, one map for all steps" if self.window else "all tokens, a map a step"
        return f"linear next-token predictor of {sees}; {self.dim} symbols, {self.n_prompt} + {self.n_chain} tokens"

    @property
    def initial_law(self) -> str:
        return "zeros"

    def check_process(self, process: object) -> None:
        wanted = (self.dim, self.n_prompt, self.n_chain)
        if not isinstance(process, ChainTask):
            raise ValueError(f"process must be a task of chains, such as Parity(), got {process!r}.")
        if (process.dim, process.n_prompt, process.n_chain) != wanted:
            raise ValueError(
                f"process must have {self.dim} symbols and {self.n_prompt} + {self.n_chain} tokens, got {process.dim} "
                f"and {process.n_prompt} + {process.n_chain}: make the model with NextTokenConfig.of(process)."
            )

    def initial_parameters(self, *, seed: int) -> dict[str, Tensor]:
        return {
            name: torch.zeros(shape, dtype=self.torch_dtype, device="cpu")
            for name, shape in self.parameter_shapes.items()
        }

    def build(self, process: Any = None, *, device: str | torch.device = "cpu") -> Any:
        return import_module("ar_interp.models.next_token").HookedNextToken(self, process).to(device)
