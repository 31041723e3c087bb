"""Figures of training: the loss over the steps, and where the members of the ensemble ended."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from ar_interp.figures.style import BLACK, BLUE, GREEN, LOG, ORANGE, PURPLE, VERMILLION, draw, mark, number, styled
from ar_interp.probes.along import AlongTraining
from ar_interp.setting import Setting

LEAST = 1e-16  # of a distance
MEMBERS_NAMED = 40  # more seeds than this are counted in bins


def training_history(history: pd.DataFrame, setting: Setting) -> go.Figure:
    """Loss above the theory's minimum, where there is one, against the step, over the members of the ensemble.

    Args:
        history: rows of step, loss_min, loss_median, loss_max, per context length.
    """
    first = history["loss_min"].iloc[0]
    looks = {
        "loss_min": ("best seed", BLUE, "solid"),
        "loss_median": ("median seed", VERMILLION, "dash"),
        "loss_max": ("worst seed", BLACK, "dot"),
    }
    one_seed = bool((history["loss_min"] == history["loss_max"]).all())
    minimum = setting.minimum
    figure = go.Figure()
    for column, (name, colour, dash) in looks.items():
        if one_seed and column != "loss_min":
            continue
        draw(
            figure, history["step"] + 1, history[column] - (minimum or 0), "the seed" if one_seed else name,
            "step %{customdata}<br>%{y:.3g}", customdata=history["step"].tolist(),
            mode="lines+markers", line={"color": colour, "dash": dash, "width": 1.5},
            marker={"size": 4},
        )  # fmt: skip
    last = history["loss_min"].iloc[-1]
    measured = "smallest loss per T over the seeds"
    if minimum is not None:
        measured += f"; the minimum of theory is {number(minimum)} (what is at or below it is not drawn)"
    measured += _unseen(history)
    return styled(
        figure,
        title=f"The loss goes from {number(first)} at the start to {number(last)} at the end of training",
        measured=measured,
        x={"title_text": "training step, plus one", **LOG},
        y={"title_text": "loss (per T)" if minimum is None else "loss − minimum (per T)", **LOG},
        wide=True,
        legend=not one_seed,
    )


def _unseen(history: pd.DataFrame) -> str:
    """A clause on where the descent is, if most of it lies between two rows; else empty."""
    steps, losses = history["step"].to_numpy(), history["loss_min"].to_numpy()
    shares = -np.diff(losses) / max(losses[0] - losses[-1], LEAST)
    k = int(shares.argmax()) if len(shares) else 0
    if not len(shares) or shares[k] < 0.5 or steps[k + 1] == steps[k] + 1:
        return ""
    share = f"{min(shares[k], 1):.0%} of the descent"
    return f"; {share} lies between two rows of the log, at steps {steps[k]} and {steps[k + 1]}"


def along_training(along: AlongTraining) -> go.Figure:
    """Distance of each structure from the end of training, by the number of updates."""
    table = along.by_step
    names = {
        "loss": "loss above the minimum",
        "projector": "C from a projector",
        "scale": "c p<sub>T</sub> from 1",
        "previous": "p<sub>T−1</sub> / p<sub>T</sub> from that of κ",
        "older": "share of older keys",
        "conserved": "change of A Aᵀ − B Bᵀ",
    }
    figure = go.Figure()
    for (column, name), colour in zip(names.items(), (BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE), strict=True):
        draw(
            figure, table["step"] + 1, table[column].clip(LEAST), name, "after %{customdata} updates<br>%{y:.3g}",
            customdata=table["step"].tolist(), mode="lines+markers", line={"color": colour, "width": 1.5},
        )  # fmt: skip
    halved = table["step"][table["loss"] <= table["loss"].iloc[0] / 2].tolist()
    when = f"The loss has halved after {halved[0]} updates" if halved else "The loss has not halved"
    return styled(
        figure,
        title=f"{when}; A Aᵀ − B Bᵀ changes by {number(table['conserved'].to_numpy().max())} of A Aᵀ at most",
        expected="Gradient flow conserves balance from the start; the other structures form as the loss falls",
        measured=f"what is below {LEAST:g} is drawn there",
        x={"title_text": "updates, plus one", **LOG},
        y={"title_text": "distance", **LOG},
        wide=True,
    )


def member_levels(members: pd.DataFrame, levels: Float[np.ndarray, "n_minus"] | None = None) -> go.Figure:
    """Histogram of the final losses of an ensemble, the levels of the known local minima as lines.

    Args:
        members: a row per seed with its final loss per context length.
        levels: `theory.trapped_levels`, where the setting has them.
    """
    losses = members["loss"].to_numpy()
    hover = "loss %{x}<br>%{y} seeds<extra></extra>"
    n_bins = 120 if len(members) > MEMBERS_NAMED else 40
    figure = go.Figure(go.Histogram(x=losses, nbinsx=n_bins, marker={"color": BLUE}, hovertemplate=hover))
    for minus, level in enumerate([] if levels is None else levels.tolist()):
        name = {"text": f"m={minus}", "font": {"color": VERMILLION}, "yanchor": "bottom", "y": 1}
        mark(figure, level, annotation=name, annotation_position="top")
    best = float(losses.min())
    reached = int((losses < best + 0.01).sum())
    return styled(
        figure,
        title=f"{reached} of {len(members)} seeds end within .01 of the best loss, {number(best)}",
        x="final loss per T",
        y={"title_text": "number of seeds", "rangemode": "tozero"},
        wide=True,
        legend=False,
        measured="the leftmost bar holds the seeds that reach the lowest loss"
        if levels is None
        else "dashed: levels of the trapped models, by their number m of blocks with κ = −1",
    )
