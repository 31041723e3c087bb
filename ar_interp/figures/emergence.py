"""Figures of how training finds a gradient step: path in the plane, plateau and drop, stages, reflected steps."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from ar_interp.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOG,
    ORANGE,
    PURPLE,
    VERMILLION,
    draw,
    mark,
    number,
    styled,
)
from ar_interp.probes.emergence import DescentAlong, SignPattern, StageTimes
from ar_interp.setting import Emergence

MARKED = 60  # points of a path at most


def phase_portrait(along: DescentAlong, flows: Float[np.ndarray, "start time 2"], setting: Emergence) -> go.Figure:
    """The path of (a, b), measured and by the recursion, over lines of gradient flow from other starts.

    Args:
        flows: `Emergence.flows`.
    """
    table, figure = along.by_step, go.Figure()
    for k, line in enumerate(flows):
        figure.add_scatter(
            x=line[:, 0].tolist(), y=line[:, 1].tolist(), mode="lines", name="gradient flow", legendgroup="flow",
            showlegend=k == 0, line={"color": GREY, "width": 1}, hoverinfo="skip",
        )  # fmt: skip
    if "predicted_a" in table:
        draw(
            figure, table["predicted_a"], table["predicted_b"], "recursion", "a %{x:.4g}<br>b %{y:.4g}",
            mode="lines", line={"color": VERMILLION, "width": 2},
        )  # fmt: skip
    shown = table.iloc[:: max(1, len(table) // MARKED)]
    draw(
        figure, shown["a"], shown["b"], "training", "step %{customdata}<br>a %{x:.4g}<br>b %{y:.4g}",
        customdata=shown["step"].tolist(), mode="markers", marker={"color": BLUE, "size": 6},
    )  # fmt: skip
    a, b = (table[name].to_numpy() for name in ("a", "b"))
    limit = 1.05 * float(np.abs(flows).max())
    for sign in (1, -1):
        best = sign * np.geomspace(setting.product / limit, limit, 81)
        figure.add_scatter(
            x=best.tolist(), y=(setting.product / best).tolist(), mode="lines", name="smallest loss",
            legendgroup="best", showlegend=sign > 0, line={"color": GREEN, "width": 2, "dash": "dot"}, hoverinfo="skip",
        )  # fmt: skip
    said = "no recursion speaks of it"
    if "predicted_a" in table:
        said = f"largest distance from the recursion {number(along.deviation('a', 'b'))}"
    return styled(
        figure,
        title=f"From ({number(a[0])}, {number(b[0])}) training goes to a = {number(a[-1])}, b = {number(b[-1])}, "
        f"a b = {number(a[-1] * b[-1])}",
        measured=f"means of the diagonals of A and B at {len(table)} steps; {said}",
        expected="Flow keeps to hyperbolas a² − b² = const and ends where a b is the best step size; the line a = −b "
        "ends in the saddle at 0",
        x={"title_text": "a, keys", "range": [-limit, limit]},
        y={"title_text": "b, values", "range": [-limit, limit], "scaleanchor": "x"},
        height=460,
    )


def plateau_and_drop(along: DescentAlong) -> go.Figure:
    """The step size a b and the norm of what lies off the plane, step by step, beside the recursion."""
    table, figure = along.by_step, go.Figure()
    shown = table.iloc[:: max(1, len(table) // MARKED)]
    hover = "step %{x}<br>%{y:.5g}"
    if "predicted_product" in table:
        style = {"mode": "lines", "line": {"color": VERMILLION, "width": 2}}
        draw(figure, table["step"], table["predicted_product"], "a b, recursion", hover, **style)
    look = {"mode": "markers", "marker": {"color": BLUE, "size": 6}}
    draw(figure, shown["step"], shown["product"], "a b, training", hover, **look)
    draw(
        figure, table["step"], table["off_plane"], "off the plane", hover, mode="lines",
        line={"color": GREEN, "dash": "dot"},
    )  # fmt: skip
    product, step = table["product"].to_numpy(), table["step"].to_numpy()
    half = step[(np.abs(product - product[-1]) <= abs(product[-1]) / 2).argmax()]
    return styled(
        figure,
        title=f"The step size goes from {number(product[0])} to {number(product[-1])}; it is within half of that from "
        f"step {half} on",
        measured=f"{len(table)} steps; largest norm off the plane {number(table['off_plane'].to_numpy().max())}",
        expected="From a small start the recursion has a plateau that lasts as the logarithm of the start, then a drop"
        if "predicted_product" in table
        else "",
        x="training step",
        y="step size a b",
        wide=True,
    )


def emergence_stages(along: DescentAlong, stages: StageTimes) -> go.Figure:
    """The step size of every coordinate over its end, with the step at which it is half of it."""
    table, figure = along.by_step, go.Figure()
    rows = {name: column.to_numpy() for name, column in stages.by_coordinate.items()}
    for j, colour in zip(range(len(rows["end"])), (BLUE, ORANGE, PURPLE, GREEN, BLACK), strict=False):
        said, share = f"coordinate {j + 1}, scale {rows['scale'][j]:g}", table[f"product_{j + 1}"] / rows["end"][j]
        style = {"mode": "lines", "line": {"color": colour, "width": 2}}
        draw(figure, table["step"] + 1, share, said, "step %{x}<br>%{y:.4g}", **style)
        mark(figure, rows["measured"][j] + 1, colour, "dot")
    half = " and ".join(map(number, rows["measured"]))
    return styled(
        figure,
        title=f"Coordinates emerge one after the other: half of their step size after {half} steps",
        measured=f"dotted: half times, alone {' and '.join(map(number, rows['alone']))} steps; step sizes over their "
        f"ends, {' and '.join(map(number, rows['end']))}",
        expected="The half time falls as the fourth power of the scale; later coordinates are held up by earlier ones",
        x={"title_text": "training step, plus one", **LOG},
        y="step size over its end",
        wide=True,
    )


def reflected_step(pattern: SignPattern) -> go.Figure:
    """Prediction over target by coordinate where all eigenvalues are one number: measured, by D, and of a step."""
    table, figure = pattern.by_coordinate, go.Figure()
    signs, gains = table["values"].to_numpy(), table["gain"].to_numpy()
    x = [f"{j} ({'+' if sign > 0 else '−'})" for j, sign in enumerate(signs, start=1)]
    looks = {
        "gain": ("the model", BLUE, "circle", 11),
        "predicted": ("by its signs D", VERMILLION, "diamond-open", 15),
        "one_step": ("one gradient step", GREY, "line-ew-open", 18),
    }
    for column, (name, colour, symbol, size) in looks.items():
        marker = {"color": colour, "symbol": symbol, "size": size, "line": {"width": 2}}
        draw(figure, x, table[column], name, "coordinate %{x}<br>%{y:.4g}", mode="markers", marker=marker)
    minus = int(min((signs < 0).sum(), (signs > 0).sum()))
    what = f"{minus} of {len(table)} coordinates are reflected" if minus else "No coordinate is reflected"
    return styled(
        figure,
        title=f"{what}: gains from {number(gains.min())} to {number(gains.max())} "
        f"where a gradient step has {number(table['one_step'].to_numpy()[0])}",
        measured="prediction over target at the longest context, W = λ I and |x<sub>1j</sub>| = 1; in brackets the "
        "sign in B",
        expected="Only signs that are all alike make a gradient step; the loss on the training law does not see them",
        x="coordinate",
        y="prediction / target",
    )


def sign_patterns(members: pd.DataFrame, dim: int) -> go.Figure:
    """How many random starts ended with how many reflected coordinates, beside signs that are equally likely.

    Args:
        members: a row per seed with `minus`, the number of coordinates with the rarer sign.
    """
    counts = [int((members["minus"].to_numpy() == k).sum()) for k in range(dim // 2 + 1)]
    shares = [math.comb(dim, k) * 2.0 ** (1 - dim) / (2 if 2 * k == dim else 1) for k in range(dim // 2 + 1)]
    x, n = list(range(dim // 2 + 1)), len(members)
    figure = go.Figure(go.Bar(x=x, y=[c / n for c in counts], name="training", marker={"color": BLUE}))
    marker = {"color": VERMILLION, "symbol": "diamond-open", "size": 15, "line": {"width": 2}}
    draw(figure, x, shares, "all patterns equally likely", "%{y:.4g}", mode="markers", marker=marker)
    return styled(
        figure,
        title=f"{counts[0]} of {n} random starts ({counts[0] / n:.3g}) end as one gradient step, the others reflected",
        measured=f"signs of the diagonal of B at the end; equally likely signs have {shares[0]:.3g}",
        expected="They are equally likely where the two main blocks are trained alone",
        x={"title_text": "reflected coordinates", "dtick": 1},
        y={"title_text": "share of starts", "rangemode": "tozero"},
    )
