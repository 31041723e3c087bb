"""One of three files: a probe, a model and contexts in, a number for each head out."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SilentKeys:
    """Share of the keys that each head does not attend to at all, [head]."""

    share: torch.Tensor
    n: int


@torch.no_grad()
def silent_keys(model, contexts):
    name = "blocks.0.attn.hook_pattern"
    pattern = model.run_with_cache(contexts.inputs, names_filter=name)[1][name][:, :, 1:]  # the first T has no query
    length = pattern.shape[-1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()[1:]
    return SilentKeys(share=(pattern == 0)[:, :, seen].double().mean((0, 2)), n=len(contexts))
