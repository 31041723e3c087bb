"""The explorer: `streamlit run apps/explorer.py`. One file per page in apps/pages/, which is named as in the URL."""

import streamlit as st

st.set_page_config(page_title="ar_interp explorer", page_icon=":material/motion_blur:", layout="wide")
st.session_state["in explorer"] = True  # see view.open_page

PAGES = {
    "overview": ("Overview", "summarize"),
    "in_context_w": ("In-context W", "timeline"),
    "algorithm": ("Algorithm", "function"),
    "heads": ("Heads", "grid_on"),
    "positional_encoding": ("Positional encoding", "stacked_line_chart"),
    "circuits": ("Circuits", "account_tree"),
    "readout": ("Readout", "search"),
    "interventions": ("Interventions", "tune"),
}
st.navigation(
    [
        st.Page(f"pages/{file}.py", title=title, icon=f":material/{icon}:", default=file == "overview")
        for file, (title, icon) in PAGES.items()
    ]
).run()
