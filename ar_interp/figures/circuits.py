"""Figures of `Circuits`: spectra, eigenvalues, effective ranks, blocks of augmented tokens, composition of layers."""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.figures.style import (
    BLUE,
    GREY,
    VERMILLION,
    draw,
    mark,
    matrices,
    number,
    signed_scale,
    styled,
    unit_circle,
)
from ar_interp.probes.circuits import CIRCUITS, COMPOSITIONS, BlockView, Circuits, Spectrum
from ar_interp.setting import Setting

LOOK = {"QK": (BLUE, "circle"), "OV": (VERMILLION, "diamond")}
FAINT = {"QK": "rgba(0, 114, 178, 0.15)", "OV": "rgba(213, 94, 0, 0.15)"}
BLOCKS = ("read-out", "s<sub>t</sub>", "s<sub>t−1</sub>")
SHARES = "Blues"
IN_USE = 0.01  # of |X|^2: smaller blocks need not have any shape
ENTRIES_SHOWN = 8  # rows of a matrix whose entries can still be read as numbers


def circuit_spectra(circuits: Circuits, untrained: Circuits, setting: Setting, *, layer: int, head: int) -> go.Figure:
    """Shares S_i^2 / |X|_F^2 of the singular values of a head's QK and OV; faint, those of its layer's other heads."""
    figure = go.Figure()
    n_values = circuits.QK_spectrum.S.shape[-1]
    x, hover = range(1, n_values + 1), "%{x}: %{y:.3g}"
    ranks = []
    for name, own, fresh in _pairs(circuits, untrained):
        colour, symbol = LOOK[name]
        for other in range(own.S.shape[1]):
            if other != head:
                faint = {"line": {"color": FAINT[name], "width": 1}, "mode": "lines", "showlegend": False}
                draw(figure, x, own.shares[layer, other].tolist(), f"{name} of head {other}", hover, **faint)
        for label, spectrum, look in (
            (f"{name} untrained", fresh, {"marker": {"symbol": f"{symbol}-open", "size": 6}, "opacity": 0.75}),
            (name, own, {"marker": {"symbol": symbol, "size": 8}}),
        ):
            line = {"color": colour, "dash": "solid" if spectrum is own else "dot"}
            values = spectrum.shares[layer, head].tolist()
            draw(figure, x, values, label, hover, mode="lines+markers", line=line, **look)
        own_rank, fresh_rank = (spectrum.effective_rank[layer, head].item() for spectrum in (own, fresh))
        ranks.append(f"{name} {number(own_rank)} (untrained {number(fresh_rank)})")
    asked, written = (number(own.effective_rank[layer, head].item()) for _, own, _ in _pairs(circuits, untrained))
    number_of = {"title_text": "number of the singular value", "dtick": 1 if n_values <= 20 else None}
    return styled(
        figure,
        x={**number_of, "range": [0.5, n_values + 0.5]},
        y={"title_text": "S<sub>i</sub>² / |X|²", "rangemode": "tozero"},
        title=f"Layer {layer}, head {head} asks for about {asked} directions and writes {written}",
        expected=setting.sentence("circuit spectra"),
        measured=f"layer {layer}, head {head}: effective rank {' and '.join(ranks)}, of {circuits.QK.shape[-1]}",
    )


def circuit_eigenvalues(
    circuits: Circuits, untrained: Circuits, setting: Setting, *, layer: int, head: int
) -> go.Figure:
    """Eigenvalues of a head's QK and OV over their largest singular value, which bounds their moduli."""
    figure = go.Figure()
    spectra = list(_pairs(circuits, untrained))
    for name, _, fresh in spectra:
        _points(figure, fresh, layer, head, f"{name} untrained", {"symbol": f"{LOOK[name][1]}-open", "color": GREY})
    for name, own, _ in spectra:
        colour, symbol = LOOK[name]
        marker = {"symbol": f"{symbol}-open", "color": colour, "size": 10 if name == "QK" else 6, "line": {"width": 2}}
        _points(figure, own, layer, head, name, marker)
    unit_circle(figure, limit=1.1, real="Re λ / S<sub>1</sub>", imaginary="Im λ / S<sub>1</sub>")
    normality = " and ".join(f"{name} {number(own.normality[layer, head].item())}" for name, own, _ in spectra)
    return styled(
        figure,
        title=f"Layer {layer}, head {head}: the eigenvalues hold {normality} of |X|²",
        expected=setting.sentence("circuit eigenvalues"),
        measured="Σ|λ|² / |X|²: 1 for a normal circuit, 0 for a nilpotent",
    )


def effective_ranks(circuits: Circuits, untrained: Circuits) -> go.Figure:
    """Effective rank of QK and OV of every layer and head, beside fresh weights of the same architecture."""
    n_layers, n_heads = circuits.QK_spectrum.norm.shape
    heads = [str(head) for head in range(n_heads)] if n_layers == 1 else _names(range(n_layers), n_heads)
    figure = go.Figure()
    ranges = []
    for name, own, fresh in _pairs(circuits, untrained):
        colour, symbol = LOOK[name]
        for label, spectrum, marker in (
            (name, own, {"symbol": symbol, "size": 9}),
            (f"{name} untrained", fresh, {"symbol": f"{symbol}-open", "size": 9, "opacity": 0.75}),
        ):
            ranks = spectrum.effective_rank.flatten().tolist()
            draw(figure, heads, ranks, label, "%{x}<br>%{y:.3g}", marker={"color": colour, **marker})
        low, high = own.effective_rank.min().item(), own.effective_rank.max().item()
        ranges.append(f"{name} {number(low)} to {number(high)}")
    width = circuits.QK.shape[-1]
    unit = "head" if n_layers == 1 else "layer" if n_heads == 1 else "layer, head"
    return styled(
        figure,
        x={"title_text": unit, "type": "category"},
        y={"title_text": "effective rank", "range": [0, 1.05 * width]},
        title=f"Effective ranks: {', '.join(ranges)}, of {width}",
        expected="As many directions as a circuit treats alike, so large is its effective rank",
        measured="exp of the entropy of the shares S<sub>i</sub>² / |X|²",
        height=240,
        wide=True,
    )


def block_shares(circuits: Circuits, *, layer: int, head: int) -> go.Figure:
    """Shares |X_ij|_F^2 / |X|_F^2 of the blocks of QK and OV of one head; augmented tokens only."""
    shares = _blocks(circuits).share[:, layer, head]
    axes = {"QK": ("query", "key"), "OV": ("reads", "writes")}
    figure = matrices({name: (_labelled(shares[i], BLOCKS, BLOCKS), *axes[name]) for i, name in enumerate(CIRCUITS)})
    figure.update_yaxes(scaleanchor=None).update_yaxes(showticklabels=False, col=2)  # the names of the first panel
    signed_scale(figure, "share").update_layout(coloraxis={"colorscale": SHARES, "cmid": None, "cmin": 0, "cmax": 1})
    step = shares[0, 1, 2].item(), shares[1, 1, 0].item()
    return styled(
        figure,
        title=f"Two blocks have {number(step[0])} of |QK|² and {number(step[1])} of |OV|²",
        expected="A gradient step asks with s<sub>t</sub> for keys s<sub>t−1</sub> and reads out values s<sub>t</sub>: "
        "these two",
        measured=f"layer {layer}, head {head}; each block of untrained full heads has 1/9",
        height=320,
        legend=False,
    )


def block_distances(circuits: Circuits, *, layer: int, head: int) -> go.Figure:
    """How far the blocks of one head are from c I and from diagonal, beside Gaussian blocks; augmented tokens only.

    The larger a block's share of |X|_F^2, the larger its markers.
    """
    view = _blocks(circuits)
    names = [f"{row}, {column}" for row in BLOCKS for column in BLOCKS]
    figure = go.Figure()
    largest = []
    for i, name in enumerate(CIRCUITS):
        colour, symbol = LOOK[name]
        share = view.share[i, layer, head].flatten()
        for which, values, marker in (
            ("c I", view.distance, {"symbol": symbol}),
            ("diagonal", view.off_diagonal, {"symbol": f"{symbol}-open", "line": {"width": 1.5}}),
        ):
            hover = f"%{{y}} to {which}<br>%{{x:.3g}}, share %{{customdata:.3g}}"
            draw(
                figure, values[i, layer, head].flatten().tolist(), names, name, hover,
                legendgroup=name, showlegend=which == "c I", customdata=share.tolist(),
                marker={"color": colour, "size": (4 + 12 * share.nan_to_num().sqrt()).tolist(), **marker},
            )  # fmt: skip
        in_use = view.distance[i, layer, head].flatten()[share > IN_USE]
        largest.append(f"{name} {number(in_use.max().item())}")
    untrained = (view.untrained_distance, view.untrained_off_diagonal)
    for value, dash in zip(untrained, ("dash", "dot"), strict=True):
        mark(figure, value, GREY, dash)
    return styled(
        figure,
        x={"title_text": "distance / |block|", "range": [-0.05, 1.1]},
        y={"title_text": "block", "autorange": "reversed", "automargin": True, "dtick": 1},
        title=f"Blocks with 1 % of |X|² or more are within {' and '.join(largest)} of c I",
        measured=f"filled: distance to c I, open: to a diagonal matrix; grey: Gaussian blocks, "
        f"{number(untrained[0])} and {number(untrained[1])}",
        height=320,
    )


def composition_scores(circuits: Circuits, *, untrained: Sequence[Circuits] = ()) -> go.Figure:
    """Q-, K- and V-composition of every later head with every earlier one; white is what untrained weights have.

    Args:
        untrained: circuits of the same architecture with fresh weights, for heads that are not dense: their scores
            take the place of `circuits.untrained_composition`, those of dense Gaussian weights.
    Raises:
        ValueError: one layer, which has nothing to compose with.
    """
    _, n_layers, n_heads = circuits.composition_scores.shape[:3]
    if n_layers == 1:
        raise ValueError("circuits are those of one layer: composition needs two or more.")
    earlier, later = _names(range(n_layers - 1), n_heads), _names(range(1, n_layers), n_heads)
    scores = circuits.composition_scores[:, :-1, :, 1:].flatten(3, 4).flatten(1, 2)
    unit = "layer" if n_heads == 1 else "layer, head"
    panels = {
        f"{kind}-composition": (_labelled(scores[k], earlier, later), f"earlier {unit}", f"later {unit}")
        for k, kind in enumerate(COMPOSITIONS)
    }
    figure = matrices(panels)
    mean, sd = circuits.untrained_composition
    if untrained:
        fresh = torch.stack([other.composition_scores for other in untrained])
        fresh = fresh[fresh.isfinite()]
        mean, sd = fresh.mean().item(), fresh.std().item()
    signed_scale(figure, "score").update_layout(coloraxis_cmid=mean)
    table = circuits.composition
    top = table.loc[(table["score"] - mean).abs().idxmax()]
    heads = [
        f"layer {top[f'{which}_layer']}" + (f", head {top[f'{which}_head']}" if n_heads > 1 else "")
        for which in ("earlier", "later")
    ]
    return styled(
        figure,
        title=f"{top['kind']}-composition of {heads[0]} with {heads[1]} is {number(top['score'])}, "
        f"{number((top['score'] - mean) / sd)} sd from untrained layers",
        expected="Layers that ignore each other compose as untrained ones do",
        measured=f"untrained: {number(mean)} ± {number(sd)} (sd)",
        x={"type": "category"},
        y={"type": "category"},
        height=260,
        wide=True,
        legend=False,
    )


def _pairs(circuits: Circuits, untrained: Circuits) -> list[tuple[str, Spectrum, Spectrum]]:
    """Name of the circuit, its spectrum, and that of fresh weights."""
    return [(name, getattr(circuits, f"{name}_spectrum"), getattr(untrained, f"{name}_spectrum")) for name in CIRCUITS]


def _points(figure: go.Figure, spectrum: Spectrum, layer: int, head: int, name: str, marker: dict) -> None:
    values = spectrum.eigenvalues[layer, head] / spectrum.S[layer, head, 0]
    draw(figure, values.real.tolist(), values.imag.tolist(), name, "%{x:.3g} + %{y:.3g} i", marker=marker)


def _names(layers: range, n_heads: int) -> list[str]:
    """Names of the heads of these layers, layer by layer; names of the layers where each has a single head."""
    if n_heads == 1:
        return [str(layer) for layer in layers]
    return [f"{layer}, {head}" for layer in layers for head in range(n_heads)]


def _labelled(values: Float[Tensor, "row column"], rows: Sequence[str], columns: Sequence[str]) -> go.Heatmap:
    """A matrix with names for its rows and columns, and its entries as numbers where they can be read; nan is blank."""
    texts = [["" if value != value else f"{value:.2f}" for value in row] for row in values.tolist()]
    return go.Heatmap(
        z=values.tolist(),
        x=list(columns),
        y=list(rows),
        coloraxis="coloraxis",
        text=texts,
        texttemplate="%{text}" if len(rows) <= ENTRIES_SHOWN else "",
        hovertemplate="%{y}, %{x}<br>%{z:.4g}<extra></extra>",
        hoverongaps=False,
    )


def _blocks(circuits: Circuits) -> BlockView:
    if circuits.block_view is None:
        raise ValueError("circuits have no block_view: their tokens are not augmented, as far as known.")
    return circuits.block_view
