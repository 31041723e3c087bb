"""Claims about the weights and predictions of diagonal heads on commuting processes."""

from ar_interp.claims.controls import flipped_previous, permuted_heads, shifted_positions
from ar_interp.claims.core import Claim
from ar_interp.claims.diagonal_subject import N_SEQUENCES, Measured, Subject
from ar_interp.theory import orthogonal_minimum, unitary_minimum

UNITARY = "Sander et al. 2024, non-augmented tokens, unitary case"
ORTHOGONAL = "Sander et al. 2024, non-augmented tokens, orthogonal case"
RANK_BOUND = f"{ORTHOGONAL}; value for few heads by bounding each pair with the projector on the rows of C"
ZERO_SET = f"{ORTHOGONAL}; complete zero-loss set from the sum-of-squares form"


def diagonal_claims(subject: Subject) -> list[Claim]:
    """Minimum, structure of C and P, head orthogonality and the identity that the prediction rests on."""
    structure = _orthogonal_claims if subject.process.conjugate_pairs else _unitary_claims
    return [*_loss_claims(subject), *structure(subject)]


def _loss_claims(subject: Subject) -> list[Claim]:
    pairs = subject.process.conjugate_pairs
    minimum = (orthogonal_minimum if pairs else unitary_minimum)(dim=subject.dim, n_heads=subject.n_heads)
    formula = "max(d - 2H, 0)" if pairs else "d - min(H, d)"
    source = RANK_BOUND if pairs else UNITARY
    return [
        subject.claim(
            "loss/minimum",
            f"The loss is at its minimum over {subject.n_heads} heads, {formula}",
            lambda m: m.loss,
            source=source,
            tolerance="minimum",
            predicted=minimum,
        ),
        subject.claim(
            "loss/fresh",
            "So is the error of the hooked model on fresh sequences",
            lambda m: m.sampled_loss[0],
            source=source,
            tolerance="sampled loss",
            predicted=minimum,
            uncertainty=1.96 * subject.sampled_loss[1],
            n=N_SEQUENCES,
        ),
    ]


def _unitary_claims(subject: Subject) -> list[Claim]:
    rank = min(subject.n_heads, subject.dim)
    claims = [
        _projector_claim(UNITARY, subject, rank),
        *_weights_claims(UNITARY, subject),
        subject.claim(
            "positions/newest",
            "Only the newest key counts: p_{T-1} / p_T vanishes",
            lambda m: m.positions.ratio,
            source=UNITARY,
            tolerance="ratio zero",
        ),
        *_head_claims(UNITARY, subject, rank),
    ]
    if rank == subject.dim:
        claims.append(_identity_claim("prediction = lambda^T, through s_T conj(s_{T-1}) = lambda", UNITARY, subject))
    return claims


def _orthogonal_claims(subject: Subject) -> list[Claim]:
    dim, n_heads = subject.dim, subject.n_heads
    claims = [
        subject.claim(
            "heads/pairs",
            "C is block-diagonal over the conjugate pairs",
            lambda m: m.positions.block_mass,
            source=ZERO_SET,
            tolerance="block mass",
        ),
        subject.claim(
            "heads/same kappa",
            "Every block is c [[1, k], [k, 1]] with the same k: largest |k_block - kappa|",
            lambda m: m.positions.kappa_spread,
            source=ZERO_SET,
            tolerance="kappa",
        ),
        *_weights_claims(ZERO_SET, subject),
    ]
    if n_heads < dim:
        claims += _kappa_one_claims(subject)
    claims += [
        subject.claim(
            "positions/kappa",
            "The encoding knows kappa: p_{T-1} / p_T = -kappa / (1 + kappa), kappa read from C",
            lambda m: m.positions.ratio,
            source=ZERO_SET,
            tolerance="kappa relation",
            predicted=subject.positions.ratio_from_kappa,
            control=("p_{T-1} with its sign turned", subject.sabotaged(flipped_previous)),
        ),
        subject.claim(
            "heads/eigenvalues",
            "Eigenvalues of M = A B^T are c(1 + kappa), c(1 - kappa), dim / 2 of each: largest deviation over c",
            lambda m: m.eigenvalue_deviation,
            source=ZERO_SET,
            tolerance="kappa",
        ),
    ]
    if 2 * n_heads >= dim:
        statement = "trigonometric identity with its p_{T-1} term for this kappa"
        if n_heads < dim:
            statement = "trigonometric identity s_{T+1} = 2 cos(theta) s_T - s_{T-1}"
        claims.append(_identity_claim(statement, ORTHOGONAL, subject))
    return claims


def _kappa_one_claims(subject: Subject) -> list[Claim]:
    """What fewer heads than coordinates leave of the zero-loss set."""
    covered = min(2 * subject.n_heads, subject.dim) // 2
    return [
        subject.claim(
            "heads/kappa one",
            "Fewer heads than coordinates leave only kappa = 1 (read from C)",
            lambda m: m.positions.kappa,
            source=ZERO_SET,
            tolerance="kappa",
            predicted=1,
        ),
        subject.claim(
            "positions/minus half",
            "and p_{T-1} / p_T = -1/2",
            lambda m: m.positions.ratio,
            source=ZERO_SET,
            tolerance="kappa",
            predicted=-0.5,
        ),
        subject.claim(
            "heads/rank",
            f"and C of rank {covered}, one dimension for each pair",
            lambda m: m.heads.rank,
            source=ZERO_SET,
            tolerance="rank",
            predicted=covered,
        ),
        _projector_claim(ZERO_SET, subject, covered),
        *_head_claims(ZERO_SET, subject, covered),
    ]


def _projector_claim(source: str, subject: Subject, rank: int) -> Claim:
    def defect(measured: Measured) -> float:
        """Of the rank that theory gives C, not of the one that is found."""
        C = measured.weights.C
        scale = C.trace() / rank
        return ((C @ C - scale * C).norm() / scale**2).item()

    return subject.claim(
        "heads/projector",
        f"C / m is a projector of rank {rank}, m = tr C / rank: |C^2 - mC| / m^2",
        defect,
        source=source,
        tolerance="projector",
    )


def _weights_claims(source: str, subject: Subject) -> list[Claim]:
    return [
        subject.claim(
            "positions/scale",
            "c p_T = 1 for every T: largest deviation",
            lambda m: m.positions.scale_error,
            source=source,
            tolerance="scale product",
            n=len(subject.weights.P) - 1,
        ),
        subject.claim(
            "positions/older keys",
            "Keys before T-1 carry nothing: their share of |P|^2",
            lambda m: m.positions.off_mass,
            source=source,
            tolerance="off mass",
        ),
    ]


def _head_claims(source: str, subject: Subject, rank: int) -> list[Claim]:
    """A B^T = m I where the rank of C is the number of heads; a projector where the heads outnumber the coordinates."""
    if subject.n_heads > subject.dim:
        return [
            subject.claim(
                "heads/frame",
                f"More heads than coordinates: A B^T / m is a projector of rank {rank}",
                lambda m: m.heads.e_p,
                source=source,
                tolerance="heads",
            )
        ]
    if subject.n_heads > rank or subject.n_heads == 1:
        return []
    return [
        subject.claim(
            "heads/orthogonal",
            "Heads are orthogonal: A B^T = m I, E_M",
            lambda m: m.heads.e_m,
            source=source,
            tolerance="heads",
        ),
        subject.claim(
            "heads/cosine",
            "that is, <a_h, b_h'> = 0 for h != h' in every gauge: rms cosine",
            lambda m: m.heads.cosine_ab,
            source=source,
            tolerance="heads",
            control=("keys permuted between heads", subject.sabotaged(permuted_heads)),
        ),
    ]


def _identity_claim(statement: str, source: str, subject: Subject) -> Claim:
    return subject.claim(
        "positions/identity",
        f"The {statement}: sup over angles and T of |prediction - lambda^T|",
        lambda m: m.positions.residual,
        source=source,
        tolerance="identity",
        n=len(subject.positions.angles),
        control=("P shifted by one key", subject.sabotaged(shifted_positions)),
    )
