"""`Measured`: a model with what claims read of it, each once, beside an untrained one that is read in the same way."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp.claims.core import Claim, claim
from ar_interp.claims.estimate import Estimate
from ar_interp.claims.subject import Subject
from ar_interp.processes import Contexts


class StandIn(NamedTuple):
    """A prediction from the same contexts, of which theory knows the expected loss: only the difference is sampled.

    Attributes:
        predict: inputs -> predictions.
        loss: its expectation, mean over T = 2..n_ctx.
        power: E|prediction|^2, as E Re<prediction, target> where no scale of the prediction is better.
    """

    predict: Callable[[Tensor], Tensor]
    loss: float
    power: float = float("nan")


class Measured:
    """A model and its errors on fresh contexts; a study adds in a subclass what else its claims read.

    Attributes:
        SOURCE: of claims that name no other.
        NEEDED: how many contexts the errors are planned with.
        SEED: of these contexts.
        PART: contexts at once: scores of many heads stay in the cache.
    """

    SOURCE: ClassVar[str] = ""
    NEEDED: ClassVar[int] = 4096
    SEED: ClassVar[int] = seeds.CLAIMS
    PART: ClassVar[int] = 64

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model, self.config = subject.model, subject.config
        self.process: Any = subject.process
        self.setting: Any = subject.setting

    def of(self, model: Any, process: Any = None) -> Any:
        """Another model or process, measured in the same way."""
        return type(self)(replace(self.subject, model=model, process=process or self.process))

    @cached_property
    def untrained(self) -> Any:
        """Fresh initial weights in the same architecture."""
        return self.of(self.model.untrained(seeds.UNTRAINED))

    def fresh(self, needed: int, use: int, *, least: int = 1) -> Any:
        """Contexts as long as the model's, `needed` of them unless the subject says how many, then `least` or more.

        Args:
            use: of `seeds`.
        """
        n, seed = max(least, self.subject.size(needed)), self.subject.seed_of(use)
        from ar_interp.models.opened import as_model  # loads TransformerLens

        options = {"dtype": self.config.torch_dtype, "device": as_model(self.model).device}
        return self.process.unseen.contexts(n, self.config.n_ctx, seed=seed, **options)

    @cached_property
    def parts(self) -> tuple[Contexts, ...]:
        """The contexts of `errors`."""
        return self.fresh(self.NEEDED, self.SEED).split(self.PART)

    @property
    def n(self) -> int:
        """Number of contexts that `errors` rests on."""
        return self.subject.size(self.NEEDED)

    @torch.no_grad()
    def errors_of(self, predict: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch pos"]:
        """|prediction - target|^2 for T = 1..n_ctx on the same contexts, on the CPU."""
        return self._errors(predict(part.inputs) for part in self.parts)

    def _errors(self, predictions: Iterable[Tensor]) -> Float[Tensor, "batch pos"]:
        found = zip(self.parts, predictions, strict=True)
        return torch.cat([part.errors(made) for part, made in found]).double().cpu()

    @cached_property
    @torch.no_grad()
    def predicted(self) -> tuple[Tensor, ...]:
        """The predictions of the model for each of `parts`."""
        return tuple(self.model(part.inputs) for part in self.parts)

    @cached_property
    def errors(self) -> Float[Tensor, "batch pos"]:
        """The errors of the model's predictions, see `errors_of`."""
        return self._errors(self.predicted)

    def losses(self, first_length: int = 2) -> Float[Tensor, "batch"]:
        """Mean of the errors over T >= first_length, of every context."""
        return self.errors[:, first_length - 1 :].mean(1)

    @property
    def stand_in(self) -> StandIn | None:
        """Predictions of known loss on the same contexts; None where theory has none."""
        return None

    @cached_property
    def beyond_stand_in(self) -> Float[Tensor, "batch pos"]:
        """The errors less those of the stand-in."""
        stand_in = self.stand_in
        assert stand_in is not None
        return self.errors - self.errors_of(stand_in.predict)

    def loss(self, first_length: int = 2) -> Estimate:
        """Mean of `losses`, or the stand-in's expectation and the mean difference from it, if that varies less."""
        alone = Estimate.mean(self.losses(first_length))
        if self.stand_in is None or first_length != 2:
            return alone
        paired = Estimate.mean(self.beyond_stand_in[:, 1:].mean(1)).less(-self.stand_in.loss)
        return min(alone, paired, key=lambda found: found.half_width)

    @cached_property
    def expected_loss(self) -> float:
        """The expectation of the loss, exact where theory has a closed form."""
        return self.setting.expected_loss(self.model).loss

    def claim(
        self,
        name: str,
        statement: str,
        read: Callable[[Any], Estimate | float],
        *,
        control: tuple[str, Any] | None = None,
        **fields: Any,
    ) -> Claim:
        """A claim about what `read` says of this model; its control is the untrained one, or another.

        Args:
            control: description, and a number, an `Estimate` or something measured to read.
            fields: the other arguments of `claims.claim`; `SOURCE` is the source if it is left out.
        """
        fields.setdefault("source", self.SOURCE)
        description, other = control or ("untrained", self.untrained)
        against = other if isinstance(other, float | Estimate) else read(other)
        return claim(name, statement, measured=read(self), control=(description, against), **fields)

    def loss_claim(self, name: str, statement: str, *, reference: Estimate | float, **fields: Any) -> Claim:
        """A claim that the error on fresh contexts over a reference is 1; a control is another loss over it."""
        return self.claim(
            name,
            statement,
            lambda m: m.loss().over(reference),
            evidence="behaviour",
            predicted=1,
            **fields,
        )
