"""How objects show themselves: name, shapes and numbers in a line, and in a notebook the main table below."""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST = 120  # letters of a field
FEW = 6  # numbers in a line
CELLS = 25  # of a table in a notebook
WAIT = 2  # seconds that need no bar


class Shown:
    """Base of dataclasses that hold tensors and tables: their repr is short, whatever they hold."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = shown  # type: ignore[method-assign] - a dataclass keeps a repr that is there

    def _repr_html_(self) -> str:
        return shown_html(self)


class ByName(dict[str, T]):
    """A dict that shows how many entries it has and the first names."""

    def __repr__(self) -> str:
        first = ", ".join(list(self)[:FEW])
        return f"{len(self)} by name: {first}{', ...' if len(self) > FEW else ''}"


def shown(self: Any) -> str:
    """Name, and each field in a few letters."""
    return f"{type(self).__name__}({', '.join(f'{name}={brief(value)}' for name, value in _parts(self).items())})"


def shown_html(self: Any) -> str:
    """The fields as a table, and below it the first rows of the main table where there is one."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(brief(value))}</td></tr>" for name, value in _parts(self).items()
    )
    main = self.to_frame() if hasattr(self, "to_frame") else None
    return f"<b>{type(self).__name__}</b><table>{rows}</table>{'' if main is None else table_html(main)}"


def table_html(frame: Any) -> str:
    """The first rows of a table, as many as 25 cells hold, words cut at 120 letters, and how many rows there are."""
    first = frame.head(max(1, CELLS // len(frame.columns))).map(cut)
    lines = first.to_html(index=False, float_format="{:.4g}".format).splitlines()
    return f"{''.join(map(str.strip, lines))}<p>{len(frame)} rows</p>"


def brief(value: Any) -> str:
    """A value in at most 120 letters: shapes for tensors, columns for tables, numbers for numbers."""
    if hasattr(value, "columns"):
        text = f"table of {len(value)} rows: {' '.join(map(str, value.columns))}"
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = str(value.dtype).removeprefix("torch.")
        text = f"{value.item():.6g}" if not value.shape and kind[0] in "fiu" else f"{kind} {list(value.shape)}"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, Mapping):
        text = "{}" if not value else f"{len(value)} by {brief(next(iter(value)))}, ..."
    elif isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        plain = len(value) <= FEW and all(isinstance(entry, int | float | str) for entry in value)
        text = f"({', '.join(map(brief, value))})" if plain else f"{len(value)} of {type(next(iter(value))).__name__}"
    elif isinstance(value, int) and abs(value) > 10**LONGEST:
        text = f"an integer of {value.bit_length()} bits"
    else:
        text = repr(value)
    return cut(text)


def cut(value: Any) -> Any:
    """Words in at most 120 letters; what is no text as it is."""
    return f"{value[: LONGEST - 4]} ..." if isinstance(value, str) and len(value) > LONGEST else value


def typed(value: Any) -> str:
    """A value as it was typed, where that takes at most 120 letters."""
    try:
        text = repr(value)
    except ValueError:  # of integers of thousands of digits
        return brief(value)
    return text if len(text) <= LONGEST else brief(value)


def watched(**options: Any) -> Any:
    """A bar of tqdm for whoever looks on, at a terminal or in a notebook, once it takes longer than two seconds."""
    from tqdm.auto import tqdm

    seen = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    return tqdm(disable=not seen, delay=WAIT, leave=False, **options)


def _parts(item: Any) -> dict[str, Any]:
    if is_dataclass(item):
        return {field.name: getattr(item, field.name) for field in fields(item)}
    return item._asdict() if hasattr(item, "_asdict") else vars(item)
