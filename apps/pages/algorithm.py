"""Which algorithm the model runs, layer by layer."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari

N_SEQUENCES = 256
LINES = f"""
sequences = checkpoint.process.sample({N_SEQUENCES}, checkpoint.config.n_ctx + 1, seed={view.SEED})
identification = ari.identify_algorithm(checkpoint.model, sequences)
"""


@view.cached("Comparing the model with estimators …")
def identify(checkpoint: ari.Checkpoint):
    sequences = checkpoint.process.sample(N_SEQUENCES, checkpoint.config.n_ctx + 1, seed=view.SEED)
    return ari.identify_algorithm(checkpoint.model, sequences)


selected = view.open_page(
    "Algorithm",
    "What would a statistician have to do to make the same predictions from the same context? Gradient descent on "
    "$\\sum_t |s_{t+1} - W s_t|^2$ from $W = 0$, with tuned step sizes, least squares and others stand beside the "
    "model and each of its layers.",
)
if selected.checkpoint.config.heads in ("diagonal", "unit"):
    st.info(
        "Diagonal heads know the eigenbasis of W. Gradient descent and OLS do not: the fair yardstick of this model is "
        "diagonal OLS."
    )
view.import_all()
with view.errors_shown():
    identification = identify(selected.checkpoint)


def show(name: str) -> None:
    """A figure of the identification."""
    selected.show(getattr(ari.figures, name)(identification), f"{LINES}ari.figures.{name}(identification).show()")


show("error_by_position")
show("algorithm_match")
if identification.n_layers > 1:
    show("steps_by_layer")
