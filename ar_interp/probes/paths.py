"""Paths through attention on augmented tokens: which block asks, which is asked, which is passed on.

The residual stream has three blocks (read-out, s_t, s_{t-1}). Linear attention is linear in queries, keys and values,
so that what it writes is the sum over the 27 ways to take each of them from one block alone. One gradient step is one
of the 27: s_T asks the keys s_{t-1} and is answered with s_t.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._checks import check_integer, check_number
from ar_interp.models.opened import Model, as_model
from ar_interp.probes.batches import at_a_time, numbers_in
from ar_interp.probes.blocks import BLOCK_NAMES, BLOCKS
from ar_interp.probes.protocol import RUN, needs
from ar_interp.probes.results import Result
from ar_interp.processes import Contexts, Sequences

BY_PATHS = (
    *RUN, "W_Q", "W_K", "W_V", "config.encoding", "config.linear", "config.biases", "config.layer_norm",
    "blocks.{layer}.hook_resid_pre", "blocks.{layer}.hook_attn_out", "blocks.{layer}.attn.hook_q",
    "blocks.{layer}.attn.hook_k", "blocks.{layer}.attn.hook_v",
)  # fmt: skip
PATTERNS = 16  # held at a time, of each path
ROLES = ("query", "key", "value")


class Path(NamedTuple):
    """The part of attention that takes each of queries, keys and values from one block, by names of `BLOCK_NAMES`."""

    query: str
    key: str
    value: str

    def __str__(self) -> str:
        """`<s_{t-1}|s_T> s_t`, say; the query is the token T's."""
        query = self.query if self.query == READ_OUT else self.query.replace("t", "T")
        return f"<{self.key}|{query}> {self.value}"


READ_OUT, CURRENT, PREVIOUS = BLOCK_NAMES
PATHS = tuple(Path(*names) for names in product(BLOCK_NAMES, repeat=len(ROLES)))
GRADIENT_STEP = Path(query=CURRENT, key=PREVIOUS, value=CURRENT)  # a2 b1
SECOND_PATH = Path(query=PREVIOUS, key=CURRENT, value=CURRENT)  # a3 b1, which conjugate pairs and Haar W use too


@dataclass(frozen=True, kw_only=True)
class Paths(Result):
    """Parts of the read-out that each path of a layer writes, and the model without each.

    Attributes:
        table: a row per path: query, key, value (names of `BLOCK_NAMES`) and path (all three, as text). With p what the
            path writes into the read-out, w what the whole layer does (the prediction, if nothing else writes there),
            and means over sequences and T = 2..length: energy, |p|^2 / |w|^2; share, Re<p, w> / |w|^2, which sum to 1;
            toward_target, Re<p, s_{T+1}> / |s_{T+1}|^2; effect, |without - prediction|^2 / |prediction|^2 with the
            path cut from this layer while the rest of the model runs on (energy, if w is the prediction);
            loss_without, the loss then; loss_only, the loss with only this path left in the layer; cost =
            loss_without - loss. Standard errors over the n sequences stand beside them (_se; of cost it is paired).
        written: p [query key value batch pos dim], at every position.
        loss, loss_se: |prediction - s_{T+1}|^2, sum over coordinates, mean over sequences and T = 2..length.
        sum_error: |sum of paths - attention output| / |attention output| over the whole stream: rounding.
    """

    table: pd.DataFrame
    written: Inexact[Tensor, "3 3 3 batch pos dim"]
    loss: float
    loss_se: float
    sum_error: float
    layer: int
    n: int

    def __getitem__(self, path: Path) -> dict[str, Any]:
        """The row of a path, by column.

        Raises:
            ValueError: not one of `PATHS`.
        """
        if path not in PATHS:
            raise ValueError(f"path must be a Path of three blocks {', '.join(map(repr, BLOCK_NAMES))}, got {path!r}.")
        return self.table.iloc[PATHS.index(path)].to_dict()

    @property
    def best(self) -> Path:
        """The path that costs most to cut."""
        return PATHS[int(self.table["cost"].to_numpy().argmax())]

    def carrying(self, threshold: float = 0.01) -> tuple[Path, ...]:
        """The paths that carry the prediction: cut, they change at least this share of it; largest effect first."""
        check_number("threshold", threshold, low=0, strict=True)
        effects = self.table["effect"].to_numpy()
        return tuple(PATHS[i] for i in np.argsort(-effects, kind="stable") if effects[i] >= threshold)


def _check_has_paths(model: Model) -> None:
    if not has_paths(model):
        raise ValueError(
            "path_contributions needs augmented tokens and linear attention without biases or LayerNorm, of which the "
            "paths are an exact sum; scrub(model, sequences) takes any attention."
        )


@needs(
    *BY_PATHS,
    "W_U",
    scope="augmented tokens, linear attention without biases",
    fits=_check_has_paths,
    sequences=2,
    length=2,
)
def path_contributions(model: Model, sequences: Sequences, *, layer: int = 0, batch_size: int | None = None) -> Paths:
    """Take a layer of linear attention apart into its 27 paths, and cut them one by one.

    With x_i the stream's block i alone, path (i, j, k) is the layer run with the queries of x_i, the keys of x_j and
    the values of x_k; summed over i, j and k it is the layer. Heads are summed. In the first layer the read-out block
    is zero (but for additive positions), which leaves 8 paths: a1..a4 times b1, b2 of block scalars.

    A cut is of one path. Where two do the same, what each costs says little: W keeps inner products, so that
    <s_{t-1}|s_{T-1}> = <s_t|s_T> but for t = 1, and a model is free to write something with one and take it back with
    the other. `scrub` takes sets of paths.
    Source: path expansion, Elhage et al. 2021; the paths named here are those of Sander et al. 2024, augmented tokens.

    Raises:
        ValueError: plain tokens; softmax, biases or LayerNorm in the attention, which leave no exact sum over paths; a
            layer that is not there; too few or too short sequences.
    """
    _check_has_paths(model)
    check_integer("layer", layer, low=0, high=len(model.W_Q) - 1)
    size = paths_at_a_time(batch_size, model, sequences, len(PATHS))
    parts = [_measure(model, part, layer) for part in sequences.split(size)]
    found = {name: torch.cat([part[name] for part in parts], dim=-1) for name in parts[0] if name != "written"}
    loss, loss_se = _mean(found["loss"])
    cost, cost_se = _mean(found["loss_without"] - found["loss"])
    columns = {}
    for name, over in {"energy": "write", "share": "write", "toward_target": "target", "effect": "prediction"}.items():
        columns[name], columns[f"{name}_se"] = _ratio(found[name], found[over])
    columns |= {name: _mean(found[name])[0] for name in ("loss_without", "loss_only")}
    columns |= {"cost": cost, "cost_se": cost_se, "n": len(sequences)}
    names = {role: [getattr(path, role) for path in PATHS] for role in ROLES} | {"path": [str(path) for path in PATHS]}
    return Paths(
        table=pd.DataFrame(names | columns),
        written=torch.cat([part["written"] for part in parts], dim=3),
        loss=float(loss),
        loss_se=float(loss_se),
        sum_error=(found["defect"].sum() / found["output"].sum()).sqrt().item(),
        layer=layer,
        n=len(sequences),
    )


def has_paths(model: object) -> bool:
    """Attention is the sum of its paths: augmented tokens, linear in queries, keys and values."""
    opened = as_model(model)
    return opened.is_augmented and opened.is_linear and not (opened.config.biases or opened.config.layer_norm)


def written_by(
    model: Model, resid: Inexact[Tensor, "batch pos d_model"], paths: Iterable[Path], *, layer: int
) -> Inexact[Tensor, "path batch pos d_model"]:
    """Parts of the layer's output that each path adds, from the stream before the layer; all in one forward pass."""
    chosen = [[BLOCK_NAMES.index(block) for block in path] for path in paths]
    output = f"blocks.{layer}.hook_attn_out"
    held = {}
    for role, name in enumerate("QKV"):
        weights = getattr(model, f"W_{name}")[layer].to(resid.dtype).chunk(BLOCKS, dim=1)
        projected = [
            torch.einsum("btm,hmi->bthi", x, W) for x, W in zip(resid.chunk(BLOCKS, dim=-1), weights, strict=True)
        ]
        held[f"blocks.{layer}.attn.hook_{name.lower()}"] = torch.cat([projected[blocks[role]] for blocks in chosen])
    batch, pos, d_model = resid.shape
    tokens = resid.new_zeros(len(chosen) * batch, pos, d_model // BLOCKS)  # the layer sees nothing of them
    with model.hooks(fwd_hooks=in_place_of(held)):
        written = model.run_with_cache(tokens, names_filter=output)[1][output]
    return written.unflatten(0, (len(chosen), batch))


def in_place_of(held: Mapping[str, Tensor]) -> list[tuple[str, Callable]]:
    """Hooks that put these in the place of the model's own activations, by name."""

    def put(value: Tensor, hook: Any) -> Tensor:
        return held[hook.name]

    return [(name, put) for name in held]


def paths_at_a_time(batch_size: int | None, model: Model, contexts: Contexts, n_paths: int) -> int:
    """Contexts at a time, with so many patterns of each."""
    numbers = PATTERNS * n_paths * numbers_in(model, contexts.length, ["hook_pattern"])
    return at_a_time(batch_size, numbers, most=None)


def _measure(model: Model, contexts: Contexts, layer: int) -> dict[str, Tensor]:
    """`written` [3 3 3 batch pos dim]; else values per sequence, [path batch] or [batch]."""
    tokens, targets = contexts.inputs, contexts.targets
    stream, output = f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_attn_out"
    predictions, cache = model.run_with_cache(tokens, names_filter=[stream, output])
    paths = written_by(model, cache[stream], PATHS, layer=layer)

    def run(written: Tensor) -> Tensor:
        with model.hooks(fwd_hooks=in_place_of({output: written})):
            return model(tokens)

    without = torch.stack([run(cache[output] - path) for path in paths])
    only = torch.stack([run(path) for path in paths])
    W_U = model.W_U.to(paths.dtype)
    read, whole = paths @ W_U, cache[output] @ W_U
    return {
        "written": read.unflatten(0, (BLOCKS,) * len(ROLES)),
        "energy": inner(read, read),
        "share": inner(read, whole),
        "toward_target": inner(read, targets),
        "effect": inner(without - predictions, without - predictions),
        "loss_without": torch.stack([contexts.losses(each) for each in without]).double(),
        "loss_only": torch.stack([contexts.losses(each) for each in only]).double(),
        "loss": contexts.losses(predictions).double(),
        "write": inner(whole, whole),
        "target": inner(targets, targets),
        "prediction": inner(predictions, predictions),
        "defect": (paths.sum(0) - cache[output]).abs().square().sum((1, 2)).double(),
        "output": cache[output].abs().square().sum((1, 2)).double(),
    }


def inner(x: Inexact[Tensor, "... pos dim"], y: Inexact[Tensor, "... pos dim"]) -> Float[Tensor, "..."]:
    """Re<x_T, y_T>, mean over T = 2..length."""
    return (x.conj() * y).real.double().sum(-1)[..., 1:].mean(-1)


def _mean(values: Float[Tensor, "*path batch"]) -> tuple[np.ndarray, np.ndarray]:
    """And its standard error over the sequences."""
    error = values.std(-1) / values.shape[-1] ** 0.5
    return values.mean(-1).cpu().numpy(), error.cpu().numpy()


def _ratio(values: Float[Tensor, "path batch"], over: Float[Tensor, "batch"]) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of the means, with the delta method's standard error; nan where there is nothing to divide by."""
    ratio = values.mean(-1, keepdim=True) / over.mean()
    return ratio[:, 0].cpu().numpy(), _mean((values - ratio * over) / over.mean())[1]
