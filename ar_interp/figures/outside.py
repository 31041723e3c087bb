"""Figures of `OutsideErrors`: errors under conditions that the model was not trained on."""

import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    LOG,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    draw,
    mark,
    number,
    styled,
    whiskers,
)
from ar_interp.probes.outside import AS_TRAINED, OutsideErrors

LOOKS = {
    "model": (BLUE, "circle", 11),
    "theory": (VERMILLION, "diamond-open", 15),
    "last pair": (ORANGE, "triangle-up", 8),
    "least squares by coordinate": (GREEN, "square", 8),
    "least squares": (SKY, "square-open", 8),
    "ridge": (PURPLE, "cross", 8),
}
LEAST, MOST = 1e-6, 1e6  # beyond these a point is drawn at the edge


def outside_errors(outside: OutsideErrors) -> go.Figure:
    """Error of the model under each condition, over that of predicting zero, beside others on the same contexts."""
    table = _readable(outside.by_condition)
    figure = go.Figure()
    for name, (colour, symbol, size) in LOOKS.items():
        rows = table[table["predictor"] == name]
        if len(rows):
            draw(
                figure, rows["relative_error"].clip(LEAST, MOST), rows["condition"], name, "%{y}<br>%{customdata:.3g}",
                error_x=whiskers(1.96 * rows["relative_error_se"]) if name == "model" else None,
                customdata=rows["relative_error"].tolist(), marker={"color": colour, "symbol": symbol, "size": size},
            )  # fmt: skip
    mark(figure, 1, BLACK)
    rows = table[table["predictor"] == "model"]
    own = dict(zip(rows["condition"], rows["relative_error"], strict=True))
    worst = max((name for name in own if name != AS_TRAINED), key=lambda name: own[name])
    expected = "it lies on theory's diamonds" if "theory" in set(table["predictor"]) else "its error is low"
    return styled(
        figure,
        title=f"As trained it errs by {number(own[AS_TRAINED])} of predicting zero; most under {worst}, "
        f"{number(own[worst])}",
        expected=f"Where what the model learned holds outside the training law, {expected}",
        measured=f"dashed: predicting zero. Means over {outside.n} contexts, with 95 % intervals; what lies beyond "
        f"{LEAST:g} and {MOST:g} is drawn there",
        x={"title_text": "relative error", "range": [-6.3, 6.3], **LOG},
        y={"title_text": "condition", "autorange": "reversed", "categoryorder": "array", "categoryarray": list(own)},
        height=120 + 26 * len(own),
        wide=True,
    )


def outside_table(outside: OutsideErrors) -> go.Figure:
    """Table of the errors under each condition, and of the conditions where the model has no prediction."""
    table = _readable(outside.by_condition)
    names = [name for name in LOOKS if name in set(table["predictor"])]
    by = table.pivot_table("relative_error", "condition", "predictor").reindex(table["condition"].unique())
    rows = table[table["predictor"] == "model"]
    spread = dict(zip(rows["condition"], 1.96 * rows["relative_error_se"], strict=True))
    columns = [[*by.index, *outside.undefined]]
    for name in names:
        shown = ["–" if pd.isna(value) else number(value) for value in by[name]]
        if name == "model":
            shown = [f"{value} ± {number(spread[row])}" for value, row in zip(shown, by.index, strict=True)]
        columns.append([*shown, *("–" for _ in outside.undefined)])
    look = {"align": ["left", *["right"] * len(names)], "height": 26}
    figure = go.Figure(go.Table(header={"values": ["", *names], **look}, cells={"values": columns, **look}))
    why = "; ".join(f"{name} is not defined: {reason}" for name, reason in outside.undefined.items())
    return styled(
        figure,
        title="Errors outside the training law, over that of predicting zero",
        measured=f"95 % intervals of the model's. {why}",
        height=40 + 28 * len(columns[0]),
        wide=True,
        legend=False,
    )


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Conditions with their index as a character: axes and tables know no markup."""
    return table.assign(condition=table["condition"].str.replace("s_1", "s₁"))
