"""Weights by hand that sit exactly at the closed forms: known answers for probes, and starting points."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_real_array, check_integer, check_number
from ar_interp._shown import shown, shown_html
from ar_interp.seeds import generator_of
from ar_interp.theory.diagonal import check_even, check_scale, kappa_to_ratio

LARGEST = 2**14  # rows of a matrix, which then takes 2 GB


class KappaFamily(NamedTuple):
    """A zero of the population loss: C [dim dim] and P [n_ctx n_ctx]."""

    C: Float[Tensor, "dim dim"]
    P: Float[Tensor, "query key"]

    __repr__ = shown
    _repr_html_ = shown_html


def positional_weights(*, n_ctx: int, previous: float, last: float) -> Float[Tensor, "query key"]:
    """P with p_{T-1} = previous, p_T = last and zeros elsewhere, for every T = 2..n_ctx.

    Row r holds T = r + 2, so `previous` is on the diagonal and `last` right of it; the last row is unused.
    """
    check_integer("n_ctx", n_ctx, low=2, high=LARGEST)
    previous, last = (check_number(name, x, low=-math.inf) for name, x in (("previous", previous), ("last", last)))
    P = previous * torch.eye(n_ctx, dtype=torch.float64, device="cpu")
    P[-1] = 0
    P.diagonal(1).fill_(last)
    return P


def projector_family(projector: Float[Tensor, "dim dim"], *, n_ctx: int, scale: float = 1.0) -> KappaFamily:
    """Global minimum of the unitary loss: C = scale Pi, p_T = 1 / scale, other p_t = 0.

    Args:
        projector: orthogonal projector Pi; its rank is the number of heads needed.
        scale: c, any non-zero number.
    """
    Pi = as_real_array("projector", projector, shape=("dim", "dim"))
    if Pi.shape[0] != Pi.shape[1] or (Pi @ Pi - Pi).abs().max() > 1e-9 or (Pi - Pi.T).abs().max() > 1e-9:
        raise ValueError("projector must be an orthogonal projector: Pi = Pi^T = Pi^2.")
    check_scale(scale)
    return KappaFamily(scale * Pi, positional_weights(n_ctx=n_ctx, previous=0.0, last=1 / scale))


def kappa_family(*, dim: int, kappa: float, n_ctx: int, scale: float = 1.0, n_pairs: int | None = None) -> KappaFamily:
    """The complete zero-loss set for conjugate pairs: C = c blockdiag([[1, k], [k, 1]]), p_T = 1/c, the ratio by k.

    kappa = 0 is the unitary solution; kappa = 1 needs only dim / 2 heads and predicts
    s_{T+1} = 2 cos(theta) s_T - s_{T-1}.

    Args:
        kappa: any number but -1.
        n_pairs: cover only the first pairs, the minimum for n_pairs < dim / 2 heads (kappa = 1); all if left out.
    """
    check_number("kappa", kappa, low=-float("inf"))
    check_scale(scale)
    C, _ = _on_pairs(
        dim, n_pairs, scale * torch.tensor([[1.0, kappa], [kappa, 1.0]], dtype=torch.float64, device="cpu")
    )
    return KappaFamily(C, positional_weights(n_ctx=n_ctx, previous=kappa_to_ratio(kappa) / scale, last=1 / scale))


def valley_at_infinity(*, dim: int, epsilon: float, n_ctx: int, n_pairs: int | None = None) -> KappaFamily:
    """A point of the second, unattained valley for conjugate pairs: kappa -> -1, p_{T-1} / p_T -> infinity.

    On the first n_pairs pairs, D = 2 n_pairs coordinates, C = blockdiag([[1, -1], [-1, 1]]) + (epsilon / D) 11^T of
    rank n_pairs + 1, and p_{T-1} / p_T = (1 - epsilon / D) / epsilon; elsewhere C = 0. The loss of every T is
    dim - D + epsilon^2 (D - 1) / D.

    Args:
        n_pairs: pairs covered; all if left out.
    """
    check_number("epsilon", epsilon, low=0.0, strict=True)
    C, D = _on_pairs(dim, n_pairs, torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64, device="cpu"))
    C[:D, :D] += epsilon / D
    ratio = (1 - epsilon / D) / epsilon
    return KappaFamily(C, positional_weights(n_ctx=n_ctx, previous=ratio, last=1.0))


def factor_heads(
    C: Float[Tensor, "dim dim"], *, n_heads: int, seed: int | None = None
) -> tuple[Float[Tensor, "head dim"], Float[Tensor, "head dim"]]:
    """Balanced heads with B^T A = C: A = O sqrt(S) Vh, B = O sqrt(S) U^T from C = U S Vh, so A A^T = B B^T.

    Args:
        n_heads: at least the rank of C.
        seed: seed of a random O with orthonormal columns (the rotation that the loss leaves free); O = I if left out.
    Raises:
        ValueError: C is not square, n_heads below its rank.
    """
    C = as_real_array("C", C, shape=("dim", "dim"))
    if C.shape[0] != C.shape[1]:
        raise ValueError(f"C must be square, got {list(C.shape)}.")
    check_integer("n_heads", n_heads, low=1)
    U, S, Vh = torch.linalg.svd(C)
    rank = int((S / S[0] > 1e-12).sum()) if S[0] > 0 else 0
    if n_heads < rank:
        raise ValueError(f"n_heads must be at least the rank of C, {rank}, got {n_heads}.")
    mix = torch.eye(n_heads, rank, dtype=torch.float64, device="cpu")
    if seed is not None:
        generator = generator_of(seed)
        mix = torch.linalg.qr(torch.randn(n_heads, rank, dtype=torch.float64, generator=generator, device="cpu"))[0]
    root = S[:rank].sqrt()
    return mix @ (root[:, None] * Vh[:rank]), mix @ (root[:, None] * U.T[:rank])


def _on_pairs(dim: int, n_pairs: int | None, block: Tensor) -> tuple[Float[Tensor, "dim dim"], int]:
    """The block on each of the first pairs, all if None; zero elsewhere; and the number of coordinates covered."""
    check_even(check_integer("dim", dim, low=1, high=LARGEST))
    n_pairs = check_integer("n_pairs", dim // 2 if n_pairs is None else n_pairs, low=1, high=dim // 2)
    C = torch.zeros(dim, dim, dtype=torch.float64, device="cpu")
    C[: 2 * n_pairs, : 2 * n_pairs] = torch.block_diag(*[block] * n_pairs)
    return C, 2 * n_pairs
