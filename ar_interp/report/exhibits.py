"""The exhibits of a checkpoint as the report draws them: with the default values of their controls."""

import json
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ar_interp._shown import Shown
from ar_interp.checkpoints import Checkpoint
from ar_interp.claims import Evidence, subject_of
from ar_interp.studies import exhibits_of


@dataclass(frozen=True, kw_only=True)
class Drawn(Shown):
    """A figure that bears on the claims about a structure with the same kind of evidence.

    Attributes:
        name: of its `Exhibit`.
        wide: as wide as the page, not half of it.
        look: what to look at.
    """

    structure: str
    evidence: Evidence
    name: str
    figure: go.Figure
    wide: bool
    look: str

    def to_dict(self) -> dict[str, Any]:
        """The figure as plotly's JSON, which `plotly.io.from_json` reads, without the template that all share."""
        found = json.loads(str(self.figure.to_json()))
        found["layout"].pop("template", None)
        return found


def draw(checkpoint: Checkpoint) -> tuple[Drawn, ...]:
    """Every figure that the studies have of a checkpoint; what several rest on is measured once."""
    subject, results, drawn = subject_of(checkpoint), {}, []
    for exhibit in exhibits_of(subject):
        values = {control.name: control.default for control in exhibit.controls(subject)}
        figure = exhibit.draw(subject, exhibit.result(subject, values, results), **values)
        shown = {name: getattr(exhibit, name) for name in ("structure", "evidence", "name", "wide", "look")}
        drawn.append(Drawn(figure=figure, **shown))
    return tuple(drawn)
