"""Figures of `HeadOrthogonality`."""

import plotly.graph_objects as go

from ar_interp.figures.style import BLUE, GREY, LOG, VERMILLION, draw, heatmap, matrices, number, styled, threshold
from ar_interp.probes.heads import HeadOrthogonality
from ar_interp.setting import Setting

STATISTICS = {
    "e_m": "|M/m − I|",
    "e_p": "|M² − mM|/m²",
    "e_c": "|C² − mC|/m²",
    "cosine_ab": "cos(a<sub>h</sub>, b<sub>h'</sub>)",
    "cosine_aa": "cos(a<sub>h</sub>, a<sub>h'</sub>)",
    "balancedness": "|AAᵀ − BBᵀ|/|AAᵀ|",
}
COSINES = ("cosine_ab", "cosine_aa")


def head_matrices(heads: HeadOrthogonality, setting: Setting) -> go.Figure:
    """A, B, C = B^T A and M = A B^T on one colour scale."""
    panels = {
        "A (keys)": (heatmap(heads.A, rows="head", columns="coordinate", first_row=0), "head h", "coordinate i"),
        "B (values)": (heatmap(heads.B, rows="head", columns="coordinate", first_row=0), "head h", "coordinate i"),
        "C = BᵀA": (heatmap(heads.C, rows="coordinate", columns="coordinate"), "coordinate j", "coordinate i"),
        "M = ABᵀ": (heatmap(heads.M, rows="head", columns="head", first_row=0, first_column=0), "head h", "head h'"),
    }
    return styled(
        matrices(panels),
        title=f"C = BᵀA is {number(heads.e_c)} away from a multiple of a projector, and has rank {heads.rank}",
        expected=setting.sentence("heads"),
        measured=f"|C² − mC|/m² = {number(heads.e_c)}, m = tr M / rank = {number(heads.scale)}, rank {heads.rank}",
        height=250,
        wide=True,
        legend=False,
    )


def head_spectrum(heads: HeadOrthogonality, setting: Setting) -> go.Figure:
    """Singular values of C, descending."""
    values = heads.singular_values.tolist()
    hover = "number %{x}<br>%{y:.4g}<extra></extra>"
    figure = go.Figure(go.Bar(x=list(range(1, len(values) + 1)), y=values, marker={"color": BLUE}, hovertemplate=hover))
    threshold(figure, abs(heads.scale), "|m| = |tr M| / rank")
    return styled(
        figure,
        title=f"{heads.rank} of {len(values)} singular values of C are not zero; the largest is {number(max(values))}",
        expected=setting.sentence("spectrum"),
        measured=f"rank {heads.rank}, largest {number(max(values))}, smallest {number(min(values))}",
        x={"title_text": "number of the singular value", "dtick": 1 if len(values) <= 20 else None},
        y={"title_text": "singular value of C", "range": [0, 1.15 * max([*values, abs(heads.scale)])]},
        legend=False,
    )


def head_statistics(heads: HeadOrthogonality, untrained: HeadOrthogonality, setting: Setting) -> go.Figure:
    """Each statistic beside that of the same architecture with fresh weights, on a logarithmic axis."""
    figure = go.Figure()
    for name, result, colour, symbol in (
        ("this model", heads, BLUE, "circle"),
        ("untrained", untrained, VERMILLION, "diamond-open"),
    ):
        values = [getattr(result, statistic) for statistic in STATISTICS]
        marker = {"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}}
        draw(figure, values, STATISTICS.values(), name, "%{x:.3g}", marker=marker)
    marker = {"color": GREY, "symbol": "line-ns-open", "size": 18, "line": {"width": 2}}
    gaussian, cosines = [heads.untrained_cosine] * len(COSINES), [STATISTICS[name] for name in COSINES]
    draw(figure, gaussian, cosines, "1/√d, Gaussian heads", "%{x:.3g}", marker=marker)
    return styled(
        figure,
        title=f"C is {number(heads.e_c)} away from a multiple of a projector; untrained, {number(untrained.e_c)}",
        expected=setting.sentence("statistics"),
        measured="cosines are rms over h ≠ h'; within a head cos(a<sub>h</sub>, b<sub>h</sub>) is "
        f"{number(heads.alignment)} here, {number(untrained.alignment)} untrained",
        x={"title_text": "value (log scale)", **LOG},
        y={"title_text": "statistic", "autorange": "reversed", "automargin": True},
    )
