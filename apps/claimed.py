"""Claims in full, grouped by what they are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
import terms
import view

from ar_interp.report.typeset import typeset
from ar_interp.report.words import KINDS, VERDICTS
from ar_interp.studies import structures


def show(rows: Sequence[Mapping[str, Any]], maker: str) -> None:
    """The claims by what they are about: what that is, how many hold, and each of them on a click."""
    st.markdown(f"{view.counted(row['verdict'] for row in rows)}. Measured {maker}.")
    with st.popover("What do these words mean?"):
        for verdict, (sign, meaning) in VERDICTS.items():
            st.markdown(f"{sign} **{verdict}**: {terms.plain(meaning)}.")
    titles, parts, groups = structures(), [], defaultdict(list)
    for row in rows:
        groups[row["name"].split("/")[0]].append(row)
    for structure, claims in groups.items():
        about = titles.get(structure)
        title = about.title if about else structure.capitalize()
        meaning = f"<p>{typeset(about.meaning)}</p>" if about else ""
        lines = "".join(map(_as_html, claims))
        counts = view.counted(row["verdict"] for row in claims)
        summary = f"<summary>{typeset(title)} <small>{counts}</small></summary>"
        parts.append(f'<details class="ar-group">{summary}{meaning}{lines}</details>')
    st.html("".join(parts))


def _as_html(row: Mapping[str, Any]) -> str:
    """A claim as HTML."""
    verdict, control = row["verdict"], row["control"]
    side = "" if row["side"] == "equal to" else f"{typeset(row['side'])} "
    kind = KINDS.get(row["evidence"])
    limit = f"<p>{typeset(row['limit'])}</p>" if row["limit"] else ""
    numbers = {
        "measured": view.numeral(row["measured"], row["uncertainty"]),
        "predicted": side + view.numeral(row["predicted"]),
        "tolerance": f"{view.numeral(row['tolerance'])} ({typeset(row['reason'])})",
        "control": f"{view.numeral(control['measured'])} ({typeset(control['description'])})",
        "n": f"{row['n']:,}",
        "evidence": typeset(kind.meaning if kind else row["evidence"]),
        "source": typeset(row["source"]),
    }
    said = "".join(f"<span>{name}: {value}</span>" for name, value in numbers.items())
    return (
        f'<div class="ar-claim"><b>{view.SIGNS[verdict]} {verdict}</b>'
        f'<div><p>{typeset(row["statement"])}</p>{limit}<div class="ar-numbers">{said}</div></div></div>'
    )
