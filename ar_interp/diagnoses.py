"""The likely fault of a model that lacks a structure.

The surest sign of a fault is its repair: the copy of the model in which it is undone has the structure. Where no repair
of the table has it, the first of a list of measured signs that is there names the cause.
"""

from collections.abc import Callable, Iterable, Iterator
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from ar_interp.claims.estimate import CONTEXTS, Estimate, as_estimate
from ar_interp.claims.verdicts import ACROSS, INSIDE, Interval, Side, band, place, what_decides
from ar_interp.models.config import ModelConfig
from ar_interp.models.opened import Model, as_model
from ar_interp.models.transformer import HookedARTransformer
from ar_interp.models.weights import DiagonalWeights, diagonal_weights, process_of
from ar_interp.probes.blocks import AugmentedBlocks
from ar_interp.probes.context import RecoveredContext
from ar_interp.probes.heads import RANK_TOLERANCE, HeadOrthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.swap import SWAP, SwappedContext
from ar_interp.processes import CommutingOrthogonal, CommutingProcess, CommutingUnitary, HaarOrthogonal, Process
from ar_interp.setting import setting_of
from ar_interp.setting.augmented import STEP_PRODUCT
from ar_interp.studies.blocks_measured import without_signs
from ar_interp.theory import haar_step_size, kappa_to_ratio, optimal_step_size

Sign = tuple[bool, str]  # whether it is there, and what of

FAINT = 0.1  # of what a trained model has: next to nothing
MOST = 0.5
ALIKE = 0.99  # cosine of two heads
VALLEY = -0.5  # kappa below it is on the way to -1
QUERIES, KEYS, VALUES = ("s_T", "s_T", "s_{T-1}", "s_{T-1}"), ("s_t", "s_{t-1}") * 2, ("s_t", "s_{t-1}")


class Check(NamedTuple):
    """One number beside what it must be."""

    what: str
    measured: Estimate | float
    expected: float
    tolerance: float
    side: Side = "equal to"

    @property
    def passes(self) -> bool:
        """The whole interval agrees with what is expected."""
        return self.place == INSIDE

    @property
    def place(self) -> str:
        """`inside`, `outside` or `across` the band of what agrees."""
        return place(as_estimate(self.measured).interval, self.band)

    @property
    def band(self) -> Interval:
        """The values that agree with what is expected."""
        return band(self.expected, self.tolerance, self.side)

    @property
    def limit(self) -> str:
        """The number that would decide it, in words, where the interval reaches over a bound of the band."""
        return f", undecided: {what_decides(as_estimate(self.measured), self.band)}" if self.place == ACROSS else ""

    def __str__(self) -> str:
        return f"{self.what} = {as_estimate(self.measured)}"


def likely_cause(
    model: Model, process: Process, read: Callable[[Model], tuple[Any, list[Check]]], signs: Iterable[Sign]
) -> str:
    """The fault whose repair gives `model` the structure that `read` checks, else the first sign that is there."""
    for fault, repaired in _repairs(model, process):
        checks = read(repaired)[1]
        if all(check.passes for check in checks):
            return f"{fault} (undoing that gives {', '.join(map(str, checks))})."
    return next((f"{cause}." for there, cause in signs if there), "not known: none of the usual signs is there.")


def _repairs(model: Model, process: Process) -> Iterator[tuple[str, Model]]:
    """Copies of the model, each with one fault undone that it may have."""
    if model.has_model_config and model.is_augmented and model.has_full_heads:
        if (model.n_layers, model.config.n_heads) == (1, 1):
            yield (
                "a diagonal of signs D, the gauge of full matrices on diagonal W: D Ŵ D errs as Ŵ does",
                as_model(without_signs(model.module)),
            )
        return
    try:
        weights = diagonal_weights(model)
    except ValueError:  # other heads: none of the faults below
        return
    if process.has_eigenbasis:
        for fault, repaired in _undone(weights, process_of(model, process)):
            changed = not all(map(torch.equal, repaired, (weights.A, weights.B, weights.P)))
            if changed and all(x.isfinite().all() for x in repaired):
                yield fault, as_model(HookedARTransformer.from_diagonal(*repaired, process=process))


def _undone(weights: DiagonalWeights, process: CommutingProcess) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    A, B, P, M = weights.A, weights.B, weights.P, weights.M
    order = scipy.optimize.linear_sum_assignment(-M.abs().numpy())[1]
    yield "heads permuted between A and B: each a_h belongs to the b_h' of largest |<a_h, b_h'>|", (A, B[order], P)
    previous, last = P.diagonal(), P.diagonal(1)
    strength = M.diagonal()
    turned = strength * last.sum() < 0
    heads = turned.nonzero().flatten().tolist()
    yield f"the sign of <a_h, b_h> is turned in heads {heads}", (torch.where(turned[:, None], -A, A), B, P)
    even = A * (strength.median() / strength)[:, None]
    spread = f"from {strength.min():.3g} to {strength.max():.3g}"
    yield f"heads of unequal strength, <a_h, b_h> {spread}", (even, B, P)
    yield "P is one key too early: p_T stands where p_{T-1} belongs", (A, B, P.roll(1, 1))
    yield "P is one key too late, or its rows a context length: row r is for T = r + 2", (A, B, P.roll(-1, 1))
    yield "the sign of p_{T-1} is turned", (A, B, P - 2 * previous.diag())
    yield "keys before T-1 have weights", (A, B, P.triu().tril(1))
    solution = HookedARTransformer.from_diagonal(A, B, P, process=process)
    found = positional_structure(solution, process=process)
    scaled = found.scale * last
    size = f"c p_T is not 1, but from {scaled.min():.3g} to {scaled.max():.3g}"
    yield size, (A, B, P / torch.cat([scaled, scaled.new_ones(1)])[:, None])
    if process.conjugate_pairs and found.kappa != -1:
        wanted = kappa_to_ratio(found.kappa) * torch.cat([last, last.new_zeros(1)]).diag()
        yield f"p_{{T-1}} does not belong to kappa = {found.kappa:.4g}", (A, B, P - previous.diag() + wanted)


def head_signs(found: HeadOrthogonality, model: Model, process: CommutingProcess) -> Iterator[Sign]:
    """Why heads are not orthogonal."""
    strength = found.A.norm(dim=1) * found.B.norm(dim=1)
    dead = (strength <= RANK_TOLERANCE * strength.max()).nonzero().flatten().tolist()
    yield bool(dead), f"heads {dead} are dead: |a_h| |b_h| is below {RANK_TOLERANCE:.0%} of the largest"
    for name, X in (("keys a_h", found.A), ("values b_h", found.B)):
        directions = torch.nn.functional.normalize(X, dim=1)
        cosines = (directions @ directions.T).abs().triu(1)
        i, j = divmod(int(cosines.argmax()), len(cosines))
        yield cosines[i, j].item() > ALIKE, f"heads {i} and {j} are alike: cosine {cosines[i, j]:.4f} of their {name}"
    kappa = positional_structure(model, process=process).kappa
    yield (
        process.conjugate_pairs and abs(found.e_m - abs(kappa)) < FAINT * abs(kappa),
        f"kappa = {kappa:.3g}: M has the eigenvalues c (1 ± kappa), so that of as many heads as coordinates only those "
        "with kappa = 0 are orthogonal",
    )
    cosines = f"cosines of a_h and b_h {found.alignment:.2f} in the mean, of a_h and b_h' {found.cosine_ab:.2f} (rms)"
    yield (
        abs(found.alignment) < 2 * found.untrained_cosine,
        f"the heads look untrained: {cosines}, where random ones have 0 and {found.untrained_cosine:.2f}",
    )
    few = found.rank < min(len(found.A), process.n_free)
    yield few, f"C has rank {found.rank}, and {process.n_free} eigenvalues are free"
    yield found.alignment > 1 - FAINT, f"descent is not finished: {cosines}"


def positional_signs(
    found: PositionalStructure, untrained: PositionalStructure, model: Model, process: CommutingProcess
) -> Iterator[Sign]:
    """Why the positional encoding does not hold the trigonometric identity."""
    weights = diagonal_weights(model)
    n_heads, n_pairs = len(weights.A), process.dim // 2
    yield n_heads < n_pairs, f"{n_heads} heads hold at most {n_heads} of the {n_pairs} conjugate pairs"
    diagonal = weights.C.diagonal()
    empty = (diagonal.abs() <= RANK_TOLERANCE * diagonal.abs().max()).sum().item()
    yield bool(empty), f"C is empty on {empty} of {process.dim} coordinates"
    masses = torch.stack([found.P.diagonal(1 - back).square().sum() for back in range(len(found.P))])
    back = int(masses.argmax())
    share = (masses[back] / masses.sum()).item()
    yield (
        share > MOST and back > int(found.kappa < VALLEY),  # where p_{T-1} is the largest
        f"P is shifted: key T-{back} holds {share:.0%} of |P|^2, and no other so much",
    )
    old, old_untrained = found.off_mass, untrained.off_mass
    yield (
        old > MOST * old_untrained,
        f"P looks untrained: keys before T-1 hold {old:.0%} of |P|^2, before training {old_untrained:.0%}",
    )
    kappas = (weights.C.diagonal(1)[::2] / diagonal[::2]).tolist()
    minus = sum(kappa < 0 for kappa in kappas)
    yield (
        found.kappa_spread > 1,
        f"a local minimum: {minus} of {n_pairs} pairs are trapped with kappa < 0, see theory.trapped_levels; keep the "
        "best of many seeds",
    )
    yield (
        found.kappa < VALLEY,
        f"the valley at infinity: kappa = {found.kappa:.3g} creeps toward -1",
    )
    yield (
        found.residual < MOST and found.off_mass < FAINT**2,
        f"descent is not finished: kappa differs by {found.kappa_spread:.2g} between pairs, c p_T from 1 by "
        f"{found.scale_error:.2g}",
    )


def relative_distances(found: RecoveredContext) -> dict[str, Estimate]:
    """|Ŵ - reference|_F / |Ŵ|_F over all sequences at the last T, by reference."""
    last = found.distances[found.distances["T"] == found.distances["T"].max()]
    energy = found.estimate[:, -1].abs().square().sum((-2, -1)).mean().item() / found.W.shape[-1]
    columns = (last[name] for name in ("reference", "distance_per_row", "distance_per_row_se", "n"))
    return {
        name: Estimate(square / energy, {CONTEXTS: 1.96 * error / energy}, n).root() if energy else Estimate(inf)
        for name, square, error, n in zip(*columns, strict=True)
    }


def context_signs(
    found: RecoveredContext, untrained: RecoveredContext, model: Model, process: Process, tolerances: dict[str, float]
) -> Iterator[Sign]:
    """Why the estimate of W is not the reference.

    Args:
        tolerances: of the relative distance from each reference.
    """
    estimate, W = found.estimate[:, -1], found.W.to(found.estimate.dtype)
    size, before = ((each.estimate[:, -1].norm() / W.norm()).item() for each in (found, untrained))
    yield size < FAINT, f"the estimate is next to nothing, |Ŵ| / |W| = {size:.2g}, before training {before:.2g}"
    varies, varied = (((X - X.mean(0)).norm() / X.norm()).item() for X in (estimate, W))
    yield (
        varies < FAINT * varied,
        f"the estimate is not in context: it differs between sequences by {varies:.2g} of its norm, W by {varied:.2g}",
    )
    distances = {name: distance.value for name, distance in relative_distances(found).items()}
    for name, distance in distances.items():
        sized = f", of size {found.step_size:.4g}" if name not in ("W", "OLS") else ""
        yield (
            distance <= tolerances[name],
            f"the estimate is {name}{sized} (relative distance {distance:.2g}): pass reference={name!r}",
        )
    if model.has_config and model.is_diagonal and process.has_eigenbasis:
        rank = torch.linalg.matrix_rank(diagonal_weights(model).C, rtol=RANK_TOLERANCE).item()
        n_free = process_of(model, process).n_free
        yield rank < n_free, f"C has rank {rank}, and {n_free} eigenvalues are free: too few heads hold anything"
    for name, distance in distances.items():
        yield distance < FAINT, f"training is not finished, or noisy: the estimate is {name} up to {distance:.2g}"
    texts = ", ".join(f"{name} {distance:.2g}" for name, distance in distances.items())
    yield True, f"the estimate is none of the references, relative distances {texts}: see identify_algorithm"


def best_products(process: Process, max_length: int, attention: str) -> np.ndarray:
    """(a1, a2, a3, a4) times (b1, b2) of the best block scalars for contexts T = 2..max_length, [4 2].

    Raises:
        ValueError: attention that is not linear.
    """
    config = ModelConfig.augmented(dim=process.dim, n_ctx=max_length, heads="block-scalar", attention=attention)
    best = setting_of(config, process).best_products
    if best is None:
        raise ValueError(f"no best products are known of {attention} attention: see identify_algorithm.")
    return best


def product_checks(found: AugmentedBlocks, best: np.ndarray, tolerance: float) -> list[Check]:
    """Step size and other products beside the best; the loss is the same with a1, a4 and b2 negated."""
    shares, wanted = _shares(found, best)
    return [
        Check("a2 b1 over the best step size", found.step_size / float(best[STEP_PRODUCT]), 1, tolerance),
        Check("distance of the other products over a2 b1", float(np.abs(shares - wanted).max()), 0, tolerance),
    ]


def _shares(found: AugmentedBlocks, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Products over a2 b1, found and best, of the two best with the same loss the nearer."""
    shares, wanted = found.products.numpy() / (found.step_size or np.nan), best / best[STEP_PRODUCT]
    mirrored = wanted * np.outer([-1, 1, 1, -1], [1, -1])
    return shares, min(wanted, mirrored, key=lambda each: float(np.abs(shares - each).max()))


def step_signs(
    found: AugmentedBlocks, process: Process, max_length: int, attention: str, tolerance: float
) -> Iterator[Sign]:
    """Why a layer does not take the best gradient step."""
    best = best_products(process, max_length, attention)
    ratio, others = (as_estimate(check.measured).value for check in product_checks(found, best, tolerance))
    yield abs(ratio) < FAINT, f"the layer looks untrained: its step size is {ratio:.2g} of the best"
    defects = {"QK": found.defect("a1", "a2", "a3", "a4"), "OV": found.defect("b1", "b2")}
    circuit = max(defects, key=lambda name: defects[name])
    yield (
        defects[circuit] > tolerance,
        f"blocks of {circuit} are no multiples of the identity ({defects[circuit]:.2g} of the largest is left): "
        "nothing forces full matrices to be, unless first tokens have random signs (first_token='signs')",
    )
    yield abs(ratio + 1) <= tolerance, "the sign of the step is turned: one of query, key, value and output is negated"
    if others <= tolerance and attention == "linear":
        lengths = np.arange(2, 4 * max_length)
        sizes = np.array([_pure_step_size(process, int(T)) for T in lengths])
        sizes *= best[STEP_PRODUCT] / sizes[max_length - 2]  # second paths change them by about the same factor
        nearest = int(np.abs(np.log(sizes / abs(found.step_size))).argmin())
        yield (
            abs(found.step_size / sizes[nearest] - 1) <= tolerance,
            f"it was trained on other contexts: a2 b1 = {found.step_size:.4g} is best for T = 2..{lengths[nearest]}, "
            f"not {max_length} ({best[STEP_PRODUCT]:.4g}); if so pass max_length={lengths[nearest]}",
        )
        for factor, norms in ((process.dim, "1 instead of dim"), (1 / process.dim, "dim instead of 1")):
            yield (
                abs(ratio / factor - 1) <= tolerance,
                f"first tokens had |s_1|^2 = {norms}: the step is {ratio:.3g} times",
            )
    pairs = [CommutingOrthogonal(process.dim)] if process.dim % 2 == 0 else []
    for other in (CommutingUnitary(process.dim), *pairs, HaarOrthogonal(process.dim)):
        checks = product_checks(found, best_products(other, max_length, attention), tolerance)
        yield all(check.passes for check in checks), f"it was trained on {other}: its products are the best there"
    shares, wanted = _shares(found, best)
    path, value = np.unravel_index(np.abs(shares - wanted).argmax(), shares.shape)
    yield (
        True,
        ("training is not finished, or noisy" if max(others, abs(ratio - 1)) < FAINT else "a second path")
        + f": {QUERIES[path]} asks for {KEYS[path]} and is answered {VALUES[value]}, with {shares[path, value]:.3f} of "
        f"a2 b1; theory has {round(float(wanted[path, value]), 3) + 0.0:g}",
    )


def _pure_step_size(process: Process, max_length: int) -> float:
    """Up to the norm of the first token."""
    best = optimal_step_size if process.has_eigenbasis else haar_step_size
    return best(dim=process.dim, max_length=max_length)


def swap_signs(found: SwappedContext, tolerance: float, swap_layer: Callable[[int], SwappedContext]) -> Iterator[Sign]:
    """Why the prediction does not follow the estimate that was moved, and nothing else.

    Args:
        swap_layer: the same swap in one layer alone.
    """
    rows = found.by_position.set_index("condition").to_dict("index")
    score, kept, normalised = (rows[SWAP][column] for column in ("score", "kept", "normalised"))
    yield (
        abs(score) <= tolerance and kept >= 1 - tolerance,
        f"the prediction ignores the {found.what}: it stays what it was (score {score:.2f}, kept {kept:.2f})",
    )
    yield (
        not isfinite(normalised),
        "the model knows nothing of W: with nothing left of the target's W its prediction is not W_source s_T either "
        f"(ceiling {found.ceiling:.2g})",
    )
    apart = ((found.goal - found.own).abs().square().sum() / found.goal.abs().square().sum()).item()
    yield apart < FAINT, f"the sequences are too alike to tell: their predictions differ by {apart:.2g} of |W s_T|^2"
    yield (
        normalised < MOST,
        f"the {found.what} holds little of what the model knows of W: score {score:.2f} of {found.ceiling:.2f}",
    )
    by_layer = ""
    if len(found.layers) > 1:
        scores = [f"blocks.{layer} {swap_layer(layer).score:.2f}" for layer in found.layers]
        by_layer = f"; scores of single layers: {', '.join(scores)}"
    yield kept > tolerance, f"W is used elsewhere too: {kept:.2f} of the target's own prediction is left{by_layer}"
    yield (
        normalised < 1 - tolerance,
        f"the rest comes with the target's own {'values' if 'pattern' in found.what else 'query'}: the score is "
        f"{score:.2f} of {found.ceiling:.2f}{by_layer}",
    )
    yield (
        found.excess > tolerance,
        f"more is moved than the estimate, or disturbed: a relative squared error of {found.error:.2f}, "
        f"{found.excess:.2f} beyond the ceiling's{by_layer}",
    )
    shares = {name: abs(rows[name]["normalised"]) for name in found.controls}
    strongest = max(shares, key=lambda name: shares[name])
    yield True, f"what steers is not W alone: {strongest} scores {shares[strongest]:.2f} of the ceiling{by_layer}"
