"""The next-token predictors of the study of chains, and how they are trained."""

from typing import Any

from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes import ChainTask, Characters, Counting, NoisyXor, Parity, Permuted, Products
from ar_interp.studies.base import Recipe
from ar_interp.training.config import TrainConfig

SUBSET = (3, 14, 0, 9, 6, 11, 2, 8)  # of 16 bits, in the order in which chains read them
PARITIES = {  # chain -> what it teaches, from how many chains, with how many seeds
    "joint": ("by (state, bit) tokens: 200 chains are enough, and the bits are read off", 200, 10),
    "and-xor": ("by AND and XOR of two bits at a time, in a vocabulary of two symbols", 200, 10),
    "digits": ("by the binary digits of their number of ones: the shortest chain, a small margin", 400, 10),
    "count": ("by their number of ones: representable, not learned to .99 from 3000 chains", 3000, 8),
    "running": ("by the running parity, no token of which but the first is a halfspace: chance", 3000, 8),
    "none": ("without a chain: chance", 3000, 8),
}
RIDGE = 1e-4
HELP = "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"  # SHA-256 of the text


def _recipe(
    summary: str, task: ChainTask, batch: int, *, window: int | None = None, dtype: str = "float64", **options: Any
) -> Recipe:
    """A predictor that minimises the loss of one sample of chains."""
    how: dict[str, Any] = {"objective": "sampled", "fresh": False, "optimizer": "lbfgs", "steps": 500, "ridge": RIDGE}
    return Recipe(
        summary=summary,
        config=NextTokenConfig.of(task, window=window, dtype=dtype),
        process=task,
        training=TrainConfig(**{**how, **options}, batch=batch, first_length=task.n_prompt, device="cpu"),
    )


RECIPES: dict[str, Recipe] = {
    **{
        f"chain-parity-{chain}": _recipe(
            f"Parity of eight hidden bits {what}.", Parity(16, SUBSET, chain_of=chain), n, n_seeds=n_seeds
        )
        for chain, (what, n, n_seeds) in PARITIES.items()
    },
    **{
        f"chain-counting-q{q}": _recipe(
            f"Counting modulo {q} by one shared window: it reads two tokens, with {q - 1} direction(s) for {q} states.",
            Counting(10, modulus=q),
            200,
            window=11,
            ridge=1e-3,
            n_seeds=8,
        )
        for q in (2, 3, 5)
    },
    "chain-permutation": _recipe(
        "One cycle of seven symbols: the trained map is the permutation, its eigenvalues roots of unity.",
        Permuted((1, 2, 3, 4, 5, 6, 0)),
        60,
        window=1,
        ridge=8e-4,
    ),
    "chain-noisy-xor-k2": _recipe(
        "x_t = x_{t-1} xor x_{t-2} xor noise from the two tokens that make it: nothing can be learned.",
        NoisyXor(0.1, n_prompt=2, n_chain=20),
        5000,
        window=2,
        ridge=0.0,
        n_seeds=8,
    ),
    "chain-noisy-xor-k3": _recipe(
        "x_t = x_{t-1} xor x_{t-2} xor noise from three tokens: the third newest alone tells, twice as noisily.",
        NoisyXor(0.1, n_prompt=3, n_chain=20),
        5000,
        window=3,
        ridge=0.0,
        n_seeds=8,
    ),
    "chain-products": _recipe(
        "Two digits times two digits by 35 look-ups: from 5000 products nearly all others are right.",
        Products(2, part="train"),
        5000,
        dtype="float32",
        n_seeds=8,
    ),
    "chain-products-columns": _recipe(
        "Two digits times two digits by sums of columns, which weights by hand always write: one in eight is right.",
        Products(2, chain_of="columns", part="train"),
        5000,
        dtype="float32",
        n_seeds=8,
    ),
    "chain-products-none": _recipe(
        "Two digits times two digits without a chain: one product in thirty or forty is right.",
        Products(2, chain_of="none", part="train"),
        5000,
        n_seeds=8,
    ),
    "chain-text-k1": _recipe(
        "Characters of Python's help from the one before: the table of pairs, whose loss is their entropy.",
        Characters(1, part="train", sha256=HELP),
        5856,
        window=1,
        ridge=0.0,
        steps=200,
    ),
    "chain-text-k8": _recipe(
        "Characters of Python's help from the last eight: better than pairs, short of triples, which no sum is.",
        Characters(8, part="train", sha256=HELP),
        16,
        window=8,
        ridge=0.0,
        fresh=True,
        optimizer="adam",
        lr=0.02,
        schedule="cosine",
        steps=2500,
    ),
}
