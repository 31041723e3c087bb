"""Predictions of the model where one changes what it holds inside."""

import view

view.show_page(
    "Interventions",
    "Does the model *use* what one finds in it? Put the estimate of W of one sequence, the source, into the forward "
    "pass of another, the target, whose tokens stay: the prediction should turn from $W_\\mathrm{target}\\, s_T$ to "
    "$W_\\mathrm{source}\\, s_T$. Then edit the weights by one number, or take a part away.",
)
