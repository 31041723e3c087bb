"""General orthogonal W, uniform on O(dim): matrices that do not commute."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.processes.base import AutoregressiveProcess, cast_to
from ar_interp.processes.contexts import Sequences
from ar_interp.processes.first_token import FirstToken

DECOMPOSED_ON = ("cpu",)  # devices whose matrices come from QR: the numbers of shipped results do


@dataclass(frozen=True)
class HaarOrthogonal(AutoregressiveProcess):
    """W from the Haar measure on O(dim) (Sander et al. 2024, general experiment).

    The same seed gives other sequences on a GPU than on the CPU, of the same law: there batched QR decompositions of
    small matrices are a hundred times slower than `product_of_reflections`.

    Args:
        dim, noise and the rest: see `AutoregressiveProcess`.
        first_token: the law of s_1; of norm 1 if left out.
    """

    first_token: FirstToken | str = field(default=FirstToken("unit-ones"), kw_only=True)

    kind: ClassVar[str] = "haar-orthogonal"
    meaning: ClassVar[str] = "W is uniform among all orthogonal matrices (Haar), eigenvectors and all"

    def draw_matrices(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim dim"]:
        """W = Q sign(diag R) from the QR decomposition of a Gaussian matrix on the CPU, `product_of_reflections` else.

        Without the signs Q is not Haar-distributed (Mezzadri 2007, How to generate random matrices from the classical
        compact groups). Float64.
        """
        gaussian = self._gaussian(batch, generator)
        if gaussian.device.type not in DECOMPOSED_ON:
            return product_of_reflections(gaussian)
        Q, R = torch.linalg.qr(gaussian)
        return Q * R.diagonal(0, -2, -1).sign()[:, None, :]

    def draw(self, batch: int, length: int, generator: torch.Generator, dtype: torch.dtype) -> Sequences:
        """The recursion in the precision asked for; on a GPU without noise by powers of W, `by_doubling`.

        W keeps norms, so its rounding error grows only linearly: the largest over 256 sequences of dim 5 and norm 1 was
        7e-14 at T = 100 and 6e-13 at T = 1000 in float64, 3e-6 and 2e-5 in float32.
        """
        kind = cast_to(dtype, real=True)
        W = self.draw_matrices(batch, generator).to(kind)
        if self.stationary:
            W, first = self.damping * W, self.draw_noise(batch, 1, generator)[:, 0].to(kind)
        else:
            first = self.initial.draw(batch, self.dim, generator).to(kind)
        if self._by_reflections(W.device):
            return Sequences(tokens=by_doubling(W, first, length), W=W)
        columns = W.permute(1, 2, 0).contiguous()  # the batch last: one fused product and sum per step
        state = first.T
        states = state.new_empty(length, self.dim, batch)
        for t in range(length):
            states[t] = state
            state = (columns * state).sum(1)
            if self.state_noise:
                xi = torch.randn(state.shape, generator=generator, device=state.device, dtype=torch.float64)
                state = state + self.state_noise * xi.to(kind)
        tokens = states.permute(2, 0, 1)
        if not self.observation_noise:
            return Sequences(tokens=tokens, W=W)
        errors = self.observation_noise * self.draw_noise(batch, length, generator).to(kind)
        return Sequences(tokens=tokens + errors, W=W, states=tokens)

    def drawn(
        self, batch: int, length: int, generators: Sequence[torch.Generator], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The Gaussian matrices of all members and s_1 on a GPU without noise, those of one where all have the same."""
        if not self._by_reflections(generators[0].device):
            return super().drawn(batch, length, generators, dtype)
        gaussians = torch.stack([self._gaussian(batch, g) for g in generators])
        drawers = generators if self.initial.random else generators[:1]
        return gaussians, torch.stack([self.initial.draw(batch, self.dim, g) for g in drawers])

    def from_drawn(
        self, drawn: tuple[Tensor, ...], length: int, dtype: torch.dtype
    ) -> Float[Tensor, "member batch pos dim"]:
        if not self._by_reflections(drawn[0].device):
            return super().from_drawn(drawn, length, dtype)
        gaussians, first = (part.to(cast_to(dtype, real=True)) for part in drawn)
        W = product_of_reflections(gaussians.flatten(0, 1))
        tokens = by_doubling(W, first.expand(len(gaussians), -1, -1).flatten(0, 1), length)
        return tokens.unflatten(0, gaussians.shape[:2])

    def _by_reflections(self, device: torch.device) -> bool:
        return device.type not in DECOMPOSED_ON and self.noiseless

    def _gaussian(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim dim"]:
        shape = (batch, self.dim, self.dim)
        return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def product_of_reflections(gaussian: Float[Tensor, "batch dim dim"]) -> Float[Tensor, "batch dim dim"]:
    """Haar-distributed matrices from Gaussian ones without a decomposition.

    M_1 diag(1, M_2 diag(1, M_3 ...)), where M_k is the reflection that turns e_1 to plus or minus the direction of a
    Gaussian vector x in the last dim - k + 1 coordinates, its first column times the sign that makes it x / |x|. Given
    x the other columns are a fixed frame of its complement times a Haar matrix, so that the product is Haar.
    Source: Diaconis and Shahshahani 1987, The subgroup algorithm for generating uniform random variables.

    Args:
        gaussian: independent N(0, 1) entries; row k holds the k-th vector in its last entries.
    """
    dim = gaussian.shape[-1]
    v = gaussian.triu().permute(1, 2, 0).contiguous()  # the batch last
    norms = v.square().sum(1).sqrt()  # [dim batch]
    heads = v.diagonal(0, 0, 1).T
    signs = torch.where(heads < 0, -1.0, 1.0).to(v)
    w = v + (signs * norms).T.diag_embed().permute(1, 2, 0)  # sign(x_1) |x| e_1 + x: nothing cancels
    w = w / (norms * (norms + heads.abs())).sqrt()[:, None]  # of norm sqrt(2)
    Q = -signs.T.diag_embed().permute(1, 2, 0)
    for k in reversed(range(dim - 1)):
        Q = Q - w[k][:, None] * (w[k][:, None] * Q).sum(0)
    return Q.permute(2, 0, 1)


def by_doubling(
    W: Float[Tensor, "batch dim dim"], first: Float[Tensor, "batch dim"], length: int
) -> Float[Tensor, "batch pos dim"]:
    """s_1, W s_1, ..., W^(length - 1) s_1: [S, S W^k] holds twice as many states as S."""
    states, power = first[:, None], W.mT
    while (known := states.shape[1]) < length:
        power = power @ power if known > 1 else power
        states = torch.cat([states, states[:, : length - known] @ power], dim=1)
    return states
