"""TransformerLens's ActivationCache, which refuses the decompositions that would be wrong for a model."""

from typing import Any

from torch import Tensor
from transformer_lens import ActivationCache

from ar_interp.models.config import ModelConfig


class ARCache(ActivationCache):
    """An ActivationCache whose parts add up to the residual stream.

    Raises:
        ValueError: they cannot, since LayerNorm follows the sum of the heads, or each layer replaces the stream.
    """

    @property
    def config(self) -> ModelConfig:
        return self.model.config  # type: ignore[attr-defined]

    @property
    def _without_batch(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.items() if name.endswith("hook_pos_weights")}

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ARCache":
        """TransformerLens's; positional weights, which have no batch axis, stay whole."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return ARCache({**sliced.cache_dict, **self._without_batch}, self.model, has_batch_dim=sliced.has_batch_dim)

    def remove_batch_dim(self, *args: Any, **kwargs: Any) -> "ARCache":
        """TransformerLens's; positional weights, which have no batch axis, stay whole."""
        whole = self._without_batch
        super().remove_batch_dim(*args, **kwargs)
        self.cache_dict.update(whole)
        return self

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's: the embedding and what each layer writes, where there is a residual stream."""
        self._require_stream("decompose_resid")
        return super().decompose_resid(*args, **kwargs)

    def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's: the heads' results as attention writes them to the stream, without LayerNorm after it."""
        if self.config.n_layers > 1:
            self._require_stream("stack_head_results")
        self._require_linear_heads("stack_head_results")
        return super().stack_head_results(*args, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's: embedding, heads, neurons and biases, where they add up to the stream."""
        self._require_stream("get_full_resid_decomposition")
        self._require_linear_heads("get_full_resid_decomposition")
        return super().get_full_resid_decomposition(*args, **kwargs)

    def _require_stream(self, name: str) -> None:
        if not self.config.residual:
            raise ValueError(
                f"{name} needs a residual stream: here each layer replaces its input, so that what was there before is "
                "no part of the output. accumulated_resid shows the stream layer by layer; stack_head_results of a "
                "single layer adds up to it."
            )

    def _require_linear_heads(self, name: str) -> None:
        if self.config.layer_norm:
            raise ValueError(
                f"{name} cannot attribute to heads: LayerNorm follows their sum, and is not linear. decompose_resid "
                "gives each layer's output after it, where there is a residual stream."
            )
