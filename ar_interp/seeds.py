"""Every seed that something is measured with, by its use; and how a seed becomes a generator.

Training takes seeds below `TRAINING_LIMIT`, all else has seeds from 2**40 on, so that nothing is measured on contexts
that training has seen, or against initial weights that it started from.
"""

import numpy as np
import torch

TRAINING_LIMIT = 2**31  # seeds of training lie below
_FIRST = 2**40

FINAL_LOSSES = _FIRST + 1  # contexts on which the members of an ensemble are compared
REFERENCES = _FIRST + 2  # least squares that stand where there is no closed form
TUNING = _FIRST + 3  # step sizes of estimators
DESCENT_CURVE = _FIRST + 4  # errors of so many gradient steps
UNTRAINED = _FIRST + 5  # initial weights of controls
CLAIMS = _FIRST + 6
HEADS = _FIRST + 7  # claims about diagonal heads
READOUT = _FIRST + 8
ESTIMATES = _FIRST + 9
SWAP_SOURCE = _FIRST + 10
SWAP_TARGET = _FIRST + 11
REMOVAL = _FIRST + 12
EDITED = _FIRST + 13
EXHIBITS = _FIRST + 14  # figures of explorer and report
EXHIBITS_SOURCE = _FIRST + 15
FUNCTION = _FIRST + 20  # tokens on which a model is compared with its own weights
OUTSIDE = _FIRST + 21  # contexts outside the training law
SWEEP = _FIRST + 22  # contexts on which the members of sweeps are measured
TRIED = _FIRST + 23  # a few contexts on which a model is run to see whether it can be
ANGLES = _FIRST + 19  # where in the grid of angles each coordinate starts
ASSERTIONS = _FIRST + 16
ASSERTIONS_SOURCE = _FIRST + 17
ASSERTIONS_TARGET = _FIRST + 18

DRAWN_LIMIT = 2**31  # seeds of an evaluation lie below
STATED = 0  # the evaluation of shipped tables, the report and the pytest plugin


def drawn(use: int, seed: int) -> int:
    """The seed of a use in the evaluation of this seed; the use's own for 0."""
    return use + 64 * seed


def generator_of(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for a seed of any size, see `narrowed`."""
    return torch.Generator(device).manual_seed(narrowed(seed))


def narrowed(seed: int) -> int:
    """The seed in 32 bits: as it is below 2**31, where training has its seeds, else mixed into [2**31, 2**32).

    torch's generator on the CPU reads only the lowest 32 bits of a seed (to it 2**40 is 0), and scikit-learn takes no
    more. All bits of the seed are mixed.
    """
    if seed < TRAINING_LIMIT:
        return seed
    return TRAINING_LIMIT + int(np.random.SeedSequence(seed).generate_state(1)[0]) % TRAINING_LIMIT
