"""Whether a model computes the same function in every condition of use: a model could answer otherwise in any of them.

Beside a clean model of the same weights, which is exact: the same tokens give the same numbers.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ar_interp.models.opened import Model, are_ids

SIZES = (*range(1, 11), *(2**k for k in range(4, 13)), 100, 200, 500, 1000, 2000)  # of batches, and some that are drawn
N_DRAWN = 5  # sizes of batches, numbers of hooks
SHORT = 3  # positions of large batches
ALL_LENGTHS = 32  # lengths up to this one are all tried, and as many longer ones
NORMS = (1e-3, 30.0, 1e3)  # of all tokens, in units of their own
LONGER = 2  # times as long as training had it, of a model that takes longer contexts
CONTROL = 1  # seed of untrained weights
AT_ONCE, PROMPTS_AT_ONCE = 256, 1024  # sequences
MOST_NUMBERS = 2**28  # of all prompts together, where all are tried

Compare = Callable[[str, Tensor, Tensor, Tensor], None]  # check, found, expected, tokens


def noop(value: Tensor, hook: Any) -> Tensor:
    """A hook that does nothing."""
    return value


def moved(value: Tensor, hook: Any) -> Tensor:
    """A hook that gives each sequence the activations of another."""
    return value.roll(1, 0)


class Conditions:
    """The comparisons of one model.

    Args:
        model: as it is asked.
        reference: tokens -> what it should say; None where nothing says it but the model itself.
        clean: a clean model of the same weights, or None.
        compare: called with the name of a check, what was found and expected, and the tokens.
        shortest: the shortest sequence that the model takes.
        generator: of what is drawn.
    """

    def __init__(
        self,
        model: Model,
        *,
        reference: Callable[[Tensor], Tensor] | None,
        clean: Model | None,
        compare: Compare,
        shortest: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self.reference, self.clean, self.compare = model, reference, clean, compare
        self.shortest, self.generator = shortest, generator

    def run(self, tokens: Tensor, more: Tensor | None) -> None:
        """All of them.

        Args:
            tokens: a few sequences of the longest length.
            more: many sequences of the process.
        """
        own = self.model(tokens)
        self._sizes(tokens, own)
        self._lengths(tokens, own)
        if self.reference is not None:
            for part in () if more is None else more.split(AT_ONCE):
                self._beside("many sequences", part)
        if self.clean is not None:
            if are_ids(tokens) and hasattr(self.clean.module, "generate"):
                self._every_prompt(tokens if more is None else more)
            self._tokens(tokens)
            self._hooks(tokens)
            self._parts(tokens)
        self._moods(tokens, own)

    def _beside(self, check: str, tokens: Tensor, own: Tensor | None = None) -> None:
        expected = own if self.reference is None else self.reference(tokens)
        if expected is not None and torch.isfinite(expected).all():
            self.compare(check, self.model(tokens), expected, tokens)

    def _drawn(self, low: int, high: int, n: int) -> list[int]:
        """Up to n whole numbers of low..high-1."""
        found = torch.randint(low, max(high, low + 1), (n,), generator=self.generator, device="cpu")
        return [] if high <= low else sorted(set(found.tolist()))

    def _sizes(self, tokens: Tensor, own: Tensor) -> None:
        """The same few sequences in all sizes; the reference is asked again only where rounding may know the size."""
        few = tokens[:, : min(tokens.shape[1], max(SHORT, self.shortest))]
        answers = own[:, : few.shape[1]] if self.reference is None else self.reference(few)
        for size in (*SIZES, *self._drawn(2, max(SIZES), N_DRAWN)):
            which = torch.arange(size, device=tokens.device) % len(few)
            found, expected = self.model(few[which]), answers[which]
            if self.reference is not None and not torch.equal(found, expected):
                expected = self.reference(few[which])
            if torch.isfinite(expected).all():
                self.compare("batches of any size", found, expected, few[which])

    def _lengths(self, tokens: Tensor, own: Tensor) -> None:
        longest = tokens.shape[1]
        some = self._drawn(ALL_LENGTHS + 1, longest, ALL_LENGTHS)
        for pos in (*range(self.shortest, min(longest, ALL_LENGTHS) + 1), *some):
            self._beside("any length", tokens[:, :pos].contiguous(), own[:, :pos])
        config: Any = getattr(self.model.module, "config", None)
        if self.clean is not None and not getattr(config, "no_longer", True):
            longer, other = (Model(each.module.lengthened(LONGER * config.n_ctx)) for each in (self.model, self.clean))
            repeated = tokens.repeat(1, LONGER, 1)
            self.compare("any length", longer(repeated), other(repeated), repeated)

    def _every_prompt(self, ids: Tensor) -> None:
        """All prompts of the symbols that stand at each place, with the chains that the clean model writes."""
        assert self.clean is not None
        symbols = [column.unique() for column in ids[:, : self.shortest].T]
        size = self.model.config.n_ctx**2 * self.model.config.dim  # numbers that a prompt takes, or some more
        if math.prod(map(len, symbols)) * size > MOST_NUMBERS:
            return
        for prompts in torch.cartesian_prod(*symbols).view(-1, len(symbols)).split(PROMPTS_AT_ONCE):
            self._beside("every prompt", self.clean.module.generate(prompts)[:, :-1])

    def _tokens(self, tokens: Tensor) -> None:
        """Tokens of either precision, real ones where they may be complex, and unusual ones."""
        if are_ids(tokens):
            return
        kinds = (torch.float32, torch.float64, *((torch.complex64, torch.complex128) if tokens.is_complex() else ()))
        for kind in kinds:
            part = tokens if kind.is_complex == tokens.is_complex() else tokens.real
            with suppress(RuntimeError, TypeError, ValueError):  # to refuse them is no other function
                self._beside("tokens of either precision", part.to(kind))
        for other in _unusual(tokens):
            self._beside("unusual tokens", other)

    def _hooks(self, tokens: Tensor) -> None:
        """Several hooks at once that do nothing, and each hook with the activations of another sequence."""
        assert self.clean is not None
        names = list(self.model.hook_names)
        for count in {2, *self._drawn(2, len(names), N_DRAWN)} if len(names) > 1 else ():
            order = torch.randperm(len(names), generator=self.generator, device="cpu")[:count].tolist()
            with self.model.hooks([(names[i], noop) for i in order]):
                self._beside("several hooks that do nothing", tokens)
        for name in names:
            with self.model.hooks([(name, moved)]), self.clean.hooks([(name, moved)]):
                self._beside("moved activations", tokens)

    def _parts(self, tokens: Tensor) -> None:
        """Parts of a model that are read beside its hooks and weights."""
        assert self.clean is not None
        module, clean = self.model.module, self.clean.module
        for name in ("W_U", "block_scalars", "Gamma"):
            if hasattr(clean, name) and hasattr(module, name):
                values = (getattr(each, name) for each in (module, clean))
                found, expected = (torch.as_tensor(W, dtype=torch.float64, device="cpu")[None] for W in values)
                self.compare("weights that probes read", found, expected, expected)
        if hasattr(clean, "untrained") and hasattr(module, "untrained"):
            untrained, expected = (each.untrained(CONTROL)(tokens) for each in (module, clean))
            self.compare("its own control", untrained, expected, tokens)
        if hasattr(clean, "generate") and hasattr(module, "generate"):
            written, expected = (each.generate(tokens[:, : self.shortest]).double()[None] for each in (module, clean))
            self.compare("chains that it writes", written, expected, tokens)

    def _moods(self, tokens: Tensor, own: Tensor) -> None:
        """Gradients, inference mode, training and evaluation mode."""
        with torch.enable_grad():
            self.compare("with gradients", self.model(tokens).detach(), own, tokens)
        if self.clean is None:
            return
        for training in (True, False):
            with _in_mode(self.clean.module, training):
                same = torch.equal(self.clean(tokens), self.clean(tokens))  # no dropout
                with _in_mode(self.model.module, training):
                    if same:
                        self._beside("training and evaluation mode", tokens)
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                self._beside("inference mode", tokens.clone())


def _unusual(tokens: Tensor) -> Iterator[Tensor]:
    """Sequences that neither a process nor a Gaussian gives: large, small, zero, one, constant, integer."""
    for norm in NORMS:
        yield norm * tokens
    other = tokens.clone()
    middle = tokens.shape[1] // 2
    other[0, middle] = 0
    other[1 % len(other)] = 1
    other[2 % len(other), 0] = 1
    other[3 % len(other)] = tokens[3 % len(tokens), :1]
    yield other
    yield torch.nn.functional.one_hot(tokens.real.argmax(-1), tokens.shape[2]).to(tokens.dtype)
    yield tokens.real.round().to(tokens.dtype)


@contextmanager
def _in_mode(module: Any, training: bool) -> Iterator[None]:
    """Training or evaluation mode of all modules, and what each was in afterwards."""
    every = list(getattr(module, "modules", list)())
    before = [each.training for each in every]
    for each in every:
        each.training = training
    try:
        yield
    finally:
        for each, mode in zip(every, before, strict=True):
            each.training = mode
