"""A chain of thought whose first tokens are given, right or wrong: what the model writes from there on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp.models.opened import Model
from ar_interp.probes.chains import CHAINS
from ar_interp.probes.protocol import needs, process_option
from ar_interp.probes.results import Result
from ar_interp.processes.chains import ChainTask
from ar_interp.seeds import generator_of


@dataclass(frozen=True, kw_only=True)
class ContinuedChain(Result):
    """One prompt with three chains, in names of symbols.

    Attributes:
        prompt: the symbols of the prompt.
        given: the tokens of the chain that were given.
        written: the chain from there on, each token the likeliest after those before it; `given` included.
        alone: the chain that the model writes after the prompt alone.
        right: the chain of the task.
        n_answer: tokens at the end that are the answer.
    """

    prompt: tuple[str, ...]
    given: tuple[str, ...]
    written: tuple[str, ...]
    alone: tuple[str, ...]
    right: tuple[str, ...]
    n_answer: int = 1

    def to_frame(self) -> pd.DataFrame:
        """A row for each token of the chain."""
        return pd.DataFrame({"written": self.written, "alone": self.alone, "right": self.right})


def _check_follows(task: object) -> None:
    """Refuse a task without one right chain for each prompt, or none."""
    if not getattr(task, "follows", False):
        raise ValueError(f"model must be about a task whose chains follow from their prompts, got {task!r}.")


@needs(
    *("config", "forward", "generate"),
    scope=CHAINS,
    options=process_option,
    fits=lambda model: _check_follows(model.process),
)
def continue_chain(
    model: Model, tokens: Sequence[int] | Int[Tensor, "pos"], *, process: ChainTask | None = None
) -> ContinuedChain:
    """Give the model a prompt and the beginning of a chain, and let it write the rest.

    Args:
        model: a next-token predictor, or the checkpoint, run, name or folder that it is in.
        tokens: ids of the prompt, then of as many tokens of the chain as are given, at most all but the answer.
        process: the task, one whose chains follow from their prompts; the model's own if left out.
    Raises:
        ValueError: another kind of model, too few or too many tokens, ids that the vocabulary does not have, a task
            without one right chain.
    """
    task: Any = process or model.process
    _check_follows(task)
    module, config = model.module, model.module.config
    tokens = tokens.tolist() if isinstance(tokens, Tensor) else tokens
    if not isinstance(tokens, Sequence):
        raise ValueError(f"tokens must be several ids, got {tokens!r}.")
    n, most = config.n_prompt, config.n_ctx
    if not n <= len(tokens) <= most:
        raise ValueError(
            f"tokens must be a prompt of {n} ids and at most {most - n} of the chain, {n} to {most} in all, got "
            f"{len(tokens)}."
        )
    ids = [check_integer("tokens", token, low=0, high=config.dim - 1) for token in tokens]
    given = torch.tensor([ids], dtype=torch.int64, device=model.device)
    written = given
    while written.shape[1] < most + 1:
        written = torch.cat([written, module(written)[:, -1:].argmax(-1)], dim=1)
    prompt = given[:, :n]
    alone, right = module.generate(prompt)[:, n:], task.chain(prompt.cpu(), generator_of(0))
    chains = {"prompt": prompt, "given": given[:, n:], "written": written[:, n:], "alone": alone, "right": right}
    return ContinuedChain(
        n_answer=task.n_answer, **{name: tuple(task.decode(chain[0])) for name, chain in chains.items()}
    )
