"""The controls of figures and of the checkpoint, whose values stand in the URL.

The URL is the one truth about the selection: widgets write to it before a rerun, and are set from it. Streamlit
empties it when the page changes, so the selection is also remembered in the session and written back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import streamlit as st
from terms import plain

if TYPE_CHECKING:
    from ar_interp.studies import Control

STEP = 0.05  # of sliders of real numbers


def keep_selection() -> None:
    """Remember what the URL says for pages that are opened later."""
    for name, value in st.query_params.items():
        st.session_state[f"remembered {name}"] = value


def forget(names: Iterable[str]) -> None:
    """Leave these parts of the URL out of what is remembered: they are one page's own."""
    for name in names:
        st.session_state.pop(f"remembered {name}", None)


def write_back() -> None:
    """Remember what the URL says, and write to it what is remembered."""
    keep_selection()
    for name in [name.removeprefix("remembered ") for name in st.session_state if str(name).startswith("remembered ")]:
        remember(name, recall(name))


def take(name: str, widget: str) -> None:
    """Write the value of a widget to the URL."""
    value = st.session_state[widget]
    st.query_params[name] = "" if value is None else str(value)


def recall(name: str) -> str:
    """The value of a name in the URL, or what it was on another page; empty if it never had one."""
    return st.query_params.get(name, st.session_state.get(f"remembered {name}", ""))


def remember(name: str, value: str) -> str:
    """Write a value to the URL, and keep it for pages that are opened later."""
    st.session_state[f"remembered {name}"] = value
    if st.query_params.get(name) != value:  # each write is a message to the browser, and a change of its history
        st.query_params[name] = value
    return value


def choose(control: Control) -> Any:
    """The value of a control from the URL or its widget; what is out of bounds is brought inside."""
    name, text = control.name, recall(control.name)
    help = plain(control.meaning) or None
    widget: dict[str, Any] = {"key": name, "on_change": take, "args": (name, name), "help": help}
    if control.kind == "choice":
        labels = {str(option): option for option in (control.default, *control.options)}
        chosen = text if text in labels else str(control.default)
        _set(name, chosen)
        st.selectbox(control.label, list(labels), format_func=lambda text: _in_words(labels[text]), **widget)
        return labels[remember(name, chosen)]
    if control.kind == "sequence":
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
        values = [float(n) if "." in n else int(n) for n in numbers] or list(control.default)
        _set(name, remember(name, ", ".join(map(str, values))))
        st.text_input(control.label, **widget)
        return values
    if control.kind == "integer":
        low, high, step = int(control.low), int(control.high), 1
        asked = int(text) if re.fullmatch(r"-?\d{1,9}", text) else control.default
    else:
        low, high, step = math.trunc(control.low / STEP) * STEP, math.trunc(control.high / STEP) * STEP, STEP
        asked = _number(text)
    value = min(max(asked, low), high) if math.isfinite(asked) else control.default
    if low < high:
        _set(name, value)
        st.slider(control.label, low, high, step=step, **widget)
    remember(name, f"{value:g}")
    return value


def _set(widget: str, value: Any) -> None:
    """Give a widget another value; one that has it already keeps what its visitor has done to it since."""
    if st.session_state.get(widget) != value:
        st.session_state[widget] = value


def _in_words(option: Any) -> str:
    """An option of a control as a reader wants it: offsets of keys and paths are tuples."""
    if isinstance(option, tuple) and all(isinstance(part, int) for part in option):
        return "the newest key" if option == (0,) else f"the newest {len(option)} keys"
    if isinstance(option, tuple):
        return " and ".join("query {}, key {}, value {}".format(*path) for path in option)
    return str(option)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
