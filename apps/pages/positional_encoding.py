"""The positional encoding: which keys it uses, and how exact the prediction is that it makes possible."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari

STRUCTURE = "structure = ari.positional_structure(checkpoint.model)"


@view.cached("Measuring the positional encoding …")
def measure(checkpoint: ari.Checkpoint):
    return ari.positional_structure(checkpoint.model)


selected = view.open_page(
    "Positional encoding",
    "P multiplies the attention scores: at context length $T$ the key at position $t$ has the weight $p_t$. For "
    "conjugate pairs it holds the other half of the trigonometric identity λ² = 2 cos(θ) λ − 1.",
)
view.import_all()
expected, checkpoint = selected.of_diagonal_heads("positional weights beside diagonal heads"), selected.checkpoint
with view.errors_shown():
    structure = measure(checkpoint)


def show(name: str) -> None:
    """A figure of the structure alone."""
    selected.show(
        getattr(ari.figures, name)(structure, expected),
        f"""
        {view.EXPECTED}
        {STRUCTURE}
        ari.figures.{name}(structure, expected).show()
        """,
    )


left, right = st.columns(2)
with left:
    show("positional_matrix")
with right:
    show("positional_rows")

config, process, training = checkpoint.config, expected.process, checkpoint.training
from_zero = training.objective == "population" and training.optimizer == "gd" and config.init_scale == 0
if config.heads == "unit" and from_zero:
    filter_lines = """
    spectral_filter = ari.theory.spectral_filter(
        mu=checkpoint.process.mu,
        length=checkpoint.config.n_ctx,
        step_size=2 * checkpoint.training.lr,
        steps=checkpoint.steps,
    )"""
    spectral_filter = ari.theory.spectral_filter(
        mu=process.mu, length=config.n_ctx, step_size=2 * training.lr, steps=checkpoint.steps
    )
    left, right = st.columns(2)
    for column, name in ((left, "filter_profile"), (right, "filter_response")):
        with column:
            selected.show(
                getattr(ari.figures, name)(structure, spectral_filter),
                f"""
    {STRUCTURE}{filter_lines}
    ari.figures.{name}(structure, spectral_filter).show()
    """,
            )

left, right = st.columns(2)
with left:
    show("residual_by_angle")
if config.dim % 2 == 0:
    with right:
        show("positional_ratio")
