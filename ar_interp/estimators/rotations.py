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
    n_few = min(past.shape[1:])
    energy = _energy(past).sum(-1).cumsum(1)
    few, few_inverse = _few(past[:, :n_few], future[:, :n_few])
    estimates, inverses = [few.new_zeros(len(few), 1, *few.shape[2:]), few], [few_inverse]
    if past.shape[1] > n_few:
        many, many_inverse = _many(past, future)
        estimates.append(many)
        inverses.append(many_inverse)
    trusted = energy * torch.cat(inverses, dim=1) * tolerance**2 < 1
    return Solved(torch.cat(estimates, dim=1), torch.cat([torch.ones_like(trusted[:, :1]), trusted], dim=1))


def _few(past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """W_m, and |X^+|^2, for m = 1..pairs <= dim."""
    Q, R = torch.linalg.qr(past.mT)
    identity = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device).expand_as(R)
    inverse = torch.linalg.solve_triangular(R, identity, upper=True)
    columns = future.mT @ inverse
    estimate = torch.einsum("bom,bdm->bmod", columns, Q.conj()).cumsum(1)
    return estimate, _energy(inverse).sum(-2).cumsum(1)


def _many(past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """W_m, and |X^+|^2, for m = dim + 1..pairs."""
    (batch, n_pairs, dim), out = past.shape, future.shape[-1]
    rows = torch.cat([past, future], dim=-1).permute(1, 2, 0).contiguous()
    triangles = rows.new_zeros(n_pairs - dim + 1, dim, dim + out, batch)  # R and Z, of m = dim first
    for m in range(n_pairs):
        before, after = triangles[max(m - dim, 0)], triangles[max(m + 1 - dim, 0)]
        for j in range(dim):
            _rotate(before[j, j:], rows[m, j:], after[j, j:])
    return _substituted(triangles[1:], dim)


def _rotate(upper: Tensor, row: Tensor, into: Tensor) -> None:
    """Make the first number of a row zero by a rotation with the row of the triangle that begins there."""
    a, b = upper[0], row[0].clone()
    size = (_energy(a) + _energy(b)).sqrt()
    inverse = torch.where(size > 0, 1 / size, 0)
    c, s = a * inverse, b * inverse
    rotated = torch.addcmul(c * upper, s.conj(), row)
    row.mul_(c).addcmul_(s, upper, value=-1)
    into.copy_(rotated)


def _substituted(triangles: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """W^T = R^{-1} Z and |R^{-1}|^2 of triangles [step row column batch], from the last row up."""
    steps, _, columns, batch = triangles.shape
    estimate = triangles.new_empty(batch, steps, columns - dim, dim)
    energy = triangles.real.new_zeros(steps, batch)
    rows: dict[int, Tensor] = {}
    inverse: dict[tuple[int, int], Tensor] = {}
    for j in reversed(range(dim)):
        entry = {k: triangles[:, j, k] for k in range(j, dim)}
        own, scale = triangles[:, j, dim:].clone(), 1 / entry[j]
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
    return estimate, energy.T


def _energy(x: Tensor) -> Tensor:
    """|x|^2 of every number."""
    return x.abs().square() if x.is_complex() else x * x
