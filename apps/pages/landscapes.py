"""The landscapes: where training ends over hundreds of seeds, and not at the best of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import plots
import streamlit as st
import view

CODE = """from ar_interp.studies.landscapes import LANDSCAPES

landscape = LANDSCAPES[{name!r}]
landscape.figures(landscape.open().counted)[{figure!r}]"""


@st.cache_resource(show_spinner=False)
def measured(name: str) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Figures of a shipped landscape, and its claims that take no training."""
    from ar_interp.studies.landscapes import LANDSCAPES

    opened = LANDSCAPES[name].open()
    figures = LANDSCAPES[name].figures(opened.counted)
    return {key: plots.specify(figure) for key, figure in figures.items()}, [one.to_dict() for one in opened.shown]


st.title("Landscapes")
st.markdown(
    "Every other page looks at one trained model. Here are the rows of whole sweeps: hundreds of random beginnings at "
    "each point of a grid, and where training took them. `ar-interp landscapes` trains some of the rows anew."
)
view.wait_for_imports()
for name, landscape in import_module("ar_interp.studies.landscapes").LANDSCAPES.items():
    st.subheader(landscape.title)
    st.markdown(landscape.question)
    with view.errors_shown(end=False):
        figures, claims = measured(name)
        verdicts = [claim["verdict"] for claim in claims]
        for key, figure in figures.items():
            kept = plots.show(
                figure,
                id=f"{name}-{key}".replace("_", "-"),
                look="",
                code=CODE.format(name=name, figure=key),
                claims=[view.claim_line(claim) for claim in claims],
                verdict=view.worst(verdicts),
                summary=f"What the rows show: {view.counted(verdicts)}",
                kept=(name, key) in view.basket(),
            )
            if kept:
                view.basket()[(name, key)] = kept
                st.rerun()
