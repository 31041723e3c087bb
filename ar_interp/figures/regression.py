"""Figures of regression in context: learned features, the kernel's spectrum, the risk by the length of a prompt."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ar_interp.figures.style import BLACK, BLUE, GREEN, GREY, LOG, ORANGE, VERMILLION, draw, mark, number, styled
from ar_interp.probes.regression import KernelStructure

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, BLACK, GREY)


def learned_features(structure: KernelStructure) -> go.Figure:
    """What the features span, turned to match the functions of largest variance, beside these."""
    figure = go.Figure()
    for j, (span, target) in enumerate(zip(structure.span.mT, structure.target.mT, strict=True)):
        colour, hover = COLOURS[j % len(COLOURS)], f"function {j + 1}<br>x = %{{x:.3f}}<br>%{{y:.3g}}"
        look = {"legendgroup": str(j), "mode": "lines"}
        draw(figure, structure.x.tolist(), span.tolist(), f"learned {j + 1}", hover, line={"color": colour}, **look)
        dotted = {"color": colour, "dash": "dot", "width": 1}
        draw(figure, structure.x.tolist(), target.tolist(), f"theory {j + 1}", hover, line=dotted, **look)
    return styled(
        figure,
        title=f"The features span the functions of largest variance to {number(structure.angle)}°",
        measured=f"largest principal angle in L², {len(structure.target.mT)} functions; lines are learned, dots theory",
        expected="In theory the best N features span exactly these",
        x="x",
        y="function of unit norm",
        wide=True,
    )


def kernel_spectrum(structure: KernelStructure) -> go.Figure:
    """Eigenvalues of phi^T Gamma phi' beside gamma."""
    figure, table = go.Figure(), structure.spectrum
    places = range(1, len(table) + 1)
    draw(
        figure,
        places,
        table["gamma"],
        "theory, γ",
        "%{y:.4g}",
        marker={"symbol": "circle-open", "size": 14, "color": BLACK},
    )
    draw(figure, places, table["eigenvalue"], "kernel", "%{y:.4g}", marker={"symbol": "x", "size": 8, "color": BLUE})
    return styled(
        figure,
        title=f"Eigenvalues of the kernel are γ to {number(structure.spectrum_error)}",
        measured=f"asymmetry |k − kᵀ|/|k| = {number(structure.asymmetry)}; risk {number(structure.risk)}, "
        f"{number(structure.best_risk)} with the best Γ for these features, {number(structure.minimum)} in theory",
        x="eigenvalue",
        y="size",
    )


def risk_by_length(risks: pd.DataFrame, trained_length: int) -> go.Figure:
    """Risk of several predictors against the number of examples.

    Args:
        risks: columns predictor, n, risk, half_width.
        trained_length: examples in a prompt of training.
    """
    figure = go.Figure()
    groups: Any = risks.groupby("predictor", sort=False)
    for k, (name, rows) in enumerate(groups):
        look = {"mode": "lines+markers", "line": {"color": COLOURS[k % len(COLOURS)]}}
        draw(figure, rows["n"], rows["risk"], str(name), "n = %{x}<br>%{y:.4g}", error=rows["half_width"], **look)
    mark(figure, trained_length)
    at: Any = risks[risks["n"] == trained_length].set_index("predictor")["risk"]
    return styled(
        figure,
        title=f"The model's risk is {number(at['model'])} at {trained_length} examples, Bayes' {number(at['Bayes'])}",
        measured="E (answer − f(x))² against the number of examples; dashed: the length trained on",
        expected="In theory longer prompts do not cure a Γ that was trained short",
        x={**LOG, "title_text": "examples n"},
        y={**LOG, "title_text": "risk"},
        wide=True,
    )
