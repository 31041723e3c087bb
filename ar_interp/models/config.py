"""Configs of models: tokens, heads, attention, depth, precision. Plain data, which loads without TransformerLens."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_boolean, check_choice, check_integer, check_number, check_seed
from ar_interp.models.attention_types import AttentionType
from ar_interp.models.base import Config
from ar_interp.models.encodings import Augmented, Encoding
from ar_interp.processes import MAX_DIM, AutoregressiveProcess, Process

MAX_CTX = 2**20
MAX_HEADS = 4096
MAX_LAYERS = 256
MAX_WIDTH = 2**16
MAX_PARAMETERS = 10**8
MAX_INIT_SCALE = 1e6  # beyond it products of weights overflow
HEADS = ("diagonal", "unit", "full", "block-scalar", "merged")
POSITIONALS = ("none", "multiplicative", "additive", "softmax")
INITS = ("gaussian", "linear")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
BLOCKS = len(Augmented.blocks)
MODEL_MODULE = "ar_interp.models.transformer"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A causal transformer on continuous tokens. Use the presets; every field can be set by hand.

    `diagonal` and `positional_only` are the paper's non-augmented setting, `augmented` and `full` the general ones,
    `paper_figure5` and `paper_figure7` the two models of its experiments.

    Attributes:
        dim: size of s_t.
        n_ctx: longest sequence; >= 2.
        n_heads: number of heads in each layer.
        heads: `diagonal` (W_K = diag(a_h), W_V = diag(b_h), W_Q = W_O = I), `unit` (all of them I, fixed: only the
            positional encoding is left), `full` (W_Q, W_K, W_V, W_O), `block-scalar` (augmented tokens: each 3 x 3
            block of QK and OV is a multiple of the identity), `merged` (augmented tokens: QK = W_Q W_K^T and
            OV = W_V W_O themselves are the parameters).
        init_scale: standard deviation of the Gaussian initial weights.
        dtype: `float64` or `float32`, the precision of the (real) weights.
        n_layers: attention layers.
        encoding: the kind of an `Encoding`: `plain` (e_t = s_t) or `augmented` (e_t = (0, s_t, s_{t-1}), s_0 = 0).
        repeats: a token is written this many times.
        d_head: width of a full head; d_model if None.
        attention: the kind of an `AttentionType`: `linear` (scores as they are), `linear/keys` (divided by the number
            of keys T), `linear/pairs` (by T - 1, the number of pairs), or `softmax`.
        scale_scores: divide scores by sqrt(d_head).
        positional: `none`; `multiplicative` (learned P [query key] that multiplies the scores); `additive` (learned,
            added to the tokens); `softmax` (scores of learned positions through the same queries and keys, softmaxed,
            multiply the scores).
        query_lag: 1 asks with s_{T-1}, 0 with s_T.
        residual: add each layer's output to its input; else it replaces it.
        layer_norm: LayerNorm on the output of attention.
        biases: queries, keys, values and outputs have biases.
        shared_output: one W_O for all heads of a layer.
        d_mlp: width of an MLP after attention; 0 is none.
        unembed: a trained affine read-out; else the first dim coordinates of the residual stream.
        init: `gaussian`, N(0, init_scale^2), or `linear`, uniform within 1 / sqrt(inputs) as torch.nn.Linear has it
            (and N(0, 1) for positions).
    """

    kind: ClassVar[str] = "autoregressive"

    dim: int
    n_ctx: int
    n_heads: int
    heads: str = "diagonal"
    init_scale: float = 0.1
    dtype: str = "float64"
    n_layers: int = 1
    encoding: str = "plain"
    repeats: int = 1
    d_head: int | None = None
    attention: str = "linear"
    scale_scores: bool = False
    positional: str = "multiplicative"
    query_lag: int = 1
    residual: bool = False
    layer_norm: bool = False
    biases: bool = False
    shared_output: bool = False
    d_mlp: int = 0
    unembed: bool = False
    init: str = "gaussian"

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, low=1, high=MAX_DIM)
        check_integer("n_ctx", self.n_ctx, low=2, high=MAX_CTX)
        check_integer("n_heads", self.n_heads, low=1, high=MAX_HEADS)
        check_integer("n_layers", self.n_layers, low=1, high=MAX_LAYERS)
        check_integer("repeats", self.repeats, low=1, high=MAX_HEADS)
        check_integer("query_lag", self.query_lag, low=0, high=1)
        check_integer("d_mlp", self.d_mlp, low=0, high=MAX_WIDTH)
        if self.d_head is not None:
            check_integer("d_head", self.d_head, low=1, high=MAX_WIDTH)
        check_choice("heads", self.heads, HEADS)
        Encoding.find(self.encoding, "encoding")
        AttentionType.find(self.attention, "attention")
        check_choice("positional", self.positional, POSITIONALS)
        check_choice("init", self.init, INITS)
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_number("init_scale", self.init_scale, low=0.0, high=MAX_INIT_SCALE)
        for name in ("scale_scores", "residual", "layer_norm", "biases", "shared_output", "unembed"):
            check_boolean(name, getattr(self, name))
        self._check_together()
        if self.n_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"n_heads, dim, n_ctx and n_layers ask for {self.n_parameters:,} parameters; "
                f"at most {MAX_PARAMETERS:,} are allowed."
            )

    def _check_together(self) -> None:
        """Settings that exclude each other."""
        if self.heads in ("diagonal", "unit"):
            theirs = ModelConfig.__dataclass_fields__
            for name in PLAIN_FIELDS:
                value, only = getattr(self, name), theirs[name].default
                if value != only:
                    raise ValueError(f"heads={self.heads!r} goes with {name}={only!r} only, got {value!r}.")
        elif self.heads in ("block-scalar", "merged"):
            if self.encoding != "augmented":
                raise ValueError(
                    f"heads={self.heads!r} are 3 x 3 blocks of augmented tokens: use encoding='augmented'."
                )
            for name in ("biases", "shared_output", "scale_scores"):
                if getattr(self, name):
                    raise ValueError(f"heads={self.heads!r} go without {name}; use heads='full'.")
        if self.heads != "full" and self.d_head is not None:
            raise ValueError(f"d_head is d_model unless heads='full', got {self.d_head} with heads={self.heads!r}.")
        if Encoding.find(self.encoding).holds_previous and (self.query_lag or self.repeats != 1):
            raise ValueError(f"{self.encoding} tokens hold s_{{t-1}} already: they go with query_lag=0 and repeats=1.")
        if AttentionType.find(self.attention).normalised and self.positional not in ("none", "additive"):
            raise ValueError(
                f"attention={self.attention!r} goes with positional 'none' or 'additive', got {self.positional!r}."
            )
        if self.d_mlp and not self.residual:
            raise ValueError("d_mlp > 0 needs residual=True: an MLP adds to the residual stream.")

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

    @classmethod
    def augmented(cls, *, dim: int, n_ctx: int, n_heads: int = 1, heads: str = "full", **others: Any) -> "ModelConfig":
        """Augmented tokens (0, s_t, s_{t-1}), residual stream read from its first block (Sander et al. 2024).

        Args:
            heads: `full`, `block-scalar` or `merged`.
            others: any further field, such as `n_layers`, `attention`, `init_scale` and `dtype`.
        """
        fields = {"encoding": "augmented", "positional": "none", "query_lag": 0, "residual": True, **others}
        return cls(dim=dim, n_ctx=n_ctx, n_heads=n_heads, heads=heads, **fields)

    @classmethod
    def full(cls, *, dim: int, n_ctx: int, n_heads: int, **others: Any) -> "ModelConfig":
        """Plain tokens and full d x d heads, asked with s_{T-1}.

        Args:
            others: any further field, such as `query_lag` (0 asks with s_T), `n_layers`, `init_scale` and `dtype`.
        """
        return cls(dim=dim, n_ctx=n_ctx, n_heads=n_heads, **{"heads": "full", **others})

    @classmethod
    def paper_figure5(
        cls, *, dim: int = 5, n_ctx: int = 50, n_layers: int = 1, dtype: str = "float32"
    ) -> "ModelConfig":
        """The paper's general augmented model: biases, scores / sqrt(3 dim), LayerNorm, affine read-out."""
        return cls.augmented(dim=dim, n_ctx=n_ctx, n_layers=n_layers, dtype=dtype, **OF_THE_PAPER)

    @classmethod
    def paper_figure7(
        cls, *, dim: int = 5, n_ctx: int = 50, n_heads: int = 1, repeats: int = 2, dtype: str = "float32"
    ) -> "ModelConfig":
        """The paper's general non-augmented model: s_t twice, positions softmaxed and multiplied in, asked with s_T."""
        sizes = {"dim": dim, "n_ctx": n_ctx, "n_heads": n_heads, "repeats": repeats}
        return cls.full(**sizes, query_lag=0, positional="softmax", dtype=dtype, **OF_THE_PAPER)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.dim * len(Encoding.find(self.encoding).blocks) * self.repeats

    @property
    def head_width(self) -> int:
        """d_head, d_model unless it is set."""
        return self.d_head or self.d_model

    @property
    def linear(self) -> bool:
        """Attention is linear in queries, keys and values, as its type states."""
        return AttentionType.find(self.attention).linear

    @property
    def bare(self) -> bool:
        """No biases, LayerNorm, MLP or read-out beside the heads."""
        return not (self.biases or self.layer_norm or self.d_mlp or self.unembed)

    @property
    def no_longer(self) -> str:
        """Why contexts cannot be longer than n_ctx, empty where they can: weights of positions end there."""
        return "" if self.positional == "none" else f"its {self.positional} encoding ends at T = {self.n_ctx}"

    @property
    def needs_real_tokens(self) -> bool:
        """Something in it has no complex version."""
        return self.layer_norm or self.d_mlp > 0 or not self.linear or self.positional == "softmax"

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trained tensor, by TransformerLens's names where it has them."""
        width, head = self.d_model, self.head_width
        shapes: dict[str, tuple[int, ...]] = {}
        if self.positional in ("additive", "softmax"):
            shapes["pos_embed.W_pos"] = (self.n_ctx, width)
        for layer in range(self.n_layers):
            parts: dict[str, tuple[int, ...]] = {}
            if self.heads == "diagonal":
                parts |= {"attn.A": (self.n_heads, self.dim), "attn.B": (self.n_heads, self.dim)}
            elif self.heads == "block-scalar":
                parts |= dict.fromkeys(("attn.QK_blocks", "attn.OV_blocks"), (self.n_heads, BLOCKS, BLOCKS))
            elif self.heads == "merged":
                parts |= dict.fromkeys(("attn.QK", "attn.OV"), (self.n_heads, width, width))
            elif self.heads == "full":
                parts |= {f"attn.W_{part}": (self.n_heads, width, head) for part in "QKV"}
                shared, own = {"attn.shared_W_O": (head, width)}, {"attn.W_O": (self.n_heads, head, width)}
                parts |= shared if self.shared_output else own
                if self.biases:
                    parts |= {f"attn.b_{part}": (self.n_heads, head) for part in "QKV"}
                    parts["attn.b_O"] = (width,)
            if self.positional == "multiplicative":
                parts["attn.positional.P"] = (self.n_ctx, self.n_ctx)
            if self.layer_norm:
                parts |= {"ln1_post.w": (width,), "ln1_post.b": (width,)}
            if self.d_mlp:
                parts |= {"mlp.W_in": (width, self.d_mlp), "mlp.b_in": (self.d_mlp,)}
                parts |= {"mlp.W_out": (self.d_mlp, width), "mlp.b_out": (width,)}
            shapes |= {f"blocks.{layer}.{name}": shape for name, shape in parts.items()}
        if self.unembed:
            shapes |= {"unembed.W_U": (width, self.dim), "unembed.b_U": (self.dim,)}
        return shapes

    @property
    def n_parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.parameter_shapes.values())

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def initial_law(self) -> str:
        return "as of torch.nn.Linear" if self.init == "linear" else f"N(0, {self.init_scale:g}^2)"

    @property
    def parity_obstruction(self) -> str | None:
        """Why this model cannot beat the zero predictor, at any depth and number of heads, or None.

        If W and -W have the same law, s_t -> (-1)^{t-1} s_t leaves the law of the sequences as it is. Bias-free linear
        attention on plain tokens that asks with s_T answers with (-1)^{T-1} times its output, while the target turns by
        (-1)^T: their mean product is zero, so the loss is at least E|s_{T+1}|^2. A layer that asks with s_{T-1} turns
        its input once more, so that an even number of them, each of which replaces its input, is back at (-1)^{T-1}.
        """
        turns = self.query_lag * (1 if self.residual else self.n_layers)
        even = self.encoding == "plain" and self.linear and self.bare and self.positional != "additive"
        if turns % 2 or not even:
            return None
        asks, use = (
            (f"on plain tokens that asks with s_{{T-1}} {turns} times over", "an odd n_layers, residual=True")
            if turns
            else ("on plain tokens that asks with s_T", "query_lag=1")
        )
        return (
            f"bias-free linear attention {asks} is even in W where the target is odd: no weights beat predicting zero. "
            f"Use {use}, encoding='augmented' or biases=True"
        )

    @property
    def summary(self) -> str:
        """The architecture in a line."""
        heads = {
            "diagonal": f"{self.n_heads} diagonal linear heads",
            "unit": "no trained heads (all weights 1)",
        }.get(self.heads, f"{self.n_heads} {self.heads} {'head' if self.n_heads == 1 else 'heads'}")
        asked = ("asked with s_T", "asked with s_{T-1}")[self.query_lag]
        parts = [
            "one layer" if self.n_layers == 1 else f"{self.n_layers} layers",
            heads,
            f"{self.attention} attention",
            "" if self.encoding == "plain" else f"{self.encoding} tokens",
            "" if Encoding.find(self.encoding).holds_previous else asked,
            "" if self.positional == "none" else f"{self.positional} positional encoding",
            "residual stream" if self.residual else "",
            "LayerNorm after attention" if self.layer_norm else "",
            "biases" if self.biases else "",
            f"MLP of width {self.d_mlp}" if self.d_mlp else "",
            "affine read-out" if self.unembed else "",
        ]
        return ", ".join(part for part in parts if part)

    def check_process(self, process: object) -> None:
        """The process is one that this model can be about.

        Raises:
            ValueError: no common eigenbasis where diagonal heads need it; complex sequences where something in the
                model has no complex version; another dim.
        """
        if not isinstance(process, AutoregressiveProcess):
            raise ValueError(
                f"process must be an AutoregressiveProcess, such as HaarOrthogonal(5), got {process!r:.150}."
            )
        if self.heads in ("diagonal", "unit") and not process.has_eigenbasis:
            raise ValueError(
                f"process must be CommutingUnitary, CommutingOrthogonal or another whose W share their eigenvectors: "
                f"{self.heads} heads need an eigenbasis. Got {process!r}."
            )
        if self.needs_real_tokens and not process.real_tokens:
            raise ValueError(
                "process must be HaarOrthogonal or another with real tokens: nonlinear attention, softmax, LayerNorm "
                f"and MLP have no complex version. Got {process!r}, which is sampled in its complex eigenbasis."
            )
        if process.dim != self.dim:
            raise ValueError(f"process has dim {process.dim} but the model has dim {self.dim}; they must agree.")

    def initial_parameters(self, *, seed: int) -> dict[str, Tensor]:
        """Every trained tensor by name, drawn in the order of `parameter_shapes`; LayerNorm starts at 1 and 0.

        Blocks that cannot matter start at 0: of the first layer those that read the zero block of a token, of the last
        those that write where nothing reads.
        """
        generator = seeds.generator_of(check_seed(seed))
        parameters = {}
        for name, shape in self.parameter_shapes.items():
            if ".ln1_post." in name:
                value = torch.full(shape, float(name.endswith(".w")), dtype=torch.float64, device="cpu")
            elif self.init == "linear" and name != "pos_embed.W_pos":
                bound = 1 / math.sqrt(self._inputs(name))
                value = bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") - 1)
            else:
                scale = 1.0 if self.init == "linear" else self.init_scale
                value = scale * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            parameters[name] = value.to(self.torch_dtype)
        if self.heads in ("block-scalar", "merged"):
            ending, first = ("_blocks", 1) if self.heads == "block-scalar" else ("", self.dim)
            QK, OV = (parameters[f"blocks.0.attn.{name}{ending}"] for name in ("QK", "OV"))
            if self.positional != "additive":
                QK[:, :first, :] = QK[:, :, :first] = OV[:, :first] = 0
            if not (self.unembed or self.layer_norm or self.d_mlp):
                parameters[f"blocks.{self.n_layers - 1}.attn.OV{ending}"][:, :, first:] = 0
        return parameters

    def gradient_step(self, a: float, b: float) -> dict[str, Tensor]:
        """Every trained tensor of one layer that takes a gradient step of size a b: QK (s_T, s_{t-1}) = a I, OV = b I.

        Raises:
            ValueError: heads that are not block-scalar or merged, or more than one.
        """
        if self.heads not in ("block-scalar", "merged") or (self.n_layers, self.n_heads) != (1, 1):
            raise ValueError(
                f"a gradient step by hand needs one layer with one block-scalar or merged head: {self.summary}."
            )
        parameters = {
            name: torch.zeros(shape, dtype=self.torch_dtype, device="cpu")
            for name, shape in self.parameter_shapes.items()
        }
        size = 1 if self.heads == "block-scalar" else self.dim
        (QK, OV), (read_out, current, previous) = parameters.values(), torch.arange(3 * size, device="cpu").split(size)
        QK[0, current, previous], OV[0, current, read_out] = a, b
        return parameters

    def entries(self, which: str) -> dict[str, Tensor]:
        """1 where an entry of a merged head is trained and 0 elsewhere, by name; see `TrainConfig.entries`.

        Raises:
            ValueError: other heads.
        """
        if self.heads != "merged":
            raise ValueError(f"entries={which!r} goes with heads='merged' only, got heads={self.heads!r}.")
        diagonal = self.gradient_step(1.0, 1.0)
        if which == "diagonal":
            return diagonal
        block = torch.ones(self.dim, self.dim, dtype=self.torch_dtype, device="cpu")
        small = replace(self, dim=1).gradient_step(1.0, 1.0)
        return {name: torch.kron(mask[0], block)[None] for name, mask in small.items()}

    def build(self, process: Process | None = None, *, device: str | torch.device = "cpu") -> Any:
        """The `HookedARTransformer`; its module, named and not imported here, is the one that loads TransformerLens."""
        return import_module(MODEL_MODULE).HookedARTransformer(self, process=process, device=device)

    def _inputs(self, name: str) -> int:
        """The number of inputs of the affine map that a tensor belongs to."""
        part = name.rpartition(".")[2]
        if part in ("W_O", "shared_W_O", "b_O"):
            return self.head_width
        return self.d_mlp if part in ("W_out", "b_out") else self.d_model


PLAIN_FIELDS = (
    "n_layers", "encoding", "repeats", "attention", "scale_scores", "positional", "query_lag", "residual", "layer_norm",
    "biases", "shared_output", "d_mlp", "unembed", "init",
)  # fmt: skip
OF_THE_PAPER: dict[str, Any] = {
    **dict.fromkeys(("scale_scores", "layer_norm", "biases", "shared_output", "unembed"), True),
    "init": "linear",
}
HEAD_A = "blocks.0.attn.A"
HEAD_B = "blocks.0.attn.B"
POSITIONAL_P = "blocks.0.attn.positional.P"


def is_preset(config: Any, preset: Callable[..., ModelConfig], *own: str) -> bool:
    """A `ModelConfig` (a subclass is another kind) equal to a preset that is given these fields of its own."""
    if type(config) is not ModelConfig:
        return False
    try:
        return config == preset(**{name: getattr(config, name) for name in own})
    except ValueError:  # no preset has these sizes
        return False


def is_plain_full(config: Any) -> bool:
    """One bias-free linear layer of full heads that share P, on plain tokens: `ModelConfig.full` at any size."""
    return is_preset(config, ModelConfig.full, "dim", "n_ctx", "n_heads", "query_lag", "init_scale", "dtype")
