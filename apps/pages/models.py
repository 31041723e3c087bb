"""The shipped models by the question that they answer, a card for each study."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
import view

import ar_interp as ari
from ar_interp import records
from ar_interp.studies import Study, all_studies

PICTURES = Path(__file__).parents[1] / "assets" / "studies"
PAPERS = {
    "Sander et al. 2024": "https://arxiv.org/abs/2402.05787",
    "Zheng et al. 2024": "https://arxiv.org/abs/2405.16845",
}
OPENS = {  # the page to begin with, where it is not the estimate of W
    "unfinished descent": "Positional encoding",
    "gradient step": "Circuits",
    "depth": "Algorithm",
    "head count": "Interventions",
}


@st.cache_data(show_spinner=False)
def verdicts(names: tuple[str, ...]) -> list[str]:
    """The verdicts of all claims about these checkpoints, as they were shipped."""
    found = [records.read(ari.load(name)) for name in names]
    return [row["verdict"] for record in found if record for row in record.rows]


def show_card(study: Study) -> None:
    """The question, its picture, what the claims say, and the models to open."""
    names = tuple(name for name in study.recipes if name in ari.available())
    picture = PICTURES / f"{study.name.replace(' ', '-')}.svg"
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{view.plain(study.question)}**")
        if picture.is_file():
            drawn = picture.read_text("utf-8")
            st.html(f'<div class="ar-picture" role="img" aria-label="A figure of this study">{drawn}</div>')
        st.markdown(view.counted(verdicts(names)))
        page = OPENS.get(study.name, "In-context W")
        with st.container(horizontal=True, gap="small"):
            for name in names:
                view.link_to(page, name, view.plain(study.recipes[name].summary))
        link = next((address for paper, address in PAPERS.items() if paper in study.source), "")
        st.markdown(f"[{study.source}]({link})" if link else study.source)


st.html(f"<style>{view.STYLE}</style>")
st.title("Models by question")
st.markdown(
    "Every model was trained to answer one question. Open one, and the pages on the left show what is inside it."
)
asked = [study for study in all_studies() if study.recipes]
for first in range(0, len(asked), 2):
    for column, study in zip(st.columns(2), asked[first : first + 2], strict=False):
        with column, view.errors_shown(end=False):
            show_card(study)
