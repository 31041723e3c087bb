"""The positional encoding: which keys it uses, and how exact the prediction is that it makes possible."""

import view

view.show_page(
    "Positional encoding",
    "P multiplies the attention scores: at context length $T$ the key at position $t$ has the weight $p_t$. For "
    "conjugate pairs it holds the other half of the trigonometric identity λ² = 2 cos(θ) λ − 1.",
)
