"""Sizes, processes, architectures and data that test files share."""

import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

import ar_interp as ari
from ar_interp.models.config import ModelConfig
from ar_interp.processes import CommutingOrthogonal, CommutingUnitary

D, N_CTX = 6, 8  # models of diagonal heads made by hand
HAAR = ari.HaarOrthogonal(4)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
both_families = pytest.mark.parametrize("family", [CommutingUnitary, CommutingOrthogonal])

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# ---- general models

SIZES = {"dim": 2, "n_ctx": 5}
ARCHITECTURES = {
    "block-scalar": ModelConfig.augmented(**SIZES, heads="block-scalar"),
    "deep block-scalar": ModelConfig.augmented(**SIZES, heads="block-scalar", n_layers=2, n_heads=3),
    "block-scalar softmax": ModelConfig.augmented(**SIZES, heads="block-scalar", n_heads=2, attention="softmax"),
    "augmented": ModelConfig.augmented(**SIZES, n_heads=2, attention="linear/pairs"),
    "augmented, positions": ModelConfig.augmented(**SIZES, n_layers=2, n_heads=2, positional="additive", d_head=3),
    "plain": ModelConfig.full(**SIZES, n_heads=3),
    "plain, s_T": ModelConfig.full(**SIZES, n_heads=1, n_layers=2, query_lag=0, attention="linear/keys", d_head=3),
    "plain, biases": ModelConfig.full(**SIZES, n_heads=3, repeats=2, biases=True, shared_output=True, residual=True),
    "softmax": ModelConfig.full(**SIZES, n_heads=2, n_layers=2, attention="softmax", positional="additive"),
    "softmax positions": ModelConfig.full(**SIZES, n_heads=3, positional="softmax", query_lag=1),
    "MLP": ModelConfig.augmented(**SIZES, n_layers=2, n_heads=2, biases=True, d_mlp=4, unembed=True),
    "figure 5": ModelConfig.paper_figure5(**SIZES, n_layers=2, dtype="float64"),
    "figure 7": ModelConfig.paper_figure7(**SIZES, n_heads=3, dtype="float64"),
}

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=list(ARCHITECTURES))

# ---- stacks that TransformerLens's tools take apart

STREAM_SIZES = {"dim": 2, "n_ctx": 4, "n_heads": 2}
N_LAYERS, D_MLP = 2, 5
STREAM = ModelConfig.augmented(
    **STREAM_SIZES,
    n_layers=N_LAYERS,
    d_head=3,
    positional="additive",
    biases=True,
    d_mlp=D_MLP,
    attention="linear/pairs",
)

STREAMS = {
    "everything": STREAM,
    "softmax": ModelConfig.augmented(**STREAM_SIZES, n_layers=N_LAYERS, attention="softmax", biases=True, unembed=True),
    "block-scalar": ModelConfig.augmented(**STREAM_SIZES, n_layers=N_LAYERS, heads="block-scalar"),
    "plain": ModelConfig.full(**STREAM_SIZES, n_layers=N_LAYERS, residual=True, shared_output=True, biases=True),
    "softmax positions": ModelConfig.full(**STREAM_SIZES, n_layers=N_LAYERS, residual=True, positional="softmax"),
}

REPLACED = ModelConfig.full(**STREAM_SIZES, n_layers=N_LAYERS, query_lag=0)

NORMED = ModelConfig.augmented(**STREAM_SIZES, n_layers=N_LAYERS, layer_norm=True)

MODELS = {**STREAMS, "no stream": REPLACED, "LayerNorm": NORMED, "diagonal": ModelConfig.diagonal(**STREAM_SIZES)}


def draw(*shape: int, seed: int = 1, is_complex: bool = False) -> Tensor:
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- activations with a planted target

READ_HOOK = "blocks.0.hook_resid_post"
N_READ = 300


def noise(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def numbered(n=N_READ, length=4, seed=0):
    """Noise for sequences; the first entry of the first token is the number of the sequence."""
    tokens = torch.from_numpy(noise(n, length, 3, seed=seed))
    tokens[:, 0, 0] = torch.arange(n)
    return ari.Sequences(tokens=tokens, W=torch.zeros(n, 3, 3), phases=None)


def planted(values):
    def target(sequences, T):
        return values

    return target
