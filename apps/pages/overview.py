"""The model in facts, the claims about it, and its training."""

from __future__ import annotations

import re

import claimed
import measuring
import streamlit as st
import terms
import view

import ar_interp as ari
from ar_interp import records
from ar_interp.report.typeset import typeset


def show_facts(checkpoint: ari.Checkpoint) -> None:
    """Facts of the model: its architecture, its process and its training."""
    config, process, training = checkpoint.config, checkpoint.process, checkpoint.training
    seeds = len(checkpoint.members)
    ends = f"L-BFGS, {checkpoint.steps:,} iterations" if training.optimizer == "lbfgs" else ""
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
            "options": process.facts.removeprefix(", ") or "none",
        },
        "Training": {
            "loss": training.objective,
            "optimizer": ends or f"{training.optimizer}, {checkpoint.steps:,} steps, lr {training.lr:.4g}",
            "seed": f"{checkpoint.seed}, the best of {seeds:,}" if seeds > 1 else checkpoint.seed,
            "device": checkpoint.device,
        },
    }
    parts = []
    for name, rows in facts.items():
        lines = "<br>".join(f"{key}: {named(str(value))}" for key, value in rows.items())
        parts.append(f"<div><b>{name}</b><br>{lines}</div>")
    st.html(f'<div class="ar-facts">{"".join(parts)}</div>')


def named(text: str) -> str:
    """Text as HTML, with the names of parameters as one types them in Python."""
    parts = re.split(r"\b(\w+) = ", text)
    return "".join(f"<code>{part}</code> = " if i % 2 else typeset(part) for i, part in enumerate(parts))


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
        claimed.show(rows, maker)
    why_not = ari.setting_of(checkpoint.config, checkpoint.process).why_not
    if why_not:
        st.info(f"Theory makes no claims about this model: {terms.plain(why_not)}.")
    measuring.show(checkpoint)


checkpoint = view.open_page("Overview", "What this model is, and what of the theory holds in it.")
recipe = ari.recipes.RECIPES.get(st.query_params["checkpoint"])
if recipe:
    st.html(f"<p>{typeset(recipe.summary)}</p>")
show_facts(checkpoint)
st.subheader("Claims")
with view.errors_shown(end=False):
    show_record(checkpoint)
view.wait_for_imports()
st.subheader("Look inside")
with view.errors_shown(end=False):
    view.show_ways(checkpoint)
st.subheader("Training")
if checkpoint.training.optimizer == "lbfgs":
    st.markdown(
        "L-BFGS chooses its own step lengths. A step is one iteration; a seed that has ended keeps its last loss."
    )
with view.errors_shown():
    view.show_exhibits(checkpoint, "Overview")
