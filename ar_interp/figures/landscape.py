"""Figures of landscapes: shares of seeds at the minimum, what depth is worth, when the gradient step emerges."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import BLACK, BLUE, GREEN, LOG, PURPLE, VERMILLION, draw, mark, number, styled, whiskers

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, BLACK)
SCORES = {"linear": "raw scores", "linear/keys": "scores over keys"}
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
    everywhere = f"{_of_seeds(share).capitalize()} reach the minimum, whatever the number of heads"
    jump = f"With d heads or more {_of_seeds(share[enough])} reach the minimum, with fewer {_of_seeds(share[~enough])}"
    return styled(
        figure,
        title=everywhere if share.min() == 1 else jump,
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


def steps_by_depth(medians: pd.DataFrame) -> go.Figure:
    """The number of gradient steps that a stack is worth against its number of layers.

    Args:
        medians: of the column `steps_equivalent`, see `sweeps.landscape.medians`, with the axes n_layers and attention.
    """
    figure, layers = go.Figure(), sorted(set(medians["n_layers"]))
    for colour, (attention, rows) in _groups(medians, "attention"):
        name = SCORES.get(attention, str(attention))
        _curve(figure, rows["n_layers"], rows, "median", name, colour, "%{customdata} layers")
    draw(
        figure, layers, layers, "one step a layer", "%{x} steps",
        mode="lines", line={"color": BLACK, "dash": "dot", "width": 1},
    )  # fmt: skip
    deepest: Any = medians[medians["n_layers"] == layers[-1]]
    worth = [
        f"{number(row['median'])} ({SCORES.get(row['attention'], row['attention'])})"
        for row in deepest.to_dict("records")
    ]
    return styled(
        figure,
        title=f"{layers[-1]} layers are worth {' and '.join(worth)} gradient steps",
        measured=f"number of tuned gradient steps with the same error, median of {medians['n'].min()} seeds, bars are "
        "95 % intervals of the median",
        x={"title_text": "layers", "dtick": 1},
        y={"title_text": "gradient steps", "type": "log", "tickvals": [2**k for k in range(8)]},
        wide=True,
    )


def half_time_by_scale(medians: pd.DataFrame) -> go.Figure:
    """The update at which the gradient step emerges against the scale of the initial weights.

    Args:
        medians: of the column `half_time`, see `sweeps.landscape.medians`, with the axes dim and init_scale; `theory`
            is the half time of the flow from the median start of one coordinate.
    """
    figure, scales = go.Figure(), medians["init_scale"]
    for colour, (dim, rows) in _groups(medians, "dim"):
        _curve(figure, rows["init_scale"], rows, "median", f"d = {dim}", colour, "%{customdata:.3g}")
    (_, one), *_ = medians.groupby("dim")
    draw(
        figure, one["init_scale"], one["theory"], "gradient flow from the median start, d = 1", "%{y:.4g}",
        mode="lines", line={"color": BLACK, "dash": "dot", "width": 1.5},
    )  # fmt: skip
    at, tenfold = one.set_index("init_scale")[["median", "theory"]], 10 * scales.min()
    larger = min(at.index, key=lambda scale: abs(np.log(scale / tenfold)))
    later = at.loc[scales.min()] - at.loc[larger]
    return styled(
        figure,
        title=f"From weights {number(larger / scales.min())} times smaller the gradient step emerges "
        f"{number(later['median'])} updates later, in theory {number(later['theory'])}",
        measured="update at which a quarter of the excess loss is left, median of "
        f"{medians['n'].min()} seeds; bars are 95 % intervals",
        expected="A plateau of ln(1/scale) / slope in units of the step size, then a drop",
        x={"title_text": "standard deviation of the initial weights", "dtick": 1, **LOG},
        y={"title_text": "updates", "rangemode": "tozero"},
        wide=True,
    )


def _of_seeds(shares: Any) -> str:
    least = shares.min(initial=1)
    return "all seeds" if least == 1 else f"at least {number(least)} of the seeds"


def _groups(landscape: pd.DataFrame, by: str | list[str]) -> Any:
    """Colour, and value and rows of each group."""
    return zip(COLOURS, landscape.groupby(by), strict=False)


def _curve(
    figure: go.Figure, x: Any, rows: Any, of: str, name: str, colour: str, hover: str = "H = %{customdata}"
) -> None:
    """A column with its interval; what stands beside it on hovering is the number of heads, or x."""
    low, high = (rows[bound if of in ("share", "median") else f"{of}_{bound}"] for bound in ("low", "high"))
    draw(
        figure, x, rows[of], name, f"{hover}<br>%{{y:.3g}}", mode="lines+markers",
        customdata=rows.get("n_heads", x).tolist(),
        error=whiskers(high - rows[of], rows[of] - low),
        line={"color": colour, "width": 1.5}, marker={"size": 5},
    )  # fmt: skip
