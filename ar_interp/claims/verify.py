"""`verify`: the claims that apply to a model, all measured."""

from typing import Any

from ar_interp.checkpoints import Checkpoint, Trained
from ar_interp.claims.core import Claim, Claims
from ar_interp.claims.diagonal import diagonal_claims
from ar_interp.claims.landscape import landscape_claims
from ar_interp.claims.positional import positional_claims
from ar_interp.claims.readability import readability_claims
from ar_interp.claims.subject import Subject
from ar_interp.probes.weights import process_of
from ar_interp.processes import Process


def verify(subject: Any, *, process: Process | None = None) -> Claims:
    """Measure every claim that theory makes of this model.

    Args:
        subject: a `Checkpoint`, a `TrainingRun`, or a conforming model (then claims about training are left out).
        process: the family; the subject's own if left out.
    Raises:
        ValueError: no process known, or one of which theory makes no claim (noise, other first tokens, mu != 1 for
            trained heads).
    """
    process = process_of(subject, process)
    known = isinstance(subject, Trained)
    model = subject.model if known else subject
    if process.noise or process.initial.law != "ones" or process.initial.scale != 1:
        raise ValueError(f"process must be noiseless with first token 'ones': theory says nothing of {process}.")
    positional_only = process.dim == 1 and process.mu != 1
    if process.mu != 1 and not positional_only:
        raise ValueError(f"process.mu must be 1 for trained heads: theory says nothing of mu = {process.mu:g}.")

    claims: list[Claim] = []
    if positional_only:
        claims += positional_claims(model, process, subject if known else None)
    else:
        measured = Subject(model, process)
        claims += diagonal_claims(measured)
        claims += readability_claims(measured)
        if known:
            claims += landscape_claims(measured, subject)
    name = subject.name if isinstance(subject, Checkpoint) else type(model).__name__
    return Claims(name, tuple(claims))
