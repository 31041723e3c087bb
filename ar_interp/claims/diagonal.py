"""Claims about the weights and predictions of diagonal heads on commuting processes."""

from typing import Any

import torch

from ar_interp.claims.controls import flipped_previous, permuted_heads, shifted_positions, untrained
from ar_interp.claims.core import Claim, claim
from ar_interp.probes.heads import HeadOrthogonality, head_orthogonality
from ar_interp.probes.positional import PositionalStructure, positional_structure
from ar_interp.probes.weights import diagonal_weights
from ar_interp.processes import Process
from ar_interp.theory import kappa_to_ratio, orthogonal_minimum, population_loss, unitary_minimum

UNITARY = "Sander et al. 2024, non-augmented tokens, unitary case"
ORTHOGONAL = "Sander et al. 2024, non-augmented tokens, orthogonal case"
RANK_BOUND = f"{ORTHOGONAL}; value for few heads by bounding each pair with the projector on the rows of C"
ZERO_SET = f"{ORTHOGONAL}; complete zero-loss set from the sum-of-squares form"
N_SEQUENCES = 2048
SAMPLE_SEED = 0


def diagonal_claims(model: Any, process: Process) -> list[Claim]:
    """Minimum, structure of C and P, head orthogonality and the identity that the prediction rests on."""
    measured = _Measured(model, process)
    control = _Measured(untrained(model, process), process)
    structure = _orthogonal_claims if process.conjugate_pairs else _unitary_claims
    return [*_loss_claims(measured, control), *structure(measured, control)]


class _Measured:
    """A model with all that the probes say of it."""

    def __init__(self, model: Any, process: Process) -> None:
        self.model, self.process = model, process
        self.weights = diagonal_weights(model)
        self.n_heads, self.dim = self.weights.A.shape
        self.n_ctx = len(self.weights.P)
        self.heads: HeadOrthogonality = head_orthogonality(model)
        self.positions: PositionalStructure = positional_structure(model, process=process)

    @property
    def loss(self) -> float:
        """Population loss per context length."""
        family = "orthogonal" if self.process.conjugate_pairs else "unitary"
        return population_loss(self.weights.C, self.weights.P, family=family).item() / (self.n_ctx - 1)

    @torch.no_grad()
    def sampled_loss(self) -> tuple[float, float]:
        """Mean over fresh sequences of the squared error per context length, and its standard error."""
        sequences = self.process.sample(N_SEQUENCES, self.n_ctx + 1, seed=SAMPLE_SEED, device=self.model.P.device)
        error = (self.model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:]
        losses = error.abs().square().sum(-1).mean(-1)
        return losses.mean().item(), (losses.std() / N_SEQUENCES**0.5).item()

    def sabotaged(self, sabotage: Any) -> "_Measured":
        return _Measured(sabotage(self.model, self.process), self.process)


def _loss_claims(measured: _Measured, control: _Measured) -> list[Claim]:
    dim, n_heads = measured.dim, measured.n_heads
    pairs = measured.process.conjugate_pairs
    minimum = (orthogonal_minimum if pairs else unitary_minimum)(dim=dim, n_heads=n_heads)
    formula = "max(d - 2H, 0)" if pairs else "d - min(H, d)"
    source = RANK_BOUND if pairs else UNITARY
    sampled, error = measured.sampled_loss()
    return [
        claim(
            f"The loss is at its minimum over {n_heads} heads, {formula}",
            source=source,
            tolerance="minimum",
            predicted=minimum,
            measured=measured.loss,
            control=("untrained", control.loss),
        ),
        claim(
            "So is the error of the hooked model on fresh sequences",
            source=source,
            tolerance="sampled loss",
            predicted=minimum,
            measured=sampled,
            uncertainty=1.96 * error,
            n=N_SEQUENCES,
            control=("untrained", control.sampled_loss()[0]),
        ),
    ]


def _unitary_claims(measured: _Measured, control: _Measured) -> list[Claim]:
    positions = measured.positions
    rank = min(measured.n_heads, measured.dim)
    claims = [
        _projector_claim(UNITARY, measured, control, rank),
        *_weights_claims(UNITARY, measured, control),
        claim(
            "Only the newest key counts: p_{T-1} / p_T vanishes",
            source=UNITARY,
            tolerance="ratio zero",
            predicted=0,
            measured=positions.ratio,
            control=("untrained", control.positions.ratio),
        ),
        *_head_claims(UNITARY, measured, control, rank),
    ]
    if rank == measured.dim:
        claims.append(_identity_claim("prediction = lambda^T, through s_T conj(s_{T-1}) = lambda", UNITARY, measured))
    return claims


def _orthogonal_claims(measured: _Measured, control: _Measured) -> list[Claim]:
    heads, positions = measured.heads, measured.positions
    dim, n_heads = measured.dim, measured.n_heads
    kappa = positions.kappa
    claims = [
        claim(
            "C is block-diagonal over the conjugate pairs",
            source=ZERO_SET,
            tolerance="block mass",
            predicted=0,
            measured=positions.block_mass,
            control=("untrained", control.positions.block_mass),
        ),
        claim(
            "Every block is c [[1, k], [k, 1]] with the same k: largest |k_block - kappa|",
            source=ZERO_SET,
            tolerance="kappa",
            predicted=0,
            measured=positions.kappa_spread,
            control=("untrained", control.positions.kappa_spread),
        ),
        *_weights_claims(ZERO_SET, measured, control),
    ]
    if n_heads < dim:
        covered = min(2 * n_heads, dim) // 2
        claims += [
            claim(
                "Fewer heads than coordinates leave only kappa = 1 (read from C)",
                source=ZERO_SET,
                tolerance="kappa",
                predicted=1,
                measured=kappa,
                control=("untrained", control.positions.kappa),
            ),
            claim(
                "and p_{T-1} / p_T = -1/2",
                source=ZERO_SET,
                tolerance="kappa",
                predicted=-0.5,
                measured=positions.ratio,
                control=("untrained", control.positions.ratio),
            ),
            claim(
                f"and C of rank {covered}, one dimension for each pair",
                source=ZERO_SET,
                tolerance="rank",
                predicted=covered,
                measured=heads.rank,
                control=("untrained", control.heads.rank),
            ),
            _projector_claim(ZERO_SET, measured, control, covered),
            *_head_claims(ZERO_SET, measured, control, covered),
        ]
    flipped = measured.sabotaged(flipped_previous).positions
    claims += [
        claim(
            "The encoding knows kappa: p_{T-1} / p_T = -kappa / (1 + kappa), kappa read from C",
            source=ZERO_SET,
            tolerance="kappa relation",
            predicted=kappa_to_ratio(kappa) if kappa != -1 else float("inf"),
            measured=positions.ratio,
            control=("p_{T-1} with its sign turned", flipped.ratio),
        ),
        claim(
            "Eigenvalues of M = A B^T are c(1 + kappa), c(1 - kappa), dim / 2 of each: largest deviation over c",
            source=ZERO_SET,
            tolerance="kappa",
            predicted=0,
            measured=_eigenvalue_deviation(measured),
            control=("untrained", _eigenvalue_deviation(control)),
        ),
    ]
    if 2 * n_heads >= dim:
        statement = "trigonometric identity with its p_{T-1} term for this kappa"
        if n_heads < dim:
            statement = "trigonometric identity s_{T+1} = 2 cos(theta) s_T - s_{T-1}"
        claims.append(_identity_claim(statement, ORTHOGONAL, measured))
    return claims


def _projector_claim(source: str, measured: _Measured, control: _Measured, rank: int) -> Claim:
    return claim(
        f"C / m is a projector of rank {rank}, m = tr C / rank: |C^2 - mC| / m^2",
        source=source,
        tolerance="projector",
        predicted=0,
        measured=measured.heads.e_c,
        control=("untrained", control.heads.e_c),
    )


def _weights_claims(source: str, measured: _Measured, control: _Measured) -> list[Claim]:
    return [
        claim(
            "c p_T = 1 for every T: largest deviation",
            source=source,
            tolerance="scale product",
            predicted=0,
            measured=measured.positions.scale_error,
            control=("untrained", control.positions.scale_error),
            n=measured.n_ctx - 1,
        ),
        claim(
            "Keys before T-1 carry nothing: their share of |P|^2",
            source=source,
            tolerance="off mass",
            predicted=0,
            measured=measured.positions.off_mass,
            control=("untrained", control.positions.off_mass),
        ),
    ]


def _head_claims(source: str, measured: _Measured, control: _Measured, rank: int) -> list[Claim]:
    """A B^T = m I where the rank of C is the number of heads; a projector where the heads outnumber the coordinates."""
    heads, n_heads = measured.heads, measured.n_heads
    if n_heads > measured.dim:
        return [
            claim(
                f"More heads than coordinates: A B^T / m is a projector of rank {rank}",
                source=source,
                tolerance="heads",
                predicted=0,
                measured=heads.e_p,
                control=("untrained", control.heads.e_p),
            )
        ]
    if n_heads > rank or n_heads == 1:
        return []
    return [
        claim(
            "Heads are orthogonal: A B^T = m I, E_M",
            source=source,
            tolerance="heads",
            predicted=0,
            measured=heads.e_m,
            control=("untrained", control.heads.e_m),
        ),
        claim(
            "that is, <a_h, b_h'> = 0 for h != h' in every gauge: rms cosine",
            source=source,
            tolerance="heads",
            predicted=0,
            measured=heads.cosine_ab,
            control=("keys permuted between heads", measured.sabotaged(permuted_heads).heads.cosine_ab),
        ),
    ]


def _eigenvalue_deviation(measured: _Measured) -> float:
    """Largest |eigenvalue of C / c - (1 +- kappa or 0)|, matched in order: C and M share their non-zero eigenvalues."""
    kappa, scale = measured.positions.kappa, measured.positions.scale
    covered = min(measured.dim // 2, measured.n_heads)
    expected = [1 + kappa] * covered + [1 - kappa] * covered + [0.0] * (measured.dim - 2 * covered)
    found = torch.linalg.eigvals(measured.weights.C / scale)
    real = found.real.sort().values - torch.tensor(expected, dtype=torch.float64).sort().values
    return max(real.abs().max().item(), found.imag.abs().max().item())


def _identity_claim(statement: str, source: str, measured: _Measured) -> Claim:
    residual = measured.positions
    return claim(
        f"The {statement}: sup over angles and T of |prediction - lambda^T|",
        source=source,
        tolerance="identity",
        predicted=0,
        measured=residual.residual,
        n=len(residual.angles),
        control=("P shifted by one key", measured.sabotaged(shifted_positions).positions.residual),
    )
