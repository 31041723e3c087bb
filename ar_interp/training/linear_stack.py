"""Loss and gradients of a residual stack of linear-attention layers, one head each, in as few products as possible.

A layer needs W_Q and W_K only as one bilinear form QK, W_V and W_O only as one map OV. With a column of ones appended
to the tokens, biases are a row of the same matrices:

    u = x QK,   c_T = sum_{t <= T} (u_T . x_t) x_t,   x <- x + norm(c OV + b_O).

c is summed in chunks of positions: masked scores inside a chunk, the running state sum_t x_t x_t^T between chunks. The
operator u -> c is symmetric, so the backward pass needs nothing else; gradients reach QK and OV for the whole batch,
and W_Q, W_K, W_V, W_O once a step. The batch is cut into pieces that stay in the L2 cache.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ar_interp.models.attention_types import AttentionType
from ar_interp.models.config import ModelConfig
from ar_interp.models.encodings import encode
from ar_interp.training.batched import LAYER_NORM_EPS, VECTOR

CACHED_ELEMENTS = 128 * 50 * 16  # of one activation: fastest of 32, 64, 96, 128, 256 sequences, 1 MB of L2 a core
ATTENTIONS = ("linear", "linear/keys", "linear/pairs")  # their share knows the destination alone
CHUNK = 25  # positions; fastest of 10, 13, 17, 25, 50 at 50


def is_linear_stack(config: ModelConfig) -> bool:
    """The architecture that this file computes."""
    ours = type(config) is ModelConfig and config.attention in ATTENTIONS and config.heads in ("full", "block-scalar")
    bare = config.positional == "none" and config.query_lag == 0 and not config.d_mlp
    return ours and bare and config.residual and config.n_heads == 1


@dataclass
class Layer:
    """One layer of one member, on tokens widened to `width`.

    Attributes:
        QK, OV: [width width]; scores are (x QK) . x, the head writes sum_t scores x_t OV.
        bias: b_O [width], or None.
        norm: weight and bias [width] of the LayerNorm of what the head writes, or None. OV and bias are then centred:
            their columns add up to zero.
    """

    QK: Tensor
    OV: Tensor
    bias: Tensor | None = None
    norm: tuple[Tensor, Tensor] | None = None

    def tensors(self) -> list[Tensor]:
        """All that gradients are wanted of."""
        return [t for t in (self.QK, self.OV, self.bias, *(self.norm or ())) if t is not None]


@dataclass
class Stack:
    """A member's layers and read-out in widened coordinates.

    Attributes:
        layers: from the tokens up.
        readout: [width out], prediction = x readout; None reads the first coordinates.
        constant: the widened tokens carry a 1 in column d_model.
    """

    layers: list[Layer]
    readout: Tensor | None
    constant: bool

    def tensors(self) -> list[Tensor]:
        """All that gradients are wanted of."""
        return [t for layer in self.layers for t in layer.tensors()] + ([] if self.readout is None else [self.readout])


def linear_stack_step(
    config: ModelConfig, parameters: dict[str, Tensor], tokens: Float[Tensor, "batch pos dim"], first_length: int
) -> tuple[Float[Tensor, ""], list[Tensor], list[Tensor]]:
    """The step of one member, see `training.fast`, of the architecture that `is_linear_stack` knows."""
    stack = collapse(config, parameters)
    with torch.no_grad():
        loss, gradients = _loss_and_gradients(config, stack, tokens, first_length)
    return loss, stack.tensors(), gradients


def collapse(config: ModelConfig, parameters: dict[str, Tensor]) -> Stack:
    """The products of a member's weights that predictions depend on; differentiable."""
    constant = config.biases or config.unembed
    width = VECTOR * math.ceil((config.d_model + constant) / VECTOR)
    layers = [_layer(config, parameters, f"blocks.{index}", width) for index in range(config.n_layers)]
    readout = None
    if config.unembed:
        affine = torch.cat([parameters["unembed.W_U"], parameters["unembed.b_U"][None]])
        readout = _widened(affine, width, VECTOR * math.ceil(config.dim / VECTOR))
    return Stack(layers, readout, constant)


def _layer(config: ModelConfig, parameters: dict[str, Tensor], block: str, width: int) -> Layer:
    if config.heads == "block-scalar":
        identity = torch.eye(config.dim, dtype=config.torch_dtype, device=parameters[f"{block}.attn.QK_blocks"].device)
        QK, OV = (torch.kron(parameters[f"{block}.attn.{name}_blocks"][0], identity) for name in ("QK", "OV"))
        return Layer(_widened(QK, width, width), _widened(OV, width, width))

    def affine(which: str) -> Tensor:
        weight = parameters[f"{block}.attn.W_{which}"][0]
        bias = [parameters[f"{block}.attn.b_{which}"]] if config.biases else []
        return torch.cat([weight, *bias])  # [d_model (+ 1), d_head]

    scale = config.head_width**-0.5 if config.scale_scores else 1.0
    W_O = parameters[f"{block}.attn.shared_W_O"] if config.shared_output else parameters[f"{block}.attn.W_O"][0]
    QK, OV = scale * affine("Q") @ affine("K").T, affine("V") @ W_O
    bias = parameters[f"{block}.attn.b_O"] if config.biases else None
    norm = None
    if config.layer_norm:
        OV = OV - OV.mean(-1, keepdim=True)
        bias = None if bias is None else bias - bias.mean()
        weight, shift = (pad(parameters[f"{block}.ln1_post.{part}"], (0, width - config.d_model)) for part in "wb")
        norm = (weight, shift)
    bias = None if bias is None else pad(bias, (0, width - config.d_model))
    return Layer(_widened(QK, width, width), _widened(OV, width, width), bias, norm)


def _widened(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _loss_and_gradients(
    config: ModelConfig, stack: Stack, tokens: Tensor, first_length: int
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients with respect to `stack.tensors()`, piece by piece."""
    resid, targets = encode(config, tokens[:, :-1]), tokens[:, 1:]
    batch, n_pos, _ = resid.shape
    width = stack.layers[0].QK.shape[-1]
    out = width if stack.readout is None else stack.readout.shape[-1]
    piece = max(1, min(batch, CACHED_ELEMENTS // (n_pos * width)))
    n_chunks = math.ceil(n_pos / CHUNK)
    chunk = math.ceil(n_pos / n_chunks)
    loss = tokens.new_zeros(())
    total = [torch.zeros_like(t) for t in stack.tensors()]
    counted = torch.arange(n_chunks * chunk, device=tokens.device).add(1)
    counted = ((counted >= first_length) & (counted <= n_pos)).to(tokens.dtype).view(n_chunks, 1, chunk, 1)
    for start in range(0, batch, piece):
        x = _chunked(resid[start : start + piece], n_chunks, chunk, width)
        if stack.constant:
            x[..., config.d_model] = 1.0
        wanted = _chunked(targets[start : start + piece], n_chunks, chunk, out)
        loss += _accumulate(config, stack, x, wanted, counted, total)
    for gradient in total:
        gradient *= 2 / batch
    return loss / batch, total


def _chunked(sequences: Tensor, n_chunks: int, chunk: int, width: int) -> Float[Tensor, "chunk batch pos width"]:
    """Positions cut into chunks, filled with zeros."""
    batch, n_pos, d = sequences.shape
    out = sequences.new_zeros(n_chunks, batch, chunk, width)
    if n_pos == n_chunks * chunk:
        out[..., :d] = sequences.view(batch, n_chunks, chunk, d).transpose(0, 1)
    else:
        for i, part in enumerate(sequences.split(chunk, dim=1)):
            out[i, :, : part.shape[1], :d] = part
    return out


@lru_cache(maxsize=8)
def _constants(
    attention: str, chunk: int, n_chunks: int, width: int, d_model: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The causal mask of a chunk, the factor of the scores at each position, and the average of d_model columns."""
    mask = torch.ones(chunk, chunk, dtype=dtype, device=device).tril()
    T = torch.arange(1, n_chunks * chunk + 1, dtype=dtype, device=device)[:, None]
    share = AttentionType.find(attention)().share(T)
    rates = None if share is None else share.view(n_chunks, 1, chunk, 1)
    average = torch.zeros(width, dtype=dtype, device=device)
    average[:d_model] = 1 / d_model
    return mask, rates, average


class _Causal:
    """z -> sum_{t <= T} (z_T . x_t) x_t for x [chunk batch pos width]: a symmetric operator."""

    def __init__(self, x: Tensor, mask: Tensor) -> None:
        self.x, self.mask = x, mask
        self.rows = x.flatten(0, 1)
        self.state = None
        if len(x) > 1:
            seen = x[:-1].flatten(0, 1)
            self.state = torch.bmm(seen.mT, seen)
            if len(x) > 2:
                self.state = self.state.view(len(x) - 1, -1, *self.state.shape[1:]).cumsum(0).flatten(0, 1)

    def apply(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The result, and the masked scores inside the chunks."""
        scores = torch.bmm(z.view(self.rows.shape), self.rows.mT).mul_(self.mask)
        out = torch.bmm(scores, self.rows).view(z.shape)
        if self.state is not None:
            out[1:].flatten(0, 1).baddbmm_(z[1:].flatten(0, 1), self.state)
        return out, scores

    def gradient(self, u: Tensor, S: Tensor, dc: Tensor, R: Tensor) -> Tensor:
        """The gradient of dc . apply(u) with respect to x, u held; S and R are the scores of u and dc."""
        dx = torch.bmm(S.mT, dc.view(self.rows.shape)).baddbmm_(R.mT, u.view(self.rows.shape)).view(u.shape)
        if self.state is not None:
            D = torch.bmm(u[1:].flatten(0, 1).mT, dc[1:].flatten(0, 1))
            D = D + D.mT
            if len(u) > 2:
                D = D.view(len(u) - 1, -1, *D.shape[1:]).flip(0).cumsum(0).flip(0).flatten(0, 1)
            dx[:-1].flatten(0, 1).baddbmm_(self.rows[: len(D)], D)
        return dx


def _accumulate(
    config: ModelConfig, stack: Stack, x: Tensor, wanted: Tensor, counted: Tensor, total: Sequence[Tensor]
) -> Tensor:
    """The sum of squared errors of one piece; half its gradients are added to `total`."""
    n_chunks, _, chunk, width = x.shape
    mask, rates, average = _constants(config.attention, chunk, n_chunks, width, config.d_model, x.dtype, x.device)
    saved = []
    for layer in stack.layers:
        causal = _Causal(x, mask)
        u = _times(x, layer.QK)
        if rates is not None:
            u *= rates
        c, scores = causal.apply(u)
        out = _times(c, layer.OV, layer.bias)
        scale = None
        if layer.norm is None:
            x = x + out
        else:
            weight, shift = layer.norm
            scale = (torch.mv(_flat(out * out), average) + LAYER_NORM_EPS).rsqrt_()[:, None]
            _flat(out).mul_(scale)
            x = torch.addcmul(x, out, weight).add_(shift)
        saved.append((causal, u, c, scores, out, scale))

    total = list(total)
    if stack.readout is None:
        error = (x - wanted) * counted
        error[..., config.dim :] = 0.0
        dx = error
    else:
        error = _times(x, stack.readout).sub_(wanted).mul_(counted)
        total.pop().addmm_(_flat(x).t(), _flat(error))
        dx = _times(error, stack.readout.t())
    loss = error.square().sum()

    for index in reversed(range(len(stack.layers))):
        layer = stack.layers[index]
        causal, u, c, scores, out, scale = saved.pop()
        dout = dx
        if layer.norm is not None:
            flat = _flat(dx)
            total.pop().add_(flat.sum(0))
            product = flat * _flat(out)
            total.pop().add_(product.sum(0))
            weight = layer.norm[0]
            mean = torch.mv(product, weight / config.d_model)[:, None]
            dout = torch.addcmul(flat * weight, _flat(out), mean, value=-1).mul_(scale).view(dx.shape)
        if layer.bias is not None:
            total.pop().add_(_flat(dout).sum(0))
        total.pop().addmm_(_flat(c).t(), _flat(dout))
        dc = _times(dout, layer.OV.t())
        du, R = causal.apply(dc)
        if rates is not None:
            du *= rates
        total.pop().addmm_(_flat(causal.x).t(), _flat(du))
        if index:
            dx = dx + causal.gradient(u, scores, dc, R)
            _flat(dx).addmm_(_flat(du), layer.QK.t())
    return loss


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _times(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    product = torch.mm(_flat(x), matrix) if bias is None else torch.addmm(bias, _flat(x), matrix)
    return product.view(*x.shape[:-1], -1)
