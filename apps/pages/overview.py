"""The model in facts, the claims about it, and its training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import serving
import streamlit as st
import view

import ar_interp as ari
from ar_interp import records
from ar_interp.seeds import STATED

SYMBOLS = {
    "holds": ":blue[**✓\N{NO-BREAK SPACE}holds**]",
    "fails": ":orange[**✗\N{NO-BREAK SPACE}fails**]",
    "undecided": ":gray[**?\N{NO-BREAK SPACE}undecided**]",
    "void": ":gray[**○\N{NO-BREAK SPACE}void**]",
}


@view.cached("Measuring every claim …")
def verify(checkpoint: ari.Checkpoint) -> ari.Claims:
    return ari.verify(checkpoint, seed=STATED)


def with_interval(measured: Any, uncertainty: Any = 0.0, form: str = ".4g") -> str:
    """A number of a record, which is a text where it is not finite."""
    if isinstance(measured, str):
        return measured
    return f"{measured + 0:{form}}" + (f" ± {uncertainty:.2g}" if uncertainty and uncertainty != "nan" else "")


def claims_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The claims as a reader wants them: verdict first, in words and a sign."""
    return pd.DataFrame(
        {
            "Verdict": SYMBOLS[row["verdict"]],
            "Statement": view.plain(row["statement"]),
            "Predicted": f"{'' if row['side'] == 'equal to' else row['side'] + ' '}{with_interval(row['predicted'])}",
            "Measured": with_interval(row["measured"], row["uncertainty"]),
            "n": f"{row['n']:,}",
            "Tolerance": with_interval(row["tolerance"], form=".2g"),
            "Control": f"{with_interval(row['control']['measured'], form='.3g')} "
            f"({view.plain(row['control']['description'])})",
        }
        for row in rows
    )


def claims_of(checkpoint: ari.Checkpoint) -> tuple[str, Sequence[dict[str, Any]], str]:
    """Where the claims come from, the claims, and why there are none: the folder's record until asked to measure."""
    record = records.read(checkpoint)
    if record is not None and not st.toggle("Measure again", help="All contexts are drawn anew; it takes a while."):
        maker = "the makers of this package" if record.shipped else "whoever made this folder"
        return f"Measured by {maker}, seed {record.seed}.", record.rows, ""
    claims = verify(checkpoint)
    return f"Measured here, seed {claims.seed}.", [claim.to_dict() for claim in claims], claims.why_not


checkpoint = view.open_page("Overview", "What this model is, and what of the theory holds in it.")
config, process, training = checkpoint.config, checkpoint.process, checkpoint.training
recipe = ari.recipes.RECIPES.get(st.query_params["checkpoint"])

st.subheader(checkpoint.name)
if recipe:
    st.markdown(view.plain(recipe.summary))
updates = f"{training.optimizer}, {checkpoint.steps:,} steps"
n_seeds = len(checkpoint.members)
facts = {
    "Model": {
        "architecture": config.summary,
        "dimension d": config.dim,
        "longest context": config.n_ctx,
        "precision": config.dtype,
    },
    "Process": {
        "family": process.kind,
        "law of W": process.meaning,
        "first token": process.initial.law,
        "noise": f"{process.noise:g}",
    },
    "Training": {
        "loss": training.objective,
        "optimizer": updates + ("" if training.optimizer == "lbfgs" else f", lr {training.lr:.4g}"),
        "seed": f"{checkpoint.seed}, the best of {n_seeds:,}" if n_seeds > 1 else checkpoint.seed,
        "device": checkpoint.device,
    },
}
for column, (name, rows) in zip(st.columns(len(facts)), facts.items(), strict=True):
    with column.container(border=True):
        st.markdown(f"**{name}**  \n" + "  \n".join(f"{key}: {view.plain(str(value))}" for key, value in rows.items()))

st.subheader("Claims")
claims_place = st.container()

st.subheader("Training")
if training.optimizer == "lbfgs":
    st.markdown("L-BFGS minimises each seed at once and keeps no history of steps.")
view.show_exhibits(checkpoint, "Overview")

serving.import_all()
with claims_place, view.errors_shown():
    said, rows, why_not = claims_of(checkpoint)
    if why_not:
        st.info(f"Theory makes no claims about this model: {view.plain(why_not)}.")
    if not rows:
        st.stop()
    counts = Counter(row["verdict"] for row in rows)
    st.markdown(
        " · ".join(f"{SYMBOLS[verdict]} {counts[verdict]}" for verdict in SYMBOLS if counts[verdict])
        + ". A claim *holds* if its whole interval is within its tolerance and its control's wholly outside; it is "
        "*void* if both are within, *undecided* if an interval reaches over a bound."
    )
    st.caption(said)
    st.table(claims_table(rows), hide_index=True)
    with st.expander("Sources, and the reason for each tolerance", icon=":material/menu_book:"):
        st.table(
            pd.DataFrame(
                {
                    "Statement": view.plain(row["statement"]),
                    "Source": view.plain(row["source"]),
                    "Tolerance": f"{with_interval(row['tolerance'], form='.2g')}: {view.plain(row['reason'])}",
                }
                for row in rows
            ),
            hide_index=True,
        )
    view.show_code(f"claims = ari.verify(checkpoint, seed={STATED})\nprint(claims.to_frame().to_string())")
