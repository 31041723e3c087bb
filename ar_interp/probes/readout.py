"""Quantities read off activations by ridge or logistic regression, beside controls that say what that means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ar_interp._checks import check_several
from ar_interp._shown import brief, watched
from ar_interp.models.opened import Model, as_model
from ar_interp.probes.batches import at_a_time, numbers_in
from ar_interp.probes.protocol import control_option, needs
from ar_interp.probes.readout_fits import Split, discrete, fit_probe, held_out, interval, penalty_of, scores_of
from ar_interp.probes.readout_targets import Target, as_columns, resolve, target_values, varies
from ar_interp.probes.results import Result
from ar_interp.processes import Sequences
from ar_interp.seeds import UNTRAINED

HOOKS = ("hook_embed", "hook_resid_pre", "hook_resid_post", "attn.hook_attn_scores", "attn.hook_pattern",
         "attn.hook_z", "attn.hook_kv_state")  # fmt: skip
POSITIONS = (2, 5, 10, 20, 50, 100, 200, 500)
CONTROLS = ("shuffled", "projection", "untrained")
READ = "any, with the hooks that are read"


@dataclass(frozen=True, kw_only=True)
class ProbeSweep(Result):
    """Probes of many activations and their controls, all on the same held-out sequences.

    Attributes:
        frame: a row per layer (-1 outside the blocks), hook, T and target, in this order:
            metric: `r2`, mean over the values of the target, or `accuracy`, mean over its classifiers;
            score: on the held-out sequences; low, high and score_se, its bootstrap 95 % interval and standard error;
            baseline: the score of the training part's mean or most frequent class;
            shuffled, projection, untrained: scores of the controls, see `probe_activations`;
            selectivity: score - the largest of these three; selectivity_low and selectivity_high, its interval over the
            same resampled sequences. An interval below 0 says that a control beats the model. The past tokens are
            themselves linear in the input, so that a projection of enough dimensions reads them without fail: with such
            a target the rows to compare with are those of the embedding, and `untrained`;
            penalty: the chosen one, per training sequence and for features of mean square 1;
            n_features (those that vary between sequences), n_train, n_test.
    """

    frame: pd.DataFrame

    def best(self, target: str | None = None) -> pd.Series:
        """The row of the largest selectivity, of one target or of all.

        Raises:
            ValueError: a target that was not probed.
        """
        rows: Any = self.frame if target is None else self.frame[self.frame["target"] == target]
        if rows.empty:
            probed = ", ".join(map(repr, dict.fromkeys(self.frame["target"])))
            raise ValueError(f"target {target!r} was not probed, only {probed}.")
        return rows.loc[rows["selectivity"].idxmax()]


def reading_options(model: Model) -> str:
    """The control, where the model makes none, and a target, where no single W is one."""
    target = "target='next token'" if getattr(model.process, "n_matrices", 1) > 1 else ""
    return ", ".join(filter(None, (control_option(model), target)))


def _options(model: Model) -> str:
    """The hooks too, where the model has none of those that are read if they are left out."""
    hooks = "" if any(name.endswith(HOOKS) for name in model.hook_names) else "hooks=[...]"
    return ", ".join(filter(None, (hooks, reading_options(model))))


@needs("run_with_cache", scope=READ, options=_options)
def probe_activations(
    model: Model,
    sequences: Sequences,
    *,
    hooks: str | Sequence[str] | Callable[[str], bool] | None = None,
    positions: Sequence[int] | None = None,
    target: str | Target | Sequence[str | Target] = "W",
    untrained: object = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> ProbeSweep:
    """Read targets off activations, over layers, hooks and positions, with controls and intervals.

    Ridge regression, or a logistic regression per value where the target is discrete, from the real and imaginary parts
    of an activation at T. A row is a sequence, so the split is by sequence; it is the same for all. The penalty is
    chosen inside the training part, see `readout_fits.fit_probe`. Controls, each fitted in the same way with a penalty
    of its own:

    - `shuffled`: the training targets permuted between sequences, which only memorising could fit; a control task in
      the sense of Hewitt and Liang 2019.
    - `projection`: in place of the activation a random Gaussian linear map of the context s_1..s_T, of as many
      dimensions as the activation has features that vary. What is linear in the input is no work of the model.
    - `untrained`: the same hook of an untrained model of the same architecture.

    Args:
        sequences: at least 50, each with its own W.
        hooks: names, or a filter of names; if left out the embedding, the residual stream, and the attention's scores,
            pattern, z and key-value state of every layer, where the model has them.
        positions: T, from 2 to the length; if left out 2, 5, 10, 20, 50, ... and the length, each where the target is
            not the same in every sequence.
        target: a name in `readout_targets.TARGETS`; a function of sequences and T that gives [batch value], integers or
            booleans for classes; or several of these.
        untrained: the control model; `model.untrained(seed)` if left out.
    Raises:
        ValueError: hooks that do not exist, have no batch and position axes, or are not finite; a position out of
            range; an unknown target, or one that is the same in every sequence; too few sequences, in all or of a
            class.
    """
    length, given = sequences.length, positions
    split = Split.of(len(sequences), seed=seed)
    positions = [*(T for T in POSITIONS if length > T), length] if given is None else given
    positions = list(check_several("positions", positions, low=2, high=length))
    targets = [target] if isinstance(target, str) or callable(target) else target
    if not isinstance(targets, list | tuple) or not targets:
        raise ValueError(f"target must be a name, a function, or a list of these, got {brief(target)}.")
    names = [resolve(wanted)[0] for wanted in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"target must hold each name once, got {names}; functions go by their __name__.")
    values = {(T, resolve(wanted)[0]): target_values(wanted, sequences, T) for T in positions for wanted in targets}
    if given is None:
        values = {key: Y for key, Y in values.items() if Y.shape[1]} or values
    for (T, name), Y in values.items():
        if not Y.shape[1]:
            raise ValueError(f"target {name!r} is the same in every sequence at T = {T}: leave that position out.")
    hooks = hooks_of(model, hooks)
    options: dict[str, Any] = {"untrained": untrained, "seed": seed, "batch_size": batch_size}
    features = probe_features(model, sequences, hooks=hooks, positions=positions, **options)
    rows = [
        {"layer": layer_of(hook), "hook": hook, "T": T, "target": name, **_row(features[hook, T], Y, split)}
        for hook in watched(iterable=hooks, desc="probe_activations", unit=" hooks")
        for (T, name), Y in values.items()
    ]
    return ProbeSweep(frame=pd.DataFrame(rows).sort_values(["layer", "T"], kind="stable", ignore_index=True))


def hooks_of(model: Model, hooks: str | Sequence[str] | Callable[[str], bool] | None) -> list[str]:
    """The names that are given or that a filter selects, see `probe_activations`.

    Raises:
        ValueError: none.
    """
    if hooks is None or callable(hooks):
        chosen = [name for name in model.hook_names if (hooks(name) if hooks else name.endswith(HOOKS))]
    else:
        chosen = [hooks] if isinstance(hooks, str) else list(dict.fromkeys(hooks))
    if not chosen:
        raise ValueError(f"hooks selects no hook of this model; it has {', '.join(model.hook_names)}.")
    return chosen


def layer_of(hook: str) -> int:
    """The number of the block, -1 outside them."""
    parts = hook.split(".")
    return int(parts[1]) if parts[0] == "blocks" and len(parts) > 2 else -1


def probe_features(
    model: Model,
    sequences: Sequences,
    *,
    hooks: Sequence[str],
    positions: Sequence[int],
    untrained: object,
    seed: int,
    batch_size: int | None,
) -> dict[tuple[str, int], dict[str, Float[np.ndarray, "batch feature"]]]:
    """Features that probes of the model and of each control are given, for each hook and T.

    Raises:
        ValueError: no control model, and none can be made; see `activations`.
    """
    beside = model.untrained(UNTRAINED) if untrained is None else as_model(untrained)
    inputs = sequences.inputs
    trained, control = (activations(m, inputs, hooks, positions, batch_size) for m in (model, beside))
    found = {}
    for (hook, T), X in trained.items():
        context = as_columns(inputs[:, :T].cpu().numpy())
        directions = np.random.default_rng(seed).standard_normal((context.shape[1], max(varies(X).sum(), 1)))
        projection = context @ directions
        found[hook, T] = {"model": X, "shuffled": X, "projection": projection, "untrained": control[hook, T]}
    return found


@torch.no_grad()
def activations(
    model: object, tokens: Tensor, hooks: Sequence[str], positions: Sequence[int], batch_size: int | None = None
) -> dict[tuple[str, int], Float[np.ndarray, "batch feature"]]:
    """Real and imaginary parts of each hook at each T, float64: the row of the query T for scores and pattern.

    Raises:
        ValueError: a hook that does not exist, has no batch and position axes, or is not finite.
    """
    opened = as_model(model)
    parts: dict[tuple[str, int], list[np.ndarray]] = {(hook, T): [] for hook in hooks for T in positions}
    size = at_a_time(batch_size, numbers_in(opened, tokens.shape[1], hooks))
    for chunk in tokens.split(size):
        cache = opened.run_with_cache(chunk, names_filter=list(hooks))[1]
        for hook, T in parts:
            if hook not in cache:
                raise ValueError(f"hook {hook!r} does not exist; model.hook_dict lists those of {opened.name}.")
            activation = cache[hook]
            if hook.endswith(("hook_attn_scores", "hook_pattern")):
                chosen = activation[:, :, T - 1].clone()
                chosen[..., T:] = 0  # keys to come, -inf before a softmax
            elif activation.ndim >= 3 and activation.shape[:2] == chunk.shape[:2]:
                chosen = activation[:, T - 1]
            else:
                shape = list(activation.shape)
                raise ValueError(f"hook {hook!r} has no batch and position axes to read from: {shape}.")
            parts[hook, T].append(as_columns(chosen.cpu().numpy()).astype(np.float64))
    found = {key: np.concatenate(values) for key, values in parts.items()}
    for (hook, T), X in found.items():
        if not np.isfinite(X).all():
            raise ValueError(f"hook {hook!r} has NaN or infinite entries at T = {T}: does the model explode?")
    return found


def _row(
    features: dict[str, Float[np.ndarray, "batch feature"]], Y: Shaped[np.ndarray, "batch value"], split: Split
) -> dict[str, Any]:
    """The columns of `ProbeSweep` that are measured."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    X, train, test = features["model"], split.train, split.test
    probe = fit_probe(X[train], Y[train])
    scores = scores_of(Y[test], np.asarray(probe.predict(X[test])), split.counts)
    controls = {source: held_out(features[source], Y, split, source) for source in CONTROLS}
    selectivity = interval(scores - np.max(list(controls.values()), axis=0))
    dummy = DummyClassifier(strategy="most_frequent") if discrete(Y) else DummyRegressor()
    constant = np.asarray(dummy.fit(X[train], Y[train]).predict(X[test]))
    return {
        "metric": "accuracy" if discrete(Y) else "r2",
        **dict(zip(("score", "low", "high"), interval(scores), strict=True)),
        "score_se": float(np.std(scores[1:], ddof=1)),
        "baseline": scores_of(Y[test], constant, split.counts)[0],
        **{source: values[0] for source, values in controls.items()},
        **dict(zip(("selectivity", "selectivity_low", "selectivity_high"), selectivity, strict=True)),
        "penalty": penalty_of(probe, len(train)),
        "n_features": int(varies(X).sum()),
        "n_train": len(train),
        "n_test": len(test),
    }
