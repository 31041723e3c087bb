"""The loss of one augmented block-scalar layer where there is no closed form: a quadratic, estimated from sequences."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float

from ar_interp.models.config import ModelConfig
from ar_interp.models.encodings import encode
from ar_interp.processes import Process
from ar_interp.theory import BlockScalarQuadratic

SEED = 2**41  # apart from training and evaluation
PART = 200  # sequences at a time: their key-value states stay in the cache
N_PARTS = 100
N_SEQUENCES = N_PARTS * PART


@dataclass(frozen=True, kw_only=True)
class SampledQuadratic:
    """`theory.block_scalar_quadratic` of independent batches of sequences; sums over T = 2..n_ctx.

    Attributes:
        h: features' products with the target, [part 8].
        G: their Gram matrix, [part 8 8].
        constant: [part].
        n_lengths: n_ctx - 1.
        n: sequences of all parts together.
    """

    h: Float[np.ndarray, "part 8"]
    G: Float[np.ndarray, "part 8 8"]
    constant: Float[np.ndarray, "part"]
    n_lengths: int
    n: int

    @property
    def mean(self) -> BlockScalarQuadratic:
        """Over the parts."""
        return BlockScalarQuadratic(self.h.mean(0), self.G.mean(0), float(self.constant.mean()))

    def loss(self, a: Float[np.ndarray, "4"], b: Float[np.ndarray, "2"]) -> tuple[float, float]:
        """Mean over T of the loss of these block scalars, and its standard error over the parts."""
        g = np.outer(a, b).ravel()
        losses = (self.constant - 2 * self.h @ g + self.G @ g @ g) / self.n_lengths
        return float(losses.mean()), float(losses.std(ddof=1) / len(losses) ** 0.5)


@cache
def sampled_quadratic(
    process: Process, n_ctx: int, attention: str = "linear", n_parts: int = N_PARTS
) -> SampledQuadratic:
    """The quadratic of `theory.block_scalar_quadratic` for any process, from n_parts batches of 200 sequences.

    Args:
        attention: `linear`, or `linear/keys` and `linear/pairs`, which divide the scores by T and T - 1.
        n_parts: >= 2.
    """
    config = ModelConfig.augmented(dim=process.dim, n_ctx=n_ctx)
    tokens = process.sample(n_parts * PART, n_ctx + 1, seed=SEED).tokens
    T = torch.arange(2, n_ctx + 1)[:, None, None, None, None]
    divisors = {"linear": torch.ones_like(T), "linear/keys": T, "linear/pairs": T - 1}[attention]
    h, G, constant = np.zeros((n_parts, 8)), np.zeros((n_parts, 8, 8)), np.zeros(n_parts)
    for i, part in enumerate(tokens.split(PART)):
        context = encode(config, part[:, :-1]).unflatten(-1, (3, process.dim))[:, :, 1:]  # [batch pos 2 dim]
        states = torch.einsum("btki,btvj->btikvj", context.conj(), context).cumsum(1)
        features = torch.einsum("btqi,btikvj->btqkvj", context, states)[:, 1:] / divisors
        rows = features.permute(2, 3, 4, 0, 1, 5).reshape(8, -1).numpy()
        target = part[:, 2:].reshape(-1).numpy()
        h[i] = np.real(rows.conj() @ target) / len(part)
        G[i] = np.real(rows.conj() @ rows.T) / len(part)
        constant[i] = np.vdot(target, target).real / len(part)
    for array in (h, G, constant):
        array.flags.writeable = False  # the cache hands the same arrays to all
    return SampledQuadratic(h=h, G=G, constant=constant, n_lengths=n_ctx - 1, n=n_parts * PART)
