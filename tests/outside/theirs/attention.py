"""One file: an attention type."""

from ar_interp.models.attention_types import NonlinearAttention


class Rectified(NonlinearAttention):
    """Scores below zero are cut off."""

    kind = "rectified"

    def pattern(self, scores):
        return scores.clamp(min=0)
