"""The algorithm that the model runs, layer by layer."""

import view

view.show_page(
    "Algorithm",
    "What would a statistician have to do to make the same predictions from the same context? Gradient descent on "
    "$\\sum_t |s_{t+1} - W s_t|^2$ from $W = 0$, with tuned step sizes, least squares and others stand beside the "
    "model and each of its layers. Diagonal heads know the eigenbasis of W, which gradient descent and OLS do not: "
    "their fair yardstick is diagonal OLS.",
)
