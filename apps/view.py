"""What the pages share: the selection (sidebar and URL), cached results, figures with their code.

The URL is the one truth about the selection: widgets write to it before a rerun, and are set from it. Streamlit
empties it when the page changes, so the selection is also remembered in the session and written back.
"""

from __future__ import annotations

import gc
import math
import re
import runpy
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

import ar_interp as ari

if TYPE_CHECKING:
    import plotly.graph_objects as go

EXPLORER = Path(__file__).with_name("explorer.py")
N_SEQUENCES = 64
SEED = 0
STEP = 0.05  # of sliders of real numbers
DEFAULT = "diagonal-unitary-h10"
SEQUENCES = f"sequences = checkpoint.process.sample({N_SEQUENCES}, checkpoint.config.n_ctx + 1, seed={SEED})"
EXPECTED = "expected = ari.figures.expected_of(checkpoint.config, checkpoint.process)"


@dataclass(frozen=True)
class View:
    """What is selected."""

    name: str
    checkpoint: ari.Checkpoint
    position: int
    sequence: int

    @property
    def expected(self) -> ari.figures.Expected | ari.figures.ExpectedGeneral:
        return ari.figures.expected_of(self.checkpoint.config, self.checkpoint.process)

    def of_diagonal_heads(self, lacks: str) -> ari.figures.Expected:
        """What theory expects of diagonal heads; a model without them ends the page, which says what it lacks."""
        expected = self.expected
        if not isinstance(expected, ari.figures.Expected):
            st.info(f"This model has no {lacks}: {plain(self.checkpoint.config.summary)}.", icon=":material/info:")
            st.stop()
        return expected

    def show(self, figure: go.Figure, code: str) -> None:
        """A figure, and under it the lines that reproduce it after `checkpoint = ari.load(...)`."""
        st.plotly_chart(figure, theme=None, config={"displaylogo": False})
        self.show_code(code)

    def show_code(self, code: str) -> None:
        """Lines of Python that run as they are."""
        with st.expander("Python", icon=":material/code:"):
            st.code(f"import ar_interp as ari\n\ncheckpoint = ari.load({self.name!r})\n{textwrap.dedent(code).strip()}")


def open_page(title: str, summary: str, *, position: bool = False, sequence: bool = False) -> View:
    """The head of a page and the selection in the sidebar; a checkpoint that cannot be read ends the page.

    Args:
        position, sequence: whether the page lets one choose them.
    """
    _enter_through_explorer()
    st.title(title)
    st.markdown(summary)
    name = _select_checkpoint()
    with errors_shown():
        checkpoint = ari.load(name)
    return View(
        name=name,
        checkpoint=checkpoint,
        position=select_number(
            "position", "Context length T", 2, checkpoint.config.n_ctx, checkpoint.config.n_ctx // 2, visible=position
        ),
        sequence=select_number("sequence", "Sequence", 0, N_SEQUENCES - 1, visible=sequence),
    )


def select_number(name: str, label: str, low: int, high: int, default: int = 0, *, visible: bool = True) -> int:
    """An integer from the URL or from a slider in the sidebar; what is out of bounds is brought inside.

    Args:
        name: in the URL.
        visible: no slider where this is False, or where there is nothing to choose.
    """
    text = _recall(name)
    asked = int(text) if re.fullmatch(r"-?\d{1,9}", text) else default
    value = min(max(asked, low), high)
    if visible and low < high:
        st.session_state[name] = value
        st.sidebar.slider(label, low, high, key=name, on_change=_take, args=(name, name))
    _remember(name, str(value))
    return value


def select_value(name: str, label: str, low: float, high: float, default: float, *, meaning: str) -> float:
    """A real number from the URL or from a slider where this is called; brought inside as by `select_number`.

    Args:
        name: in the URL.
        low, high: the slider ends at the last multiples of its step within them.
        meaning: of the number, shown on demand.
    """
    try:
        asked = float(_recall(name))
    except ValueError:
        asked = math.nan
    low, high = (math.trunc(end / STEP) * STEP for end in (low, high))
    value = min(max(asked, low), high) if math.isfinite(asked) else default
    st.session_state[name] = value
    st.slider(label, low, high, step=STEP, key=name, on_change=_take, args=(name, name), help=meaning)
    _remember(name, f"{value:g}")
    return value


@contextmanager
def errors_shown() -> Iterator[None]:
    """An error that the package explains is shown on the page and ends it."""
    try:
        yield
    except (ValueError, OSError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.stop()


def cached(spinner: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
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


@st.cache_resource(show_spinner="Importing TransformerLens …")
def import_all() -> None:
    """The heavy imports, once what needs none is on screen, and out of the garbage collector's sight."""
    for name in ("models.transformer", "figures"):
        import_module(f"ar_interp.{name}")
    import torch

    torch.set_num_threads(1)  # two fall over each other when another session or process is busy
    gc.collect()
    gc.freeze()


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
