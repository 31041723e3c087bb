"""A model and how it was made, in Markdown: the first part of its card."""

from typing import Any


def _on_threads(threads: int | None) -> str:
    return "" if threads is None else f", {threads} thread{'s' * (threads > 1)}"


def describe(run: Any, name: str, summary: str = "") -> str:
    """The model card's first part: what the model is and how it was made.

    Args:
        summary: of the recipe of this name; empty for a run of one's own.
    """
    model, process = run.config, run.process
    losses, origin = run.members["loss"], getattr(run, "origin", "")
    made = origin or (summary and f"`ar-interp train {name}`")
    near = (losses < losses.min() + 0.01).sum()
    lines = [
        f"# {name}",
        "",
        *([summary, ""] if summary else []),
        "## What it is",
        "",
        f"- {model.summary}; d = {model.dim}, n_ctx = {model.n_ctx}",
        f"- weights: {str(model.torch_dtype).removeprefix('torch.')}; tokens "
        + ("real" if process.real_tokens else "complex, in the eigenbasis"),
        f"- process: {process.kind}{process.facts}",
        "",
        "## How it was made",
        "",
        *([f"- {made}"] if made else []),
    ]
    if run.steps or not origin:
        lines += _training_facts(run)
    return "\n".join(
        [
            *lines,
            f"- final loss per context length {losses.min():.3g}; {near} of {len(losses)} seed(s) end within .01 of it",
            "",
        ]
    )


def _training_facts(run: Any) -> list[str]:
    """How a training was done, for the model card."""
    model, training = run.config, run.training
    begun = f"initial weights {model.initial_law}"
    if training.start:
        begun = "from the gradient step a = {:g}, b = {:g}".format(*training.start)
    parts = {"main": "the two blocks", "diagonal": "the diagonals of the two blocks"}
    entries = f", {parts[training.entries]} of a step trained alone" if training.entries in parts else ""
    return [
        f"- {training.objective} loss, optimizer {training.optimizer}"
        + ("" if training.optimizer == "lbfgs" else f", lr {training.lr:.6g}")
        + f", {run.steps} steps"
        + (f", batch {training.batch}" if training.objective == "sampled" else "")
        + ("" if training.stop_below is None else f", stopped below {training.stop_below:g}"),
        f"- {begun}{entries}; {len(run.members)} seed(s) from {training.seed}, "
        f"seed {run.seed} kept; trained on {run.device}{_on_threads(getattr(run, 'threads', None))}",
    ]
