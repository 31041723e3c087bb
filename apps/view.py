"""All that the pages share: the checkpoint, the exhibits of a page with their controls, and errors as sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import controls
import plots
import serving
import streamlit as st
from streamlit.errors import StreamlitAPIException
from terms import plain

import ar_interp as ari
from ar_interp import records
from ar_interp.report.typeset import measured, typeset
from ar_interp.report.words import VERBS

if TYPE_CHECKING:
    from ar_interp.claims import Subject
    from ar_interp.studies import Control, Exhibit

DEFAULT = "augmented-haar-l2-keys"
N_KEPT = 64  # results, and figures, of each checkpoint
N_LINKS = 6  # to models that have something on a page
SIGNS = {"fails": "✗", "undecided": "?", "void": "○", "holds": "✓"}  # worst first
OTHERS = "Its own study"  # of exhibits on a page that is none of ours
PAGES = {  # of the exhibits of one model: title -> file, icon, what it asks
    "Overview": ("overview", "summarize", "What is this model, and what of the theory holds in it?"),
    "In-context W": ("in_context_w", "timeline", "What is its estimate of W?"),
    "Algorithm": ("algorithm", "function", "Which algorithm does it run?"),
    "Heads": ("heads", "grid_on", "What do its heads do?"),
    "Positional encoding": ("positional_encoding", "stacked_line_chart", "Which keys does it use?"),
    "Circuits": ("circuits", "account_tree", "What do heads ask for, and what do they write?"),
    "Readout": ("readout", "search", "What can be read off its activations?"),
    "Interventions": ("interventions", "tune", "Does it use what is found in it?"),
    OTHERS: ("others", "extension", "What does its own study show of it?"),
}


def show_page(title: str, summary: str) -> None:
    """A page of exhibits; a model that has none of them is told so, and where to find them."""
    checkpoint = open_page(title, summary)
    wait_for_imports()
    with errors_shown():
        if not show_exhibits(checkpoint, title):
            st.info("Nothing on this page applies to this model.")
            st.html(f"<p>It is {typeset(checkpoint.config.summary)}.</p>")
            _lead_on(title)


def wait_for_imports() -> None:
    """Go on once figures can be drawn; by then the menu knows which pages apply, and is drawn anew."""
    if not serving.is_ready():
        serving.import_all()
        st.rerun()


def open_page(title: str, summary: str) -> ari.Checkpoint:
    """The head of a page and the checkpoint that is looked at; one that cannot be read ends the page."""
    controls.write_back()
    st.title(title)
    st.markdown(summary)
    name = _select_checkpoint()
    with errors_shown():
        return serving.load(name)


def navigation() -> dict[str, list[Any]]:
    """The pages by section; those that have nothing of the selected checkpoint are reached by links alone."""
    controls.keep_selection()
    there = applicable_pages()
    start = [
        st.Page("pages/story.py", title="The story", icon=":material/auto_stories:", default=True),
        st.Page("pages/models.py", title="Models by question", icon=":material/category:"),
        st.Page("pages/claims.py", title="Claims of your own", icon=":material/fact_check:"),
        st.Page("pages/landscapes.py", title="Landscapes", icon=":material/landscape:"),
        st.Page("pages/basket.py", title="Basket", icon=":material/shopping_basket:"),
        st.Page("pages/glossary.py", title="Glossary", icon=":material/dictionary:"),
    ]
    model = [
        st.Page(
            f"pages/{file}.py",
            title=title,
            icon=f":material/{icon}:",
            visibility="visible" if title in there else "hidden",
        )
        for title, (file, icon, _) in PAGES.items()
    ]
    return {"Start": start, f"One model: {Path(selected()).name}": model}


def applicable_pages() -> set[str]:
    """Titles of the pages that have something of the selected checkpoint; all of them while that is not known."""
    if not serving.is_ready():
        return set(PAGES)
    try:
        return {"Overview", *map(_page_of, _exhibits(serving.load(selected())))}
    except Exception:  # the page says what is wrong
        return set(PAGES)


def selected() -> str:
    """The name or the folder of the checkpoint that is looked at."""
    return controls.recall("checkpoint") or (DEFAULT if DEFAULT in (names := ari.available()) else (names or [""])[0])


@dataclass(frozen=True)
class Opened:
    """A checkpoint that is looked at, what has been measured of it, and what has been drawn."""

    checkpoint: ari.Checkpoint
    subject: Subject
    claims: Sequence[Mapping[str, Any]]
    results: dict[Any, Any]
    figures: dict[Any, dict[str, Any]]


def show_exhibits(checkpoint: ari.Checkpoint, page: str) -> int:
    """The exhibits that the studies have for a page and this model, in reading order; returns how many."""
    from ar_interp.claims import subject_of

    exhibits = [exhibit for exhibit in _exhibits(checkpoint) if _page_of(exhibit) == page]
    claims = measured_claims(checkpoint)
    _show_all(Opened(checkpoint, subject_of(checkpoint), claims, _results(checkpoint), _figures(checkpoint)), exhibits)
    return len(exhibits)


@st.fragment  # what moves several figures leaves the rest of the page as it is
def _show_all(opened: Opened, exhibits: list[Exhibit]) -> None:
    """The controls that move several figures, and the figures."""
    with errors_shown(end=False):
        shared = {control.name: control for exhibit in exhibits for control in exhibit.controls(opened.subject)}
        values = _choose_shared([control for control in shared.values() if control.kind == "integer"])
        places = _places([exhibit.wide for exhibit in exhibits])
        for exhibit, place in zip(exhibits, places, strict=True):
            with place:
                _show(opened, exhibit, values)


def _choose_shared(shared: list[Control]) -> dict[str, Any]:
    """Values of the controls that move several figures, in a bar that stays in sight."""
    if not shared:
        return {}
    with st.container(key="controls", horizontal=True, vertical_alignment="bottom"):
        return {control.name: controls.choose(control) for control in shared}


@st.fragment  # what moves one figure leaves the others as they are
def _show(opened: Opened, exhibit: Exhibit, shared: dict[str, Any]) -> None:
    """A figure with its own controls, or a sentence where it cannot be drawn."""
    with errors_shown(end=False):
        _show_figure(opened, exhibit, shared)


def _show_figure(opened: Opened, exhibit: Exhibit, shared: dict[str, Any]) -> None:
    """A figure with the controls that are its own, the claims that it bears on and the lines that reproduce it."""
    subject, results, figures = opened.subject, opened.results, opened.figures
    values = {c.name: shared[c.name] if c.name in shared else controls.choose(c) for c in exhibit.controls(subject)}
    key = (exhibit.name, *map(str, values.values()))
    if key not in figures:
        with st.spinner(f"Measuring: {exhibit.title} …"):
            figures[key] = plots.specify(exhibit.draw(subject, exhibit.result(subject, values, results), **values))
    figure = figures[key]
    for cache in (results, figures):
        for old in list(cache)[:-N_KEPT]:
            cache.pop(old, None)
    about = [row for row in opened.claims if _bears_on(exhibit, row)]
    verdicts = [row["verdict"] for row in about]
    kept = plots.show(
        figure,
        id=re.sub(r"\W+", "-", exhibit.name),
        look=exhibit.look,
        code=code_of(exhibit.code.format(**values)),
        claims=[claim_line(row) for row in about],
        verdict=worst(verdicts),
        summary=f"Claims that this bears on: {counted(verdicts)}",
        kept=(opened.checkpoint.name, *key) in basket(),
    )
    if kept:
        basket()[(opened.checkpoint.name, *key)] = kept
        st.rerun()


def show_ways(checkpoint: ari.Checkpoint) -> None:
    """Links to the other pages, with the question of each and what it shows of a checkpoint."""
    shown: dict[str, list[str]] = {page: [] for page in PAGES}
    for exhibit in _exhibits(checkpoint):
        shown[_page_of(exhibit)].append(exhibit.title)
    for page, titles in shown.items():
        if titles and page != "Overview":
            link_to(page, selected(), label=PAGES[page][2])
            st.caption(" · ".join(map(plain, titles)))


def basket() -> dict[Any, dict[str, Any]]:
    """The figures that a visitor has kept, by checkpoint, exhibit and values of controls."""
    return st.session_state.setdefault("basket", {})


def _bears_on(exhibit: Exhibit, row: Mapping[str, Any]) -> bool:
    return row["name"].split("/")[0] == exhibit.structure and row["evidence"] == exhibit.evidence


def measured_claims(checkpoint: ari.Checkpoint) -> Sequence[Mapping[str, Any]]:
    """The claims about a checkpoint that this package has measured: here in this session, or its makers before.

    What a folder from anybody says of itself is not among them.
    """
    here = st.session_state.get(f"measured {checkpoint.path}")
    if here is not None and here["weights"] == records.fingerprint(checkpoint):
        return here["rows"]
    try:
        record = records.read(checkpoint)
    except ari.checkpoints.CheckpointError:
        return ()
    return record.rows if record is not None and record.shipped else ()


def counted(verdicts: Iterable[str]) -> str:
    """How many claims hold, fail and so on, in words and signs."""
    counts = Counter(verdicts)
    return " · ".join(
        f"{SIGNS[verdict]} {counts[verdict]} {VERBS[verdict][counts[verdict] > 1]}"
        for verdict in reversed(SIGNS)
        if counts[verdict]
    )


def worst(verdicts: Sequence[str]) -> str:
    """The verdict that needs attention first."""
    return next((verdict for verdict in SIGNS if verdict in verdicts), "")


def claim_line(row: Mapping[str, Any]) -> str:
    """A claim as HTML: its verdict, its statement, and the numbers."""
    side = "" if row["side"] == "equal to" else f"{typeset(row['side'])} "
    return (
        f"<b>{SIGNS[row['verdict']]} {row['verdict']}</b> {typeset(row['statement'])}: "
        f"measured {numeral(row['measured'], row['uncertainty'])}, predicted {side}{numeral(row['predicted'])}"
    )


def numeral(value: Any, uncertainty: Any = 0.0) -> str:
    """A number of a record as HTML; one that is not finite is a text there."""
    if isinstance(value, str):
        return "not a number" if value == "nan" else value.replace("inf", "∞")
    if isinstance(uncertainty, str):
        return f"{measured(value)} (uncertainty unknown)"
    tiny = max(abs(value), uncertainty) < 1e-20
    return "0 (to rounding)" if value and tiny else measured(value, 0.0 if tiny else uncertainty)


def code_of(lines: str) -> str:
    """Lines of Python that run as they are, for the selected checkpoint."""
    return f"import ar_interp as ari\n\ncheckpoint = ari.load({selected()!r})\n{lines}"


def _places(wide: list[bool]) -> list[Any]:
    """Containers in which halves of a page come in pairs; one that is left over takes it all."""
    found: list[Any] = []
    while len(found) < len(wide):
        pair = wide[len(found) : len(found) + 2] == [False, False]
        found += st.columns(2, gap="large") if pair else [st.container()]
    return found


@contextmanager
def errors_shown(*, end: bool = True) -> Iterator[None]:
    """An error is shown on the page as a sentence, and ends the page unless `end` is false."""
    try:
        yield
    except Exception as error:
        tell(error)
        if end:
            st.stop()


def tell(error: Exception) -> bool:
    """Show an error as a sentence; the answer is that it has been shown."""
    st.error(words(error), icon=":material/error:")
    return True


def words(error: Exception) -> str:
    """The message of an error for Markdown; errors that the package does not explain are named by their kind."""
    explained = isinstance(error, ValueError | OSError)
    said = str(error).strip() or "it gives no reason"
    return plain((said if explained else f"this part stopped unexpectedly ({type(error).__name__}): {said}")[:500])


def cached(spinner: str | bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep a function's result for all sessions, until a file of the checkpoint it was called with changes."""
    return st.cache_resource(
        max_entries=32, show_spinner=spinner, hash_funcs={"ar_interp.checkpoints.Checkpoint": _fingerprint}
    )


def _fingerprint(checkpoint: ari.Checkpoint) -> list[tuple[str, int]]:
    return [(str(file.resolve()), file.stat().st_mtime_ns) for file in sorted(checkpoint.path.iterdir())]


def _select_checkpoint() -> str:
    """The checkpoint of the URL, in a box to choose another; folders can be typed where any are allowed."""
    chosen, names, own = selected(), ari.available(), serving.allowed_checkpoints()
    st.session_state["checkpoint chosen"] = chosen if chosen in (*names, *own) else None
    st.selectbox(
        "Checkpoint",
        [*names, *own],
        key="checkpoint chosen",
        format_func=lambda name: f"{Path(name).name} (your own)" if name in own else name,
        placeholder=chosen if chosen else "a checkpoint",
        accept_new_options=bool(serving.allowed_folders()),
        on_change=controls.take,
        args=("checkpoint", "checkpoint chosen"),
        help="Shipped ones, and those in folders that were allowed at the start: "
        "`streamlit run apps/explorer.py -- --allow FOLDER`",
    )
    return controls.remember("checkpoint", chosen)


def _lead_on(page: str) -> None:
    """Links to models that have something on a page."""
    st.markdown("Models that have it:")
    with st.container(horizontal=True):
        for name in models_with(page):
            link_to(page, name)


def link_to(page: str, checkpoint: str, about: str | None = None, label: str = "") -> None:
    """A link to a page of a checkpoint, which is named if there is no label."""
    file, query = PAGES[page][0], {"checkpoint": checkpoint}
    try:
        st.page_link(f"pages/{file}.py", label=label or checkpoint, query_params=query, help=about)
    except StreamlitAPIException:  # a page that is run by itself knows no others
        st.markdown(f"[{label or checkpoint}](/{file}?{urlencode(query)})")


@st.cache_resource(show_spinner="Looking for models that have it …")
def models_with(page: str) -> list[str]:
    """Some shipped checkpoints that have an exhibit on a page, the first of each study first."""
    firsts = [next(iter(study.recipes)) for study in ari.studies.all_studies() if study.recipes]
    names = [name for name in dict.fromkeys([*firsts, *ari.available()]) if name in ari.available()]
    return list(islice((name for name in names if page in map(_page_of, _exhibits(ari.load(name)))), N_LINKS))


@cached(False)
def _exhibits(checkpoint: ari.Checkpoint) -> tuple[Exhibit, ...]:
    """The exhibits that the studies have for a checkpoint."""
    from ar_interp.claims import subject_of
    from ar_interp.studies import exhibits_of

    return exhibits_of(subject_of(checkpoint))


def _page_of(exhibit: Exhibit) -> str:
    return exhibit.page if exhibit.page in PAGES else OTHERS


@cached(False)
def _results(checkpoint: ari.Checkpoint) -> dict[Any, Any]:
    """Results of a checkpoint, by function and values of controls."""
    return {}


@cached(False)
def _figures(checkpoint: ari.Checkpoint) -> dict[Any, dict[str, Any]]:
    """Figures of a checkpoint, by exhibit and values of controls."""
    return {}
