"""Figures that studies put on a page of another name than ours."""

import view

view.show_page(view.OTHERS, "Figures of this model that stand on none of the other pages: what its own study shows.")
