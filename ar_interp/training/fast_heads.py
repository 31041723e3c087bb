"""Errors and gradients of figure 7's heads on a CPU, one by one, in vectors of sequences.

On s~_t = (s_t, 1) a head maps q_T = QK^T s~_T to c_T = sum_t P(T, t) (q_T . s~_t) s~_t. On the way back
dq_T = sum_t P(T, t) (dc_T . s~_t) s~_t, and dP(T, t) is the sum over sequences of (q_T . s~_t) (dc_T . s~_t).
"""

from operator import mul

from torch import Tensor

from ar_interp.training.fast_stack import errors_of, normalised, through_norm, token
from ar_interp.training.form import Products
from ar_interp.training.vectors import (
    LANES,
    Array,
    Code,
    Integer,
    Registers,
    compiled,
    errors_by,
    sums_of_lanes,
    times,
    times_transposed,
    total,
)

BLOCK = 4  # positions on which the heads follow one another, their scores in the cache


def errors(products: Products, tokens: Tensor, mask: Tensor, counted: Tensor) -> tuple[Tensor, Products]:
    """Errors and their gradients like those of `fast_stack.errors`, from the products of `SumOfHeads.heads`."""
    n_pos, n, d = len(counted), products["QK"].shape[-1], products["OV"].shape[-1]
    heads, blocks, chunks = products["P"].shape[1], -(-n_pos // BLOCK), -(-n_pos // LANES)
    work = [n_pos * n, heads * BLOCK * chunks * LANES, heads * BLOCK * n, *(BLOCK * k for k in (d + 1, d, n, n))]
    dP = tokens.new_zeros(len(tokens), heads, n_pos, chunks * LANES)
    run = compiled(_write, 11, 4, 5, tokens.dtype, n, d, products["readout"].shape[-1])
    rest, each = (counted, tokens.shape[3], n_pos, heads, blocks, chunks), (dP, products["P"].detach().contiguous())
    packed = {name: tensor for name, tensor in products.items() if name != "P"}
    losses, gradients = errors_by(run, packed, tokens, mask, work, *rest, each=each)
    return losses, gradients | {"P": dP[..., :n_pos].tril()}


def _write(code: Code, n: int, d: int, out: int) -> None:
    tokens, mask, loss, gradients, X, scores, C, Y, DO, DQ, E, weights, dP, P, counted = code.arrays
    groups, n_pos, heads, blocks, chunks = code.counts
    dim, keys, one = n - 1, chunks * LANES, code.number(1.0)

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
        with code.loop(n_pos) as T:
            X.at(T * n).fill([*token(tokens, T, dim, groups, group), one])

        with code.loop(blocks) as block:
            first = block * BLOCK
            count = (n_pos + first * -1).at_most(BLOCK)
            with code.loop(count) as i:
                Y.at(i * (d + 1)).fill(own["b_O"].list(d))

            with code.loop(heads) as head, code.loop(count) as i:
                (QK, OV), T, at = of_head(own, head), first + i, head * BLOCK + i
                q, c = times(X.at(T * n).list(n), QK, n, n), Registers(code, n)
                with code.loop(T + 1) as t:
                    s = X.at(t * n).list(dim)
                    scores[at * keys + t] = score = total([q[dim], *map(mul, q, s)])
                    w = score * P[(head * n_pos + T) * n_pos + t]
                    c.add([*(w * x for x in s), w])
                C.at(at * n).fill(c.list(n))
                Y.at(i * (d + 1)).add(times(c.list(n), OV, d, d))

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
                OV, (dQK, dOV) = of_head(own, head)[1], of_head(gradient, head)
                with code.loop(count) as i:
                    T, products = first + i, scores.at((head * BLOCK + i) * keys)
                    dc, dq = times_transposed(DO.at(i * d).list(d), OV, d, n), Registers(code, n)
                    with code.loop(T + 1) as t:
                        s = X.at(t * n).list(dim)
                        dw = total([dc[dim], *map(mul, dc, s)])
                        products[t] = products[t] * dw
                        dw = dw * P[(head * n_pos + T) * n_pos + t]
                        dq.add([*(dw * x for x in s), dw])
                    DQ.at(i * n).fill(dq.list(n))
                    its_dP = dP.at((head * n_pos + T) * keys)
                    with code.loop(chunks) as chunk, code.only_if_positive(T + 1 + chunk * -LANES):
                        found = sums_of_lanes(products.at(chunk * LANES).list(LANES))
                        its_dP.at(chunk * LANES).as_vectors().add([found])
                code.add_outer(C.at(head * (BLOCK * n)), n, n, DO, d, d, count, dOV, d)
                code.add_outer(X.at(first * n), n, n, DQ, n, n, count, dQK, n)
