"""Figures of interventions: the swap of the estimate of W, edits of weights, ablations, paths and their scrubbing."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Inexact
from plotly.subplots import make_subplots
from torch import Tensor

from ar_interp.figures.style import (
    BANDS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOG,
    ORANGE,
    PURPLE,
    VERMILLION,
    bars_of,
    circle,
    draw,
    mark,
    number,
    styled,
    threshold,
    whiskers,
)
from ar_interp.probes.ablations import Ablation
from ar_interp.probes.edits import EDITS, EditLosses
from ar_interp.probes.paths import GRADIENT_STEP, Paths
from ar_interp.probes.scrubbing import ABLATED, COMPLEMENT, HYPOTHESIS, WRONG_KEYS, Scrubbed
from ar_interp.probes.swap import CEILING, CONTROLS, SWAP, SwappedContext
from ar_interp.setting import ESTIMATED, EXACT, NONE, Setting

PANELS, COLUMNS = 10, 5
NEAR = 0.25  # predictions closer to each other than this share of their size are looked at closely
OWN, GOAL, MOVED = "the target's own prediction", "goal, W<sub>source</sub> s<sub>T</sub>", "moved by the swap"
LINES = {
    SWAP: (BLUE, "solid", "circle"),
    CEILING: (BLACK, "dot", "line-ew-open"),
    CONTROLS[0]: (GREEN, "dash", "diamond-open"),
    CONTROLS[1]: (ORANGE, "dashdot", "square-open"),
    CONTROLS[2]: (PURPLE, "longdash", "triangle-up-open"),
}
PAIRS = {"ci95": "95 % intervals of the scores", "quantile": "the middle 80 % of the pairs"}
SCORE = "score, 1 is W<sub>source</sub> s<sub>T</sub>"
LOWEST, HIGHEST = -0.5, 1.5  # scores shown at most: where predictions hardly differ, controls have no bound

PREDICTED = {
    EXACT: "In theory the points lie on the line, which joins values of a closed form of the weights",
    ESTIMATED: "The line joins values of a quadratic that was estimated from other sequences",
    NONE: "No closed form is known for these weights",
}
PATHS_DRAWN = 8
CANCELLED = 1e-14  # of the largest loss: what is left of a closed form whose terms cancel
ROUNDED = 1e-9  # losses below it are rounding, and drawn as 0
HUGE = 1e3  # a stack that runs off without one part would hide what the others cost
SCRUBBED = {
    HYPOTHESIS: "the hypothesis",
    COMPLEMENT: "all but it (control)",
    WRONG_KEYS: "wrong keys (control)",
    ABLATED: "nothing is written",
}


def swapped_prediction(swapped: SwappedContext, setting: Setting, *, pair: int, position: int) -> go.Figure:
    """One prediction as the swap turns it: an arrow from the target's own; the goal is a ring.

    Complex coordinates have a panel each, real ones share one by two. Of many the first are drawn, ten panels.

    Args:
        position: T, one of `swapped.positions`.
    Raises:
        ValueError: a position that was not swapped.
    """
    at = _place(swapped, position)
    own, moved, goal = (x[pair, at].detach().cpu() for x in (swapped.own, swapped.moved, swapped.goal))
    planes = _planes(torch.stack([own, moved, goal]))
    n_columns = min(COLUMNS, len(planes))
    n_rows = -(-len(planes) // n_columns)
    figure = make_subplots(
        rows=n_rows, cols=n_columns, horizontal_spacing=0.36 / n_columns, vertical_spacing=0.24 / n_rows
    )
    points = np.stack([plane for _, _, plane in planes])
    size, spread = np.abs(points).max(), np.abs(points - points[:, :1]).max()
    for i, (across, up, plane) in enumerate(planes):
        place: dict[str, Any] = {"row": i // n_columns + 1, "col": i % n_columns + 1}
        if own.is_complex():
            # what a W that is unitary and diagonal can make of a coordinate
            circle(figure, float(np.hypot(*plane[-1])), **place)
        _ring_and_arrow(figure, plane, showlegend=i == 0, **place)
        centre, half = (plane[0], 1.3 * spread) if spread < NEAR * size else (np.zeros(2), 1.2 * size)
        x_range, y_range = ([float(c - half), float(c + half)] for c in centre)
        anchor = "x" if i == 0 else f"x{i + 1}"
        figure.update_xaxes(title_text=across, range=x_range, constrain="domain", nticks=4, **place)
        figure.update_yaxes(title_text=up, range=y_range, scaleanchor=anchor, constrain="domain", nticks=4, **place)
    errors = [(prediction - goal).abs().square().sum() / goal.abs().square().sum() for prediction in (own, moved)]
    return styled(
        figure,
        title=f"Squared distance to the goal: {number(errors[0].item())} before, {number(errors[1].item())} after",
        expected=setting.sentence("turn"),
        measured=f"at T = {position}, {swapped.what} moved; distances over |goal|²",
        height=80 + 210 * n_rows if len(planes) > 1 else 420,
        wide=True,
    )


def swap_scores(swapped: SwappedContext, *, position: int, band: str = "ci95") -> go.Figure:
    """Score of the swap, of its ceiling and of its controls against T.

    Args:
        position: T, one of `swapped.positions`; a dashed line marks it.
        band: bars, `ci95`, the 95 % interval of the score, or `quantile`, the middle 80 % of the pairs.
    Raises:
        ValueError: a position that was not swapped, another band.
    """
    _place(swapped, position)
    table = swapped.by_position
    figure = go.Figure()
    said, here = [], dict[str, float]()
    for name, (colour, dash, symbol) in LINES.items():
        rows: Any = table[table["condition"] == name]
        draw(
            figure, rows["T"], rows["score"], name, "T = %{x}<br>%{y:.3g}",
            error=bars_of(rows, "score", band), mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 1.5}, marker={"symbol": symbol, "size": 7},
        )  # fmt: skip
        row = _row(swapped, name, position)
        here[name] = row["score"]
        said.append(f"{name} {_decimals(row['score'])}" + (f" ± {row['score_se']:.3f}" if name == SWAP else ""))
    mark(figure, position)
    lowest, highest = max(LOWEST, min(table["score"].min(), 0.0)), min(HIGHEST, max(table["score"].max(), 1.0))
    return styled(
        figure,
        x="context length T",
        y={"title_text": SCORE, "range": [lowest - 0.1, highest + 0.1]},
        title=f"The swap scores {_decimals(here[SWAP])}; its ceiling is {_decimals(here[CEILING])}, "
        f"the largest control {_decimals(max(here[name] for name in CONTROLS))}",
        expected="A model that uses this W alone reaches the ceiling, and its controls stay at 0",
        measured=f"at T = {position}: {', '.join(said)}; {swapped.n} pairs; bars: {PAIRS[band]}",
        wide=True,
    )


def swap_by_layer(
    single: Sequence[SwappedContext], cumulative: Sequence[SwappedContext], *, position: int, band: str = "ci95"
) -> go.Figure:
    """Score of swaps in one layer and in all layers up to one, beside the ceiling.

    Args:
        single: swaps in one layer each.
        cumulative: swaps in the layers 0..l for every l; the last is in all.
        position: T, one of their `positions`.
        band: see `swap_scores`.
    Raises:
        ValueError: a position that was not swapped, another band.
    """
    figure = go.Figure()
    said = []
    for swaps, name, colour, symbol in (
        (single, "in this layer alone", VERMILLION, "diamond"),
        (cumulative, "in all layers up to this one", BLUE, "circle"),
    ):
        rows = pd.DataFrame([_row(swapped, SWAP, position) for swapped in swaps])
        layers = [swapped.layers[-1] for swapped in swaps]
        draw(
            figure, layers, rows["score"], name, "layer %{x}<br>%{y:.3g}",
            error=bars_of(rows, "score", band), mode="lines+markers",
            line={"color": colour, "width": 1.5}, marker={"symbol": symbol, "size": 9},
        )  # fmt: skip
        said.append(f"{name} {', '.join(map(_decimals, rows['score']))}")
    ceiling = _row(cumulative[-1], CEILING, position)["score"]
    threshold(figure, ceiling, "ceiling", BLACK, "dot")
    alone = max(_row(swapped, SWAP, position)["score"] for swapped in single)
    together = _row(cumulative[-1], SWAP, position)["score"]
    return styled(
        figure,
        x={"title_text": "layer", "dtick": 1},
        y=SCORE,
        title=f"Swapped in all layers the score is {_decimals(together)}, in the best single one {_decimals(alone)}; "
        f"the ceiling is {_decimals(ceiling)}",
        expected="If the estimate is built layer by layer, only all layers together reach the ceiling",
        measured=f"at T = {position}, {'; '.join(said)}; ceiling {_decimals(ceiling)}; {cumulative[-1].n} pairs; "
        f"bars: {PAIRS[band]}",
        wide=True,
    )


def edit_curve(losses: EditLosses, chosen: EditLosses, *, band: str = "ci95") -> go.Figure:
    """Loss against the value of an edit: as theory predicts it of the edited weights, and as measured.

    Args:
        losses: at the values to draw a curve through.
        chosen: of the same edit at one value, which is marked.
        band: bars, `ci95`, the 95 % interval of the mean, or `quantile`, the middle 80 % of the sequences.
    Raises:
        ValueError: two edits, another band.
    """
    if losses.edit != chosen.edit:
        raise ValueError(f"losses and chosen must be of one edit, got {losses.edit!r} and {chosen.edit!r}.")
    edit = EDITS[losses.edit]
    table, here = losses.by_value.sort_values("value"), chosen.by_value.iloc[0].to_dict()
    figure, hover = go.Figure(), "%{x:.3g}<br>%{y:.4g}"
    if losses.source != NONE:
        line = {"color": BLUE, "width": 2}
        draw(figure, table["value"], table["predicted"], "predicted", hover, mode="lines", line=line)
    for name, rows, marker in (
        ("measured", table, {"symbol": "circle-open", "size": 7, "color": BLACK}),
        ("measured here", chosen.by_value, {"symbol": "diamond", "size": 12, "color": VERMILLION}),
    ):
        draw(figure, rows["value"], rows["measured"], name, hover, error=bars_of(rows, "measured", band), marker=marker)
    mark(figure, edit.neutral, GREY, "dot")
    figure.add_annotation(x=edit.neutral, y=1, yref="paper", yanchor="bottom", text="as trained", showarrow=False)
    highest = max(table[["predicted", "measured"]].max().max(), here["measured"], ROUNDED)
    lost = CANCELLED * highest
    told = "0 to rounding" if abs(here["predicted"]) < lost else number(here["predicted"])
    predicted = "" if losses.source == NONE else f"predicted {told}, "
    beside = "" if losses.source == NONE else f", predicted {told}"
    return styled(
        figure,
        title=f"{edit.name.capitalize()} at {here['value']:.2f}: the loss is {number(here['measured'])}{beside}",
        expected=PREDICTED[losses.source],
        measured=f"at {here['value']:.2f}: {predicted}measured {number(here['measured'])} ± "
        f"{number(here['measured_se'])}; {chosen.n} sequences; bars: {BANDS[band]}",
        x=_typeset(edit.meaning),
        y={"title_text": "loss", "range": [0, 1.1 * highest], "exponentformat": "power"},
    )


REMOVED = {"head": "head", "part": "layer", "offset": "key"}  # column of an `Ablation` -> what was removed


def ablation_costs(ablation: Ablation, *, band: str = "ci95") -> go.Figure:
    """Growth of the loss without each head, layer or key, beside what theory expects where it expects something.

    Args:
        band: see `edit_curve`.
    Raises:
        ValueError: another band.
    """
    table = ablation.by_component
    kind, what = next(pair for pair in REMOVED.items() if pair[0] in table.columns)
    labels = {name: table[name].tolist() for name in ("layer", kind)}
    drawn = [name for name, values in labels.items() if len(set(values)) > 1] or list(labels)[-1:]
    names = [", ".join(map(str, place)) for place in zip(*(labels[name] for name in drawn), strict=True)]
    figure = go.Figure()
    figure.add_bar(
        x=names, y=table["cost"].tolist(), name="measured", marker={"color": BLUE},
        error_y=bars_of(table, "cost", band), hovertemplate="%{x}<br>%{y:.4g}<extra>measured</extra>",
    )  # fmt: skip
    known = bool(np.isfinite(table["predicted"].to_numpy()).all())
    if known:
        marker = {"symbol": "diamond-open", "size": 10, "color": VERMILLION, "line": {"width": 2}}
        draw(figure, names, table["predicted"], "theory", "%{x}<br>%{y:.4g}", marker=marker)
    unit = ", ".join(drawn).replace("offset", "offset k of the key s<sub>T−k</sub>")
    top = int(np.argmax(table["cost"]))
    cost, error = (table[column].to_numpy()[top] for column in ("cost", "cost_se"))
    return styled(
        figure,
        title=f"Without {what} {names[top]} the loss grows by {number(cost)}, the most of all",
        expected=f"In theory each {what} costs what its closed form says, a diamond"
        if known
        else f"The more a {what} costs, the less can the others stand in for it",
        measured=f"{ablation.method} ablation, {ablation.n} sequences: the loss, {number(ablation.loss)}, grows by at "
        f"most {number(cost)} ± {number(error)}, {unit} {names[top]}; bars: {BANDS[band]}",
        x={"title_text": unit, "type": "category", "nticks": 20},
        y={"title_text": "loss without it − loss", **(LOG if max(table["cost"]) > HUGE else {})},
    )


def path_shares(paths: Paths) -> go.Figure:
    """Share of each path in what the layer writes into the read-out, and what the loss grows by without it.

    Args:
        paths: drawn are those with the largest effect on the prediction.
    """
    table = paths.table.sort_values("effect", ascending=False).head(PATHS_DRAWN).iloc[::-1]
    names = [_typeset(path) for path in table["path"]]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    panels = (("share", BLUE, "share of what is written"), ("cost", VERMILLION, "loss without it − loss"))
    for column, (name, colour, title) in enumerate(panels, start=1):
        figure.add_bar(
            x=table[name].tolist(), y=names, orientation="h", name=title, marker={"color": colour},
            error_x=whiskers(table[f"{name}_se"]), hovertemplate="%{y}<br>%{x:.4g}<extra></extra>", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(title_text=title, row=1, col=column)
    figure.update_yaxes(title_text="path ⟨key|query⟩ value", automargin=True, row=1, col=1)
    step = paths[GRADIENT_STEP]
    return styled(
        figure,
        title=f"The path {_typeset(str(GRADIENT_STEP))} is {step['share']:.3f} of what the layer writes",
        expected="One gradient step is this path alone",
        measured=f"layer {paths.layer}: its share {step['share']:.3f} ± {step['share_se']:.3f}; the loss "
        f"{number(paths.loss)} becomes {number(step['loss_only'])} with it alone; {paths.n} sequences",
        legend=False,
    )


def scrub_recovered(scrubbed: Scrubbed) -> go.Figure:
    """Loss recovered by what the hypothesis names, by the controls and by a layer that writes nothing."""
    table = scrubbed.table.set_index("condition").loc[list(SCRUBBED)]
    figure = go.Figure()
    figure.add_bar(
        x=table["recovered"].tolist(), y=list(SCRUBBED.values()), orientation="h", customdata=table["kept"].tolist(),
        marker={"color": [BLUE if condition == HYPOTHESIS else GREY for condition in SCRUBBED]},
        error_x=whiskers(table["recovered_se"]), name="recovered",
        hovertemplate="own: %{customdata}<br>%{x:.4g}<extra></extra>",
    )  # fmt: skip
    mark(figure, 1)
    kept = _typeset(table["kept"][HYPOTHESIS])
    seen = f"With {kept} alone, {_decimals(scrubbed.recovered)} of the layer's work is recovered"
    measured = (
        f"layer {scrubbed.layer}: {_decimals(scrubbed.recovered)} ± {scrubbed.standard_error:.3f} recovered, "
        f"{_decimals(scrubbed.ablated)} by writing nothing; {scrubbed.n} sequences, {scrubbed.n_resamples} others each"
    )
    if not np.isfinite(scrubbed.recovered):
        seen = f"Whether {kept} is all that matters cannot be told: the loss does not show it"
        measured = (
            f"layer {scrubbed.layer}: the loss is the same, to within three standard errors, when all that it reads "
            f"is another sequence's; {scrubbed.n} sequences, {scrubbed.n_resamples} others each"
        )
    return styled(
        figure,
        x="loss recovered; 0: all replaced, 1: nothing",
        y={"title_text": "what stays the sequence's own", "autorange": "reversed", "automargin": True},
        title=seen,
        measured=measured,
        expected="If nothing else matters, 1 is recovered, and the controls recover less",
        legend=False,
    )


def _decimals(value: float) -> str:
    """Three decimals, and no minus before zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def _typeset(text: str) -> str:
    """`<s_{t-1}|s_T> s_t` for a figure, where `<` would open a tag."""
    text = text.replace("<", "⟨").replace(">", "⟩").replace("-1", "−1")
    return re.sub(r"([ps])_\{?([tT](?:−1)?)\}?", r"\1<sub>\2</sub>", text)


def _place(swapped: SwappedContext, position: int) -> int:
    if position not in swapped.positions:
        there = swapped.positions
        listed = ", ".join(map(str, there)) if len(there) <= 5 else f"{there[0]} to {there[-1]}"
        raise ValueError(f"position must be one that was swapped ({listed}), got {position}.")
    return swapped.positions.index(position)


def _row(swapped: SwappedContext, condition: str, position: int) -> dict[str, Any]:
    _place(swapped, position)
    table = swapped.by_position
    return table[(table["condition"] == condition) & (table["T"] == position)].iloc[0].to_dict()


def _planes(points: Inexact[Tensor, "point dim"]) -> list[tuple[str, str, Float[np.ndarray, "point 2"]]]:
    """Names of two axes and the points in their plane, for every coordinate or, if real, for every two."""
    dim = points.shape[-1]
    if points.is_complex():
        planes = [(f"Re, coordinate {i + 1}", "Im", points[:, i].real, points[:, i].imag) for i in range(dim)]
    else:
        firsts = [max(0, min(i, dim - 2)) for i in range(0, dim, 2)]
        pairs = [(i, min(i + 1, dim - 1)) for i in firsts]
        planes = [(f"coordinate {i + 1}", f"coordinate {j + 1}", points[:, i], points[:, j]) for i, j in pairs]
    return [(across, up, torch.stack([x, y], dim=1).double().numpy()) for across, up, x, y in planes[:PANELS]]


def _ring_and_arrow(figure: go.Figure, points: Float[np.ndarray, "3 2"], *, showlegend: bool, **place: Any) -> None:
    """Own, moved and goal in one plane."""
    own, moved, goal = points.tolist()
    traces: dict[str, tuple[list[list[float]], dict[str, Any]]] = {
        GOAL: ([goal], {"symbol": "circle-open", "size": 15, "color": BLACK, "line": {"width": 1.5}}),
        OWN: ([own], {"symbol": "circle", "size": 8, "color": GREY}),
        MOVED: ([own, moved], {"symbol": "arrow", "size": [0, 12], "color": BLUE, "angleref": "previous"}),
    }
    for name, (shown, marker) in traces.items():
        x, y = zip(*shown, strict=True)
        mode = "lines+markers" if name == MOVED else "markers"
        draw(
            figure, x, y, name, "%{x:.4g}, %{y:.4g}", mode=mode, legendgroup=name, showlegend=showlegend,
            line={"color": BLUE, "width": 2}, marker=marker, **place,
        )  # fmt: skip
