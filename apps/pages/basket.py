"""The figures that a visitor has kept, which become one page to take away."""

import plots
import streamlit as st
import view

st.title("Basket")
kept = view.basket()
if not kept:
    st.info("Nothing is kept yet. Below every figure is a button *Keep*; what is kept becomes a page to take away.")
    st.stop()
title = st.text_input("Title of the report", "What is inside these models")
st.download_button(
    "Take it away as one page (HTML)",
    lambda: plots.page(title, list(kept.values())),
    "report.html",
    "text/html",
    on_click="ignore",
)
for number, (key, figure) in enumerate(list(kept.items())):
    st.subheader(key[0])
    about = {name: figure[name] for name in ("code", "claims", "verdict", "summary")}
    plots.show(figure, id=f"kept-{number}", look="", kept=True, **about)  # which has what to look at as HTML
    if st.button("Leave it out", key=f"leave {number}"):
        del kept[key]
        st.rerun()
