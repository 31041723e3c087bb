"""Sabotaged models of noisy tokens: what is right without noise, put where there is some."""

from typing import Any

import torch

from ar_interp import checkpoints
from ar_interp.checkpoints import Checkpoint
from ar_interp.models.config import HEAD_A, HEAD_B, POSITIONAL_P
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.sabotage.core import Sabotage
from ar_interp.sabotage.edits import changed, with_weights
from ar_interp.setting import setting_of
from ar_interp.theory import factor_heads, kappa_family, noisy_keys, optimal_step_size

H10, H5, STEP = "noisy-orthogonal-h10", "noisy-orthogonal-h5", "noisy-augmented-unitary"
KAPPA = 0.5


def trained_without(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The shipped heads that were trained on the same process without noise."""
    return with_weights(model, checkpoints.load("diagonal-orthogonal-h10").model.state_dict())


def with_kappa(kappa: float, *, scaled: bool) -> Any:
    """The two-token identity of a kappa, its newest key as noise would have it or as without."""

    def change(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
        config = model.config
        setting: Any = setting_of(checkpoint.config, checkpoint.process)
        C, P = kappa_family(dim=config.dim, kappa=kappa, n_ctx=config.n_ctx)
        return _of(model, C, setting.keys(2).p[-1] * P if scaled else P)

    return change


def unmixed(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The best keys of heads that keep to their own pair."""
    config = model.config
    setting: Any = setting_of(checkpoint.config, checkpoint.process)
    P = torch.zeros(config.n_ctx, config.n_ctx, dtype=torch.float64, device="cpu")
    for T in range(2, config.n_ctx + 1):
        P[T - 2, :T] = torch.from_numpy(noisy_keys(dim=config.dim, length=T, kappa=1.0, **setting.noise).p)
    return _of(model, kappa_family(dim=config.dim, kappa=1.0, n_ctx=2).C, P)


def noiseless_step(model: Any, checkpoint: Checkpoint, seed: int) -> HookedARTransformer:
    """The step of noiseless tokens: everything that the layer writes is scaled to it."""
    config, weights = model.config, dict(model.state_dict())
    setting: Any = setting_of(config, checkpoint.process)
    longer = optimal_step_size(dim=config.dim, max_length=config.n_ctx) / setting.best.a[1]
    name = "blocks.0.attn.OV_blocks"
    return with_weights(model, weights | {name: longer * weights[name]})


def _of(model: Any, C: torch.Tensor, P: torch.Tensor) -> HookedARTransformer:
    A, B = factor_heads(C, n_heads=model.config.n_heads)
    return with_weights(model, {HEAD_A: A, HEAD_B: B, POSITIONAL_P: P})


NOISE: dict[str, Sabotage] = {
    "heads that were trained without noise": Sabotage(
        base=H10,
        description="At their own minimum, of the kappa that training gave them: under noise they write too much, and "
        "their kappa costs what any would.",
        make=changed(trained_without),
        must_fail=("loss", "heads/kappa zero", "positions"),
    ),
    "kappa kept by force": Sabotage(
        base=H10,
        description="kappa = 1/2 and the p_{T-1} that makes up for it without noise; the newest key is shrunk as it "
        "should be.",
        make=changed(with_kappa(KAPPA, scaled=True)),
        must_fail=("loss", "heads/kappa zero", "positions/newest alone"),
    ),
    "the identity, not bent": Sabotage(
        base=H5,
        description="2 cos(theta) s_T - s_{T-1}, exact without noise.",
        make=changed(with_kappa(1.0, scaled=False)),
        must_fail=("loss", "heads/mixing", "positions"),
    ),
    "heads that keep to their own pair": Sabotage(
        base=H5,
        description="The best keys of unmixed pairs: three thousandths more error, and every weight a little off.",
        make=changed(unmixed),
        must_fail=("loss/minimum", "heads/mixing", "positions"),
    ),
    "the step of noiseless tokens": Sabotage(
        base=STEP,
        description="What the layer writes is scaled to the step that is best without noise.",
        make=changed(noiseless_step),
        must_fail=("loss/fresh", "step/size"),
    ),
}
