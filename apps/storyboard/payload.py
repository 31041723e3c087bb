"""All numbers of the story: weights and claims of shipped checkpoints, values of theory, measurements on contexts.

`make results` writes them to payload.json, so that the first page needs neither torch nor a
measurement; `current` builds them anew where a checkpoint they are of has changed since. Errors are relative: mean
|prediction - s_{T+1}|^2 over mean |s_{T+1}|^2, so that predicting nothing has 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ar_interp
from storyboard.contract import (
    VERSION,
    Claim,
    Curve,
    Depth,
    DiagonalModel,
    Experiment,
    Matrix,
    Numbers,
    Pairs,
    Payload,
    Swap,
    Watched,
)

if TYPE_CHECKING:
    from torch import Tensor

    import ar_interp as ari

FILE = Path(__file__).with_name("payload.json")
PAIRS, CIRCLES, STEP, GAUSSIAN = (
    "diagonal-orthogonal-h5",
    "diagonal-unitary-h10",
    "augmented-unitary",
    "initial-gaussian",
)
STACKS = tuple(f"augmented-haar-l{n}-keys" for n in (1, 2, 3, 4))
WATCHED = STACKS[1]
SOURCES = (PAIRS, CIRCLES, STEP, GAUSSIAN, *STACKS)
N_CONTEXTS, N_MEASURED = 1024, 256
N_HEAVY = 16 * N_CONTEXTS  # where sixth powers of Gaussians are averaged
N_DRAWN = 41  # places of theory's curve
DIGITS = 7


def current() -> Payload:
    """The numbers of payload.json if they are of the checkpoints at hand, else new ones."""
    known: Payload = json.loads(FILE.read_text("utf-8"))
    return known if _sources().items() <= known["sources"].items() else build()


def build() -> Payload:
    """Every number, computed and measured."""
    import torch

    import ar_interp as ari

    with torch.no_grad():
        loaded = {name: ari.load(name) for name in SOURCES}
        theory, dim, n_ctx = ari.theory, loaded[WATCHED].config.dim, loaded[WATCHED].config.n_ctx
        lengths = range(2, n_ctx + 1)
        sizes = [theory.haar_step_size_at(dim=dim, length=T) for T in lengths]
        return {
            "version": VERSION,
            "sources": _sources(),
            "pairs": _pairs(loaded[PAIRS]),
            "swap": _swap(loaded[CIRCLES]),
            "memorised": _memorised(),
            "watched": _watched(loaded[WATCHED], sizes),
            "least_squares": _curve(lengths, (theory.ols_error(dim=dim, length=T) for T in lengths)),
            "one_step": _curve(
                lengths,
                (
                    theory.haar_one_step_loss(dim=dim, length=T, step_size=size)
                    for T, size in zip(lengths, sizes, strict=True)
                ),
            ),
            "experiments": [
                _edited(loaded[PAIRS], "previous position", "cut", [-0.5, 2.0], ask=0.0),
                _edited(loaded[PAIRS], "head rotation", "turn", [0.0, math.pi], ask=math.pi),
                _noise(loaded[CIRCLES]),
                _longer(loaded[STEP]),
                _radius(loaded[CIRCLES]),
                _gaussian(loaded[GAUSSIAN]),
            ],
            "depth": [_depth(loaded[name]) for name in STACKS],
        }


def _sources() -> dict[str, str]:
    """SHA-256 of the weights and claims of every checkpoint that the story is about."""
    files = [_trained() / name / file for name in SOURCES for file in ("model.safetensors", "claims.json")]
    there = [file for file in files if file.is_file()]
    return {f"{file.parent.name}/{file.name}": sha256(file.read_bytes()).hexdigest() for file in there}


def _trained() -> Path:
    """`checkpoints.trained_folder`, without the import of torch."""
    package = Path(ar_interp.__file__).parent
    return inside if (inside := package / "trained").is_dir() else package.parent / "trained"


def _curve(x: Iterable[Any], y: Iterable[Any], se: Iterable[Any] = ()) -> Curve:
    return {"x": _rounded(x), "y": _rounded(y), "se": _rounded(se)}


def _rounded(values: Iterable[Any]) -> Numbers:
    return [float(f"{float(value):.{DIGITS}g}") for value in values]


def _matrix(M: Tensor) -> Matrix:
    """Rows of rounded numbers."""
    return [_rounded(row) for row in M.tolist()]


def _claims(checkpoint: ari.Checkpoint) -> dict[str, Any]:
    from ar_interp import records

    record = records.read(checkpoint)
    assert record is not None  # shipped folders have one
    return {row["name"]: row for row in record.rows}


def _claim(row: dict[str, Any]) -> Claim:
    shown: Claim = {key: row[key] for key in ("name", "statement", "predicted", "measured", "verdict")}  # type: ignore[typeddict-item]
    return {**shown, "control": row["control"]["measured"]}


def _diagonal(checkpoint: ari.Checkpoint) -> DiagonalModel:
    import torch

    model = checkpoint.model
    P = model.P * torch.ones_like(model.P).tril(1)
    P[-1] = 0
    return {
        "name": checkpoint.path.name,
        "dim": model.config.dim,
        "n_ctx": model.config.n_ctx,
        "A": model.A.tolist(),
        "B": model.B.tolist(),
        "P": P.tolist(),
    }


def _pairs(checkpoint: ari.Checkpoint) -> Pairs:
    import torch

    import ar_interp as ari

    model, dim = checkpoint.model, checkpoint.config.dim
    scale = (model.B.mT @ model.A).diagonal().mean().item()
    expected = ari.theory.kappa_family(dim=dim, kappa=1.0, n_ctx=model.config.n_ctx, scale=scale)
    setting = ari.setting_of(checkpoint.config, checkpoint.process)
    options: dict[str, Any] = {"length": model.config.n_ctx, "method": "zero"}
    keys = setting.position_removal_costs(model, **options)
    heads = setting.head_removal_costs(model, **options)
    assert keys is not None
    assert heads is not None
    wanted = ("positions/identity", "heads/orthogonal", "positions/minus half", "estimate/sin")
    rows = _claims(checkpoint)
    return {
        "model": _diagonal(checkpoint),
        "scale": scale,
        "C": _matrix(expected.C),
        "M": _matrix(2 * scale * torch.eye(model.config.n_heads)),
        "P": _matrix(expected.P),
        "cut_last": keys[0].item() / dim,
        "cut_previous": keys[1].item() / dim,
        "cut_head": _rounded(cost / dim for cost in heads.tolist()),
        "claims": {name: _claim(rows[name]) for name in wanted},
    }


def _swap(checkpoint: ari.Checkpoint) -> Swap:
    rows = _claims(checkpoint)
    return {
        "model": _diagonal(checkpoint),
        "score": rows["estimate/swap"]["measured"],
        "controls": rows["estimate/controls"]["measured"],
        "n": rows["estimate/swap"]["n"],
    }


def _memorised() -> float:
    """The mean error of another sequence's W: of |mu - lambda|^2 over independent angles, exact on a grid of them."""
    import torch

    angles = 2 * torch.pi * torch.arange(64, dtype=torch.float64) / 64
    return (1 - torch.exp(1j * angles)).abs().square().mean().item()


def _watched(checkpoint: ari.Checkpoint, sizes: list[float]) -> Watched:
    import torch

    import ar_interp as ari
    from ar_interp import seeds

    config = checkpoint.config
    sequences = _process(checkpoint).contexts(2, config.n_ctx, seed=seeds.EXHIBITS)
    found = ari.recover_context(checkpoint.model, sequences).estimate[0].double()
    gradient = ari.estimators.GradientDescent.of_steps(1, 1.0).estimate(sequences.pairs())[0]
    step = torch.tensor([0.0, *sizes], dtype=gradient.dtype)[:, None, None] * gradient
    least_squares = ari.estimators.OLS().estimate(sequences.pairs())[0]
    errors = sequences.errors(_predictions(checkpoint.model, sequences))[0]
    return {
        "name": checkpoint.path.name,
        "dim": config.dim,
        "n_layers": config.n_layers,
        "W": _rounded(sequences.W[0].flatten()),
        "W_eigenvalues": _eigenvalues(sequences.W[0]),
        "estimate": _matrix(found.flatten(1)),
        "eigenvalues": [_eigenvalues(W) for W in found],
        "error": _rounded(errors),
        "step_estimate": _matrix(step.flatten(1)),
        "least_squares_estimate": _matrix(least_squares.flatten(1)),
    }


def _eigenvalues(W: Tensor) -> Matrix:
    """In an order that rounding leaves as it is."""
    import torch

    found = torch.view_as_real(torch.linalg.eigvals(W)).tolist()
    return [_rounded(each) for each in sorted(found, key=lambda each: (round(each[0], 4), each[1]))]


def _relative(model: Any, contexts: ari.Sequences) -> tuple[Tensor, Tensor]:
    """Error and its standard error at every T, over the mean of |s_{T+1}|^2."""
    import torch

    errors = torch.cat([part.errors(_predictions(model, part)) for part in contexts.split(N_CONTEXTS)]).double()
    energy = contexts.targets.abs().square().sum(-1).double()
    ratio = errors.mean(0) / energy.mean(0)
    return ratio, (errors - ratio * energy).std(0) / len(errors) ** 0.5 / energy.mean(0)


def _predictions(model: Any, contexts: Any) -> Tensor:
    return model(contexts.inputs)


def _process(checkpoint: ari.Checkpoint) -> Any:
    return checkpoint.process


def _spread(span: Numbers, n: int) -> Numbers:
    low, high = span
    return [low + (high - low) * i / (n - 1) for i in range(n)]


def _experiment(key: str, model: str, x_range: Numbers, **others: Any) -> Experiment:
    """y_max leaves the top tenth of the figure free."""
    theory, measured = others["theory"], others["measured"]
    y_max = 1.1 * max(*theory["y"], *measured["y"])
    return {"key": key, "model": model, "x_range": x_range, "limit": None, "y_max": y_max, **others}  # type: ignore[typeddict-item]


def _edited(checkpoint: ari.Checkpoint, edit: str, key: str, span: Numbers, *, ask: float) -> Experiment:
    """A weight with a meaning changed by one number."""
    import ar_interp as ari
    from ar_interp.probes.edits import EDITS

    values, dim = _spread(span, 7), checkpoint.config.dim
    asked = sorted({*values, ask})
    chosen, setting = EDITS[edit], ari.setting_of(checkpoint.config, checkpoint.process)
    found = ari.edit_losses(checkpoint.model, edit, asked, n=N_CONTEXTS).by_value
    dense = _spread(span, N_DRAWN)
    expected = [setting.expected_loss(chosen.apply(checkpoint.model, value)).loss / dim for value in dense]
    return _experiment(
        key,
        checkpoint.path.name,
        span,
        ask=ask,
        neutral=chosen.neutral,
        theory=_curve(dense, expected),
        measured=_curve(asked, found["measured"] / dim, found["measured_se"] / dim),
        n=N_CONTEXTS,
    )


def _noise(checkpoint: ari.Checkpoint) -> Experiment:
    """Noise in every step of the sequence."""
    from ar_interp import theory

    dim, n_ctx, span = checkpoint.config.dim, checkpoint.config.n_ctx, [0.0, 0.25]
    lengths = range(2, n_ctx + 1)

    def energy(noise: float) -> float:
        return sum(dim * (1 + T * noise**2) for T in lengths)

    def expected(noise: float) -> float:
        return sum(theory.last_pair_noise_error(dim=dim, length=T, noise=noise) for T in lengths) / energy(noise)

    return _outside(checkpoint, "noise", span, 0.2, 0.0, expected)


def _radius(checkpoint: ari.Checkpoint) -> Experiment:
    """W that shrinks or stretches what it turns."""
    from ar_interp import theory

    dim, span = checkpoint.config.dim, [0.85, 1.05]
    lengths = range(2, checkpoint.config.n_ctx + 1)

    def expected(radius: float) -> float:
        errors = sum(theory.recurrence_error(dim=dim, covered=dim, length=T, radius=radius) for T in lengths)
        return errors / sum(dim * radius ** (2 * T) for T in lengths)

    return _outside(checkpoint, "radius", span, 0.9, 1.0, expected)


def _outside(
    checkpoint: ari.Checkpoint,
    key: str,
    span: Numbers,
    ask: float,
    neutral: float,
    expected: Callable[[float], float],
) -> Experiment:
    """Contexts of another law than the one trained on."""
    from ar_interp import seeds
    from ar_interp.probes.outside import Condition

    values = sorted({*_spread(span, 5), ask, neutral})
    measured, spread = [], []
    for value in values:
        changed: dict[str, Any] = {key: value}
        condition = Condition(name=key, **changed)
        contexts = condition.contexts(_process(checkpoint), N_MEASURED, checkpoint.config.n_ctx, seed=seeds.OUTSIDE)
        errors = contexts.errors(_predictions(checkpoint.model, contexts))[:, 1:].mean(1)
        energy = contexts.targets.abs().square().sum(-1)[:, 1:].mean()
        measured.append((errors.mean() / energy).item())
        spread.append((errors.std() / energy).item() / N_MEASURED**0.5)
    dense = _spread(span, N_DRAWN)
    return _experiment(
        key,
        checkpoint.path.name,
        span,
        ask=ask,
        neutral=neutral,
        theory=_curve(dense, map(expected, dense)),
        measured=_curve(values, measured, spread),
        n=N_MEASURED,
    )


def _longer(checkpoint: ari.Checkpoint) -> Experiment:
    """Contexts twice as long as trained, for one gradient step of a fixed size."""
    from ar_interp import seeds, theory

    dim, n_ctx = checkpoint.config.dim, checkpoint.config.n_ctx
    size, last = theory.optimal_step_size(dim=dim, max_length=n_ctx), 2 * n_ctx
    contexts = _process(checkpoint).contexts(4 * N_CONTEXTS, last, seed=seeds.OUTSIDE)
    error, se = _relative(checkpoint.model.lengthened(last), contexts)
    lengths = range(2, last + 1)
    return _experiment(
        "longer",
        checkpoint.path.name,
        [2.0, float(last)],
        ask=float(last),
        neutral=float(n_ctx),
        theory=_curve(lengths, (theory.one_step_loss(dim=dim, length=T, step_size=size) / dim for T in lengths)),
        measured=_curve(lengths[::2], error[1::2], se[1::2]),
        n=4 * N_CONTEXTS,
    )


def _gaussian(checkpoint: ari.Checkpoint) -> Experiment:
    """First tokens that differ in length."""
    from ar_interp import seeds, theory

    dim, n_ctx = checkpoint.config.dim, checkpoint.config.n_ctx
    moments = theory.first_token_moments("gaussian", dim=dim)
    product = theory.initial_token_product(moments, max_length=n_ctx + 1)
    contexts = _process(checkpoint).contexts(N_HEAVY, n_ctx, seed=seeds.OUTSIDE)
    error, se = _relative(checkpoint.model, contexts)
    lengths = range(2, n_ctx + 1)
    expected = [theory.initial_token_error(moments, product=product, length=T) / moments.kappa0 for T in lengths]
    return _experiment(
        "gaussian",
        checkpoint.path.name,
        [2.0, float(n_ctx)],
        ask=float(n_ctx),
        neutral=float(n_ctx),
        theory=_curve(lengths, expected),
        measured=_curve(lengths, error[1:], se[1:]),
        limit=1 - moments.kappa1**2 / (moments.kappa0 * moments.kappa2),
        n=N_HEAVY,
    )


def _depth(checkpoint: ari.Checkpoint) -> Depth:
    from ar_interp import seeds
    from ar_interp.claims.verdicts import VERDICTS

    n_ctx = checkpoint.config.n_ctx
    error, se = _relative(checkpoint.model, _process(checkpoint).contexts(N_CONTEXTS, n_ctx, seed=seeds.EXHIBITS))
    rows = _claims(checkpoint)
    low, high = rows["depth/steps"]["interval"]
    return {
        "name": checkpoint.path.name,
        "n_layers": checkpoint.config.n_layers,
        "curve": _curve(range(2, n_ctx + 1), error[1:], se[1:]),
        "steps": 2.0 ** rows["depth/steps"]["measured"],
        "interval": [2.0**low, 2.0**high],
        "verdicts": {verdict: sum(row["verdict"] == verdict for row in rows.values()) for verdict in VERDICTS},
        "not_held": [_claim(row) for row in rows.values() if row["verdict"] in ("fails", "undecided")],
    }
