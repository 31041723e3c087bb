"""Processes: how contexts arise, and the base of those that are autoregressive."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from math import hypot, sqrt
from typing import Any, ClassVar

import torch
from jaxtyping import Inexact
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import check_integer, check_number, check_seed
from ar_interp._kinds import Kind
from ar_interp._moods import calm
from ar_interp._shown import brief
from ar_interp.processes.contexts import Contexts, Sequences
from ar_interp.processes.first_token import MAX_DIM, FirstToken


class Process(Kind, ABC, root=True):
    """How the contexts of a task arise; what a model is about.

    A task of your own is a frozen dataclass of JSON values with a `kind`, `dim` and `contexts`, and its `Contexts`.

    Attributes:
        kind: the name in a saved file.
        meaning: one sentence on the law, for the explorer; the first line of the docstring if left out, never the
            parent's.
        dim: size of what a model sees at a position.
        has_eigenbasis: it is autoregressive and all W share their eigenvectors, so that tokens are drawn in the basis
            where W is diagonal.
        real_tokens: whether tokens are real unless another basis is asked for.
        makes: the kind of its contexts, if it says: probes of an in-context W are for `Sequences`.
    """

    meaning: ClassVar[str] = ""
    makes: ClassVar[type[Contexts]] = Contexts
    has_eigenbasis: ClassVar[bool] = False
    real_tokens: ClassVar[bool] = True

    dim: int

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "meaning" not in vars(cls):
            cls.meaning = (cls.__doc__ or "").partition("\n")[0].rstrip(".")

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
    def unseen(self) -> "Process":
        """The task that a model trained on this is measured on: of a finite one the part held out, else itself."""
        return self

    @property
    def facts(self) -> str:
        """The law in a clause, for the model card."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type] - a dataclass
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in own.items() if value}
        return "".join(f", {name} = {value}" for name, value in shown.items() if name not in ("dim", "first_token"))

    def to_dict(self) -> dict[str, object]:
        """The fields and the kind, ready for JSON."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload] - a dataclass


def check_process(process: object) -> None:
    """Refuse what is no process; None stands for one that is not known."""
    if process is not None and not isinstance(process, Process):
        raise ValueError(f"process must be one such as ari.HaarOrthogonal(5), got {brief(process)}.")


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

    makes: ClassVar[type[Contexts]] = Sequences

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
        if not isinstance(self.first_token, FirstToken):
            raise ValueError(f"first_token must be a FirstToken or its name, got {brief(self.first_token)}.")
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


def source_of_randomness(
    seed: int | None, generator: torch.Generator | None, device: str | torch.device | None
) -> torch.Generator:
    """The generator given, or a new one from the seed on the device."""
    if (seed is None) == (generator is None):
        raise ValueError("sample needs its randomness from exactly one of seed and generator; pass e.g. seed=0.")
    if generator is None:
        return seeds.generator_of(check_seed(seed), device or "cpu")
    if device is not None and torch.device(device).type != generator.device.type:
        raise ValueError(f"device is {device} but the generator lives on {generator.device}.")
    return generator


def cast_to(dtype: torch.dtype, *, real: bool) -> torch.dtype:
    """The real or complex dtype of the precision that `dtype` names."""
    if dtype not in (torch.float64, torch.float32, torch.complex128, torch.complex64):
        raise ValueError(f"dtype must be float64, float32, complex128 or complex64, got {dtype}.")
    return dtype.to_real() if real else dtype.to_complex()
