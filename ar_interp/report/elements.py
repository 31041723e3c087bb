"""Pieces of HTML that the parts of the page share. Strings given as `html` are HTML already, all others are text."""

from collections.abc import Iterable

from ar_interp.claims import Claim
from ar_interp.report import words
from ar_interp.report.content import Examined, Section
from ar_interp.report.typeset import escape, slug, typeset


def part_of_page(target: str, heading: str, *html: str) -> str:
    """A numbered part, with the target of links to it."""
    content = "\n".join(html)
    return f'<section id="{target}">\n<h2>{heading}</h2>\n{content}\n</section>'


def paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{typeset(text)}</p>" for text in texts)


def table(rows: list[dict[str, str]], targets: Iterable[str] = ()) -> str:
    """Rows of html by column; on narrow screens a row becomes a card.

    Args:
        targets: of links to each row.
    """
    head = "".join(f'<th scope="col">{name}</th>' for name in rows[0])
    ids = [f' id="{target}"' for target in targets] or [""] * len(rows)
    body = []
    for id, row in zip(ids, rows, strict=True):
        cells = "".join(f'<td data-label="{name}"><div>{html}</div></td>' for name, html in row.items())
        body.append(f"<tr{id}>{cells}</tr>\n")
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def definitions(terms: dict[str, str]) -> str:
    """Terms and what they mean, both html."""
    return "<dl>" + "".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in terms.items()) + "</dl>"


def verdict_of(one: Examined, claim: Claim) -> str:
    """A sign and a word, so that no colour is needed."""
    return verdict(claim.verdict, note=" (known)" if claim.name in one.known else "")


def verdict(name: str, *, note: str = "") -> str:
    return f'<span class="verdict {name}">{words.VERDICTS[name][0]} {name}{note}</span>'


def counted(counts: dict[str, int], *, zeros: bool) -> str:
    """`20 hold, 1 is void`, with their signs.

    Args:
        counts: by verdict.
        zeros: whether to name verdicts that no claim has.
    """
    said = []
    for name, (sign, _) in words.VERDICTS.items():
        n = counts[name]
        if n or zeros:
            look = name if n else "soft"
            said.append(f'<span class="verdict {look}">{sign} {n or "none"} {words.VERBS[name][n > 1]}</span>')
    return ", ".join(said)


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def target_of(one: Examined, claim: Claim) -> str:
    """Of links to the claim's row."""
    return f"claim-{one.number}-{slug(claim.name)}"


def place_of(one: Examined, section: Section) -> str:
    """Of links to the evidence on a structure."""
    return f"evidence-{one.number}-{slug(section.structure)}"


def number_of(one: Examined, claim: Claim) -> str:
    """As it is printed, so that references work on paper: 2.13 is claim 13 about model 2."""
    return f"{one.number}.{one.claims.claims.index(claim) + 1}"


def link_to(one: Examined, claim: Claim) -> str:
    return f'<a href="#{target_of(one, claim)}">{number_of(one, claim)}</a>'


def title_of(section: Section) -> str:
    """Html."""
    known = words.STRUCTURES.get(section.structure)
    return typeset(known.title) if known else escape(section.structure.capitalize())
