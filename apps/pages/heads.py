"""The heads: how orthogonal they are, measured so that no change of gauge can hide it."""

import view

view.show_page(
    "Heads",
    "Head $h$ multiplies keys by $a_h$ and values by $b_h$, the rows of A and B. The prediction depends on them "
    "only through C = BᵀA, whose non-zero eigenvalues are those of M = ABᵀ. Heads are counted from 0, as in the code.",
)
