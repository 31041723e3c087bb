"""Nothing is measured on what training has seen, nor against weights that it started from."""

import re
from pathlib import Path

import pytest
import torch

import ar_interp as ari
from ar_interp import seeds
from ar_interp.seeds import TRAINING_LIMIT, generator_of, narrowed

USES = {name: value for name, value in vars(seeds).items() if name.isupper() and not name.startswith("_")}
for name in ("TRAINING_LIMIT", "DRAWN_LIMIT", "STATED"):
    USES.pop(name)
PACKAGE = Path(ari.__file__).parent


def numbers(generator: torch.Generator) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator).tolist())


def test_every_use_has_a_stream_of_its_own():
    assert min(USES.values()) >= 2**40
    assert len({numbers(generator_of(seed)) for seed in USES.values()}) == len(USES)


def test_torch_alone_would_draw_what_training_draws():
    """Why seeds are narrowed here: the CPU's generator takes the lowest 32 bits."""
    raw = [torch.Generator().manual_seed(seed) for seed in (0, 2**40)]
    assert numbers(raw[0]) == numbers(raw[1])
    assert numbers(generator_of(0)) != numbers(generator_of(2**40))


@pytest.mark.parametrize("seed", [*USES.values(), 2**31, 2**32, 2**40, 2**62, 10**30])
def test_seeds_of_measurements_do_not_meet_those_of_training(seed):
    assert TRAINING_LIMIT <= narrowed(seed) < 2**32


@pytest.mark.parametrize("seed", [0, 1, 1023, TRAINING_LIMIT - 1])
def test_seeds_of_training_are_taken_as_they_are(seed):
    assert numbers(generator_of(seed)) == numbers(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("seed", "n_seeds"), [(2**31 - 1, 2), (2**31, 1), (2**40, 1)])
def test_training_is_capped_below(seed, n_seeds, without_type_checks):
    with pytest.raises(ValueError, match="at most"):
        ari.TrainConfig(seed=seed, n_seeds=n_seeds)
    assert ari.TrainConfig(seed=2**31 - 8, n_seeds=8).n_seeds == 8


def test_fresh_contexts_are_not_the_first_batch_of_training():
    process = ari.HaarOrthogonal(3)
    batch = process.contexts(128, 4, seed=0).W
    for seed in USES.values():
        assert not torch.isclose(process.contexts(256, 4, seed=seed).W[:128], batch).all((-1, -2)).any()


def test_generators_are_made_in_one_place():
    makes = re.compile(r"Generator\([^)]*\)\.manual_seed|torch\.manual_seed|random_state=(?!narrowed)\w*seed")
    found = [
        f"{file.name}: {line.strip()}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "seeds.py"
        for line in file.read_text("utf-8").splitlines()
        if makes.search(line)
    ]
    assert not found, "\n".join(found)
