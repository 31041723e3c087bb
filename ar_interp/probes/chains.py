"""Next-token predictors opened: what they read, with how many directions, and what each token adds to the answer.

Logits are sums over tokens, so that direct attribution, ablation and patching agree exactly: a ground truth for methods
of attribution. Weights are centred over the symbols first, see `models.next_token`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_number, check_several
from ar_interp.models.opened import Model
from ar_interp.probes.protocol import RUN, needs
from ar_interp.probes.results import Result, long_frame
from ar_interp.processes.chains import Chains
from ar_interp.seeds import generator_of

HOOK = "hook_contributions"
AT_ONCE = 2**24  # numbers of the hook
CHAINS = "next-token predictors"


@dataclass(frozen=True, kw_only=True)
class ReadSources(Result):
    """Sources that a next-token predictor reads, by the norms of its centred maps.

    Attributes:
        norms: a row for each step of the chain and each source, `norm` = |centred W| there. A window has one step.
        singular_values: of the centred map of each source, [step source symbol], descending.
        first: the source with the largest norm at each step, [step].
        margin: the largest norm over the second, [step]; inf where there is one source.
    """

    norms: pd.DataFrame
    singular_values: Float[Tensor, "step source symbol"]
    first: Tensor
    margin: Float[Tensor, "step"]

    def rank(self, source: int, *, step: int = 0, below: float = 0.02) -> int:
        """Directions of a source's map: the number of singular values before the first that is so much below the last.

        A map of q states read off 2 q symbols has q - 1 of them.

        Raises:
            ValueError: a source or step that there is not.
        """
        check_number("below", below, low=0.0)
        n_steps, n_sources = self.singular_values.shape[:2]
        check_integer("source", source, low=0, high=n_sources - 1)
        check_integer("step", step, low=0, high=n_steps - 1)
        values = self.singular_values[step, source]
        small = values[1:] <= below * values[:-1]
        return int(small.int().argmax()) + 1 if small.any() else len(values)


@needs("config", "maps", scope=CHAINS)
def read_sources(
    model: Model,
    contexts: Chains,
    *,
    prompt_only: bool = False,
    symbols: Sequence[str] | None = None,
    written: Sequence[str] | None = None,
) -> ReadSources:
    """Norms and singular values of the centred maps, over the symbols that occur at each source.

    Args:
        model: a linear next-token predictor, or the checkpoint, run, name or folder that it is in.
        contexts: of its task; they say which symbols occur where.
        prompt_only: leave the chain's own tokens out (absolute version only).
        symbols: count these alone as read; all that occur if left out.
        written: count the logits of these alone; all if left out.
    Raises:
        ValueError: `prompt_only` for a window, no symbols or one that the vocabulary does not have, chains of other
            sizes, or a model with an MLP.
    """
    module = _sums(model)
    _check(module, contexts)
    config, W = module.config, module.maps.detach()
    W = W if config.window is None else W[None]
    if prompt_only and config.window is not None:
        raise ValueError("prompt_only goes with the absolute version: a window's sources are offsets.")
    occurring = _occurring(module, contexts) & _chosen("symbols", symbols, contexts).to(W.device)
    centred = _centred(W[..., _chosen("written", written, contexts).to(W.device)], occurring)
    centred = centred[:, : config.n_prompt] if prompt_only else centred
    norms = centred.norm(dim=(2, 3))
    largest = norms.sort(dim=1, descending=True).values  # noqa: PD011 - of torch
    second = largest[:, 1] if norms.shape[1] > 1 else torch.zeros_like(largest[:, 0])
    steps, sources = (range(n) for n in norms.shape)
    return ReadSources(
        norms=long_frame({"step": steps, "source": sources}, {"norm": norms}),
        singular_values=torch.linalg.svdvals(centred),
        first=norms.argmax(1),
        margin=largest[:, 0] / second,
    )


@dataclass(frozen=True, kw_only=True)
class Attributions(Result):
    """Contribution of each token to the logit of the right symbol over the mean of all symbols, three ways.

    Attributes:
        by_source: a row for each step and source: means over the chains of `direct` (the hook's value), `ablated` (what
            the logits lose where the source is set to 0) and `patched` (what they gain where it is put into a model
            that has 0 there).
        direct, ablated, patched: [batch step source].
        largest_difference: between any two of the three.
    """

    by_source: pd.DataFrame
    direct: Float[Tensor, "batch step source"]
    ablated: Float[Tensor, "batch step source"]
    patched: Float[Tensor, "batch step source"]

    @property
    def largest_difference(self) -> float:
        pairs = ((self.direct, self.ablated), (self.direct, self.patched))
        return max((a - b).abs().max().item() for a, b in pairs)


@needs("config", *RUN, HOOK, scope=CHAINS)
def attribute(model: Model, contexts: Chains) -> Attributions:
    """Direct logit attribution beside ablation and patching, each by its own forward passes through the hook.

    Args:
        model: a linear next-token predictor, or the checkpoint, run, name or folder that it is in.
        contexts: chains of its task.
    Raises:
        ValueError: a model with an MLP, whose logits are no sums over tokens, or chains of another task.
    """
    module = _sums(model)
    _check(module, contexts)
    _check_task(module, contexts)
    first = module.config.n_prompt - 1
    right = contexts.targets[:, first:, None]

    def score(logits: Tensor) -> Tensor:
        """[batch step]: the logit of the right symbol over the mean."""
        return (logits - logits.mean(-1, keepdim=True)).gather(-1, right).squeeze(-1)

    def with_hook(change: Callable[..., Tensor]) -> Tensor:
        with module.hooks(fwd_hooks=[(HOOK, change)]):
            return score(module(contexts.inputs)[:, first:])

    terms = module.run_with_cache(contexts.inputs, names_filter=HOOK)[1][HOOK]
    direct = torch.stack([score(term) for term in terms.unbind(2)], dim=2)
    whole, empty = score(module(contexts.inputs)[:, first:]), with_hook(lambda value, hook: torch.zeros_like(value))
    ablated, patched = [], []
    for source in range(terms.shape[2]):
        kept = torch.arange(terms.shape[2], device=terms.device)[:, None] == source
        ablated.append(whole - with_hook(lambda value, hook, kept=kept: value.masked_fill(kept, 0)))
        patched.append(with_hook(lambda value, hook, kept=kept: value.masked_fill(~kept, 0)) - empty)
    found = {"direct": direct, "ablated": torch.stack(ablated, 2), "patched": torch.stack(patched, 2)}
    axes = {"step": range(terms.shape[1]), "source": range(terms.shape[2])}
    return Attributions(by_source=long_frame(axes, {name: value.mean(0) for name, value in found.items()}), **found)


@dataclass(frozen=True, kw_only=True)
class ChainAccuracy(Result):
    """How often a model is right.

    Attributes:
        by_token: a row for each token of the chain: `correct`, the share that is right given the right ones before it.
        teacher_forced: the share of chains in which all are.
        free_running: the share of chains that the model writes exactly. Equal to `teacher_forced`: there is a wrong
            token if and only if there is a first one.
        answer: the share of answers that are right at the end of the chains that it writes, also after wrong tokens.
        n: chains.
    """

    by_token: pd.DataFrame
    teacher_forced: float
    free_running: float
    answer: float
    n: int


@needs("config", "forward", "hooks", "generate", scope=CHAINS)
def chain_accuracy(model: Model, contexts: Chains, *, without: tuple[int, ...] = ()) -> ChainAccuracy:
    """Exact match with the right tokens before each, and with the model's own.

    Args:
        model: a linear next-token predictor, or the checkpoint, run, name or folder that it is in.
        contexts: fresh chains of its task.
        without: sources whose contribution is set to 0: positions from 0, or for a window offsets from 1.
    Raises:
        ValueError: a source that there is not, or chains of other sizes.
    """
    module, config = model.module, model.module.config
    _check(module, contexts)
    low = 0 if config.window is None else 1
    sources = check_several("without", without, low=low, high=config.n_sources - 1 + low) if without else ()
    places = [source - low for source in sources]

    def cut(value: Tensor, hook: object) -> Tensor:
        there = [place for place in places if place < value.shape[2]]
        return value.index_fill(2, torch.tensor(there, dtype=torch.int64, device=value.device), 0)

    correct, written = [], []
    parts: Any = contexts.split(max(1, AT_ONCE // (config.n_chain * config.n_sources * config.dim)))
    with module.hooks(fwd_hooks=[(HOOK, cut)] if places else []):
        for part in parts:
            correct.append(part.correct(module(part.inputs)))
            written.append(module.generate(part.tokens[:, : part.n_prompt]))
    correct, written = torch.cat(correct), torch.cat(written)
    right = written == contexts.tokens
    by_token = pd.DataFrame({"token": range(1, correct.shape[1] + 1), "correct": correct.double().mean(0).tolist()})
    return ChainAccuracy(
        by_token=by_token,
        teacher_forced=correct.all(1).double().mean().item(),
        free_running=right.all(1).double().mean().item(),
        answer=right[:, -contexts.n_answer :].all(1).double().mean().item(),
        n=len(contexts),
    )


def _check(module: Any, contexts: Chains) -> None:
    """Whether the contexts are chains of the model's sizes."""
    config = module.config
    wanted = (config.dim, config.n_prompt, config.n_ctx + 1)
    found = (len(contexts.vocabulary), contexts.n_prompt, contexts.tokens.shape[1])
    if found != wanted:
        raise ValueError(
            f"contexts must have {wanted[0]} symbols and {wanted[1]} tokens of a prompt among {wanted[2]}, got "
            f"{found[0]}, {found[1]} and {found[2]}: draw them from the process of the model."
        )


def _check_task(module: Any, contexts: Chains) -> None:
    """Whether the contexts are chains of the model's own task, where it knows one that says which are right."""
    config, task = module.config, getattr(module, "process", None)
    if task is None:
        return
    prompts, chains = contexts.tokens.cpu().tensor_split([config.n_prompt], dim=1)
    if task.vocabulary != contexts.vocabulary or (
        task.follows and not torch.equal(task.chain(prompts, generator_of(0)), chains)
    ):
        raise ValueError(f"contexts must be of the model's own task, {task!r}: their chains are others.")


def _sums(model: Model) -> Any:
    """The model, whose logits are sums over tokens."""
    if model.module.config.mlp:
        raise ValueError(
            "the logits of this model are no sums over tokens: it has an MLP, so that attribution is not exact and no "
            "map of a token is defined. Take a model with mlp=False."
        )
    return model.module


def _chosen(argument: str, names: Sequence[str] | None, contexts: Chains) -> Bool[Tensor, "symbol"]:
    """Which symbols are named; all where none are given."""
    if names is not None and not names:
        raise ValueError(f"{argument} is empty; leave it out for all.")
    for name in names or ():
        check_choice(argument, name, contexts.vocabulary)
    chosen = [names is None or name in names for name in contexts.vocabulary]
    return torch.tensor(chosen, dtype=torch.bool, device="cpu")


def _occurring(module: Any, contexts: Chains) -> Bool[Tensor, "source symbol"]:
    """Which symbols stand at a position, or for a window anywhere before a token of the chain at that offset."""
    config, inputs = module.config, contexts.inputs
    seen = torch.zeros(config.n_sources, config.dim, dtype=torch.bool, device=inputs.device)
    for source in range(config.n_sources):
        where = inputs[:, source]
        if config.window is not None:
            last = config.n_prompt - 1 - source  # of the first step; the newest token is source 0
            where = inputs[:, max(last, 0) : inputs.shape[1] - source].flatten()
        seen[source, where] = True
    return seen


def _centred(W: Float[Tensor, "step source in_ out"], occurring: Bool[Tensor, "source in_"]) -> Tensor:
    """W without its means over the symbols read that occur, and over the symbols written; 0 for those that do not."""
    weight = occurring.to(W.dtype)[:, :, None]
    W = W - W.mean(-1, keepdim=True)
    return (W - (W * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1)) * weight
