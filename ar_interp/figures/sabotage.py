"""Figures of the sabotage battery: verdicts against what theory expects, and what noise does to each claim."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import BLUE, ORANGE, PURPLE, SKY, VERMILLION, styled

KINDS = {
    "fails, as it must": BLUE,
    "holds, or as before, as it must": SKY,
    "void": ORANGE,
    "false positive": VERMILLION,
    "miss": PURPLE,
    "left open by theory": "#DDDDDD",
}
SIGNS = {"holds": "+", "fails": "−", "void": "○"}
CELL = 15  # pixels
LONGEST = 46  # characters of a model's name


def battery_matrix(frame: pd.DataFrame) -> go.Figure:
    """Models by claims: the colour is the verdict beside what theory expects, the sign the verdict itself.

    Args:
        frame: of a `BatteryResult`.
    """
    kinds = list(KINDS)
    cases = zip(frame["expected"], frame["outcome"], strict=True)
    cells = frame.assign(code=[kinds.index(_kind(expected, outcome)) for expected, outcome in cases])
    models, claims = (list(cells[name].drop_duplicates()) for name in ("model", "claim"))
    claims.sort(key=lambda name: (name.partition("/")[0], name))
    codes, signs, expected = (
        cells.pivot_table(column, "model", "claim", aggfunc="first").reindex(index=models, columns=claims)
        for column in ("code", "verdict", "expected")
    )
    steps = [(edge / len(kinds), colour) for i, colour in enumerate(KINDS.values()) for edge in (i, i + 1)]
    figure = go.Figure(
        go.Heatmap(
            z=codes.to_numpy(dtype=float),
            x=claims,
            y=[name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in models],
            text=signs.replace(SIGNS).fillna("").to_numpy(),
            texttemplate="%{text}",
            customdata=np.dstack([signs.fillna(""), expected.fillna(""), np.tile(models, (len(claims), 1)).T]),
            hovertemplate="%{customdata[2]}<br>%{x}: %{customdata[0]}, expected: %{customdata[1]}<extra></extra>",
            zmin=-0.5,
            zmax=len(kinds) - 0.5,
            colorscale=steps,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    for kind, colour in KINDS.items():
        marker = {"symbol": "square", "size": 12, "color": colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=kind)
    counts = cells["outcome"].value_counts()
    wrong = f"false positives {counts.get('false positive', 0)}, misses {counts.get('miss', 0)}"
    styled(
        figure,
        title="Claims fail where, and only where, the structure that they are about is gone",
        measured=f"{len(models)} models, {len(cells)} cells: {wrong}, void {counts.get('void', 0)}, "
        f"left open by theory {counts.get('free', 0)}",
        height=200 + CELL * len(models),
        wide=True,
    )
    figure.update_xaxes(tickangle=-60, side="bottom", showgrid=False, dtick=1)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, dtick=1)
    return figure.update_layout(margin_b=180, legend={"y": 1, "yanchor": "bottom"})


def noise_sensitivity(frame: pd.DataFrame, *, base: str) -> go.Figure:
    """A row per claim, from the most to the least sensitive: the share of seeds for which it holds against the noise.

    Args:
        frame: of a `Sensitivity`.
        base: the model's name.
    """
    shares = frame.pivot_table("share", "claim", "noise")
    shares = shares.iloc[np.argsort(shares.sum(axis=1).to_numpy(), kind="stable")]
    figure = go.Figure(
        go.Heatmap(
            z=shares.to_numpy(),
            x=[f"{noise:g}" for noise in shares.columns],
            y=list(shares.index),
            zmin=0,
            zmax=1,
            colorscale=[(0, VERMILLION), (0.5, "#F4F4F4"), (1, BLUE)],
            colorbar={"title": {"text": "share"}, "thickness": 12},
            hovertemplate="%{y}<br>noise %{x}: holds for %{z:.0%} of seeds<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title_text="noise on every weight, over the rms of its tensor", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, dtick=1)
    return styled(
        figure,
        title=f"How much noise each claim about {base} stands",
        measured=f"share of {frame['n'].iloc[0]} seeds of noise for which it holds; without noise all {len(shares)} do",
        height=80 + 18 * len(shares),
        legend=False,
    )


def _kind(expected: str, outcome: str) -> str:
    if outcome == "ok":
        return "fails, as it must" if expected == "fail" else "holds, or as before, as it must"
    return "left open by theory" if outcome == "free" else outcome
