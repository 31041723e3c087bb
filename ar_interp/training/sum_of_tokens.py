"""Next-token predictors of all members at once: rows of weights are looked up and added."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import cross_entropy, embedding_bag, pad

from ar_interp._resident import resident
from ar_interp.models.next_token_config import NEVER
from ar_interp.processes import Contexts
from ar_interp.training.form import Form, Parameters, Products


class SumOfTokens(Form):
    """Next-token predictors: rows of weights are looked up and added."""

    def collapse(self, parameters: Parameters, n_pos: int) -> Products:
        return parameters

    def predict(
        self, products: Products, tokens: Int[Tensor, "member batch pos"]
    ) -> Float[Tensor, "member batch pos symbol"]:
        config = self.config
        sources = resident(config.sources(tokens.shape[2]), tokens.device)  # [step source], -1 for none
        if config.alphabets:
            logits = self._of_alphabets(products, tokens)
        else:
            W, constant = config.maps(products)
            seen = tokens[:, :, sources.clamp(min=0)]  # [member batch step source]
            n_steps, n_sources = sources.shape
            maps = torch.arange(len(tokens), device=tokens.device)[:, None, None]
            if not config.window:
                maps = maps * config.n_chain + torch.arange(n_steps, device=tokens.device)[:, None]
                constant = constant[:, :n_steps]
            rows = maps * config.n_sources + torch.arange(n_sources, device=tokens.device)
            rows = (rows[:, None] * config.dim + seen).masked_fill(sources < 0, -1)
            sums = _rows_added(W.flatten(0, -2), rows) + constant.unflatten(0, (-1, 1, 1) if config.window else (-1, 1))
            logits = vmap(config.logits)(products, sums)
        return pad(logits, (0, 0, config.n_prompt - 1, 0))

    def mean_losses(
        self, parameters: Parameters, contexts: Sequence[Contexts], first_length: int
    ) -> Float[Tensor, "member"]:
        config = self.config
        if not config.alphabets or first_length < config.n_prompt:
            return super().mean_losses(parameters, contexts, first_length)
        steps = range(first_length - config.n_prompt, config.n_chain)
        inputs, targets = (torch.stack(of) for of in zip(*[(own.inputs, own.targets) for own in contexts], strict=True))
        errors = []
        for step in steps:  # among the symbols that can stand there alone
            right = targets[:, :, config.n_prompt - 1 + step] - config.alphabets[config.n_prompt + step][0]
            logits = self._logits(parameters, inputs, step)
            errors.append(cross_entropy(logits.mT, right, reduction="none").mean(1))
        return torch.stack(errors).mean(0)

    def _of_alphabets(self, products: Products, tokens: Tensor) -> Tensor:
        """[member batch step symbol]; each step has a table of its own."""
        config, found = self.config, []
        for step in range(tokens.shape[2] - config.n_prompt + 1):
            low, high = config.alphabets[config.n_prompt + step]
            found.append(pad(self._logits(products, tokens, step), (low, config.dim - high), value=NEVER))
        return torch.stack(found, dim=2)

    def _logits(self, products: Products, tokens: Tensor, step: int) -> Float[Tensor, "member batch symbol"]:
        """Logits of the symbols that can stand at a step."""
        n_seen = self.config.n_prompt + step
        first, end = torch.tensor(self.config.alphabets[:n_seen], dtype=torch.int64, device=tokens.device).T
        starts = (end - first).cumsum(0) - end
        tables, constants = products[f"W.{step}"], products[f"b.{step}"]
        rows = tokens[:, :, :n_seen] + starts
        sums = torch.stack([_rows_added(table, own) for table, own in zip(tables, rows, strict=True)])
        return sums + constants[:, None]


def _rows_added(table: Float[Tensor, "row out"], rows: Int[Tensor, "*bag seen"]) -> Float[Tensor, "*bag out"]:
    """The sum of the rows in each bag; -1 is none."""
    bags = rows.flatten(0, -2)
    if table.device.type == "cpu":
        sums: Tensor = _RowsAdded.apply(table, bags)  # type: ignore[assignment]
    else:
        none = len(table)
        sums = embedding_bag(bags.remainder(none + 1), pad(table, (0, 0, 0, 1)), mode="sum", padding_idx=none)
    return sums.view(*rows.shape[:-1], -1)


class _RowsAdded(torch.autograd.Function):
    """SciPy's product with a sparse matrix of ones: many times faster on a CPU than `embedding_bag`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, bags: Int[Tensor, "bag seen"]) -> Tensor:
        from scipy.sparse import csr_array

        there = bags >= 0
        ends = [0, *there.sum(1).cumsum(0).tolist()]
        ones = table.new_ones(int(ends[-1]))
        ctx.ones = csr_array((ones.numpy(), bags[there].numpy(), ends), shape=(len(bags), len(table)))
        return torch.from_numpy(ctx.ones @ table.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        return torch.from_numpy(ctx.ones.T @ outputs[0].numpy()), None
