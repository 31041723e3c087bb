"""The block view of an augmented layer: which of the 3 x 3 blocks of QK and OV carry it, and how scalar they are."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from ar_interp._shown import Shown
from ar_interp.models.block_scalars import SCALAR_PLACES
from ar_interp.models.encodings import Augmented
from ar_interp.models.opened import Model
from ar_interp.probes.protocol import WEIGHTS, needs
from ar_interp.probes.results import long_frame
from ar_interp.theory.block_scalars import A_NAMES, B_NAMES, product_place

BLOCK_NAMES = Augmented.blocks
BLOCKS = len(BLOCK_NAMES)


@dataclass(frozen=True, kw_only=True)
class AugmentedBlocks(Shown):
    """QK = W_Q W_K^T and OV = W_V W_O of a layer's single head, seen as 3 x 3 blocks of size dim.

    Blocks are in the order of the token: read-out, s_t, s_{t-1}; rows of QK are the query's, rows of OV what is read,
    columns of OV where it is written. The scale of QK against OV is gauge, so only products are comparable.

    Attributes:
        QK, OV: mean diagonal of each block, [3 3]: the multiple of the identity nearest to it.
        QK_defect, OV_defect: [3 3], Frobenius norm of what is left of each block, over that of the largest block.
        step_size: a2 b1, the step of gradient descent: key s_{t-1}, query s_T, value s_t.
        products: [4 2], (a1, a2, a3, a4) times (b1, b2).
    """

    QK: Float[Tensor, "3 3"]
    OV: Float[Tensor, "3 3"]
    QK_defect: Float[Tensor, "3 3"]
    OV_defect: Float[Tensor, "3 3"]

    @property
    def products(self) -> Float[Tensor, "4 2"]:
        a, b = (torch.stack([self._of(self.QK, self.OV, name) for name in names]) for names in (A_NAMES, B_NAMES))
        return a[:, None] * b

    def product(self, name: str) -> float:
        """One of the products by name, `a2 b1` say."""
        return self.products[product_place(name)].item()

    @property
    def step_size(self) -> float:
        return self.product("a2 b1")

    def defect(self, *names: str) -> float:
        """The largest defect of the blocks of a1..a4, b1, b2, or of those named."""
        chosen = names or (*A_NAMES, *B_NAMES)
        return max(self._of(self.QK_defect, self.OV_defect, name).item() for name in chosen)

    @staticmethod
    def _of(QK: Float[Tensor, "3 3"], OV: Float[Tensor, "3 3"], name: str) -> Float[Tensor, ""]:
        circuit, row, column = SCALAR_PLACES[name]
        return (QK if circuit == "QK" else OV)[row, column]

    def to_frame(self) -> pd.DataFrame:
        """A row per block: circuit, row, column, scalar and defect."""
        axes = {"circuit": ("QK", "OV"), "row": BLOCK_NAMES, "column": BLOCK_NAMES}
        scalar, defect = torch.stack([self.QK, self.OV]), torch.stack([self.QK_defect, self.OV_defect])
        return long_frame(axes, {"scalar": scalar, "defect": defect})


def _check_one_head(model: Model) -> None:
    if model.W_Q.shape[1] != 1 or model.W_Q.shape[2] % BLOCKS:
        raise ValueError(f"model must have one head and d_model = 3 dim; W_Q has shape {list(model.W_Q.shape)}.")


@needs(*WEIGHTS, scope="augmented tokens, one head in a layer", fits=_check_one_head)
def augmented_blocks(model: Model, *, layer: int = 0) -> AugmentedBlocks:
    """The block view of one layer of an augmented model with a single head.

    Raises:
        ValueError: several heads, a width that is not 3 dim, a layer that is not there.
    """
    _check_one_head(model)
    W_Q, W_K, W_V, W_O = (W.detach().cpu().double() for W in (model.W_Q, model.W_K, model.W_V, model.W_O))
    if not 0 <= layer < len(W_Q):
        raise ValueError(f"layer must be in 0..{len(W_Q) - 1}, got {layer}.")
    QK, QK_defect = _scalars(W_Q[layer, 0] @ W_K[layer, 0].mT)
    OV, OV_defect = _scalars(W_V[layer, 0] @ W_O[layer, 0])
    return AugmentedBlocks(QK=QK, OV=OV, QK_defect=QK_defect, OV_defect=OV_defect)


def split_blocks(
    circuits: Inexact[Tensor, "*circuit d_model d_model"], dim: int
) -> Inexact[Tensor, "*circuit 3 3 dim dim"]:
    """The 3 x 3 blocks of size dim of each circuit."""
    return circuits.unflatten(-1, (BLOCKS, dim)).unflatten(-3, (BLOCKS, dim)).transpose(-3, -2)


def _scalars(circuit: Float[Tensor, "d_model d_model"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    dim = len(circuit) // BLOCKS
    blocks = split_blocks(circuit, dim)
    means = blocks.diagonal(0, -2, -1).mean(-1)
    rest = blocks - means[:, :, None, None] * torch.eye(dim, dtype=blocks.dtype, device=blocks.device)
    largest = blocks.norm(dim=(-2, -1)).max()
    return means, rest.norm(dim=(-2, -1)) / largest
