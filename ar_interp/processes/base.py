"""The contract of data: what a task gives to a model, what it asks for, and how a process makes it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from math import hypot, sqrt
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp._kinds import Kind
from ar_interp._moods import calm
from ar_interp._shown import Shown, shown, shown_html

MAX_DIM = 4096
FIRST_TOKEN_LAWS = ("ones", "unit-ones", "gaussian", "sphere", "signs", "one-hot", "sparse")


@dataclass(frozen=True)
class FirstToken:
    """The law of s_1, times `scale`.

    Laws: `ones` is 1_dim in the eigenbasis (what the theory of commuting processes assumes), `unit-ones` is
    1_dim / sqrt(dim); `gaussian` has i.i.d. N(0, 1) coordinates; `sphere` is uniform on the unit sphere; `signs` has
    i.i.d. +-1 coordinates; `one-hot` has a single 1 at a uniform place; `sparse` has `n_nonzero` entries +-1 at
    uniform places. The coordinates of `gaussian` may have standard deviations of their own, `scales`, and a
    `correlation` of every two of them.

    The random laws are drawn in the eigenbasis for the unitary family, and in the real 2x2-rotation basis for the
    orthogonal one, so that its sequences are real there.
    """

    law: str = "ones"
    scale: float = field(default=1.0, kw_only=True)
    n_nonzero: int | None = field(default=None, kw_only=True)
    scales: Sequence[float] = field(default=(), kw_only=True)
    correlation: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("first_token", self.law, FIRST_TOKEN_LAWS)
        scales = tuple(
            check_number(f"first_token.scales[{k}]", x, low=0.0, strict=True) for k, x in enumerate(self.scales)
        )
        object.__setattr__(self, "scales", scales)
        check_number("first_token.correlation", self.correlation, low=0.0)
        if self.correlation >= 1:
            raise ValueError(f"first_token.correlation must be below 1, got {self.correlation}.")
        if (scales or self.correlation) and self.law != "gaussian":
            raise ValueError(f"scales and correlation go with the law 'gaussian' and only with it, got {self.law!r}.")
        check_number("first_token.scale", self.scale, low=0.0, strict=True)
        if (self.law == "sparse") != (self.n_nonzero is not None):
            raise ValueError(
                f"n_nonzero goes with the law 'sparse' and only with it: got law {self.law!r} and "
                f"n_nonzero={self.n_nonzero}. Write FirstToken('sparse', n_nonzero=3)."
            )
        if self.n_nonzero is not None:
            check_integer("first_token.n_nonzero", self.n_nonzero, low=1, high=MAX_DIM)

    def mean_square(self, dim: int) -> float:
        """E|s_1|^2."""
        if self.scales:
            return self.scale**2 * sum(x**2 for x in self.scales)
        if self.law in ("unit-ones", "sphere", "one-hot"):
            return self.scale**2
        return self.scale**2 * (self.n_nonzero or dim)

    @property
    def random(self) -> bool:
        """Not the same for all sequences."""
        return self.law not in ("ones", "unit-ones")

    @property
    def exchangeable(self) -> bool:
        """All coordinates are alike, and uncorrelated unless they are fixed."""
        return not (self.scales or self.correlation)

    @property
    def one_at_a_time(self) -> bool:
        """A single coordinate is not 0."""
        return self.law == "one-hot" or self.n_nonzero == 1

    def draw(self, batch: int, dim: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        """Real first tokens; `ones` gives 1_dim."""
        device = generator.device
        options = {"device": device, "dtype": torch.float64}
        if self.law == "ones":
            tokens = torch.ones(batch, dim, **options)
        elif self.law == "unit-ones":
            tokens = torch.full((batch, dim), dim**-0.5, **options)
        elif self.law == "signs":
            tokens = _random_signs(batch, dim, generator)
        elif self.law in ("one-hot", "sparse"):
            n_nonzero = self.n_nonzero or 1
            places = (
                torch.rand(batch, dim, generator=generator, device=device, dtype=torch.float32)
                .topk(n_nonzero, dim=-1)
                .indices
            )
            entries = _random_signs(batch, n_nonzero, generator) if self.law == "sparse" else 1.0
            tokens = torch.zeros(batch, dim, **options)
            tokens.scatter_(-1, places, torch.ones(batch, n_nonzero, **options) * entries)
        else:
            tokens = torch.randn(batch, dim, generator=generator, **options)
            if self.law == "sphere":
                tokens = tokens / tokens.norm(dim=-1, keepdim=True)
            elif not self.exchangeable:
                tokens = tokens @ self.mixing(dim).to(device).T
        return self.scale * tokens

    def mixing(self, dim: int) -> Float[Tensor, "dim dim"]:
        """L of Gaussian tokens scale L xi with i.i.d. N(0, 1) xi: L L^T is their covariance over scale^2."""
        scales = torch.tensor(self.scales or (1.0,) * dim, dtype=torch.float64, device="cpu")
        same = torch.full((dim, dim), self.correlation, dtype=torch.float64, device="cpu").fill_diagonal_(1.0)
        return scales[:, None] * torch.linalg.cholesky(same)


class Pairs(NamedTuple):
    """The (x_t, y_t) that a statistician would regress.

    With the context of position T go the pairs before it and x_T; y_T is what is asked for.
    """

    x: Inexact[Tensor, "batch pos dim"]
    y: Inexact[Tensor, "batch pos out"]

    __repr__ = shown
    _repr_html_ = shown_html


class Contexts(Shown, ABC):
    """The data of a task: at each position T a model sees the inputs up to T and is asked for the target there.

    Subclasses write `inputs`, `targets`, `pairs` and `__getitem__` (some of the contexts, by slice or index).
    """

    @property
    @abstractmethod
    def inputs(self) -> Tensor:
        """[batch pos ...], what the model is given."""

    @property
    @abstractmethod
    def targets(self) -> Inexact[Tensor, "batch pos dim"]:
        """The right answer at each position."""

    @property
    def clean_targets(self) -> Inexact[Tensor, "batch pos dim"]:
        """The targets without noise of observation, with which `errors` compares."""
        return self.targets

    @abstractmethod
    def pairs(self) -> Pairs:
        """The pairs that a regression on the same context would use."""

    @abstractmethod
    def __getitem__(self, index: slice | Tensor) -> "Contexts":
        """Some of the contexts."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def length(self) -> int:
        """The longest context, T = 1..length."""
        return self.inputs.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Contexts":
        """The same on a device, without gradients, and at least in the precision of `dtype`."""
        moved = copy(self)
        vars(moved).update({name: brought(value, device, dtype) for name, value in self.tensors().items()})
        return moved

    def split(self, size: int) -> "tuple[Contexts, ...]":
        """The contexts in parts of at most `size`, in order."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))

    def errors(
        self, predictions: Inexact[Tensor, "batch pos dim"], *, observed: bool = False
    ) -> Float[Tensor, "batch pos"]:
        """|prediction - target|^2 at every position, summed over coordinates; of the clean target where there is one.

        Args:
            observed: of the target that is observed, which training goes by.
        Raises:
            ValueError: predictions of another shape than the targets.
        """
        if predictions.shape != self.targets.shape:
            raise ValueError(
                f"predictions must have the targets' shape {list(self.targets.shape)}, got {list(predictions.shape)}: "
                "one for each position of `inputs`."
            )
        targets = self.targets if observed else self.clean_targets
        return (predictions - targets).abs().square().sum(-1)

    def losses(
        self, predictions: Inexact[Tensor, "batch pos dim"], *, first_length: int = 2, observed: bool = False
    ) -> Float[Tensor, "batch"]:
        """The loss of each context: the mean of `errors` over T = first_length..length, see `ar_interp.theory`."""
        return self.errors(predictions, observed=observed)[:, first_length - 1 :].mean(1)


@dataclass(frozen=True, kw_only=True)
class Sequences(Contexts):
    """A batch of sequences and the W that made each.

    The task is to predict the next token: inputs s_1..s_n, targets s_2..s_{n+1}, pairs (s_t, s_{t+1}). Where tokens are
    observed with noise, inputs, targets and pairs are what is observed, and `errors` are those of the clean targets.

    Attributes:
        tokens: s_1, ..., s_{n+1}, or what is observed of them; complex in the eigenbasis, real in a real basis.
        W: the true matrix in the same coordinates, clean[:, t + 1] = W clean[:, t] + noise; of a process with several
            matrices all of them, clean[:, t + 1] = sum_k W[:, k] clean[:, t - k] + noise.
        phases: angle of each eigenvalue of W, radians, in the order of the eigenbasis; None where the eigenvectors
            are random too.
        states: s_1, ..., s_{n+1} where tokens are observed with noise; None where they are the states themselves.
    """

    tokens: Inexact[Tensor, "batch pos dim"]
    W: Inexact[Tensor, "batch dim dim"] | Inexact[Tensor, "batch matrix dim dim"]
    phases: Float[Tensor, "batch dim"] | None = None
    states: Inexact[Tensor, "batch pos dim"] | None = None

    @property
    def clean(self) -> Inexact[Tensor, "batch pos dim"]:
        """s_1, ..., s_{n+1}, without noise of observation."""
        return self.tokens if self.states is None else self.states

    @property
    def clean_targets(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.clean[:, 1:]

    @property
    def inputs(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Inexact[Tensor, "batch pos dim"]:
        return self.tokens[:, 1:]

    @property
    def n_matrices(self) -> int:
        """How many matrices make the next token."""
        return 1 if self.W.ndim == 3 else self.W.shape[1]

    def pairs(self) -> Pairs:
        return Pairs(self.inputs, self.targets)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | Tensor) -> "Sequences":
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})


class Process(Kind, ABC, root=True):
    """How the contexts of a task arise; what a model is about.

    A task of your own is a frozen dataclass of JSON values with a `kind`, `dim` and `contexts`, and its `Contexts`.

    Attributes:
        kind: the name in a saved file.
        meaning: one sentence on the law, for reports.
        dim: size of what a model sees at a position.
        has_eigenbasis: it is autoregressive and all W share their eigenvectors, so that tokens are drawn in the basis
            where W is diagonal.
        real_tokens: whether tokens are real unless another basis is asked for.
        makes_sequences: contexts are `Sequences`, of which probes of an in-context W can be asked.
    """

    meaning: ClassVar[str] = ""
    makes_sequences: ClassVar[bool] = False
    has_eigenbasis: ClassVar[bool] = False
    real_tokens: ClassVar[bool] = True

    dim: int

    @abstractmethod
    def contexts(
        self,
        n: int,
        length: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Contexts:
        """Fresh contexts of T = 1..length inputs, with what is to be predicted at each.

        Args:
            n: number of contexts; >= 1.
            length: of the longest, and so predictions of a model; >= 1.
            seed: or `generator`, the source of randomness; one of them.
            device: where to draw; the generator's, else the CPU.
            dtype: the precision.
        """

    @property
    def facts(self) -> str:
        """The law in a clause, for the model card."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type] - a dataclass
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in own.items() if value}
        return "".join(f", {name} = {value}" for name, value in shown.items() if name not in ("dim", "first_token"))

    def to_dict(self) -> dict[str, object]:
        """The fields and the kind, ready for JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload] - a dataclass


@dataclass(frozen=True)
class AutoregressiveProcess(Process, ABC):
    """s_{t+1} = W s_t + noise with a fresh random W for every sequence, observed as y_t = s_t + noise.

    A process of your own is a subclass with a `kind` and a `draw`, decorated with `@dataclass(frozen=True)` where it
    has fields of its own. It is another process, of which theory knows nothing, unless a `Setting` of your own speaks
    of it. What each part must do:

    - `kind` is a name that no other process has; it stands in saved files, where it is found again once the module that
      defines the class is imported.
    - `draw` gives `Sequences` with `length` tokens and the W that made them, tokens[:, t + 1] = W tokens[:, t] + noise,
      in `cast_to(dtype, real=...)`, on the generator's device, with no randomness but the generator's. It applies
      noise itself, or refuses it in `__post_init__` (`if not self.noiseless`). Probes that compare with W trust it.
    - Subclasses of `HaarOrthogonal` write `draw_matrices` alone: W [batch dim dim] in float64. Its recursion, noise and
      first tokens serve every W, also off the unit circle.
    - Subclasses of the commuting families write `draw_phases` alone: angles [batch dim], for conjugate pairs in columns
      2j and 2j + 1 opposite numbers.
    - More than one matrix, s_{t+1} = W_1 s_t + W_2 s_{t-1}, is one on stacked states (s_t, s_{t-1}) of twice the dim:
      W = [[W_1, W_2], [I, 0]]. Where tokens hold s_t alone no single W makes them: then `n_matrices` is 2, `draw` gives
      W [batch matrix dim dim], W_1 first, and probes that compare with one W refuse the sequences.

    `tests/test_researchers_day.py` has a damped, a narrow-band and a second-order process in ten lines each.

    Args:
        dim: size of s_t.
        first_token: the law of s_1, a `FirstToken` or its name.
        noise: standard deviation of the additive noise per coordinate, E|xi_t|^2 = dim, of an evaluation outside the
            training law.
        process_noise: the same of the law itself, of which theory knows: sqrt(q), q = E|eps_j|^2 per coordinate.
        observation_noise: standard deviation per coordinate of what is observed, y_t = s_t + nu_t: sqrt(r),
            r = E|nu_j|^2.
        stationary: s_{t+1} = sqrt(1 - q) W s_t + eps with s_1 of unit variance per coordinate, so that every s_t has
            the same law; q < 1, `first_token` left out. W of the sequences has the factor.

    All noise is complex circular for independent eigenvalues, conjugate in each conjugate pair (so real in a real
    basis), and real for Haar W.

    Attributes:
        n_matrices: how many make the next token of the latest ones.
    """

    makes_sequences: ClassVar[bool] = True

    dim: int
    first_token: FirstToken | str = field(default=FirstToken(), kw_only=True)
    noise: float = field(default=0.0, kw_only=True)
    process_noise: float = field(default=0.0, kw_only=True)
    observation_noise: float = field(default=0.0, kw_only=True)
    stationary: bool = field(default=False, kw_only=True)

    n_matrices: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, low=1, high=MAX_DIM)
        if isinstance(self.first_token, str):
            object.__setattr__(self, "first_token", FirstToken(self.first_token))
        for name in ("noise", "process_noise", "observation_noise"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), low=0.0))
        if not isinstance(self.stationary, bool):
            raise ValueError(f"stationary must be True or False, got {self.stationary!r}.")
        if self.stationary:
            self._check_stationary()
        if (self.initial.n_nonzero or 1) > self.dim:
            raise ValueError(f"n_nonzero must be at most dim = {self.dim}, got {self.initial.n_nonzero}.")
        if len(self.initial.scales) not in (0, self.dim):
            raise ValueError(f"first_token.scales must hold dim = {self.dim} numbers, got {self.initial.scales}.")

    def _check_stationary(self) -> None:
        if self.state_noise >= 1:
            raise ValueError(
                f"process_noise must be below 1 where stationary, got {self.state_noise:g}: the part sqrt(1 - q) of "
                "the state must be left. Pass stationary=False for noise that adds up."
            )
        default = next(known.default for known in fields(self) if known.name == "first_token")
        if self.first_token != default:
            raise ValueError(
                f"first_token must be left out where stationary, got {self.first_token}: s_1 has the stationary law."
            )

    @property
    def noiseless(self) -> bool:
        """s_{t+1} = W s_t from the law of `first_token`, and nothing else."""
        return not (self.state_noise or self.observation_noise or self.stationary)

    @property
    def state_noise(self) -> float:
        """Standard deviation per coordinate of what is added to W s_t."""
        return hypot(self.noise, self.process_noise)

    @property
    def damping(self) -> float:
        """The factor of W where stationary, else 1."""
        return sqrt(1 - self.state_noise**2) if self.stationary else 1.0

    def draw_noise(self, batch: int, length: int, generator: torch.Generator) -> Inexact[Tensor, "batch pos dim"]:
        """Noise of unit variance per coordinate."""
        return torch.randn(batch, length, self.dim, generator=generator, device=generator.device, dtype=torch.float64)

    @property
    def initial(self) -> FirstToken:
        """The law of s_1."""
        assert isinstance(self.first_token, FirstToken)  # a name was replaced when the process was made
        return self.first_token

    @abstractmethod
    def draw(self, batch: int, length: int, generator: torch.Generator, dtype: torch.dtype) -> Sequences:
        """`length` tokens of each of `batch` sequences, with all randomness from the generator, on its device.

        Args:
            dtype: float32, float64, complex64 or complex128; `cast_to` gives the one of this precision that fits.

        A family with more than one basis takes further keywords, which `sample` and `contexts` pass on.
        """

    @calm()
    def sample(
        self,
        batch: int,
        length: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
        **coordinates: Any,
    ) -> Sequences:
        """Fresh sequences s_1, ..., s_length, each with its own W.

        Args:
            batch: number of sequences; >= 1.
            length: tokens in each; >= 1.
            seed: or `generator`, the source of randomness; one of them.
            device: where to sample; the generator's, else the CPU.
            dtype: precision; float64/complex128 or float32/complex64.
            coordinates: further options of the process, such as the `basis` of commuting families.
        Raises:
            ValueError: a size below 1, both or neither of seed and generator.
        """
        check_integer("batch", batch, low=1)
        check_integer("length", length, low=1)
        drawn = self.draw(batch, length, source_of_randomness(seed, generator, device), dtype, **coordinates)  # type: ignore[call-arg]
        if drawn.n_matrices != self.n_matrices:
            raise ValueError(
                f"draw of {type(self).__name__} must give W of {self.n_matrices} matrices, see AutoregressiveProcess, "
                f"got {list(drawn.W.shape)}: say in the class how many there are, e.g. n_matrices = 2."
            )
        return drawn

    def contexts(self, n: int, length: int, **options: Any) -> Sequences:
        """Fresh contexts of T = 1..length tokens with the token that follows each, to be predicted.

        Args:
            n: number of contexts; >= 1.
            length: of the longest, and so predictions of a model; >= 1.
            options: those of `sample`, such as seed, device and dtype.
        """
        check_integer("length", length, low=1)
        return self.sample(n, length + 1, **options)

    def of_members(
        self, batch: int, length: int, generators: Sequence[torch.Generator], dtype: torch.dtype
    ) -> Inexact[Tensor, "member batch pos dim"]:
        """The tokens of each member of an ensemble, from a generator of its own: what training draws at every step."""
        return self.from_drawn(self.drawn(batch, length, generators, dtype), length, dtype)

    def drawn(
        self, batch: int, length: int, generators: Sequence[torch.Generator], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The random part of `of_members`: the tokens, one member after another, where nothing is faster."""
        tokens = [self.draw(batch, length, g, dtype).tokens for g in generators]
        return (tokens[0][None] if len(tokens) == 1 else torch.stack(tokens),)

    def from_drawn(
        self, drawn: tuple[Tensor, ...], length: int, dtype: torch.dtype
    ) -> Inexact[Tensor, "member batch pos dim"]:
        """The rest of `of_members`, which draws nothing and so can be compiled together with what reads the tokens."""
        return drawn[0]

    @property
    def facts(self) -> str:
        law = self.initial
        more = {"scales": law.scales, "correlation": law.correlation}
        said = "".join(f", {name} {value}" for name, value in more.items() if value)
        return f"{super().facts}, first token {law.law}{said}"


def brought(values: Tensor, device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values on a device, without their history; numbers that are no integers in the higher precision of the two."""
    values = values.detach().to(device)
    if dtype is not None and (values.is_floating_point() or values.is_complex()):
        values = values.to(torch.promote_types(values.dtype, dtype))
    return values.clone() if values.is_inference() else values  # which no gradient may pass


def _random_signs(batch: int, n: int, generator: torch.Generator) -> Float[Tensor, "batch n"]:
    bits = torch.randint(0, 2, (batch, n), generator=generator, device=generator.device)
    return 2.0 * bits.double() - 1.0


def source_of_randomness(
    seed: int | None, generator: torch.Generator | None, device: str | torch.device | None
) -> torch.Generator:
    """The generator given, or a new one from the seed on the device."""
    if (seed is None) == (generator is None):
        raise ValueError("sample needs its randomness from exactly one of seed and generator; pass e.g. seed=0.")
    if generator is None:
        return seeds.generator_of(check_integer("seed", seed, low=0), device or "cpu")
    if device is not None and torch.device(device).type != generator.device.type:
        raise ValueError(f"device is {device} but the generator lives on {generator.device}.")
    return generator


def cast_to(dtype: torch.dtype, *, real: bool) -> torch.dtype:
    """The real or complex dtype of the precision that `dtype` names."""
    if dtype not in (torch.float64, torch.float32, torch.complex128, torch.complex64):
        raise ValueError(f"dtype must be float64, float32, complex128 or complex64, got {dtype}.")
    return dtype.to_real() if real else dtype.to_complex()
