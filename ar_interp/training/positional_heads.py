"""Loss and gradients of one layer of many heads on plain tokens, at a cost that does not grow with their number.

Queries, keys and values are affine in s_t alone, so what all heads write is linear in the products s_t[b] s_t[c]:

    out_T[o] = sum_a s~_T'[a] sum_{t <= T, f} K_T[a o, t f] F[t f],   K_T[., t .] = sum_h w_h(T, t) J_h,

s~ = (s, 1), T' = T - query_lag. The sum over heads is made once a step, for all sequences. F holds no parameter, so the
backward pass needs one product, for the gradient of K.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.models.config import ModelConfig
from ar_interp.training.linear_stack import LAYER_NORM_EPS


def is_paper_figure7(config: ModelConfig) -> bool:
    """The architecture that `figure7_step` computes."""
    sizes = {"dim": config.dim, "n_ctx": config.n_ctx, "n_heads": config.n_heads, "repeats": config.repeats}
    return config == ModelConfig.paper_figure7(**sizes, dtype=config.dtype)


def is_shared_positions(config: ModelConfig) -> bool:
    """The architecture that `shared_positions_predictions` computes."""
    sizes = {"dim": config.dim, "n_ctx": config.n_ctx, "n_heads": config.n_heads}
    free = {"init_scale": config.init_scale, "dtype": config.dtype}
    return config == ModelConfig.full(**sizes, **free, query_lag=config.query_lag)


def shared_positions_predictions(
    config: ModelConfig, parameters: dict[str, Tensor], tokens: Float[Tensor, "ensemble batch pos dim"]
) -> Float[Tensor, "ensemble batch pos dim"]:
    """Predictions of bias-free heads that share the weights P: the sum over keys comes first, whatever the heads."""
    get = {name.rsplit(".", 1)[-1]: tensor for name, tensor in parameters.items()}
    QK, OV = get["W_Q"] @ get["W_K"].mT, get["W_V"] @ get["W_O"]
    K = torch.einsum("ehab,ehcm->ebcam", QK, OV)  # [ensemble dim dim dim dim]
    pos, lag = tokens.shape[2], config.query_lag
    rows = get["P"][:, : pos - lag, :pos]
    weights = torch.cat([rows.new_zeros(len(rows), lag, pos), rows], dim=1).tril()
    products = (tokens[..., :, None] * tokens[..., None, :]).flatten(-2)  # [ensemble batch pos dim^2]
    summed = weights[:, None] @ products
    mixed = (summed.flatten(1, 2) @ K.flatten(3).flatten(1, 2)).unflatten(1, tokens.shape[1:3])
    asked = torch.cat([torch.zeros_like(tokens[:, :, :lag]), tokens[:, :, : pos - lag]], dim=2)
    return torch.einsum("ebta,ebtam->ebtm", asked, mixed.unflatten(-1, (config.dim, config.dim)))


@dataclass
class Kernel:
    """All heads of a member as one kernel on products of coordinates; differentiable.

    Attributes:
        P: positional softmax, [pairs head], pairs (T, t <= T) row by row.
        J: [head features * (dim + 1) * d_model], what a head makes of the dim + dim (dim + 1) / 2 products.
        first: [dim + 1, d_model], the part constant in the products, all heads and b_O together.
        weight, shift: of the LayerNorm, [d_model].
        readout, readout_bias: [d_model dim], [dim].
    """

    P: Tensor
    J: Tensor
    first: Tensor
    weight: Tensor
    shift: Tensor
    readout: Tensor
    readout_bias: Tensor

    def tensors(self) -> list[Tensor]:
        """All that gradients are wanted of."""
        return [self.P, self.J, self.first, self.weight, self.shift, self.readout, self.readout_bias]


def figure7_step(
    config: ModelConfig, parameters: dict[str, Tensor], tokens: Float[Tensor, "batch pos dim"], first_length: int
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Of one member: mean over the batch of the squared errors from T = first_length on, and its gradients.

    Args:
        parameters: by name, without the ensemble axis.
        tokens: s_1, ..., s_{n+1}.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    kernel = collapse(config, leaves, n_pos=tokens.shape[1] - 1)
    states = tokens.permute(1, 2, 0).contiguous()
    with torch.no_grad():
        loss, gradients = _loss_and_gradients(kernel, states, first_length)
    back = torch.autograd.grad(kernel.tensors(), list(leaves.values()), gradients)
    return loss, dict(zip(leaves, back, strict=True))


@lru_cache(maxsize=8)
def _products(dim: int) -> tuple[Tensor, Tensor]:
    """Pairs (b, c), b <= c, of the dim (dim + 1) / 2 products of coordinates."""
    low, high = torch.triu_indices(dim, dim)
    return low, high


def collapse(config: ModelConfig, parameters: dict[str, Tensor], *, n_pos: int) -> Kernel:
    """The kernel of a member's parameters. The product 1 * 1 has weight sum_t P_h(T, t) = 1, so it needs no key."""
    get = {name.rsplit(".", 1)[-1]: tensor for name, tensor in parameters.items()}
    dim, scale = config.dim, config.head_width**-0.5

    def affine(which: str) -> Tensor:
        weight = get[f"W_{which}"].unflatten(1, (config.repeats, dim)).sum(1)
        return torch.cat([weight, get[f"b_{which}"][:, None]], dim=1)  # [head, dim + 1, d_head]

    positions = get["W_pos"][:n_pos]
    q, k = (positions @ get[f"W_{x}"] + get[f"b_{x}"][:, None] for x in "QK")  # [head pos d_head]
    causal = torch.ones(n_pos, n_pos, dtype=torch.bool, device=positions.device).tril()
    P = (scale * q @ k.mT).masked_fill(~causal, -torch.inf).softmax(-1)[:, causal].t()  # [pairs head]

    QK = scale * affine("Q") @ affine("K").mT  # [head, a, b]
    OV = affine("V") @ _centred(get["shared_W_O"])  # [head, c, d_model], centred for the LayerNorm
    full = torch.einsum("hab,hcm->hbcam", QK, OV)
    low, high = _products(dim)
    off = (low != high).to(full)[:, None, None]
    linear = full[:, :dim, dim] + full[:, dim, :dim]
    square = full[:, low, high] + off * full[:, high, low]
    J = torch.cat([linear, square], dim=1).flatten(1)
    first = full[:, dim, dim].sum(0)
    first = torch.cat([first[:dim], (first[dim] + _centred(get["b_O"]))[None]])
    return Kernel(P.contiguous(), J, first, get["w"], get["b"], get["W_U"], get["b_U"])


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _loss_and_gradients(
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
    weight = kernel.weight[:, None]
    scale = (out.square().mean(1, keepdim=True) + LAYER_NORM_EPS).rsqrt_()
    out *= scale
    after = torch.addcmul(kernel.shift[:, None], out, weight)
    error = torch.baddbmm(kernel.readout_bias[:, None], kernel.readout.t().expand(n_pos, -1, -1), after).sub_(targets)
    error[: first_length - 1] = 0.0
    loss = error.square().sum() / batch

    error *= 2 / batch
    d_readout = torch.bmm(after, error.mT).sum(0)
    d_after = kernel.readout @ error
    product = d_after * out
    d_weight, d_shift = product.sum((0, 2)), d_after.sum((0, 2))
    d_out = d_after.mul_(weight)
    mean = product.mul_(weight).mean(1, keepdim=True)
    d_out = d_out.addcmul_(out, mean, value=-1).mul_(scale)
    d_first = torch.bmm(query, d_out.mT).sum(0)
    dK = torch.empty_like(K)
    for T in range(n_pos):
        torch.mul(query[T, :, None], d_out[T], out=terms)
        dK[rows[T] : rows[T + 1]] = torch.mm(G, features[: n_features * (T + 1)].t()).t()
    dK = dK.view(len(kernel.P), -1)
    return loss, [dK @ kernel.J.t(), kernel.P.t() @ dK, d_first, d_weight, d_shift, d_readout, error.sum((0, 2))]
