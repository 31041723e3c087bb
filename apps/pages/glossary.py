"""The glossary."""

import streamlit as st
from terms import TERMS

from ar_interp.report.typeset import slug, typeset

st.title("Glossary")
st.markdown(
    "The papers: Sander et al. 2024, [How do Transformers perform In-Context Autoregressive Learning?]"
    "(https://arxiv.org/abs/2402.05787), and Zheng et al. 2024, [On Mesa-Optimization in Autoregressively Trained "
    "Transformers](https://arxiv.org/abs/2405.16845)."
)
terms = "".join(
    f'<dt id="{slug(term)}">{typeset(term)}</dt><dd>{typeset(meaning)}</dd>' for term, meaning in TERMS.items()
)
st.html(f'<dl class="ar-terms">{terms}</dl>')
