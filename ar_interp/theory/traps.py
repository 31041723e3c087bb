"""The local minima that trap gradient descent when conjugate pairs meet few diagonal heads (n_heads <= dim / 2).

A trapped model gives every head one pair, with a block c [[1, k], [k, 1]] of rank one: '+' has k = 1, '-' has k = -1.
Only with all '+' is the global minimum reached. The '-' blocks are not alone: small cross terms tie the sums
(1, 1) of all covered pairs together at no cost in rank, and lower the loss.
"""

from functools import cache

import numpy as np
import scipy
from jaxtyping import Float

from ar_interp.theory.diagonal import check_sizes, orthogonal_minimum


def trapped_matrix(
    *, plus: int, minus: int, beta: float, gamma: float, y: float, z: float
) -> Float[np.ndarray, "dim dim"]:
    """C of a trapped model on its covered pairs, '+' pairs first, in units where a '+' block has entries 1 + gamma.

    C = E (x) [[1, 1], [1, 1]] + beta diag(0_plus, 1_minus) (x) [[1, -1], [-1, 1]], with
    E = [I; z 11^T] (I + gamma 11^T) [I, y 11^T] of rank `plus`, so that rank C = plus + minus.
    """
    left = np.vstack([np.eye(plus), np.full((minus, plus), z)])
    right = np.hstack([np.eye(plus), np.full((plus, minus), y)])
    sums = left @ (np.eye(plus) + gamma) @ right
    C = sums.repeat(2, 0).repeat(2, 1)
    j = np.arange(2 * plus, len(C))  # coordinates of '-' pairs
    C[j, j] += beta
    C[j, j ^ 1] -= beta
    return C


def trapped_levels(*, dim: int, n_heads: int, max_length: int) -> Float[np.ndarray, "n_minus"]:
    """Loss per context length of the trapped models, by their number m = 0..n_heads of '-' blocks.

    The population loss at `trapped_matrix`, minimised exactly over the positional weights of each T = 2..max_length
    (a quadratic) and numerically over beta, gamma, y, z. Level 0 is the global minimum dim - 2 n_heads; the last is
    dim - 2 n_heads + 2 n_heads mean_T(1 / T) in closed form.
    Source: the structure is read off gradient-descent runs, whose losses it reproduces; not a proof that no other
    local minimum exists.

    Raises:
        ValueError: odd dim, or more than dim / 2 heads (there the traps open into a valley at infinity).
    """
    check_sizes(dim=dim, n_heads=n_heads, max_length=max_length, pairs=True)
    if 2 * n_heads > dim:
        raise ValueError(f"n_heads must be at most dim / 2 = {dim // 2} for the traps to be isolated, got {n_heads}.")
    uncovered = orthogonal_minimum(dim=dim, n_heads=n_heads)

    harmonic = np.mean(1 / np.arange(2, max_length + 1))
    covered = [0.0, *(_level(n_heads, minus, max_length) for minus in range(1, n_heads)), 2 * n_heads * harmonic]
    return uncovered + np.array(covered)


@cache
def _level(n_heads: int, minus: int, max_length: int) -> float:
    def loss(x: np.ndarray) -> float:
        beta, gamma, y, z = x
        C = trapped_matrix(plus=n_heads - minus, minus=minus, beta=beta, gamma=gamma, y=y, z=z)
        return _loss_at_best_weights(C, max_length)

    return scipy.optimize.minimize(loss, [0.9, 0.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).fun


def _loss_at_best_weights(C: Float[np.ndarray, "dim dim"], max_length: int) -> float:
    """min over p of the orthogonal loss, averaged over T; the T - 2 oldest weights share one value q by symmetry.

    With Qs = v + N q and Q2 = v^2 + N q^2 (N = T - 2) it is x'Hx - 2 g'x + dim in x = (u, v, q).
    """
    j = np.arange(len(C))
    rows, partners = C.sum(1), C[j, j ^ 1]
    t1, t2, t3, t4 = rows @ rows, (C * C).sum(), partners @ rows, partners @ partners
    g = np.array([0.0, np.trace(C), 0.0])
    losses = [len(C) - g[:2] @ np.linalg.solve([[t1, t3], [t3, t2]], g[:2])]
    N = np.arange(1, max_length - 1)
    H = np.empty((len(N), 3, 3))
    H[:, :2, :2] = [[t1, t3], [t3, t2]]
    H[:, 2, 0] = H[:, 0, 2] = N * t3
    H[:, 2, 1] = H[:, 1, 2] = N * t4
    H[:, 2, 2] = N * t2 + (N * N - N) * t4
    losses += [len(C) - g @ x for x in np.linalg.solve(H, g[:, None])[..., 0]]
    return float(np.mean(losses))
