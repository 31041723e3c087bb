"""The heads: how orthogonal they are, measured so that no change of gauge can hide it."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari

UNTRAINED_SEED = 1


@view.cached("Measuring the heads …")
def measure(checkpoint: ari.Checkpoint):
    untrained = checkpoint.model.untrained(seed=UNTRAINED_SEED)
    return ari.head_orthogonality(checkpoint.model), ari.head_orthogonality(untrained)


selected = view.open_page(
    "Heads",
    "Head $h$ multiplies keys by $a_h$ and values by $b_h$, the rows of A and B. The prediction depends on them "
    "only through C = BᵀA, whose non-zero eigenvalues are those of M = ABᵀ.",
)
if selected.checkpoint.config.heads == "unit":
    st.info("This model has no trained heads: their weights are 1, and only the positional encoding is learned.")
    st.stop()

view.import_all()
expected = selected.of_diagonal_heads("diagonal heads, so no A and B to compare")
with view.errors_shown():
    heads, untrained = measure(selected.checkpoint)

selected.show(
    ari.figures.head_matrices(heads, expected),
    f"""
    {view.EXPECTED}
    heads = ari.head_orthogonality(checkpoint.model)
    ari.figures.head_matrices(heads, expected).show()
    """,
)

left, right = st.columns(2)
with left:
    selected.show(
        ari.figures.head_spectrum(heads, expected),
        f"""
        {view.EXPECTED}
        heads = ari.head_orthogonality(checkpoint.model)
        ari.figures.head_spectrum(heads, expected).show()
        """,
    )
with right:
    selected.show(
        ari.figures.head_statistics(heads, untrained, expected),
        f"""
        {view.EXPECTED}
        heads = ari.head_orthogonality(checkpoint.model)
        untrained = ari.head_orthogonality(checkpoint.model.untrained(seed={UNTRAINED_SEED}))
        ari.figures.head_statistics(heads, untrained, expected).show()
        """,
    )
