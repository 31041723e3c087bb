"""Least squares of many contexts at once, by Givens rotations whose every number is a vector over the contexts.

An SVD per context and position costs ten microseconds and more; here a few operations serve all contexts.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Inexact
from torch import Tensor


class Solved(NamedTuple):
    estimate: Inexact[Tensor, "batch pos out dim"]
    trusted: Bool[Tensor, "batch pos"]  # no singular value of the pairs is as small as the tolerance


def solved(
    past: Inexact[Tensor, "batch pair dim"], future: Inexact[Tensor, "batch pair out"], tolerance: float
) -> Solved:
    """W_m of least norm among those that minimise sum_{t <= m} |y_t - W x_t|^2, for m = 0..pairs.

    Up to m = dim pairs have full row rank: of X = (x_1 .. x_m) = Q R the leading blocks give every W_m = Y R^{-1} Q^*.
    From then on each pair is rotated into the triangle of those before it, R W^T = Z.

    Args:
        tolerance: smallest singular value, relative to the largest, that counts; an m is trusted if |X| |X^+|, both
            Frobenius, is smaller than its inverse.
    """
    (batch, n_pairs, dim), out = past.shape, future.shape[-1]
    n_few = min(n_pairs, dim)
    energy = _energy(past).sum(-1).cumsum(1)
    estimate = past.new_empty(n_pairs + 1, out, dim, batch).permute(3, 0, 1, 2)  # contexts innermost
    estimate[:, 0] = 0
    few, few_inverse = _few(past[:, :n_few], future[:, :n_few])
    estimate[:, 1 : n_few + 1] = few
    inverses = [few_inverse]
    if n_pairs > n_few:
        inverses.append(_many(past, future, estimate[:, n_few + 1 :]))
    trusted = energy * torch.cat(inverses, dim=1) * tolerance**2 < 1
    return Solved(estimate, torch.cat([torch.ones_like(trusted[:, :1]), trusted], dim=1))


def _few(past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """W_m, and |X^+|^2, for m = 1..pairs <= dim."""
    Q, R = torch.linalg.qr(past.mT)
    identity = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device).expand_as(R)
    inverse = torch.linalg.solve_triangular(R, identity, upper=True)
    columns = future.mT @ inverse
    estimate = torch.einsum("bom,bdm->bmod", columns, Q.conj()).cumsum(1)
    return estimate, _energy(inverse).sum(-2).cumsum(1)


def _many(past: Tensor, future: Tensor, estimate: Tensor) -> Tensor:
    """|X^+|^2 for m = dim + 1..pairs, and W_m, written into `estimate`.

    The rotation of pair m with row j of the triangle waits for those of (m, j - 1) and (m - 1, j): all with the same
    m + j are done at once.
    """
    (batch, n_pairs, dim), out = past.shape, future.shape[-1]
    n_steps = n_pairs + dim - 1
    pairs = torch.cat([past.permute(1, 2, 0), future.permute(1, 2, 0)], dim=1)
    pairs = torch.cat([pairs, pairs.new_zeros(dim, dim + out, batch)])
    triangles = pairs.new_empty(n_steps + 1, dim, dim + out, batch)  # [m + j, j]: row j of (R Z) of the first m pairs
    triangles[0] = 0
    rows, following = pairs.new_zeros(2, dim + 1, dim + out, batch)  # what meets row j, of the pair m - j
    rows[0] = pairs[0]
    smallest = torch.finfo(pairs.dtype).tiny
    for step in range(n_steps):
        upper, lower = triangles[step], rows[:-1]
        a, b = upper.diagonal().mT, lower.diagonal().mT
        inverse = (_energy(a) + _energy(b)).clamp_(min=smallest).rsqrt_()
        c, s = (a * inverse)[:, None], (b * inverse)[:, None]
        torch.mul(upper, c, out=triangles[step + 1]).addcmul_(lower, s.conj())
        torch.mul(lower, c, out=following[1:]).addcmul_(upper, s, value=-1)
        following[0] = pairs[step + 1]
        rows, following = following, rows
    return _substituted([triangles[dim + 1 + j : n_pairs + 1 + j, j] for j in range(dim)], estimate)


def _substituted(triangles: list[Tensor], estimate: Tensor) -> Tensor:
    """|R^{-1}|^2, and W^T = R^{-1} Z into `estimate`, from the last row up; rows [step column batch] of triangles."""
    dim = len(triangles)
    energy = torch.zeros_like(triangles[0][:, 0].real)
    rows: dict[int, Tensor] = {}
    inverse: dict[tuple[int, int], Tensor] = {}
    for j in reversed(range(dim)):
        entry = {k: triangles[j][:, k] for k in range(j, dim)}
        own, scale = triangles[j][:, dim:].clone(), 1 / entry[j]
        for k in range(j + 1, dim):
            own.addcmul_(entry[k][:, None], rows[k], value=-1)
            column = entry[j + 1] * inverse[j + 1, k]
            for i in range(j + 2, k + 1):
                column.addcmul_(entry[i], inverse[i, k])
            inverse[j, k] = column.mul_(-scale)
            energy += _energy(inverse[j, k])
        inverse[j, j], rows[j] = scale, own.mul_(scale[:, None])
        energy += _energy(scale)
        estimate[..., j] = rows[j].permute(2, 0, 1)
    return energy.T


def _energy(x: Tensor) -> Tensor:
    """|x|^2 of every number."""
    return x.abs().square() if x.is_complex() else x * x
