"""The model in facts, the claims about it, and its training."""

from __future__ import annotations

import pandas as pd
import streamlit as st
import view

import ar_interp as ari
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


def claims_table(claims: ari.Claims) -> pd.DataFrame:
    """The claims as a reader wants them: verdict first, in words and a sign."""
    return pd.DataFrame(
        {
            "Verdict": SYMBOLS[claim.verdict],
            "Statement": view.plain(claim.statement),
            "Predicted": f"{'' if claim.side == 'equal to' else claim.side + ' '}{claim.predicted:.4g}",
            "Measured": f"{claim.estimate:.4g}",
            "n": f"{claim.n:,}",
            "Tolerance": f"{claim.tolerance:.2g}",
            "Control": f"{claim.control.estimate:.3g} ({view.plain(claim.control.description)})",
        }
        for claim in claims
    )


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

view.import_all()
with claims_place, view.errors_shown():
    claims = verify(checkpoint)
    if claims.why_not:
        st.info(f"There are no claims about this model: {view.plain(claims.why_not)}.")
        st.stop()
    st.markdown(
        " · ".join(f"{SYMBOLS[verdict]} {count}" for verdict, count in claims.counts.items() if count)
        + ". A claim *holds* if its whole interval is within its tolerance and its control's wholly outside; it is "
        "*void* if both are within, *undecided* if an interval reaches over a bound."
    )
    st.table(claims_table(claims), hide_index=True)
    with st.expander("Sources, and the reason for each tolerance", icon=":material/menu_book:"):
        st.table(
            pd.DataFrame(
                {
                    "Statement": view.plain(claim.statement),
                    "Source": view.plain(claim.source),
                    "Tolerance": f"{claim.tolerance:.2g}: {view.plain(claim.reason)}",
                }
                for claim in claims
            ),
            hide_index=True,
        )
    view.show_code("claims = ari.verify(checkpoint, seed=0)\nprint(claims.to_frame().to_string())")
