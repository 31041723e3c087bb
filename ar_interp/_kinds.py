"""Kinds that register themselves: a subclass with a name is all there is to adding one, also from outside the package.

A root class (`AutoregressiveProcess`, say) keeps its subclasses by their `kind`, the name that stands in a saved file.
A kind is its type: a subclass of `HaarOrthogonal` is another process, of which nothing that is known of Haar W is true.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar

from ar_interp._shown import shown_html

GROUPS = ("ar_interp.kinds", "ar_interp.studies")  # entry points of installed packages
SHOWN = 6  # kinds that a message lists


class Kind:
    """Base of everything that is looked up by name.

    `class Root(Kind, root=True)` starts a family; every subclass that can be instantiated has a `kind` of its own.

    Raises:
        TypeError: where a subclass is defined: no name of its own, a name that another class has, or a name although
            methods are left to write.
    """

    kind: ClassVar[str]
    registered: ClassVar[dict[str, type[Any]]]

    def __init_subclass__(cls, root: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if root:
            cls.registered = {}
            return
        left = sorted(name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False))
        named = isinstance(cls.__dict__.get("kind"), str)
        if left and named:
            raise TypeError(f"{cls.__name__} (kind {cls.kind!r}) must define {', '.join(left)}.")
        if left:
            return
        if not named:
            inherited = f", {cls.kind!r} is its parent's" if hasattr(cls, "kind") else ""
            raise TypeError(
                f"{cls.__name__} needs a name of its own{inherited}: write kind = '...' in its body, as a saved "
                "file will have it. A kind is its type: what is known of the parent is not known of it."
            )
        other = cls.registered.get(cls.kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):  # a cell may run twice
            raise TypeError(f"kind {cls.kind!r} of {cls.__name__} is taken by {other.__module__}.{other.__qualname__}.")
        cls.registered[cls.kind] = cls

    def _repr_html_(self) -> str:
        return shown_html(self)

    @classmethod
    def find(cls, kind: object, name: str = "kind") -> type[Any]:
        """The subclass of this name: one that is imported, or that an entry point of an installed package names.

        Args:
            kind: the name.
            name: what the message calls it.
        Raises:
            ValueError: there is none; the message lists those that there are.
        """
        if not isinstance(kind, str) or kind not in cls.registered:
            load_plugins()
        if not isinstance(kind, str) or kind not in cls.registered:
            known = [*map(repr, cls.registered)]
            others = f" or {len(known) - SHOWN} others" if len(known) > SHOWN else ""
            raise ValueError(
                f"{name} must be one of {', '.join(known[:SHOWN])}{others}, got {kind!r}. A kind of your own is "
                f"known once its module is imported, or where an entry point of the group {GROUPS[0]!r} names it."
            )
        return cls.registered[kind]


@cache
def load_plugins() -> tuple[tuple[str, str, Any], ...]:
    """Load the entry points of installed packages, once; one that cannot be loaded is a warning.

    Returns:
        Group, name and object of each.
    """
    found = []
    for group in GROUPS:
        for entry in entry_points(group=group):
            try:
                found.append((group, entry.name, entry.load()))
            except (Exception, SystemExit) as error:  # whatever a stranger's module raises
                warnings.warn(f"entry point {entry.name!r} of {group} cannot be loaded: {error!r}.", stacklevel=2)
    return tuple(found)


def says_yes(test: Callable[..., bool], *about: object) -> bool:
    """Whether a test, which may be a stranger's, says so; one that fails is a warning, and says no.

    A test of somebody's own models need not know all others.
    """
    try:
        return test(*about)
    except Exception as error:  # whatever a stranger's code raises
        warnings.warn(f"{test.__qualname__} of {test.__module__} fails, and is taken for no: {error!r}.", stacklevel=2)
        return False
