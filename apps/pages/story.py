"""The story, for visitors who have never heard of the paper."""

import storyboard
import streamlit as st
import view

if asked := st.query_params.get("no_page"):
    st.info(f"There is no page *{view.plain(asked[:80])}*: this is the first one, and the menu has all of them.")
view.forget((*storyboard.NAMES, "no_page"))
storyboard.show()
