"""Changes of weights that leave a model what it is: gauges, orders, signs, weights that nothing reads."""

from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.studies.blocks_measured import CURRENT, PREVIOUS, READ_OUT

NEAREST, FARTHEST = 0.5, 2.0  # singular values of a gauge: farther away rounding grows
SCALE = -0.7


def regauged_heads(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """A -> c G A, B -> G^{-T} B, P -> P / c: every product that the prediction is made of is the same."""
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    G = _gauge(len(A), torch.Generator().manual_seed(seed))
    return _diagonal(SCALE * G @ A, torch.linalg.inv(G).T @ B, P / SCALE, checkpoint)


def heads_reordered(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The same permutation of A and B."""
    order = torch.randperm(len(model.A), generator=torch.Generator().manual_seed(seed))
    return _diagonal(model.A.detach()[order], model.B.detach()[order], model.P.detach(), checkpoint)


def coordinates_reordered(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Coordinates have no order; those of conjugate pairs move pair by pair, and partners change places."""
    generator = torch.Generator().manual_seed(seed)
    dim = model.config.dim
    order = torch.randperm(dim, generator=generator)
    process: Any = checkpoint.process
    if process.conjugate_pairs:
        pairs = torch.randperm(dim // 2, generator=generator)
        order = torch.stack([2 * pairs + 1, 2 * pairs], dim=1).flatten()
    return _diagonal(model.A.detach()[:, order], model.B.detach()[:, order], model.P.detach(), checkpoint)


def unused_weights_random(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Random numbers right of p_T and in the last row of P, which are never read."""
    P = model.P.detach().clone()
    noise = torch.randn(P.shape, generator=torch.Generator().manual_seed(seed), dtype=P.dtype)
    unused = torch.ones_like(P).triu(2)
    unused[-1] = 1
    return _diagonal(model.A.detach(), model.B.detach(), torch.where(unused > 0, noise, P), checkpoint)


def rescaled_layers(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Block scalars QK -> c QK, OV -> OV / c, with another c in every layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in range(model.config.n_layers):
        c = SCALE * (0.5 + torch.rand((), generator=generator).item())
        weights[f"blocks.{layer}.attn.QK_blocks"] *= c
        weights[f"blocks.{layer}.attn.OV_blocks"] /= c
    return _loaded(model, weights)


def odd_scalars_turned(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """-W has the law of W: (-a1, a2, a3, -a4; b1, -b2) errs as (a; b) does."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    QK, OV = weights["blocks.0.attn.QK_blocks"], weights["blocks.0.attn.OV_blocks"]
    for odd in (QK[:, CURRENT, CURRENT], QK[:, PREVIOUS, PREVIOUS], OV[:, PREVIOUS, READ_OUT]):
        odd.neg_()
    return _loaded(model, weights)


def regauged_full_head(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Another basis of the head for queries and keys, another for values; random signs D of query and prediction."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    W_Q, W_K, W_V, W_O = (weights[f"blocks.0.attn.W_{part}"] for part in "QKVO")
    dim, width = model.config.dim, W_Q.shape[-1]
    G, H = _gauge(width, generator), _gauge(width, generator)
    signs = 1 - 2 * torch.randint(2, (dim,), generator=generator).to(W_Q.dtype)
    ones = torch.ones_like(signs)
    W_Q.copy_(torch.cat([signs] * 3)[:, None] * W_Q @ G)
    W_K.copy_(W_K @ torch.linalg.inv(G).T)
    W_V.copy_(W_V @ H)
    W_O.copy_(torch.linalg.inv(H) @ W_O * torch.cat([signs, ones, ones]))
    return _loaded(model, weights)


def _gauge(size: int, generator: torch.Generator) -> Tensor:
    U, S, Vh = torch.linalg.svd(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return U * S.clamp(NEAREST, FARTHEST) @ Vh


def _diagonal(A: Tensor, B: Tensor, P: Tensor, checkpoint: Checkpoint) -> HookedARTransformer:
    return HookedARTransformer.from_diagonal(A, B, P, process=checkpoint.process)


def _loaded(model: Any, weights: dict[str, Tensor]) -> HookedARTransformer:
    other = HookedARTransformer(model.config, process=model.process)
    other.load_state_dict(weights)
    return other
