"""References where there is no closed form: the best of their kind by least squares on sampled sequences, untrained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ar_interp.models.config import ModelConfig
from ar_interp.models.encodings import encode
from ar_interp.processes import Contexts, Process
from ar_interp.seeds import REFERENCES
from ar_interp.theory import BlockScalarMinimum, BlockScalarQuadratic, minimum_of_quadratic

PART = 200  # sequences at a time: their key-value states stay in the cache
N_PARTS = 100
N_SEQUENCES = N_PARTS * PART
GROUPS = 20  # of the jackknife
SHARES = ("linear", "linear/keys", "linear/pairs")


def is_bare_augmented(config: Any) -> bool:
    """One head in each layer on augmented tokens, and nothing beside the heads."""
    if type(config) is not ModelConfig or config.encoding != "augmented" or config.n_heads != 1:
        return False
    return config.bare and config.positional == "none" and not config.scale_scores


def is_block_scalar_stack(config: Any) -> bool:
    """Layers of block scalars with residual connections and linear attention, raw or divided by the number of keys."""
    return (
        is_bare_augmented(config)
        and config.heads == "block-scalar"
        and config.residual
        and config.attention in ("linear", "linear/keys")
    )


def is_bare_layer(config: Any) -> bool:
    """One layer with one head of block scalars and nothing else: its loss is quadratic in their products."""
    return (
        is_bare_augmented(config)
        and config.heads == "block-scalar"
        and config.n_layers == 1
        and config.attention in SHARES
    )


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
        """The quadratic of all sequences, the mean over the parts."""
        return BlockScalarQuadratic(self.h.mean(0), self.G.mean(0), float(self.constant.mean()))

    @cached_property
    def minimum(self) -> BlockScalarMinimum:
        """The best block scalars, by the mean over the parts."""
        return minimum_of_quadratic(self.mean, n_lengths=self.n_lengths)

    def near(self, ratio: float) -> BlockScalarMinimum:
        """The local minimum downhill from |b2 / b1| = ratio: there are two about as deep."""
        return minimum_of_quadratic(self.mean, n_lengths=self.n_lengths, near=ratio)

    def spread(self, read: Callable[[BlockScalarMinimum], float], ratio: float) -> float:
        """Standard error of a number read off `near`, by leaving out one of `GROUPS` groups of parts at a time."""
        groups = np.array_split(np.arange(len(self.h)), GROUPS)
        found = []
        for group in groups:
            h, G, constant = (np.delete(x, group, axis=0) for x in (self.h, self.G, self.constant))
            rest = replace(self, h=h, G=G, constant=constant)
            found.append(read(rest.near(ratio)))
        return float(np.std(found) * (len(groups) - 1) ** 0.5)

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
    contexts = process.contexts(n_parts * PART, n_ctx, seed=REFERENCES)
    T = torch.arange(2, n_ctx + 1, device=contexts.inputs.device)[:, None, None, None, None]
    divisors = {"linear": torch.ones_like(T), "linear/keys": T, "linear/pairs": T - 1}[attention]
    h, G, constant = np.zeros((n_parts, 8)), np.zeros((n_parts, 8, 8)), np.zeros(n_parts)
    for i, part in enumerate(contexts.split(PART)):
        context = encode(config, part.inputs).unflatten(-1, (3, process.dim))[:, :, 1:]  # [batch pos 2 dim]
        states = torch.einsum("btki,btvj->btikvj", context.conj(), context).cumsum(1)
        features = torch.einsum("btqi,btikvj->btqkvj", context, states)[:, 1:] / divisors
        rows = features.permute(2, 3, 4, 0, 1, 5).reshape(8, -1).numpy()
        target = part.clean_targets[:, 1:].reshape(-1).numpy()
        h[i] = np.real(rows.conj() @ target) / len(part)
        G[i] = np.real(rows.conj() @ rows.T) / len(part)
        constant[i] = np.vdot(target, target).real / len(part)
    for array in (h, G, constant):
        array.flags.writeable = False  # the cache hands the same arrays to all
    return SampledQuadratic(h=h, G=G, constant=constant, n_lengths=n_ctx - 1, n=n_parts * PART)


@cache
def best_equivariant_head(process: Process, n_ctx: int) -> float:
    """Mean loss over T = 2..n_ctx of the best head with A = B = I asked with s_{T-1}: sum_t p_t <s_{T-1}, s_t> s_t.

    The weights p are free at each T; fitted on one half of the sequences, the loss is that of the other.
    """
    fit, test = process.contexts(N_SEQUENCES, n_ctx, seed=REFERENCES).split(N_SEQUENCES // 2)
    losses = []
    for T in range(2, n_ctx + 1):
        gram, cross, _ = _head_moments(fit, T)
        p = np.linalg.lstsq(gram, cross, rcond=1e-10)[0]
        gram, cross, energy = _head_moments(test, T)
        losses.append(energy - 2 * p @ cross + p @ gram @ p)
    return float(np.mean(losses))


def _head_moments(contexts: Contexts, T: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Gram matrix of the features <s_{T-1}, s_t> s_t, their products with the target, and the target's energy."""
    context, target = contexts.inputs[:, :T], contexts.targets[:, T - 1]
    features = (torch.einsum("bi,bti->bt", context[:, T - 2], context)[..., None] * context).transpose(0, 1)
    rows, wanted = features.flatten(1).numpy(), target.flatten().numpy()
    n = len(contexts)
    return rows @ rows.T / n, rows @ wanted / n, float(wanted @ wanted / n)
