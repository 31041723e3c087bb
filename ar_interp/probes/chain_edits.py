"""A chain of thought whose first tokens are given, right or wrong: what the model writes from there on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_integer
from ar_interp._moods import calm
from ar_interp.checkpoints import model_of
from ar_interp.models.next_token import HookedNextToken
from ar_interp.models.opened import as_model
from ar_interp.probes.results import Result
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


@calm()
def continue_chain(model: object, tokens: Sequence[int] | Int[Tensor, "pos"]) -> ContinuedChain:
    """Give the model a prompt and the beginning of a chain, and let it write the rest.

    Args:
        model: a next-token predictor that knows its task, one whose chains follow from their prompts; or its
            checkpoint, run, name or folder.
        tokens: ids of the prompt, then of as many tokens of the chain as are given, at most all but the answer.
    Raises:
        ValueError: another kind of model, too few or too many tokens, ids that the vocabulary does not have, a task
            without one right chain.
    """
    opened = as_model(model_of(model))
    found = opened.module
    if not isinstance(found, HookedNextToken):
        raise ValueError(f"model must be a HookedNextToken, got a {opened.name}.")
    opened.check_finite()
    task, config = found.process, found.config
    if task is None or not task.follows:
        raise ValueError(f"model must be about a task whose chains follow from their prompts, got {task!r}.")
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
    given = torch.tensor([ids], dtype=torch.int64, device=next(found.parameters()).device)
    written = given
    while written.shape[1] < most + 1:
        written = torch.cat([written, found(written)[:, -1:].argmax(-1)], dim=1)
    prompt = given[:, :n]
    alone, right = found.generate(prompt)[:, n:], task.chain(prompt.cpu(), generator_of(0))
    chains = {"prompt": prompt, "given": given[:, n:], "written": written[:, n:], "alone": alone, "right": right}
    return ContinuedChain(
        n_answer=task.n_answer, **{name: tuple(task.decode(chain[0])) for name, chain in chains.items()}
    )
