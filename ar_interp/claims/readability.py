"""Claims about what can be read off the scores by regression, and which of them mean nothing."""

from ar_interp.claims.core import Claim, claim
from ar_interp.claims.diagonal_subject import Subject
from ar_interp.probes.context import SCORES, Readout, read_phases

SOURCE = "regression probe; untrained scores already hold H linear forms of lambda"
N_SEQUENCES = 2000
SAMPLE_SEED = 1


def readability_claims(subject: Subject) -> list[Claim]:
    """Whether cos and sin of the phases are linear in the attention scores.

    Random heads hold as many linear forms of the eigenvalues, so readability by itself is void wherever an untrained
    model has it too. For conjugate pairs and dim / 2 heads the minimum *removes* sin(theta), since the rows of A span
    those of C: that is a finding. With more heads, below dim, it depends on the gauge and nothing is claimed.
    """
    process, n_heads, dim = subject.process, subject.n_heads, subject.dim
    free = dim // 2 if process.conjugate_pairs else dim
    if n_heads < free:
        return []
    P = subject.model.P
    sequences = process.sample(N_SEQUENCES, len(P) + 1, seed=SAMPLE_SEED, device=P.device)
    cosine, sine = read_phases(subject.model, sequences, hook=SCORES, untrained=subject.untrained.model)
    claims = [_claim("estimate/cos", "cos(theta) can be read from the attention scores: R^2", 1, cosine)]
    if process.conjugate_pairs and 2 * n_heads == dim:
        claims.append(_claim("estimate/sin", "sin(theta) cannot be read from the attention scores: R^2", 0, sine))
    elif not process.conjugate_pairs or n_heads >= dim:
        claims.append(_claim("estimate/sin", "sin(theta) can be read from the attention scores: R^2", 1, sine))
    return claims


def _claim(name: str, statement: str, predicted: float, readout: Readout) -> Claim:
    return claim(
        name,
        statement,
        source=SOURCE,
        tolerance="readable",
        predicted=predicted,
        measured=readout.r2,
        uncertainty=1.96 * readout.standard_error,
        n=readout.n,
        control=("the same probe on an untrained model", readout.untrained_r2),
    )
