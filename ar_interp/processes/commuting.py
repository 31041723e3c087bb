"""The commuting families: W with fixed eigenvectors, sampled by its phases.

In the eigenbasis s_t = lambda^{t-1} * s_1 entrywise, so that no matrix is ever raised to a power and the rounding error
does not grow with t.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.processes.base import AutoregressiveProcess, cast_to
from ar_interp.processes.contexts import Sequences


@dataclass(frozen=True)
class CommutingProcess(AutoregressiveProcess):
    """A family of normal matrices that share their eigenvectors.

    Args:
        dim, first_token, noise and the rest: see `AutoregressiveProcess`.
        mu: eigenvalues are exp(i theta / mu) with theta uniform on (0, 2 pi); 1 is uniform on the circle.
    """

    mu: float = field(default=1.0, kw_only=True)

    conjugate_pairs: ClassVar[bool]

    @property
    def n_free(self) -> int:
        """Number of eigenvalues that a sequence is free to choose."""
        return self.dim // 2 if self.conjugate_pairs else self.dim

    has_eigenbasis: ClassVar[bool] = True
    real_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mu", check_number("mu", self.mu, low=0.0, strict=True))

    @abstractmethod
    def draw_phases(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        """Angles of the eigenvalues, radians."""

    @abstractmethod
    def draw_first_tokens(self, batch: int, generator: torch.Generator) -> Complex[Tensor, "batch dim"]:
        """s_1 in the eigenbasis."""

    @abstractmethod
    def draw_noise(self, batch: int, length: int, generator: torch.Generator) -> Complex[Tensor, "batch pos dim"]:
        """Noise of unit variance per coordinate in the eigenbasis."""

    @abstractmethod
    def eigenvectors(self, basis: str | Tensor, device: torch.device) -> Complex[Tensor, "dim dim"]:
        """Columns are the eigenvectors in the coordinates `basis`."""

    def draw(
        self,
        batch: int,
        length: int,
        generator: torch.Generator,
        dtype: torch.dtype,
        *,
        basis: str | Tensor = "eigen",
    ) -> Sequences:
        """Phases, first tokens and noise in double, then the tokens in the coordinates asked for.

        The same seed gives the same sequences in every basis: only their coordinates change.

        Args:
            basis: `eigen` (complex tokens, W diagonal); for the orthogonal family also `rotation` (real, 2x2
                rotation blocks) or a real orthonormal P [dim dim] applied to it; for the unitary family also a
                unitary P [dim dim] applied to the eigenbasis.
        Raises:
            ValueError: a P that is not orthonormal.
        """
        phases = self.draw_phases(batch, generator)
        if self.stationary:
            first = self.draw_noise(batch, 1, generator)[:, 0]
        else:
            first = self.draw_first_tokens(batch, generator)
        scale, blur = self.state_noise, self.observation_noise
        noise = scale * self.draw_noise(batch, length - 1, generator) if scale else None
        errors = blur * self.draw_noise(batch, length, generator) if blur else None
        return self._assemble(phases, first, length, noise, errors, basis, dtype)

    def rollout(
        self,
        phases: Float[Tensor, "batch dim"],
        length: int,
        *,
        first_tokens: Complex[Tensor, "batch dim"] | None = None,
        basis: str | Tensor = "eigen",
        dtype: torch.dtype = torch.float64,
    ) -> Sequences:
        """The noiseless sequences of chosen W: s_t = exp(i phases (t - 1)) * s_1 in the eigenbasis.

        Args:
            phases: angle of each eigenvalue, radians; for the orthogonal family entries 2j and 2j+1 are opposite.
            length: tokens in each sequence; >= 1.
            first_tokens: s_1 in the eigenbasis; ones if left out.
            basis, dtype: as in `sample`.
        """
        check_integer("length", length, low=1)
        if phases.ndim != 2 or phases.shape[1] != self.dim:
            raise ValueError(f"phases must have shape [batch {self.dim}], got {list(phases.shape)}.")
        if self.conjugate_pairs and not torch.equal(phases[:, 0::2], -phases[:, 1::2]):
            raise ValueError("phases of a conjugate pair (columns 2j and 2j+1) must be opposite numbers.")
        if self.conjugate_pairs and first_tokens is not None:
            asymmetry = (first_tokens[:, 0::2] - first_tokens[:, 1::2].conj()).abs().max().item()
            if asymmetry > 1e-9:
                raise ValueError(
                    f"first_tokens of a conjugate pair (columns 2j and 2j+1) must be conjugate; they differ by "
                    f"{asymmetry:.2g}. Only then is the sequence real in the rotation basis."
                )
        if first_tokens is None:
            first_tokens = torch.ones_like(phases, dtype=torch.complex128)
        return self._assemble(phases.double(), first_tokens, length, None, None, basis, dtype)

    def _assemble(
        self,
        phases: Tensor,
        first: Tensor,
        length: int,
        noise: Tensor | None,
        errors: Tensor | None,
        basis: str | Tensor,
        dtype: torch.dtype,
    ) -> Sequences:
        vectors = self.eigenvectors(basis, phases.device)
        times = torch.arange(length, device=phases.device, dtype=torch.float64)
        powers = torch.exp(1j * phases[:, None, :] * times[:, None])  # lambda^{t-1}
        damping = 1.0 if noise is None else self.damping
        if noise is None:
            states = powers * first[:, None, :]
        elif damping < 1:
            still = [first]  # lambda^{-(t-1)} s_t
            for turned in (powers[:, 1:].conj() * noise).unbind(1):
                still.append(damping * still[-1] + turned)
            states = powers * torch.stack(still, dim=1)
        else:  # s_t = lambda^{t-1} (s_1 + sum_{k<t} lambda^{-k} xi_k)
            drift = torch.cumsum(powers[:, 1:].conj() * noise, dim=1)
            states = powers * (first[:, None, :] + torch.cat([torch.zeros_like(powers[:, :1]), drift], dim=1))
        eigenvalues = torch.exp(1j * phases)
        clean = states @ vectors.mT
        tokens = clean if errors is None else (states + errors) @ vectors.mT
        W = (vectors * eigenvalues[:, None, :]) @ vectors.mH
        W = damping * W if damping < 1 else W
        is_real = self.conjugate_pairs and not (isinstance(basis, str) and basis == "eigen")
        kind = cast_to(dtype, real=is_real)
        if is_real:
            clean, tokens, W = clean.real, tokens.real, W.real
        clean = None if errors is None else clean.to(kind)
        return Sequences(tokens=tokens.to(kind), W=W.to(kind), phases=phases, states=clean)


@dataclass(frozen=True)
class CommutingUnitary(CommutingProcess):
    """Diagonal unitary W: `dim` i.i.d. eigenvalues on the circle (Sander et al. 2024, unitary case)."""

    kind: ClassVar[str] = "commuting-unitary"
    meaning: ClassVar[str] = (
        "W is diagonal in a fixed basis, its eigenvalues independent and uniform on the unit circle"
    )
    conjugate_pairs: ClassVar[bool] = False

    def draw_phases(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        return _uniform_angles(batch, self.dim, generator) / self.mu

    def draw_first_tokens(self, batch: int, generator: torch.Generator) -> Complex[Tensor, "batch dim"]:
        return self.initial.draw(batch, self.dim, generator).to(torch.complex128)

    def draw_noise(self, batch: int, length: int, generator: torch.Generator) -> Complex[Tensor, "batch pos dim"]:
        return torch.randn(
            batch, length, self.dim, generator=generator, device=generator.device, dtype=torch.complex128
        )

    def eigenvectors(self, basis: str | Tensor, device: torch.device) -> Complex[Tensor, "dim dim"]:
        if isinstance(basis, Tensor):
            return _orthonormal(basis, self.dim).to(device, torch.complex128)
        if basis != "eigen":
            raise ValueError(
                f"basis must be 'eigen' or a unitary matrix [{self.dim} {self.dim}] for the unitary family, got "
                f"{basis!r}. The real rotation basis exists for CommutingOrthogonal only."
            )
        return torch.eye(self.dim, dtype=torch.complex128, device=device)


@dataclass(frozen=True)
class CommutingOrthogonal(CommutingProcess):
    """Commuting orthogonal W: dim / 2 conjugate pairs, lambda_{2j+1} = conj(lambda_{2j}) (Sander et al. 2024).

    In the rotation basis W is block-diagonal with blocks [[cos, -sin], [sin, cos]].
    """

    kind: ClassVar[str] = "commuting-orthogonal"
    meaning: ClassVar[str] = (
        "W is a real rotation: its eigenvalues come in conjugate pairs, with independent angles, in a fixed basis"
    )
    conjugate_pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 2:
            raise ValueError(
                f"dim must be even for CommutingOrthogonal (its eigenvalues come in conjugate pairs), got {self.dim}."
            )

    def draw_phases(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        angles = _uniform_angles(batch, self.dim // 2, generator) / self.mu
        return torch.stack([angles, -angles], dim=-1).flatten(1)

    def draw_first_tokens(self, batch: int, generator: torch.Generator) -> Complex[Tensor, "batch dim"]:
        drawn = self.initial.draw(batch, self.dim, generator).to(torch.complex128)
        return drawn if self.initial.law in ("ones", "unit-ones") else drawn @ self._to_rotation(drawn.device).conj()

    def draw_noise(self, batch: int, length: int, generator: torch.Generator) -> Complex[Tensor, "batch pos dim"]:
        real = torch.randn(batch, length, self.dim, generator=generator, device=generator.device, dtype=torch.float64)
        return real.to(torch.complex128) @ self._to_rotation(real.device).conj()

    def eigenvectors(self, basis: str | Tensor, device: torch.device) -> Complex[Tensor, "dim dim"]:
        if isinstance(basis, Tensor):
            if basis.is_complex():
                raise ValueError("basis must be real for CommutingOrthogonal: it acts on the rotation basis.")
            return _orthonormal(basis, self.dim).to(device, torch.complex128) @ self._to_rotation(device)
        if basis == "rotation":
            return self._to_rotation(device)
        if basis != "eigen":
            raise ValueError(
                f"basis must be 'eigen', 'rotation' or an orthonormal matrix [{self.dim} {self.dim}], got {basis!r}."
            )
        return torch.eye(self.dim, dtype=torch.complex128, device=device)

    def _to_rotation(self, device: torch.device) -> Complex[Tensor, "dim dim"]:
        """U with s_rotation = U s_eigen; its columns are the eigenvectors (1, -+i) / sqrt 2 of each rotation."""
        block = torch.tensor([[1, 1], [-1j, 1j]], dtype=torch.complex128, device=device) / 2**0.5
        return torch.block_diag(*[block] * (self.dim // 2))


def _uniform_angles(batch: int, n: int, generator: torch.Generator) -> Float[Tensor, "batch n"]:
    uniform = torch.rand(batch, n, generator=generator, device=generator.device, dtype=torch.float64)
    return 2 * torch.pi * uniform


def _orthonormal(basis: Tensor, dim: int) -> Tensor:
    if basis.shape != (dim, dim):
        raise ValueError(f"basis must have shape [{dim} {dim}], got {list(basis.shape)}.")
    double = basis.to(torch.complex128)
    defect = (double @ double.mH - torch.eye(dim, dtype=double.dtype, device=basis.device)).abs().max().item()
    if not defect < 1e-5:  # float32 bases are welcome
        raise ValueError(f"basis must be orthonormal: P P^* differs from the identity by {defect:.2g}.")
    return double
