"""Each statement of the theory as a row: source, predicted, measured, uncertainty, control, verdict."""

from ar_interp.claims.core import Claim, Claims, Control
from ar_interp.claims.verify import verify

__all__ = ["Claim", "Claims", "Control", "verify"]
