"""Text as sequences of vectors: words, a vector for each, and documents of one length."""

import lzma
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ar_interp._checks import as_real_array, check_integer, check_seed
from ar_interp._files import opened, read_text
from ar_interp._shown import Shown

MAX_BYTES = 2**26  # of a text file, or of a file of vectors
MAX_WORDS = 2**20  # of a vocabulary
DATA = Path(__file__).parents[1] / "data"
GLOVE, HELP = DATA / "glove-pc32.npz", DATA / "python-help.txt.xz"


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: what stands between other characters than letters a to z.

    Raises:
        ValueError: no string.
    """
    return re.findall(r"[a-z]+", check_string("text", text).lower())


def words_of_file(path: str | Path) -> list[str]:
    """The words of a text file.

    Raises:
        CheckpointError: it is no regular file, no UTF-8, or larger than 64 MiB.
    """
    return words_of(read_text(Path(path), MAX_BYTES))


def check_string(name: str, value: object) -> str:
    """`value` where it is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {type(value).__name__}: decode bytes first.")
    return value


def several_words(words: Iterable[str]) -> list[str]:
    """Words as a list; one string, which would be read letter by letter, is refused."""
    if isinstance(words, str | bytes) or not isinstance(words, Iterable):
        raise ValueError(f"words must be several words, got {words!r:.60}: split a text by words_of(text).")
    return list(words)


@cache
def python_help() -> tuple[str, str]:
    """Python 3.11's own help, of which the package has a copy, and its SHA-256.

    The text is `pydoc_data.topics` of the standard library, in the order of its keys, joined by newlines.
    """
    encoded = lzma.decompress(HELP.read_bytes())
    return encoded.decode(), sha256(encoded).hexdigest()


def python_topics() -> tuple[list[str], str]:
    """The words of `python_help`, and its SHA-256."""
    text, digest = python_help()
    return words_of(text), digest


@dataclass(frozen=True, eq=False)
class TextEmbedding(Shown):
    """A vector for each word: the static embedding that makes a text a sequence s_1, s_2, ...

        embedding = TextEmbedding.glove()
        documents = embedding.documents(words_of(text), length=4000)     # [4000, 32] each

    Attributes:
        words: the vocabulary, each word once; others of a text are left out.
        vectors: one row for each.
    Raises:
        ValueError: not as many vectors as words, a word that stands twice, numbers that are not finite.
    """

    words: tuple[str, ...]
    vectors: Float[Tensor, "word dim"]

    def __post_init__(self) -> None:
        words = tuple(several_words(self.words))
        for word in words:
            check_string("each of words", word)
        check_integer("the number of words", len(words), low=1, high=MAX_WORDS)
        twice = next((word for word, n in Counter(words).items() if n > 1), None)
        if twice is not None:
            raise ValueError(f"words must be distinct, {twice!r} stands twice.")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "vectors", as_real_array("vectors", self.vectors, shape=(len(words), "dim")))

    @classmethod
    @cache
    def glove(cls) -> "TextEmbedding":
        """GloVe vectors of 7544 English words, 32 principal components of 100 (Pennington et al. 2014, PDDL)."""
        return cls.from_file(GLOVE)

    @classmethod
    def from_file(cls, path: str | Path) -> "TextEmbedding":
        """Vectors of your own, from an .npz file with `words` and `vectors` [word dim] and no Python objects.

        Raises:
            CheckpointError: the file cannot be read or is larger than 64 MiB.
            ValueError: it is no such file.
        """
        with opened(Path(path)) as (file, size):
            if size > MAX_BYTES:
                raise ValueError(f"{path} is larger than {MAX_BYTES} bytes.")
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    if sum(part.file_size for part in arrays.zip.infolist()) > MAX_BYTES:
                        raise ValueError(f"its arrays are larger than {MAX_BYTES} bytes")
                    words, vectors = arrays["words"], arrays["vectors"]
            except (
                ValueError,
                KeyError,
                EOFError,
                OSError,
                BadZipFile,
                TypeError,
                AttributeError,
                MemoryError,
            ) as error:
                raise ValueError(
                    f"{path} must be an .npz file with the arrays 'words' (strings) and 'vectors' [word dim], as "
                    f"np.savez(path, words=..., vectors=...) writes it: {error}"
                ) from error
        if words.dtype.kind != "U" or words.ndim != 1:
            raise ValueError(f"words must be a list of strings, got {words.dtype} {list(words.shape)}.")
        return cls(tuple(words.tolist()), as_real_array("vectors", vectors, shape=("word", "dim")))

    @classmethod
    def trained(cls, words: Iterable[str], *, n_words: int = 1000, dim: int = 32, window: int = 4) -> "TextEmbedding":
        """Vectors from a text alone: the SVD of its positive pointwise mutual information.

        U_dim sqrt(S_dim) of max(0, log (n_ij n / (n_i n_j))), n_ij the times that words i and j stand at most `window`
        apart, among the most frequent words (Levy and Goldberg 2014).

        Args:
            words: the text.
            n_words: size of the vocabulary, or all distinct words if there are fewer.
            dim: of a vector; at most the vocabulary.
            window: words on either side.
        Raises:
            ValueError: an empty text, or a size out of range.
        """
        check_integer("window", window, low=1)
        text = several_words(words)
        known = [word for word, _ in Counter(text).most_common(check_integer("n_words", n_words, low=1, high=20_000))]
        check_integer("the number of words in the text", len(text), low=window + 1)
        check_integer("dim", dim, low=1, high=len(known))
        place = {word: i for i, word in enumerate(known)}
        ids = np.array([place[word] for word in text if word in place])
        counts = np.zeros((len(known), len(known)))
        for apart in range(1, window + 1):
            np.add.at(counts, (ids[:-apart], ids[apart:]), 1.0)
        counts += counts.T
        totals = counts.sum(1)
        expected = np.outer(totals, totals) / max(counts.sum(), 1.0)
        information = np.log(np.divide(counts, expected, out=np.ones_like(counts), where=counts > expected))
        U, S, _ = np.linalg.svd(information)
        return cls(tuple(known), torch.from_numpy(U[:, :dim] * np.sqrt(S[:dim])))

    @classmethod
    def random(cls, words: Iterable[str], *, dim: int, seed: int) -> "TextEmbedding":
        """Random unit vectors for the words of a text: the control of whatever is said of embeddings.

        Raises:
            ValueError: no words, or a size or seed out of range.
        """
        known = sorted(set(several_words(words)))
        draws = np.random.default_rng(check_seed(seed)).normal(size=(len(known), check_integer("dim", dim, low=1)))
        return cls(tuple(known), torch.from_numpy(draws / np.linalg.norm(draws, axis=1, keepdims=True)))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def ids(self, words: Iterable[str]) -> list[int]:
        """Places in the vocabulary of those words of a text that are in it.

        Raises:
            ValueError: a text that is not split into words.
        """
        place = self._place
        return [place[word] for word in several_words(words) if word in place]

    def __call__(self, words: Iterable[str]) -> Float[Tensor, "pos dim"]:
        """The vectors of a text; words outside the vocabulary are left out."""
        return self.vectors[self.ids(words)]

    def documents(self, words: Sequence[str], *, length: int) -> list[Float[Tensor, "pos dim"]]:
        """A text as documents of `length` known words, one after another; what is left at its end is dropped.

        Raises:
            ValueError: fewer known words than one document takes.
        """
        length = check_integer("length", length, low=2)
        tokens = self(words)
        if len(tokens) < length:
            raise ValueError(
                f"length must be at most the number of known words, {len(tokens)} of {len(words)} here, got {length}."
            )
        return list(tokens[: len(tokens) // length * length].split(length))


def repeats(ids: Any, *, window: int = 5) -> np.ndarray:
    """Whether a word stands twice in a window of a text, followed by different words ("conflict"), for each window.

    [n - window + 1] booleans. Of the windows s_1..s_5 exactly these are not solved by s_{t+1} = W s_t, whatever the
    linearly independent vectors are: W s = s' asks for one successor of each word.

    Raises:
        ValueError: ids that are no list of integers or words, or fewer than a window has.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iuU"):
        raise ValueError(f"ids must be a list of integers or words, got {ids.dtype} {list(ids.shape)}.")
    check_integer("the number of ids", len(ids), low=check_integer("window", window, low=2))
    rows = np.lib.stride_tricks.sliding_window_view(ids, window)
    found = np.zeros(len(rows), dtype=bool)
    for first in range(window - 1):
        for second in range(first + 1, window - 1):
            found |= (rows[:, first] == rows[:, second]) & (rows[:, first + 1] != rows[:, second + 1])
    return found
