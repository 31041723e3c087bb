"""One file: a process."""

from dataclasses import dataclass, field
from typing import ClassVar

from ar_interp.processes import HaarOrthogonal


@dataclass(frozen=True)
class Shrinking(HaarOrthogonal):
    """W is `rate` times a Haar-distributed matrix, so that sequences die out."""

    rate: float = field(default=0.9, kw_only=True)

    kind: ClassVar[str] = "shrinking"
    meaning: ClassVar[str] = "W is a multiple of a Haar-distributed matrix"

    def draw_matrices(self, batch, generator):
        return self.rate * super().draw_matrices(batch, generator)
