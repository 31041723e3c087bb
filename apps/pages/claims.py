"""Claims from a file of the visitor's own, shown as those of the shipped models are."""

import claimed
import streamlit as st
import terms
import view

from ar_interp.claims import Claims

st.title("Claims of your own")
st.markdown(
    "A file that `claims.to_json(path)` or `ar-interp verify --json FILE` wrote, of at most 1 MB. It is read here, and "
    "kept nowhere."
)
file = st.file_uploader("Claims as JSON", type="json", key="claims")
if file is not None:
    with view.errors_shown():
        text = file.getvalue().decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
        if not text.startswith("{"):  # what does not is the name of a file to `every_of`
            raise ValueError(f"{file.name} holds no JSON object: claims.to_json(path) writes one.")
        for claims in Claims.every_of(text):
            st.subheader(terms.plain(claims.name))
            claimed.show([claim.to_dict() for claim in claims], "by whoever made this file")
