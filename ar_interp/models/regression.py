"""HookedRegression: learned features and one layer of attention, with a hook on every part."""

from html import escape
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ar_interp._moods import calm
from ar_interp.models.features import RegressionConfig, feature_map
from ar_interp.models.hooks import HookPoint, OwnHookPoint, StrictHooks
from ar_interp.processes import Process


class Part(nn.Module):
    """Weights of the config whose names start alike."""

    def __init__(self, config: RegressionConfig, prefix: str) -> None:
        super().__init__()
        for name, shape in config.parameter_shapes.items():
            if name.startswith(prefix):
                self.register_parameter(
                    name.removeprefix(prefix), nn.Parameter(torch.empty(shape, dtype=config.torch_dtype, device="cpu"))
                )


class HookedRegression(StrictHooks):
    """Answers every x_t of a prompt from the examples before it: phi(x_T)^T Gamma z_T, or by softmax.

    Args:
        config: features and sizes.
        process: the prompts that the model is about. Optional.
        seed: of the initial weights.
        device: where the weights lie.
    """

    @calm()
    def __init__(
        self,
        config: RegressionConfig,
        *,
        process: Process | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if process is not None:
            config.check_process(process)
        self.config, self.process = config, process
        self.hook_waves = OwnHookPoint()  # [batch pos wave], what the MLP is given of x
        self.phi = Part(config, "phi.")
        self.hook_features = OwnHookPoint()  # [batch pos feature]
        self.attn = Part(config, "attn.")
        self.hook_k = HookPoint()  # [batch pos feature], phi of the example that position t brings, 0 at the first
        self.hook_v = HookPoint()  # [batch pos 1], its y
        self.hook_q = HookPoint()  # [batch pos feature], phi Gamma of the query
        if config.linear:
            self.hook_state = HookPoint()  # [batch pos feature], z: the mean of y phi over the examples
        else:
            self.hook_attn_scores = HookPoint()  # [batch query key], also of keys that are not to be seen
            self.hook_pattern = HookPoint()  # [batch query key], 0 for the first, which brings no example
        self.hook_prediction = HookPoint()  # [batch pos 1]
        self.load_state_dict(config.initial_parameters(seed=seed))
        self.setup()
        self.to(device)

    def __repr__(self) -> str:
        n = sum(parameter.numel() for parameter in self.parameters())
        config = self.config
        return (
            f"{type(self).__name__}({config.summary}; n_ctx = {config.n_ctx}; {n} weights, {len(self.hook_dict)} hooks)"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def untrained(self, seed: int) -> "HookedRegression":
        """A model of the same architecture with fresh initial weights: the control of a probe."""
        device = next(self.parameters()).device
        return HookedRegression(self.config, process=self.process, seed=seed, device=device)

    @property
    def Gamma(self) -> Float[Tensor, "feature feature"]:
        """The layer's bilinear form between the features of the query (rows) and of the examples."""
        return self.attn.Gamma  # pyright: ignore[reportReturnType] - a tensor under torch.func

    def features(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points feature"]:
        """phi at these x."""
        return self._features_of(self.config.encoded(x.to(self.Gamma.device)))

    def _features_of(self, waves: Float[Tensor, "*points wave"]) -> Float[Tensor, "*points feature"]:
        names = [name for name in self.config.parameter_shapes if name.startswith("phi.")]
        weights = {name: getattr(self.phi, name.removeprefix("phi.")).to(waves.dtype) for name in names}
        return feature_map(weights, waves.reshape(-1, waves.shape[-1])).reshape(*waves.shape[:-1], -1)

    def forward(self, tokens: Float[Tensor, "batch pos 2"]) -> Float[Tensor, "batch pos 1"]:
        """The answer at every position, 0 at the first.

        Args:
            tokens: (x_t, y_{t-1}); y_0 is not looked at.
        Raises:
            ValueError: tokens of another shape, or more than n_ctx.
        """
        phi = self.hook_features(self._features_of(self.hook_waves(self.config.encoded(self._checked(tokens)[..., 0]))))
        y = tokens[..., 1:].to(phi.dtype)
        keys = self.hook_k(torch.cat([torch.zeros_like(phi[:, :1]), phi[:, :-1]], dim=1))
        values = self.hook_v(y)
        query = self.hook_q(phi @ self.Gamma.to(phi.dtype))
        if not self.config.linear:
            return self.hook_prediction(self._pattern(query, keys) @ values)
        examples = torch.arange(phi.shape[1], dtype=phi.dtype, device=phi.device).clamp(min=1)[:, None]
        state = self.hook_state((values * keys).cumsum(1) / examples)
        return self.hook_prediction((query * state).sum(-1, keepdim=True))

    def _pattern(
        self, query: Float[Tensor, "batch pos feature"], keys: Float[Tensor, "batch pos feature"]
    ) -> Float[Tensor, "batch query key"]:
        """Softmax over the examples that a query has seen; 0 where it has seen none."""
        scores = self.hook_attn_scores(query @ keys.mT)
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        unseen = unseen | (torch.arange(keys.shape[1], device=scores.device) == 0)
        masked = scores.masked_fill(unseen, torch.finfo(scores.dtype).min)
        return self.hook_pattern(masked.softmax(-1).masked_fill(unseen, 0))

    def _checked(self, tokens: Any) -> Tensor:
        shape = list(getattr(tokens, "shape", ()))
        if not isinstance(tokens, Tensor) or len(shape) != 3 or shape[-1] != 2 or not tokens.is_floating_point():
            raise ValueError(
                f"tokens must be real [batch pos 2], (x_t, y_(t-1)), got {shape or type(tokens).__name__}: pass the "
                ".inputs of process.contexts(n, length, seed=...)."
            )
        if not 1 <= shape[1] <= self.config.n_ctx:
            raise ValueError(f"tokens must hold 1 to n_ctx = {self.config.n_ctx} positions, got {shape[1]}.")
        return tokens.to(torch.promote_types(tokens.dtype, self.config.torch_dtype))
