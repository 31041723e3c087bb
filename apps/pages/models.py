"""The shipped models by the question that they answer, a card for each study."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import streamlit as st
import terms
import view

import ar_interp as ari
from ar_interp import records
from ar_interp.report.typeset import typeset
from ar_interp.studies import Study, all_studies

PICTURES = Path(__file__).parents[1] / "assets" / "studies"
PAPERS = {
    "Sander et al. 2024": "https://arxiv.org/abs/2402.05787",
    "Zheng et al. 2024": "https://arxiv.org/abs/2405.16845",
    "Kim, Nakamaki and Suzuki 2024": "https://arxiv.org/abs/2408.12186",
    "Malach 2023": "https://arxiv.org/abs/2309.06979",
}
ANSWERS = {
    "diagonal heads": "Heads become orthogonal to each other, and one or two of the newest keys are all that counts.",
    "unfinished descent": "Training was stopped: the encoding is the filter that descent reaches in as many steps.",
    "gradient step": "One path carries the layer, and its step is as long as theory says.",
    "depth": "More than it has layers, since layers rewrite keys and values for those above.",
    "head count": "One is as good as any number where the first token prefers no direction; it asks with s_{T-1}.",
    "first token": "It sets the length of the step. Gaussian first tokens are never recovered.",
    "emergence": "By an exact recursion: a plateau, then a drop. From random starts only some end as one step.",
    "general models": "Mostly; what they miss is named beside each model.",
    "noise": "The step gets shorter, the older key goes, and four layers see more than any multiple of W s_T.",
    "regression": "The functions of largest variance and the kernel of theory, unless training gets stuck.",
    "chains": "Those of which each step is linear with a margin, exactly at the hidden bits; without one, nothing.",
}
OPENS = {  # the page and the model to begin with: what the picture shows
    "diagonal heads": ("Heads", "diagonal-orthogonal-h5"),
    "unfinished descent": ("Positional encoding", "positional-mu100"),
    "gradient step": ("Circuits", "augmented-unitary"),
    "depth": ("Algorithm", "augmented-haar-l4-keys"),
    "head count": ("Interventions", "plain-haar-h5"),
    "first token": ("In-context W", "initial-gaussian"),
    "emergence": ("Overview", "emergence-gaussian"),
    "general models": ("Algorithm", "figure5-l2"),
    "noise": ("Algorithm", "noisy-haar-l4"),
    "regression": (view.OTHERS, "regression-high"),
    "chains": (view.OTHERS, "chain-parity-joint"),
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
        st.markdown(f"**{terms.plain(study.question)}**")
        if picture.is_file():
            drawn = b64encode(picture.read_bytes()).decode()
            look = "ar-picture ar-inverted" if st.context.theme.type == "dark" else "ar-picture"
            st.html(f'<img class="{look}" alt="A figure of this study" src="data:image/svg+xml;base64,{drawn}">')
        if study.name in ANSWERS:
            st.html(f"<p>{typeset(ANSWERS[study.name])}</p>")
        st.markdown(f"Claims about its models: {view.counted(verdicts(names))}")
        page, first = OPENS.get(study.name, ("In-context W", names[0]))
        view.link_to(page, first, terms.plain(study.recipes[first].summary), label=f"Open {first}")
        if len(names) > 1:
            with st.expander(f"All {len(names)} models"):
                for name in names:
                    view.link_to(page, name)
                    st.html(f"<small>{typeset(study.recipes[name].summary)}</small>")
        link = next((address for paper, address in PAPERS.items() if paper in study.source), "")
        st.markdown(f"[{study.source}]({link})" if link else study.source)


st.title("Models by question")
st.markdown(
    "Every model was trained to answer one question. Open one, and the pages of the menu show what is inside it. "
    "Each answer is made of *claims*: what theory predicts, what was measured, and whether the two agree."
)
asked = [study for study in all_studies() if study.recipes]
for first in range(0, len(asked), 2):
    for column, study in zip(st.columns(2), asked[first : first + 2], strict=False):
        with column, view.errors_shown(end=False):
            show_card(study)
