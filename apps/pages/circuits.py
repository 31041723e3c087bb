"""The QK and OV circuits: what each head asks for and what it writes, and how layers compose."""

from __future__ import annotations

import streamlit as st
import view

import ar_interp as ari

UNTRAINED_SEED = 1
N_UNTRAINED = 30
CIRCUITS = "circuits = ari.circuits(checkpoint.model)"
UNTRAINED = f"untrained = ari.circuits(checkpoint.model.untrained(seed={UNTRAINED_SEED}))"


@view.cached("Opening the circuits …")
def measure(checkpoint: ari.Checkpoint):
    untrained = checkpoint.model.untrained(seed=UNTRAINED_SEED)
    return ari.circuits(checkpoint.model), ari.circuits(untrained)


@view.cached("Opening the circuits of untrained block scalars …")
def untrained_block_scalars(checkpoint: ari.Checkpoint):
    fresh = [checkpoint.model.untrained(seed=seed) for seed in range(N_UNTRAINED)]
    return [ari.circuits(model) for model in fresh]


selected = view.open_page(
    "Circuits",
    "A head's scores are $x\\,QK\\,y^*$, with $x$ asking and $y$ asked, and it writes $x\\,OV$: two matrices, whatever "
    "its weights are called. Their scales are gauge, since linear attention may trade one for the other.",
)
checkpoint, config = selected.checkpoint, selected.checkpoint.config
if config.heads == "unit":
    st.info("This model has no trained heads: QK and OV are 1, and only the positional encoding is learned.")
    st.stop()
layer = view.select_number("layer", "Layer", 0, config.n_layers - 1)
head = view.select_number("head", "Head", 0, config.n_heads - 1)

view.import_all()
expected = selected.expected
with view.errors_shown():
    circuits, untrained = measure(checkpoint)


def show_blocks(name: str) -> None:
    """A figure of the blocks of the chosen head."""
    selected.show(
        getattr(ari.figures, name)(circuits, layer=layer, head=head),
        f"""
        {CIRCUITS}
        ari.figures.{name}(circuits, layer={layer}, head={head}).show()
        """,
    )


left, right = st.columns(2)
for column, name in ((left, "circuit_spectra"), (right, "circuit_eigenvalues")):
    with column:
        selected.show(
            getattr(ari.figures, name)(circuits, untrained, expected, layer=layer, head=head),
            f"""
            {view.EXPECTED}
            {CIRCUITS}
            {UNTRAINED}
            ari.figures.{name}(circuits, untrained, expected, layer={layer}, head={head}).show()
            """,
        )

if circuits.block_view is not None:
    left, right = st.columns(2)
    with left:
        show_blocks("block_shares")
    with right:
        if config.heads == "block-scalar":
            st.info("Block-scalar heads are multiples of the identity in every block, untrained ones too.")
        else:
            show_blocks("block_distances")

if config.n_layers * config.n_heads > 1:
    selected.show(
        ari.figures.effective_ranks(circuits, untrained),
        f"""
        {CIRCUITS}
        {UNTRAINED}
        ari.figures.effective_ranks(circuits, untrained).show()
        """,
    )
if config.n_layers > 1 and config.heads == "block-scalar":
    selected.show(
        ari.figures.composition_scores(circuits, untrained=untrained_block_scalars(checkpoint)),
        f"""
        {CIRCUITS}
        fresh = [checkpoint.model.untrained(seed=seed) for seed in range({N_UNTRAINED})]
        untrained = [ari.circuits(model) for model in fresh]  # Gaussian blocks: those of dense heads compose otherwise
        ari.figures.composition_scores(circuits, untrained=untrained).show()
        """,
    )
elif config.n_layers > 1:
    selected.show(
        ari.figures.composition_scores(circuits),
        f"""
        {CIRCUITS}
        ari.figures.composition_scores(circuits).show()
        """,
    )
if circuits.A is not None:
    st.markdown("The diagonals A and B of all heads together, and C = BᵀA, are on the page *Heads*.")
