"""Figures on the page: how wide they are, and their data for plotly.js."""

from collections.abc import Iterable
from typing import Any

import plotly.io

from ar_interp.report.exhibits import Drawn

TOP, TOP_WITH_LABELS = 14, 36  # margin above a figure, pixels
PLOTLY_HEIGHT, PLOTLY_TOP = 450, 100  # of a figure that says nothing of them


def widths(exhibits: tuple[Drawn, ...]) -> list[str]:
    """`wide` or `half` for each; halves come in pairs, and one that is left over is wide."""
    found: list[str] = []
    for exhibit in exhibits:
        if exhibit.wide and found.count("half") % 2:
            found[-1] = "wide"
        found.append("wide" if exhibit.wide else "half")
    if found.count("half") % 2:
        found[-1] = "wide"
    return found


def figures(exhibits: Iterable[Drawn]) -> dict[str, Any]:
    """The data of figures, and the look that all of them share."""
    return {
        "template": plotly.io.templates["plotly_white"].to_plotly_json(),
        "figures": [specification(exhibit) for exhibit in exhibits],
    }


def specification(exhibit: Drawn) -> dict[str, Any]:
    """The figure without its title, which is text of the page."""
    found = exhibit.to_dict()
    layout = found["layout"]
    layout.pop("title", None)
    top = TOP_WITH_LABELS if layout.get("annotations") else TOP
    margin = layout.setdefault("margin", {})
    layout["height"] = layout.get("height", PLOTLY_HEIGHT) - margin.get("t", PLOTLY_TOP) + top
    margin["t"] = top
    return found
