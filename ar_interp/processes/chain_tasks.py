"""Tasks that a chain of thought helps with: parity, counting, a permutation, an xor with noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ar_interp._checks import check_choice, check_integer, check_number
from ar_interp.processes.chains import MAX_SYMBOLS, MAX_TOKENS, ChainTask

CHAINS = ("none", "running", "and-xor", "joint", "digits", "count")


@dataclass(frozen=True)
class Parity(ChainTask):
    """The parity of a hidden subset of uniform bits, by a chain.

        none        the answer alone
        running     the parity of the first t bits of the subset: no token of it but the first is a halfspace
        and-xor     AND and XOR of the parity so far and the next bit by turns
        joint       (parity so far, next bit) as one symbol, then the answer
        digits      the binary digits of the number of ones, top first: the last is the parity
        count       the number of ones as one symbol, then the answer

    Args:
        n_bits: of a prompt.
        subset: places of the bits that count, from 0, in the order in which the chain reads them; all if left out.
        chain: one of those above.
    """

    kind: ClassVar[str] = "parity"
    meaning: ClassVar[str] = "uniform bits; the answer is the parity of a hidden subset of them"

    n_bits: int = 16
    subset: Sequence[int] = None  # type: ignore[assignment] - all bits, a tuple from __post_init__ on
    chain_of: str = field(default="joint", kw_only=True)

    def __post_init__(self) -> None:
        check_integer("n_bits", self.n_bits, low=1, high=MAX_TOKENS // 4)
        check_choice("chain_of", self.chain_of, CHAINS)
        given = range(self.n_bits) if self.subset is None else self.subset
        subset = _in_order("subset", given, high=self.n_bits - 1)
        if not subset:
            raise ValueError("subset is empty; leave it out for all bits.")
        if len(set(subset)) < len(subset):
            raise ValueError(f"subset must name each bit once, got {subset}.")
        object.__setattr__(self, "subset", subset)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        further = {
            "joint": tuple(f"{state},{bit}" for state in (0, 1) for bit in (0, 1)),
            "count": tuple(f"#{ones}" for ones in range(len(self.subset) + 1)),
        }
        return ("0", "1", *further.get(self.chain_of, ()))

    @property
    def n_prompt(self) -> int:
        return self.n_bits

    @property
    def n_chain(self) -> int:
        k = len(self.subset)
        lengths = {"none": 1, "running": k, "and-xor": max(1, 2 * (k - 1)), "joint": k + 1, "digits": k.bit_length()}
        return lengths.get(self.chain_of, 2)

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        return torch.randint(0, 2, (n, self.n_bits), generator=generator, device=generator.device)

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        bits = prompts[:, list(self.subset)]
        ones, so_far = bits.sum(1, keepdim=True), bits.cumsum(1) % 2
        before = so_far - bits  # modulo 2 the parity before each bit, as 0 or -1 or 1
        if self.chain_of == "none":
            return ones % 2
        if self.chain_of == "running":
            return so_far
        if self.chain_of == "joint":
            return torch.cat([2 + 2 * (before % 2) + bits, ones % 2], dim=1)
        if self.chain_of == "count":
            return torch.cat([2 + ones, ones % 2], dim=1)
        if self.chain_of == "digits":
            places = torch.arange(self.n_chain - 1, -1, -1, device=prompts.device)
            return ones >> places & 1
        if bits.shape[1] == 1:
            return bits
        both = torch.stack([(before % 2) & bits, so_far], dim=2)  # AND, then XOR, of each bit from the second on
        return both[:, 1:].flatten(1)


@dataclass(frozen=True)
class Counting(ChainTask):
    """The number of ones among uniform bits, modulo q, by a chain of (state, bit) that a shared window can read.

    The prompt is n bits and "=", so that every bit stands n + 1 tokens before the symbol that takes it up, and every
    state one token before the next.

    Args:
        n_bits: of a prompt; >= 1.
        modulus: q >= 2.
    """

    kind: ClassVar[str] = "counting"
    meaning: ClassVar[str] = "uniform bits; the answer is their number of ones, modulo q"

    n_bits: int = 10
    modulus: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        check_integer("n_bits", self.n_bits, low=1, high=MAX_TOKENS // 4)
        check_integer("modulus", self.modulus, low=2, high=MAX_SYMBOLS // 4)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        q = range(self.modulus)
        return ("0", "1", "=", *(f"{state},{bit}" for state in q for bit in (0, 1)), *(f"#{state}" for state in q))

    @property
    def n_prompt(self) -> int:
        return self.n_bits + 1

    @property
    def n_chain(self) -> int:
        return self.n_bits + 1

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        bits = torch.randint(0, 2, (n, self.n_bits), generator=generator, device=generator.device)
        return torch.cat([bits, torch.full_like(bits[:, :1], 2)], dim=1)

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        bits = prompts[:, :-1]
        after = bits.cumsum(1) % self.modulus
        before = (after - bits) % self.modulus
        return torch.cat([3 + 2 * before + bits, 3 + 2 * self.modulus + after[:, -1:]], dim=1)


@dataclass(frozen=True)
class Permuted(ChainTask):
    """One-hot s_{t+1} = P s_t for one permutation P: orthogonal autoregression over a vocabulary.

    Args:
        permutation: the successor of each symbol, from 0.
        n_chain: tokens after the first, which is uniform.
    """

    kind: ClassVar[str] = "permuted"
    meaning: ClassVar[str] = "a uniform symbol, then its images under one permutation"

    permutation: Sequence[int]
    n_chain: int = field(default=8, kw_only=True)  # type: ignore[assignment] - a field here

    def __post_init__(self) -> None:
        permutation = _in_order("permutation", self.permutation)
        if sorted(permutation) != list(range(len(permutation))) or not permutation:
            raise ValueError(f"permutation must hold each of 0..n-1 once, got {permutation}.")
        check_integer("the length of permutation", len(permutation), low=1, high=MAX_SYMBOLS)
        check_integer("n_chain", self.n_chain, low=1, high=MAX_TOKENS)
        object.__setattr__(self, "permutation", permutation)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.permutation))))

    @property
    def n_prompt(self) -> int:
        return 1

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        return torch.randint(0, len(self.permutation), (n, 1), generator=generator, device=generator.device)

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        image = torch.tensor(self.permutation, dtype=torch.int64, device=prompts.device)
        symbols, chain = prompts[:, -1], []
        for _ in range(self.n_chain):
            symbols = image[symbols]
            chain.append(symbols)
        return torch.stack(chain, dim=1)


@dataclass(frozen=True)
class NoisyXor(ChainTask):
    """x_t = x_{t-1} xor x_{t-2} xor n_t with P(n_t = 1) = flip, from two uniform bits on.

    No token tells anything of the next that is not told by a linear predictor of three tokens, and that is less than
    what there is to know: see `theory.noisy_xor_loss`.

    Args:
        flip: within [0, 1].
        n_prompt: tokens that are given; >= 2.
        n_chain: tokens that are predicted.
    """

    kind: ClassVar[str] = "noisy-xor"
    meaning: ClassVar[str] = "bits of which each is the xor of the two before it, flipped at random"
    follows: ClassVar[bool] = False

    flip: float = 0.1
    n_prompt: int = field(default=3, kw_only=True)  # type: ignore[assignment] - a field here
    n_chain: int = field(default=8, kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "flip", check_number("flip", self.flip, low=0.0))
        if self.flip > 1 or math.isnan(self.flip):
            raise ValueError(f"flip must be at most 1, got {self.flip}.")
        check_integer("n_prompt", self.n_prompt, low=2, high=MAX_TOKENS)
        check_integer("n_chain", self.n_chain, low=1, high=MAX_TOKENS)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("0", "1")

    def draw_prompts(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch prompt"]:
        first = torch.randint(0, 2, (n, 2), generator=generator, device=generator.device)
        return torch.cat([first, self._following(first, self.n_prompt - 2, generator)], dim=1)

    def chain(self, prompts: Int[Tensor, "batch prompt"], generator: torch.Generator) -> Int[Tensor, "batch chain"]:
        return self._following(prompts, self.n_chain, generator)

    def _following(self, bits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        draws = torch.rand(len(bits), n, generator=generator, device=bits.device, dtype=torch.float64)
        flips = (draws < self.flip).long()
        tokens = [bits[:, -2], bits[:, -1]]
        for t in range(n):
            tokens.append(tokens[-1] ^ tokens[-2] ^ flips[:, t])
        return torch.stack(tokens, dim=1)[:, 2:]


def _in_order(name: str, values: object, high: int | None = None) -> tuple[int, ...]:
    """Integers from 0 to `high`, as they come."""
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be several integers, such as [{values!r}], got {values!r}.")
    return tuple(check_integer(name, value, low=0, high=high) for value in values)
