"""Figures of `RecoveredContext`: the estimate of W, its error, and the prediction made with it."""

import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Inexact
from plotly.subplots import make_subplots
from torch import Tensor

from ar_interp.figures.style import (
    BANDS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOG,
    PURPLE,
    ROUNDING,
    VERMILLION,
    bars_of,
    chosen_of,
    draw,
    heatmap,
    mark,
    matrices,
    number,
    rounding,
    styled,
    unit_circle,
)
from ar_interp.probes.context import RecoveredContext
from ar_interp.processes import Sequences
from ar_interp.setting import Setting

LINES = {
    "model": (BLUE, "solid", "circle"),
    "OLS": (VERMILLION, "dash", "diamond"),
    "diagonal OLS": (GREEN, "dot", "x"),
    "one gradient step": (PURPLE, "longdash", "triangle-up-open"),
    "zero": (GREY, "dashdot", "line-ew-open"),
}
SHORT_NAMES = {"one gradient step": "1 step"}
OPEN = {"symbol": "circle-open", "size": 14, "color": BLACK, "line": {"width": 1.5}}
DOT = {"symbol": "circle", "size": 7, "color": BLUE}
LEAST = 1e-36  # a logarithmic axis has no zero
NO_ESTIMATE = 0.95  # of the length of W: what is further away than that says as little as zero
NEAR_ROUNDING = -26  # powers of ten
CROSS = {"symbol": "x-thin-open", "size": 10, "color": VERMILLION, "line": {"width": 2}}


def context_error(
    recovered: RecoveredContext, setting: Setting, *, estimators: Iterable[str] | None = None, band: str = "ci95"
) -> go.Figure:
    """|Ŵ_T - W|_F^2 / d against T: the model beside what a statistician would do with the same context.

    Args:
        estimators: to draw beside the model; all that were measured if left out.
        band: bars at each T: `ci95`, the 95 % interval of the mean, or `quantile`, the middle 80 % of the sequences.
    Raises:
        ValueError: an estimator that was not measured, another band.
    """
    errors = recovered.errors
    chosen = chosen_of("estimators", estimators, errors["estimator"])
    figure = go.Figure()
    for name, (colour, dash, symbol) in LINES.items():
        if name not in ("model", *chosen):
            continue
        rows: Any = errors[errors["estimator"] == name]
        draw(
            figure, rows["T"], rows["context_error_per_row"], SHORT_NAMES.get(name, name), "T = %{x}<br>%{y:.3g}",
            error=bars_of(rows, "context_error_per_row", band), mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
        )  # fmt: skip
    own = errors["context_error_per_row"].to_numpy()[errors["estimator"].to_numpy() == "model"]
    lowest = math.floor(math.log10(max(own.min(), LEAST)))  # others may leave the frame, so that the rest is told apart
    if lowest <= NEAR_ROUNDING:
        rounding(figure, ROUNDING**2, "rounding, (2.2e−16)²")
        lowest = min(lowest, math.floor(2 * math.log10(ROUNDING)) - 1)
    at_end = errors[errors["T"] == errors["T"].max()].set_index("estimator")
    last = at_end.loc["model"]
    others = (
        f", one gradient step by {number(at_end.loc['one gradient step', 'context_error_per_row'])}"
        if "one gradient step" in chosen
        else ""
    )
    return styled(
        figure,
        title=f"At T = {int(last['T'])} the estimate of W errs by {number(last['context_error_per_row'])}{others}",
        expected=setting.sentence("context"),
        measured=f"means over {int(last['n'])} sequences; bars: {BANDS[band]}; an error of 0 is not drawn",
        x="context length T",
        y={"title_text": "|Ŵ − W|² / d", "range": [lowest - 1, 1], **LOG},
    )


def context_matrices(recovered: RecoveredContext, setting: Setting, *, sequence: int, position: int) -> go.Figure:
    """W and Ŵ_T of one sequence on one colour scale; in the eigenbasis, real and imaginary parts."""
    W, estimate = recovered.W[sequence], recovered.estimate[sequence, position - 1]
    parts = {"W": W, "Ŵ": estimate}
    if W.is_complex():
        parts = {"Re W": W.real, "Re Ŵ": estimate.real, "Im W": W.imag, "Im Ŵ": estimate.imag}
    panels = {name: (heatmap(part, rows="row", columns="column"), "row j", "column i") for name, part in parts.items()}
    missed, largest = (number(matrix.abs().max().item()) for matrix in (estimate - W, W))
    title, measured = f"entries of Ŵ miss those of W by {missed} at most", f"the largest entry of W is {largest}"
    if (estimate - W).norm() > NO_ESTIMATE * W.norm():
        title = "Ŵ is no nearer to W than zero is"
        measured += ". What this model knows of W, if anything, is not one matrix that it applies to the newest token"
    return styled(
        matrices(panels),
        title=f"At T = {position}, {title}",
        expected=setting.sentence("estimate"),
        measured=f"sequence {sequence}: {measured}",
        height=250,
        wide=True,
        legend=False,
    )


def phases_on_circle(recovered: RecoveredContext, setting: Setting, *, sequence: int, position: int) -> go.Figure:
    """The eigenvalues of W, the diagonal of Ŵ_T and that of the in-context map Γ_T in the complex plane."""
    points = {
        "λ of W": (recovered.W[sequence].diagonal(), OPEN),
        "Ŵ": (recovered.estimate[sequence, position - 1].diagonal(), DOT),
        "Γ, the heads at the newest key": (recovered.in_context_map[sequence, position - 1].diagonal(), CROSS),
    }
    figure = go.Figure()
    for name, (values, marker) in points.items():
        _coordinates(figure, values, name, marker)
    largest = max(values.abs().nan_to_num().max().item() for values, _ in points.values())
    unit_circle(figure, limit=1.15 * max(1.0, largest), real="real part", imaginary="imaginary part")
    eigenvalues, estimate = (values for values, _ in list(points.values())[:2])
    return styled(
        figure,
        title=f"At T = {position} the estimate misses an eigenvalue of W by "
        f"{number((estimate - eigenvalues).abs().max().item())} at most",
        expected=setting.sentence("circle"),
        measured=f"sequence {sequence}: largest |Ŵ<sub>jj</sub> − λ<sub>j</sub>|",
    )


def prediction(
    sequences: Sequences,
    predictions: Inexact[Tensor, "batch pos dim"],
    setting: Setting,
    *,
    sequence: int,
    position: int,
) -> go.Figure:
    """One sequence and its prediction: the first coordinate over time, and all coordinates of s_{T+1}.

    Args:
        sequences: one token longer than the contexts.
        predictions: the model's, on all tokens but the last.
    """
    tokens, predicted = sequences.tokens[sequence], predictions[sequence]
    titles = ["first coordinate over time", f"all coordinates of s<sub>{position + 1}</sub>"]
    figure = make_subplots(rows=1, cols=2, column_widths=[0.62, 0.38], horizontal_spacing=0.1, subplot_titles=titles)
    length, place = len(tokens), dict[str, Any](row=1, col=1)
    true: dict[str, Any] = {"name": "sequence s", "marker": OPEN, "legendgroup": "truth"}
    guessed: dict[str, Any] = {"name": "prediction", "marker": DOT, "legendgroup": "prediction"}
    hover, line = "t = %{x}<br>%{y:.4g}", {"color": GREY, "width": 1}
    first, first_predicted = tokens[:, 0].real.tolist(), predicted[1:, 0].real.tolist()
    draw(figure, range(1, length + 1), first, hover=hover, mode="lines+markers", line=line, **true, **place)
    draw(figure, range(3, length + 1), first_predicted, hover=hover, **guessed, **place)
    mark(figure, position + 1, **place)
    figure.update_xaxes(title_text="position t", **place)
    figure.update_yaxes(
        title_text="real part of s<sub>t,1</sub>" if tokens.is_complex() else "s<sub>t,1</sub>", **place
    )

    target, guess = tokens[position], predicted[position - 1]
    place = dict[str, Any](row=1, col=2)
    for values, look in ((target, true), (guess, guessed)):
        _coordinates(figure, values, **look, showlegend=False, **place)
    if tokens.is_complex():
        largest = max(1.0, torch.stack([target, guess]).abs().nan_to_num().max().item())
        unit_circle(figure, limit=1.15 * largest, real="real part", imaginary="imaginary part", **place)
    else:
        figure.update_xaxes(title_text="coordinate i", dtick=1, **place)
        figure.update_yaxes(title_text="s<sub>i</sub>", **place)
    return styled(
        figure,
        title=f"At T = {position} the prediction misses a coordinate of the next token by "
        f"{number((guess - target).abs().max().item())} at most",
        expected=setting.sentence("prediction"),
        measured=f"sequence {sequence}; dashed: the token predicted at T = {position}",
        wide=True,
    )


def _coordinates(figure: go.Figure, values: Tensor, name: str, marker: dict, **look: Any) -> None:
    """Add complex numbers in their plane, real ones over their index; both are numbered from one."""
    numbers = list(range(1, len(values) + 1))
    if values.is_complex():
        hover = "coordinate %{customdata}<br>%{x:.4g} + %{y:.4g} i"
        x, y = values.real.tolist(), values.imag.tolist()
        draw(figure, x, y, name, hover, customdata=numbers, marker=marker, **look)
    else:
        draw(figure, numbers, values.tolist(), name, "coordinate %{x}<br>%{y:.4g}", marker=marker, **look)
