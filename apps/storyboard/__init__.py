"""The story: screens that a visitor moves through, drawn in the browser from one payload of numbers.

Nothing that is moved needs the server: the browser computes predictions from the model's own weights and keeps its
place in the URL.
"""

from pathlib import Path

import streamlit as st
from streamlit.components.v2 import component

from storyboard.contract import Payload
from storyboard.payload import PAIRS, current

# what is moved, in the URL
NAMES = (
    "screen",
    "angle",
    "angles",
    "clock",
    "draw",
    "guess",
    "heads",
    "keys",
    "layers",
    "measured",
    "state",
    "test",
    "T",
)
WAYS_ON = ("models", "heads", "glossary")  # pages that the end leads to
ASSETS = Path(__file__).with_name("assets")
PARTS = ("contract.js", "params.js", "model.js", "draw.js", "screens/*.js", "main.js")


def script(*patterns: str) -> str:
    """The JavaScript in these files, in order."""
    files = [file for pattern in patterns for file in sorted(ASSETS.glob(pattern))]
    return "\n".join(file.read_text("utf-8") for file in files)


_component = component(
    "ar_interp_story",
    html=(ASSETS / "story.html").read_text("utf-8"),
    css=(ASSETS / "story.css").read_text("utf-8"),
    js=script(*PARTS),
)


def show() -> None:
    """Draw the story on the page, and go where its end leads."""
    chosen = _component(key="story", data=_payload(), on_open_change=lambda: None).open
    if chosen in WAYS_ON:
        st.switch_page(f"pages/{chosen}.py", query_params={"checkpoint": PAIRS})


@st.cache_data(show_spinner="Measuring what the story shows …")
def _payload() -> Payload:
    return current()
