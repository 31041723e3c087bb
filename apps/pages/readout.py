"""How much it takes to read W off an activation."""

import view

view.show_page(
    "Readout",
    "Can the next token, or W, be read from what the model holds inside? A linear probe is fitted to one activation "
    "at the longest context, and so are its controls: shuffled targets, a random projection of the context, an "
    "untrained model.",
)
