"""What a model is: sizes, kind of heads, precision. Plain data, so that it loads without TransformerLens."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp.processes import MAX_DIM, PROCESSES, Process

MAX_CTX = 16384
MAX_HEADS = 4096
MAX_PARAMETERS = 10**8
HEADS = ("diagonal", "unit")
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One attention layer on plain tokens e_t = s_t, linear attention, multiplicative positional encoding.

    Use the presets: `ModelConfig.diagonal(...)`, `ModelConfig.positional_only(...)`.

    Attributes:
        dim: size of s_t.
        n_ctx: longest sequence; >= 2.
        n_heads: number of heads.
        heads: `diagonal` (W_K = diag(a_h), W_V = diag(b_h), W_Q = W_O = I, trained) or `unit` (all of them I, fixed:
            only the positional encoding is left).
        init_scale: standard deviation of the Gaussian initial weights.
        dtype: `float64` or `float32`, the precision of the (real) weights.
    """

    dim: int
    n_ctx: int
    n_heads: int
    heads: str = "diagonal"
    init_scale: float = 0.1
    dtype: str = "float64"

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, low=1, high=MAX_DIM)
        check_integer("n_ctx", self.n_ctx, low=2, high=MAX_CTX)
        check_integer("n_heads", self.n_heads, low=1, high=MAX_HEADS)
        check_choice("heads", self.heads, HEADS)
        check_number("init_scale", self.init_scale, low=0.0)
        check_choice("dtype", self.dtype, tuple(DTYPES))
        if self.n_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"n_heads, dim and n_ctx ask for {self.n_parameters:,} parameters; "
                f"at most {MAX_PARAMETERS:,} are allowed."
            )

    @classmethod
    def diagonal(
        cls, *, dim: int, n_heads: int, n_ctx: int, init_scale: float = 0.1, dtype: str = "float64"
    ) -> "ModelConfig":
        """Non-augmented tokens, diagonal linear heads (Sander et al. 2024)."""
        return cls(dim=dim, n_ctx=n_ctx, n_heads=n_heads, heads="diagonal", init_scale=init_scale, dtype=dtype)

    @classmethod
    def positional_only(cls, *, n_ctx: int, init_scale: float = 0.0, dtype: str = "float64") -> "ModelConfig":
        """One coordinate, one head with weights 1: only P is trained, from zero by default."""
        return cls(dim=1, n_ctx=n_ctx, n_heads=1, heads="unit", init_scale=init_scale, dtype=dtype)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor."""
        size = (self.n_heads, self.dim)
        heads = {HEAD_A: size, HEAD_B: size} if self.heads == "diagonal" else {}
        return {**heads, POSITIONAL_P: (self.n_ctx, self.n_ctx)}

    @property
    def n_parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.parameter_shapes.values())

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def to_dict(self) -> dict[str, object]:
        """The fields, ready for JSON."""
        return asdict(self)


HEAD_A = "blocks.0.attn.A"
HEAD_B = "blocks.0.attn.B"
POSITIONAL_P = "blocks.0.attn.positional.P"


def check_process(config: ModelConfig, process: object) -> None:
    """The process is one that this model can be about.

    Raises:
        ValueError: not a commuting family, whose eigenbasis diagonal heads need; or of another dim.
    """
    if not isinstance(process, Process):
        kinds = " or ".join(kind.__name__ for kind in PROCESSES.values())
        raise ValueError(f"process must be {kinds}: diagonal heads need an eigenbasis. Got {process!r}.")
    if process.dim != config.dim:
        raise ValueError(f"process has dim {process.dim} but the model has dim {config.dim}; they must agree.")


def initial_parameters(config: ModelConfig, *, seed: int) -> dict[str, Tensor]:
    """Every trained tensor by name, i.i.d. N(0, init_scale^2), drawn in the order of `parameter_shapes`."""
    generator = torch.Generator().manual_seed(check_integer("seed", seed, low=0))
    return {
        name: (config.init_scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(config.torch_dtype)
        for name, shape in config.parameter_shapes.items()
    }
