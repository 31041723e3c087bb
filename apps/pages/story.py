"""The story, for visitors who have never heard of the paper."""

import controls
import storyboard
import streamlit as st
import terms

if asked := st.query_params.get("no_page"):
    st.info(f"There is no page *{terms.plain(asked[:80])}*: this is the first one, and the menu has all of them.")
controls.forget((*storyboard.NAMES, "no_page"))
storyboard.show()
