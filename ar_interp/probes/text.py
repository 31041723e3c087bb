"""Is text autoregressive? One-step regressions on documents of vectors, with what must destroy them beside.

A document is centred, in coordinates that are whitened on the *other* documents (their own would leak), and R^2 is that
of s_{t+1} = W s_t under cross-validation by blocks of time, so that no sentence is on both sides. Every number
has its null: the same document with its words permuted. Design and numbers are derived here; the experiment that it
replaces is figure 4 of Sander et al. 2024, see `rolled_out`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp import seeds
from ar_interp._checks import as_real_array, check_integer, check_seed
from ar_interp._moods import calm
from ar_interp._shown import watched
from ar_interp.probes.results import Result
from ar_interp.processes.text import TextEmbedding, repeats

FOLDS = 4  # blocks of time
RIDGE = 1.0  # of whitened coordinates: as one more word
PRIOR = 2000.0  # words that W of all other documents counts for, where a document adapts it
BLOCK = 10  # words that are permuted among themselves, or kept together
RANDOM_DIM = 256  # of random vectors: of which any four are linearly independent
SPANNED = 1e-12  # of the largest variance: less is rounding
MOST_PERMUTATIONS = 10**6
KEPT = 1e-12  # error of a roll-out, as the published script has it
KINDS = {  # column: what it is
    "R2": "W fitted on the rest of the same document",
    "within": f"words permuted within blocks of {BLOCK}: the topic stays, the order goes",
    "blocks": f"blocks of {BLOCK} words kept, their order permuted",
    "corpus": "W of all other documents",
    "transposed": "W^T applied forward",
    "orthogonal": "the best orthogonal W",
    "copy": "W = I",
}

Fit = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TextRegularity(Result):
    """How much of the next word's vector a matrix tells, for each document.

    Attributes:
        documents: a row each. `R2` and the variants of `KINDS`, shares of the variance; `null` and `null_sd`, mean and
            standard deviation of R2 over permutations of its words (to first order -dim / n_train, not 0), `p` =
            (1 + permutations that reach R2) / (1 + n_permutations); `largest` and `mean` singular value of W;
            `own`, `other`: on its second half, W of all others adapted to its first half, and that of the next
            document adapted to that one's; `language`: W of all others as it is.
        dim: coordinates that the documents were whitened in.
        n_permutations: for the null.
    """

    documents: pd.DataFrame
    dim: int
    n_permutations: int

    @property
    def gain(self) -> tuple[float, float]:
        """Mean and standard error over documents of own - language: what a document tells of W beyond its language."""
        gains = (self.documents["own"] - self.documents["language"]).to_numpy()
        return float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5)

    def words(self) -> str:
        """The table and what it says, for a terminal."""
        table, (gain, error) = self.documents, self.gain
        mean = {column: float(table[column].to_numpy().mean()) for column in table}
        ordered, beyond = mean["R2"] - mean["null"], float(scipy.stats.t.ppf(0.975, len(table) - 1)) * error
        left, n_beaten = (mean["within"] - mean["null"]) / ordered, (table["p"] <= 0.05).sum()
        return "\n".join([
            f"R^2 of s_(t+1) = W s_t in {self.dim} coordinates, a row for each of {len(table)} documents:",
            table.round(4).to_string(),
            *(f"  {kind:11} {mean[kind]:8.4f}  {meaning}" for kind, meaning in KINDS.items()),
            f"Order: a matrix tells {100 * ordered:.1f} % of the variance beyond the null; {n_beaten} of {len(table)} "
            f"documents have p <= .05, and {100 * left:.0f} % of it is left where words are permuted within blocks of "
            f"{BLOCK}.",
            f"In context: W adapted to the first half of a document gains {gain:+.4f} +- {beyond:.4f} (95 %) over "
            f"the W of all others on its second half: {'a gain' if gain > beyond else 'no gain that is sure'}.",
            "Orthogonal: the best orthogonal W "
            + ("beats" if mean["orthogonal"] > 0 else "is worse than")
            + f" predicting the mean (R^2 {mean['orthogonal']:.2f}).",
        ])  # fmt: skip


@calm()
def text_regularity(
    documents: Sequence[Tensor], *, dim: int = 8, n_permutations: int = 39, seed: int = 0
) -> TextRegularity:
    """Regress every word's vector on the one before it, with controls.

    R^2 = 1 - sum |s_{t+1} - W s_t|^2 / sum |s_{t+1}|^2 over four blocks of time, each with W by ridge regression on
    the other three.

    Args:
        documents: [pos dim] each, two or more of them in the coordinates of one embedding; more than 8 dim words.
        dim: leading principal components of the other documents that are kept; smaller is less of a null.
        n_permutations: of the words of each document; p cannot be below 1 / (n_permutations + 1).
        seed: of the permutations.
    Raises:
        ValueError: a document of its own, too short a document, one of a single vector, documents of different vectors,
            or a dim beyond what the vectors of the others span.
    """
    arrays = (as_real_array(f"documents[{i}]", array, shape=("pos", "dim")) for i, array in enumerate(documents))
    tokens = [array.cpu() for array in arrays]  # where the permutations are drawn
    if len(tokens) < 2:
        raise ValueError("documents must be two or more: each is whitened on the others. Split the text by `length`.")
    sizes = sorted({document.shape[1] for document in tokens})
    if len(sizes) > 1:
        raise ValueError(f"documents must be of one embedding, got vectors of {sizes} numbers.")
    check_integer("dim", dim, low=1, high=sizes[0])
    for place, document in enumerate(tokens):
        if (document == document[0]).all():
            raise ValueError(f"documents[{place}] has one vector at every place: there is no variance to be told.")
        if not torch.isfinite(document.square().sum()):
            raise ValueError(f"documents[{place}] must have finite squares: it goes up to {document.abs().max():.2g}.")
    check_integer("n_permutations", n_permutations, low=2, high=MOST_PERMUTATIONS)  # the null has a standard deviation
    shortest = min(map(len, tokens))
    if shortest <= 8 * dim:
        raise ValueError(f"documents must be longer than 8 dim = {8 * dim} words, the shortest has {shortest}.")
    generator = seeds.generator_of(check_seed(seed))
    with watched(total=len(tokens), desc="documents") as bar:
        rows = []
        for place in range(len(tokens)):
            rows.append(_document(tokens, place, dim, n_permutations, generator))
            bar.update()
    return TextRegularity(documents=pd.DataFrame(rows), dim=dim, n_permutations=n_permutations)


def _document(
    tokens: list[Tensor], place: int, dim: int, n_permutations: int, generator: torch.Generator
) -> dict[str, float]:
    """The row of one document."""
    others = [*tokens[place + 1 :], *tokens[:place]]  # the next one first
    white = _whitening(torch.cat(others), dim)
    s, *rest = (white(document) for document in (tokens[place], *others))
    language = ridge(torch.cat([document[:-1] for document in rest]), torch.cat([document[1:] for document in rest]))
    order = [torch.randperm(len(s), generator=generator, device=generator.device) for _ in range(n_permutations)]
    null = torch.tensor([blocked_r2(s[permutation]) for permutation in order], dtype=s.dtype, device=s.device)
    R2 = blocked_r2(s)
    within, blocks = _permuted_blocks(len(s), generator)
    W = ridge(s[:-1], s[1:])
    values = torch.linalg.svdvals(W)
    half, other = len(s) // 2, rest[0]
    second = s[half:]
    return {
        "R2": R2,
        "null": null.mean().item(),
        "null_sd": null.std().item(),
        "p": (1 + int((null >= R2).sum())) / (n_permutations + 1),
        "within": blocked_r2(s[within]),
        "blocks": blocked_r2(s[blocks]),
        "corpus": r2(s, language),
        "transposed": blocked_r2(s, lambda x, y: ridge(x, y).T),
        "orthogonal": blocked_r2(s, orthogonal),
        "copy": r2(s, torch.eye(dim, dtype=s.dtype, device=s.device)),
        "largest": values.max().item(),
        "mean": values.mean().item(),
        "own": r2(second, ridge(s[: half - 1], s[1:half], PRIOR, language)),
        "language": r2(second, language),
        "other": r2(second, ridge(other[:half][:-1], other[:half][1:], PRIOR, language)),
    }


def ridge(
    x: Float[Tensor, "pair dim"],
    y: Float[Tensor, "pair dim"],
    weight: float = RIDGE,
    towards: Tensor | None = None,
) -> Float[Tensor, "dim dim"]:
    """argmin_W sum |y - W x|^2 + weight |W - towards|^2; towards 0 if left out."""
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    right = y.T @ x + (0 if towards is None else weight * towards)
    return torch.linalg.solve(x.T @ x + weight * eye, right.T).T


def orthogonal(x: Float[Tensor, "pair dim"], y: Float[Tensor, "pair dim"]) -> Float[Tensor, "dim dim"]:
    """The orthogonal W with the least sum |y - W x|^2 (Procrustes)."""
    U, _, Vh = torch.linalg.svd(y.T @ x)
    return U @ Vh


def r2(s: Float[Tensor, "pos dim"], W: Float[Tensor, "dim dim"]) -> float:
    """1 - sum |s_{t+1} - W s_t|^2 / sum |s_{t+1}|^2."""
    return (1 - (s[1:] - s[:-1] @ W.T).square().sum() / s[1:].square().sum()).item()


def blocked_r2(s: Float[Tensor, "pos dim"], fit: Fit = ridge) -> float:
    """R^2 with each of four blocks of time predicted by a W that is fitted on the other three."""
    x, y = s[:-1], s[1:]
    missed = 0.0
    for block in torch.arange(len(x), device=x.device).tensor_split(FOLDS):
        rest = torch.ones(len(x), dtype=torch.bool, device=x.device)
        rest[block] = False
        missed += (y[block] - x[block] @ fit(x[rest], y[rest]).T).square().sum().item()
    return 1 - missed / y.square().sum().item()


def _whitening(others: Float[Tensor, "word dim"], dim: int) -> Callable[[Tensor], Tensor]:
    """Centre a document in the leading principal components of the others, which have variance 1 there."""
    mean = others.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((others - mean).T).reshape(others.shape[1], -1))
    spanned = int((values > SPANNED * values[-1]).sum())
    if dim > spanned:
        raise ValueError(f"dim must be at most {spanned}, what the vectors of the other documents span, got {dim}.")
    map_ = vectors[:, -dim:] / values[-dim:].clamp_min(1e-12).sqrt()

    def white(document: Tensor) -> Tensor:
        coordinates = (document - mean) @ map_
        return coordinates - coordinates.mean(0)

    return white


def _permuted_blocks(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orders of n words: permuted within blocks, and whole blocks permuted; the rest at the end is dropped."""
    whole = torch.arange(n // BLOCK * BLOCK, device=generator.device).reshape(-1, BLOCK)
    keys = torch.rand(whole.shape, generator=generator, dtype=torch.float64, device=generator.device)
    within = whole.gather(1, keys.argsort(1)).flatten()
    return within, whole[torch.randperm(len(whole), generator=generator, device=generator.device)].flatten()


@dataclass(frozen=True, kw_only=True)
class RolledOut(Result):
    """The published experiment, and why it says nothing about W.

    Attributes:
        kept: a row for the text in order, and one for its words permuted: `kept` is the share of windows that the
            published script keeps, those with an error above 1e-12; `conflicts` the share in which a word stands twice
            with different successors; `random` the share kept with random vectors instead; `disagree` the windows in
            which `kept` and conflict differ.
        n: windows.
    """

    kept: pd.DataFrame
    n: int

    def words(self) -> str:
        """The table and what it says, for a terminal."""
        same = (self.kept["kept"] == self.kept["random"]).to_numpy().all()
        return "\n".join([
            f"Windows of five words whose roll-out errs (the published statistic), of {self.n}:",
            self.kept.round(4).to_string(index=False),
            "Void: random vectors give the same windows, those in which a word has two successors."
            if same
            else "Random vectors give other windows: some of these vectors depend linearly on each other.",
        ])  # fmt: skip


@calm()
def rolled_out(words: Sequence[str], embedding: TextEmbedding, *, n: int = 2000, seed: int = 0) -> RolledOut:
    """Figure 4 of Sander et al. 2024 as published, beside the repetitions of words that it measures.

    In windows s_1..s_5 the least W with W s_t = s_{t+1} is rolled out from s_1, and windows with an error of at most
    1e-12 are dropped. With linearly independent vectors the error is exactly 0 unless a word stands twice and is
    followed by different words: it is a function of repetitions alone, and random vectors give the same windows.

    Args:
        words: of a text; those outside the vocabulary are left out.
        embedding: with vectors of more coordinates than a window has words.
        n: windows, drawn at random; all of them if there are fewer.
        seed: of the windows, of the permutation and of the random vectors.
    Raises:
        ValueError: vectors of fewer than 5 coordinates, or a text of fewer than 5 known words.
    """
    if not isinstance(embedding, TextEmbedding):
        raise ValueError(f"embedding must be a TextEmbedding, got a {type(embedding).__name__}.")
    check_integer("the dim of embedding", embedding.vectors.shape[1], low=5)
    ids = np.array(embedding.ids(words))
    check_integer("the number of known words", len(ids), low=5)
    rng = np.random.default_rng(check_seed(seed))
    random = TextEmbedding.random(embedding.words, dim=RANDOM_DIM, seed=seed)
    rows = []
    for order, text in (("as written", ids), ("permuted", rng.permutation(ids))):
        starts = rng.permutation(len(text) - 4)[: check_integer("n", n, low=1)]
        windows = torch.from_numpy(text[starts[:, None] + np.arange(5)])
        conflict = torch.from_numpy(repeats(text)[starts])
        kept, control = (_errors(one.vectors[windows]) > KEPT for one in (embedding, random))
        rows.append({
            "words": order,
            "kept": kept.double().mean().item(),
            "conflicts": conflict.double().mean().item(),
            "random": control.double().mean().item(),
            "disagree": int((kept != conflict).sum()),
        })  # fmt: skip
    return RolledOut(kept=pd.DataFrame(rows), n=min(n, len(ids) - 4))


def _errors(windows: Float[Tensor, "window 5 dim"]) -> Float[Tensor, "window"]:
    """|rolled out - s|^2 over a window, with the least-norm W of its four pairs applied from s_1 on."""
    inverse = torch.linalg.pinv(windows[:, :-1])  # [window dim 4]; W^T = inverse @ next
    state, error = windows[:, :1], torch.zeros(len(windows), dtype=windows.dtype, device=windows.device)
    for step in range(1, windows.shape[1]):
        state = state @ inverse @ windows[:, 1:]
        error += (state - windows[:, step : step + 1]).square().sum((1, 2))
    return error
