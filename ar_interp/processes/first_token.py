"""`FirstToken`: the law of the first token of a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_number

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
        """Whether sequences differ in their first token."""
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


def _random_signs(batch: int, n: int, generator: torch.Generator) -> Float[Tensor, "batch n"]:
    bits = torch.randint(0, 2, (batch, n), generator=generator, device=generator.device)
    return 2.0 * bits.double() - 1.0
