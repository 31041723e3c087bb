"""Regression in context: prompts of examples of a random function, and a query that is to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from math import log2, sqrt
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ar_interp._checks import as_real_array, check_choice, check_integer, check_number
from ar_interp._moods import calm
from ar_interp._resident import resident
from ar_interp._shown import shown
from ar_interp.processes.base import Process, cast_to, source_of_randomness
from ar_interp.processes.contexts import Contexts, Pairs

MAX_FUNCTIONS = 2**13
BASES = {"fourier": 81, "cosine": 81, "haar": 256}  # functions of a prior that is given by its smoothness
AT_ONCE = 2**22  # numbers of basis functions that are held at a time
LEAST_GRID = 256


@dataclass(frozen=True, kw_only=True)
class Prompts(Contexts):
    """Prompts, each with examples of a function of its own; the newest x of a context is the query.

    A model sees x_t beside the answer to the x before, and is asked for f(x_t): inputs (x_t, y_{t-1}), y_0 = 0,
    targets y_t = f(x_t) + noise, clean targets f(x_t), pairs (x_t, y_t). A prompt of length T has T - 1 examples. The
    last position alone counts for the loss.

    Attributes:
        x: uniform on [0, 1).
        y: f(x) + noise.
        values: f(x).
        coefficients: of f in the basis.
    """

    x: Float[Tensor, "batch pos"]
    y: Float[Tensor, "batch pos"]
    values: Float[Tensor, "batch pos"]
    coefficients: Float[Tensor, "batch function"]

    @property
    def inputs(self) -> Float[Tensor, "batch pos 2"]:
        before = torch.cat([torch.zeros_like(self.y[:, :1]), self.y[:, :-1]], dim=1)
        return torch.stack([self.x, before], dim=-1)

    @property
    def targets(self) -> Float[Tensor, "batch pos 1"]:
        return self.y[..., None]

    @property
    def clean_targets(self) -> Float[Tensor, "batch pos 1"]:
        return self.values[..., None]

    def pairs(self) -> Pairs:
        return Pairs(self.x[..., None], self.targets)

    def losses(
        self, predictions: Float[Tensor, "batch pos 1"], *, first_length: int = 2, observed: bool = False
    ) -> Float[Tensor, "batch"]:
        """The error of the last answer, that to the query; a first length means nothing here."""
        return self.errors(predictions, observed=observed)[:, -1]


@dataclass(frozen=True)
class NonparametricRegression(Process):
    """f = sum_j beta_j psi_j with independent beta_j ~ N(0, variance_j), x uniform on [0, 1), y = f(x) + noise.

    Functions by their index j, orthonormal in L2[0, 1):

        fourier     1, sqrt2 cos(2 pi x), sqrt2 sin(2 pi x), sqrt2 cos(4 pi x), ...
        haar        1, then level by level 2^{l/2} (+1, -1) on the halves of [k, k + 1) / 2^l, l = 0, 1, ...
        cosine      1, sqrt2 cos(pi x), sqrt2 cos(2 pi x), ...

    Args:
        basis: `fourier`, `haar` or `cosine`.
        variances: of the coefficients, by index.
        smoothness: a > 0 in their place: variances max(frequency, 1)^{-(2 a + 1)}, divided by their sum; frequency is m
            of cos and sin(2 pi m x) and of cos(pi m x), and 2^level of a wavelet.
        n_functions: how many there are with a smoothness: 81, or 256 of Haar, if left out.
        noise_variance: of y, sigma^2.
    Raises:
        ValueError: both or neither of variances and smoothness, values out of range.
    """

    kind: ClassVar[str] = "nonparametric-regression"
    makes: ClassVar[type[Contexts]] = Prompts
    meaning: ClassVar[str] = (
        "a random function with independent Gaussian coefficients in a fixed basis, seen at random x"
    )

    __repr__ = shown
    basis: str = "fourier"
    variances: Sequence[float] | None = field(default=None, kw_only=True)
    smoothness: float | None = field(default=None, kw_only=True)
    n_functions: int | None = field(default=None, kw_only=True)
    noise_variance: float = field(default=0.25, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("basis", self.basis, tuple(BASES))
        object.__setattr__(self, "noise_variance", check_number("noise_variance", self.noise_variance, low=0.0))
        if (self.variances is None) == (self.smoothness is None):
            came = "none" if self.variances is None else "both"
            raise ValueError(
                f"the prior needs exactly one of variances and smoothness, got {came}: e.g. "
                f"NonparametricRegression({self.basis!r}, smoothness=1.0)."
            )
        if self.variances is not None:
            if self.n_functions is not None:
                raise ValueError("n_functions goes with smoothness: variances say themselves how many they are.")
            given = as_real_array("variances", self.variances, shape=("function",))
            if (given < 0).any() or not given.any() or len(given) > MAX_FUNCTIONS:
                raise ValueError(
                    f"variances must be at most {MAX_FUNCTIONS} numbers, not negative nor all 0, got {len(given)}, the "
                    f"smallest {given.min():g}."
                )
            object.__setattr__(self, "variances", tuple(given.tolist()))
        else:
            object.__setattr__(self, "smoothness", check_number("smoothness", self.smoothness, low=0.0, strict=True))
            n = BASES[self.basis] if self.n_functions is None else self.n_functions
            check_integer("n_functions", n, low=1, high=MAX_FUNCTIONS)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """An input is (x_t, y_{t-1})."""
        return 2

    @property
    def frequencies(self) -> Float[Tensor, "function"]:
        """m of every function, 2^level of wavelets, 0 of the constant."""
        return _frequencies(self.basis, len(self.variances or ()) or self.n_functions or BASES[self.basis])

    @property
    def prior(self) -> Float[Tensor, "function"]:
        """The variance of every coefficient."""
        return _prior(self.variances or self.smoothness, self.basis, self.n_functions or BASES[self.basis])

    @property
    def constant_variance(self) -> bool:
        """sum_j variance_j psi_j(x)^2 is the same at every x: one variance for each frequency of Fourier or Haar."""
        counts = {
            "fourier": lambda m: 2 if m else 1,
            "haar": lambda m: int(m) or 1,
            "cosine": lambda m: 1 if not m else 0,
        }
        for m in self.frequencies.unique().tolist():
            of_one = self.prior[self.frequencies == m]
            if of_one.any() and (len(of_one) != counts[self.basis](m) or (of_one != of_one[0]).any()):
                return False
        return True

    @property
    def grid(self) -> Float[Tensor, "grid"]:
        """Midpoints of so many cells that means over them are integrals of products of two functions."""
        finest = max(LEAST_GRID, 2 ** int(log2(max(self.frequencies.max().item(), 1)) + 2))
        return (torch.arange(finest, dtype=torch.float64, device="cpu") + 0.5) / finest

    def functions(
        self, x: Float[Tensor, "*points"], *, of: Integer[Tensor, "function"] | None = None
    ) -> Float[Tensor, "*points function"]:
        """The functions of the basis at x; Haar's are periodic.

        Args:
            of: indices of those that are asked for; all if left out.
        """
        j = torch.arange(len(self.frequencies), device=x.device) if of is None else of.to(x.device)
        m, x = resident(self.frequencies, x.device, x.dtype)[j], x[..., None]
        if self.basis == "haar":
            within = x.remainder(1) * m - (j - m)  # of the wavelet's interval
            signs = torch.where(within < 0.5, 1.0, -1.0) * ((within >= 0) & (within < 1))
            return torch.where(j > 0, m.sqrt() * signs, 1.0).to(x.dtype)
        if self.basis == "cosine":
            waves = (torch.pi * m * x).cos()
        else:
            angle = 2 * torch.pi * m * x
            waves = torch.where(j % 2 > 0, angle.cos(), angle.sin())
        return torch.where(m > 0, sqrt(2) * waves, 1.0)

    @calm()
    def contexts(
        self,
        n: int,
        length: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Prompts:
        """Prompts of length - 1 examples and a query, each of a function of its own; see `Process.contexts`."""
        check_integer("n", n, low=1)
        check_integer("length", length, low=1)
        source = source_of_randomness(seed, generator, device)
        options: dict[str, Any] = {"generator": source, "device": source.device, "dtype": torch.float64}
        x = torch.rand(n, length, **options)
        coefficients = torch.randn(n, len(self.prior), **options) * resident(self.prior, source.device).sqrt()
        noise = sqrt(self.noise_variance) * torch.randn(n, length, **options)
        size = max(1, AT_ONCE // (length * len(self.prior)))
        parts = zip(x.split(size), coefficients.split(size), strict=True)
        values = torch.cat([torch.einsum("btj,bj->bt", self.functions(own), beta) for own, beta in parts])
        kind = cast_to(dtype, real=True)
        found = {"x": x, "y": values + noise, "values": values, "coefficients": coefficients}
        return Prompts(**{name: value.to(kind) for name, value in found.items()})

    @property
    def facts(self) -> str:
        law = f"smoothness {self.smoothness:g}" if self.smoothness else "variances of its own"
        return f", {len(self.prior)} {self.basis} functions with {law}, noise of variance {self.noise_variance:g}"


@cache
def _frequencies(basis: str, n: int) -> Tensor:
    j = torch.arange(n, dtype=torch.float64, device="cpu")
    if basis == "haar":
        return torch.where(j > 0, 2 ** j.clamp(min=1).log2().floor(), 0)
    return (j / 2).ceil() if basis == "fourier" else j


@cache
def _prior(law: tuple[float, ...] | float, basis: str, n: int) -> Tensor:
    """The prior of given variances, or of a smoothness."""
    if isinstance(law, tuple):
        return torch.tensor(law, dtype=torch.float64, device="cpu")
    decaying = _frequencies(basis, n).clamp(min=1) ** -(2 * law + 1)
    return decaying / decaying.sum()
