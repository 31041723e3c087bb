"""Figures of installed studies that have a page of their own name."""

import view

view.show_page(view.OTHERS, "Figures that studies of other packages show of this model.")
