"""Chains of thought: a prompt over a named vocabulary, then tokens that end in an answer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ar_interp._checks import check_choice, check_integer
from ar_interp._moods import calm, recording
from ar_interp.processes.base import Process, source_of_randomness
from ar_interp.processes.contexts import Contexts, Pairs

MAX_SYMBOLS = 4096
MAX_TOKENS = 4096  # of a prompt with its chain
IDS, AXES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8), ("batch", "pos")
PARTS = ("all", "train", "held-out")  # of the prompts that there are


@dataclass(frozen=True, kw_only=True)
class Chains(Contexts):
    """Prompts with the tokens that follow, as ids of a vocabulary.

    The task is to predict the next token from all before it, from the end of the prompt on: inputs are all tokens but
    the last, targets all but the first, predictions are logits.

    Attributes:
        tokens: the prompt and then the chain, at whose end stands the answer.
        n_prompt: tokens of the prompt, which are not predicted.
        vocabulary: the name of each id.
        n_answer: tokens at the end of the chain that are the answer.
    """

    tokens: Int[Tensor, "batch pos"]
    n_prompt: int
    vocabulary: tuple[str, ...]
    n_answer: int = 1

    def __post_init__(self) -> None:
        tokens = check_ids("tokens", self.tokens, len(self.vocabulary), ndim=2)
        object.__setattr__(self, "tokens", tokens)
        check_integer("n_prompt", self.n_prompt, low=1, high=tokens.shape[1] - 1)
        check_integer("n_answer", self.n_answer, low=1, high=tokens.shape[1] - self.n_prompt)

    @property
    def inputs(self) -> Int[Tensor, "batch pos"]:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Int[Tensor, "batch pos"]:
        return self.tokens[:, 1:]

    @property
    def answers(self) -> Int[Tensor, "batch"]:
        """The last token of each."""
        return self.tokens[:, -1]

    def pairs(self) -> Pairs:
        """Refused: symbols are no vectors that a regression could use.

        Raises:
            ValueError: always.
        """
        raise ValueError("chains have ids of symbols and no pairs of vectors: there is no W that a regression finds.")

    def errors(
        self, predictions: Float[Tensor, "batch pos symbol"], *, observed: bool = False
    ) -> Float[Tensor, "batch pos"]:
        """-log p of the right token at every position, in nats, p = softmax of the predicted logits.

        Raises:
            ValueError: logits of another shape than one for each symbol at each input.
        """
        self._check(predictions)
        return cross_entropy(predictions.transpose(1, 2), self.targets, reduction="none")

    def losses(
        self,
        predictions: Float[Tensor, "batch pos symbol"],
        *,
        first_length: int | None = None,
        observed: bool = False,
    ) -> Float[Tensor, "batch"]:
        """The mean of the errors over the tokens of the chain; from a later one on if `first_length` says so.

        Raises:
            ValueError: logits of another shape, or a `first_length` within the prompt, which is not predicted, or
                beyond the last input.
        """
        self._check(predictions)
        last = self.tokens.shape[1] - 1
        first = self.n_prompt if first_length is None else check_integer("first_length", first_length, low=1, high=last)
        if first < self.n_prompt:
            raise ValueError(
                f"first_length must be at least {self.n_prompt}, the tokens of the prompt, which are not predicted, "
                f"got {first}: train with TrainConfig(first_length={self.n_prompt})."
            )
        logits, targets = predictions[:, first - 1 :], self.targets[:, first - 1 :]
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)

    def correct(self, predictions: Float[Tensor, "batch pos symbol"]) -> Bool[Tensor, "batch chain"]:
        """Whether the likeliest symbol is the right one, for each token of the chain, given the right ones before it.

        Where one symbol is the likeliest, `correct.all(1)` says which chains a model that goes on with its own tokens
        gets right: an error is made if and only if there is a first one.
        """
        self._check(predictions)
        first = self.n_prompt - 1
        return predictions[:, first:].argmax(-1) == self.targets[:, first:]

    def shares(self, predictions: Float[Tensor, "batch pos symbol"]) -> dict[str, Bool[Tensor, "batch"]]:
        """`exact`: no token of the chain is wrong."""
        return {"exact": self.correct(predictions).all(1)}

    def text(self, row: int) -> str:
        """One of them in the names of its symbols."""
        names = [self.vocabulary[symbol] for symbol in self.tokens[row].tolist()]
        return " ".join([*names[: self.n_prompt], "|", *names[self.n_prompt :]])

    def _check(self, predictions: Tensor) -> None:
        wanted = [*self.inputs.shape, len(self.vocabulary)]
        if list(predictions.shape) != wanted:
            raise ValueError(f"predictions must be logits of shape {wanted}, got {list(predictions.shape)}.")


class ChainTask(Process, ABC):
    """A law of prompts, and the chain that follows each.

    A task of your own is a frozen dataclass with a `kind`, a `vocabulary`, `n_prompt`, `n_chain`, `draw_prompts` and
    `chain`. `dim` is the size of the vocabulary; `follows` says whether the chain follows from the prompt.
    """

    makes: ClassVar[type[Contexts]] = Chains
    follows: ClassVar[bool] = True

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """The names of the symbols, in the order of their ids; each once."""

    @property
    @abstractmethod
    def n_prompt(self) -> int:
        """Tokens of a prompt."""

    @property
    @abstractmethod
    def n_chain(self) -> int:
        """Tokens of a chain, the answer included."""

    @property
    def n_answer(self) -> int:
        """Tokens at the end of a chain that are the answer."""
        return 1

    @abstractmethod
    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        """Prompts with all randomness from the generator, on its device."""

    @abstractmethod
    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        """The tokens that follow; only a task with noise reads the generator."""

    @property
    def unseen(self) -> "ChainTask":
        return self

    @property
    def dim(self) -> int:  # type: ignore[override] - a number that follows from others
        return len(self.vocabulary)

    @property
    def alphabets(self) -> tuple[tuple[int, int], ...]:
        """(first, end) of the ids that can stand at each position of prompt and chain; () for all everywhere."""
        return ()

    @property
    def length(self) -> int:
        """Inputs of a context: all tokens but the last."""
        return self.n_prompt + self.n_chain - 1

    @calm()
    def contexts(self, n: int, length: int | None = None, **options: Any) -> Chains:
        """Fresh prompts with their chains.

        Args:
            n: how many; >= 1.
            length: of the inputs, which the task fixes; may be left out.
            options: one of seed and generator, the source of randomness; device. `dtype` has no meaning for ids.
        Raises:
            ValueError: another length than the task's, both or neither of seed and generator, or another option.
        """
        for name in options:
            check_choice("the name of an option", name, ("seed", "generator", "device", "dtype"))
        check_integer("n", n, low=1)
        if length is not None and length != self.length:
            raise ValueError(
                f"length must be {self.length}, {self.n_prompt} + {self.n_chain} - 1 tokens, got {length}."
            )
        generator = source_of_randomness(options.get("seed"), options.get("generator"), options.get("device"))
        tokens = self.draw(n, generator)
        sizes = {"n_prompt": self.n_prompt, "n_answer": self.n_answer}
        return Chains(tokens=tokens, vocabulary=self.vocabulary, **sizes)

    def draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Prompts with their chains, with all randomness from the generator."""
        prompts = self.draw_prompts(n, generator)
        return torch.cat([prompts, self.chain(prompts, generator)], dim=1)

    def encode(self, symbols: Sequence[str]) -> Int[Tensor, "pos"]:
        """Ids of symbols that are given by name.

        Raises:
            ValueError: a name that the vocabulary does not have.
        """
        place = {name: i for i, name in enumerate(self.vocabulary)}
        unknown = [symbol for symbol in symbols if symbol not in place]
        if unknown:
            raise ValueError(f"symbols must be of {', '.join(self.vocabulary)}; got {unknown[0]!r}.")
        return torch.tensor([place[symbol] for symbol in symbols], dtype=torch.int64, device="cpu")

    def decode(self, ids: Int[Tensor, "pos"]) -> list[str]:
        """Names of symbols.

        Raises:
            ValueError: ids that the vocabulary does not have.
        """
        return [self.vocabulary[symbol] for symbol in check_ids("ids", ids, self.dim, ndim=1).tolist()]


def check_ids(name: str, ids: object, n_symbols: int, *, ndim: int) -> Tensor:
    """`ids` as int64 where it is a tensor of ids below n_symbols with so many axes."""
    if not isinstance(ids, Tensor) or ids.ndim != ndim or ids.dtype not in IDS:
        got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else f"{ids!r:.60}"
        raise ValueError(f"{name} must be a tensor of integer ids [{' '.join(AXES[-ndim:])}], got {got}.")
    if ids.numel() and not recording() and not (ids.min() >= 0 and ids.max() < n_symbols):
        raise ValueError(
            f"{name} must be ids 0 to {n_symbols - 1}, got {ids.min()} to {ids.max()}: are they of another task?"
        )
    return ids.long()


def without_repetition(n_items: int, n: int, generator: torch.Generator) -> Int[Tensor, "n"]:
    """n of so many items, each once before any comes twice."""
    rounds = [torch.randperm(n_items, generator=generator, device=generator.device) for _ in range(-(-n // n_items))]
    return torch.cat(rounds)[:n]
