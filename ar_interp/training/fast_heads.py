"""Errors and gradients of figure 7's heads on a CPU, one by one, in vectors of sequences.

On s~_t = (s_t, 1) a head maps q_T = QK^T s~_T to c_T = M_T q_T, where M_T = sum_t P(T, t) s~_t s~_t^T: P times the
products of coordinates F_t, all but 1 * 1, as sum_t P(T, t) = 1. This and dP = dM F^T are products in tiles.
"""

from itertools import product

from torch import Tensor
from torch.nn.functional import pad

from ar_interp.training.batched import Products
from ar_interp.training.fast_stack import errors_of, normalised, through_norm, token
from ar_interp.training.vectors import (
    TILE,
    Array,
    Code,
    Integer,
    Registers,
    compiled,
    errors_by,
    pairs,
    sums_of_lanes,
    times,
    times_symmetric,
    times_transposed,
)

FEATURES = 5  # of a tile


def errors(products: Products, tokens: Tensor, mask: Tensor, counted: Tensor) -> tuple[Tensor, Products]:
    """Errors and their gradients like those of `fast_stack.errors`, from the products of `SumOfHeads.heads`."""
    n_pos, n, d = len(counted), products["QK"].shape[-1], products["OV"].shape[-1]
    heads, fill = products["P"].shape[1], -n_pos % TILE
    P, rows = pad(products["P"].detach(), (0, fill, 0, fill)), n_pos + fill
    n_features, blocks = len(pairs(n)) - 1, rows // TILE
    work = [rows * n, rows * n_features]
    work += [TILE * size for size in (heads * n_features, d + 1, d, n_features, n, n, n)]
    tiles = tokens.new_zeros(len(tokens), heads, blocks, blocks, TILE, TILE)
    run = compiled(_write, 13, 4, 4, tokens.dtype, n, d, products["readout"].shape[-1])
    rest, each = (counted, tokens.shape[3], n_pos, heads, blocks), (tiles, P.contiguous())
    packed = {name: tensor for name, tensor in products.items() if name != "P"}
    losses, gradients = errors_by(run, packed, tokens, mask, work, *rest, each=each)
    return losses, gradients | {"P": tiles.transpose(3, 4).reshape_as(P)[..., :n_pos, :n_pos]}


def _write(code: Code, n: int, d: int, out: int) -> None:
    tokens, mask, loss, gradients, X, F, M, Y, DO, DM, C, DQ, E, weights, dP, P, counted = code.arrays
    groups, n_pos, heads, blocks = code.counts
    dim, places, rows, one = n - 1, pairs(n)[:-1], blocks * TILE, code.number(1.0)
    k = len(places)

    def parts(array: Array) -> dict[str, Array]:
        """The products, in their order."""
        OV, tail = heads * (n * n), heads * (n * n + n * d)
        return {"QK": array, "OV": array.at(OV)} | {
            name: array.at(tail + d * i) for i, name in enumerate(("b_O", "w", "b", "readout"))
        }

    own, gradient = parts(weights), parts(gradients)

    def of_head(parts: dict[str, Array], head: Integer) -> tuple[Array, Array]:
        return parts["QK"].at(head * (n * n)), parts["OV"].at(head * (n * d))

    with code.loop(groups) as group:
        code.clear(F, rows * k)
        with code.loop(n_pos) as T:
            s = [*token(tokens, T, dim, groups, group), one]
            X.at(T * n).fill(s)
            F.at(T * k).fill(s[a] * s[b] for a, b in places)

        with code.loop(blocks) as block:  # of TILE positions, on which all that follows is in the cache
            first = block * TILE
            count = (n_pos + first * -1).at_most(TILE)
            code.clear(DM, TILE * k)
            with code.loop(count) as i:
                Y.at(i * (d + 1)).fill(own["b_O"].list(d))

            with code.loop(heads) as head:
                (QK, OV), its_M = of_head(own, head), M.at(head * (TILE * k))
                for left in range(0, k, FEATURES):
                    wide = min(FEATURES, k - left)
                    sums = Registers(code, TILE * wide)
                    with code.loop(first + TILE) as t:
                        f = F.at(t * k + left).list(wide)
                        p = [P[(head * rows + first + row) * rows + t] for row in range(TILE)]
                        sums.add(a * b for a, b in product(p, f))
                    for row in range(TILE):
                        its_M.at(row * k + left).fill(sums[row * wide + j] for j in range(wide))
                with code.loop(count) as i:
                    q = times(X.at((first + i) * n).list(n), QK, n, n)
                    c = times_symmetric(q, [*its_M.at(i * k).list(k), one])
                    Y.at(i * (d + 1)).add(times(c, OV, d, d))

            with code.loop(count) as i:
                y, T = Y.at(i * (d + 1)), first + i
                normed, scale = normalised(y.list(d))
                read = [part * own["w"][i] + own["b"][i] for i, part in enumerate(normed)] + [one]
                y.fill(read)
                predicted, target = times(read, own["readout"], out, dim), token(tokens, T + 1, dim, groups, group)
                e = errors_of(predicted, target, mask[group] * counted[T], loss)
                E.at(i * n).fill(e)
                dy = times_transposed(e, own["readout"], out, d)
                dy = through_norm(dy, normed, scale, own["w"], gradient["w"], gradient["b"])
                gradient["b_O"].add(dy)
                DO.at(i * d).fill(dy)
            code.add_outer(Y, d + 1, d + 1, E, dim, n, count, gradient["readout"], out)

            with code.loop(heads) as head:
                (QK, OV), (dQK, dOV), its_M = of_head(own, head), of_head(gradient, head), M.at(head * (TILE * k))
                with code.loop(count) as i:
                    q, m = times(X.at((first + i) * n).list(n), QK, n, n), [*its_M.at(i * k).list(k), one]
                    dc = times_transposed(DO.at(i * d).list(d), OV, d, n)
                    C.at(i * n).fill(times_symmetric(q, m))
                    DQ.at(i * n).fill(times_symmetric(dc, m))
                    DM.at(i * k).fill(q[a] * dc[b] + q[b] * dc[a] if a != b else q[a] * dc[a] for a, b in places)
                code.add_outer(C, n, n, DO, d, d, count, dOV, d)
                code.add_outer(X.at(first * n), n, n, DQ, n, n, count, dQK, n)
                with code.loop(block + 1) as before:
                    f, sums = F.at(before * (TILE * k)), [code.number(0.0)] * TILE**2
                    for j in range(k):
                        column, row = ([array[t * k + j] for t in range(TILE)] for array in (DM, f))
                        sums = [part + a * b for part, (a, b) in zip(sums, product(column, row), strict=True)]
                    tile = Array(
                        code, dP.at(((head * blocks + block) * blocks + before) * TILE**2).pointer, code.vector
                    )
                    tile.add([sums_of_lanes(sums)])
