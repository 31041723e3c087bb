"""Figures of regression in context: learned features, the kernel's spectrum, the risk by prompts, order and tasks."""

from typing import Any

import pandas as pd
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
    mark,
    number,
    styled,
)
from ar_interp.probes.regression import KernelStructure

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, BLACK, PURPLE, SKY, GREY)


def learned_features(structure: KernelStructure) -> go.Figure:
    """Learned features, turned within their span to match the functions of largest variance, beside these."""
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
        x={"title_text": "eigenvalue", "dtick": 1},
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
        expected="In theory longer prompts do not cure a Γ that was trained short" if "best Γ at each n" in at else "",
        x={**LOG, "title_text": "examples n"},
        y={**LOG, "title_text": "risk"},
        wide=True,
    )


def risk_by_order(risks: pd.DataFrame) -> go.Figure:
    """Risk of learned features and of all functions in two orders, against the number of examples.

    Args:
        risks: columns predictor, n, risk.
    """
    figure, last = go.Figure(), {}
    groups: Any = risks.groupby("predictor", sort=False)
    for k, (name, rows) in enumerate(groups):
        look = {"mode": "lines+markers", "line": {"color": COLOURS[k % len(COLOURS)]}}
        draw(figure, rows["n"], rows["risk"], str(name), "n = %{x}<br>%{y:.4g}", **look)
        last[str(name)] = rows["risk"].iloc[-1]
    by_variance, by_frequency = list(last.values())[1:]
    return styled(
        figure,
        title=f"At {risks['n'].max()} examples the order of frequency costs {number(by_frequency / by_variance)} times "
        "the risk of the order of variance",
        measured="exact risk of linear attention with its best Γ at each number of examples; "
        f"by frequency with the Γ of the smoothness alone: {number(by_frequency)} against {number(by_variance)}",
        expected="Learned features lie on the lower curve up to what N of them leave out",
        x={**LOG, "title_text": "examples n"},
        y={**LOG, "title_text": "risk"},
        wide=True,
    )


def excess_by_tasks(excesses: pd.DataFrame, joint: pd.DataFrame) -> go.Figure:
    """Excess risk of a finite number of tasks against that number, beside N^2.

    Args:
        excesses: columns protocol, weights, tasks, excess, half_width, formula, see `probes.regression`.
        joint: columns tasks, excess: of models whose features were trained on that many tasks too; may be empty.
    """
    figure = go.Figure()
    groups: Any = excesses.groupby("protocol", sort=False)
    for k, (name, rows) in enumerate(groups):
        look: Any = {"legendgroup": str(k), "line": {"color": COLOURS[k % len(COLOURS)]}}
        hover = "T = %{x}<br>%{y:.3g}"
        draw(figure, rows["tasks"], rows["excess"], name, hover, error=rows["half_width"], **look)
        look["line"] = {**look["line"], "dash": "dot", "width": 1}
        hover = "T = %{x}<br>%{y:.3g} in theory"
        draw(figure, rows["tasks"], rows["formula"], f"{name}, theory", hover, mode="lines", showlegend=False, **look)
    if len(joint):
        marker = {"symbol": "diamond-open", "size": 9, "color": BLACK}
        name, hover = "features trained on T tasks too", "T = %{x}<br>%{y:.3g}"
        draw(figure, joint["tasks"], joint["excess"], name, hover, marker=marker)
    most = int(excesses["weights"].to_numpy().max())
    seeds = "; diamonds: a training seed each" if len(joint) else ""
    mark(figure, most)
    full: Any = excesses[excesses["weights"] == most]
    first = full.iloc[0]
    return styled(
        figure,
        title=f"With one noisy answer a task, T = {first['tasks']} tasks cost {number(first['excess'])} of risk, "
        f"T = {full['tasks'].iloc[-1]} cost {number(full['excess'].iloc[-1])}",
        measured="risk of Γ fitted to T tasks less that of the best, means over samples with 95 % intervals; dots: "
        f"theory, as for a Gaussian design; dashed: N² = {most}{seeds}",
        expected="In theory T must exceed N² with one answer, N with a diagonal Γ or all of f",
        x={**LOG, "title_text": "tasks T"},
        y={**LOG, "title_text": "excess risk"},
        wide=True,
    )
