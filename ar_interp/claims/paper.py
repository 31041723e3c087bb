"""Claims about the paper's two general models: they reach the losses of its figures 5 and 7."""

from ar_interp.claims.core import Claim
from ar_interp.claims.general import N_SEQUENCES, GeneralSubject

FIGURES = "the authors' own code, run unmodified to the end (figure 5) or for its first epochs (5 and 25 heads)"
AUGMENTED = {1: 0.0364, 4: 0.0227}  # layers -> test error per coordinate
NON_AUGMENTED = {1: 0.1369, 5: 0.136, 25: 0.139}  # heads


def paper_claims(subject: GeneralSubject) -> list[Claim]:
    """Error per coordinate over T = 1..n_ctx, as the authors count it."""
    config = subject.config
    augmented = config.encoding == "augmented"
    figure, size, reached = (5, config.n_layers, AUGMENTED) if augmented else (7, config.n_heads, NON_AUGMENTED)
    reference = reached.get(size, reached[1])
    what = f"{size} {'layer' if augmented else 'head'}{'s' if size > 1 else ''}"
    against = "" if size in reached else f" (of one {'layer' if augmented else 'head'})"
    return [
        subject.claim(
            "loss/figure",
            f"Figure {figure}, {what}: error per coordinate above the authors' {reference}{against}; "
            f"it is {subject.loss(1) / config.dim:.4f}",
            lambda m: max(0.0, m.loss(1) / config.dim - reference),
            source=FIGURES,
            tolerance="figure",
            n=N_SEQUENCES,
            uncertainty=subject.loss_error(1) / config.dim,
        )
    ]
