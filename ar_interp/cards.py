"""Model cards: what a checkpoint is, how it was made, and what was verified of it."""

from ar_interp.checkpoints import TrainingRun, describe
from ar_interp.claims import Claims


def model_card(run: TrainingRun, name: str, claims: Claims, summary: str = "") -> str:
    """The text of a checkpoint's README.md."""
    tally = ", ".join(f"{count} {verdict}" for verdict, count in claims.counts.items())
    return (
        describe(run, name, summary)
        + f"\n## What was verified\n\n`ar-interp verify {name} --seed {claims.seed}`: {tally}. "
        + "A void claim is one whose control passes too, an undecided one needs more contexts.\n\n"
        + (f"Theory makes no claim of it: {claims.why_not}.\n\n" if claims.why_not else "")
        + claims_table(claims)
    )


def claims_table(claims: Claims) -> str:
    """The claims as a Markdown table."""
    lines = [
        "| statement | predicted | measured | n | tolerance | control | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        cells = [
            claim.statement,
            f"{'' if claim.side == 'equal to' else claim.side + ' '}{claim.predicted:.6g}",
            f"{claim.estimate:.6g}",
            str(claim.n),
            f"{claim.tolerance:g}",
            f"{claim.control.description}: {claim.control.estimate:.4g}",
            claim.verdict,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
