"""QK and OV circuits of every head: spectra, eigenvalues, composition between layers, the blocks of augmented tokens.

States are rows: a head's scores are x QK y^H, with x asking and y asked, and it writes x OV. All that is computed here
depends on the products alone, so W_Q -> W_Q G, W_K -> W_K G^{-H} changes nothing. Linear attention has another freedom,
QK -> c QK, OV -> OV / c: it changes the norms and, for c < 0, the signs of eigenvalues and diagonals of both circuits.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor
from transformer_lens import FactoredMatrix

from ar_interp._checks import check_integer, check_seed
from ar_interp._shown import Shown
from ar_interp.models.opened import Model
from ar_interp.models.weights import DIAGONAL_TOLERANCE, in_double
from ar_interp.probes.blocks import BLOCK_NAMES, BLOCKS, split_blocks
from ar_interp.probes.protocol import WEIGHTS, needs
from ar_interp.probes.results import long_frame
from ar_interp.seeds import UNTRAINED, generator_of

CIRCUITS = ("QK", "OV")
COMPOSITIONS = ("Q", "K", "V")
N_UNTRAINED = 200
MOST_UNTRAINED = 10**6
NILPOTENT = 1e-8  # of |X|_F^2: rounding makes the zero eigenvalues of 3 x 3 Jordan blocks 1e-16^(1/3), squared 1e-11


@dataclass(frozen=True, kw_only=True)
class Spectrum(Shown):
    """Singular values and eigenvalues of one kind of circuit, X = U diag(S) Vh for every layer and head.

    U and Vh are torch.linalg's; FactoredMatrix.svd returns V with X = U diag(S) V^T instead. Neither is unique where
    singular values coincide: compare subspaces by `subspaces.projector` or `subspaces.principal_angles`.

    Attributes:
        U, S, Vh: orthonormal columns, singular values (descending), orthonormal rows; rank = min(d_head, d_model).
        eigenvalues: by descending modulus; the d_model - rank others are zero, as are the other singular values.
    """

    U: Inexact[Tensor, "layer head d_model rank"]
    S: Float[Tensor, "layer head rank"]
    Vh: Inexact[Tensor, "layer head rank d_model"]
    eigenvalues: Complex[Tensor, "layer head rank"]

    @property
    def norm(self) -> Float[Tensor, "layer head"]:
        """|X|_F."""
        return self.S.norm(dim=-1)

    @property
    def shares(self) -> Float[Tensor, "layer head rank"]:
        """The normalised spectrum S_i^2 / |X|_F^2; nan for X = 0."""
        return (self.S / self.norm[..., None]).square()

    @property
    def effective_rank(self) -> Float[Tensor, "layer head"]:
        """exp(-sum_i p_i log p_i) with p_i = S_i^2 / |X|_F^2: r for r equal singular values, nan for X = 0.

        Source: Roy and Vetterli 2007, with squared singular values. The participation ratio 1 / sum_i p_i^2 is no
        larger, and equal to it where the non-zero singular values are.
        """
        return torch.special.entr(self.shares).sum(-1).exp()

    @property
    def normality(self) -> Float[Tensor, "layer head"]:
        """sum_i |lambda_i|^2 / |X|_F^2, in [0, 1]: 1 for normal X alone, 0 for nilpotent X alone (Schur's inequality).

        How much of the circuit its eigenvalues speak of: what moves one block of the stream into another has none.
        """
        return (self.eigenvalues.abs() / self.norm[..., None]).square().sum(-1)

    @property
    def positivity(self) -> Float[Tensor, "layer head"]:
        """Re sum_i lambda_i / sum_i |lambda_i|, in [-1, 1]: 1 where all eigenvalues are positive.

        Of OV it is the copying score of Elhage et al. 2021, on the residual stream as there is no vocabulary. nan where
        `normality` is below 1e-8: such eigenvalues are rounding.
        """
        moduli = self.eigenvalues.abs().sum(-1)
        score = self.eigenvalues.sum(-1).real / moduli
        return torch.where(self.normality > NILPOTENT, score, torch.nan)


@dataclass(frozen=True, kw_only=True)
class BlockView(Shown):
    """QK and OV (the first axis) of every layer and head as 3 x 3 blocks X_ij of size dim, for augmented tokens.

    Blocks are in the order of `blocks.BLOCK_NAMES`; rows of QK are the query's, rows of OV what is read, columns of OV
    where it is written. Blocks that read the first layer's zeros, or write in the last layer where nothing reads, count
    too, and in full heads training leaves them at their initial values. Where W is diagonal a trained block is c D, D a
    diagonal of signs: `off_diagonal` is then 0, `distance` is not.

    Attributes:
        share: |X_ij|_F^2 / |X|_F^2; nan for X = 0.
        scalar: tr X_ij / dim, the multiple of the identity nearest to X_ij.
        distance: |X_ij - scalar I|_F / |X_ij|_F; nan for X_ij = 0.
        off_diagonal: |X_ij - diag X_ij|_F / |X_ij|_F, never more than `distance`; nan for X_ij = 0.
        untrained_share, untrained_distance, untrained_off_diagonal: root mean squares for Gaussian weights (of `share`
            the mean): 1/9, sqrt(1 - 1/dim^2), sqrt(1 - 1/dim).
    """

    share: Float[Tensor, "2 layer head 3 3"]
    scalar: Inexact[Tensor, "2 layer head 3 3"]
    distance: Float[Tensor, "2 layer head 3 3"]
    off_diagonal: Float[Tensor, "2 layer head 3 3"]
    untrained_share: float
    untrained_distance: float
    untrained_off_diagonal: float

    def to_frame(self) -> pd.DataFrame:
        """A row per layer, head, circuit and block: row, column and the attributes."""
        _, n_layers, n_heads, *_ = self.share.shape
        axes = {"layer": range(n_layers), "head": range(n_heads), "circuit": CIRCUITS, "row": BLOCK_NAMES}
        measured = {name: value.movedim(0, 2) for name, value in vars(self).items() if isinstance(value, Tensor)}
        expected = {name: value for name, value in vars(self).items() if name not in measured}
        return long_frame({**axes, "column": BLOCK_NAMES}, measured).assign(**expected)


@dataclass(frozen=True, kw_only=True)
class Circuits(Shown):
    """The circuits of every layer and head, in float64 (complex128 for complex weights) on the CPU.

    Attributes:
        QK, OV: W_Q W_K^H (W_Q W_K^T for real weights) and W_V W_O, each a FactoredMatrix [layer head d_model d_model].
        QK_spectrum, OV_spectrum: singular values and eigenvalues.
        composition_scores: Q-, K- and V-composition [kind layer head layer head] of an earlier layer and head (the
            first pair of axes) with a later one (the second); nan where the second layer is not the later one, and for
            a circuit that is zero.
        untrained_composition: mean and standard deviation of one score over `n_untrained` draws of Gaussian weights of
            the same shape; the law is the same for the three kinds, and the mean square 1 / d_model.
        block_view: of augmented tokens; None for others.
        A, B, C: diagonals of QK and OV, and B^T A of every layer; None unless both are diagonal in every head.
    """

    QK: FactoredMatrix
    OV: FactoredMatrix
    QK_spectrum: Spectrum
    OV_spectrum: Spectrum
    composition_scores: Float[Tensor, "3 layer head layer head"]
    untrained_composition: tuple[float, float]
    n_untrained: int
    block_view: BlockView | None
    A: Inexact[Tensor, "layer head d_model"] | None
    B: Inexact[Tensor, "layer head d_model"] | None
    C: Inexact[Tensor, "layer d_model d_model"] | None

    def to_frame(self) -> pd.DataFrame:
        """A row per layer, head and circuit: norm, effective_rank, top_share (of the largest singular value),
        positivity and normality."""
        spectra = (self.QK_spectrum, self.OV_spectrum)
        columns = {
            "norm": [spectrum.norm for spectrum in spectra],
            "effective_rank": [spectrum.effective_rank for spectrum in spectra],
            "top_share": [spectrum.shares[..., 0] for spectrum in spectra],
            "positivity": [spectrum.positivity for spectrum in spectra],
            "normality": [spectrum.normality for spectrum in spectra],
        }
        n_layers, n_heads = self.QK_spectrum.norm.shape
        axes = {"layer": range(n_layers), "head": range(n_heads), "circuit": CIRCUITS}
        return long_frame(axes, {name: torch.stack(values, dim=-1) for name, values in columns.items()})

    @property
    def blocks(self) -> pd.DataFrame:
        """`block_view` as a frame.

        Raises:
            ValueError: the tokens are not augmented, as far as known.
        """
        if self.block_view is None:
            raise ValueError(
                "blocks need augmented tokens (0, s_t, s_{t-1}): for a model without a config that says so, pass "
                "circuits(model, dim=...), the size of s_t."
            )
        return self.block_view.to_frame()

    @property
    def composition(self) -> pd.DataFrame:
        """A row per kind and pair of heads in different layers: score, untrained mean and sd, z = (score - mean) / sd.

        Empty for one layer.
        """
        mean, sd = self.untrained_composition
        n_layers, n_heads = self.composition_scores.shape[1:3]
        layers, heads = range(n_layers), range(n_heads)
        axes = {"kind": COMPOSITIONS, "earlier_layer": layers, "earlier_head": heads}
        frame = long_frame({**axes, "later_layer": layers, "later_head": heads}, {"score": self.composition_scores})
        frame = frame[frame["earlier_layer"] < frame["later_layer"]].reset_index(drop=True)
        return frame.assign(untrained_mean=mean, untrained_sd=sd, z=(frame["score"] - mean) / sd)


@needs(*WEIGHTS, scope="any; its blocks need augmented tokens, and config or dim=...")
def circuits(
    model: Model, *, dim: int | None = None, n_untrained: int = N_UNTRAINED, seed: int = UNTRAINED
) -> Circuits:
    """QK = W_Q W_K^H and OV = W_V W_O of every head, and what can be read off them.

    Composition of a later head with an earlier head's output is |OV_e QK_l|_F / (|OV_e|_F |QK_l|_F) through its query,
    |OV_e QK_l^H|_F / (...) through its key and |OV_e OV_l|_F / (...) through its value; it is 1 only where both are of
    rank one and aligned. LayerNorm and MLPs between the layers are left out; without residual connections only
    neighbouring layers meet.
    Source: Elhage et al. 2021, with rows for states. What untrained weights have is for dense Gaussian ones, whose law
    is unchanged when W_Q or W_V, or one block of its rows, is rotated: E|R X|^2 and E|tr(R X)|^2 over rotations R give
    1 / d_model and 1 - 1 / dim^2. Block-scalar heads have distance 0 untrained too: `model.untrained(seed)` is their
    control.

    Args:
        model: where its weights are complex its scores are taken to be <key|query>, conjugate in the key.
        dim: size of s_t for the block view of augmented tokens; the model's config knows it where the model is ours.
        n_untrained: draws of untrained weights for the expected composition; >= 2.
    Raises:
        ValueError: weights that are missing, of shapes that do not fit or not finite; a d_model that is not 3 dim.
    """
    W_Q, W_K, W_V, W_O = _weights(model)
    n_untrained = check_integer("n_untrained", n_untrained, low=2, high=MOST_UNTRAINED)
    d_model, d_head = W_Q.shape[-2:]
    dim = _token_dim(model, dim, d_model)
    QK, OV = FactoredMatrix(W_Q, W_K.mH), FactoredMatrix(W_V, W_O)
    A, B = _diagonals(QK), _diagonals(OV)
    if A is None or B is None:
        A = B = None
    return Circuits(
        QK=QK,
        OV=OV,
        QK_spectrum=_spectrum(QK),
        OV_spectrum=_spectrum(OV),
        composition_scores=_composition(W_Q, W_K, W_V, W_O),
        untrained_composition=_untrained_composition(d_model, d_head, W_Q.dtype, n_untrained, seed),
        n_untrained=n_untrained,
        block_view=None if dim is None else _block_view(QK, OV, dim),
        A=A,
        B=B,
        C=None if A is None or B is None else B.mT @ A,
    )


def _weights(model: Model) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = [in_double(W) for W in (model.W_Q, model.W_K, model.W_V, model.W_O)]
    shape = weights[0].shape
    for name, weight in zip(WEIGHTS, weights, strict=True):
        wanted = (*shape[:2], shape[-1], shape[-2]) if name == "W_O" else shape
        if weight.ndim != 4 or weight.shape != wanted:
            axes = "d_head d_model" if name == "W_O" else "d_model d_head"
            others = "" if name == "W_Q" else f", as W_Q {list(shape)} does"
            raise ValueError(f"{name} must have the axes [layer head {axes}]{others}; got {list(weight.shape)}.")
        if 0 in weight.shape:
            raise ValueError(f"{name} must not be empty, got shape {list(weight.shape)}.")
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name} has NaN or infinite entries.")
    dtype = torch.complex128 if any(weight.is_complex() for weight in weights) else torch.float64
    W_Q, W_K, W_V, W_O = (weight.to(dtype) for weight in weights)
    return W_Q, W_K, W_V, W_O


def _token_dim(model: Model, dim: int | None, d_model: int) -> int | None:
    """Size of s_t where tokens are augmented, else None."""
    if dim is None:
        return model.config.dim if model.is_augmented else None
    dim = check_integer("dim", dim, low=1)
    if d_model != BLOCKS * dim:
        raise ValueError(
            f"dim must be d_model / {BLOCKS}, the size of s_t in augmented tokens: d_model is {d_model}, got dim={dim}."
        )
    return dim


def _spectrum(circuit: FactoredMatrix) -> Spectrum:
    """From matrices of the smaller of d_head and d_model."""
    A, B = circuit.A, circuit.B
    (Q_A, R_A), (Q_B, R_B) = torch.linalg.qr(A), torch.linalg.qr(B.mH)
    U, S, Vh = torch.linalg.svd(R_A @ R_B.mH)
    eigenvalues = torch.linalg.eigvals(B @ A if A.shape[-1] < A.shape[-2] else A @ B)
    order = eigenvalues.abs().argsort(dim=-1, descending=True, stable=True)
    return Spectrum(U=Q_A @ U, S=S, Vh=Vh @ Q_B.mH, eigenvalues=eigenvalues.gather(-1, order))


def _composition(W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor) -> Float[Tensor, "3 layer head layer head"]:
    n_layers, n_heads = W_Q.shape[:2]
    scores = torch.full((3, n_layers, n_heads, n_layers, n_heads), torch.nan, dtype=torch.float64, device=W_Q.device)
    writes = _writes(W_V, W_O)
    for kind, reads in enumerate((_reads(W_Q, W_K.mH), _reads(W_K, W_Q.mH), _reads(W_V, W_O))):
        for earlier in range(n_layers):
            for later in range(earlier + 1, n_layers):
                scores[kind, earlier, :, later] = _scores(writes[earlier], reads[later])
    return scores


def _writes(A: Tensor, B: Tensor) -> Inexact[Tensor, "... rank d_model"]:
    """A B without the orthonormal columns on its left, which change no norm."""
    return torch.linalg.qr(A, mode="r").R @ B


def _reads(A: Tensor, B: Tensor) -> Inexact[Tensor, "... d_model rank"]:
    """A B without the orthonormal rows on its right."""
    return A @ torch.linalg.qr(B.mH, mode="r").R.mH


def _scores(
    writes: Inexact[Tensor, "earlier rank d_model"], reads: Inexact[Tensor, "later d_model rank"]
) -> Float[Tensor, "earlier later"]:
    products = torch.einsum("aij,bjk->abik", writes, reads)
    return products.norm(dim=(-2, -1)) / (writes.norm(dim=(-2, -1))[:, None] * reads.norm(dim=(-2, -1)))


def _untrained_composition(d_model: int, d_head: int, dtype: torch.dtype, n: int, seed: int) -> tuple[float, float]:
    """Composition of two Gaussian heads, one draw at a time so that large models need little memory."""
    generator = generator_of(check_seed(seed))

    def score() -> Tensor:
        A, C = torch.randn(2, 1, d_model, d_head, generator=generator, dtype=dtype, device="cpu")
        B, D = torch.randn(2, 1, d_head, d_model, generator=generator, dtype=dtype, device="cpu")
        return _scores(_writes(A, B), _reads(C, D))

    scores = torch.cat([score().flatten() for _ in range(n)])
    return scores.mean().item(), scores.std().item()


def _block_view(QK: FactoredMatrix, OV: FactoredMatrix, dim: int) -> BlockView:
    products = torch.stack([QK.A @ QK.B, OV.A @ OV.B])
    blocks = split_blocks(products, dim)
    norms = blocks.norm(dim=(-2, -1))
    diagonals = blocks.diagonal(0, -2, -1)
    scalars = diagonals.mean(-1)
    beside_scalars = blocks - scalars[..., None, None] * torch.eye(dim, dtype=blocks.dtype, device=blocks.device)
    beside_diagonals = blocks - torch.diag_embed(diagonals)
    return BlockView(
        share=norms.square() / norms.square().sum((-2, -1), keepdim=True),
        scalar=scalars,
        distance=beside_scalars.norm(dim=(-2, -1)) / norms,
        off_diagonal=beside_diagonals.norm(dim=(-2, -1)) / norms,
        untrained_share=1 / BLOCKS**2,
        untrained_distance=math.sqrt(1 - 1 / dim**2),
        untrained_off_diagonal=math.sqrt(1 - 1 / dim),
    )


def _diagonals(circuit: FactoredMatrix) -> Inexact[Tensor, "layer head d_model"] | None:
    """None unless all are; layer by layer, so that large models need not fit densely."""
    diagonals = []
    for A, B in zip(circuit.A, circuit.B, strict=True):
        products = A @ B
        diagonals.append(products.diagonal(0, -2, -1).clone())
        rest = (products - torch.diag_embed(diagonals[-1])).abs().max()
        if rest > DIAGONAL_TOLERANCE * products.abs().max():
            return None
    return torch.stack(diagonals)
