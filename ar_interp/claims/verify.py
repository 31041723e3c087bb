"""`verify`: the claims that apply to a model, all measured."""

from typing import Any

from ar_interp.checkpoints import Checkpoint, Trained
from ar_interp.claims.augmented import augmented_claims
from ar_interp.claims.causal import causal_claims, swap_claims
from ar_interp.claims.core import Claim, Claims
from ar_interp.claims.depth import depth_claims
from ar_interp.claims.diagonal import diagonal_claims
from ar_interp.claims.diagonal_subject import Subject
from ar_interp.claims.general import GeneralSubject
from ar_interp.claims.head_count import head_count_claims
from ar_interp.claims.initial_token import initial_token_claims
from ar_interp.claims.landscape import landscape_claims
from ar_interp.claims.paper import paper_claims
from ar_interp.claims.readability import readability_claims
from ar_interp.claims.removal import diagonal_removal_claims
from ar_interp.claims.unfinished_filter import positional_claims
from ar_interp.models.config import ModelConfig
from ar_interp.models.weights import process_of
from ar_interp.processes import CommutingProcess, CommutingUnitary, HaarOrthogonal, Process


def verify(subject: Any, *, process: Process | None = None) -> Claims:
    """Measure every claim that theory makes of this model.

    Args:
        subject: a `Checkpoint`, a `TrainingRun`, or a conforming model (then claims about training are left out).
        process: the family; the subject's own if left out.
    Raises:
        ValueError: no process known, or one of which theory makes no claim (noise, other first tokens, mu != 1 for
            trained heads).
    """
    known = isinstance(subject, Trained)
    model = subject.model if known else subject
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig) and config.heads in ("full", "block-scalar"):
        found = process or getattr(subject, "process", None)
        if found is None:
            raise ValueError("process is needed to know what W is; pass process=..., e.g. HaarOrthogonal(5).")
        claims = _general_claims(model, config, found, subject if known else None)
    else:
        claims = _diagonal_claims(model, process_of(subject, process), subject if known else None)
    name = subject.name if isinstance(subject, Checkpoint) else type(model).__name__
    return Claims(name, tuple(claims))


def _diagonal_claims(model: Any, process: CommutingProcess, run: Trained | None) -> list[Claim]:
    if process.noise or process.initial.law != "ones" or process.initial.scale != 1:
        raise ValueError(f"process must be noiseless with first token 'ones': theory says nothing of {process}.")
    positional_only = process.dim == 1 and process.mu != 1
    if process.mu != 1 and not positional_only:
        raise ValueError(f"process.mu must be 1 for trained heads: theory says nothing of mu = {process.mu:g}.")
    if positional_only:
        return positional_claims(model, process, run)
    measured = Subject(model, process)
    claims = [
        *diagonal_claims(measured),
        *diagonal_removal_claims(measured),
        *readability_claims(measured),
        *swap_claims(model, process, n_ctx=len(measured.weights.P)),
    ]
    return claims if run is None else [*claims, *landscape_claims(measured, run)]


def _general_claims(model: Any, config: ModelConfig, process: Process, run: Trained | None) -> list[Claim]:
    config.check_process(process)
    kind = _kind(config, process)
    if kind is None:
        raise ValueError(f"theory says nothing of this model ({config.summary}) on {process}.")
    subject = GeneralSubject(model, config, process)
    return [*_theory_claims(subject, kind, run), *causal_claims(subject)]


def _theory_claims(subject: GeneralSubject, kind: str, run: Trained | None) -> list[Claim]:
    exact = run is not None and run.training.objective == "population"
    if kind == "one step":
        return augmented_claims(subject, exact=exact)
    if kind == "depth":
        one_layer = augmented_claims(subject, exact=False) if subject.config.n_layers == 1 else []
        return [*one_layer, *depth_claims(subject, run)]
    if kind == "head count":
        return head_count_claims(subject, run)
    return initial_token_claims(subject) if kind == "first token" else paper_claims(subject)


def _kind(config: ModelConfig, process: Process) -> str | None:
    """Which part of the theory speaks of the model."""
    sizes = {"dim": config.dim, "n_ctx": config.n_ctx, "dtype": config.dtype}
    paper = (
        ModelConfig.paper_figure5(n_layers=config.n_layers, **sizes),
        ModelConfig.paper_figure7(n_heads=config.n_heads, repeats=config.repeats, **sizes),
    )
    if process.noise:
        return None
    if config in paper:
        return "paper" if process == HaarOrthogonal(5) and config.n_ctx == 50 else None
    bare = not (config.biases or config.layer_norm or config.d_mlp or config.unembed or config.scale_scores)
    if not bare or not config.linear or (config.n_heads != 1 and config.encoding == "augmented"):
        return None
    unit = process.initial.law in ("unit-ones", "sphere") and process.initial.scale == 1
    if isinstance(process, HaarOrthogonal):
        if config.encoding == "augmented" and config.positional == "none" and config.heads == "block-scalar":
            return "depth" if unit and config.attention != "linear/pairs" and config.residual else None
        plain = config.n_layers == 1 and config.attention == "linear" and config.positional == "multiplicative"
        return "head count" if unit and plain else None
    if config.n_layers != 1 or config.encoding != "augmented" or config.positional != "none":
        return None
    if config.attention == "linear/pairs" and isinstance(process, CommutingUnitary) and process.mu == 1:
        return "first token" if config.heads == "block-scalar" else None
    ones = process.initial.law in ("ones", "signs") and process.initial.scale == 1
    single = isinstance(process, CommutingProcess) and process.mu == 1 and ones
    return "one step" if single and config.attention == "linear" else None
