"""The QK and OV circuits: what each head asks for and what it writes, and how layers compose."""

import view

view.show_page(
    "Circuits",
    "A head's scores are $x\\,QK\\,y^*$, with $x$ asking and $y$ asked, and it writes $x\\,OV$: two matrices, whatever "
    "its weights are called. Their scales are gauge, since linear attention may trade one for the other.",
)
