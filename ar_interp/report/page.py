"""The report as one HTML page: text that is escaped, figures as JSON, plotly.js once, nothing from outside."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ar_interp.report.exhibits import Drawn
from ar_interp.report.plots import figures, widths
from ar_interp.report.typeset import figure_text, measured, number, slug, typeset


def page(exhibits: Sequence[Drawn], **values: object) -> str:
    """The whole page. Scripts other than its own two do not run, and nothing is loaded (Content-Security-Policy).

    Args:
        exhibits: in the order of the page.
        values: all else that the templates name.
    """
    style, script = ((files("ar_interp.report") / name).read_text("utf-8") for name in ("style.css", "page.js"))
    return ENVIRONMENT.get_template("page.html").render(
        figures=figures(exhibits), style=style, script=script, plotly=get_plotlyjs(), **values
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _html(function: Callable[..., str]) -> Callable[..., Markup]:
    """The function as a filter whose result is HTML already."""
    return lambda *arguments: Markup(function(*arguments))


ENVIRONMENT = Environment(
    loader=PackageLoader("ar_interp.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
ENVIRONMENT.filters |= {
    function.__name__: _html(function) for function in (figure_text, measured, number, slug, typeset)
}
ENVIRONMENT.filters |= {"sha256": _sha256, "widths": widths}
