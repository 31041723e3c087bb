"""Diagonal heads on commuting W: the minimum, the heads and positions that it asks for, and what is used of them."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ar_interp.claims import Claim, Estimate, Subject
from ar_interp.claims.estimate import CONTEXTS
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary, Process
from ar_interp.setting import DiagonalHeads
from ar_interp.studies.base import Recipe, Structure, Study
from ar_interp.training.config import TrainConfig

if TYPE_CHECKING:
    from ar_interp.studies.heads_measured import HeadsMeasured

UNITARY = "Sander et al. 2024, non-augmented tokens, unitary case"
ORTHOGONAL = "Sander et al. 2024, non-augmented tokens, orthogonal case"
RANK_BOUND = f"{ORTHOGONAL}; value for few heads by bounding each pair with the projector on the rows of C"
ZERO_SET = f"{ORTHOGONAL}; complete zero-loss set from the sum-of-squares form"
POWER = "at a minimum a part costs the power of what it writes; by the exact population losses"
READING = "regression probe; untrained scores already hold H linear forms of lambda"
SIGN_TURNED = "p_{T-1} with its sign turned"


def _claims(subject: Subject) -> Iterator[Claim]:
    from ar_interp.studies.heads_measured import HeadsMeasured
    from ar_interp.studies.interventions import estimate_claim, keys_claim
    from ar_interp.studies.swap_claims import swap_claims

    measured = HeadsMeasured(subject)
    yield from _loss_claims(measured)
    yield from _pair_claims(measured) if measured.setting.pairs else _unitary_claims(measured)
    yield from _removal_claims(measured)
    yield keys_claim(measured)
    yield from _reading_claims(measured)
    setting = measured.setting
    rest = f"all but {setting.minimum:g} of {setting.config.dim} coordinates of W" if setting.minimum else "W"
    yield estimate_claim(
        measured,
        f"The heads carry {rest}",
        source=ZERO_SET if setting.pairs else UNITARY,
        reference=None if setting.pairs or not setting.minimum else measured.covered_part,
        predicted=setting.minimum / setting.config.dim,
    )
    yield from swap_claims(measured)


def _loss_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    setting = m.setting
    formula = "max(d - 2H, 0)" if setting.pairs else "d - min(H, d)"
    claim = partial(m.claim, source=RANK_BOUND if setting.pairs else UNITARY, predicted=setting.minimum)
    yield claim(
        "loss/minimum",
        f"The loss is at its minimum over {setting.config.n_heads} heads, {formula}",
        lambda m: m.expected_loss,
        evidence="weights",
        tolerance="minimum",
    )
    yield claim(
        "loss/fresh",
        f"The error of the hooked model on fresh sequences is at the minimum of the loss, {formula}",
        lambda m: m.loss(),
        evidence="behaviour",
        tolerance="sampled loss",
    )


def _unitary_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    yield _projector_claim(m, UNITARY)
    yield from _position_claims(m, UNITARY)
    yield m.claim(
        "positions/newest",
        "Only the newest key counts: p_{T-1} / p_T vanishes at every T, the value farthest from 0",
        lambda m: m.farthest_ratio(0),
        evidence="weights",
        source=UNITARY,
        tolerance="ratio zero",
    )
    yield from _orthogonality_claims(m, UNITARY)
    if m.setting.rank == m.setting.config.dim:
        yield _identity_claim(m, "The prediction is lambda^T, through s_T conj(s_{T-1}) = lambda", UNITARY)


def _pair_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    claim, expected = partial(m.claim, evidence="weights", source=ZERO_SET), m.positions.ratio_from_kappa
    yield claim(
        "heads/pairs",
        "C is block-diagonal over the conjugate pairs: share of |C|^2 outside the blocks",
        lambda m: m.positions.block_mass,
        tolerance="block mass",
    )
    yield claim(
        "heads/same kappa",
        "Every block of C is c [[1, k], [k, 1]] with the same k: largest |k_block - kappa|",
        lambda m: m.positions.kappa_spread,
        tolerance="kappa",
    )
    yield from _position_claims(m, ZERO_SET)
    if m.setting.kappa_is_one:
        yield from _kappa_one_claims(m)
    yield claim(
        "positions/kappa",
        "The encoding follows kappa at every T: p_{T-1} / p_T = -kappa / (1 + kappa), kappa read from C; the value "
        "farthest from it",
        lambda m: m.farthest_ratio(expected),
        tolerance="kappa relation",
        predicted=expected,
        control=(SIGN_TURNED, m.turned),
    )
    yield claim(
        "heads/eigenvalues",
        "Eigenvalues of M = A B^T are c(1 + kappa), c(1 - kappa), dim / 2 of each: largest deviation over c",
        lambda m: m.eigenvalue_deviation,
        tolerance="kappa",
    )
    if m.setting.rank == m.setting.process.n_free:
        kappa_one = "s_{T+1} = 2 cos(theta) s_T - s_{T-1}"
        identity = kappa_one if m.setting.kappa_is_one else "whose p_{T-1} term is that of its kappa"
        yield _identity_claim(m, f"The model predicts by the trigonometric identity {identity}", ORTHOGONAL)


def _kappa_one_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    """Claims about what fewer heads than coordinates leave of the zero-loss set."""
    claim = partial(m.claim, evidence="weights", source=ZERO_SET)
    yield claim(
        "heads/kappa one",
        "Fewer heads than coordinates leave only kappa = 1 in every block of C: the value farthest from 1",
        lambda m: m.farthest_kappa(1),
        tolerance="kappa",
        predicted=1,
    )
    yield claim(
        "positions/minus half",
        "Fewer heads than coordinates leave only p_{T-1} / p_T = -1/2 at every T: the value farthest from it",
        lambda m: m.farthest_ratio(-0.5),
        tolerance="kappa",
        predicted=-0.5,
    )
    yield claim(
        "heads/rank",
        f"Fewer heads than coordinates leave only C of rank {m.setting.rank}, one dimension for each pair",
        lambda m: m.heads.rank,
        tolerance="rank",
        predicted=m.setting.rank,
    )
    yield _projector_claim(m, ZERO_SET)
    yield from _orthogonality_claims(m, ZERO_SET)


def _projector_claim(m: "HeadsMeasured", source: str) -> Claim:
    return m.claim(
        "heads/projector",
        f"C / m is a projector of rank {m.setting.rank}, m = tr C / rank: |C^2 - mC| / m^2",
        lambda m: m.projector_defect,
        evidence="weights",
        source=source,
        tolerance="projector",
    )


def _position_claims(m: "HeadsMeasured", source: str) -> Iterator[Claim]:
    claim = partial(m.claim, evidence="weights", source=source)
    each = m.setting.pairs or m.setting.rank == m.config.dim
    scale = " and every coordinate that C covers, c = C_jj" if each else ", c = tr C / rank"
    yield claim(
        "positions/scale",
        f"c p_T = 1 for every T{scale}: largest deviation",
        lambda m: m.scale_deviation,
        tolerance="scale product",
    )
    yield claim(
        "positions/older keys",
        "Keys before T-1 carry nothing at any T: their largest share of |p|^2",
        lambda m: m.older_keys,
        tolerance="off mass",
    )


def _orthogonality_claims(m: "HeadsMeasured", source: str) -> Iterator[Claim]:
    """Claims that A B^T is m I where H is the rank of C, and a projector where heads outnumber the coordinates."""
    claim = partial(m.claim, evidence="weights", source=source, tolerance="heads")
    n_heads, dim, rank = m.setting.config.n_heads, m.setting.config.dim, m.setting.rank
    if n_heads > dim:
        statement = f"With more heads than coordinates A B^T / m is a projector of rank {rank}"
        yield claim("heads/frame", statement, lambda m: m.heads.e_p)
    if 1 < n_heads == rank:
        yield claim("heads/orthogonal", "Heads are orthogonal: A B^T = m I, E_M", lambda m: m.heads.e_m)
        yield claim(
            "heads/cosine",
            "Heads are orthogonal in every gauge, <a_h, b_h'> = 0 for h != h': rms cosine",
            lambda m: m.heads.cosine_ab,
            control=("keys permuted between heads", m.permuted),
        )


def _identity_claim(m: "HeadsMeasured", statement: str, source: str) -> Claim:
    return m.claim(
        "positions/identity",
        f"{statement}: |prediction - lambda^T| at any angles and T, at most the sum of the coefficients that the "
        "weights give its trigonometric polynomial, or the largest that predictions on a grid of angles show if that "
        "is more",
        lambda m: m.largest_error,
        evidence="behaviour",
        source=source,
        tolerance="identity",
        control=("P shifted by one key", m.shifted),
    )


def _removal_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    claim = partial(m.claim, evidence="causal", source=POWER, tolerance="removal")
    yield claim(
        "heads/ablation",
        "Removing a head costs what it writes, (|a_h| |b_h| / c)^2 for kappa = 0: largest relative deviation, of the "
        "exact cost of the weights and of the hooked model's from it",
        lambda m: m.head_removal,
    )
    if m.setting.pairs:
        covered = 2 * m.setting.rank
        yield claim(
            "positions/cut",
            f"Cutting the key s_{{T-1}} costs kappa^2 for each of the {covered} coordinates that heads cover",
            lambda m: m.key_removal(1),
            predicted=m.positions.kappa**2 * covered,
            control=(SIGN_TURNED, m.turned),
        )


def _reading_claims(m: "HeadsMeasured") -> Iterator[Claim]:
    """Claims that cos and sin of the phases are, or are not, linear in the attention scores.

    Random heads hold as many linear forms of the eigenvalues, so readability by itself is void wherever an untrained
    model has it too. For conjugate pairs and dim / 2 heads the minimum *removes* sin(theta), since the rows of A span
    those of C: that is a finding. With more heads, below dim, it depends on the gauge and nothing is claimed.
    """
    setting, n_heads = m.setting, m.setting.config.n_heads
    if setting.rank < setting.process.n_free:
        return
    sine = None
    if not setting.kappa_is_one:
        sine = 1
    elif n_heads == setting.process.n_free:
        sine = 0
    for what, predicted in (("cos", 1), ("sin", sine)):
        if predicted is not None:
            read = m.phases_read.loc[what]
            yield m.claim(
                f"estimate/{what}",
                f"{what}(theta) can{'' if predicted else 'not'} be read from the attention scores: R^2",
                lambda m, read=read: Estimate(read["score"], {CONTEXTS: 1.96 * read["score_se"]}, int(read["n_test"])),
                evidence="activations",
                source=READING,
                tolerance="readable",
                predicted=predicted,
                control=("the same probe on an untrained model", read["untrained"]),
            )


def _recipe(process: Process, n_heads: int, summary: str, **training: Any) -> Recipe:
    config = ModelConfig.diagonal(dim=10, n_heads=n_heads, n_ctx=20)
    return Recipe(summary=summary, config=config, process=process, training=TrainConfig(**training))


def _unitary(n_heads: int) -> Recipe:
    kind = "fewer heads than coordinates: C becomes a projector of rank 5" if n_heads < 10 else "C becomes c I"
    summary = f"Diagonal heads on commuting unitary W, {n_heads} heads for d = 10 ({kind}), by gradient descent."
    return _recipe(CommutingUnitary(10), n_heads, summary, optimizer="gd", lr=1e-2, steps=8000)


_orthogonal = partial(_recipe, CommutingOrthogonal(10))


STRUCTURES = {
    "heads": Structure(
        title="The heads",
        meaning="Attention heads decide what is asked for and what is passed on. A diagonal head h multiplies keys by "
        "a_h and values by b_h, and the prediction depends on all heads only through C = B^T A. Where theory speaks, "
        "it says which C is best, and that it makes the heads orthogonal to each other.",
        formulas=(
            "Gauge: A → G A, B → G^{-T} B changes neither C = B^T A nor the eigenvalues of M = A B^T.",
            "Independent eigenvalues: at the minimum C = c Π, Π an orthogonal projector of rank min(H, d), c = 1/p_T; "
            "for H ≤ d that is M = c I in every gauge, so that ⟨a_h, b_h'⟩ = 0 for h != h'.",
            "Conjugate pairs: C = c blockdiag [[1, kappa], [kappa, 1]] with one kappa for all pairs; fewer heads than "
            "coordinates leave only kappa = 1.",
            "Haar W and a first token of rotation-invariant law: one head with A = B = I is as good as any number.",
        ),
    ),
    "positions": Structure(
        title="The positional encoding",
        meaning="At context length T the attention score of the key at t is multiplied by a learned weight p_t. Where "
        "theory speaks, it says which keys count: without noise the newest alone, or where eigenvalues come in "
        "conjugate pairs the two newest, which complete the identity s_{T+1} = 2 cos(theta) s_T - s_{T-1}.",
        formulas=(
            "Independent eigenvalues: p_T = 1/c and p_t = 0 for every other key.",
            "Conjugate pairs: p_T = 1/c, p_{T-1}/p_T = -kappa/(1 + kappa), p_t = 0 for t ≤ T-2; for kappa = 1 that is "
            "(…, 0, -1/2, 1)/c.",
        ),
    ),
}

STUDY = Study(
    name="diagonal heads",
    source="Sander et al. 2024, non-augmented tokens",
    question="Which heads and positions does training find where W has fixed eigenvectors, and what do they compute?",
    covers=lambda setting: isinstance(setting, DiagonalHeads),
    recipes={
        "diagonal-unitary-h5": _unitary(5),
        "diagonal-unitary-h10": _unitary(10),
        "diagonal-unitary-h20": _unitary(20),
        "diagonal-orthogonal-h5": _orthogonal(
            5,
            "Conjugate pairs with half as many heads as coordinates: each head takes one pair (kappa = 1). Most seeds "
            "of gradient descent are trapped, so the best of 1024 is kept and the share that escapes is a result.",
            optimizer="gd",
            lr=3e-4,
            steps=15000,
            n_seeds=1024,
        ),
        "diagonal-orthogonal-h8": _orthogonal(
            8,
            "Conjugate pairs with 8 heads for d = 10: rank 8 leaves only kappa = 1, of rank 5. A valley at infinity "
            "draws some seeds and the minimum is degenerate, so L-BFGS and the best of 32 seeds.",
            optimizer="lbfgs",
            steps=1000,
            n_seeds=32,
        ),
        "diagonal-orthogonal-h10": _orthogonal(
            10,
            "Conjugate pairs with as many heads as coordinates: any kappa but -1 is optimal; gradient descent picks "
            "one.",
            optimizer="gd",
            lr=3e-4,
            steps=20000,
        ),
        "diagonal-unitary-h10-sampled": _recipe(
            CommutingUnitary(10),
            10,
            "As diagonal-unitary-h10, but from fresh sampled batches instead of the exact population loss.",
            objective="sampled",
            optimizer="gd",
            lr=5e-3,
            steps=1500,
            batch=128,
        ),
    },
    claims=_claims,
    structures=STRUCTURES,
)
