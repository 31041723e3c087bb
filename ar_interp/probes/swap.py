"""Move the estimate, not the tokens: does a model use the W that its context carries?"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Inexact, Integer
from torch import Tensor

from ar_interp._checks import check_choice, check_seed, check_several
from ar_interp.models.attention import states_at
from ar_interp.models.encodings import encode
from ar_interp.models.opened import Model
from ar_interp.probes.batches import MANY, TOGETHER, at_a_time, numbers_in
from ar_interp.probes.context import DRESS, no_own_path, reads_circuit
from ar_interp.probes.paths import in_place_of
from ar_interp.probes.protocol import (
    AUGMENTED,
    BARE,
    DIAGONAL,
    FULL,
    LAYER,
    LINEAR,
    NOT_LINEAR,
    PLAIN,
    RUN,
    SPREAD,
    needs,
)
from ar_interp.probes.protocol import PATTERNS as READ_PATTERNS
from ar_interp.probes.results import Result
from ar_interp.probes.swap_scores import CEILING, CONTROLS, OTHER, RANDOM, SAME, SWAP, Predictions, scores
from ar_interp.processes import Sequences
from ar_interp.seeds import generator_of

Held = dict[str, Tensor]  # activations by hook name
Noise = Callable[[str, Tensor], Tensor]  # of the shape of an activation, by its hook

STATE, PATTERN = ("hook_kv_state",), ("hook_pattern",)
KEYS_AND_VALUES = ("hook_k", "hook_v")
WHAT = {STATE: "key-value state", PATTERN: "attention pattern", KEYS_AND_VALUES: "keys and values"}
MIXED = ("W_V", "W_O", *READ_PATTERNS)
WRITTEN = ("W_Q", "W_O", "blocks.{layer}.attn.hook_k", "blocks.{layer}.attn.hook_v")
PAIRED = 256  # sequences among which each has another one
AT_ONCE = 64  # pairs: states of more leave the cache
FAINTEST = 1e-12  # of the largest: what is read less, squared, is rounding


@dataclass(frozen=True, kw_only=True)
class SwappedContext(Result):
    """Effect of another sequence's estimate on a prediction; 0 is none, 1 makes it W_source s_T(target).

    Attributes:
        by_position: a row per condition and T. Conditions are `swap`, `ceiling` and the controls `same W`, `other W`,
            `random state`, see `swap_context`. Columns: score, its standard error score_se over the n pairs, and the
            10 % and 90 % quantiles of the score of one pair, score_low and score_high; kept, how much of the target's
            own prediction is left, and kept_se; normalised, the score over the ceiling's, and normalised_se (nan where
            the ceiling is within 3 standard errors of 0); projection, the coefficient
            Re<moved - own, goal - own> / |goal - own|^2; relative_error, |moved - goal|^2 / |goal|^2; relative_excess,
            that less the ceiling's, and relative_excess_se, of differences pair by pair; change,
            |moved - own|^2 / |own|^2. All are ratios of sums over the pairs.
        moved, through, own, goal: predictions with the source's estimate, the same in the ceiling, the target's as they
            are, and W_source s_T(target), at T = `positions`.
        layers: whose estimate was the source's; the others kept the target's.
        what: was moved, `key-value state`, `keys and values` or `attention pattern`.
    """

    by_position: pd.DataFrame
    moved: Predictions
    through: Predictions
    own: Predictions
    goal: Predictions
    positions: tuple[int, ...]
    layers: tuple[int, ...]
    what: str
    n: int

    @property
    def score(self) -> float:
        """Score of the swap at the last position, as all that follow."""
        return self._last(SWAP, "score")

    @property
    def standard_error(self) -> float:
        """Standard error of the score, over the pairs."""
        return self._last(SWAP, "score_se")

    @property
    def ceiling(self) -> float:
        """The score with nothing left of the target's W."""
        return self._last(CEILING, "score")

    @property
    def normalised(self) -> float:
        """score / ceiling: 1 if all that the model knows of W was moved; nan if it knows nothing."""
        return self._last(SWAP, "normalised")

    @property
    def error(self) -> float:
        """|moved - goal|^2 / |goal|^2: what the score leaves out, parts of the prediction that are not along W s_T."""
        return self._last(SWAP, "relative_error")

    @property
    def excess(self) -> float:
        """The error less the ceiling's."""
        return self._last(SWAP, "relative_excess")

    @property
    def controls(self) -> dict[str, float]:
        """Score by name; each about 0 where the swap moves this source's W and nothing else."""
        return {name: self._last(name, "score") for name in CONTROLS}


@needs(
    *RUN,
    when={
        BARE: MIXED,
        PLAIN: ("config.encoding", "config.heads"),
        DIAGONAL: MIXED,
        FULL: (*MIXED, *DRESS),
        SPREAD: ("config.linear", *WRITTEN),
        AUGMENTED: ("config.encoding", "config.linear", "hook_embed"),
        LINEAR: ("W_Q", "W_O", "blocks.{layer}.attn.hook_kv_state"),
        NOT_LINEAR: WRITTEN,
    },
    options=lambda model: "" if model.has_own_path else f"what={WHAT[KEYS_AND_VALUES]!r}",
    sequences=2,
    length=2,
    compares=True,
)
def swap_context(
    model: Model,
    source: Sequences,
    target: Sequences,
    *,
    layers: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    what: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> SwappedContext:
    """Put the source's estimate of W into the target's forward pass: the prediction must become W_source s_T(target).

    What is moved. *Augmented tokens*: the estimate lies in the key-value state S_T = sum_{t<=T} k_t v_t^T and the last
    token asks, z_T = q_T S_T. The source's S_T goes into every chosen layer (where attention is not linear, all its
    keys and values); queries and residual stream are the target's, so that one layer predicts Ŵ_source s_T(target).
    The states of the other layers are held at the target's own (so are patterns, below): position T is moved through
    its query path alone, and one forward pass serves all T.

    *Plain tokens* are prediction_T = sum_t Γ_{T,t} s_t, Γ_{T,t} = sum_h pattern_h(T, t) W_O^T W_V^T. Here k_t v_t^T
    holds s_t itself up to s_T, and the query is s_{T-1}: the source's state would bring the source's last token along
    and ask for it with the target's. The estimate Γ is in the pattern p_t <s_{T-1}|a_h * s_t>, where the phases of the
    tokens have cancelled down to those of W; so the source's pattern is moved and the values stay: prediction =
    sum_t Γ_{T,t}(source) s_t(target), at a minimum of the unitary family λ_source s_T(target). What is multiplied by
    older values is the rest of the estimate and stays the target's: at a minimum of the orthogonal family with kappa
    it leaves kappa (conj(λ_source) - conj(λ_target)) s_T, uncorrelated with the goal: it is not in the score but in
    `error`, 2 kappa^2 of it.

    *Score.* moved = score goal + kept own + rest by least squares over the pairs, goal = W_source s_T(target), own =
    the unswapped prediction: the projection on the goal with the old prediction allowed for. A swap that does nothing
    has (score, kept) = (0, 1), a full one (1, 0), an erased or random prediction (0, 0); projection on goal - own alone
    would credit the erasure with 1/2. Standard errors are the delta method's over pairs.

    *Ceiling.* The same swap, in all layers, into the sequence of W_source that passes through s_T(target) at T:
    s_t = W_source^{t-T} s_T. Goal and moved estimate are as before, and nothing of the target's W is left in the
    queries s_{T-1} or the older values; it falls short of 1 as far as the model's own estimate of W does. normalised =
    score / ceiling is 1 where all of the estimate was moved. With all layers swapped the two differ in the target's
    s_{T-1} alone (in its older values for plain tokens), which may add as well as take away: it can be more than 1.
    The score keeps only what lies along the goal. `excess` leaves out nothing: the relative squared error of the moved
    prediction less the ceiling's, 0 where all of the estimate was moved and nothing else was disturbed.

    *Controls* do the swap with another state, and must not score. `same W`: of a sequence with the *target's* W and
    other tokens (it starts at the last token of another source), where also `change` tells how far a prediction
    depends on more than W. `other W`: of another source sequence. `random state`: Gaussian in what it makes of the
    stream, isotropic there and of the norm of the source's, so that no gauge of the heads changes its law.
    Source: activation patching, of the in-context map of Sander et al. 2024.

    Args:
        source, target: sequences whose estimate is moved, and whose tokens stay, pair by pair.
        layers: where the source's estimate goes; all if left out.
        positions: T to report, from 2 to the length of the contexts; all if left out.
        what: `keys and values` moves those of the chosen layers in any model, as it must be asked for on plain tokens
            in several layers or attention that is not linear: W is in no pattern there, but in what older tokens hold
            of each other, and the source's last token comes along; moved in all layers, swap and ceiling are one where
            s_T asks. Left out: what is said above.
    Raises:
        ValueError: source and target that differ in shape or in being complex, or that have the same W; fewer than two
            pairs, contexts shorter than 2, a singular W; sequences in another basis where heads are diagonal; layers
            or positions that are not there; a model without the hooks.
    """
    _check_pairs(source, target)
    names, hooks = _hooks_of(model, what)
    for sequences in (source, target):
        reads_circuit(model, sequences)  # refuses another basis where heads are diagonal
    chosen = check_several("layers", layers, low=0, high=len(names) - 1)
    length = target.length
    asked = check_several("positions", positions, low=2, high=length)
    moving = [name for layer in chosen for name in names[layer]]
    every = [name for layer in names for name in layer]
    generator = generator_of(check_seed(seed))
    at = torch.tensor(asked, dtype=torch.int64, device=target.inputs.device) - 1

    many = len(target) >= MANY
    n_paired = TOGETHER if many else PAIRED
    size = at_a_time(None, 2 * numbers_in(model, length, every), most=n_paired)
    large = size < PAIRED or many  # too large to have states at every T
    sparse = large and model.is_ours and hooks == STATE
    alone = sparse and model.config.positional == "none" and not model.is_hooked  # T needs s_{T-1}, s_T and its states
    if sparse:
        size = at_a_time(None, 2 * numbers_in(model, len(asked), every), most=n_paired)
    activations = partial(_states_of, model, at) if alone else model.activations

    def swapped(rows: Tensor, other: Tensor, noise: Noise) -> Held:
        inputs, W = target.inputs[rows], source.W[rows]
        needed = torch.cat([rows, other]).unique()
        read = activations(source.inputs[needed], every)
        held = {name: value[torch.searchsorted(needed, rows)] for name, value in read.items()}
        same = _orbit(target.W[rows], source.targets[other, -1], length)
        own = activations(inputs, every if alone else [name for name in every if name not in moving])
        states = {
            SWAP: held,
            SAME: activations(same, moving),
            OTHER: {name: read[name][torch.searchsorted(needed, other)] for name in moving},
            RANDOM: {name: _random_like(held[name], name, model, at, noise) for name in moving},
        }
        every_state = {condition: own | {name: state[name] for name in moving} for condition, state in states.items()}
        if alone:
            asking, before = inputs[:, at], _before(W, inputs)[:, at]
            moved = {name: _run_alone(model, inputs[:, at - 1], asking, state) for name, state in every_state.items()}
            moved[CEILING] = _run_alone(model, before, asking, held)
            moved["own"] = _run_alone(model, inputs[:, at - 1], asking, own)
        else:
            moved = {name: _run(model, inputs, state)[:, at] for name, state in every_state.items()}
            moved[CEILING] = _through(model, inputs, W, held, asked, augmented=model.is_augmented)
            moved["own"] = model(inputs)[:, at]
        moved["goal"] = torch.einsum("bij,btj->bti", W, inputs[:, at])
        return moved

    parts = []
    with states_at(at) if sparse else nullcontext():
        for group in torch.arange(len(target), device=at.device).chunk(ceil(len(target) / n_paired)):
            for rows, other in zip(group.split(size), group.roll(1).split(size), strict=True):
                drawn: dict[str, Tensor] = {}
                for part in torch.arange(len(rows), device=at.device).split(
                    batch_size or (size if alone else min(size, AT_ONCE))
                ):
                    parts.append(swapped(rows[part], other[part], partial(_noise, drawn, generator, len(rows), part)))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return SwappedContext(
        by_position=scores(found, asked),
        moved=found[SWAP],
        through=found[CEILING],
        own=found["own"],
        goal=found["goal"],
        positions=asked,
        layers=chosen,
        what=WHAT[hooks],
        n=len(target),
    )


def _check_pairs(source: Sequences, target: Sequences) -> None:
    a, b = source.inputs, target.inputs
    if a.shape != b.shape:
        raise ValueError(
            f"source and target must have the same shape [batch pos dim], got {list(a.shape)} and {list(b.shape)}: "
            "they are swapped pair by pair and position by position."
        )
    if a.is_complex() != b.is_complex():
        kinds = ["complex" if x.is_complex() else "real" for x in (a, b)]
        raise ValueError(
            f"source and target must both be real or both complex, got {kinds[0]} and {kinds[1]}: sample both in the "
            "same basis."
        )
    if torch.equal(source.W, target.W):
        raise ValueError("source and target have the same W, so there is nothing to move: sample with two seeds.")


def _hooks_of(model: Model, what: str | None) -> tuple[list[list[str]], tuple[str, ...]]:
    """Full names of each layer's hooks that are moved, and their kind."""
    hooks = PATTERN
    if model.is_augmented:
        hooks = STATE if model.is_linear else KEYS_AND_VALUES
    if what is not None:
        check_choice("what", what, (WHAT[KEYS_AND_VALUES],))
        hooks = KEYS_AND_VALUES
    elif not model.has_own_path:
        raise ValueError(
            f"{no_own_path(model)}, and attention patterns do not carry it. Pass what='keys and values' to move those "
            "of the chosen layers, or see where replace_last_token takes another last token."
        )
    return [[f"blocks.{layer}.attn.{hook}" for hook in hooks] for layer in range(model.n_layers)], hooks


def _run(model: Model, tokens: Predictions, held: Held, *more: tuple[str, Callable]) -> Predictions:
    """The predictions with these activations in place of the model's own."""
    with model.hooks(fwd_hooks=[*in_place_of(held), *more]):
        return model(tokens)


def _run_alone(
    model: Model,
    before: Inexact[Tensor, "batch place dim"],
    asking: Inexact[Tensor, "batch place dim"],
    held: Held,
) -> Inexact[Tensor, "batch place dim"]:
    """The predictions of s_T after s_{T-1} with these states in every layer, each in a context of the two alone."""
    tokens = torch.stack([before, asking], dim=2).flatten(0, 1)
    with states_at(torch.ones(1, dtype=torch.int64, device=tokens.device)):
        predictions = _run(model, tokens, {name: state.flatten(0, 1)[:, None] for name, state in held.items()})
    return predictions[:, 1].reshape(asking.shape)


def _states_of(model: Model, at: Integer[Tensor, "asked"], tokens: Predictions, names: list[str]) -> Held:
    """States at these positions; of one layer from its keys and values, without scores."""
    if model.n_layers > 1:
        return model.activations(tokens, names)
    return {name: model.module.blocks[0].attn.states(encode(model.config, tokens), at) for name in names}


def _noise(
    drawn: dict[str, Tensor], generator: torch.Generator, n: int, rows: Integer[Tensor, "part"], name: str, like: Tensor
) -> Tensor:
    """Gaussian numbers for these rows of n, drawn for all at once: the same whatever is worked on at a time."""
    if name not in drawn:
        drawn[name] = torch.randn((n, *like.shape[1:]), generator=generator, dtype=like.dtype, device="cpu")
    return drawn[name][rows.cpu()].to(like.device)


def _random_like(value: Tensor, name: str, model: Model, at: Integer[Tensor, "asked"], noise: Noise) -> Tensor:
    """Gaussian in what is read of it, isotropic there and of the same norm per position; a pattern stays causal.

    States are all that a position reads, so that only those at the positions asked for are drawn; the others are 0.
    """
    if name.endswith(STATE) and len(at) < value.shape[1]:
        everywhere = torch.zeros_like(value)
        everywhere[:, at] = _random_like(value[:, at], name, model, torch.arange(len(at), device=at.device), noise)
        return everywhere
    block, _, hook = name.rpartition(".")
    layer = int(LAYER.match(block + ".").group(1))  # type: ignore[union-attr] - names are ours
    norms, readings = READ[hook]
    drawn = noise(name, value)
    drawn = drawn.tril() if hook in PATTERN else drawn
    roots = [(form, _roots(gram(model, layer)).to(value.dtype)) for form, gram in readings]

    def read(x: Tensor, root: int) -> Tensor:
        for form, both in roots:
            x = torch.einsum(form, both[root], x)
        return x

    drawn = read(drawn, 1)
    sizes = [read(x, 0).abs().square().sum(norms, keepdim=True).sqrt() for x in (value, drawn)]
    return drawn * torch.where(sizes[1] > 0, sizes[0] / sizes[1], 0)


def _asked(model: Model, layer: int) -> Tensor:
    return model.W_Q[layer].mT @ model.W_Q[layer]


def _written(model: Model, layer: int) -> Tensor:
    return model.W_O[layer] @ model.W_O[layer].mT


def _answered(model: Model, layer: int) -> Tensor:
    circuits = (model.W_V[layer] @ model.W_O[layer]).flatten(1)
    return circuits @ circuits.mT


# of an activation: the axes of its norm at one position, and the Gram matrices by which the model reads it
READ = {
    "hook_kv_state": ((-2, -1), [("hij,bthjk->bthik", _asked), ("hij,bthkj->bthki", _written)]),
    "hook_k": ((-1,), [("hij,bthj->bthi", _asked)]),
    "hook_v": ((-1,), [("hij,bthj->bthi", _written)]),
    "hook_pattern": ((1, -1), [("gh,bhts->bgts", _answered)]),
}


def _roots(gram: Float[Tensor, "*head size size"]) -> Float[Tensor, "root=2 *head size size"]:
    """The square root of a Gram matrix, and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(gram.double())
    kept = values > values.amax(-1, keepdim=True) * FAINTEST
    half = torch.where(kept, values, 0).sqrt()
    scales = torch.stack([half, torch.where(kept, 1 / half, 0)])
    return vectors * scales[..., None, :] @ vectors.mT


def _orbit(W: Inexact[Tensor, "batch dim dim"], first: Inexact[Tensor, "batch dim"], length: int) -> Predictions:
    """first, W first, W^2 first, ..."""
    tokens = [first]
    for _ in range(length - 1):
        tokens.append(torch.einsum("bij,bj->bi", W, tokens[-1]))
    return torch.stack(tokens, dim=1)


def _inverse(W: Inexact[Tensor, "batch dim dim"]) -> Inexact[Tensor, "batch dim dim"]:
    inverse, singular = torch.linalg.inv_ex(W)
    if singular.any():
        raise ValueError("source.W must be invertible: the ceiling follows it backwards from the target's tokens.")
    return inverse


def _before(W: Inexact[Tensor, "batch dim dim"], tokens: Predictions) -> Predictions:
    """What W takes to each token."""
    return torch.einsum("bij,btj->bti", _inverse(W), tokens)


def _through(
    model: Model, inputs: Predictions, W: Tensor, held: Held, positions: tuple[int, ...], *, augmented: bool
) -> Inexact[Tensor, "batch asked dim"]:
    """The swap into the sequences of W that pass through s_T of the inputs, for every T asked for."""
    if augmented:  # of which the query alone is left, and in it s_{T-1}
        before = _before(W, inputs)

        def ask(embedded: Tensor, hook: Any) -> Tensor:
            return torch.cat([embedded[..., : -before.shape[-1]], before.to(embedded.dtype)], dim=-1)

        return _run(model, inputs, held, ("hook_embed", ask))[:, [T - 1 for T in positions]]
    found = []
    for T in positions:
        tokens = _orbit(_inverse(W), inputs[:, T - 1], T).flip(1)
        shorter = {name: x[..., :T, :T] if name.endswith(PATTERN) else x[:, :T] for name, x in held.items()}
        found.append(_run(model, tokens, shorter)[:, -1])
    return torch.stack(found, dim=1)
