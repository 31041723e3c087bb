"""What the general models are compared with where there is no closed form: the best of their kind, by least squares.

All are quadratic problems on sampled sequences, so that nothing is trained.
"""

from functools import cache

import numpy as np
import torch

from ar_interp.probes.quadratic import N_SEQUENCES, SEED, sampled_quadratic
from ar_interp.processes import Process
from ar_interp.theory import BlockScalarMinimum, minimum_of_quadratic


@cache
def best_block_scalars(process: Process, n_ctx: int, per_key: bool) -> BlockScalarMinimum:
    """The best scalars a1..a4, b1, b2 of one linear-attention layer on real sequences, T = 2..n_ctx.

    The quadratic of `theory.block_scalar_quadratic`, estimated from sequences.

    Args:
        per_key: scores divided by T.
    """
    quadratic = sampled_quadratic(process, n_ctx, "linear/keys" if per_key else "linear")
    return minimum_of_quadratic(quadratic.mean, n_lengths=quadratic.n_lengths)


@cache
def best_equivariant_head(process: Process, n_ctx: int) -> float:
    """Mean loss over T = 2..n_ctx of the best head with A = B = I asked with s_{T-1}: sum_t p_t <s_{T-1}, s_t> s_t.

    The weights p are free at each T; fitted on one half of the sequences, the loss is that of the other.
    """
    fit, test = process.sample(N_SEQUENCES, n_ctx + 1, seed=SEED).tokens.chunk(2)
    losses = []
    for T in range(2, n_ctx + 1):
        gram, cross, _ = _head_moments(fit, T)
        p = np.linalg.lstsq(gram, cross, rcond=1e-10)[0]
        gram, cross, energy = _head_moments(test, T)
        losses.append(energy - 2 * p @ cross + p @ gram @ p)
    return float(np.mean(losses))


def _head_moments(tokens: torch.Tensor, T: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the features <s_{T-1}, s_t> s_t: Gram matrix, products with the target, and the target's energy."""
    context, target = tokens[:, :T], tokens[:, T]
    features = (torch.einsum("bi,bti->bt", tokens[:, T - 2], context)[..., None] * context).transpose(0, 1)
    rows, wanted = features.flatten(1).numpy(), target.flatten().numpy()
    return rows @ rows.T / len(tokens), rows @ wanted / len(tokens), float(wanted @ wanted / len(tokens))
