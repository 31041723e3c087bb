"""Claims about a text: whether the order of words tells the next one's vector, and whose matrix it is."""

from ar_interp.claims import Claim, Claims, Estimate, claim
from ar_interp.probes.text import RolledOut, TextRegularity

DOCUMENTS = "documents"  # source of uncertainty
LEVEL = 0.05
SOURCE = "figure 4 of Sander et al. 2024, as a regression with a null"


def text_claims(found: TextRegularity, published: RolledOut | None = None) -> Claims:
    """Four statements on a text, each with a control, and the published statistic, whose control passes too.

    A claim that fails says something of the text: no autoregression with an orthogonal matrix, no matrix of its own.

    Args:
        found: of `text_regularity`.
        published: of `rolled_out` on the same text; left out if not given.
    """
    table = {name: column.to_numpy() for name, column in found.documents.items()}
    n, above = len(found.documents), table["R2"] - table["null"]
    beaten = int((table["p"] <= LEVEL).sum())

    def left(name: str) -> Estimate:
        return Estimate.ratio(table[name] - table["null"], above, DOCUMENTS)

    def mean(name: str, over: str) -> Estimate:
        return Estimate.mean(table[name] - table[over], DOCUMENTS)

    claims: list[Claim] = [
        claim(
            "text/order",
            f"The order of words matters: share of the documents whose R^2 is among the highest {100 * LEVEL:.0f} % of "
            "its permutations",
            evidence="behaviour",
            source=SOURCE,
            tolerance="text bound",
            predicted=0.25,
            side="at least",
            measured=Estimate.share(beaten, n, DOCUMENTS),
            control=("words in random order, by exchangeability", LEVEL),
        ),
        claim(
            "text/local",
            "Local order matters, not topic: share of R^2 - null that is left when words are permuted within blocks",
            evidence="behaviour",
            source=SOURCE,
            tolerance="text bound",
            predicted=0.6,
            side="at most",
            measured=left("within"),
            control=("blocks kept, their order permuted", left("blocks")),
        ),
        claim(
            "text/own matrix",
            "A document has a matrix of its own: R^2 on its second half of W adapted to its first half, less that of "
            "the W of all others",
            evidence="behaviour",
            source="in-context autoregression, the claim proper",
            tolerance="text bound",
            predicted=0.0,
            side="at least",
            measured=mean("own", "language"),
            control=("adapted to another document", mean("other", "language")),
        ),
        claim(
            "text/orthogonal",
            "The matrix of a document is orthogonal: R^2 of the best orthogonal W",
            evidence="behaviour",
            source="the process that the models are trained on",
            tolerance="text bound",
            predicted=0.0,
            side="at least",
            measured=Estimate.mean(table["orthogonal"], DOCUMENTS),
            control=("the vector of the word itself, W = I", Estimate.mean(table["copy"], DOCUMENTS)),
        ),
    ]  # fmt: skip
    if published is not None:
        row = published.kept.iloc[0]
        claims.append(
            claim(
                "text/published",
                "The published statistic, the share of windows of five words whose roll-out errs, is that of windows "
                "in which a word has two successors",
                evidence="behaviour",
                source="figure 4 of Sander et al. 2024",
                tolerance="published windows",
                predicted=float(row["conflicts"]),
                measured=float(row["kept"]),
                control=("random vectors", float(row["random"])),
            )
        )
    return Claims("text", tuple(claims))


def verdicts(claims: Claims) -> str:
    """A line for each claim, for a terminal."""
    lines = []
    for one in claims:
        side = "" if one.side == "equal to" else f"{one.side} "
        lines.append(
            f"  {one.verdict:9} {one.statement}: {one.estimate:.4g} (95 %), expected {side}{one.predicted:.4g}; "
            f"{one.control.description}: {one.control.estimate:.4g}"
        )
    return "\n".join(["Verdicts, by the interval over documents:", *lines])
