"""General orthogonal W, uniform on O(dim): matrices that do not commute."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp.processes.base import AutoregressiveProcess, FirstToken, Sequences, cast_to, source_of_randomness


@dataclass(frozen=True)
class HaarOrthogonal(AutoregressiveProcess):
    """W from the Haar measure on O(dim) (Sander et al. 2024, general experiment).

    Args:
        dim, noise: see `AutoregressiveProcess`.
        first_token: the law of s_1; of norm 1 if left out.
    """

    first_token: FirstToken | str = field(default=FirstToken("unit-ones"), kw_only=True)

    kind: ClassVar[str] = "haar-orthogonal"

    def draw_matrices(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch dim dim"]:
        """W = Q sign(diag R) from the QR decomposition of a Gaussian matrix, float64.

        Without the signs Q is not Haar-distributed (Mezzadri 2007, How to generate random matrices from the classical
        compact groups).
        """
        shape = (batch, self.dim, self.dim)
        gaussian = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        Q, R = torch.linalg.qr(gaussian)
        return Q * R.diagonal(0, -2, -1).sign()[:, None, :]

    def sample(
        self,
        batch: int,
        length: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Sequences:
        """Fresh sequences s_1, ..., s_length, each with its own W.

        The recursion runs in the precision asked for. W keeps norms, so its rounding error grows only linearly: the
        largest over 256 sequences of dim 5 and norm 1 was 7e-14 at T = 100 and 6e-13 at T = 1000 in float64, 3e-6 and
        2e-5 in float32.

        Args:
            batch: number of sequences; >= 1.
            length: tokens in each; >= 1.
            seed: or `generator`, the source of randomness; one of them.
            device: where to sample; the generator's, else the CPU.
            dtype: float64 or float32.
        Raises:
            ValueError: a size below 1, both or neither of seed and generator.
        """
        check_integer("batch", batch, low=1)
        check_integer("length", length, low=1)
        generator = source_of_randomness(seed, generator, device)
        kind = cast_to(dtype, real=True)
        W = self.draw_matrices(batch, generator).to(kind)
        state = self.initial.draw(batch, self.dim, generator).to(kind).T
        columns = W.permute(1, 2, 0).contiguous()  # the batch last: one fused product and sum per step
        states = state.new_empty(length, self.dim, batch)
        for t in range(length):
            states[t] = state
            state = (columns * state).sum(1)
            if self.noise:
                xi = torch.randn(state.shape, generator=generator, device=state.device, dtype=torch.float64)
                state = state + self.noise * xi.to(kind)
        return Sequences(tokens=states.permute(2, 0, 1), W=W, phases=None)
