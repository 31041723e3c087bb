"""The explorer: `streamlit run apps/explorer.py`, which starts the server and then shows each visitor a page.

One file per page in apps/pages/, which is named as in the URL. Folders of one's own are opened below those that are
allowed: `streamlit run apps/explorer.py -- --allow FOLDER`.
"""

import serving
import streamlit as st
import view

if serving.starts():
    serving.take_arguments()
    app = st.App(
        __file__,
        lifespan=serving.warm_up,
        middleware=serving.MIDDLEWARE,
        routes=serving.ROUTES,
        on_script_error=view.tell,
    )
else:
    st.set_page_config(page_title="ar_interp explorer", page_icon="🌀", layout="wide")
    st.navigation(view.navigation()).run()
