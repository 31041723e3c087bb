"""Naive reference computations, one sequence, position, head and key at a time, and checks that test files share."""

import itertools
import math

import numpy as np
import plotly.graph_objects as go
import torch
from cases import N_READ, noise, numbered, planted
from torch import Tensor
from torch.testing import assert_close
from zoo import tabled

from ar_interp.claims import Claims
from ar_interp.models.encodings import encode
from ar_interp.probes.blocks import BLOCK_NAMES
from ar_interp.probes.paths import PREVIOUS, READ_OUT, Path
from ar_interp.probes.readout import probe_activations
from ar_interp.processes import CommutingOrthogonal


def number_of(path: Path) -> int | None:
    """Its place among the eight products; None for paths that read zeros."""
    if READ_OUT in path:
        return None
    return 4 * (path.query == PREVIOUS) + 2 * (path.key == PREVIOUS) + (path.value == PREVIOUS)


def project(model, layer: int, stream, part: str):
    """[pos head d_head]"""
    W = getattr(model, f"W_{part}")[layer].to(stream.dtype)
    bias = getattr(model.blocks[layer].attn, f"b_{part}", None)
    found = torch.stack([stream @ W_h for W_h in W], dim=1)
    return found if bias is None else found + bias


def attend(model, layer: int, q, k, v, *, other=None, own_keys=None):
    """The layer's output [pos d_model], query by query and key by key; keys that are not own are the other's."""
    config, (pos, n_heads, _) = model.config, q.shape
    scale = config.head_width**-0.5 if config.scale_scores else 1.0
    output = torch.zeros(pos, config.d_model, dtype=q.dtype)
    for T in range(pos):
        for h in range(n_heads):
            asked = T - config.query_lag
            if asked < 0:
                continue
            triples = [(q, k, v) if own_keys is None or T - t in own_keys else other for t in range(T + 1)]
            plain = config.encoding == "plain"
            scores = torch.stack(
                [
                    scale * ((a[asked, h].conj() * b[t, h]) if plain else (a[asked, h] * b[t, h].conj())).sum()
                    for t, (a, b, _) in enumerate(triples)
                ]
            )
            if config.linear:
                weights = positional(model, layer, T)
                share = {"linear": 1, "linear/keys": T + 1, "linear/pairs": max(T, 1)}[config.attention]
                pattern = scores * weights / share
            else:
                pattern = scores.exp() / scores.exp().sum()
            z = sum(weight * c[t, h] for t, (weight, (_, _, c)) in enumerate(zip(pattern, triples, strict=True)))
            output[T] += z @ model.W_O[layer, h].to(z.dtype)
    block = model.blocks[layer]
    bias = 0 if block.attn.b_O is None else block.attn.b_O
    return block.ln1_post((output + bias)[None])[0]


def positional(model, layer: int, T: int):
    if model.config.positional == "multiplicative":
        row = model.blocks[layer].attn.positional.P[T - model.config.query_lag]
        return row[: T + 1]
    if model.config.positional == "softmax":
        q, k = (project(model, layer, model.pos_embed.W_pos[: T + 1], part)[:, 0] for part in "QK")
        scale = model.config.head_width**-0.5 if model.config.scale_scores else 1.0
        return (scale * k @ q[T]).softmax(0)
    return torch.ones(T + 1)


def streams(model, tokens, replaced=None, at: int = 0):
    """The stream before each layer and at the end, [pos d_model], with the output of layer `at` replaced."""
    resid = encode(model.config, tokens[None])[0]
    if model.config.positional == "additive":
        resid = resid + model.pos_embed.W_pos[: len(resid)]
    found = [resid]
    for layer, block in enumerate(model.blocks):
        output = replaced
        if replaced is None or layer != at:
            output = attend(model, layer, *(project(model, layer, resid, part) for part in "QKV"))
        resid = resid + output if model.config.residual else output
        if block.mlp is not None:
            resid = resid + block.mlp(resid[None])[0]
        found.append(resid)
    return found


def path_alone(model, layer: int, stream, path: Path):
    inputs = []
    for part, name in zip("QKV", path, strict=True):
        blocks = list(stream.chunk(3, dim=-1))
        alone = [x if BLOCK_NAMES[i] == name else torch.zeros_like(x) for i, x in enumerate(blocks)]
        inputs.append(project(model, layer, torch.cat(alone, dim=-1), part))
    return attend(model, layer, *inputs)


def read_out(model, resid):
    return model.read_out(resid[None])[0]


def grid_sequences(family: type, dim: int, length: int) -> torch.Tensor:
    """s_1..s_length, s_1 = 1_dim, for every point of a grid of phases.

    Each phase has degree below 4 length in a squared error, so that the mean over the grid is the expectation.
    """
    angles = 2 * math.pi * torch.arange(4 * length, dtype=torch.float64) / (4 * length)
    n_free = dim // 2 if family is CommutingOrthogonal else dim
    phases = torch.tensor(list(itertools.product(angles.tolist(), repeat=n_free)), dtype=torch.float64)
    if family is CommutingOrthogonal:
        phases = torch.stack([phases, -phases], dim=-1).flatten(1)
    return family(dim).rollout(phases, length).tokens


def feature(tokens: torch.Tensor, T: int, key_lag: int, query_lag: int, value_lag: int = 0) -> torch.Tensor:
    """sum_{t=1}^T <s_{t - key_lag}, s_{T - query_lag}> s_{t - value_lag} with s_0 = 0, one term at a time."""
    states = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)  # states[:, t] = s_t
    total = torch.zeros_like(tokens[:, 0])
    for t in range(1, T + 1):
        score = (states[:, t - key_lag].conj() * states[:, T - query_lag]).sum(-1, keepdim=True)
        total = total + score * states[:, t - value_lag]
    return total


def inner(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.conj() * y).real.sum(-1).mean())


def quadratic(features: list[list[torch.Tensor]], targets: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix of the features, summed over context lengths, and their products with the targets."""
    gram = sum(np.array([[inner(x, y) for x in row] for y in row]) for row in features)
    return gram, sum(np.array([inner(x, y) for x in row]) for row, y in zip(features, targets, strict=True))


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """To rounding in units of the largest entry: products of up to nine tokens cancel in the small ones."""
    assert_close(actual, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def names(claims: Claims) -> set[str]:
    return {claim.name for claim in claims}


def failing(claims: Claims) -> set[str]:
    """Names of the claims that fail."""
    return {claim.name for claim in claims if claim.verdict == "fails"}


def trace(figure: go.Figure, name: str) -> go.Scatter:
    return next(trace for trace in figure.data if trace.name == name)


def check_titles(figures: dict[str, go.Figure]) -> None:
    for name, figure in figures.items():
        lines = figure.layout.title.text.replace("<sub>", "").replace("</sub>", "").split("<br>")
        assert len(lines) <= 2, name
        assert max(map(len, lines)) <= (104 if len(lines) == 1 else 52), name
        assert figure.layout.title.subtitle.text.count("<br>") <= 5, name


def plain(text: str) -> str:
    """The text of a title without its line breaks."""
    return text.replace("<br>", " ")


def read_row(features, values, control=None, n=N_READ, **options):
    """One row: a target planted in one hook, and a control model that holds noise if none is given."""
    untrained = tabled(noise(n, 2, seed=99) if control is None else control)
    sweep = probe_activations(
        tabled(features), numbered(n), positions=[3], target=planted(values), untrained=untrained, **options
    )
    return sweep.frame.iloc[0]
