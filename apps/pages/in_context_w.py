"""The estimate of W that the model forms in its context."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari


@view.cached("Recovering W from the context …")
def recover(checkpoint: ari.Checkpoint):
    sequences = checkpoint.process.sample(view.N_SEQUENCES, checkpoint.config.n_ctx + 1, seed=view.SEED)
    predictions = checkpoint.model(sequences.tokens[:, :-1]).detach()
    return sequences, predictions, ari.recover_context(checkpoint.model, sequences)


selected = view.open_page(
    "In-context W",
    "Every sequence has its own W. The model must infer it from the context: Ŵ is the matrix that it applies to "
    "the last token, read off the circuit; Γ is the part of it that the heads carry at the newest key.",
    position=True,
    sequence=True,
)
view.import_all()
expected, T, i = selected.expected, selected.position, selected.sequence
with view.errors_shown():
    sequences, predictions, recovered = recover(selected.checkpoint)

selected.show(
    ari.figures.prediction(sequences, predictions, expected, sequence=i, position=T),
    f"""
    {view.EXPECTED}
    {view.SEQUENCES}
    predictions = checkpoint.model(sequences.tokens[:, :-1]).detach()
    ari.figures.prediction(sequences, predictions, expected, sequence={i}, position={T}).show()
    """,
)

left, right = st.columns(2)
with left:
    selected.show(
        ari.figures.context_error(recovered, expected),
        f"""
        {view.EXPECTED}
        {view.SEQUENCES}
        recovered = ari.recover_context(checkpoint.model, sequences)
        ari.figures.context_error(recovered, expected).show()
        """,
    )
if sequences.phases is None:
    right.info("W of this family is not diagonal in any common basis: there are no phases to draw on the circle.")
else:
    with right:
        selected.show(
            ari.figures.phases_on_circle(recovered, expected, sequence=i, position=T),
            f"""
            {view.EXPECTED}
            {view.SEQUENCES}
            recovered = ari.recover_context(checkpoint.model, sequences)
            ari.figures.phases_on_circle(recovered, expected, sequence={i}, position={T}).show()
            """,
        )

if selected.checkpoint.config.dim > 1:
    selected.show(
        ari.figures.context_matrices(recovered, expected, sequence=i, position=T),
        f"""
        {view.EXPECTED}
        {view.SEQUENCES}
        recovered = ari.recover_context(checkpoint.model, sequences)
        ari.figures.context_matrices(recovered, expected, sequence={i}, position={T}).show()
        """,
    )
