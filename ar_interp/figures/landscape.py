"""Figures of landscapes: which share of seeds reaches the minimum, by number of heads and by initial scale."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import BLACK, BLUE, GREEN, PURPLE, VERMILLION, draw, mark, number, styled, whiskers

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, BLACK)
BARS = "bars are 95 % Wilson intervals"


def share_by_heads(landscape: pd.DataFrame) -> go.Figure:
    """The share of seeds at the minimum against heads per coordinate, beside that of heads trapped independently.

    Args:
        landscape: of `ari.landscape`, with the axes dim and n_heads.
    """
    figure = go.Figure()
    for colour, (dim, rows) in _groups(landscape, "dim"):
        _curve(figure, rows["n_heads"] / rows["dim"], rows, "share", f"d = {dim}", colour)
        few = rows[(2 * rows["n_heads"] <= rows["dim"]) & (rows["independent"] < 1)]
        draw(
            figure, few["n_heads"] / few["dim"], few["independent"], f"d = {dim}, heads trapped independently",
            "H/d = %{x:.3g}<br>share of one head to the power H: %{y:.3g}",
            mode="lines", line={"color": colour, "dash": "dot", "width": 1}, showlegend=False,
        )  # fmt: skip
    enough = landscape["n_heads"].to_numpy() >= landscape["dim"].to_numpy()
    share = landscape["share"].to_numpy()
    mark(figure, 1.0)
    trapped = "Heads that are trapped independently would lie on the dotted lines: the share of one head to the power H"
    return styled(
        figure,
        title=f"With d heads or more {_of_seeds(share[enough])} reach the minimum, with fewer "
        f"{_of_seeds(share[~enough])}",
        measured=f"{landscape['n'].to_numpy().min()} seeds a point, at the minimum where the loss is within .01 of it; "
        f"{BARS}",
        expected=trapped if share.min() < 1 else "",
        x="heads per coordinate, H / d",
        y={"title_text": "share of seeds at the minimum", "range": [-0.02, 1.04]},
        wide=True,
    )


def runaway_by_heads(landscape: pd.DataFrame) -> go.Figure:
    """The share of seeds on their way to kappa = -1 against heads per coordinate.

    Args:
        landscape: as for `share_by_heads`, of a sweep with the column `ratio`.
    """
    figure = go.Figure()
    for colour, (dim, rows) in _groups(landscape, "dim"):
        _curve(figure, rows["n_heads"] / rows["dim"], rows, "runaway", f"d = {dim}", colour)
    per_coordinate = landscape["n_heads"].to_numpy() / landscape["dim"].to_numpy()
    between, runaway = (per_coordinate > 0.5) & (per_coordinate < 1), landscape["runaway"].to_numpy()
    for edge in (0.5, 1.0):
        mark(figure, edge)
    return styled(
        figure,
        title=f"Between d/2 and d heads up to {number(runaway[between].max(initial=0))} of the seeds run away, "
        f"elsewhere at most {number(runaway[~between].max(initial=0))}",
        measured=f"run away: p<sub>T−1</sub>/p<sub>T</sub> > 1 at the end of training; {BARS}",
        expected="κ → −1 is a valley at infinity, with p<sub>T−1</sub>/p<sub>T</sub> = −κ/(1 + κ)",
        x="heads per coordinate, H / d",
        y={"title_text": "share of seeds that run away", "rangemode": "tozero"},
        wide=True,
    )


def share_by_scale(landscape: pd.DataFrame) -> go.Figure:
    """The share of seeds at the minimum against the scale of their initial weights.

    Args:
        landscape: of `ari.landscape`, with the axes dim, n_heads and init_scale.
    """
    figure, share, scales = go.Figure(), landscape["share"].to_numpy(), landscape["init_scale"].to_numpy()
    for colour, ((dim, n_heads), rows) in _groups(landscape, ["dim", "n_heads"]):
        _curve(figure, rows["init_scale"], rows, "share", f"d = {dim}, H = {n_heads}", colour)
    return styled(
        figure,
        title=f"{number(share.min())} to {number(share.max())} of the seeds reach the minimum, over initial scales of "
        f"{number(scales.min())} to {number(scales.max())}",
        measured=f"{landscape['n'].to_numpy().min()} seeds a point, at the minimum where the loss is within .01 of it; "
        f"{BARS}",
        x={"title_text": "standard deviation of the initial weights", "type": "log"},
        y={"title_text": "share of seeds at the minimum", "range": [-0.02, 1.04]},
        wide=True,
    )


def _of_seeds(shares: Any) -> str:
    least = shares.min(initial=1)
    return "all seeds" if least == 1 else f"at least {number(least)} of the seeds"


def _groups(landscape: pd.DataFrame, by: str | list[str]) -> Any:
    """Colour, and value and rows of each group."""
    return zip(COLOURS, landscape.groupby(by), strict=False)


def _curve(figure: go.Figure, x: Any, rows: Any, of: str, name: str, colour: str) -> None:
    low, high = (rows[bound if of == "share" else f"{of}_{bound}"] for bound in ("low", "high"))
    draw(
        figure, x, rows[of], name, "H = %{customdata}<br>%{y:.3g}", mode="lines+markers",
        customdata=rows["n_heads"].tolist(), error=whiskers(high - rows[of], rows[of] - low),
        line={"color": colour, "width": 1.5}, marker={"size": 5},
    )  # fmt: skip
