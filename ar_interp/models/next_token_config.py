"""Config of next-token predictors. Plain data, which loads without TransformerLens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import relu

from ar_interp import seeds
from ar_interp._checks import check_boolean, check_choice, check_integer, check_seed
from ar_interp.models.base import Config
from ar_interp.models.config import DTYPES, MAX_PARAMETERS, MAX_WIDTH
from ar_interp.processes.chains import MAX_SYMBOLS, MAX_TOKENS, ChainTask

MODEL_MODULE = "ar_interp.models.next_token"
NEVER = -100.0  # logit of a symbol that cannot stand at a position: its probability is 0 to rounding


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig(Config):
    """A next-token predictor: a map of each token that is seen, and their sum. Where this is all, its loss is convex.

    Attributes:
        dim: size of the vocabulary.
        n_prompt: tokens that are given.
        n_chain: tokens that are predicted, the answer included.
        window: K, newest tokens that one shared map sees; None for a map of its own for each step, of all tokens.
        rank: d, of each map: E L U with vectors E of the symbols read and U of those written, which all maps share.
            None for maps of any rank.
        mlp: two ReLUs between the sum, of width `rank`, and the symbols: the logits are no sums over tokens.
        alphabets: (first, end) of the ids that can stand at each position of prompt and chain; other symbols have
            neither weights nor a chance there. All everywhere if left out.
        dtype: `float64` or `float32`.
    """

    kind: ClassVar[str] = "next-token"

    dim: int
    n_prompt: int
    n_chain: int
    window: int | None = None
    rank: int | None = None
    mlp: bool = False
    alphabets: Sequence[Sequence[int]] = ()
    dtype: str = "float64"

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, low=1, high=MAX_SYMBOLS)
        check_integer("n_prompt", self.n_prompt, low=1, high=MAX_TOKENS)
        check_integer("n_chain", self.n_chain, low=1, high=MAX_TOKENS)
        check_choice("dtype", self.dtype, tuple(DTYPES))
        if self.window is not None:
            check_integer("window", self.window, low=1, high=self.n_ctx)
        if self.rank is not None:
            check_integer("rank", self.rank, low=1, high=MAX_WIDTH)
        if check_boolean("mlp", self.mlp) and self.rank is None:
            raise ValueError("mlp needs rank, the width of its two ReLUs: pass e.g. rank=32.")
        self._check_alphabets()
        size = sum(map(prod, self.parameter_shapes.values()))
        if size > MAX_PARAMETERS:
            raise ValueError(f"the model would have {size:,} weights, more than {MAX_PARAMETERS:,}: take a window.")

    def _check_alphabets(self) -> None:
        if not isinstance(self.alphabets, Sequence) or not all(isinstance(one, Sequence) for one in self.alphabets):
            raise ValueError(f"alphabets must hold (first, end) for each position, got {self.alphabets!r}.")
        alphabets = tuple(tuple(alphabet) for alphabet in self.alphabets)
        object.__setattr__(self, "alphabets", alphabets)
        if not alphabets:
            return
        if self.window is not None or self.rank is not None:
            raise ValueError(
                "alphabets go with a map of its own for each step, of any rank: leave window and rank out."
            )
        if len(alphabets) != self.n_prompt + self.n_chain or any(len(alphabet) != 2 for alphabet in alphabets):
            raise ValueError(
                f"alphabets must hold (first, end) for each of {self.n_prompt} + {self.n_chain} positions, got "
                f"{len(alphabets)} entries."
            )
        for first, end in alphabets:
            check_integer("alphabets", first, low=0, high=self.dim - 1)
            check_integer("alphabets", end, low=first + 1, high=self.dim)

    @classmethod
    def of(cls, task: ChainTask, **options: Any) -> "NextTokenConfig":
        """The model of a task's sizes; `options` are window, rank, mlp and dtype.

        A map of its own for each step, of any rank, has the task's alphabets.

        Raises:
            ValueError: what is no task of chains, or a size out of range.
        """
        if not isinstance(task, ChainTask):
            raise ValueError(f"task must be a task of chains, such as Parity(), got {task!r}.")
        shared = options.get("window") is not None or options.get("rank") is not None
        sizes: dict[str, Any] = {"alphabets": () if shared else task.alphabets}
        return cls(dim=task.dim, n_prompt=task.n_prompt, n_chain=task.n_chain, **{**sizes, **options})

    @property
    def n_ctx(self) -> int:  # type: ignore[override] - a number that follows from others
        return self.n_prompt + self.n_chain - 1

    @property
    def n_sources(self) -> int:
        """Tokens that are summed over."""
        return self.window or self.n_ctx

    def sources(self, n_pos: int) -> Int[Tensor, "step source"]:
        """The places among n_pos tokens that each step of the chain sees, in the order of W; -1 where there is none."""
        return _sources(self.n_prompt, self.window, n_pos)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        steps = () if self.window else (self.n_chain,)
        V, d = self.dim, self.rank
        if self.alphabets:
            sizes = [end - first for first, end in self.alphabets]
            read = [(sum(sizes[: self.n_prompt + t]), sizes[self.n_prompt + t]) for t in range(self.n_chain)]
            maps: dict[str, tuple[int, ...]] = {f"W.{t}": shape for t, shape in enumerate(read)}
            return maps | {f"b.{t}": (written,) for t, (_, written) in enumerate(read)}
        if d is None:
            return {"W": (*steps, self.n_sources, V, V), "b": (*steps, V)}
        middle = {"M": (d, d), "m": (d,)} if self.mlp else {}
        return {"E": (V, d), "L": (*steps, self.n_sources, d, d), "c": (*steps, d), **middle, "U": (d, V), "b": (V,)}

    def maps(self, parameters: Mapping[str, Tensor]) -> tuple[Float[Tensor, "... source symbol out"], Tensor]:
        """Terms that tokens add to the sum, [*member step source symbol out], and the constant, [*member step out].

        A window has no axis of steps. `out` is the symbols, or with an MLP its width.
        """
        if self.alphabets:
            return self._of_alphabets(parameters)
        if self.rank is None:
            return parameters["W"], parameters["b"]
        axes = (1,) if self.window else (1, 1)
        E, U = (x.reshape(*x.shape[:-2], *axes, *x.shape[-2:]) for x in (parameters["E"], parameters["U"]))
        W, constant = E @ parameters["L"], parameters["c"]
        if self.mlp:
            return W, constant
        bias = parameters["b"] if self.window else parameters["b"][..., None, :]
        return W @ U, (constant[..., None, :] @ U.squeeze(-3)).squeeze(-2) + bias

    def _of_alphabets(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The maps of all symbols, 0 for those that cannot stand at a position."""
        V, of = self.dim, [slice(first, end) for first, end in self.alphabets]
        W = parameters["W.0"].new_zeros(self.n_chain, self.n_sources, V, V)
        b = parameters["b.0"].new_full((self.n_chain, V), NEVER)
        for t in range(self.n_chain):
            seen, written = of[: self.n_prompt + t], of[self.n_prompt + t]
            b[t, written] = parameters[f"b.{t}"]
            parts = parameters[f"W.{t}"].split([symbols.stop - symbols.start for symbols in seen])
            for source, (symbols, part) in enumerate(zip(seen, parts, strict=True)):
                W[t, source, symbols, written] = part
        return W, b

    def logits(
        self, parameters: Mapping[str, Tensor], sums: Float[Tensor, "*batch out"]
    ) -> Float[Tensor, "*batch symbol"]:
        """The logits of the sums over tokens: the sums themselves, but for an MLP."""
        if not self.mlp:
            return sums
        return relu(relu(sums) @ parameters["M"] + parameters["m"]) @ parameters["U"] + parameters["b"]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def summary(self) -> str:
        sees = f"the last {self.window} tokens, one map for all steps" if self.window else "all tokens, a map a step"
        of = "" if self.rank is None else f" of rank {self.rank}"
        what = "linear next-token predictor" if not self.mlp else "next-token predictor with two ReLUs"
        return f"{what} of {sees}{of}; {self.dim} symbols, {self.n_prompt} + {self.n_chain} tokens"

    @property
    def initial_law(self) -> str:
        return "zeros" if self.rank is None else "Gaussian of variance 1 / inputs, biases 0"

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
        """Zeros, from which a convex loss is descended; with a rank Gaussian, of variance 1 over the numbers summed."""
        dtype, shapes = self.torch_dtype, self.parameter_shapes
        if self.rank is None:
            return {name: torch.zeros(shape, dtype=dtype, device="cpu") for name, shape in shapes.items()}
        generator = seeds.generator_of(check_seed(seed))
        summed = {"E": 1, "L": self.rank * self.n_sources, "M": self.rank, "U": self.rank}
        found = {}
        for name, shape in shapes.items():
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            found[name] = (drawn / summed[name] ** 0.5 if name in summed else torch.zeros_like(drawn)).to(dtype)
        return found

    def build(self, process: Any = None, *, device: str | torch.device = "cpu") -> Any:
        return import_module(MODEL_MODULE).HookedNextToken(self, process).to(device)


@cache
def _sources(n_prompt: int, window: int | None, n_pos: int) -> Tensor:
    n_steps, n_sources = n_pos - n_prompt + 1, window or n_pos
    step, source = torch.arange(n_steps, device="cpu")[:, None], torch.arange(n_sources, device="cpu")
    if window:
        return (n_prompt - 1 + step - source).clamp(min=-1)
    return torch.where(source < n_prompt + step, source, -1)
