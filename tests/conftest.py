"""What every test file shares. The annotations of ar_interp are checked at run time (pyproject.toml)."""

import gc
import signal

import jaxtyping
import pytest
import torch
import typechecking  # noqa: F401, which must come before the package
from hypothesis import settings
from torch import Tensor

collect_ignore = ["outside"]  # a package that only processes of their own import

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored by what they start in the background
torch.set_num_threads(1)  # the suite's tensors are small, and pytest-xdist brings the parallelism

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")

STANDARD_ERRORS = 4


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported stays, so that the garbage collector need not look through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def without_type_checks():
    """The package as users run it: its own checks answer, not the suite's run-time type checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def known_function():
    """Claims without the comparison of a model with its weights, half of their time: test_function is about that."""
    from zoo import known_function

    with known_function():
        yield


@pytest.fixture(scope="module")
def few_contexts():
    """Claims on 64 contexts, where a test is not about what they say."""
    from ar_interp.claims import Subject

    size = Subject.size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "size", lambda subject, needed: size(subject, min(needed, 64)))
        yield


@pytest.fixture
def few_pairs(monkeypatch):
    """Sequences that are swapped are as few as tell a fault."""
    from ar_interp.claims.tolerances import TOLERANCES

    for name in ("swap", "swap of patterns"):
        monkeypatch.setitem(TOLERANCES, name, TOLERANCES[name]._replace(deviation=0.25))


@pytest.fixture(scope="session")
def assert_mean():
    """assert_mean(samples, truth): the mean over the first axis is `truth` to within four standard errors."""

    def check(samples: Tensor, truth: Tensor | float) -> None:
        standard_error = samples.std(0) / len(samples) ** 0.5
        off = (samples.mean(0) - truth).abs() / standard_error
        assert (off < STANDARD_ERRORS).all(), f"{off.max():.2f} standard errors off"

    return check


@pytest.fixture(scope="session")
def random_tensor():
    """random_tensor(*shape, seed=...): float64 N(0, 1) entries."""

    def draw(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw
