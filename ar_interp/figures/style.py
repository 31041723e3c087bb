"""The one look of all figures: colours that the colour-blind can tell apart, wrapped titles, square matrices."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ar_interp._checks import check_choice

BLACK, BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE, GREY = (
    "#000000", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#8A8A8A",
)  # fmt: skip
SIGNED = "RdBu"  # red below zero, blue above, white at it
GRID = "#E4E4E4"
FONT = '"Source Sans", "Source Sans Pro", "Open Sans", Arial, sans-serif'
TITLE_WIDTH = 52  # characters a line where a figure takes half of a page
TITLE_SIZE, SMALL_SIZE = 16, 13
SUB, END_SUB = "\ue000", "\ue001"  # private characters
LOG = {"type": "log", "exponentformat": "power"}  # an axis
ROUNDING = float(np.finfo(np.float64).eps)
SMALLEST = float(np.finfo(np.float64).tiny)


BANDS = {"ci95": "95 % intervals of the means", "quantile": "the middle 80 % of the sequences"}


def band_of(rows: pd.DataFrame, column: str, band: str) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper edge beside a mean over contexts, see `BANDS`.

    Raises:
        ValueError: another band.
    """
    if check_choice("band", band, tuple(BANDS)) == "quantile":
        return rows[f"{column}_low"].to_numpy(), rows[f"{column}_high"].to_numpy()
    mean, half = rows[column].to_numpy(), 1.96 * rows[f"{column}_se"].to_numpy()
    return mean - half, mean + half


def bars_of(rows: pd.DataFrame, column: str, band: str) -> dict[str, Any]:
    """The band as bars of the means."""
    mean, (low, high) = rows[column].to_numpy(), band_of(rows, column, band)
    return whiskers(np.maximum(high - mean, 0), np.maximum(mean - low, 0))


def chosen_of(name: str, asked: Iterable[str] | None, there: Iterable[str]) -> list[str]:
    """Names that are asked for, of those that are there; all of them for None.

    Raises:
        ValueError: none is asked for, or one that is not there.
    """
    there = list(dict.fromkeys(there))
    chosen = there if asked is None else list(asked)
    missing = [repr(one) for one in chosen if one not in there]
    if missing or not chosen:
        raise ValueError(f"{name} must be some of {', '.join(map(repr, there))}, got {', '.join(missing) or 'none'}.")
    return chosen


def floor_note(floor: float, *values: Any) -> str:
    """A clause on what a logarithmic axis would not show; empty where there is nothing below the floor."""
    return f"; what is below {floor:g} is drawn there" if any((np.asarray(v) < floor).any() for v in values) else ""


def styled(
    figure: go.Figure,
    *,
    title: str,
    measured: str,
    expected: str = "",
    x: dict[str, Any] | str | None = None,
    y: dict[str, Any] | str | None = None,
    height: int = 340,
    wide: bool = False,
    legend: bool = True,
) -> go.Figure:
    """The figure with what is seen as its title, how it was measured below, and the common look.

    Args:
        title: what is seen, with its number.
        measured: how, and further numbers.
        expected: a sentence on what theory expects, or on what one would see.
        x, y: title of the axes, or fields of them; None where panels have axes of their own.
        height: of what lies below the titles, pixels. Figures of the same height align side by side.
        wide: for the width of a page rather than half of it.
        legend: leave room for one below.
    """
    width = 2 * TITLE_WIDTH if wide else TITLE_WIDTH
    head, below = _wrap(title, width), _wrap(f"{measured}. {expected}" if expected else measured, int(1.25 * width))
    top = 56 + (TITLE_SIZE + 6) * (1 + head.count("<br>")) + (SMALL_SIZE + 5) * (1 + below.count("<br>"))
    bottom = 84 if legend else 56
    figure.update_layout(
        template="plotly_white",
        height=top + height,
        font={"family": FONT, "size": SMALL_SIZE, "color": "#222222"},
        title={
            "text": head,
            "subtitle": {"text": below, "font": {"size": SMALL_SIZE, "color": "#555555"}},
            "font": {"size": TITLE_SIZE, "weight": 600},
            "x": 0,
            "xanchor": "left",
            "y": 1 - 16 / (top + height),
            "yanchor": "top",
        },
        margin={"l": 68, "r": 16, "t": top, "b": bottom},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -56 / (height - bottom), "yanchor": "top"},
        hoverlabel={"font": {"family": FONT}},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, title_standoff=8)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor="#AAAAAA", zerolinewidth=1, title_standoff=8)
    figure.update_xaxes({"title_text": x} if isinstance(x, str) else x)
    figure.update_yaxes({"title_text": y} if isinstance(y, str) else y)
    return figure


def _wrap(text: str, width: int) -> str:
    """Lines of at most `width` characters; a subscript's tags take one each instead of their letters."""
    lines = textwrap.wrap(text.replace("<sub>", SUB).replace("</sub>", END_SUB), width)
    return "<br>".join(lines).replace(SUB, "<sub>").replace(END_SUB, "</sub>")


def draw(
    figure: go.Figure, x: Any, y: Any, name: str, hover: str, *, mode: str = "markers", error: Any = None, **look: Any
) -> None:
    """Add points, or lines, that say on hovering what `hover` says and their name.

    Args:
        error: half-widths of vertical bars, or `whiskers`.
        look: other fields of a scatter trace.
    """
    if error is not None:
        look["error_y"] = error if isinstance(error, dict) else whiskers(error)
    hover = f"{hover}<extra>{name}</extra>"
    figure.add_scatter(x=list(x), y=list(y), name=name, mode=mode, hovertemplate=hover, **look)


def whiskers(up: Any, down: Any = None) -> dict[str, Any]:
    """Error bars of these lengths; as long downwards as upwards if left out."""
    return {"array": list(up), "arrayminus": None if down is None else list(down), "thickness": 1, "width": 3}


def mark(figure: go.Figure, x: float, colour: str = VERMILLION, dash: str = "dash", **look: Any) -> None:
    """A vertical line."""
    figure.add_vline(x=x, line={"color": colour, "dash": dash, "width": 1.5}, **look)


def threshold(figure: go.Figure, y: float, text: str, colour: str = VERMILLION, dash: str = "dash") -> None:
    """A horizontal line with its name above its right end."""
    figure.add_hline(y=y, line={"color": colour, "dash": dash, "width": 1.5})
    _name_at_right(figure, y, "bottom", text, font={"color": colour})


def rounding(figure: go.Figure, y: float, text: str) -> None:
    """The line of a logarithmic axis below which all is rounding, with its name under its right end."""
    figure.add_hline(y=y, line={"color": BLACK, "dash": "dot", "width": 1})
    _name_at_right(figure, math.log10(y), "top", text)  # plotly places annotations on a log axis by the exponent


def _name_at_right(figure: go.Figure, y: float, anchor: str, text: str, **look: Any) -> None:
    figure.add_annotation(x=1, xref="paper", xanchor="right", y=y, yanchor=anchor, text=text, showarrow=False, **look)


def heatmap(values: Tensor, *, rows: str, columns: str, first_row: int = 1, first_column: int = 1) -> go.Heatmap:
    """A signed matrix on the shared colour axis, with the indices of its first entry; nan is left blank."""
    n_rows, n_columns = values.shape
    return go.Heatmap(
        z=values.tolist(),
        x=list(range(first_column, first_column + n_columns)),
        y=list(range(first_row, first_row + n_rows)),
        coloraxis="coloraxis",
        hovertemplate=f"{rows} %{{y}}<br>{columns} %{{x}}<br>%{{z:.4g}}<extra></extra>",
    )


def matrices(panels: dict[str, tuple[go.Heatmap, str, str]]) -> go.Figure:
    """Heatmaps side by side on one colour scale that is centred at zero.

    Args:
        panels: title -> heatmap, names of its rows and columns.
    """
    n = len(panels)
    figure = make_subplots(rows=1, cols=n, subplot_titles=list(panels), horizontal_spacing=0.34 / n)
    for i, (trace, rows, columns) in enumerate(panels.values(), start=1):
        figure.add_trace(trace, row=1, col=i)
        square(figure, rows, columns, "x" if i == 1 else f"x{i}", row=1, col=i)
        figure.update_yaxes(constraintoward="top", row=1, col=i)
    return signed_scale(figure)


def square(figure: go.Figure, rows: str, columns: str, anchor: str = "x", **place: Any) -> None:
    """Axes of a matrix with square entries and its first row on top."""
    look: dict[str, Any] = {"constrain": "domain", "showgrid": False, "zeroline": False, **place}
    figure.update_xaxes(title_text=columns, **look)
    figure.update_yaxes(title_text=rows, autorange="reversed", scaleanchor=anchor, **look)


def signed_scale(figure: go.Figure, name: str = "entry") -> go.Figure:
    """The colour axis of `heatmap`."""
    return figure.update_layout(
        coloraxis={"colorscale": SIGNED, "cmid": 0, "colorbar": {"title": {"text": name}, "thickness": 12}}
    )


def unit_circle(figure: go.Figure, *, limit: float, real: str, imaginary: str, **place: Any) -> go.Figure:
    """The unit circle, and axes of the complex plane on which it is round."""
    circle(figure, 1, name="unit circle", **place)
    anchor = "x" if place.get("col", 1) == 1 else f"x{place['col']}"
    figure.update_xaxes(title_text=real, range=[-limit, limit], constrain="domain", **place)
    figure.update_yaxes(title_text=imaginary, range=[-limit, limit], scaleanchor=anchor, constrain="domain", **place)
    return figure


def circle(figure: go.Figure, radius: float, *, name: str | None = None, **place: Any) -> None:
    """All numbers of one modulus."""
    angle = np.linspace(0, 2 * np.pi, 181)
    figure.add_scatter(
        x=(radius * np.cos(angle)).tolist(), y=(radius * np.sin(angle)).tolist(), mode="lines", name=name,
        line={"color": "#BBBBBB", "width": 1}, hoverinfo="skip", showlegend=False, **place,
    )  # fmt: skip


def number(value: float) -> str:
    """Three digits, short; what no digit of double precision can hold is 0."""
    return f"{0.0 if abs(value) < SMALLEST else value:.3g}"
