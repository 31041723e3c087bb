"""The last part of the page: how everything was measured, and how to make the report again."""

import json
from collections.abc import Callable

from ar_interp.claims import Claim
from ar_interp.processes import CommutingProcess
from ar_interp.report import words
from ar_interp.report.content import Examined, Report
from ar_interp.report.elements import definitions, link_to, paragraphs, part_of_page, table
from ar_interp.report.exhibits import N_REPEATED, N_SEQUENCES, SEED
from ar_interp.report.typeset import escape, number, typeset

NAMED = 6  # claims named one by one, where many share a tolerance or a control
PAPER = (
    "The theory is that of <em>How do Transformers perform In-Context Autoregressive Learning?</em>, Sander, Giryes, "
    'Suzuki, Blondel, Peyré, ICML 2024, <a href="https://arxiv.org/abs/2402.05787">arXiv 2402.05787</a>; what goes '
    "beyond it says so in its source."
)


def methods(report: Report) -> str:
    structures = {section.structure for one in report.examined for section in one.sections}
    kinds = dict.fromkeys(one.checkpoint.process.kind for one in report.examined)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return part_of_page(
        "methods",
        "5 Methods",
        "<h3>Sequences and uncertainty</h3>",
        paragraphs(words.UNCERTAINTY),
        f"<p>Figures rest on {N_SEQUENCES} sequences of seed {SEED}, or show the first of them; swaps layer by layer "
        f"rest on {N_REPEATED}.</p>",
        "<h3>Controls</h3>",
        paragraphs(words.CONTROLS),
        _grouped(report, _control),
        "<h3>Sources and tolerances</h3>",
        _grouped(report, _tolerance),
        "<h3>Theory in formulas</h3>",
        *(_formulas(structure) for name, structure in words.STRUCTURES.items() if name in structures),
        "<h3>Symbols</h3>",
        definitions({typeset(name): typeset(text) for name, text in words.SYMBOLS.items()}),
        "<h3>Processes</h3>",
        definitions({escape(kind): typeset(words.FAMILIES[kind]) for kind in kinds}),
        "<h3>Models and their training</h3>",
        table([_made(one) for one in report.examined]),
        "<h3>How to make this report again</h3>",
        f"<p>With {escape(versions)}; the same date gives the same report.</p>",
        *(_command(command) for command in report.commands),
        "<p>A checkpoint that ships with the package is trained from nothing by <code>ar-interp train NAME</code>.</p>",
        f"<p>{PAPER}</p>",
    )


def _command(command: str) -> str:
    """Lines break between arguments only."""
    return "<pre><code>" + " ".join(f"<span>{escape(word)}</span>" for word in command.split(" ")) + "</code></pre>"


def _control(claim: Claim) -> dict[str, str]:
    return {"Control": typeset(claim.control.description)}


def _tolerance(claim: Claim) -> dict[str, str]:
    return {
        "Claim": f"<code>{escape(claim.name)}</code>",
        "Source": typeset(claim.source),
        "Tolerance": f'<span class="number">{number(claim.tolerance)}</span>',
        "Why": typeset(claim.reason),
    }


def _grouped(report: Report, describe: Callable[[Claim], dict[str, str]]) -> str:
    """A table of what claims have in common, and which these are."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for one in report.examined:
        for claim in one.claims:
            row = describe(claim)
            groups.setdefault(json.dumps(row), (row, []))[1].append(link_to(one, claim))
    rows = []
    for key in sorted(groups):
        row, links = groups[key]
        more = f" and {len(links) - NAMED} more" if len(links) > NAMED else ""
        rows.append(row | {"Claims": ", ".join(links[:NAMED]) + more})
    return table(rows)


def _formulas(structure: words.Structure) -> str:
    items = "".join(f"<li>{typeset(formula)}</li>" for formula in structure.formulas)
    return f'<h4>{typeset(structure.title)}</h4><ul class="formulas">{items}</ul>'


def _made(one: Examined) -> dict[str, str]:
    """How a model came to be, a row."""
    checkpoint = one.checkpoint
    config, process, training = checkpoint.config, checkpoint.process, checkpoint.training
    slow = f", mu = {process.mu:g}" if isinstance(process, CommutingProcess) and process.mu != 1 else ""
    noise = f", noise {process.noise:g}" if process.noise else ""
    n_seeds = len(checkpoint.members)
    made = [
        f"{training.objective} loss",
        training.optimizer
        if training.optimizer == "lbfgs"
        else f"{training.optimizer}, lr {training.lr:.4g}, {training.schedule}",
        f"{checkpoint.steps:,} steps",
        f"batch {training.batch}" if training.objective == "sampled" else "",
        "" if training.stop_below is None else f"stopped below {training.stop_below:g}",
        f"weights {'as of torch.nn.Linear' if config.init == 'linear' else f'from N(0, {config.init_scale:g}^2)'}",
        f"seed {checkpoint.seed}" + (f", the best of {n_seeds:,}" if n_seeds > 1 else ""),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in checkpoint.versions.items())
    return {
        "Model": f'<a href="#claims-{one.number}">3.{one.number}</a> {escape(one.name)}',
        "Architecture": f"{typeset(config.summary)}; d = {config.dim}, contexts up to {config.n_ctx}, {config.dtype}",
        "Process": f"{escape(process.kind)}{typeset(slow)}, first token {escape(process.initial.law)}{noise}",
        "Training": f"{typeset('; '.join(filter(None, made)))}; on {escape(checkpoint.device)} with {escape(versions)}",
    }
