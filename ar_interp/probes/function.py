"""Whether a model computes what its weights say, and nothing else: beside the closed form and a clean copy of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ar_interp._checks import check_seed
from ar_interp._shown import Shown
from ar_interp.models.base import Config
from ar_interp.models.closed_form import closed_form, head_matrices, own_weights
from ar_interp.models.opened import Model, Tokens, are_ids
from ar_interp.models.weights import in_double
from ar_interp.probes.conditions import Conditions, noop
from ar_interp.probes.protocol import needs
from ar_interp.processes import Process
from ar_interp.seeds import generator_of

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a prediction, by the precision that it is computed in
LEAST = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a token: what is smaller counts as large as this
READ = 1e-12  # a change of the prediction that is none, as the weight is not read
CHANGE = 0.01  # of one weight, for the control
MOST_SCORES = 2**18  # head x query x key of one sequence; of longer contexts as many positions are tested
UNKNOWN_CTX = 12  # positions, of a model that does not say how many it takes
SHORT = (1, 2, 3)
NORMS = (0.3, 1.0, 2.0)  # of Gaussian tokens
N_GAUSSIAN, N_CONTEXTS, N_FEW, N_HOOKED, N_MANY = 16, 32, 4, 2, 1024


@dataclass(frozen=True, kw_only=True)
class FunctionDeviation(Shown):
    """How far a model is from the function of its own weights.

    Attributes:
        checks: what was compared -> the largest deviation of a prediction, relative to it, over what rounding may
            leave: 1e-9 in double, 1e-4 in single precision. nan and infinite predictions deviate by inf.
        changed: the same for the closed form itself with one weight changed by a hundredth: its tensor's largest, of
            the tensor that matters least among those that are read; where none of these is read, with a whole tensor
            changed. Where there is no closed form, for the predictions of other sequences.
        untested: what could not be tested, and why.
        n: number of sequences.
    """

    checks: Mapping[str, float]
    changed: float
    untested: Mapping[str, str] = field(default_factory=dict)
    n: int

    @property
    def largest(self) -> float:
        """The largest of all deviations."""
        return max(self.checks.values())

    @property
    def where(self) -> str:
        """The check that deviates most."""
        return max(self.checks, key=lambda name: self.checks[name])

    def to_frame(self) -> pd.DataFrame:
        """A row per check."""
        return pd.DataFrame({"check": list(self.checks), "deviation": list(self.checks.values())})


@needs("forward")
def function_deviation(
    model: Model,
    *,
    process: Process | None = None,
    contexts: Tokens | None = None,
    earlier: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> FunctionDeviation:
    """Compare the prediction with the closed form of the model's own weights, and the model with itself.

    On Gaussian tokens, of several lengths and norms, and on sequences of the process: the prediction is the closed
    form; it does not depend on the other sequences of a batch, their number or order, on later tokens, on earlier
    calls, on hooks that do nothing or on gradients being asked for; its derivative is that of the closed form; every
    hook shows what it shows in a clean model of the same weights, and halving it, or giving it another sequence's
    activations, does the same. In batches of many sizes, at every length, on unusual tokens, in either precision, in
    training and evaluation mode it is the function of the clean model. Where weights have no
    closed form (prompts, ids, kinds of other packages, foreign models of more than bare layers) the rest is compared.

    Args:
        process: the family of the sequences, real or complex; the model's own if left out.
        contexts: further sequences, in the precision that the model is used in.
        earlier: tokens, and what the model predicted there before other calls.
        seed: of all that is drawn.
    """
    process = process or model.process
    generator = generator_of(check_seed(seed))
    found = _Compared(model, process, contexts, generator)
    found.run()
    if earlier is not None:
        found.compare("the same again", model(earlier[0]), earlier[1], earlier[0])
    n = sum(map(len, found.batches))
    return FunctionDeviation(checks=found.checks, changed=found.changed(), untested=found.untested, n=n)


def deviation(found: Tensor, expected: Tensor, tokens: Tensor) -> float:
    """The largest |found - expected| of a position, over |expected| there, in units of rounding.

    A vector that is smaller than the median of its position, or than a thousandth of a token (a millionth in
    double precision), counts as large as that. Ids count as tokens of norm 1.
    """
    if found.shape != expected.shape:
        return float("inf")
    precision = torch.promote_types(found.real.dtype, torch.float32)
    found, expected = in_double(found), in_double(expected)
    size = 1.0 if are_ids(tokens) else in_double(tokens).norm(dim=-1).mean().item()
    of_each, least = expected.norm(dim=-1), LEAST[precision] * size
    scale = torch.maximum(of_each, of_each.median(0, keepdim=True).values).clamp(min=least)
    apart = ((found - expected).norm(dim=-1) / scale / ROUNDING[precision]).max().item()
    return apart if apart < float("inf") else float("inf")  # nan too


def _half(value: Tensor, hook: Any) -> Tensor:
    return 0.5 * value


class _Compared:
    """The comparisons of one model, and what they gave so far."""

    def __init__(
        self, model: Model, process: Process | None, contexts: Tensor | None, generator: torch.Generator
    ) -> None:
        self.model, self.process, self.generator = model, process, generator
        self.checks: dict[str, float] = {}
        self.untested: dict[str, str] = {}
        try:
            self.form = own_weights(model)
        except ValueError as error:
            self.form = None
            self.untested["closed form"] = str(error)
        self.clean = self._clean_copy()
        n_heads = getattr(getattr(model.module, "config", None), "n_heads", None) or 1
        longest = model.n_ctx or (UNKNOWN_CTX if contexts is None else contexts.shape[1])
        self.length = min(longest, max(2, int((MOST_SCORES / n_heads) ** 0.5)))
        if self.length < longest:
            tested = f"{self.length} of {longest} positions are tested"
            self.untested["longer contexts"] = f"they would take too long: {tested}"
        self.has_hooks = bool(model.hook_names) and hasattr(model.module, "hooks")
        if not self.has_hooks:
            self.untested["hooks"] = "it has none"
        self.dtype = getattr(next(iter(self._parameters()), None), "dtype", torch.float64)
        self.shortest = getattr(getattr(self.model.module, "config", None), "n_prompt", 1)
        self.many = None if contexts is None else contexts[:N_MANY, : self.length].to(self.model.device)
        sequences = list(self._sequences(contexts))
        self.batches = [*self._gaussian(sequences[0] if sequences else None), *sequences]

    def _parameters(self) -> Iterator[Tensor]:
        yield from getattr(self.model.module, "parameters", tuple)()
        yield from (W for W in (getattr(self.model.module, "W_Q", None),) if isinstance(W, Tensor))

    def _clean_copy(self) -> Model | None:
        """A model made anew of the config, with the same weights."""
        config = getattr(self.model.module, "config", None)
        if not isinstance(config, Config):
            self.untested["clean copy"] = "the model is not of a registered kind"
            return None
        weights = {name: W.detach() for name, W in self.model.module.state_dict().items()}
        other = config.build(device=self.model.device).requires_grad_(False).eval()
        if set(weights) != set(other.state_dict()) and self.form is not None:
            weights = {name: W.to(self.model.device, config.torch_dtype) for name, W in self.form[1].items()}
        if set(weights) != set(other.state_dict()):
            self.untested["clean copy"] = "its weights are not where its config says"
            return None
        other.load_state_dict(weights)
        return Model(other)

    # ---- tokens

    def _sequences(self, contexts: Tensor | None) -> Iterator[Tensor]:
        """Fresh sequences of the process, and some of those that are given."""
        if self.process is not None:
            drawn = self.process.contexts(N_GAUSSIAN, self.length, generator=self.generator, dtype=self.dtype).inputs
            yield drawn.to(self.model.device)
        if contexts is not None:
            which = torch.randperm(len(contexts), generator=self.generator, device="cpu")[:N_CONTEXTS]
            yield contexts[which, : self.length].to(self.model.device)

    def _gaussian(self, like: Tensor | None) -> Iterator[Tensor]:
        """Tokens of no process; in double precision where any model of the class takes it, else in its own."""
        if like is not None and are_ids(like):
            self.untested["Gaussian tokens"] = "its tokens are no vectors"
            return
        config = getattr(self.model.module, "config", None) if self.form is None else self.form[0]
        dim = getattr(config, "dim", None) if like is None else like.shape[-1]
        if dim is None:
            raise ValueError("process is needed to know the size of a token; pass process=..., e.g. HaarOrthogonal(5).")
        is_complex = like.is_complex() if like is not None else not getattr(config, "needs_real_tokens", True)
        dtype = torch.float64 if self.clean is not None else self.dtype
        longest = self.length
        lengths = [(N_GAUSSIAN, longest), *((N_FEW, n) for n in {*SHORT, (longest + 1) // 2} if n < longest)]
        for i, (batch, pos) in enumerate(lengths):
            norm = NORMS[(i + 1) % len(NORMS)] * dim**-0.5
            real, imaginary = norm * torch.randn(
                2, batch, pos, dim, generator=self.generator, dtype=torch.float64, device="cpu"
            )
            tokens = torch.complex(real, imaginary) / 2**0.5 if is_complex else real
            yield tokens.to(self.model.device, torch.promote_types(dtype, torch.complex32) if is_complex else dtype)

    # ---- comparisons

    @torch.no_grad()
    def run(self) -> None:
        """All of them; those of one sequence, of hooks and the like on the longest Gaussian ones and on sequences."""
        first = [self.model(tokens) for tokens in self.batches]
        longest = [i for i, tokens in enumerate(self.batches) if tokens.shape[1] == self.length]
        for i, tokens in enumerate(self.batches):
            if self.form is not None:
                self.compare("closed form", first[i], closed_form(*self.form, in_double(tokens)), tokens)
            if self.clean is not None:
                self.compare("clean copy", first[i], self.clean(tokens), tokens)
        for i in longest:
            self._alone(self.batches[i], first[i])
            self._causal(self.batches[i], first[i])
        for i in longest:
            if self.has_hooks:
                self._hooked(self.batches[i][:N_HOOKED])
            self._derivative(self.batches[i][:N_FEW])
        for i in longest:
            self.compare("the same again", self.model(self.batches[i]), first[i], self.batches[i])
        if self.form is not None:
            self._attributes()
        self._conditions([self.batches[i] for i in longest])

    def _conditions(self, longest: list[Tensor]) -> None:
        """The same function in every condition of use: a few sequences of every kind, then many."""
        reference = self.clean
        if reference is None and self.form is not None:
            form = self.form
            reference = lambda tokens: closed_form(*form, in_double(tokens))  # noqa: E731
        kind = longest[0].dtype
        few = torch.cat([tokens[:2].to(kind) for tokens in longest[:2]])
        Conditions(
            self.model,
            reference=reference,
            clean=self.clean,
            compare=self.compare,
            shortest=self.shortest,
            generator=self.generator,
        ).run(few, self.many)

    def compare(self, check: str, found: Tensor, expected: Tensor, tokens: Tensor) -> None:
        self.checks[check] = max(self.checks.get(check, 0.0), deviation(found, expected, tokens))

    def _alone(self, tokens: Tensor, expected: Tensor) -> None:
        order = torch.randperm(len(tokens), generator=self.generator, device="cpu").to(tokens.device)
        self.compare("batch in another order", self.model(tokens[order]), expected[order], tokens)
        self.compare("batch twice as large", self.model(torch.cat([tokens, tokens])), expected.repeat(2, 1, 1), tokens)
        for part in (slice(0, 1), slice(1, 2), slice(1, 3)) if len(tokens) > 1 else ():
            self.compare("batches of one and two", self.model(tokens[part]), expected[part], tokens)

    def _causal(self, tokens: Tensor, expected: Tensor) -> None:
        pos = tokens.shape[1]
        for cut in {1, pos // 2, pos - 1} & set(range(self.shortest, pos)):
            other = torch.cat([tokens[:, :cut], tokens[:, cut:].roll(1, 0).flip(1)], dim=1)
            self.compare("later tokens", self.model(other)[:, :cut], expected[:, :cut], tokens)
            self.compare("fewer tokens", self.model(tokens[:, :cut].contiguous()), expected[:, :cut], tokens)

    def _hooked(self, tokens: Tensor) -> None:
        model, names = self.model, self.model.hook_names
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> None:
            seen[hook.name] = value.detach().clone()

        expected = model(tokens)
        with model.hooks([(name, noop) for name in names]):
            self.compare("hooks that do nothing", model(tokens), expected, tokens)
        with model.hooks([(name, keep) for name in names]):
            self.compare("hooks that do nothing", model(tokens), expected, tokens)
        if self.clean is None:
            return
        predictions, cache = model.run_with_cache(tokens, None)
        self.compare("hooks that do nothing", predictions, expected, tokens)
        clean = self.clean.run_with_cache(tokens, None)[1]
        for name in names:
            for shown in (seen.get(name), cache[name]):
                self.compare("what hooks show", _vectors(shown), _vectors(clean[name]), tokens)
            with model.hooks([(name, _half)]), self.clean.hooks([(name, _half)]):
                self.compare("halved hooks", model(tokens), self.clean(tokens), tokens)

    def _derivative(self, tokens: Tensor) -> None:
        if torch.is_inference_mode_enabled():
            return
        if are_ids(tokens):
            expected = self.model(tokens)
            with torch.enable_grad():
                self.compare("with gradients", self.model(tokens).detach(), expected, tokens)
            return
        direction = torch.randn(tokens.shape, generator=self.generator, dtype=torch.float64, device="cpu").to(
            tokens.device
        )
        expected = self.model(tokens)
        with torch.enable_grad():
            leaf = tokens.detach().clone().requires_grad_()
            predictions = self.model(leaf)
            self.compare("with gradients", predictions.detach(), expected, tokens)
            if not predictions.requires_grad:
                self._without_derivative()
                return
            slope = _gradient(predictions, leaf, direction)
            if self.clean is not None:
                other = tokens.detach().clone().requires_grad_()
                self.compare("derivative", slope, _gradient(self.clean(other), other, direction), tokens)
            if self.form is not None:
                double = in_double(tokens).requires_grad_()
                own = _gradient(closed_form(*self.form, double), double, direction)
                self.compare("derivative", slope, own, tokens)

    def _without_derivative(self) -> None:
        if self.clean is None:
            self.untested["derivative"] = "its predictions have none"
        else:
            self.checks["derivative"] = float("inf")

    def _attributes(self) -> None:
        """Weights that probes read, beside the weights by name."""
        assert self.form is not None
        config, weights = self.form
        named = dict(head_matrices(config, weights))
        first = {name.removeprefix("blocks.0.attn.").removeprefix("positional."): W for name, W in weights.items()}
        named |= {name: first[name] for name in ("A", "B", "P") if name in first}
        for name, W in named.items():
            found = getattr(self.model.module, name, None)
            if isinstance(found, Tensor):
                self.compare("weights that probes read", found.detach().double()[None], W[None], W[None])

    # ---- the control

    @torch.no_grad()
    def changed(self) -> float:
        """The deviation of what deviates for certain, see `FunctionDeviation`."""
        tokens = self.batches[0][:N_FEW]
        if self.form is None:
            expected = self.model(tokens)
            return deviation(expected.roll(1, 0), expected, tokens)
        config, weights = self.form
        tokens = in_double(tokens)
        expected = closed_form(config, weights, tokens)
        for change in (_of_the_largest, _of_all):  # the second where nothing reads the largest
            others = (closed_form(config, {**weights, name: change(W)}, tokens) for name, W in weights.items())
            found = [deviation(other, expected, tokens) for other in others]
            if read := [value for value in found if value * ROUNDING[torch.float64] > READ]:
                return min(read)
        return 0.0


def _of_the_largest(W: Tensor) -> Tensor:
    other = W.clone(memory_format=torch.contiguous_format)
    other.view(-1)[W.abs().argmax()] *= 1 + CHANGE
    return other


def _of_all(W: Tensor) -> Tensor:
    return (1 + CHANGE) * W


def _vectors(activation: Tensor | None) -> Tensor:
    """An activation as one vector of each sequence, masked scores left out."""
    if activation is None:
        return torch.empty(0, dtype=torch.float32, device="cpu")
    return activation.masked_fill(activation.abs() == torch.inf, 0).flatten(1)[:, None]


def _gradient(predictions: Tensor, tokens: Tensor, direction: Tensor) -> Tensor:
    total = (predictions.real * direction.to(predictions.device, predictions.real.dtype)).sum()
    return torch.autograd.grad(total, tokens)[0]
