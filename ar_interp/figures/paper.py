"""Figures for papers: as wide as a column, in the size of its text, as PDF, SVG or PNG."""

from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ar_interp._checks import check_choice, check_number

FORMATS = (".pdf", ".svg", ".png")
PIXELS = 96  # per inch
POINTS = 72
DENSE = 3  # pixels of a PNG for each of the figure: 288 dpi
ABOVE, BELOW = 0.12, 0.75  # inches beside the plot: above it, and below it for axis and legend
POWERS = 1.25  # plotly draws powers of ten so much larger
LABELS = 6  # of a log axis at most


def save(
    figure: go.Figure,
    path: str | Path,
    *,
    width: float = 3.3,
    height: float | None = None,
    font_size: float = 8,
    title: bool = False,
) -> Path:
    """Write a figure as it stands in a column of a paper; the figure itself stays as it is.

    It needs the extra `paper` (kaleido) and Chrome or Chromium; nothing is loaded from elsewhere.

    Args:
        path: a file that ends in .pdf, .svg or .png; replaced if it is there.
        width: inches; 3.3 is a column of two, 6.75 a page.
        height: inches; three quarters of the width, and room for the legend, if left out.
        font_size: points.
        title: keep title and subtitle, which a caption says in a paper.
    Raises:
        ValueError: another ending, sizes that are not positive.
        ImportError: kaleido is not installed.
    """
    path = Path(path)
    check_choice("the ending of path", path.suffix.lower(), FORMATS)
    for name, value in (("width", width), ("font_size", font_size), ("height", 1 if height is None else height)):
        check_number(name, value, low=0.0, strict=True)
    if find_spec("kaleido") is None:
        raise ImportError("figures.save needs the extra paper: pip install 'ar-interp[paper]', and Chrome or Chromium.")
    size = font_size * PIXELS / POINTS
    shown = go.Figure(figure)
    layout: Any = shown.layout
    legend = bool(layout.showlegend)
    height = 0.75 * width + legend * BELOW / 2 if height is None else height
    font: dict[str, Any] = {"size": size, "color": "#000000"}
    above = layout.margin.t / PIXELS if title else ABOVE
    below = BELOW if legend else BELOW * 0.6
    shown.update_layout(
        width=width * PIXELS,
        height=height * PIXELS,
        font=font,
        margin={"l": 5.5 * size, "r": size, "t": above * PIXELS, "b": below * PIXELS},
        legend={"font": font, "y": -4 * size / ((height - above - below) * PIXELS)},
    )
    if not title:
        layout.title = None
    shown.update_xaxes(tickfont=font, title_font=font, title_standoff=2)
    shown.update_yaxes(tickfont=font, title_font=font, title_standoff=2)
    axes: list[Any] = [*shown.select_xaxes(), *shown.select_yaxes()]
    for axis in axes:
        decades = abs(axis.range[1] - axis.range[0]) if axis.type == "log" and axis.range is not None else 0
        if decades >= 1:
            axis.update(dtick=ceil(decades / LABELS), tickfont_size=size / POWERS)  # of decades, as large as all others
    shown.update_annotations(font_size=size)
    shown.write_image(path, scale=DENSE if path.suffix.lower() == ".png" else 1)
    return path
