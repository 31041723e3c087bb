"""The explorer: `streamlit run apps/explorer.py`. One file per page in apps/pages/."""

import streamlit as st

st.set_page_config(page_title="ar_interp explorer", page_icon=":material/motion_blur:", layout="wide")
st.session_state["in explorer"] = True  # see view.open_page
st.navigation(
    [
        st.Page("pages/overview.py", title="Overview", icon=":material/summarize:", default=True),
        st.Page("pages/in_context_w.py", title="In-context W", icon=":material/timeline:", url_path="in_context_w"),
        st.Page("pages/algorithm.py", title="Algorithm", icon=":material/function:", url_path="algorithm"),
        st.Page("pages/heads.py", title="Heads", icon=":material/grid_on:", url_path="heads"),
        st.Page(
            "pages/positional_encoding.py",
            title="Positional encoding",
            icon=":material/stacked_line_chart:",
            url_path="positional_encoding",
        ),
        st.Page("pages/circuits.py", title="Circuits", icon=":material/account_tree:", url_path="circuits"),
        st.Page("pages/readout.py", title="Readout", icon=":material/search:", url_path="readout"),
        st.Page("pages/interventions.py", title="Interventions", icon=":material/tune:", url_path="interventions"),
    ]
).run()
