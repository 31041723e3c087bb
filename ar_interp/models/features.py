"""`RegressionConfig`: learned features and one layer of attention, as plain data; and the feature map."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import sqrt
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

from ar_interp import seeds
from ar_interp._checks import check_choice, check_integer, check_seed
from ar_interp.models.base import Config
from ar_interp.models.config import DTYPES, MAX_CTX, MAX_WIDTH
from ar_interp.processes import NonparametricRegression, Process

MODEL_MODULE = "ar_interp.models.regression"
WAVES = ("harmonics", "digits")
ATTENTIONS = ("linear", "softmax")
GAMMA = "attn.Gamma"
MAX_DIGITS = 14  # as fine as the finest Haar functions of a process


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(Config):
    """prediction_T = phi(x_T)^T Gamma (1/(T-1)) sum_{t<T} y_t phi(x_t), phi an MLP with two hidden layers.

    With softmax it is sum_{t<T} p_t y_t, p the softmax over t of phi(x_T)^T Gamma phi(x_t).

    Attributes:
        n_features: N, width of phi.
        n_ctx: longest prompt, examples and query; >= 2.
        inputs: of the MLP: `harmonics`, cos and sin(2 pi k x), or `digits`, signs of the binary digits of x, k = 1..K.
        n_inputs: K.
        width: of both hidden layers, with GELU.
        attention: `linear` or `softmax`.
        dtype: `float64` or `float32`.
    """

    kind: ClassVar[str] = "regression"

    n_features: int
    n_ctx: int
    inputs: str = "harmonics"
    n_inputs: int = 6
    width: int = 64
    attention: str = "linear"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        check_integer("n_features", self.n_features, low=1, high=MAX_WIDTH)
        check_integer("n_ctx", self.n_ctx, low=2, high=MAX_CTX)
        check_choice("inputs", self.inputs, WAVES)
        check_integer("n_inputs", self.n_inputs, low=1, high=MAX_WIDTH if self.inputs == "harmonics" else MAX_DIGITS)
        check_integer("width", self.width, low=1, high=2**12)
        check_choice("attention", self.attention, ATTENTIONS)
        check_choice("dtype", self.dtype, tuple(DTYPES))

    @property
    def dim(self) -> int:  # type: ignore[override]
        """An input is (x_t, y_{t-1})."""
        return 2

    @property
    def linear(self) -> bool:
        """Attention is linear in its scores."""
        return self.attention == "linear"

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = (self.n_inputs * (2 if self.inputs == "harmonics" else 1), self.width, self.width, self.n_features)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows, columns in zip(("in", "mid", "out"), sizes[:-1], sizes[1:], strict=True):
            shapes |= {f"phi.W_{name}": (rows, columns), f"phi.b_{name}": (columns,)}
        return shapes | {GAMMA: (self.n_features, self.n_features)}

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def summary(self) -> str:
        kind = "linear attention divided by the number of examples" if self.linear else "softmax attention"
        return (
            f"{self.n_features} features by an MLP of widths {self.width}, {self.width} on {self.n_inputs} "
            f"{self.inputs} of x, one layer of {kind}"
        )

    @property
    def initial_law(self) -> str:
        return "as of torch.nn.Linear, Gamma the identity"

    def check_process(self, process: object) -> None:
        if not isinstance(process, NonparametricRegression):
            raise ValueError(
                f"process must be a NonparametricRegression, got {process!r}: the model answers prompts of examples, "
                "e.g. NonparametricRegression('fourier', smoothness=1.0)."
            )

    def initial_parameters(self, *, seed: int) -> dict[str, Tensor]:
        """Uniform within 1 / sqrt(inputs), in the order of `parameter_shapes`; Gamma is the identity."""
        generator = seeds.generator_of(check_seed(seed))
        found, rows = {}, 1
        for name, shape in self.parameter_shapes.items():
            if name == GAMMA:
                found[name] = torch.eye(self.n_features, dtype=self.torch_dtype, device="cpu")
                continue
            rows = shape[0] if len(shape) == 2 else rows
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
            found[name] = ((2 * drawn - 1) / sqrt(rows)).to(self.torch_dtype)
        return found

    def build(self, process: Process | None = None, *, device: str | torch.device = "cpu") -> Any:
        return import_module(MODEL_MODULE).HookedRegression(self, process=process, device=device)

    def encoded(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points wave"]:
        """Functions of x, of period 1, that the MLP is given."""
        if self.inputs == "digits":
            powers = 2.0 ** torch.arange(1, self.n_inputs + 1, dtype=x.dtype, device=x.device)
            return 1 - 2 * (x[..., None] * powers).floor().remainder(2)
        angle = 2 * torch.pi * x[..., None] * torch.arange(1, self.n_inputs + 1, dtype=x.dtype, device=x.device)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


def feature_map(
    weights: Mapping[str, Tensor], waves: Float[Tensor, "point wave"]
) -> Float[Tensor, "*member point feature"]:
    """phi at every point: the MLP of each member, differentiable."""

    def affine(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"phi.W_{name}"] + weights[f"phi.b_{name}"][..., None, :]

    return affine("out", gelu(affine("mid", gelu(affine("in", waves)))))
