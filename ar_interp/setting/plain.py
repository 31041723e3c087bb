"""Theory of full heads on plain tokens, and what the paper reports of its two general models."""

from collections.abc import Mapping
from typing import Any

from ar_interp.models.config import ModelConfig, is_plain_full, is_preset
from ar_interp.processes import HaarOrthogonal
from ar_interp.setting.augmented import GRADIENT_STEP, is_unit_haar
from ar_interp.setting.base import Hypothesis, Setting
from ar_interp.setting.sampled import best_equivariant_head


class PlainHeads(Setting):
    """One bias-free linear layer of full heads with a multiplicative encoding, on Haar W of norm 1."""

    kind = "plain heads"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        return is_unit_haar(process) and is_plain_full(config)

    @property
    def sentences(self) -> Mapping[str, str]:
        return {
            "circuit spectra": "A head that prefers no direction, as Haar W does not, has equal singular values",
            "circuit eigenvalues": "A head that prefers no direction is c I: all its eigenvalues are at one point",
        }

    @property
    def one_head(self) -> float:
        """Loss of the best single head with A = B = I that asks with s_{T-1}, by least squares on sequences."""
        return best_equivariant_head(self.process, self.config.n_ctx)

    @property
    def parity(self) -> bool:
        """Whether the output has the wrong parity, so that no weights beat predicting zero."""
        return self.config.parity_obstruction is not None

    @property
    def invariant(self) -> bool:
        """The law of s_1 does not change under rotations: one head is then as good as any number."""
        return self.process.initial.law == "sphere"


AUGMENTED = {1: 0.0364, 4: 0.0227}  # layers -> test error per coordinate of the authors' code
NON_AUGMENTED = {1: 0.1369, 5: 0.136, 25: 0.139}  # heads


class PaperFigure(Setting):
    """The paper's two general models at its own size, of which it reports the error (figures 5 and 7)."""

    kind = "paper figure"

    @classmethod
    def speaks_of(cls, config: Any, process: Any) -> bool:
        ours = is_preset(config, ModelConfig.paper_figure5, "n_layers", "dtype")
        ours = ours or is_preset(config, ModelConfig.paper_figure7, "n_heads", "dtype")
        return ours and process == HaarOrthogonal(5)  # never a subclass, which is another process

    @property
    def figure(self) -> int:
        """The number of the paper's figure, 5 or 7."""
        return 5 if self.config.encoding == "augmented" else 7

    @property
    def size(self) -> int:
        """Number of layers in figure 5, of heads in figure 7."""
        return self.config.n_layers if self.figure == 5 else self.config.n_heads

    @property
    def hypothesis(self) -> Hypothesis | None:
        return (GRADIENT_STEP,) if self.figure == 5 else None

    @property
    def has_reference(self) -> bool:
        """The error of this size is known."""
        return self.size in self._errors

    @property
    def reference(self) -> float:
        """The authors' error per coordinate at this size; of the smallest where it is not known."""
        return self._errors.get(self.size, self._errors[1])

    @property
    def _errors(self) -> dict[int, float]:
        return AUGMENTED if self.figure == 5 else NON_AUGMENTED
