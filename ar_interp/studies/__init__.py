"""The studies, and what goes over all of them: ours, and those that installed packages name in `ar_interp.studies`."""

import secrets
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from ar_interp._kinds import load_plugins, says_yes
from ar_interp._moods import calm
from ar_interp._shown import watched
from ar_interp.claims import Claim, Claims, Subject, subject_of
from ar_interp.processes import Process
from ar_interp.seeds import DRAWN_LIMIT
from ar_interp.setting import Setting
from ar_interp.studies import (
    any_model,
    chains,
    depth,
    descent,
    diagonal_heads,
    emergence,
    first_token,
    general_models,
    gradient_step,
    head_count,
    noise,
    outside,
    regression,
    unfinished_descent,
)
from ar_interp.studies.base import Control as Control
from ar_interp.studies.base import Exhibit as Exhibit
from ar_interp.studies.base import Recipe as Recipe
from ar_interp.studies.base import Structure as Structure
from ar_interp.studies.base import Study as Study

__all__ = [
    "STUDIES",
    "Control",
    "Exhibit",
    "Recipe",
    "Structure",
    "Study",
    "all_studies",
    "exhibits_of",
    "structures",
    "studies_of",
    "verify",
]


STUDIES: tuple[Study, ...] = (
    diagonal_heads.STUDY,
    descent.STUDY,
    unfinished_descent.STUDY,
    gradient_step.STUDY,
    depth.STUDY,
    head_count.STUDY,
    first_token.STUDY,
    emergence.STUDY,
    general_models.STUDY,
    noise.STUDY,
    outside.STUDY,
    regression.STUDY,
    chains.STUDY,
    any_model.STUDY,
)


@cache
def all_studies() -> tuple[Study, ...]:
    """Ours first, then those of installed packages, a `Study` or several each; anything else is a warning."""
    found = list(STUDIES)
    for group, name, loaded in load_plugins():
        for item in loaded if isinstance(loaded, tuple | list) else [loaded]:
            if isinstance(item, Study):
                found.append(item)
            elif group == "ar_interp.studies":
                warnings.warn(
                    f"entry point {name!r} of {group} is left out: it must name a Study, or a tuple of them, "
                    f"got {item!r}.",
                    stacklevel=2,
                )
    return tuple(found)


def studies_of(setting: Setting) -> tuple[Study, ...]:
    """The studies that cover a setting, in order."""
    return tuple(study for study in all_studies() if says_yes(study.covers, setting))


def exhibits_of(subject: Subject) -> tuple[Exhibit, ...]:
    """The figures that a model has, in reading order; of two with one name, that of the earlier study."""
    found = {}
    for study in reversed(studies_of(subject.setting)):
        found |= {exhibit.name: exhibit for exhibit in study.exhibits() if exhibit.applies(subject)}
    return tuple(found.values())


def structures() -> dict[str, Structure]:
    """The subjects of claims and figures, by the first half of their names; those of any model come first."""
    every = [any_model.STUDY, *all_studies()]
    return {name: structure for study in every for name, structure in study.structures.items()}


@calm()
def verify(
    subject: Any,
    process: Process | None = None,
    *,
    seed: int | None = None,
    n: int | None = None,
    each: Callable[[Claim], object] = lambda claim: None,
) -> Claims:
    """Measure every claim that the studies make of a model.

    Args:
        subject: a `Checkpoint`, a `TrainingRun`, the name or folder of a checkpoint, or a conforming model (then claims
            about training are left out).
        process: what it is about; the subject's own if left out.
        seed: that every context is drawn with, below 2**31; drawn if left out, and in the result.
        n: how many contexts each measurement takes; as many as each claim was planned with if left out.
        each: called with every claim once it is measured, to show progress.
    Returns:
        The claims, of any model first; where theory makes none, `why_not` says why.
    Raises:
        ValueError: a process that the model cannot be about; a model that only its training can be compared with,
            without its run; no process where the size of a token is not known either; weights that are not finite, or
            whose errors are not.
    """
    from ar_interp.models.opened import as_model  # loads TransformerLens

    found = subject_of(subject, process, n=n, seed=secrets.randbelow(DRAWN_LIMIT) if seed is None else seed)
    earlier = None if found.process is None else as_model(found.model).check_computes(found.process)
    others = [study for study in studies_of(found.setting) if study is not any_model.STUDY]
    theirs: list[Claim] = []
    first: list[Claim] = []
    with watched(unit=" claims", desc=f"verify {found.name}") as bar:
        of_theory = (claim for study in others for claim in study.claims(found))
        for measured, made in ((theirs, of_theory), (first, any_model.claims(found, earlier))):
            for claim in made:
                each(claim)
                bar.update()
                measured.append(claim)
    silent = found.setting.why_not or f"no study makes a claim about {found.setting.kind}"
    return Claims(found.name, (*first, *theirs), why_not="" if theirs else silent, seed=found.seed)


def __dir__() -> list[str]:
    return __all__
