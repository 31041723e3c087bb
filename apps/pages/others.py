"""Figures that studies put on a page of another name than ours."""

import view

view.show_page(view.OTHERS, "What the study of this model found in it, and is found in no other kind of model.")
