"""Figures of `NoisyErrors` and `BentKeys`: what noise leaves of predictions, and of the two newest keys."""

from typing import Any

import plotly.graph_objects as go

from ar_interp.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOG,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    draw,
    number,
    styled,
)
from ar_interp.probes.noise import MULTIPLE, BentKeys, NoisyErrors
from ar_interp.setting import Setting

LOOKS = {
    "model": (BLUE, "solid"),
    "one step": (ORANGE, "dash"),
    "one linear layer": (ORANGE, "dash"),
    "softmax attention": (GREY, "solid"),
    "least squares": (GREEN, "dot"),
    "ridge": (PURPLE, "dashdot"),
    "Bayes": (VERMILLION, "dash"),
    "Bayes, W known": (SKY, "longdash"),
    MULTIPLE: (BLACK, "dot"),
}
LEAST = 1e-12  # a logarithmic axis has no zero


def noisy_errors(errors: NoisyErrors) -> go.Figure:
    """Medians of |prediction - s_{T+1}|^2 against T, beside that of the best multiple of W y_T.

    Medians, since the mean of least squares is made by few contexts where it divides by next to nothing.
    """
    figure = go.Figure()
    table: Any = errors.by_position[errors.by_position["T"] > 1]
    for name in [*LOOKS, *sorted({*table["predictor"]} - {*LOOKS})]:
        (colour, dash), rows = LOOKS.get(name, (GREY, "dash")), table[table["predictor"] == name]
        if len(rows) and rows["median"].max() > LEAST:
            draw(
                figure, rows["T"], rows["median"].clip(lower=LEAST), name.replace("y_T", "y<sub>T</sub>"),
                "T = %{x}<br>median %{y:.3g}, mean %{customdata[0]:.3g}<br>middle 80 %: %{customdata[1]:.3g} to "
                "%{customdata[2]:.3g}",
                customdata=rows[["mean", "low", "high"]].to_numpy().tolist(), mode="lines",
                line={"color": colour, "dash": dash, "width": 3 if name == "model" else 1.5},
            )  # fmt: skip
    is_last = (table["T"] == table["T"].max()) & (table["predictor"] == "model")
    own, line = float(table["mean"].to_numpy()[is_last.to_numpy()][0]), errors.line[-1]
    return styled(
        figure,
        title=f"At T = {table['T'].max()} the model errs by {number(own)}, {number(own / line)} times as much as the "
        "best multiple of W y<sub>T</sub>",
        expected="Below the dotted line are only those that estimate s<sub>T</sub> from more than the last token",
        measured=f"medians over {errors.n} contexts; errors of the clean next token",
        x="context length T",
        y={"title_text": "|prediction − s<sub>T+1</sub>|²", **LOG},
        wide=True,
    )


def bent_keys(bent: BentKeys, setting: Setting) -> go.Figure:
    """p_{T-1} / p_T against the noise of observation: theory's curves and this model."""
    figure, table = go.Figure(), bent.theory
    for column, name, colour, dash in (
        ("ratio", "theory", VERMILLION, "solid"),
        ("two_keys", "theory, two keys alone", ORANGE, "dash"),
    ):
        draw(figure, table["observation_variance"], table[column], name, "r = %{x:.3g}<br>%{y:.4f}", mode="lines",
             line={"color": colour, "dash": dash})  # fmt: skip
    draw(figure, [bent.observation_variance], [bent.ratio], f"this model, κ = {number(bent.kappa)}",
         "r = %{x:.3g}<br>%{y:.5f}", mode="markers", marker={"color": BLUE, "size": 12})  # fmt: skip
    return styled(
        figure,
        title=f"p<sub>T−1</sub>/p<sub>T</sub> is {number(bent.ratio)} at r = {number(bent.observation_variance)}, "
        f"T = {bent.T}",
        expected=setting.sentence("ratio"),
        measured="without noise it is −κ/(1 + κ): −1/2 for κ = 1, 0 for κ = 0",
        x="variance r of the noise of observation",
        y={"title_text": "p<sub>T−1</sub> / p<sub>T</sub>", "range": [-0.6, 0.1]},
    )
