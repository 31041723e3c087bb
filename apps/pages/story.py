"""The story, for visitors who have never heard of the paper."""

import storyboard

storyboard.show()
