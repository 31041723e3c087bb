"""Subspaces compared by what does not depend on the basis: projectors and principal angles."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp.models.weights import in_double


def projector(X: Inexact[Tensor, "n p"]) -> Inexact[Tensor, "n n"]:
    """The orthogonal projector X (X^H X)^{-1} X^H onto the column space of X, as Q Q^H from its QR.

    Raises:
        ValueError: X that is not a finite matrix, or has linearly dependent columns.
    """
    Q = _basis("X", X)
    return Q @ Q.mH


def principal_angles(X: Inexact[Tensor, "n p"], Y: Inexact[Tensor, "m q"]) -> Float[Tensor, "angle"]:
    """Principal angles between the column spaces of X and Y, in radians, ascending; min(p, q) of them.

    With orthonormal bases Q_X and Q_Y and p >= q, cos theta_i are the singular values of Q_X^H Q_Y and sin theta_i
    those of Q_Y - Q_X Q_X^H Q_Y. The sine is used below pi/4, where the cosine would lose half the digits.
    Source: Björck and Golub 1973; Knyazev and Argentati 2002.

    Raises:
        ValueError: matrices of different height, not finite, or with linearly dependent columns.
    """
    large, small = _basis("X", X), _basis("Y", Y)
    if len(large) != len(small):
        raise ValueError(f"X and Y must have as many rows, got {list(X.shape)} and {list(Y.shape)}.")
    if large.shape[1] < small.shape[1]:
        large, small = small, large
    dtype = torch.promote_types(large.dtype, small.dtype)
    large, small = large.to(dtype), small.to(dtype)
    inner = large.mH @ small
    cosines = torch.linalg.svdvals(inner).clamp(max=1)  # descending, so the angles ascend
    sines = torch.linalg.svdvals(small - large @ inner).flip(0).clamp(max=1)
    return torch.where(cosines.square() >= 0.5, sines.asin(), cosines.acos())


def _basis(name: str, X: Tensor) -> Inexact[Tensor, "n p"]:
    """Orthonormal, in double precision."""
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"{name} must be a matrix [n p] with columns, got shape {list(X.shape)}.")
    if not torch.isfinite(X).all():
        raise ValueError(f"{name} has NaN or infinite entries.")
    Q, R = torch.linalg.qr(in_double(X))
    S = torch.linalg.svdvals(R)
    if X.shape[1] > X.shape[0] or S[-1] <= max(X.shape) * torch.finfo(S.dtype).eps * S[0]:
        raise ValueError(
            f"{name} {list(X.shape)} must have linearly independent columns: pass a basis of its column space, e.g. "
            "the first columns of U of its singular value decomposition."
        )
    return Q
