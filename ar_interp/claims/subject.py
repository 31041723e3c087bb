"""`Subject`: a model with what it is about, of which claims and exhibits are made."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ar_interp._checks import check_integer
from ar_interp.checkpoints import Checkpoint, TrainingRun, loaded
from ar_interp.models.base import Config
from ar_interp.processes import Process
from ar_interp.processes.base import check_process
from ar_interp.seeds import DRAWN_LIMIT, drawn
from ar_interp.setting import Setting, setting_of


@dataclass(frozen=True)
class Subject:
    """A model, the process that it is about, and how it was trained where that is known.

    Attributes:
        name: of the checkpoint, else of the model's type.
        model: a `HookedARTransformer` or a conforming model.
        config: of the model; of a foreign one that of bare diagonal heads where its weights are such, else what
            it states.
        process: what it is about, or None.
        run: the checkpoint or training run; None for a model alone.
        n: how many contexts each measurement takes; None for as many as each needs.
        seed: that all of its contexts are drawn with.
    """

    name: str
    model: Any
    config: Any
    process: Process | None
    run: TrainingRun | None = None
    n: int | None = None
    seed: int = 0

    @cached_property
    def setting(self) -> Setting:
        """The part of theory that speaks of it."""
        return setting_of(self.config, self.process)

    def size(self, needed: int) -> int:
        """Number of contexts to measure on where `needed` is what a claim was planned with."""
        return needed if self.n is None else self.n

    def seed_of(self, use: int) -> int:
        """The seed of contexts for a use, see `seeds`."""
        return drawn(use, self.seed)


def subject_of(subject: Any, process: Process | None = None, *, n: int | None = None, seed: int = 0) -> Subject:
    """The `Subject` of a checkpoint, a run or a model, of which claims and exhibits are made.

    Args:
        subject: a `Checkpoint`, a `TrainingRun`, a conforming model, or the name or folder of a checkpoint.
        process: the family; the subject's own if left out.
        n, seed: see `Subject`; n >= 2, 0 <= seed < 2**31.
    Raises:
        ValueError: a process that the model cannot be about.
    """
    if n is not None:
        check_integer("n", n, low=2)
    check_process(process)
    check_integer("seed", seed, low=0, high=DRAWN_LIMIT - 1)
    subject = loaded(subject, "subject")
    run = subject if isinstance(subject, TrainingRun) else None
    model = subject if run is None else run.model
    if run is not None and run.origin:  # claims about training are about one from the config's own initial law
        run = None
    config, found = _config_of(model), process or getattr(subject, "process", None)
    if found is not None and isinstance(config, Config):
        config.check_process(found)
    return Subject(
        name=subject.name if isinstance(subject, Checkpoint) else type(model).__name__,
        model=model,
        config=config,
        process=found,
        run=run,
        n=n,
        seed=seed,
    )


def _config_of(model: Any) -> Any:
    from ar_interp.models.opened import as_model  # loads TransformerLens

    opened = as_model(model)
    if isinstance(opened.config, Config):
        return opened.config
    with suppress(ValueError):
        return opened.bare_config
    return opened.config
