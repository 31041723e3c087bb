"""`Study`: a part of a paper as one file, with what it covers, its recipes, its claims, its figures and its words."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ar_interp._moods import calm
from ar_interp._shown import Shown
from ar_interp.claims import Claim, Evidence, Subject
from ar_interp.models.base import Config
from ar_interp.processes import Process
from ar_interp.setting import Setting
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Recipe(Shown):
    """All that makes a checkpoint, and a sentence on what it shows.

    Attributes:
        known_failures: claims that do not hold of it, which is a finding too: name -> (lowest, highest) value that the
            measurement may have. A value outside is a new failure.
    """

    summary: str
    config: Config
    process: Process
    training: TrainConfig
    known_failures: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Structure(Shown):
    """The subject of claims and figures whose names have the same first half.

    Attributes:
        title: a noun phrase.
        meaning: two or three sentences for a reader who has not read the paper.
        formulas: the statements of theory, one line each.
    """

    title: str
    meaning: str
    formulas: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Control:
    """A value of an exhibit that its reader may change.

    Attributes:
        name: of the argument of the exhibit's `measure` and `draw`, of `{name}` in its code, and in the explorer's URL.
        label: for a reader.
        kind: `integer` and `number` within [low, high], `choice` among `options`, or `sequence`, an editable list of
            numbers.
        default: what the report shows.
        remeasures: the exhibit is measured again for another value; else it is only drawn again.
    """

    name: str
    label: str
    kind: Literal["integer", "number", "choice", "sequence"] = "integer"
    default: Any = 0
    low: float = 0
    high: float = 0
    options: tuple[Any, ...] = ()
    meaning: str = ""
    remeasures: bool = False


@dataclass(frozen=True, kw_only=True)
class Exhibit(Shown):
    """A figure of a model: how it is measured and drawn, what it bears on, and the lines that reproduce it.

    Report and explorer show the same exhibits, from the same sequences: the explorer with widgets for the controls.

    Attributes:
        name: unique within a study; where two studies cover a model and name one alike, the earlier one's is shown.
        title: a noun phrase, e.g. for a table of contents.
        page: of the explorer, e.g. `Heads`; what is on none of its pages is on `Its own study`.
        structure, evidence: of the claims that it bears on.
        look: what to look at, two sentences.
        applies: whether the model has what is shown.
        measure: (subject, **values of controls that remeasure) -> result. Exhibits that share a function share its
            result.
        draw: (subject, result, **values of all controls) -> figure.
        code: lines of Python that draw the same figure after `import ar_interp as ari` and
            `checkpoint = ari.load(...)`, with `{name}` for the value of a control.
        controls: subject -> controls, since their ranges depend on the model.
        wide: as wide as the page, not half of it.
    """

    name: str
    title: str
    page: str
    structure: str
    evidence: Evidence
    look: str
    measure: Callable[..., Any]
    draw: "Callable[..., go.Figure]"
    code: str
    applies: Callable[[Subject], bool] = lambda subject: True
    controls: Callable[[Subject], tuple[Control, ...]] = lambda subject: ()
    wide: bool = False

    @calm()
    def result(self, subject: Subject, values: Mapping[str, Any], kept: dict[Any, Any]) -> Any:
        """The result of `measure` for these values of the controls, from `kept` where it has been measured before."""
        taken = {control.name: values[control.name] for control in self.controls(subject) if control.remeasures}
        key = (self.measure, *map(str, taken.values()))  # lists are no keys
        if key not in kept:
            kept[key] = self.measure(subject, **taken)
        return kept[key]


@dataclass(frozen=True, kw_only=True)
class Study(Shown):
    """A part of a paper, or of several.

    Recipes are listed without TransformerLens and plotly: `claims` and `exhibits` are functions that import what they
    need when they are called.

    Attributes:
        name: short, unique.
        source: the paper.
        question: what it asks, in a sentence.
        covers: whether it speaks of a model in this setting.
        recipes: checkpoints by name.
        claims: subject -> claims that theory makes of it.
        exhibits: () -> its figures, in reading order.
        structures: first half of claim names -> what they are about.
    """

    name: str
    source: str
    question: str
    covers: Callable[[Setting], bool]
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    claims: Callable[[Subject], Iterable[Claim]] = lambda subject: ()
    exhibits: Callable[[], tuple[Exhibit, ...]] = tuple
    structures: Mapping[str, Structure] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {len(self.recipes)} recipes)"
