"""What claims of general models are made of: errors on fresh sequences, block scalars, an untrained control."""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp.claims.core import Claim, Compared
from ar_interp.models.config import ModelConfig
from ar_interp.probes.blocks import AugmentedBlocks, augmented_blocks
from ar_interp.probes.context import UNTRAINED_SEED
from ar_interp.processes import Process
from ar_interp.theory import block_scalar_loss

N_SEQUENCES = 4096
SAMPLE_SEED = 2**42  # apart from training, its evaluation and the references
PART = 64  # sequences at once: scores of many heads stay in the cache


class GeneralMeasured:
    """A model, its errors on fresh sequences and its block scalars."""

    def __init__(self, model: Any, config: ModelConfig, process: Process) -> None:
        self.model, self.config, self.process = model, config, process

    @property
    def batches(self) -> tuple[Tensor, ...]:
        """Fresh sequences [batch pos dim], the same at every call."""
        sequences = self.process.sample(
            N_SEQUENCES, self.config.n_ctx + 1, seed=SAMPLE_SEED, dtype=self.config.torch_dtype
        )
        return sequences.tokens.split(PART)

    @cached_property
    @torch.no_grad()
    def errors(self) -> Float[Tensor, "batch pos"]:
        """|prediction - s_{T+1}|^2 for T = 1..n_ctx."""
        parts = [(self.model(tokens[:, :-1]) - tokens[:, 1:]).abs().square().sum(-1) for tokens in self.batches]
        return torch.cat(parts).double()

    def loss(self, first_length: int = 2) -> float:
        """Mean over sequences and T >= first_length."""
        return self.errors[:, first_length - 1 :].mean().item()

    def loss_error(self, first_length: int = 2) -> float:
        """Half-width of the 95 % interval of `loss` over the sequences."""
        per_sequence = self.errors[:, first_length - 1 :].mean(1)
        return 1.96 * (per_sequence.std() / len(per_sequence) ** 0.5).item()

    @cached_property
    def blocks(self) -> AugmentedBlocks:
        return augmented_blocks(self.model)

    @property
    def other_products(self) -> float:
        """Largest product of scalars beside a2 b1, over it."""
        return self.share_beside(((1, 0),))

    def share_beside(self, kept: tuple[tuple[int, int], ...]) -> float:
        """Largest product of scalars that is not `kept`, over a2 b1."""
        products = self.blocks.products.clone()
        step = products[1, 0].abs().item()
        for index in kept:
            products[index] = 0
        return products.abs().max().item() / step if step else float("nan")

    @property
    def population_loss(self) -> float:
        """Exact, of block scalars on a commuting family, per context length."""
        QK, OV = self.blocks.QK, self.blocks.OV
        loss = block_scalar_loss(
            QK[1:, 1:].flatten(),
            OV[1:, 0],
            dim=self.config.dim,
            max_length=self.config.n_ctx,
            conjugate_pairs=getattr(self.process, "conjugate_pairs", False),
        )
        return loss.item() / (self.config.n_ctx - 1)


class GeneralSubject(GeneralMeasured, Compared):
    """The model that claims are made of, beside an untrained one of the same architecture."""

    def __init__(self, model: Any, config: ModelConfig, process: Process) -> None:
        super().__init__(model, config, process)
        self.untrained = GeneralMeasured(model.untrained(UNTRAINED_SEED), config, process)

    def loss_claim(
        self,
        name: str,
        statement: str,
        *,
        source: str,
        tolerance: str,
        reference: float,
        control: tuple[str, float] | None = None,
        first_length: int = 2,
    ) -> Claim:
        """The error on fresh sequences over a reference is 1; `control` is another loss over the same reference."""
        return self.claim(
            name,
            statement,
            lambda m: m.loss(first_length) / reference,
            source=source,
            tolerance=tolerance,
            predicted=1,
            n=N_SEQUENCES,
            uncertainty=self.loss_error(first_length) / reference,
            control=control,
        )
