"""Errors and gradients of a residual stack of linear heads, one a layer, on a CPU: `Stack` in vectors of sequences.

With S_T = sum_{t <= T} x_t x_t^T, a head maps u_T = QK^T x_T to c_T = S_T u_T. This is symmetric, so that gradients dc
become du = S dc by the same sum; those of keys and values are D_t x_t, D_t = sum_{T >= t} u_T dc_T^T + dc_T u_T^T.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ar_interp.training.batched import LAYER_NORM_EPS, Stack
from ar_interp.training.form import Products
from ar_interp.training.vectors import (
    Array,
    Code,
    Index,
    Integer,
    Vector,
    compiled,
    errors_by,
    pairs,
    times,
    times_symmetric,
    times_transposed,
    total,
)

ATTENTIONS = ("linear", "linear/keys", "linear/pairs")  # their share knows the destination alone
PARTS = ("QK", "OV", "b_O", "norm.w", "norm.b")  # of the products of a layer
LARGEST = 32  # columns of a token; the code grows with their square


class Shape(NamedTuple):
    """All that the code depends on.

    Attributes:
        columns: of a token, ones included.
        width, out: columns of QK and of the read-out in memory.
        parts: those of `PARTS` that there are.
    """

    dim: int
    d_model: int
    columns: int
    width: int
    out: int
    augmented: bool
    parts: tuple[str, ...]

    def offset(self, part: str) -> int:
        """Place where a part of a layer begins; of no part, where the next layer does."""
        before = self.parts[: self.parts.index(part)] if part else self.parts
        return sum(self.width ** (2 if name in ("QK", "OV") else 1) for name in before)


def computes(form: Stack) -> bool:
    """Whether this file has the form."""
    config = form.config
    plain = config.attention in ATTENTIONS and config.encoding in ("plain", "augmented") and config.positional == "none"
    alone = config.n_heads == config.repeats == 1 and config.query_lag == 0 and not config.d_mlp
    return plain and alone and config.residual and config.d_model + form.constant <= LARGEST


def errors(form: Stack, products: Products, tokens: Tensor, mask: Tensor, counted: Tensor) -> tuple[Tensor, Products]:
    """The squared errors of each member, summed, and half their gradients with respect to the products.

    Args:
        tokens: [member pos dim group lane].
        mask: [group lane], the sequences that count.
        counted: [pos], the positions that count.
    """
    config, n_pos, kind = form.config, len(counted), tokens.dtype
    parts = tuple(part for part in PARTS if f"0.{part}" in products)
    names = [f"{layer}.{part}" for layer in range(config.n_layers) for part in parts] + ["readout"] * config.unembed
    columns, out = config.d_model + form.constant, products["readout"].shape[-1] if config.unembed else 0
    shape = Shape(config.dim, config.d_model, columns, form.width, out, config.encoding == "augmented", parts)
    share = form.attention.share(torch.arange(1, n_pos + 1, dtype=kind, device=tokens.device)[:, None])
    rates = torch.ones(n_pos, dtype=kind, device=tokens.device) if share is None else share.flatten().contiguous()
    rows = (config.n_layers + 1) * (n_pos + 1)
    work = [rows * columns] * 4 + [rows] + [(n_pos + 1) * columns] * 5 + [len(pairs(columns))]
    counts, run = (tokens.shape[3], n_pos, config.n_layers), compiled(_write, 15, 3, 3, kind, shape)
    return errors_by(run, {name: products[name] for name in names}, tokens, mask, work, rates, counted, *counts)


def _write(code: Code, shape: Shape) -> None:
    dim, d, n, width, out, augmented, parts = shape
    tokens, mask, loss, gradients, X, C, U, N, scales, DX, DO, DC, DU, E, S, weights, rates, counted = code.arrays
    groups, n_pos, n_layers = code.counts
    rows, zero, one = n_pos + 1, code.number(0.0), code.number(1.0)
    readout, readout_gradient = (array.at(n_layers * shape.offset("")) for array in (weights, gradients))

    def of_layer(array: Array, layer: Integer) -> dict[str, Array]:
        return {part: array.at(layer * shape.offset("") + shape.offset(part)) for part in parts}

    def scan(x: Sequence[Vector], z: Sequence[Vector]) -> list[Vector]:
        """S_T z, after S has become S_T."""
        return times_symmetric(z, (S.add_at(k, x[a] * x[b]) for k, (a, b) in enumerate(pairs(n))))

    with code.loop(groups) as group:
        X.fill([zero] * n)
        with code.loop(n_pos) as T:
            s, x = token(tokens, T, dim, groups, group), X.at(T * n)
            x.fill([zero] * dim + s if augmented else s)
            if augmented:
                x.at(n + 2 * dim).fill(s)
            x.at(d).fill([one] * (n - d))

        with code.loop(n_layers) as layer:
            own = of_layer(weights, layer)
            code.clear(S, len(pairs(n)))
            with code.loop(n_pos) as T:
                at = layer * rows + T
                x = X.at(at * n).list(n)
                u = [part * rates[T] for part in times(x, own["QK"], width, n)]
                c = scan(x, u)
                U.at(at * n).fill(u)
                C.at(at * n).fill(c)
                written = times(c, own["OV"], width, d)
                if "b_O" in parts:
                    written = [part + own["b_O"][i] for i, part in enumerate(written)]
                if "norm.w" in parts:
                    written, scales[at] = normalised(written)
                    N.at(at * n).fill(written)
                    written = [part * own["norm.w"][i] + own["norm.b"][i] for i, part in enumerate(written)]
                X.at((at + rows) * n).fill([a + b for a, b in zip(x, written, strict=False)] + [one] * (n - d))

        top = X.at(n_layers * rows * n)
        with code.loop(n_pos) as T:
            x, target = top.at(T * n).list(n), token(tokens, T + 1, dim, groups, group)
            predicted = times(x, readout, out, dim) if out else x
            e = errors_of(predicted, target, mask[group] * counted[T], loss)
            E.at(T * n).fill(e)
            DX.at(T * n).fill(times_transposed(e, readout, out, d) if out else e + [zero] * (d - dim))
        if out:
            code.add_outer(top, n, n, E, dim, n, n_pos, readout_gradient, out)

        with code.loop(n_layers, down=True) as layer:
            own, gradient, below = of_layer(weights, layer), of_layer(gradients, layer), layer * rows
            code.clear(S, len(pairs(n)))
            with code.loop(n_pos) as T:
                at = below + T
                dy = DX.at(T * n).list(d)
                if "norm.w" in parts:
                    affine = own["norm.w"], gradient["norm.w"], gradient["norm.b"]
                    dy = through_norm(dy, N.at(at * n).list(d), scales[at], *affine)
                if "b_O" in parts:
                    gradient["b_O"].add(dy)
                DO.at(T * n).fill(dy)
                dc = times_transposed(dy, own["OV"], width, n)
                DC.at(T * n).fill(dc)
                DU.at(T * n).fill(part * rates[T] for part in scan(X.at(at * n).list(n), dc))
            code.add_outer(C.at(below * n), n, n, DO, d, n, n_pos, gradient["OV"], width)
            code.add_outer(X.at(below * n), n, n, DU, n, n, n_pos, gradient["QK"], width)
            with code.only_if_positive(layer):
                code.clear(S, len(pairs(n)))
                with code.loop(n_pos, down=True) as T:
                    x, u = (array.at((below + T) * n).list(n) for array in (X, U))
                    dc, du = (array.at(T * n).list(n) for array in (DC, DU))
                    D = (S.add_at(k, u[a] * dc[b] + dc[a] * u[b]) for k, (a, b) in enumerate(pairs(n)))
                    DX.at(T * n).add(times_symmetric(x, D)[:d])
                    DX.at(T * n).add(times_transposed(du, own["QK"], width, d))


def token(tokens: Array, T: Integer, dim: int, groups: Integer, group: Index) -> list[Vector]:
    """s_T of a group of sequences."""
    return [tokens[(T * dim + i) * groups + group] for i in range(dim)]


def normalised(x: Sequence[Vector]) -> tuple[list[Vector], Vector]:
    """x of mean zero times its scale, and that."""
    scale = (total(part * part for part in x) * (1 / len(x)) + LAYER_NORM_EPS).rsqrt()
    return [part * scale for part in x], scale


def through_norm(
    dy: Sequence[Vector], normed: Sequence[Vector], scale: Vector, w: Array, dw: Array, db: Array
) -> list[Vector]:
    """The gradient before `normalised`, given that after w and b, whose own are added up."""
    products = [a * b for a, b in zip(dy, normed, strict=True)]
    dw.add(products)
    db.add(dy)
    mean = total(part * w[i] for i, part in enumerate(products)) * (1 / len(dy))
    return [(part * w[i] - normed[i] * mean) * scale for i, part in enumerate(dy)]


def errors_of(predicted: Sequence[Vector], target: Sequence[Vector], share: Vector, loss: Array) -> list[Vector]:
    """Errors that count, whose squares are added to the loss."""
    found = [(a - b) * share for a, b in zip(predicted, target, strict=False)]
    loss.add([total(part * part for part in found)])
    return found
