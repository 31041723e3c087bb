"""A figure on a page: a component around the plotly.js of the installed package (assets/figure.js)."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from plotly.offline import get_plotlyjs
from streamlit.components.v2 import component

from ar_interp.report.typeset import figure_text, typeset

if TYPE_CHECKING:
    import plotly.graph_objects as go

ASSETS = Path(__file__).with_name("assets")
HEIGHT, MARGIN = 450, {"l": 68, "r": 16, "t": 100, "b": 84}  # of a figure that says nothing of them
PLOTLY = "/plotly/plotly.min.js"  # see serving.ROUTES


def specify(figure: go.Figure) -> dict[str, Any]:
    """A figure as the component wants it: its words as HTML, and what plotly.js draws below them."""
    text = str(figure.to_json())
    found = json.loads(text)
    layout = found["layout"]
    title = layout.pop("title", {})
    layout.pop("template", None)
    margin = {**MARGIN, **layout.get("margin", {})}
    top = 36 if layout.get("annotations") else 14  # of what is left without the title
    layout["height"] = layout.get("height", HEIGHT) + top - margin["t"]
    layout["margin"] = {**margin, "t": top}
    return {
        "title": figure_text(title.get("text", "")),
        "measured": figure_text(title.get("subtitle", {}).get("text", "")),
        "figure": found,
        "version": blake2b(text.encode(), digest_size=8).hexdigest(),
    }


def show(
    figure: Mapping[str, Any],
    *,
    id: str,
    look: str,
    code: str,
    claims: Sequence[str] = (),
    verdict: str = "",
    summary: str = "",
    kept: bool = False,
) -> dict[str, Any] | None:
    """Show a figure with its words as text, the claims that it bears on and the ways to take it away.

    Args:
        figure: see `specify`.
        id: of the element, unique on the page; the end of links to it, and the name of files made of it.
        look: what to look at, in the notation of `report.typeset`.
        code: lines of Python that draw it.
        claims: HTML, one each.
        verdict: of the claims together.
        summary: of the claims, shown while they are folded.
        kept: it is in the basket.
    Returns:
        What is to be kept of it, if the visitor has just asked for that.
    """
    words = {"look": typeset(look), "code": code, "claims": list(claims), "verdict": verdict, "summary": summary}
    data = {"id": id, "name": id, "plotly": PLOTLY, "kept": kept, **words, **figure}
    with st.container():  # what follows it waits until its height is known, see page.css
        found = _component()(key=f"figure {id}", data=data, on_keep_change=lambda: None)
    return {**words, **figure} if found.keep else None


def page(title: str, kept: Sequence[Mapping[str, Any]]) -> str:
    """Kept figures as one HTML page that needs no network: words, figure, claims and the lines that draw it."""
    parts, specifications = [], []
    for number, figure in enumerate(kept):
        claims = "".join(f"<li>{claim}</li>" for claim in figure["claims"])
        parts.append(
            f"<h2>{figure['title']}</h2><p>{figure['measured']}</p><div id='figure{number}'></div>"
            f"<p>{figure['look']}</p><ul>{claims}</ul><details><summary>Python</summary>"
            f"<pre>{html.escape(figure['code'])}</pre></details>"
        )
        specifications.append(figure["figure"])
    drawn = json.dumps(specifications).replace("<", "\\u003c")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        "<style>body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}<script>{get_plotlyjs()}</script>"
        f"<script>{drawn}.forEach((one, i) => Plotly.newPlot(`figure${{i}}`, one.data, one.layout, "
        "{responsive: true}))</script></html>"
    )


def _component() -> Any:
    """The component, made known to the server that runs; it is the same each time."""
    return component("ar_figure", **_sources(), isolate_styles=False)


@cache
def _sources() -> dict[str, str]:
    return {kind: (ASSETS / f"figure.{kind}").read_text("utf-8") for kind in ("html", "css", "js")}
