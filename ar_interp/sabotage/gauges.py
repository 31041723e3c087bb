"""Changes of weights that leave a model what it is: gauges, orders, signs, weights that nothing reads."""

import math
from typing import Any

import torch
from torch import Tensor

from ar_interp.checkpoints import Checkpoint
from ar_interp.models.block_scalars import CURRENT, PREVIOUS, READ_OUT
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.edits import on_weights, with_weights
from ar_interp.seeds import generator_of

NEAREST, FARTHEST = 0.5, 2.0  # singular values of a gauge: farther away rounding grows
SCALE = -0.7
STEEP = 1000.0


@on_weights
def regauged_heads(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """A -> c G A, B -> G^{-T} B, P -> P / c: every product that the prediction is made of is the same."""
    _regauge(weights, _gauge(len(weights["A"]), generator))


@on_weights
def steeply_regauged_heads(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """`regauged_heads` with a G of condition STEEP."""
    n_heads = len(weights["A"])
    U, _, Vh = torch.linalg.svd(torch.randn(n_heads, n_heads, generator=generator, dtype=torch.float64, device="cpu"))
    _regauge(weights, U * torch.logspace(0, math.log10(STEEP), n_heads, dtype=torch.float64, device="cpu") @ Vh)


def _regauge(weights: dict[str, Tensor], G: Tensor) -> None:
    A, B = weights["A"], weights["B"]
    A.copy_(SCALE * G @ A)
    B.copy_(torch.linalg.inv(G).T @ B)
    weights["P"] /= SCALE


@on_weights
def heads_reordered(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Heads in another order: one permutation of the rows of A and B."""
    order = torch.randperm(len(weights["A"]), generator=generator, device="cpu")
    for name in "AB":
        weights[name].copy_(weights[name][order])


def coordinates_reordered(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Coordinates have no order; those of conjugate pairs move pair by pair, and partners change places."""
    generator = generator_of(seed)
    dim = model.config.dim
    order = torch.randperm(dim, generator=generator, device="cpu")
    process: Any = checkpoint.process
    if process.conjugate_pairs:
        pairs = torch.randperm(dim // 2, generator=generator, device="cpu")
        order = torch.stack([2 * pairs + 1, 2 * pairs], dim=1).flatten()
    A, B, P = (weights.detach() for weights in (model.A, model.B, model.P))
    return HookedARTransformer.from_diagonal(A[:, order], B[:, order], P, process=process)


@on_weights
def unused_weights_random(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Random numbers right of p_T and in the last row of P, which are never read."""
    P = weights["P"]
    unused = torch.ones_like(P).triu(2)
    unused[-1] = 1
    P.copy_(torch.where(unused > 0, torch.randn(P.shape, generator=generator, dtype=P.dtype, device="cpu"), P))


def rescaled_layers(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """Block scalars QK -> c QK, OV -> OV / c, with another c in every layer."""
    generator = generator_of(seed)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in range(model.config.n_layers):
        c = SCALE * (0.5 + torch.rand((), generator=generator, dtype=torch.float32, device="cpu").item())
        weights[f"blocks.{layer}.attn.QK_blocks"] *= c
        weights[f"blocks.{layer}.attn.OV_blocks"] /= c
    return with_weights(model, weights)


@on_weights
def odd_scalars_turned(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """-W has the law of W: (-a1, a2, a3, -a4; b1, -b2) errs as (a; b) does."""
    QK, OV = weights["QK_blocks"], weights["OV_blocks"]
    for odd in (QK[:, CURRENT, CURRENT], QK[:, PREVIOUS, PREVIOUS], OV[:, PREVIOUS, READ_OUT]):
        odd.neg_()


@on_weights
def regauged_full_head(weights: dict[str, Tensor], generator: torch.Generator) -> None:
    """Another basis of the head for queries and keys, another for values; random signs D of query and prediction."""
    W_Q, W_K, W_V, W_O = (weights[f"W_{part}"] for part in "QKVO")
    dim, width = W_Q.shape[1] // 3, W_Q.shape[-1]
    G, H = _gauge(width, generator), _gauge(width, generator)
    signs = 1 - 2 * torch.randint(2, (dim,), generator=generator, device="cpu").to(W_Q.dtype)
    ones = torch.ones_like(signs)
    W_Q.copy_(torch.cat([signs] * 3)[:, None] * W_Q @ G)
    W_K.copy_(W_K @ torch.linalg.inv(G).T)
    W_V.copy_(W_V @ H)
    W_O.copy_(torch.linalg.inv(H) @ W_O * torch.cat([signs, ones, ones]))


def _gauge(size: int, generator: torch.Generator) -> Tensor:
    U, S, Vh = torch.linalg.svd(torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu"))
    return U * S.clamp(NEAREST, FARTHEST) @ Vh
