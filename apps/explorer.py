"""The explorer: `streamlit run apps/explorer.py`, which starts the server and then shows each visitor a page.

One file per page in apps/pages/, which is named as in the URL. Folders of one's own are opened below those that are
allowed: `streamlit run apps/explorer.py -- --allow FOLDER`.
"""

import serving
import streamlit as st
import view

PAGES = {
    "story": ("Story", "auto_stories"),
    "overview": ("Overview", "summarize"),
    "in_context_w": ("In-context W", "timeline"),
    "algorithm": ("Algorithm", "function"),
    "heads": ("Heads", "grid_on"),
    "positional_encoding": ("Positional encoding", "stacked_line_chart"),
    "circuits": ("Circuits", "account_tree"),
    "readout": ("Readout", "search"),
    "interventions": ("Interventions", "tune"),
}

if serving.starts():
    serving.take_arguments()
    app = st.App(__file__, lifespan=serving.warm_up, middleware=serving.MIDDLEWARE, on_script_error=view.tell)
else:
    st.set_page_config(page_title="ar_interp explorer", page_icon="🌀", layout="wide")
    st.session_state["in explorer"] = True  # see view.open_page
    st.session_state.update({f"remembered {name}": value for name, value in st.query_params.items()})
    st.navigation(
        [
            st.Page(f"pages/{file}.py", title=title, icon=f":material/{icon}:", default=file == "story")
            for file, (title, icon) in PAGES.items()
        ]
    ).run()
