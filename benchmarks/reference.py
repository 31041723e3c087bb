"""The two general models of the paper and their training loop, written as one would without thinking of speed.

What the fast training steps are compared with. The models follow Sander et al. (2024), figures 5 and 7; the authors'
code (michaelsdr/ical) does the same work.

    python benchmarks/reference.py [epochs]
"""

import sys
import time
from math import sqrt

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import ar_interp as ari

DIM, N_CTX, N_SEQUENCES, BATCH, LR = 5, 50, 2**14, 1024, 1e-2


def causal_mask(x: Tensor) -> Tensor:
    """[batch 1 pos pos], one copy for every sequence."""
    batch, pos, _ = x.shape
    return torch.tril(torch.ones(pos, pos, device=x.device)).expand(batch, 1, pos, pos).contiguous()


class Attention(nn.Module):
    """Heads of the size of the token, their sum through one output map; linear, or times a positional softmax."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.d_model, self.n_heads = d_model, n_heads
        self.queries = nn.Linear(d_model, n_heads * d_model)
        self.keys = nn.Linear(d_model, n_heads * d_model)
        self.values = nn.Linear(d_model, n_heads * d_model)
        self.out = nn.Linear(d_model, d_model)

    def split(self, x: Tensor) -> Tensor:
        """[batch pos head d_head]."""
        return x.reshape(x.shape[0], x.shape[1], self.n_heads, self.d_model)

    def scores(self, x: Tensor) -> Tensor:
        """[batch head query key]."""
        q, k = self.split(self.queries(x)), self.split(self.keys(x))
        return torch.einsum("nqhd,nkhd->nhqk", q, k) / sqrt(self.d_model)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        mask = causal_mask(x)
        pattern = self.scores(x).masked_fill(mask == 0, 0.0)
        if positions is not None:
            pattern = pattern * torch.softmax(self.scores(positions).masked_fill(mask == 0, -1e20), dim=-1)
        z = torch.einsum("nhqk,nkhd->nqhd", pattern, self.split(self.values(x)))
        return self.out(z.sum(dim=2))


class Figure5(nn.Module):
    """Tokens (0, s_t, s_{t-1}); per layer x <- x + LN(attention(x)); a linear map at the end."""

    def __init__(self, dim: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(3 * dim, 1) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(3 * dim) for _ in range(n_layers))
        self.final = nn.Linear(3 * dim, dim)

    def forward(self, s: Tensor) -> Tensor:
        previous = torch.cat([torch.zeros_like(s[:, :1]), s[:, :-1]], dim=1)
        x = torch.cat([torch.zeros_like(s), s, previous], dim=-1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + norm(layer(x))
        return self.final(x)


class Figure7(nn.Module):
    """Tokens (s_t, s_t); x <- LN(attention(x)), scores times a softmax over learned positions; a linear map."""

    def __init__(self, dim: int, n_heads: int, n_ctx: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(n_ctx, 2 * dim)
        self.attention = Attention(2 * dim, n_heads)
        self.norm = nn.LayerNorm(2 * dim)
        self.final = nn.Linear(2 * dim, dim)

    def forward(self, s: Tensor) -> Tensor:
        x = torch.cat([s, s], dim=-1)
        batch, pos, _ = x.shape
        positions = self.positions(torch.arange(pos, device=x.device).expand(batch, pos))  # [batch pos d_model]
        return self.final(self.norm(self.attention(x, positions)))


class FixedSequences(Dataset):
    """A fixed set of sequences s_1, ..., s_{n_ctx + 1}, indexed one by one."""

    def __init__(self, n: int, *, seed: int) -> None:
        process = ari.HaarOrthogonal(DIM)
        self.tokens = process.sample(n, N_CTX + 1, seed=seed, dtype=torch.float32).tokens.contiguous()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index, :-1], self.tokens[index, 1:]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
    """One update; the loss before it."""
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(model: nn.Module, *, epochs: int = 200, seed: int = 0, verbose: bool = False) -> float:
    """The authors' loop: Adam at 1e-2 on 2^14 fixed sequences in batches of 1024. Returns the test error."""
    torch.manual_seed(seed)
    loader = DataLoader(FixedSequences(N_SEQUENCES, seed=seed), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for epoch in range(epochs):
        start = time.perf_counter()
        for inputs, targets in loader:
            step(model, optimizer, inputs, targets)
        if verbose:
            print(
                f"epoch {epoch + 1}: {time.perf_counter() - start:.3f} s, test {held_out_error(model):.4f}", flush=True
            )
    return held_out_error(model)


@torch.no_grad()
def held_out_error(model: nn.Module, *, n: int = 2048, seed: int = 2**40) -> float:
    """Mean squared error per coordinate over positions 1..n_ctx, on sequences apart from the training ones."""
    tokens = FixedSequences(n, seed=seed).tokens
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    pieces = zip(inputs.split(256), targets.split(256), strict=True)
    return sum(nn.functional.mse_loss(model(i), t).item() for i, t in pieces) / (n // 256)


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for n_layers in (1, 4):
        torch.manual_seed(0)
        model = Figure5(DIM, n_layers)
        print(f"figure 5, L = {n_layers}:")
        train(model, epochs=epochs, verbose=True)


if __name__ == "__main__":
    main()
