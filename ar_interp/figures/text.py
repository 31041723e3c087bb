"""Figure of `TextRegularity`: how much of the next word a matrix tells, beside what must destroy it."""

import plotly.graph_objects as go

from ar_interp.figures.style import BLUE, GREY, draw, number, styled
from ar_interp.probes.text import KINDS, TextRegularity

SHOWN = ("R2", "blocks", "corpus", "within", "transposed")  # orthogonal W and copying lie far below
LABELS = {
    "R2": "own W",
    "blocks": "blocks kept",
    "corpus": "W of others",
    "within": "order permuted",
    "transposed": "W<sup>T</sup>",
}


def text_regularity(found: TextRegularity) -> go.Figure:
    """R^2 of every document under each kind of W and of order, with its null: the same words in random order."""
    table, figure = found.documents, go.Figure()
    for kind in SHOWN:
        hover = f"{KINDS[kind]}<br>%{{y:.4f}}"
        draw(
            figure,
            [LABELS[kind]] * len(table),
            table[kind],
            LABELS[kind],
            hover,
            marker={"color": BLUE, "opacity": 0.5},
            showlegend=False,
        )
    means = [table[kind].mean() for kind in SHOWN]
    mean_look = {"symbol": "line-ew", "size": 34, "line": {"width": 3, "color": BLUE}}
    draw(figure, [LABELS[kind] for kind in SHOWN], means, "mean", "%{y:.4f}", marker=mean_look)
    null = table["null"].mean()
    figure.add_hline(y=null, line={"color": GREY, "dash": "dash"})
    figure.add_annotation(
        x=0, xref="paper", xanchor="left", y=null, yanchor="top", text="all words permuted", showarrow=False
    )
    gain, error = found.gain
    far = " and ".join(
        f"{table[kind].mean():.2f} for {what}"
        for kind, what in (("orthogonal", "the best orthogonal W"), ("copy", "copying"))
    )
    return styled(
        figure,
        title=f"A matrix tells {100 * (means[0] - null):.1f} % of the variance of the next word",
        measured=f"{len(table)} documents, {found.dim} coordinates; R² is {far}. Beyond the W of all other documents a "
        f"document's first half adds {number(gain)} (standard error {number(error)}) to the R² of its second",
        y="R² of the next word, cross-validated",
        wide=True,
    )
