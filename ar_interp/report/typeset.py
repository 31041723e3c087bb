"""Text as HTML: everything is escaped, and the notation of statements and docstrings becomes letters and indices."""

import html
import math
import re

GREEK = {
    "beta": "β",
    "gamma": "γ",
    "Gamma": "Γ",
    "eta": "η",
    "theta": "θ",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "sigma": "σ",
    "phi": "φ",
    "psi": "ψ",
}
SIGNS = {"!=": "≠", "&lt;=": "≤", "&gt;=": "≥", "+-": "±", " - ": " − ", "T-1": "T−1"}  # as they are once escaped
LETTER = "A-Za-zŴΓΣβγηθκλμσφψ"
LARGE, SMALL = 1e5, 1e-4  # numbers beyond are written with a power of ten


def typeset(text: str) -> str:
    """Text of ours for an element, with s_{t+1}, p_T, a_h', W^T, kappa, sum_t, <= and *this* as a reader wants them."""
    text = html.escape(text, quote=False)
    for sign, symbol in SIGNS.items():
        text = text.replace(sign, symbol)
    text = re.sub(r"(?<![A-Za-z])sum(?=_)", "Σ", text)
    names = "|".join(GREEK)
    text = re.sub(rf"(?<![A-Za-z])({names})(?![A-Za-z])", lambda found: GREEK[found[1]], text)
    text = re.sub(r"κ(\d)", r"κ<sub>\1</sub>", text)
    text = re.sub(r"(?<=[\s=(\[])-(?=[\w(])", "−", text)
    text = re.sub(r"_\{([^}]*)\}", lambda found: _index("sub", found[1]), text)
    index = rf"(?<![A-Za-z0-9_])([{LETTER}])_([{LETTER}0-9]+'?)"
    text = re.sub(index, lambda found: found[1] + _index("sub", found[2]), text)
    text = re.sub(r"(?<![\w^])\*(\w[^*]*)\*", r"<em>\1</em>", text)
    text = re.sub(r"\^\{([^}]*)\}", lambda found: _index("sup", found[1]), text)
    return re.sub(r"\^(\*|-?[A-Za-z0-9]+)", lambda found: _index("sup", found[1]), text)


def number(value: float, digits: int = 4) -> str:
    """A number for reading, of so many significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or SMALL <= abs(value) < LARGE:
        text = f"{value:.0f}" if abs(value) >= 10**digits else f"{value + 0:.{digits}g}"
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}·10{_index('sup', str(int(exponent)))}".replace("-", "−")


def measured(value: float, uncertainty: float = 0.0) -> str:
    """A number to as many digits as its uncertainty leaves, two of which are doubtful; where it has none, to six."""
    if not uncertainty or not math.isfinite(value):
        return number(value, 6 if abs(value) >= SMALL else 3)
    digits = math.floor(math.log10(abs(value) or uncertainty)) - math.floor(math.log10(uncertainty)) + 2
    return f"{number(value, min(max(digits, 2), 6))} ± {number(uncertainty, 2)}"


def figure_text(text: str) -> str:
    """The text of a plotly title as HTML: of its tags the indices stay, how lines break is the page's business.

    Numbers are written as elsewhere on pages: with a minus sign, and with a power of ten where one was given.
    """
    text = html.escape(text.replace("<br>", " "), quote=False)
    text = re.sub(r"&lt;(/?su[bp])&gt;", r"<\1>", text)
    text = re.sub(r"(?<![\w.)\]>-])-(?=\d)", "−", text)
    return re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]\d+)\b", lambda found: _power(found[1], int(found[2])), text)


def _power(mantissa: str, exponent: int) -> str:
    return f"{'' if mantissa == '1' else f'{mantissa}·'}10{_index('sup', str(exponent))}"


def slug(text: str) -> str:
    """A text as the target of a link: lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _index(tag: str, content: str) -> str:
    return f"<{tag}>{content.replace('-', '−')}</{tag}>"
