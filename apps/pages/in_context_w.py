"""The estimate of W that the model forms in its context."""

import view

view.show_page(
    "In-context W",
    "Every sequence has its own W. The model must infer it from the context: Ŵ is the matrix that it applies to "
    "the last token, read off the circuit; Γ is the part of it that the heads carry at the newest key.",
)
