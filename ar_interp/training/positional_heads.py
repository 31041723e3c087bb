"""Loss and gradients of one layer of heads on plain tokens, at a cost that does not grow with a large number of them.

Queries, keys and values are affine in s_t alone, so what all heads write is linear in the products s_t[b] s_t[c]:

    out_T[o] = sum_a s~_T'[a] sum_{t <= T, f} K_T[a o, t f] F[t f],   K_T[., t .] = sum_h w_h(T, t) J_h,

s~ = (s, 1), T' = T - query_lag. The sum over heads is made once a step, for all sequences. F holds no parameter, so the
backward pass needs one product, for the gradient of K. A few heads are cheaper one by one.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ar_interp.models.config import ModelConfig
from ar_interp.training.batched import FEW_HEADS, LAYER_NORM_EPS, VECTOR

CACHED_SCORES = 64 * 50 * 50  # of all heads of a piece


@dataclass
class Heads:
    """The heads of a member one by one, on (s_t, 1); differentiable.

    Attributes:
        P: positional softmax, [head query key], zero in the future.
        QK: [head, dim + 1, dim + 1], scores.
        OV: [head, dim + 1, d_model], centred for the LayerNorm.
        bias: b_O, centred, [d_model].
        tail: weight and shift of the LayerNorm [d_model], read-out [d_model dim] and its bias [dim].
    """

    P: Tensor
    QK: Tensor
    OV: Tensor
    bias: Tensor
    tail: tuple[Tensor, Tensor, Tensor, Tensor]

    def tensors(self) -> list[Tensor]:
        """All that gradients are wanted of."""
        return [self.P, self.QK, self.OV, self.bias, *self.tail]


@dataclass
class Kernel:
    """All heads of a member as one kernel on products of coordinates; differentiable.

    Attributes:
        P: positional softmax, [pairs head], pairs (T, t <= T) row by row.
        J: [head features * (dim + 1) * d_model], what a head makes of the dim + dim (dim + 1) / 2 products.
        first: [dim + 1, d_model], the part constant in the products, all heads and b_O together.
        tail: as in `Heads`.
    """

    P: Tensor
    J: Tensor
    first: Tensor
    tail: tuple[Tensor, Tensor, Tensor, Tensor]

    def tensors(self) -> list[Tensor]:
        """All that gradients are wanted of."""
        return [self.P, self.J, self.first, *self.tail]


def figure7_step(
    config: ModelConfig, parameters: dict[str, Tensor], tokens: Float[Tensor, "batch pos dim"], first_length: int
) -> tuple[Float[Tensor, ""], list[Tensor], list[Tensor]]:
    """The step of one member, see `training.fast`, of the architecture that `is_paper_figure7` knows."""
    heads = collapse(config, parameters, n_pos=tokens.shape[1] - 1)
    collapsed = heads if config.n_heads < FEW_HEADS else sum_of_heads(heads)
    with torch.no_grad():
        if isinstance(collapsed, Heads):
            loss, gradients = _head_by_head(collapsed, tokens.mT, first_length)
        else:
            loss, gradients = _all_heads(collapsed, tokens.permute(1, 2, 0).contiguous(), first_length)
    return loss, collapsed.tensors(), gradients


def collapse(config: ModelConfig, parameters: dict[str, Tensor], *, n_pos: int) -> Heads:
    """The products of a member's weights that predictions depend on; a token is s_t repeated d_model / dim times."""
    get = {name.rsplit(".", 1)[-1]: tensor for name, tensor in parameters.items()}
    scale = config.head_width**-0.5

    def affine(which: str) -> Tensor:
        weight = get[f"W_{which}"].unflatten(1, (config.repeats, config.dim)).sum(1)
        return torch.cat([weight, get[f"b_{which}"][:, None]], dim=1)  # [head, dim + 1, d_head]

    positions = get["W_pos"][:n_pos]
    q, k = (positions @ get[f"W_{x}"] + get[f"b_{x}"][:, None] for x in "QK")  # [head pos d_head]
    future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=positions.device).triu(1)
    P = (scale * q @ k.mT).masked_fill(future, -torch.inf).softmax(-1)
    QK = scale * affine("Q") @ affine("K").mT
    OV = affine("V") @ _centred(get["shared_W_O"])
    return Heads(P, QK, OV, _centred(get["b_O"]), (get["w"], get["b"], get["W_U"], get["b_U"]))


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def sum_of_heads(heads: Heads) -> Kernel:
    """The product 1 * 1 has weight sum_t P_h(T, t) = 1, so it needs no key."""
    dim, n_pos = heads.QK.shape[1] - 1, heads.P.shape[1]
    causal = torch.ones(n_pos, n_pos, dtype=torch.bool, device=heads.P.device).tril()
    full = torch.einsum("hab,hcm->hbcam", heads.QK, heads.OV)
    low, high = _products(dim)
    off = (low != high).to(full)[:, None, None]
    linear = full[:, :dim, dim] + full[:, dim, :dim]
    square = full[:, low, high] + off * full[:, high, low]
    J = torch.cat([linear, square], dim=1).flatten(1)
    first = full[:, dim, dim].sum(0)
    first = torch.cat([first[:dim], (first[dim] + heads.bias)[None]])
    return Kernel(heads.P[:, causal].t().contiguous(), J, first, heads.tail)


@lru_cache(maxsize=8)
def _products(dim: int) -> tuple[Tensor, Tensor]:
    """Pairs (b, c), b <= c, of the dim (dim + 1) / 2 products of coordinates."""
    low, high = torch.triu_indices(dim, dim)
    return low, high


def _all_heads(
    kernel: Kernel, states: Float[Tensor, "pos dim batch"], first_length: int
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients with respect to `kernel.tensors()`; states hold s_1, ..., s_{n+1}, batch last."""
    n_pos, dim, batch = states.shape[0] - 1, *states.shape[1:]
    s, targets = states[:-1], states[1:]
    low, high = _products(dim)
    features = torch.cat([s, s[:, low] * s[:, high]], dim=1)
    n_features = features.shape[1]
    features = features.flatten(0, 1)  # [pos * features, batch]
    d_model = kernel.first.shape[1]
    width = (dim + 1) * d_model
    K = (kernel.P @ kernel.J).view(-1, width)  # [pairs * features, (dim + 1) * d_model]
    query = torch.cat([s, torch.ones_like(s[:, :1])], dim=1)  # [pos, dim + 1, batch]

    out = s.new_empty(n_pos, d_model, batch)
    G = s.new_empty(width, batch)
    terms = G.view(dim + 1, d_model, batch)
    rows = [n_features * T * (T + 1) // 2 for T in range(n_pos + 1)]
    for T in range(n_pos):
        torch.mm(K[rows[T] : rows[T + 1]].t(), features[: n_features * (T + 1)], out=G)
        torch.sum(terms.mul_(query[T, :, None]), 0, out=out[T])
    out += kernel.first.t() @ query
    counted = (torch.arange(n_pos, device=s.device) >= first_length - 1).to(s)[:, None, None]
    loss, d_out, d_tail = _read_out(kernel.tail, out, targets, counted, 2 / batch)
    d_first = torch.bmm(query, d_out.mT).sum(0)
    dK = torch.empty_like(K)
    for T in range(n_pos):
        torch.mul(query[T, :, None], d_out[T], out=terms)
        dK[rows[T] : rows[T + 1]] = torch.mm(G, features[: n_features * (T + 1)].t()).t()
    dK = dK.view(len(kernel.P), -1)
    return loss / batch, [dK @ kernel.J.t(), kernel.P.t() @ dK, d_first, *d_tail]


def _head_by_head(
    heads: Heads, sequences: Float[Tensor, "batch dim pos"], first_length: int
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients with respect to `heads.tensors()`, in pieces whose scores stay in the cache."""
    batch, dim, n_pos = sequences.shape[0], sequences.shape[1], sequences.shape[2] - 1
    n_heads, d_model = len(heads.QK), heads.bias.shape[0]
    width = VECTOR * math.ceil((dim + 1) / VECTOR)
    more = width - dim - 1
    P = heads.P.permute(2, 0, 1).flatten(1)  # [key, head * query]
    QK = pad(heads.QK.mT, (0, more, 0, more)).transpose(0, 1).flatten(0, 1)  # [key side * head, width]
    OV = pad(heads.OV, (0, 0, 0, more)).transpose(0, 1).flatten(0, 1)  # [value side * head, d_model]
    counted = (torch.arange(n_pos, device=P.device) >= first_length - 1).to(P)
    totals = [torch.zeros_like(t) for t in (P, QK, OV, *heads.tensors()[3:])]
    loss = sequences.new_zeros(())
    for part in sequences.split(max(1, CACHED_SCORES // (n_heads * n_pos * n_pos))):
        n = len(part)
        x = part.new_zeros(n, width, n_pos)
        x[:, :dim] = part[..., :-1]
        x[:, dim] = 1.0
        keys = x.mT
        u = torch.matmul(QK, x).view(n, width, -1)
        scores = torch.bmm(keys, u)  # [n, key, head * query]
        c = torch.bmm(x, scores * P).view(n, -1, n_pos)
        out = torch.baddbmm(heads.bias[:, None], OV.t().expand(n, -1, -1), c)
        part_loss, d_out, d_tail = _read_out(heads.tail, out, part[..., 1:], counted, 2 / batch)
        loss += part_loss
        dc = torch.matmul(OV, d_out).view(n, width, -1)
        d_pattern = torch.bmm(keys, dc)
        du = torch.bmm(x, d_pattern * P).view(n, -1, n_pos)
        gradients = [
            scores.mul_(d_pattern).sum(0),
            torch.bmm(du, keys).sum(0),
            torch.bmm(c, d_out.mT).sum(0),
            d_out.sum((0, 2)),
            *d_tail,
        ]
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient
    dP = totals[0].view(n_pos, n_heads, n_pos).permute(1, 2, 0)
    dQK = totals[1].view(width, n_heads, width)[: dim + 1, :, : dim + 1].permute(1, 2, 0)
    dOV = totals[2].view(width, n_heads, d_model)[: dim + 1].transpose(0, 1)
    return loss / batch, [dP, dQK, dOV, *totals[3:]]


def _read_out(
    tail: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor, targets: Tensor, counted: Tensor, factor: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """LayerNorm, read-out and squared error of what the heads write, out [... d_model columns], which is overwritten.

    Returns:
        the sum of the squared errors that count; factor / 2 times its gradients with respect to out; to the tail.
    """
    weight, shift, readout, bias = (
        tail[0][:, None],
        tail[1][:, None],
        tail[2].expand(len(out), -1, -1),
        tail[3][:, None],
    )
    scale = (out.square().mean(1, keepdim=True) + LAYER_NORM_EPS).rsqrt_()
    out *= scale
    after = torch.addcmul(shift, out, weight)
    error = torch.baddbmm(bias, readout.mT, after).sub_(targets).mul_(counted)
    loss = error.square().sum()
    error *= factor
    d_readout = torch.bmm(after, error.mT).sum(0)
    d_after = torch.bmm(readout, error)
    product = d_after * out
    d_weight, d_shift = product.sum((0, 2)), d_after.sum((0, 2))
    mean = product.mul_(weight).mean(1, keepdim=True)
    d_out = d_after.mul_(weight).addcmul_(out, mean, value=-1).mul_(scale)
    return loss, d_out, [d_weight, d_shift, d_readout, error.sum((0, 2))]
