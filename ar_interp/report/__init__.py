"""The report: claims first, then the evidence for each, then methods; one page that works offline, and JSON.

Its parts are loaded when they are first asked for: words and typesetting need none of TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ar_interp.report.content import Examined, Part, Report, Section, build
    from ar_interp.report.exhibits import Drawn

__all__ = ["Drawn", "Examined", "Part", "Report", "Section", "build"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.content"), name)


def __dir__() -> list[str]:
    return __all__
