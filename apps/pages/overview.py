"""The model in facts, the claims about it, and its training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import measuring
import serving
import streamlit as st
import view

import ar_interp as ari
from ar_interp import records
from ar_interp.report.typeset import typeset
from ar_interp.report.words import KINDS, VERDICTS
from ar_interp.studies import structures


def show_facts(checkpoint: ari.Checkpoint) -> None:
    """What the model is, what it learned and how."""
    config, process, training = checkpoint.config, checkpoint.process, checkpoint.training
    seeds = len(checkpoint.members)
    rate = "" if training.optimizer == "lbfgs" else f", lr {training.lr:.4g}"
    facts = {
        "Model": {
            "architecture": config.summary,
            "dimension d": config.dim,
            "longest context": config.n_ctx,
            "precision": config.dtype,
        },
        "Process": {
            "family": process.kind,
            "law": process.meaning,
            "options": process.facts.removeprefix(", "),
        },
        "Training": {
            "loss": training.objective,
            "optimizer": f"{training.optimizer}, {checkpoint.steps:,} steps{rate}",
            "seed": f"{checkpoint.seed}, the best of {seeds:,}" if seeds > 1 else checkpoint.seed,
            "device": checkpoint.device,
        },
    }
    parts = []
    for name, rows in facts.items():
        lines = "<br>".join(f"{key}: {typeset(str(value))}" for key, value in rows.items())
        parts.append(f"<div><b>{name}</b><br>{lines}</div>")
    st.html(f'<div class="ar-facts">{"".join(parts)}</div>')


def show_claims(rows: Sequence[Mapping[str, Any]]) -> None:
    """The claims by what they are about: what that is, how many hold, and each of them on a click."""
    titles, parts, groups = structures(), [], defaultdict(list)
    for row in rows:
        groups[row["name"].split("/")[0]].append(row)
    for structure, claims in groups.items():
        about = titles.get(structure)
        title = about.title if about else structure.capitalize()
        meaning = f"<p>{typeset(about.meaning)}</p>" if about else ""
        lines = "".join(map(claim_rows, claims))
        counts = view.counted(row["verdict"] for row in claims)
        summary = f"<summary>{typeset(title)} <small>{counts}</small></summary>"
        parts.append(f'<details class="ar-group">{summary}{meaning}{lines}</details>')
    st.html("".join(parts))


def claim_rows(row: Mapping[str, Any]) -> str:
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


def show_record(checkpoint: ari.Checkpoint) -> None:
    """The claims as they were measured here, or as the folder says, and the means to measure them again."""
    rows = view.measured_claims(checkpoint)
    maker = "here" if measuring.found(checkpoint) else "by the makers of this package"
    if not rows:
        record = records.read(checkpoint)
        if record is None:
            st.info("Nobody has measured the claims about this model yet.")
        else:
            rows, maker = record.rows, "by whoever made this folder"
    if rows:
        st.markdown(f"{view.counted(row['verdict'] for row in rows)}. Measured {maker}.")
        with st.popover("What do these words mean?"):
            for verdict, (sign, meaning) in VERDICTS.items():
                st.markdown(f"{sign} **{verdict}**: {view.plain(meaning)}.")
        show_claims(rows)
    why_not = ari.setting_of(checkpoint.config, checkpoint.process).why_not
    if why_not:
        st.info(f"Theory makes no claims about this model: {view.plain(why_not)}.")
    measuring.show(checkpoint)


checkpoint = view.open_page("Overview", "What this model is, and what of the theory holds in it.")
recipe = ari.recipes.RECIPES.get(st.query_params["checkpoint"])
if recipe:
    st.html(f"<p>{typeset(recipe.summary)}</p>")
show_facts(checkpoint)
st.subheader("Claims")
with view.errors_shown(end=False):
    show_record(checkpoint)
serving.import_all()
st.subheader("Training")
if checkpoint.training.optimizer == "lbfgs":
    st.markdown("L-BFGS minimises each seed at once and keeps no history of steps.")
with view.errors_shown():
    view.show_exhibits(checkpoint, "Overview")
