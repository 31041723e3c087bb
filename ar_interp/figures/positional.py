"""Figures of `PositionalStructure`, and of the spectral filter of unfinished descent."""

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.figures.style import (
    BLUE,
    GREEN,
    LOG,
    ROUNDING,
    VERMILLION,
    draw,
    heatmap,
    number,
    rounding,
    signed_scale,
    square,
    styled,
    threshold,
)
from ar_interp.probes.positional import PositionalStructure
from ar_interp.setting import Setting
from ar_interp.theory import SpectralFilter

N_ROWS = 3  # of P, drawn as lines


def positional_matrix(structure: PositionalStructure, setting: Setting) -> go.Figure:
    """P with a row per context length; keys that lie in the future are left blank."""
    used = torch.ones_like(structure.P).tril(1) > 0
    figure = go.Figure(heatmap(structure.P.where(used, torch.nan), rows="T", columns="key", first_row=2))
    square(figure, "context length T", "key position t")
    signed_scale(figure, "weight")
    off = number(structure.off_mass)
    return styled(
        figure,
        title=f"All {f'but {off} ' if off != '0' else ''}of |P|² lies on the two newest keys",
        expected=setting.sentence("positional"),
        measured=f"share {off} of |P|² lies on other keys than T−1 and T",
        legend=False,
    )


def positional_rows(structure: PositionalStructure, setting: Setting) -> go.Figure:
    """The last rows of P against t - T, so that p_T is at 0 and p_{T-1} at -1 in each."""
    n_rows, n_ctx = structure.P.shape
    figure = go.Figure()
    styles = ((BLUE, "circle", "solid"), (VERMILLION, "x", "dash"), (GREEN, "diamond-open", "dot"))
    for i, (colour, symbol, dash) in zip(range(min(N_ROWS, n_rows)), styles, strict=False):
        T = n_ctx - i
        draw(
            figure, range(1 - T, 1), structure.P[T - 2, :T].tolist(), f"T = {T}", "t − T = %{x}<br>%{y:.4g}",
            mode="lines+markers", line={"color": colour, "dash": dash, "width": 1.5},
            marker={"symbol": symbol, "size": 9},
        )  # fmt: skip
    names: dict[str, dict[str, Any]] = {
        "p<sub>T</sub>": {"x": 0, "xanchor": "left", "xshift": 10},
        "p<sub>T−1</sub>": {"x": -1, "xanchor": "right", "xshift": -10, "yshift": 14},  # clear of older keys' markers
    }
    for name, place in names.items():
        y = structure.P[-1, place["x"] - 1].item()
        figure.add_annotation(text=name, y=y, showarrow=False, font={"size": 15}, **place)
    return styled(
        figure,
        x={"title_text": "key relative to the newest, t − T", "range": [0.5 - n_ctx, 1.6]},
        y="positional weight p<sub>t</sub>",
        title=f"The last key but one has {number(structure.ratio)} times the weight of the last",
        expected=setting.sentence("positional"),
        measured=f"p<sub>T−1</sub>/p<sub>T</sub> = {number(structure.ratio)} ± {number(structure.ratio_spread)} "
        f"over T; c p<sub>T</sub> is 1 to within {number(structure.scale_error)}",
    )


def positional_ratio(structure: PositionalStructure, setting: Setting) -> go.Figure:
    """p_{T-1} / p_T for each T, beside what theory makes of the heads' kappa."""
    predicted = setting.previous_key(structure.kappa)
    ratios = structure.ratio_by_length.tolist()
    figure = go.Figure()
    marker = {"color": BLUE, "size": 9}
    draw(figure, range(2, len(ratios) + 2), ratios, "measured", "T = %{x}<br>%{y:.6g}", marker=marker)
    if predicted is not None and np.isfinite(predicted):
        threshold(figure, predicted, f"theory: {number(predicted)}")
    shown = [value for value in (*ratios, predicted, -0.8, 0.3) if value is not None and np.isfinite(value)]
    kappa = f"κ from the heads {number(structure.kappa)} ± {number(structure.kappa_spread)}, "
    return styled(
        figure,
        title=f"p<sub>T−1</sub>/p<sub>T</sub> is {number(structure.ratio)}"
        + (f", from the heads follows {number(predicted)}" if predicted is not None and np.isfinite(predicted) else ""),
        expected=setting.sentence("ratio"),
        measured=f"{kappa if np.isfinite(structure.kappa) else ''}κ from P "
        f"{number(structure.kappa_from_P)}, largest deviation over T {number(structure.ratio_spread)}",
        x="context length T",
        y={"title_text": "p<sub>T−1</sub> / p<sub>T</sub>", "range": [min(shown) - 0.1, max(shown) + 0.1]},
        legend=False,
    )


def residual_by_angle(structure: PositionalStructure, setting: Setting) -> go.Figure:
    """|prediction - lambda^T| at the longest context, over the angle of lambda."""
    residuals = structure.residual_by_angle.tolist()
    figure, look = go.Figure(), {"mode": "lines", "line": {"color": BLUE}}
    draw(figure, structure.angles.tolist(), residuals, "residual", "θ = %{x:.3f}<br>%{y:.3g}", **look)
    rounding(figure, ROUNDING, "double precision, 2.2e−16")
    highest = max(1, math.ceil(math.log10(max(residuals) + 1e-300)))
    return styled(
        figure,
        x="angle θ of the eigenvalue (radians)",
        y={"title_text": "sup<sub>j</sub> |prediction − λ<sup>T</sup>|", "range": [-18, highest], **LOG},
        title=f"The prediction errs by {number(structure.residual)} at most, over all angles and T",
        expected=setting.sentence("residual"),
        measured=f"drawn at T = {structure.P.shape[1]}",
        legend=False,
    )


def filter_profile(structure: PositionalStructure, filter: SpectralFilter) -> go.Figure:
    """p of the longest context beside what the exact filter of descent from zero reaches in as many steps."""
    figure = _beside_filter(filter.p, structure.profile, "filter (theory)", "t =")
    figure.update_xaxes(title_text="key position t")
    figure.update_yaxes(title_text=f"positional weight p<sub>t</sub> at T = {len(structure.profile)}")
    gap = (structure.profile - filter.p).abs().max().item()
    return styled(
        figure,
        title=f"The trained p lies within {number(gap)} of the filter of unfinished descent",
        expected="The optimum would be e<sub>T</sub>, all weight on the newest key",
        measured=f"the filter has learned {filter.rank:.2f} modes in effect",
    )


def filter_response(structure: PositionalStructure, filter: SpectralFilter) -> go.Figure:
    """How far each mode of the kernel has been learned.

    Raises:
        ValueError: a structure without a filter response (more than one coordinate).
    """
    learned = structure.filter_response
    if learned is None:
        raise ValueError("structure has no filter_response: it is measured for positional-only models (dim = 1) only.")
    figure = _beside_filter(filter.response, learned, "1 − (1 − step K)<sup>steps</sup> (theory)", "mode")
    return styled(
        figure,
        x="mode of the kernel, largest eigenvalue first",
        y={"title_text": "part learned (0 none, 1 all)", "range": [-0.08, 1.08]},
        title=f"{learned.sum():.3g} modes are learned in effect, by theory {filter.rank:.3g}",
        expected="In theory strong modes are learned and weak ones not: a low-pass filter with a sharp edge",
        measured=f"of {len(learned)} modes",
    )


def _beside_filter(theory: Float[Tensor, "n"], trained: Float[Tensor, "n"], name: str, index: str) -> go.Figure:
    """Theory as a line and what was trained as points, over an index from one."""
    x, hover = list(range(1, len(theory) + 1)), f"{index} %{{x}}<br>%{{y:.6g}}"
    figure = go.Figure()
    draw(figure, x, theory.tolist(), "theory", hover, mode="lines", line={"color": VERMILLION, "width": 3})
    draw(figure, x, trained.tolist(), "trained", hover, marker={"color": BLUE, "size": 8})
    return figure.update_traces(name=name, selector=0)
