"""Figures of `AlgorithmIdentification`: which estimator the model behaves like, and after how many layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb, sample_colorscale, unlabel_rgb

from ar_interp._checks import check_several
from ar_interp.figures.style import (
    BANDS,
    BLUE,
    GREEN,
    GREY,
    LOG,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    band_of,
    chosen_of,
    draw,
    floor_note,
    number,
    styled,
    whiskers,
)
from ar_interp.probes.algorithm import AlgorithmIdentification

COMPARED = ("zero", "1 step", "4 steps", "16 steps", "OLS", "diagonal OLS")
LINES = ((VERMILLION, "dash"), (ORANGE, "dot"), (PURPLE, "dashdot"), (GREEN, "longdash"), (GREY, "longdashdot"),
         (SKY, "dash"))  # fmt: skip
FAINT = 0.12
LEAST, LEAST_STEPS = 1e-32, 0.1  # a logarithmic axis has no zero


def error_by_position(
    identification: AlgorithmIdentification,
    *,
    estimators: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    band: str = "quantile",
) -> go.Figure:
    """|prediction - s_{T+1}|^2 against T after each layer and of estimators.

    Args:
        estimators: which to draw; 1, 4 and 16 gradient steps, OLS and zero if left out, as far as they are there.
        layers: which to draw; all if left out.
        band: around the last of these layers and the estimators: `quantile`, the middle 80 % of the sequences, or
            `ci95`, the 95 % interval of the mean.
    Raises:
        ValueError: an estimator or layer that was not measured, another band.
    """
    drawn = identification.by_position
    there = list(dict.fromkeys(drawn["estimator"]))
    if estimators is None:
        ending = " per pair" if identification.per_pair else ""
        chosen = [f"{name}{ending}" if "step" in name else name for name in COMPARED]
        estimators = [name for name in chosen if name in there]
    else:
        estimators = chosen_of("estimators", estimators, there)
    asked = check_several("layers", layers, low=0, high=identification.n_layers - 1)
    names = [f"model, layer {layer}" for layer in asked]
    shades = sample_colorscale("Blues", np.linspace(1, 0.4, len(asked))) if len(asked) > 1 else [BLUE]
    figure, lows = go.Figure(), []
    for name, shade in zip(names, reversed(shades), strict=True):
        lows += _curve(figure, drawn, name, {"color": shade, "width": 2.5}, band if name == names[-1] else None)
    for i, name in enumerate(estimators):
        colour, dash = LINES[i % len(LINES)]
        lows += _curve(figure, drawn, name, {"color": colour, "dash": dash}, band)
    own = drawn["error_per_token"].to_numpy()[drawn["estimator"].isin(names).to_numpy()]
    highest = np.ceil(np.log10(min(max(np.median(own), 1), 1 / LEAST)))
    last = drawn[drawn["estimator"] == names[-1]].iloc[-1]
    at_end = drawn[(drawn["T"] == last["T"]) & drawn["estimator"].isin(estimators)]
    nearest = ""
    if len(at_end):
        matches = identification.matches.query("layer == @asked[-1] and estimator in @estimators")
        name = matches.loc[matches["distance_per_token"].idxmin(), "estimator"]
        error = at_end["error_per_token"][at_end["estimator"] == name].item()
        nearest = f", {name}, whose predictions are the nearest of those drawn, by {number(error)}"
    lowest = np.floor(np.log10(max(own.min(), LEAST)))  # estimators may leave the frame, so that the rest is told apart
    return styled(
        figure,
        title=f"At T = {last['T']} the model errs by {number(last['error_per_token'])}{nearest}",
        expected="Where two curves lie on each other at every T, model and estimator may do the same",
        measured=f"means over {identification.n} sequences; bands: {BANDS[band]}{floor_note(LEAST, *lows)}",
        x="context length T",
        y={"title_text": "|prediction − s<sub>T+1</sub>|²", "range": [lowest - 1, highest + 1], **LOG},
        wide=True,
    )


def algorithm_match(identification: AlgorithmIdentification, *, layer: int | None = None) -> go.Figure:
    """Distance of the predictions to every estimator's, and how alike errors and estimates of W are.

    Args:
        layer: from 0; the last if left out.
    """
    layer = identification.n_layers - 1 if layer is None else layer
    best = identification.best(layer)
    matches = identification.matches
    shown = [name for name in matches["estimator"] if name == best or _of_normalisation(identification, name)]
    rows = matches[(matches["layer"] == layer) & matches["estimator"].isin(shown)]
    rows = rows.iloc[::-1]  # plotly draws the first at the bottom
    figure = go.Figure()
    names, is_best = list(rows["estimator"]), [name == best for name in rows["estimator"]]
    draw(
        figure, rows["distance_per_token"].clip(LEAST), names, "distance of predictions", "%{y}<br>%{x:.3g}",
        error_x={**whiskers(rows["distance_per_token_se"]), "color": BLUE},
        marker={"size": [13 if b else 8 for b in is_best], "color": [VERMILLION if b else BLUE for b in is_best]},
    )  # fmt: skip
    likeness: dict[str, tuple[str, dict[str, Any]]] = {
        "error_similarity": ("cosine of the errors", {"color": GREEN, "symbol": "diamond", "size": 8}),
        "sensitivity": ("cosine of the estimates of W", {"color": SKY, "symbol": "square-open", "size": 8}),
    }
    for column, (name, marker) in likeness.items():
        draw(figure, rows[column], names, name, "%{y}<br>%{x:.3f}", marker=marker, xaxis="x2")
    figure.update_layout(
        xaxis={"title": {"text": "|prediction − estimator's|²"}, "domain": [0, 0.48], **LOG},
        xaxis2={"title": {"text": "cosine, 1 is the same direction"}, "domain": [0.52, 1], "range": [-0.3, 1.05]},
    )
    nearest = rows[rows["estimator"] == best].iloc[0]
    distance, floor = number(nearest["distance_per_token"]), floor_note(LEAST, rows["distance_per_token"])
    return styled(
        figure,
        title=f"After layer {layer} the nearest predictions are those of {best}, {distance} away",
        measured=f"cosine of the errors {number(nearest['error_similarity'])}{floor}",
        expected="The algorithm that the model runs is near in predictions, errors and estimates of W alike",
        y={"title_text": "estimator", "dtick": 1},
        height=160 + 20 * len(rows),
        wide=True,
    )


def steps_by_layer(identification: AlgorithmIdentification) -> go.Figure:
    """How many gradient steps each layer's prediction is worth, by error and by distance, with 95 % intervals."""
    steps = identification.steps
    layers = list(range(identification.n_layers))
    figure = go.Figure()
    guides = {"a step per layer": ("dot", [layer + 1 for layer in layers]),
              "doubled by each layer": ("dash", [2 ** (layer + 1) for layer in layers])}  # fmt: skip
    for name, (dash, y) in guides.items():
        line = {"color": GREY, "dash": dash, "width": 1.5}
        figure.add_scatter(x=layers, y=y, mode="lines", name=name, line=line, hoverinfo="skip")
    for by, name, colour, symbol in (
        ("error", "the same error", BLUE, "circle"),
        ("distance", "the nearest predictions", VERMILLION, "diamond-open"),
    ):
        rows = steps[(steps["by"] == by) & (steps["per_pair"] == identification.per_pair)]
        value, low, high = (np.asarray(rows[column]).clip(LEAST_STEPS) for column in ("steps", "low", "high"))
        draw(
            figure, rows["layer"], value, name, "layer %{x}<br>%{customdata:.3g} steps",
            error=whiskers(high - value, value - low), customdata=rows["steps"].tolist(),
            marker={"color": colour, "symbol": symbol, "size": 10},
        )  # fmt: skip
    ticks = [0.1, 0.5, 1, 2, 4, 8, 16, 32, 64]
    kind = "divided by T − 1" if identification.per_pair else "of one size for all T"
    return styled(
        figure,
        title=f"The model errs as {number(identification.equivalent_steps)} gradient steps do, with "
        f"{len(layers)} layer{'s' if len(layers) > 1 else ''}",
        measured=f"steps {kind}; 0.1 is drawn for less, 64 for more",
        expected="Layers that each took one step would lie on the dotted line",
        x={"title_text": "after layer", "dtick": 1},
        y={"title_text": "gradient steps", "type": "log", "tickvals": ticks, "range": [-1.05, 1.95]},
        wide=True,
    )


def _of_normalisation(identification: AlgorithmIdentification, name: str) -> bool:
    """Not gradient steps of the other normalisation."""
    is_descent = name.removesuffix(" per pair").endswith((" step", " steps")) and "=" not in name
    return not is_descent or name.endswith(" per pair") == identification.per_pair


def _curve(
    figure: go.Figure, drawn: pd.DataFrame, name: str, line: dict[str, Any], band: str | None
) -> list[np.ndarray]:
    """Add the means, and a band around them; what they reach down to."""
    rows: Any = drawn[drawn["estimator"] == name]
    x, group = rows["T"].tolist(), dict[str, Any](legendgroup=name)
    means = rows["error_per_token"].to_numpy()
    low, high = (means, means) if band is None else band_of(rows, "error_per_token", band)
    if band is not None:
        edges = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip", **group}
        filled = {"fill": "tonexty", "fillcolor": _faint(line["color"])}
        figure.add_scatter(x=x, y=high.clip(LEAST).tolist(), **edges)
        figure.add_scatter(x=x, y=low.clip(LEAST).tolist(), **edges, **filled)
    draw(figure, x, means.clip(LEAST), _short(name), "T = %{x}<br>%{y:.3g}", mode="lines", line=line, **group)
    return [low, means]


def _short(name: str) -> str:
    """A name for the legend: `layer 2` of `model, layer 2`, `4 steps / pair` of `4 steps per pair`."""
    return name.removeprefix("model, ").replace(" per pair", " / pair")


def _faint(colour: str) -> str:
    """The colour, nearly transparent."""
    parts = hex_to_rgb(colour) if colour.startswith("#") else unlabel_rgb(colour)
    return f"rgba({', '.join(f'{part:g}' for part in parts)}, {FAINT})"
