"""The report as one HTML page: text that is escaped, figures as JSON, plotly.js once, nothing from outside."""

import base64
import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import count
from string import Template

from plotly.offline import get_plotlyjs

from ar_interp.claims import Claim
from ar_interp.report import words
from ar_interp.report.content import Examined, Part, Report, Section, tally
from ar_interp.report.elements import (
    counted,
    definitions,
    link_to,
    number_of,
    paragraphs,
    part_of_page,
    place_of,
    plural,
    table,
    target_of,
    title_of,
    verdict,
    verdict_of,
)
from ar_interp.report.methods import methods
from ar_interp.report.plots import figure_element, figures, widths
from ar_interp.report.typeset import escape, measured, number, typeset


def page(report: Report) -> str:
    """The whole page. Scripts other than its own two do not run, and nothing is loaded (Content-Security-Policy)."""
    here = files("ar_interp.report")
    template, style, script = ((here / name).read_text("utf-8") for name in ("page.html", "style.css", "page.js"))
    plotly_js = get_plotlyjs()
    one, *others = report.examined
    opened = f"{1 + len(others)} models opened" if others else one.name
    facts = f"{report.date:%d %B %Y}", f"ar_interp {report.versions['ar-interp']}", _size(report)
    return Template(template).substitute(
        title=escape(f"In-context autoregressive learning: {opened}"),
        byline=escape(" · ".join(facts).lstrip("0")),
        allowed=" ".join(f"'sha256-{_sha256(text)}'" for text in (plotly_js, script)),
        style=style,
        body="\n".join([_about(report), _summary(report), _claims(report), _evidence(report), methods(report)]),
        figures=_as_script(figures(report)),
        plotly=plotly_js,
        script=script,
    )


def _about(report: Report) -> str:
    first, *rest = words.INTRODUCTION
    return part_of_page(
        "about",
        "1 What this is",
        f'<p class="lead">{typeset(first)}</p>',
        paragraphs(rest),
        "<h3>Verdicts</h3>",
        definitions({verdict(name): typeset(meaning) for name, (_, meaning) in words.VERDICTS.items()}),
        paragraphs([words.KNOWN] if report.failures(known=True) else []),
        "<h3>Kinds of evidence</h3>",
        definitions({escape(kind.label): typeset(kind.meaning) for kind in words.KINDS.values()}),
    )


def _summary(report: Report) -> str:
    counts = tally(claim for one in report.examined for claim in one.claims)
    columns = ["Structure", *(kind.label for kind in words.KINDS.values()), "Shown"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    groups = "".join(_matrix(one, n_columns=len(columns)) for one in report.examined)
    return part_of_page(
        "summary",
        "2 Summary",
        f'<p class="lead">{_size(report)}: {counted(counts, zeros=True)}.</p>',
        _notices(report),
        paragraphs(words.SUMMARY),
        f'<div class="scroll"><table class="matrix"><thead><tr>{head}</tr></thead>{groups}</table></div>',
    )


def _size(report: Report) -> str:
    n_claims = sum(len(one.claims) for one in report.examined)
    return f"{plural(n_claims, 'claim')} about {plural(len(report.examined), 'model')}"


def _notices(report: Report) -> str:
    """Failures, loudly."""
    notices = []
    for known, look in ((False, "loud"), (True, "known")):
        failures = report.failures(known=known)
        if failures:
            heading = f"{plural(len(failures), 'claim')} {words.VERBS['fails'][len(failures) > 1]}"
            several = len(report.examined) > 1
            items = [
                f"<li>{link_to(one, claim)} {f'{escape(one.name)}: ' * several}{typeset(claim.statement)}</li>"
                for one, claim in failures
            ]
            text = f"<p><strong>{heading}{words.FAILURES[known]}</strong></p><ul>{''.join(items)}</ul>"
            notices.append(f'<div class="notice {look}">{text}</div>')
    return "".join(notices) or '<div class="notice"><p>No claim fails.</p></div>'


def _matrix(one: Examined, *, n_columns: int) -> str:
    """The rows of one checkpoint."""
    said = counted(tally(one.claims), zeros=False)
    head = f'<a href="#claims-{one.number}">{escape(one.name)}</a> <span class="count">{said}</span>'
    rows = [f'<tr><th scope="rowgroup" colspan="{n_columns}">{head}</th></tr>']
    for section in one.sections:
        marks = {part.evidence: _marks(one, part) for part in section.parts if part.claims}
        if marks:
            title = f'<a href="#{place_of(one, section)}">{title_of(section)}</a>'
            cells = "".join(f"<td>{marks.get(kind, '')}</td>" for kind in words.KINDS)
            look = "three" if section.n_ways == len(words.WAYS) else "soft"
            shown = f'<td class="{look}">{words.N_WAYS[section.n_ways]}</td>'
            rows.append(f'<tr><th scope="row">{title}</th>{cells}{shown}</tr>')
    return f"<tbody>{''.join(rows)}</tbody>"


def _marks(one: Examined, part: Part) -> str:
    marks = [
        f'<a class="{claim.verdict}" href="#{target_of(one, claim)}" '
        f'title="{escape(f"{claim.verdict}: {claim.statement}")}">{words.VERDICTS[claim.verdict][0]}</a>'
        for claim in part.claims
    ]
    holding = tally(part.claims)["holds"]
    return f'<span class="marks">{"<wbr>".join(marks)}</span><br><span class="count">{holding} of {len(marks)}</span>'


def _claims(report: Report) -> str:
    tables = []
    for one in report.examined:
        places = {section.structure: section for section in one.sections}
        tables += [
            f'<h3 id="claims-{one.number}">3.{one.number} {escape(one.name)}</h3>',
            paragraphs([one.summary] if one.summary else []),
            table(
                [_row(one, claim, places[claim.structure]) for claim in one.claims],
                [target_of(one, claim) for claim in one.claims],
            ),
        ]
    return part_of_page("claims", "3 Claims", *tables)


def _row(one: Examined, claim: Claim, section: Section) -> dict[str, str]:
    evidence = f'<a href="#{place_of(one, section)}">4.{one.number} {title_of(section)}</a>'
    source = f"{escape(words.KINDS[claim.evidence].heading)}; evidence: {evidence}"
    n = f'<span class="n">n = {claim.n:,}</span>' if claim.n > 1 else ""
    return {
        "№": number_of(one, claim),
        "Verdict": verdict_of(one, claim),
        "Statement": f'{typeset(claim.statement)}<span class="source">{source}</span>',
        "Predicted": f'<span class="number">{number(claim.predicted, 6)}</span>',
        "Measured": f'<span class="number">{measured(claim.measured, claim.uncertainty)} {n}</span>',
        "Control": f'<span class="number">{number(claim.control.measured)}</span>'
        f'<span class="source">{typeset(claim.control.description)}</span>',
    }


def _evidence(report: Report) -> str:
    numbers = count()
    html = []
    for one in report.examined:
        html += [
            f'<h3 id="evidence-{one.number}">4.{one.number} {escape(one.name)}</h3>',
            f'<p class="soft">{typeset(one.checkpoint.config.summary)}; its claims are in '
            f'<a href="#claims-{one.number}">3.{one.number}</a></p>',
        ]
        for section in one.sections:
            known = words.STRUCTURES.get(section.structure)
            html.append(f'<h4 id="{place_of(one, section)}">{title_of(section)}</h4>')
            html.append(paragraphs([known.meaning] if known else []))
            html += [_part(one, part, numbers) for part in section.parts]
    return part_of_page("evidence", "4 Evidence", *html)


def _part(one: Examined, part: Part, numbers: Iterator[int]) -> str:
    """Figures, and the claims that they bear on."""
    html = [f"<h5>{escape(words.KINDS[part.evidence].heading)}</h5>"]
    if part.exhibits:
        drawn = [
            figure_element(exhibit, number=next(numbers), width=width)
            for exhibit, width in zip(part.exhibits, widths(part.exhibits), strict=True)
        ]
        html.append(f'<div class="exhibits">{"".join(drawn)}</div>')
    items = [
        f"<li>{verdict_of(one, claim)}<span>{link_to(one, claim)} {typeset(claim.statement)}</span></li>"
        for claim in part.claims
    ]
    html.append(f'<ul class="claims">{"".join(items)}</ul>' if items else f'<p class="soft">{words.NO_CLAIM}</p>')
    return "".join(html)


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_script(content: object) -> str:
    """JSON that no parser of HTML can take for the end of its element."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
