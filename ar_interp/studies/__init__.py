"""The studies, and what goes over all of them: ours, and those that installed packages name in `ar_interp.studies`."""

from functools import cache

from ar_interp._kinds import load_plugins
from ar_interp.setting import Setting
from ar_interp.studies.base import Control, Exhibit, Recipe, Structure, Study

__all__ = ["STUDIES", "Control", "Exhibit", "Recipe", "Structure", "Study", "all_studies", "studies_of"]

STUDIES: tuple[Study, ...] = ()


@cache
def all_studies() -> tuple[Study, ...]:
    """Ours first, then those of installed packages, a `Study` or several each."""
    found = [item for loaded in load_plugins() for item in (loaded if isinstance(loaded, tuple | list) else [loaded])]
    return (*STUDIES, *(item for item in found if isinstance(item, Study)))


def studies_of(setting: Setting) -> tuple[Study, ...]:
    """The studies that cover a setting, in order."""
    return tuple(study for study in all_studies() if study.covers(setting))
