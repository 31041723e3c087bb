"""The estimate of W as a derivative: of the prediction by the last token, through its query or through its value.

Everything at position T but one path of its own token is frozen, so that one backward pass per coordinate gives the
matrices of all positions at once.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.nn.functional import pad

from ar_interp._checks import check_integer
from ar_interp.estimators import apply
from ar_interp.estimators.least_squares import running_products
from ar_interp.models.hooks import Hook
from ar_interp.models.opened import Model
from ar_interp.probes.batches import at_a_time, innermost, numbers_in, numbers_in_pass
from ar_interp.probes.protocol import AUGMENTED, LINEAR, PATTERNS, PLAIN, needs

Maps = Inexact[Tensor, "batch pos dim dim"]

JACOBIAN = ("forward", "hooks", "read_out", "config.n_layers", "blocks.{layer}.hook_resid_post")
MOST_TOKENS = 2**24  # that a foreign model is run on for its full Jacobian
BY_QUERY = (
    *JACOBIAN, "config.encoding", "config.dim", "hook_embed", "blocks.{layer}.attn.hook_v", "blocks.{layer}.attn.hook_k"
)  # fmt: skip
BY_VALUE = (*JACOBIAN, "blocks.{layer}.attn.hook_v", *PATTERNS, "blocks.{layer}.attn.hook_z")


@needs(*BY_QUERY, scope=AUGMENTED)
def query_jacobian(
    model: Model, tokens: Inexact[Tensor, "batch pos dim"], *, layer: int | None = None, batch_size: int | None = None
) -> Maps:
    """Ŵ_T = d(prediction_T) / d(s_T) with the keys and values of every layer frozen, for augmented tokens.

    Only the s_T block of e_T = (0, s_T, s_{T-1}) and what is asked with it move; softmax, LayerNorm and MLP stay live.
    Linear attention without them gives the block of `exact_circuit` (complex too, as its keys are conjugated).

    Args:
        layer: of the prediction that the stream after this layer holds; the last if left out.
    Raises:
        ValueError: plain tokens, a layer that is not there.
    """
    _require(model.is_augmented, "query_jacobian", "value_jacobian")

    def detach(value: Tensor, hook: Any) -> Tensor:
        return value.detach()

    freeze: list[Hook] = [(lambda name: name.endswith((".hook_k", ".hook_v")), detach)]
    embedded = _jacobian(model, tokens, layer, freeze, batch_size, by_embedding=True)
    return embedded.unflatten(-1, (-1, model.config.dim))[..., 1, :]


def sums_up(model: Model) -> bool:
    """Whether the `query_jacobian` is a running sum: one layer of linear attention that nothing else acts on,
    neither positions, biases, LayerNorm or an MLP nor hooks."""
    if not (model.is_ours and model.is_augmented and model.is_linear and model.n_layers == 1):
        return False
    config = model.config
    dressed = config.layer_norm or config.d_mlp or config.biases or config.positional != "none"
    return model.module.blocks[0].attn.key_blind and not (dressed or model.is_hooked)


def jacobian_by_sums(model: Model, tokens: Inexact[Tensor, "batch pos dim"]) -> tuple[Maps, Tensor]:
    """`query_jacobian` of a model that `sums_up`, and its predictions, from its weights.

    e_t = (s_t, s_{t-1}), S_T = share(T) sum_{t <= T} sum_h (e_t W_V W_O W_U)^T (W_Q W_K^T conj(e_t))^T and what a
    residual stream adds: prediction_T = S_T e_T, and Ŵ_T are the columns of s_T. Contexts are innermost in memory.
    """
    config, attn = model.config, model.module.blocks[0].attn
    x = innermost(tokens).movedim(0, -1)  # [pos dim batch]
    e = torch.cat([x, pad(x[:-1], (0, 0, 0, 0, 1, 0))], dim=1)
    W_Q, W_K, W_V, W_O = (W.detach().to(e.dtype) for W in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O))
    W_U = model.W_U.detach().to(e.dtype)
    scale = config.head_width**-0.5 if config.scale_scores else 1.0
    own = slice(config.dim, None)  # e_t without the read-out, which is 0
    asked, written = scale * (W_Q @ W_K.mT)[:, own, own], (W_V @ W_O @ W_U).mT[..., own]
    heads = ((w @ e, a @ e.conj()) for w, a in zip(written, asked, strict=True))
    sums = reduce(Tensor.add_, (running_products(w.movedim(-1, 0), a.movedim(-1, 0))[:, 1:] for w, a in heads))
    share = attn.share(len(e), e.real.dtype)
    sums = sums if share is None else sums.mul_(share[..., None])
    sums = sums.add_(W_U[own].mT) if config.residual and config.unembed else sums
    predictions = apply(sums, e.movedim(-1, 0))
    ending = model.module.unembed
    return sums[..., : config.dim], predictions if ending is None else predictions + ending.b_U.detach().to(e.dtype)


@needs(*BY_VALUE, scope=PLAIN)
def value_jacobian(
    model: Model, tokens: Inexact[Tensor, "batch pos dim"], *, layer: int | None = None, batch_size: int | None = None
) -> Maps:
    """Γ_T = d(prediction_T) / d(s_T) with every attention pattern frozen, through T's own value, for plain tokens.

    One bare layer: Γ_T = sum_h pattern_h(T, T) (W_V W_O)_h^T. A residual stream adds its own share, and s_T counts as
    often as the token repeats it. `layer` is that of `query_jacobian`.

    Raises:
        ValueError: augmented tokens, a layer that is not there.
    """
    _require(not model.is_augmented, "value_jacobian", "query_jacobian")
    own: dict[str, Tensor] = {}  # of the layer that runs

    def keep_value(value: Tensor, hook: Any) -> Tensor:
        own["value"] = value - value.detach()  # zero, with a derivative
        return value.detach()

    def keep_weight(pattern: Tensor, hook: Any) -> Tensor:
        own["weight"] = pattern.detach().diagonal(0, -2, -1).mT[..., None]  # [batch pos head 1]
        return pattern.detach()

    def add_own(z: Tensor, hook: Any) -> Tensor:
        return z + own["weight"] * own["value"]

    hooks = {".hook_v": keep_value, ".hook_pattern": keep_weight, ".hook_z": add_own}
    freeze: list[Hook] = [((lambda name, end=end: name.endswith(end)), hook) for end, hook in hooks.items()]
    return _jacobian(model, tokens, layer, freeze, batch_size)


@needs(*JACOBIAN)
def full_jacobian(
    model: Model, tokens: Inexact[Tensor, "batch pos dim"], *, layer: int | None = None, batch_size: int | None = None
) -> Maps:
    """d(prediction_T) / d(s_T) by every path of the token at T: query, key, value, residual stream; nothing is frozen.

    It is defined for every model. It is the estimate of W only where the prediction is linear in s_T; where it is not,
    beside s_T the derivative of the estimate itself is in it. `layer` is that of `query_jacobian`.

    What precedes T knows nothing of s_T, so that in a model of this package all positions take one forward pass, with
    the keys and values of other positions frozen. Any other model is run on every context s_1..s_T by itself.

    Raises:
        ValueError: a layer that is not there; a foreign model and contexts that would take too long.
    """
    if model.is_ours and model.config.encoding in ("plain", "augmented"):
        return _jacobian(model, tokens, layer, tuple(_own_position(model)), batch_size)
    length, n = tokens.shape[1], tokens.shape[1] * (tokens.shape[1] + 1) // 2 * len(tokens)
    if n > MOST_TOKENS:
        raise ValueError(
            f"tokens ask for {length} runs of {model.name}, on s_1..s_T for every T: {n / 1e6:.0f} million tokens with "
            f"a derivative each, more than {MOST_TOKENS / 1e6:.0f} million. Give fewer or shorter contexts, e.g. "
            f"sequences[:{max(1, len(tokens) * MOST_TOKENS // n)}]."
        )
    lengths = range(1, length + 1)
    return torch.cat([_jacobian(model, tokens[:, :T], layer, (), batch_size, first=T - 1) for T in lengths], dim=1)


def _own_position(model: Model) -> Iterator[Hook]:
    """Hooks that leave prediction_T to the token at T alone, by its query, key, value and residual stream."""
    dim = model.config.dim
    if model.is_augmented:
        yield "hook_embed", lambda embedded, hook: torch.cat([embedded[..., :-dim], embedded[..., -dim:].detach()], -1)
    for layer, block in enumerate(model.module.blocks):
        yield from _OwnPosition(block.attn).hooks(f"blocks.{layer}.attn.hook_")


class _OwnPosition:
    """The same for an attention layer: keys and values are frozen, and what a token gives to itself is added apart.

    That is a key and a value that are zero and have a derivative.
    """

    def __init__(self, attn: Any) -> None:
        self.attn = attn
        self.now: dict[str, Tensor] = {}

    def hooks(self, prefix: str) -> Iterator[Hook]:
        acts: dict[str, Callable] = {"q": self.ask, "k": self.freeze, "v": self.freeze}
        if self.attn.key_blind:
            acts |= {"z": self.add_shared}
        else:
            acts |= {"attn_scores": self.add_score, "pattern": self.weigh, "z": self.add_weighed}
        return ((prefix + name, act) for name, act in acts.items())

    def ask(self, q: Tensor, hook: Any) -> Tensor:
        self.now["q"] = q.detach() if self.attn.config.query_lag else q  # which the next position asks with
        return self.now["q"]

    def freeze(self, x: Tensor, hook: Any) -> Tensor:
        name = hook.name[-1]
        self.now[name], self.now[f"own {name}"] = x.detach(), x - x.detach()
        return self.now[name]

    def score(self, key: str) -> Inexact[Tensor, "batch pos head"]:
        """<query, key> of each token with itself."""
        asked, keys = self.attn.compared(self.now["q"], self.now[key])
        return (asked * keys).sum(-1)

    def add_score(self, scores: Tensor, hook: Any) -> Tensor:
        return scores + torch.diag_embed(self.score("own k").mT)

    def weigh(self, pattern: Tensor, hook: Any) -> None:
        self.now["weight"] = pattern.detach().diagonal(0, -2, -1).mT

    def add_weighed(self, z: Tensor, hook: Any) -> Tensor:
        return z + self.now["weight"][..., None] * self.now["own v"]

    def add_shared(self, z: Tensor, hook: Any) -> Tensor:
        added = self.score("own k")[..., None] * self.now["v"] + self.score("k")[..., None] * self.now["own v"]
        share = self.attn.share(z.shape[1], z.real.dtype)
        return z + (added if share is None else added * share[:, :, None])


def _check_linear(model: Model) -> None:
    config = model.config
    if config.layer_norm or config.d_mlp or not model.is_linear:
        raise ValueError(f"exact_circuit needs linear attention alone, use query_jacobian: {config.summary}.")


@needs(
    "run_with_cache", "W_Q", "W_O", "W_U", "config.encoding", "config.d_model", "config.n_layers", "config.linear",
    "config.residual", "config.layer_norm", "config.d_mlp", "config.scale_scores", "config.head_width",
    when={LINEAR: ("blocks.{layer}.attn.hook_kv_state",)},
    scope=LINEAR,
    fits=_check_linear,
)  # fmt: skip
def exact_circuit(
    model: Model, tokens: Inexact[Tensor, "batch pos dim"], *, batch_size: int | None = None
) -> Inexact[Tensor, "batch pos dim d_model"]:
    """The matrix that takes e_T to prediction_T in a stack of linear attention, from weights and key-value states.

    With keys and values frozen the stream at T moves linearly, x_T -> x_T (I + sum_h W_Q S_{T,h} W_O) in each layer,
    S_{T,h} = sum_t w(T, t) conj(k_t) v_t^T as in `hook_kv_state`: the product over the layers, read out. Columns
    [dim, 2 dim) are Ŵ_T, the last dim belong to s_{T-1}; with biases it is the linear part.

    Raises:
        ValueError: plain tokens, softmax, LayerNorm or an MLP.
    """
    _require(model.is_augmented, "exact_circuit", "value_jacobian")
    _check_linear(model)
    names = [f"blocks.{layer}.attn.hook_kv_state" for layer in range(model.n_layers)]
    size = at_a_time(batch_size, numbers_in(model, tokens.shape[1], names))
    return torch.cat([_circuit_of_part(model, part, names) for part in tokens.split(size)])


def _circuit_of_part(model: Model, tokens: Tensor, names: list[str]) -> Inexact[Tensor, "batch pos dim d_model"]:
    config = model.config
    predictions, states = model.run_with_cache(tokens, names_filter=names)
    scale = config.head_width**-0.5 if config.scale_scores else 1.0
    W_Q, W_O, W_U = (W.to(predictions.dtype) for W in (scale * model.W_Q, model.W_O, model.W_U))
    stream = torch.eye(config.d_model, dtype=predictions.dtype, device=predictions.device)
    circuit = stream  # rows are states
    for layer, name in enumerate(names):
        written = torch.einsum("hmi,bthij,hjn->btmn", W_Q[layer], states[name], W_O[layer])
        circuit = circuit @ (written + stream if config.residual else written)
    return (circuit @ W_U).mT


def _jacobian(
    model: Model,
    tokens: Tensor,
    layer: int | None,
    freeze: Iterable[Hook],
    batch_size: int | None,
    *,
    first: int = 0,
    by_embedding: bool = False,
) -> Inexact[Tensor, "batch pos dim width"]:
    """d(prediction_T) / d(s_T) from position `first` on, under hooks that leave prediction_T to the token at T alone.

    `by_embedding` gives d(prediction_T) / d(e_T): where e_{T+1} holds s_T too.
    """
    top = model.n_layers - 1
    layer = top if layer is None else check_integer("layer", layer, low=0, high=top)
    parts = tokens.split(at_a_time(batch_size, numbers_in_pass(model, tokens.shape[1])))
    return torch.cat([_jacobian_of_part(model, part, layer, freeze, first, by_embedding) for part in parts])


@torch.enable_grad()
def _jacobian_of_part(
    model: Model, tokens: Tensor, layer: int, freeze: Iterable[Hook], first: int, by_embedding: bool
) -> Inexact[Tensor, "batch pos dim width"]:
    found = {"token": tokens[:, first:].detach().requires_grad_()}

    def start(embedded: Tensor, hook: Any) -> Tensor:
        found["token"] = embedded.detach().requires_grad_()
        return found["token"]

    def stop(resid: Tensor, hook: Any) -> None:
        found["stream"] = resid

    hooks = [*freeze, (f"blocks.{layer}.hook_resid_post", stop)]
    with model.hooks([("hook_embed", start), *hooks] if by_embedding else hooks):
        model(torch.cat([tokens[:, :first].detach(), found["token"]], dim=1))
    predictions = model.read_out(found["stream"][:, first:])
    rows = [
        torch.autograd.grad(row.real.sum(), found["token"], retain_graph=True, materialize_grads=True)[0].conj()
        for row in predictions.unbind(-1)
    ]  # the gradient of a real part is the conjugate of the complex derivative
    return torch.stack(rows, dim=-2).resolve_conj()


def _require(fits: bool, name: str, instead: str) -> None:
    if not fits:
        theirs, found = ("plain", "augmented") if name == "value_jacobian" else ("augmented", "plain")
        raise ValueError(f"{name} is for {theirs} tokens, these are {found}: use {instead}.")
