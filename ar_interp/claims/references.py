"""What the general models are compared with where there is no closed form: the best of their kind, by least squares.

All are quadratic problems on sampled sequences, so that nothing is trained.
"""

from functools import cache

import numpy as np
import torch

from ar_interp.models.config import ModelConfig
from ar_interp.models.encodings import encode
from ar_interp.processes import Process
from ar_interp.theory import BlockScalarMinimum, BlockScalarQuadratic, minimum_of_quadratic

N_SEQUENCES = 20000
SEED = 2**41  # apart from training and evaluation
PART = 500


@cache
def best_block_scalars(process: Process, n_ctx: int, per_key: bool) -> BlockScalarMinimum:
    """The best scalars a1..a4, b1, b2 of one linear-attention layer on real sequences, T = 2..n_ctx.

    The quadratic of `theory.block_scalar_quadratic`, estimated from sequences.

    Args:
        per_key: scores divided by T.
    """
    return minimum_of_quadratic(_sampled_quadratic(process, n_ctx, per_key), n_lengths=n_ctx - 1)


@cache
def _sampled_quadratic(process: Process, n_ctx: int, per_key: bool) -> BlockScalarQuadratic:
    tokens = process.sample(N_SEQUENCES, n_ctx + 1, seed=SEED).tokens
    config = ModelConfig.augmented(dim=process.dim, n_ctx=n_ctx)
    h, G, constant = np.zeros(8), np.zeros((8, 8)), 0.0
    for part in tokens.split(PART):
        context = encode(config, part[:, :-1]).unflatten(-1, (3, process.dim))[:, :, 1:]  # [batch pos 2 dim]
        scores = torch.einsum("btqi,bski->bqkts", context, context).tril()
        if per_key:
            scores = scores / torch.arange(1, n_ctx + 1)[:, None]
        features = torch.einsum("bqkts,bsvi->qkvbti", scores, context)[..., 1:, :].reshape(8, -1).numpy()
        target = part[:, 2:].reshape(-1).numpy()
        h += features @ target
        G += features @ features.T
        constant += float(target @ target)
    return BlockScalarQuadratic(h / N_SEQUENCES, G / N_SEQUENCES, constant / N_SEQUENCES)


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
