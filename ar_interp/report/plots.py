"""Figures on the page: their titles and captions as text, their data as JSON for plotly.js."""

from typing import Any

import plotly.io

from ar_interp.report.content import Report
from ar_interp.report.exhibits import Exhibit
from ar_interp.report.typeset import figure_text, typeset

TOP, TOP_WITH_LABELS = 14, 36  # margin above a figure, pixels


def figure_element(exhibit: Exhibit, *, number: int, width: str) -> str:
    """A figure in words, and the place where page.js draws it.

    Args:
        number: of its data in `figures`.
        width: `wide` or `half`.
    """
    layout = exhibit.figure.layout
    height = specification(exhibit)["layout"]["height"]
    return (
        f'<figure class="{width}"><p class="title">{figure_text(layout.title.text)}</p>'
        f'<p class="measured">{figure_text(layout.title.subtitle.text)}</p>'
        f'<div class="plot" data-number="{number}" data-width="{width}" style="height:{height}px"></div>'
        f"<figcaption>{typeset(exhibit.look)}</figcaption></figure>"
    )


def widths(exhibits: tuple[Exhibit, ...]) -> list[str]:
    """`wide` or `half` for each; halves come in pairs, and one that is left over is wide."""
    found: list[str] = []
    for exhibit in exhibits:
        if exhibit.wide and found.count("half") % 2:
            found[-1] = "wide"
        found.append("wide" if exhibit.wide else "half")
    if found.count("half") % 2:
        found[-1] = "wide"
    return found


def figures(report: Report) -> dict[str, Any]:
    """The data of every figure in the order of the page, and the look that all of them share."""
    exhibits = [
        e for one in report.examined for section in one.sections for part in section.parts for e in part.exhibits
    ]
    return {
        "template": plotly.io.templates["plotly_white"].to_plotly_json(),
        "figures": [specification(exhibit) for exhibit in exhibits],
    }


def specification(exhibit: Exhibit) -> dict[str, Any]:
    """The figure without its title, which is text of the page."""
    found = exhibit.to_dict()
    layout = found["layout"]
    del layout["title"]
    top = TOP_WITH_LABELS if layout.get("annotations") else TOP
    layout["height"] -= layout["margin"]["t"] - top
    layout["margin"]["t"] = top
    return found
