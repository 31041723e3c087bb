"""Claims: predicted and measured value, tolerance, control, verdict; and the subject that they are made of."""

from ar_interp.claims.collected import Claims, by_model
from ar_interp.claims.core import Claim, Control, Evidence, claim
from ar_interp.claims.estimate import Estimate
from ar_interp.claims.measured import Measured
from ar_interp.claims.subject import Subject, subject_of
from ar_interp.claims.tolerances import Tolerance

__all__ = [
    "Claim",
    "Claims",
    "Control",
    "Estimate",
    "Evidence",
    "Measured",
    "Subject",
    "Tolerance",
    "by_model",
    "claim",
    "subject_of",
]


def __dir__() -> list[str]:
    return __all__
