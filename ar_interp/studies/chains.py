"""Next-token predictors with a chain of thought: which chains a sum over tokens can learn, and what it reads."""

from typing import Any

from ar_interp.models.next_token_config import NextTokenConfig
from ar_interp.processes.chains import ChainTask, Counting, NoisyXor, Parity, Permuted
from ar_interp.setting import ChainPredictors
from ar_interp.studies.base import Recipe, Study
from ar_interp.training.config import TrainConfig

SUBSET = (3, 14, 0, 9, 6, 11, 2, 8)  # of 16 bits, in the order in which chains read them
RIDGE = 1e-4


def _recipe(summary: str, task: ChainTask, batch: int, *, window: int | None = None, **options: Any) -> Recipe:
    """A predictor that minimises the loss of one sample of chains."""
    how: dict[str, Any] = {"objective": "sampled", "fresh": False, "optimizer": "lbfgs", "steps": 500, "ridge": RIDGE}
    return Recipe(
        summary=summary,
        config=NextTokenConfig.of(task, window=window),
        process=task,
        training=TrainConfig(**{**how, **options}, batch=batch, first_length=task.n_prompt, device="cpu"),
    )


def _parity(chain: str) -> Parity:
    return Parity(16, SUBSET, chain_of=chain)


STUDY = Study(
    name="chains",
    source="Malach 2023, arXiv 2309.06979",
    question="Which chains of thought can a linear next-token predictor learn, and what does it read?",
    covers=lambda setting: isinstance(setting, ChainPredictors),
    recipes={
        "chain-parity-joint": _recipe(
            "Parity of eight hidden bits by (state, bit) tokens: 200 chains are enough, and the bits are read off.",
            _parity("joint"),
            200,
            n_seeds=10,
        ),
        "chain-parity-and-xor": _recipe(
            "The same by AND and XOR of two bits at a time, in a vocabulary of two symbols.",
            _parity("and-xor"),
            200,
            n_seeds=10,
        ),
        "chain-parity-digits": _recipe(
            "The same by the four binary digits of the number of ones: the shortest chain there is, of small margin.",
            _parity("digits"),
            400,
            n_seeds=10,
        ),
        "chain-parity-count": _recipe(
            "The same by the number of ones in one token: representable, and not learned to .99 from 3000 chains.",
            _parity("count"),
            3000,
            n_seeds=8,
        ),
        "chain-parity-running": _recipe(
            "The same by the running parity, no token of which but the first is a halfspace: chance.",
            _parity("running"),
            3000,
            n_seeds=8,
        ),
        "chain-parity-none": _recipe(
            "The same without a chain: chance.",
            _parity("none"),
            3000,
            n_seeds=8,
        ),
        **{
            f"chain-counting-q{q}": _recipe(
                f"Counting modulo {q} by one shared window: it reads two tokens, with {q - 1} direction(s) for {q} "
                "states.",
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
            "The same from three tokens: the third newest alone tells of the next, twice as noisily.",
            NoisyXor(0.1, n_prompt=3, n_chain=20),
            5000,
            window=3,
            ridge=0.0,
            n_seeds=8,
        ),
    },
)
