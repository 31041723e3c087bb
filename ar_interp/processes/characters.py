"""Characters of a text as a task for next-token predictors: windows of the help pages of Python."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_choice, check_integer
from ar_interp._files import check_text
from ar_interp._resident import resident
from ar_interp.processes.chains import MAX_TOKENS, PARTS, ChainTask, without_repetition
from ar_interp.processes.text import check_string, python_help

NAMES = {" ": "blank", "\n": "newline"}
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0 \n.,'()\"-_"
SHARE = 0.9  # of the text that is trained on; the rest is held out


def characters_of(text: str) -> str:
    """A text in 37 characters.

    Lower case, every digit a 0, other characters than letters, digits, blank, newline and . , ' ( ) " - _ left out, and
    of a run of blanks and newlines the first.

    Raises:
        ValueError: no string.
    """
    check_string("text", text)
    known = re.sub(r"[^a-z0 \n.,'()\"\-_]", "", re.sub(r"[0-9]", "0", text.lower()))
    return re.sub(r"([ \n])[ \n]+", r"\1", known)


@dataclass(frozen=True)
class Characters(ChainTask):
    """Windows of Python's own help, see `processes.text.python_help`: some characters, and those that follow.

    A window begins at each multiple of `n_chain`, so that together they predict each character of the part once; they
    are drawn without repetition as far as there are so many.

    Args:
        n_prompt: characters that are given.
        n_chain: characters that are predicted.
        part: `train`, the first nine tenths of the text, `held-out`, the rest, or `all`.
        sha256: of the text, that of the package's copy if left out. Contexts of another text are refused.
    """

    kind: ClassVar[str] = "characters"
    meaning: ClassVar[str] = "windows of the text of Python's help in 37 characters"
    follows: ClassVar[bool] = False

    n_prompt: int = 8  # type: ignore[assignment] - a field here
    n_chain: int = field(default=64, kw_only=True)  # type: ignore[assignment]
    part: str = field(default="all", kw_only=True)
    sha256: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_integer("n_prompt", self.n_prompt, low=1, high=MAX_TOKENS // 2)
        check_integer("n_chain", self.n_chain, low=1, high=MAX_TOKENS // 2)
        check_choice("part", self.part, PARTS)
        check_text("sha256", self.sha256)
        object.__setattr__(self, "sha256", self.sha256 or python_help()[1])

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(NAMES.get(character, character) for character in CHARACTERS)

    @property
    def unseen(self) -> "Characters":
        part = "held-out" if self.part == "train" else self.part
        return Characters(self.n_prompt, n_chain=self.n_chain, part=part, sha256=self.sha256)

    @property
    def ids(self) -> Int[Tensor, "pos"]:
        """The part of the text.

        Raises:
            ValueError: the package has another text.
        """
        ids, found = _ids(self.part)
        if found != self.sha256:
            raise ValueError(
                f"sha256 must be that of the text that this version of ar_interp has, {found[:12]}..., got "
                f"{self.sha256[:12]}...: leave it out, or use the version that the process was made with."
            )
        return ids

    @property
    def n_windows(self) -> int:
        """Windows that the part holds."""
        return (len(self.ids) - self.n_prompt) // self.n_chain

    def draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        windows = resident(self.ids, generator.device).unfold(0, self.n_prompt + self.n_chain, self.n_chain)
        return windows[without_repetition(len(windows), n, generator)]

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        return self.draw(n, generator)[:, : self.n_prompt]

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        """Refused: what follows in a text is not told by the characters before.

        Raises:
            ValueError: always.
        """
        raise ValueError("what follows a prompt stands in the text alone: draw windows with `contexts`.")


@cache
def _ids(part: str) -> tuple[Tensor, str]:
    """A part of the text, and the SHA-256 of the whole."""
    text, sha256 = python_help()
    place = {character: i for i, character in enumerate(CHARACTERS)}
    ids = torch.tensor([place[c] for c in characters_of(text)], dtype=torch.int64, device="cpu")
    cut = int(SHARE * len(ids))
    return {"all": ids, "train": ids[:cut], "held-out": ids[cut:]}[part], sha256
