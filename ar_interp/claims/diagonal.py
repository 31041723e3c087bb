"""Claims about the weights and predictions of diagonal heads on commuting processes."""

from collections.abc import Callable
from functools import cached_property
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
    subject = _Subject(model, process)
    structure = _orthogonal_claims if process.conjugate_pairs else _unitary_claims
    return [*_loss_claims(subject), *structure(subject)]


class _Measured:
    """A model with all that the probes say of it."""

    def __init__(self, model: Any, process: Process) -> None:
        self.model, self.process = model, process
        self.weights = diagonal_weights(model)

    @cached_property
    def heads(self) -> HeadOrthogonality:
        return head_orthogonality(self.model)

    @cached_property
    def positions(self) -> PositionalStructure:
        return positional_structure(self.model, process=self.process)

    @property
    def loss(self) -> float:
        """Population loss per context length."""
        P = self.weights.P
        family = "orthogonal" if self.process.conjugate_pairs else "unitary"
        return population_loss(self.weights.C, P, family=family).item() / (len(P) - 1)

    @cached_property
    @torch.no_grad()
    def sampled_loss(self) -> tuple[float, float]:
        """Mean over fresh sequences of the squared error per context length, and its standard error."""
        P = self.model.P
        sequences = self.process.sample(N_SEQUENCES, len(P) + 1, seed=SAMPLE_SEED, device=P.device)
        error = (self.model(sequences.tokens[:, :-1]) - sequences.tokens[:, 1:])[:, 1:]
        losses = error.abs().square().sum(-1).mean(-1)
        return losses.mean().item(), (losses.std() / N_SEQUENCES**0.5).item()

    @property
    def eigenvalue_deviation(self) -> float:
        """Largest deviation of the eigenvalues of C / c (and of M / c, but for zeros) from 1 +- kappa and 0."""
        dim, covered = self.process.dim, min(self.process.dim // 2, len(self.weights.A))
        kappa, scale = self.positions.kappa, self.positions.scale
        expected = [1 + kappa] * covered + [1 - kappa] * covered + [0.0] * (dim - 2 * covered)
        scaled = self.weights.C / scale
        if not scaled.isfinite().all():
            return float("nan")
        found = torch.linalg.eigvals(scaled)
        real = found.real.sort().values - torch.tensor(expected, dtype=torch.float64).sort().values
        return max(real.abs().max().item(), found.imag.abs().max().item())


class _Subject(_Measured):
    """The model that claims are made of, beside the untrained one that is the control of most."""

    def __init__(self, model: Any, process: Process) -> None:
        super().__init__(model, process)
        self.n_heads, self.dim = self.weights.A.shape
        self.untrained = _Measured(untrained(model, process), process)

    def claim(
        self,
        statement: str,
        read: Callable[[_Measured], float],
        *,
        source: str,
        tolerance: str,
        predicted: float = 0.0,
        n: int = 1,
        uncertainty: float = 0.0,
        control: tuple[str, Callable[..., Any]] | None = None,
    ) -> Claim:
        """What `read` says of the model, against what it says of the untrained one, or of a sabotaged copy.

        Args:
            control: description and sabotage, (model, process) -> model.
        """
        description, other = "untrained", self.untrained
        if control is not None:
            description, other = control[0], _Measured(control[1](self.model, self.process), self.process)
        return claim(
            statement,
            source=source,
            tolerance=tolerance,
            predicted=predicted,
            measured=read(self),
            uncertainty=uncertainty,
            n=n,
            control=(description, read(other)),
        )


def _loss_claims(subject: _Subject) -> list[Claim]:
    pairs = subject.process.conjugate_pairs
    minimum = (orthogonal_minimum if pairs else unitary_minimum)(dim=subject.dim, n_heads=subject.n_heads)
    formula = "max(d - 2H, 0)" if pairs else "d - min(H, d)"
    source = RANK_BOUND if pairs else UNITARY
    return [
        subject.claim(
            f"The loss is at its minimum over {subject.n_heads} heads, {formula}",
            lambda m: m.loss,
            source=source,
            tolerance="minimum",
            predicted=minimum,
        ),
        subject.claim(
            "So is the error of the hooked model on fresh sequences",
            lambda m: m.sampled_loss[0],
            source=source,
            tolerance="sampled loss",
            predicted=minimum,
            uncertainty=1.96 * subject.sampled_loss[1],
            n=N_SEQUENCES,
        ),
    ]


def _unitary_claims(subject: _Subject) -> list[Claim]:
    rank = min(subject.n_heads, subject.dim)
    claims = [
        _projector_claim(UNITARY, subject, rank),
        *_weights_claims(UNITARY, subject),
        subject.claim(
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


def _orthogonal_claims(subject: _Subject) -> list[Claim]:
    dim, n_heads = subject.dim, subject.n_heads
    kappa = subject.positions.kappa
    claims = [
        subject.claim(
            "C is block-diagonal over the conjugate pairs",
            lambda m: m.positions.block_mass,
            source=ZERO_SET,
            tolerance="block mass",
        ),
        subject.claim(
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
            "The encoding knows kappa: p_{T-1} / p_T = -kappa / (1 + kappa), kappa read from C",
            lambda m: m.positions.ratio,
            source=ZERO_SET,
            tolerance="kappa relation",
            predicted=kappa_to_ratio(kappa) if kappa != -1 else float("inf"),
            control=("p_{T-1} with its sign turned", flipped_previous),
        ),
        subject.claim(
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


def _kappa_one_claims(subject: _Subject) -> list[Claim]:
    """What fewer heads than coordinates leave of the zero-loss set."""
    covered = min(2 * subject.n_heads, subject.dim) // 2
    return [
        subject.claim(
            "Fewer heads than coordinates leave only kappa = 1 (read from C)",
            lambda m: m.positions.kappa,
            source=ZERO_SET,
            tolerance="kappa",
            predicted=1,
        ),
        subject.claim(
            "and p_{T-1} / p_T = -1/2",
            lambda m: m.positions.ratio,
            source=ZERO_SET,
            tolerance="kappa",
            predicted=-0.5,
        ),
        subject.claim(
            f"and C of rank {covered}, one dimension for each pair",
            lambda m: m.heads.rank,
            source=ZERO_SET,
            tolerance="rank",
            predicted=covered,
        ),
        _projector_claim(ZERO_SET, subject, covered),
        *_head_claims(ZERO_SET, subject, covered),
    ]


def _projector_claim(source: str, subject: _Subject, rank: int) -> Claim:
    return subject.claim(
        f"C / m is a projector of rank {rank}, m = tr C / rank: |C^2 - mC| / m^2",
        lambda m: m.heads.e_c,
        source=source,
        tolerance="projector",
    )


def _weights_claims(source: str, subject: _Subject) -> list[Claim]:
    return [
        subject.claim(
            "c p_T = 1 for every T: largest deviation",
            lambda m: m.positions.scale_error,
            source=source,
            tolerance="scale product",
            n=len(subject.weights.P) - 1,
        ),
        subject.claim(
            "Keys before T-1 carry nothing: their share of |P|^2",
            lambda m: m.positions.off_mass,
            source=source,
            tolerance="off mass",
        ),
    ]


def _head_claims(source: str, subject: _Subject, rank: int) -> list[Claim]:
    """A B^T = m I where the rank of C is the number of heads; a projector where the heads outnumber the coordinates."""
    if subject.n_heads > subject.dim:
        return [
            subject.claim(
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
            "Heads are orthogonal: A B^T = m I, E_M",
            lambda m: m.heads.e_m,
            source=source,
            tolerance="heads",
        ),
        subject.claim(
            "that is, <a_h, b_h'> = 0 for h != h' in every gauge: rms cosine",
            lambda m: m.heads.cosine_ab,
            source=source,
            tolerance="heads",
            control=("keys permuted between heads", permuted_heads),
        ),
    ]


def _identity_claim(statement: str, source: str, subject: _Subject) -> Claim:
    return subject.claim(
        f"The {statement}: sup over angles and T of |prediction - lambda^T|",
        lambda m: m.positions.residual,
        source=source,
        tolerance="identity",
        n=len(subject.positions.angles),
        control=("P shifted by one key", shifted_positions),
    )
