"""All that the pages share: the selection (sidebar and URL), and the exhibits of a page with their controls and code.

The URL is the one truth about the selection: widgets write to it before a rerun, and are set from it. Streamlit
empties it when the page changes, so the selection is also remembered in the session and written back.
"""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import serving
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

import ar_interp as ari

if TYPE_CHECKING:
    from ar_interp.claims import Subject
    from ar_interp.studies import Control, Exhibit

EXPLORER = Path(__file__).with_name("explorer.py")
STEP = 0.05  # of sliders of real numbers
DEFAULT = "diagonal-unitary-h10"
N_RESULTS = 64  # kept of each checkpoint


def show_page(title: str, summary: str) -> None:
    """A page of exhibits; a model that has none of them is told so."""
    checkpoint = open_page(title, summary)
    serving.import_all()
    with errors_shown():
        if not show_exhibits(checkpoint, title):
            st.info(f"Nothing on this page applies to this model: {plain(checkpoint.config.summary)}.")


def open_page(title: str, summary: str) -> ari.Checkpoint:
    """The head of a page and the checkpoint of the sidebar; one that cannot be read ends the page."""
    _enter_through_explorer()
    for name, value in st.query_params.items():
        st.session_state[f"remembered {name}"] = value
    for name in [name.removeprefix("remembered ") for name in st.session_state if str(name).startswith("remembered ")]:
        _remember(name, _recall(name))
    st.title(title)
    st.markdown(summary)
    name = _select_checkpoint()
    with errors_shown():
        return serving.load(name)


def show_exhibits(checkpoint: ari.Checkpoint, page: str) -> int:
    """The exhibits that the studies have for a page and this model, in reading order; returns how many."""
    from ar_interp.claims import subject_of
    from ar_interp.studies import exhibits_of

    subject = subject_of(checkpoint)
    exhibits = [exhibit for exhibit in exhibits_of(subject) if exhibit.page == page]
    shared = {control.name: control for exhibit in exhibits for control in exhibit.controls(subject)}
    with st.sidebar:
        values = {name: _choose(control) for name, control in shared.items() if control.kind == "integer"}
    places = _places([exhibit.wide for exhibit in exhibits])
    for exhibit, place in zip(exhibits, places, strict=True):
        with place, errors_shown(end=False):
            _show(checkpoint, subject, exhibit, values)
    return len(exhibits)


def _show(checkpoint: ari.Checkpoint, subject: Subject, exhibit: Exhibit, shared: dict[str, Any]) -> None:
    """A figure with the controls that are its own, what to look at, and the lines that reproduce it."""
    values = {c.name: shared[c.name] if c.name in shared else _choose(c) for c in exhibit.controls(subject)}
    kept = _results(checkpoint)
    with st.spinner(f"Measuring: {exhibit.title} …"):
        result = exhibit.result(subject, values, kept)
    if len(kept) > N_RESULTS:
        del kept[next(iter(kept))]
    st.plotly_chart(exhibit.draw(subject, result, **values), theme=None, config={"displaylogo": False})
    st.caption(plain(exhibit.look))
    show_code(exhibit.code.format(**values))


def show_code(code: str) -> None:
    """Lines of Python that run as they are."""
    with st.expander("Python", icon=":material/code:"):
        st.code(f"import ar_interp as ari\n\ncheckpoint = ari.load({_recall('checkpoint')!r})\n{code}")


def _places(wide: list[bool]) -> list[Any]:
    """Containers in which halves of a page come in pairs; one that is left over takes it all."""
    found: list[Any] = []
    while len(found) < len(wide):
        pair = wide[len(found) : len(found) + 2] == [False, False]
        found += st.columns(2) if pair else [st.container()]
    return found


def _choose(control: Control) -> Any:
    """The value of a control from the URL or its widget; what is out of bounds is brought inside."""
    name, text = control.name, _recall(control.name)
    help = plain(control.meaning) or None
    widget: dict[str, Any] = {"key": name, "on_change": _take, "args": (name, name), "help": help}
    if control.kind == "choice":
        labels = {str(option): option for option in (control.default, *control.options)}
        chosen = text if text in labels else str(control.default)
        st.session_state[name] = chosen
        st.selectbox(control.label, list(labels), **widget)
        return labels[_remember(name, chosen)]
    if control.kind == "sequence":
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
        values = [float(n) if "." in n else int(n) for n in numbers] or list(control.default)
        st.session_state[name] = _remember(name, ", ".join(map(str, values)))
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
        st.session_state[name] = value
        st.slider(control.label, low, high, step=step, **widget)
    _remember(name, f"{value:g}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@contextmanager
def errors_shown(*, end: bool = True) -> Iterator[None]:
    """An error is shown on the page as a sentence, and ends the page unless `end` is false."""
    try:
        yield
    except Exception as error:
        st.error(words(error), icon=":material/error:")
        if end:
            st.stop()


def tell(error: Exception) -> bool:
    """Show an error that no part of a page expected as a sentence; the answer is that it has been shown."""
    st.error(words(error), icon=":material/error:")
    return True


def words(error: Exception) -> str:
    """What went wrong, for Markdown; errors that the package does not explain are named by their kind."""
    explained = isinstance(error, ValueError | OSError)
    said = str(error).strip() or "it gives no reason"
    return plain((said if explained else f"this part stopped unexpectedly ({type(error).__name__}): {said}")[:500])


def cached(spinner: str | bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep a function's result for all sessions, until a file of the checkpoint it was called with changes."""
    return st.cache_resource(
        max_entries=32, show_spinner=spinner, hash_funcs={"ar_interp.checkpoints.Checkpoint": _fingerprint}
    )


def plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|$~:^-])", r"\\\1", text)


def _enter_through_explorer() -> None:
    """Run the explorer where Streamlit has skipped it.

    A server whose first visitor follows a link to a page finds the folder `pages` before it has seen the explorer's
    navigation, and would run the page's file by itself, with another menu.
    """
    context = get_script_run_ctx()
    if context and Path(context.main_script_path) == EXPLORER and "in explorer" not in st.session_state:
        runpy.run_path(str(EXPLORER))
        st.stop()


def _fingerprint(checkpoint: ari.Checkpoint) -> list[tuple[str, int]]:
    return [(str(file.resolve()), file.stat().st_mtime_ns) for file in sorted(checkpoint.path.iterdir())]


def _select_checkpoint() -> str:
    names = ari.available()
    chosen = _recall("checkpoint") or (DEFAULT if DEFAULT in names else (names or [""])[0])
    shipped = chosen in names
    st.session_state["shipped"] = chosen if shipped else None
    st.session_state["folder"] = "" if shipped else chosen
    with st.sidebar:
        st.selectbox(
            "Checkpoint",
            names,
            key="shipped",
            placeholder="a folder of your own",
            on_change=_take,
            args=("checkpoint", "shipped"),
        )
        st.text_input(
            "or the folder of your own",
            key="folder",
            placeholder="path/to/checkpoint",
            on_change=_take,
            args=("checkpoint", "folder"),
        )
    return _remember("checkpoint", chosen)


def _take(name: str, widget: str) -> None:
    value = st.session_state[widget]
    st.query_params[name] = "" if value is None else str(value)


def _recall(name: str) -> str:
    return st.query_params.get(name, st.session_state.get(f"remembered {name}", ""))


def _remember(name: str, value: str) -> str:
    st.session_state[f"remembered {name}"] = value
    st.query_params[name] = value
    return value


@cached(False)
def _results(checkpoint: ari.Checkpoint) -> dict[Any, Any]:
    """Results of a checkpoint, by function and values of controls."""
    return {}
