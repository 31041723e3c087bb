"""The report: claims first, then the evidence for each, then methods; one page that works offline, and JSON."""

from ar_interp.report.content import Examined, Part, Report, Section, build
from ar_interp.report.exhibits import Drawn

__all__ = ["Drawn", "Examined", "Part", "Report", "Section", "build"]


def __dir__() -> list[str]:
    return __all__
