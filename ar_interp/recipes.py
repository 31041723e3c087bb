"""The recipes of all studies by name. `trained/` is made from nothing else: `ar-interp train NAME`."""

import warnings
from typing import Any

from ar_interp._shown import ByName
from ar_interp.checkpoints import Checkpoint, is_shipped
from ar_interp.claims import Claim
from ar_interp.studies import Recipe, all_studies

__all__ = [
    "RECIPES",
    "Recipe",
    "known_failure",
    "listing",
    "recipe_of",
]


def _collected() -> ByName[Recipe]:
    found = ByName[Recipe]()
    for study in all_studies():
        for name, recipe in study.recipes.items():
            if name in found:
                warnings.warn(f"recipe {name!r} of study {study.name!r} is left out: the name is taken.", stacklevel=2)
            else:
                found[name] = recipe
    return found


RECIPES = _collected()


def listing() -> list[dict[str, Any]]:
    """Name, question and recipes (name and summary) of every study, in order."""
    return [
        {
            "name": study.name,
            "question": study.question,
            "recipes": {name: recipe.summary for name, recipe in study.recipes.items()},
        }
        for study in all_studies()
    ]


def recipe_of(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe of a checkpoint that lies in the shipped folder, by whatever path it was loaded; a copy has none."""
    return RECIPES.get(checkpoint.path.resolve().name) if is_shipped(checkpoint) else None


def known_failure(checkpoint: Checkpoint, claim: Claim) -> bool:
    """The claim fails, and the recipe of this shipped checkpoint says so of a value like the one measured."""
    recipe = recipe_of(checkpoint)
    if claim.verdict != "fails" or recipe is None or claim.name not in recipe.known_failures:
        return False
    low, high = recipe.known_failures[claim.name]
    return low <= claim.measured <= high


def __dir__() -> list[str]:
    return __all__
