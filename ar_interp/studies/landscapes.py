"""`Landscape`: sweeps that are kept, with what they show of where training ends: claims, figures and a table."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from ar_interp._checks import check_integer
from ar_interp._moods import calm
from ar_interp._shipped import landscapes_folder
from ar_interp._shown import Shown
from ar_interp.claims import Claim, Claims, Estimate, claim
from ar_interp.claims.estimate import SEEDS
from ar_interp.seeds import DRAWN_LIMIT
from ar_interp.sweeps.kept import SweptRows, read_rows
from ar_interp.sweeps.landscape import REACHED, landscape, medians
from ar_interp.theory import first_token_moments, half_time, plane_loss

if TYPE_CHECKING:
    import plotly.graph_objects as go

MORE = 1.2  # times as often as independent heads, or as many steps as layers
RUN_AWAY = 0.1
FEWER = 0.75
DESCENT = "gradient descent of every seed, whose losses and weights the rows hold"
FLOW = "Zheng et al. 2024, arXiv 2405.16845; gradient flow in closed form"


@dataclass(frozen=True, kw_only=True)
class Landscape(Shown):
    """Sweeps that show one thing.

    Attributes:
        name: unique, short.
        title, question: for a reader.
        sweeps: names of the TOML files, of which each has a Parquet file beside it; their columns are the same.
        count: rows -> what is drawn and shown as a table, a row for each point.
        claims: (rows, counted) -> what they show.
        figures: counted -> figures by name.
    """

    name: str
    title: str
    question: str
    sweeps: tuple[str, ...]
    count: Callable[[pd.DataFrame], pd.DataFrame]
    claims: Callable[[pd.DataFrame, pd.DataFrame], Iterator[Claim]]
    figures: "Callable[[pd.DataFrame], Mapping[str, go.Figure]]"

    def open(self, folder: str | Path | None = None) -> "Opened":
        """The landscape with its rows.

        Args:
            folder: of the files, which may be anybody's; the shipped ones if left out.
        Raises:
            CheckpointError: a file is missing, damaged, or holds other trainings than those asked for.
        """
        where = landscapes_folder() if folder is None else Path(folder)
        return Opened(self, tuple(read_rows(where / f"{name}.toml") for name in self.sweeps))


@dataclass(frozen=True)
class Opened(Shown):
    """A landscape and the rows of its sweeps."""

    landscape: Landscape
    sweeps: tuple[SweptRows, ...]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of all its sweeps."""
        return pd.concat([sweep.table for sweep in self.sweeps], ignore_index=True)

    @cached_property
    def counted(self) -> pd.DataFrame:
        """A row for each point."""
        return self.landscape.count(self.rows)

    @property
    def fingerprint(self) -> str:
        """The start of the hash of each sweep."""
        return " ".join(sweep.fingerprint[:12] for sweep in self.sweeps)

    @calm()
    def verify(self, *, seed: int | None = None) -> Claims:
        """Measure what the rows show, and that some of them are those of the trainings that the files ask for.

        Args:
            seed: that the rows to be trained anew are drawn with, below 2**31; drawn if left out, and in the result.
        """
        seed = secrets.randbelow(DRAWN_LIMIT) if seed is None else seed
        check_integer("seed", seed, low=0, high=DRAWN_LIMIT - 1)
        return Claims(self.landscape.name, (*self._again(seed), *self.shown), seed=seed)

    @property
    def shown(self) -> Iterator[Claim]:
        """The claims that take no training."""
        return self.landscape.claims(self.rows, self.counted)

    def _again(self, seed: int) -> Iterator[Claim]:
        for name, sweep in zip(self.landscape.sweeps, self.sweeps, strict=True):
            made, kept, others = sweep.again(seed)
            sampled = sweep.plan.shards[0].training.objective == "sampled"
            at = ", ".join(f"{axis} = {value}" for axis, value in kept.iloc[0][list(sweep.plan.axes)].items())
            yield claim(
                f"rows/{name}",
                f"{len(made)} seeds drawn at random, trained anew at {at}, have the loss and the columns of the rows: "
                "largest difference, over 1 + the size of the number",
                evidence="training",
                source=f"{name}.toml",
                tolerance="again, sampled" if sampled else "again",
                side="at most",
                measured=_apart(made, kept, sweep.plan.columns),
                control=(
                    "the same seeds at the point that is farthest",
                    max(
                        _apart(made, each, sweep.plan.columns)
                        for _, each in others.groupby(list(sweep.plan.axes))
                        if len(each) == len(made)
                    ),
                ),
            )


def _apart(made: pd.DataFrame, kept: pd.DataFrame, columns: tuple[str, ...]) -> float:
    """The largest difference of what was measured, over 1 + its size; 1 where one alone is missing."""
    names = ["loss", "minimum", *columns]
    both = [table.sort_values("seed")[names].to_numpy(dtype=float) for table in (made, kept)]
    new, old = both
    far = np.nan_to_num(np.abs(new - old) / (1 + np.abs(old)))
    return float(np.where(np.isnan(new) != np.isnan(old), 1.0, far).max())


# ---- where descent on diagonal heads ends


def _pairs_claims(rows: Any, counted: Any) -> Iterator[Claim]:
    made = partial(claim, evidence="training", source=DESCENT)
    for dim, at in ((dim, counted[counted["dim"] == dim].set_index("n_heads")) for dim in sorted(set(counted["dim"]))):
        share, many = partial(_share, at), [h for h in at.index if dim < 2 * h < 2 * dim]
        yield made(
            f"certain/d = {dim}",
            f"Conjugate pairs, d = {dim}: with d heads every seed reaches the minimum: share",
            tolerance="certain",
            predicted=1.0,
            side="at least",
            measured=share(dim),
            control=(f"{dim - 1} heads", share(dim - 1)),
        )
        heads = max(h for h in at.index if 2 * h <= dim)
        one = share(1)
        independent = Estimate(one.value**heads, {SEEDS: heads * one.half_width * one.value ** (heads - 1)}, one.n)
        yield made(
            f"dependence/d = {dim}",
            f"Conjugate pairs, d = {dim}: of {heads} heads more seeds reach the minimum than if heads were trapped "
            f"independently: share over that of one head to the power {heads}, {independent.value:.3g}",
            tolerance="more",
            predicted=MORE,
            side="at least",
            measured=share(heads).over(independent),
            control=("independent heads", 1.0),
        )
        least = min(many, key=lambda h: at["runaway"][h])
        yield made(
            f"runaway/d = {dim}",
            f"Conjugate pairs, d = {dim}: between d/2 and d heads a tenth of the seeds or more run away, "
            f"p_{{T-1}}/p_T > 1: share of {least} heads, the least",
            tolerance="more",
            predicted=RUN_AWAY,
            side="at least",
            measured=share(least, "runaway"),
            control=(f"{dim} heads", share(dim, "runaway")),
        )


def _independent_claims(rows: Any, counted: Any) -> Iterator[Claim]:
    few = rows[rows["n_heads"] < rows["dim"]]
    yield claim(
        "certain/independent eigenvalues",
        "Independent eigenvalues: every seed reaches the minimum, whatever the number of heads: share",
        evidence="training",
        source=DESCENT,
        tolerance="certain",
        predicted=1.0,
        side="at least",
        measured=_share_of(rows["loss"] < rows["minimum"] + REACHED),
        control=("seeds at the minimum of one head more", _share_of(few["loss"] < few["minimum"] - 1 + REACHED)),
    )


def _scale_claims(rows: Any, counted: Any) -> Iterator[Claim]:
    for heads, at in counted.groupby("n_heads"):
        at = at.set_index("init_scale")
        low, high = at.index.min(), at.index.max()
        yield claim(
            f"scale/H = {heads}",
            f"Conjugate pairs, d = 4, {heads} head{'s' * (heads > 1)}: larger initial weights are trapped more often: "
            f"share at the minimum from scale {high:g}, over that from {low:g}",
            evidence="training",
            source=DESCENT,
            tolerance="more",
            predicted=FEWER,
            side="at most",
            measured=_share(at, high).over(_share(at, low)),
            control=("a share that does not depend on the scale", 1.0),
        )


def _share(at: Any, key: Any, of: str = "share") -> Estimate:
    return Estimate.share(round(at[of][key] * at["n"][key]), int(at["n"][key]), SEEDS)


def _share_of(cases: Any) -> Estimate:
    return Estimate.share(int(cases.sum()), len(cases), SEEDS)


def _drawn(name: str, counted: Any) -> "Mapping[str, go.Figure]":
    """The figure of that name."""
    from ar_interp import figures

    return {name: getattr(figures, name)(counted)}


def _by_heads(counted: Any) -> "Mapping[str, go.Figure]":
    share = _drawn("share_by_heads", counted)
    return {**share, **_drawn("runaway_by_heads", counted)} if counted["runaway"].any() else share


# ---- what depth is worth


def _depth_claims(rows: Any, counted: Any) -> Iterator[Claim]:
    for row in counted.to_dict("records"):
        layers, scores = row["n_layers"], "raw scores" if row["attention"] == "linear" else "scores over keys"
        bounds = (row["low"] / layers, row["high"] / layers)
        found = Estimate(row["median"] / layers, {SEEDS: (bounds[1] - bounds[0]) / 2}, row["n"], bounds)
        made = partial(claim, evidence="training", source=DESCENT, measured=found)
        if layers == 1:
            yield made(
                f"depth/{scores}, 1 layer",
                f"Haar W, {scores}: one layer is worth one gradient step: number of steps, median over the seeds",
                tolerance="one step",
                predicted=1.0,
                control=("two tuned gradient steps", 2.0),
            )
            continue
        yield made(
            f"depth/{scores}, {layers} layers",
            f"Haar W, {scores}: {layers} layers are worth more than {layers} gradient steps: steps per layer, median "
            "over the seeds",
            tolerance="more",
            predicted=MORE,
            side="at least",
            control=(f"{layers} tuned gradient steps", 1.0),
        )


# ---- when the gradient step emerges


def _half_times(rows: pd.DataFrame) -> pd.DataFrame:
    """The medians beside that of one coordinate in theory: (a + b)^2 / 2 over the scale squared is chi-squared."""
    found = medians(rows, "half_time")
    typical = [chi2.median(1) * scale**2 / 2 for scale in found["init_scale"]]
    return found.assign(theory=[_half_time(row, y) for row, y in zip(found.to_dict("records"), typical, strict=True)])


def _half_time(row: Mapping[Any, Any], product: float) -> float:
    moments = first_token_moments("gaussian", dim=row["dim"])
    return half_time(moments, product=product, max_length=row["n_ctx"] + 1) / (2 * row["lr"])


def _emergence_claims(rows: Any, counted: Any) -> Iterator[Claim]:
    made = partial(claim, evidence="training", source=FLOW, tolerance="later")
    for dim, at in rows.groupby("dim"):
        n_ctx, lr, scales = int(at["n_ctx"].iloc[0]), 2 * at["lr"].iloc[0], sorted(set(at["init_scale"]))
        slope = plane_loss(first_token_moments("gaussian", dim=dim), max_length=n_ctx + 1).slope
        times = at.pivot_table(index="seed", columns="init_scale", values="half_time", dropna=False)
        small, large = scales[0], scales[2]
        predicted = np.log(large / small) / (lr * slope)
        yield made(
            f"emergence/later, d = {dim}",
            f"d = {dim}: from initial weights {large / small:.3g} times smaller the step emerges "
            f"ln({large / small:.3g}) / (lr slope) = {predicted:.1f} updates later: mean over the seeds, over that",
            predicted=1.0,
            measured=Estimate.mean(((times[small] - times[large]) / predicted).to_numpy(), SEEDS),
            control=("times that do not depend on the scale", 0.0),
        )
    (first,) = counted[(counted["dim"] == 1) & (counted["init_scale"] == counted["init_scale"].min())].to_dict(
        "records"
    )
    bounds = (first["low"] / first["theory"], first["high"] / first["theory"])
    other = _half_time(first, chi2.median(1) * (10 * first["init_scale"]) ** 2 / 2)
    yield made(
        "emergence/median, d = 1",
        f"d = 1, initial scale {first['init_scale']:g}: half of the seeds have emerged at the half time of the flow "
        "from their median start: ratio",
        predicted=1.0,
        measured=Estimate(first["median"] / first["theory"], {SEEDS: (bounds[1] - bounds[0]) / 2}, first["n"], bounds),
        control=("the half time from a scale ten times as large", first["median"] / other),
    )


_ALL = (
    Landscape(
        name="pairs",
        title="Conjugate pairs",
        question="Which share of seeds reaches the minimum, by number of heads?",
        sweeps=("one-head", "pairs"),
        count=landscape,
        claims=_pairs_claims,
        figures=_by_heads,
    ),
    Landscape(
        name="independent",
        title="Independent eigenvalues",
        question="The same, where eigenvalues come alone: is anything trapped?",
        sweeps=("independent",),
        count=landscape,
        claims=_independent_claims,
        figures=_by_heads,
    ),
    Landscape(
        name="initial-scale",
        title="The scale of the initial weights, conjugate pairs",
        question="Does it matter how large the initial weights are?",
        sweeps=("initial-scale",),
        count=landscape,
        claims=_scale_claims,
        figures=partial(_drawn, "share_by_scale"),
    ),
    Landscape(
        name="depth",
        title="What depth is worth",
        question="How many gradient steps is a stack worth, over seeds (16, of 1000 updates each) and not at the best?",
        sweeps=("depth",),
        count=partial(medians, column="steps_equivalent"),
        claims=_depth_claims,
        figures=partial(_drawn, "steps_by_depth"),
    ),
    Landscape(
        name="emergence",
        title="When the gradient step emerges",
        question="How much later does it emerge from smaller initial weights?",
        sweeps=("emergence",),
        count=_half_times,
        claims=_emergence_claims,
        figures=partial(_drawn, "half_time_by_scale"),
    ),
)

LANDSCAPES: Mapping[str, Landscape] = {one.name: one for one in _ALL}
