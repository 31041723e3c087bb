"""The predictions of all members at once, [member batch pos dim], in as few products as possible; differentiable.

A head acts through two products alone. With a column of ones beside the tokens, in which biases are a row of the same
matrices,

    scores_h(T, t) = x_T QK_h x_t^T,   QK = scale (W_Q; b_Q) (W_K; b_K)^T,
    what it writes at T = sum_t pattern_h(T, t) x_t OV_h,   OV = (W_V; b_V) W_O.

A form makes these products once for all sequences, and predictions from them.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import gelu, pad

from ar_interp.models.attention_types import AttentionType, LinearAttention
from ar_interp.models.base import Config
from ar_interp.models.config import ModelConfig, is_plain_full, is_preset
from ar_interp.models.encodings import Encoding
from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.training.form import Form, OwnModel, Parameters, Products, Tokens
from ar_interp.training.sum_of_tokens import SumOfTokens

LAYER_NORM_EPS = 1e-5
VECTOR = 8  # widths are padded to a multiple of it
CHUNK = {"cpu": 25, "cuda": 64}  # positions summed by masked scores; a running state joins chunks
ROWS = {"cpu": 10, "cuda": 64}  # positions whose sum over heads is one product
PART = {"cuda": 4}  # sequences of a product by a small matrix, whose gradient else is one long sum, slow on a GPU
TAIL = ("b_O", "norm.w", "norm.b")  # of a layer, after its heads
FEW_HEADS = 8  # from here on the sum over heads is cheaper than the heads one by one


def entry_for(device: torch.device, table: Mapping[str, int]) -> int:
    """The number for a kind of device in a table; that of "cuda" for a kind without one of its own."""
    return table.get(device.type, table["cuda"])


def form_of(config: Config, process_is_real: bool = True) -> Form:
    """The form for an architecture; a `Config` of another kind is left to its own model."""
    if type(config) is NextTokenConfig:
        return SumOfTokens(config)
    if type(config) is not ModelConfig:
        return OwnModel(config)
    if process_is_real and is_plain_full(config):
        return SharedPositions(config)
    return SumOfHeads(config) if is_paper_figure7(config) and config.n_heads >= FEW_HEADS else Stack(config)


def is_paper_figure7(config: Config) -> bool:
    """`ModelConfig.paper_figure7` at any size."""
    return is_preset(config, ModelConfig.paper_figure7, "dim", "n_ctx", "n_heads", "repeats", "dtype")


class Stack(Form):
    """Any `ModelConfig`: layers of heads, one product each for the queries and the outputs of all heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.attention = AttentionType.find(config.attention)()
        self.encoding = Encoding.find(config.encoding)()
        self.scores_as_they_are = type(self.attention).pattern is LinearAttention.pattern

    @property
    def constant(self) -> bool:
        """Tokens carry a 1 in column d_model."""
        return self.config.biases or self.config.unembed or self.config.d_mlp > 0

    @property
    def width(self) -> int:
        """Columns of a token: its own, the 1, and zeros."""
        return VECTOR * math.ceil((self.config.d_model + self.constant) / VECTOR)

    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        config, products = self.config, {}
        positions = None
        if config.positional in ("additive", "softmax"):
            positions = self._widened(parameters["pos_embed.W_pos"][:, :n_pos])
        if config.positional == "additive":
            products["positions"] = positions
        elif positions is not None and self.constant:
            positions = positions + self._one(positions)
        layers: dict[str, list[Tensor]] = defaultdict(list)
        for name, tensor in parameters.items():
            if name.startswith("blocks."):
                layers[name.split(".", 2)[2]].append(tensor)
        together = {name: torch.stack(tensors, dim=1).flatten(0, 1) for name, tensors in layers.items()}
        if positions is not None:
            positions = positions.repeat_interleave(config.n_layers, 0)
        for name, tensor in self._products(together, positions, n_pos).items():
            of_layer = tensor.unflatten(0, (-1, config.n_layers)).unbind(1)
            products |= {f"{layer}.{name}": part for layer, part in enumerate(of_layer)}
        if config.unembed:
            affine = torch.cat([parameters["unembed.W_U"], parameters["unembed.b_U"][:, None]], dim=1)
            products["readout"] = self._widened(affine, rows=True)
        return products

    def _products(self, own: Parameters, positions: Tensor | None, n_pos: int) -> Products:
        """The products of a layer; members and their layers are one axis."""
        config, width = self.config, self.width
        QK, OV = self._heads(own)
        shift = own.get("attn.b_O")
        if config.layer_norm:
            OV = OV - OV.mean(-1, keepdim=True)
            shift = None if shift is None else shift - shift.mean(-1, keepdim=True)
        QK = pad(QK, (0, width - QK.shape[-1], 0, width - QK.shape[-2]))
        OV = pad(OV, (0, width - OV.shape[-1], 0, width - OV.shape[-2]))
        products = {
            "QK": QK.transpose(1, 2).flatten(2),
            "OV": OV.flatten(1, 2),
        }  # [member width head*width], its mirror
        if shift is not None:
            products["b_O"] = self._widened(shift)
        if config.layer_norm:
            products |= {"norm.w": self._widened(own["ln1_post.w"]), "norm.b": self._widened(own["ln1_post.b"])}
        if config.d_mlp:
            W_in = torch.cat([own["mlp.W_in"], own["mlp.b_in"][:, None]], dim=1)
            W_in = pad(W_in, (0, 0, 0, width - W_in.shape[1]))
            products |= {
                "W_in": W_in,
                "W_out": self._widened(own["mlp.W_out"]),
                "b_out": self._widened(own["mlp.b_out"]),
            }
        if config.positional == "softmax":
            assert positions is not None
            asked = self._asked(positions[:, None], products["QK"])  # [member 1 pos*head width]
            scores = (asked @ positions[:, None].mT).view(len(positions), n_pos, config.n_heads, n_pos)
            products["weights"] = scores.masked_fill(_future(scores), -torch.inf).softmax(-1)
        elif config.positional == "multiplicative":
            rows = own["attn.positional.P"][:, : n_pos - config.query_lag, :n_pos]
            products["weights"] = pad(rows, (0, 0, config.query_lag, 0)).tril()[:, :, None]
        return products

    def _heads(self, own: Parameters) -> tuple[Tensor, Tensor]:
        """QK [member head in in] and OV [member head in d_model]; `in` counts the ones where there are biases."""
        config = self.config
        if config.heads == "block-scalar":
            dim = config.dim
            QK, OV = (own[f"attn.{name}_blocks"][..., :, None, :, None] for name in ("QK", "OV"))
            identity = torch.eye(dim, dtype=QK.dtype, device=QK.device)[:, None, :]
            return tuple((M * identity).flatten(-4, -3).flatten(-2) for M in (QK, OV))  # type: ignore[return-value]
        if config.heads == "merged":
            return own["attn.QK"], own["attn.OV"]
        if config.heads in ("diagonal", "unit"):
            ones = next(iter(own.values())).new_ones(len(next(iter(own.values()))), 1, config.dim)
            return torch.diag_embed(own.get("attn.A", ones)), torch.diag_embed(own.get("attn.B", ones))

        def affine(which: str) -> Tensor:
            W = own[f"attn.W_{which}"]
            return torch.cat([W, own[f"attn.b_{which}"][..., None, :]], dim=-2) if config.biases else W

        W_O = own["attn.shared_W_O"][:, None] if config.shared_output else own["attn.W_O"]
        scale = config.head_width**-0.5 if config.scale_scores else 1.0
        return scale * affine("Q") @ affine("K").mT, affine("V") @ W_O

    def _widened(self, x: Tensor, *, rows: bool = False) -> Tensor:
        """Zeros up to the width, in the last axis or in the rows and up to a multiple of `VECTOR` in the last."""
        if rows:
            return pad(x, (0, -x.shape[-1] % VECTOR, 0, self.width - x.shape[-2]))
        return pad(x, (0, self.width - x.shape[-1]))

    def _one(self, like: Tensor) -> Tensor:
        """1 in the column of ones."""
        one = torch.zeros(self.width, dtype=like.dtype, device=like.device)
        one[self.config.d_model].fill_(1.0)
        return one

    def predict(self, products: Products, tokens: Tokens) -> Tokens:
        config = self.config
        x = self._widened(torch.cat([self.encoding.encode(tokens)] * config.repeats, dim=-1))
        if self.constant:
            x[..., config.d_model].fill_(1.0)
        if config.positional == "additive":
            x = x + products["positions"][:, None]
        for layer in range(config.n_layers):
            get = {name.split(".", 1)[1]: t for name, t in products.items() if name.startswith(f"{layer}.")}
            out = _times(self._attended(x, get), get["OV"], get.get("b_O"))
            if config.layer_norm:
                scale = (out.square().sum(-1, keepdim=True) / config.d_model + LAYER_NORM_EPS).rsqrt()
                out = out * scale * _row(get["norm.w"]) + _row(get["norm.b"])
            x = x + out if config.residual else out + self._one(out) if self.constant else out
            if config.d_mlp:
                x = x + _times(gelu(_times(x, get["W_in"])), get["W_out"], get["b_out"])
        return (_times(x, products["readout"]) if config.unembed else x)[..., : config.dim]

    def elements(self, n_pos: int) -> int:
        per_key = self.config.positional in ("multiplicative", "softmax") or not self.config.linear
        return self.config.n_heads * n_pos * (n_pos if per_key else self.width)

    def _asked(self, x: Tensor, QK: Tensor) -> Tensor:
        """[member batch pos*head width], the query of each destination and head, zero where there is none."""
        u = _times(x, QK)
        lag = self.config.query_lag
        if lag:
            u = pad(u[:, :, : u.shape[2] - lag], (0, 0, lag, 0))
        return u.unflatten(-1, (self.config.n_heads, self.width)).flatten(2, 3)

    def _attended(self, x: Tensor, get: Products) -> Tensor:
        """[member batch pos head*width], sum_t pattern_h(T, t) x_t of all heads."""
        config, kind, pos = self.config, self.attention, x.shape[2]
        asked, keys = self._asked(x, get["QK"]), x
        if self.encoding.conjugated == "query":
            asked = asked.conj()
        else:
            keys = x.conj()
        share = kind.share(torch.arange(1, pos + 1, dtype=get["QK"].dtype, device=x.device)[:, None])
        weights = None if share is None else share[:, None]  # [pos 1 #key]
        if "weights" in get:
            mine = get["weights"][:, None]  # [member 1 pos #head key]
            weights = mine if weights is None else mine * weights
        if self.scores_as_they_are and (weights is None or weights.shape[-1] == 1):
            if weights is not None:
                asked = asked * weights.expand(pos, config.n_heads, 1).flatten(0, 1)
            return _causal_sums(asked, keys, x).unflatten(2, (pos, config.n_heads)).flatten(3)
        scores = (asked @ keys.mT).unflatten(2, (pos, config.n_heads))  # [member batch pos head key]
        future = _future(scores)
        if not (kind.linear and "weights" in get):  # positional weights are zero there
            scores = scores.masked_fill(future, kind.future)
        if self.scores_as_they_are:
            pattern = scores
        else:
            pattern = kind.pattern(scores.flatten(0, 1).transpose(1, 2)).transpose(1, 2).view_as(scores)
        pattern = pattern if weights is None else pattern * weights
        if not kind.linear:
            unasked = (torch.arange(pos, device=x.device) < config.query_lag)[:, None, None]
            pattern = pattern.masked_fill(future | unasked, 0)
        return (pattern.flatten(2, 3) @ x).unflatten(2, (pos, config.n_heads)).flatten(3)


class SharedPositions(Form):
    """Bias-free heads that share the weights P: the sum over keys comes first, whatever the heads."""

    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        get = {name.rsplit(".", 1)[-1]: tensor for name, tensor in parameters.items()}
        QK, OV = get["W_Q"] @ get["W_K"].mT, get["W_V"] @ get["W_O"]
        K = torch.einsum("ehab,ehcm->ebcam", QK, OV).flatten(3).flatten(1, 2)  # [member dim*dim dim*dim]
        lag = self.config.query_lag
        return {"K": K, "weights": pad(get["P"][:, : n_pos - lag, :n_pos], (0, 0, lag, 0)).tril()}

    def predict(self, products: Products, tokens: Tokens) -> Tokens:
        lag, pos = self.config.query_lag, tokens.shape[2]
        pairs = (tokens[..., :, None] * tokens[..., None, :]).flatten(-2)
        mixed = _times(products["weights"][:, None] @ pairs, products["K"])  # [member batch pos dim*dim]
        asked = pad(tokens[:, :, : pos - lag], (0, 0, lag, 0))
        return torch.einsum("ebta,ebtam->ebtm", asked, mixed.unflatten(-1, (self.config.dim, self.config.dim)))

    def elements(self, n_pos: int) -> int:
        return n_pos * self.config.dim**2


class SumOfHeads(Form):
    """Figure 7's layer on plain tokens, at a cost that does not grow with a large number of heads.

    Queries, keys and values are affine in s_t, so that with s~ = (s, 1) all heads write sums of products
    F[t] = (s~_t[b] s~_t[c]), b <= c:

        out_T[o] = sum_a s~_T[a] sum_{t <= T, f} K_T[t f, a o] F[t f],   K_T[t, .] = sum_h P_h(T, t) J_h.

    The sum over heads is made once, for all sequences.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.stack = Stack(config)

    def heads(self, parameters: Parameters, n_pos: int) -> Products:
        """QK [member head a b] and OV [member head c d_model] on (s_t, 1), P [member head pos key] and what follows."""
        config, found = self.config, self.stack.collapse(parameters, n_pos)
        n_heads, d_model, width = config.n_heads, config.d_model, self.stack.width

        def folded(M: Tensor, axis: int) -> Tensor:
            """Rows of the copies of s_t added up, and that of the ones."""
            copies, one, _ = M.split([d_model, 1, width - d_model - 1], dim=axis)
            return torch.cat([copies.unflatten(axis, (config.repeats, config.dim)).sum(axis), one], dim=axis)

        QK = folded(folded(found["0.QK"].unflatten(2, (n_heads, width)).transpose(1, 2), 2), 3)
        OV = folded(found["0.OV"].unflatten(1, (n_heads, width))[..., :d_model], 2)
        heads = {"QK": QK, "OV": OV, "P": found["0.weights"].transpose(1, 2)}
        heads |= {name: found[f"0.{part}"][:, :d_model] for name, part in zip(("b_O", "w", "b"), TAIL, strict=True)}
        return heads | {"readout": found["readout"][:, : d_model + 1]}

    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        config, dim = self.config, self.config.dim
        heads = self.heads(parameters, n_pos)
        full = torch.einsum("ehab,ehcm->ehbcam", heads["QK"], heads["OV"])
        low, high = torch.triu_indices(dim + 1, dim + 1, device=full.device)
        off = (low != high).to(full)[:, None, None]
        J = (full[:, :, low, high] + off * full[:, :, high, low]).flatten(2)  # [member head feature*(dim + 1)*d_model]
        P = heads["P"].permute(0, 2, 3, 1)  # [member pos key head]
        products = {name: heads[name] for name in ("b_O", "w", "b", "readout")}
        rows = entry_for(P.device, ROWS)
        for start in range(0, n_pos, rows):
            end = min(start + rows, n_pos)
            K = P[:, start:end, :end].flatten(1, 2) @ J  # [member pos*key ...]
            K = K.view(len(P), end - start, -1, (dim + 1) * config.d_model)  # [member pos key*feature ...]
            products[f"K.{end}"] = K.transpose(2, 3).flatten(1, 2)
        return products

    def predict(self, products: Products, tokens: Tokens) -> Tokens:
        config, dim = self.config, self.config.dim
        s = tokens.permute(0, 2, 3, 1)  # [member pos dim batch]
        query = torch.cat([s, torch.ones_like(s[:, :, :1])], dim=2)
        low, high = torch.triu_indices(dim + 1, dim + 1, device=s.device)
        features = query[:, :, low] * query[:, :, high]
        written, start = [], 0
        for end in (int(name[2:]) for name in products if name.startswith("K.")):
            G = products[f"K.{end}"] @ features[:, :end].flatten(1, 2)
            G = G.view(len(s), end - start, dim + 1, config.d_model, -1)
            written.append((G * query[:, start:end, :, None]).sum(2))
            start = end
        out = torch.cat(written, dim=1) + products["b_O"][:, None, :, None]
        scale = (out.square().mean(2, keepdim=True) + LAYER_NORM_EPS).rsqrt()
        out = out * scale * products["w"][:, None, :, None] + products["b"][:, None, :, None]
        readout = products["readout"][..., :dim]
        read = readout[:, None, : config.d_model].mT @ out + readout[:, None, config.d_model, :, None]
        return read.permute(0, 3, 1, 2)

    def elements(self, n_pos: int) -> int:
        return n_pos * self.stack.width


def _times(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [member batch pos in] times a real matrix of each member, in one product for all its sequences."""
    if x.is_complex():
        product = torch.complex(_times(x.real, matrix), _times(x.imag, matrix))
        return product if bias is None else product + _row(bias)
    members, batch, pos, _ = x.shape
    parts = batch // math.gcd(batch, PART.get(x.device.type, batch))
    rows = x.reshape(members * parts, -1, x.shape[-1])
    matrix = matrix[:, None].expand(-1, parts, -1, -1).flatten(0, 1)
    if bias is None:
        product = torch.bmm(rows, matrix)
    else:
        bias = bias[:, None, None].expand(-1, parts, -1, -1).flatten(0, 1)
        product = torch.baddbmm(bias, rows, matrix)
    return product.view(members, batch, pos, -1)


def _row(x: Tensor) -> Tensor:
    return x[:, None, None]


def _future(scores: Tensor) -> Tensor:
    """[query 1 key], of scores [... query head key]."""
    return torch.ones(scores.shape[-3], scores.shape[-1], dtype=torch.bool, device=scores.device).triu(1)[:, None]


def _causal_sums(asked: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """sum_{t <= T} (asked_T . key_t) value_t by masked scores inside chunks and a running state between them.

    Args:
        asked: [member batch pos*head width].
        keys, values: [member batch pos width].
    """
    n, pos, width = values.shape[0] * values.shape[1], *values.shape[2:]
    n_heads = asked.shape[2] // pos
    n_chunks = math.ceil(pos / entry_for(values.device, CHUNK))
    chunk = math.ceil(pos / n_chunks)
    fill = n_chunks * chunk - pos

    def chunked(x: Tensor, rows: int) -> Tensor:
        return (pad(x, (0, 0, 0, rows * fill)) if fill else x).reshape(n * n_chunks, rows * chunk, width)

    u, k = chunked(asked, n_heads), chunked(keys, 1)
    v = k if keys is values else chunked(values, 1)
    mask = torch.ones(chunk, chunk, dtype=k.real.dtype, device=k.device).tril()
    if n_heads > 1:
        mask = mask.repeat_interleave(n_heads, 0)
    out = torch.bmm(torch.bmm(u, k.mT) * mask, v)
    if n_chunks > 1:
        state = torch.bmm(k.mT, v).view(n, n_chunks, width, width)[:, :-1].cumsum(1)
        later = torch.bmm(u.view(n, n_chunks, -1, width)[:, 1:].flatten(0, 1), state.flatten(0, 1))
        out = out.view(n, n_chunks, -1, width)
        out = torch.cat([out[:, :1], out[:, 1:] + later.view_as(out[:, 1:])], dim=1)
    return out.reshape(*values.shape[:2], n_chunks * chunk * n_heads, width)[:, :, : pos * n_heads]
