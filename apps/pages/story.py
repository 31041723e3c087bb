"""The story, for visitors who have never heard of the paper."""

import storyboard
import view

view.forget(storyboard.NAMES)
storyboard.show()
