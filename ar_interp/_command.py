"""How a command runs: its errors and signals as one line and an exit code, its jobs in processes, its files kept."""

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import RLock, Thread
from typing import TypeVar

from ar_interp._signals import ENDINGS, raising
from ar_interp._writing import refuge_of, try_file

S = TypeVar("S")
T = TypeVar("T")


def carried_out(command: Callable[[], int]) -> int:
    """Run a command; an error that a user can act on is one line on standard error, and its exit code comes back."""
    with warnings.catch_warnings(), raising() as came:
        _speak_plainly()
        try:
            try:
                _check_folder()
                return command()
            finally:
                _flush()
        except (KeyboardInterrupt, Exception) as error:
            with suppress(OSError):
                _flush()
            code, said = ENDINGS[signal.Signals(came[0])] if came else _judged(error)
            with suppress(OSError):
                print(" ".join([f"ar-interp: {said}", *getattr(error, "__notes__", ())]), file=sys.stderr, flush=True)
            return code


def _check_folder() -> None:
    """Refuse to work in a folder that was removed: paths mean nothing there, and libraries end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise OSError(f"the current folder cannot be used: {said_of(error)} Change to another one.") from error


def _judged(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what is said of it: one line, or where it came from if it is a fault of ours."""
    if isinstance(error, KeyboardInterrupt):
        return ENDINGS[signal.SIGINT]
    of_memory = isinstance(error, RuntimeError) and "memory" in str(error)
    if of_memory or isinstance(error, ValueError | OSError | MemoryError | BrokenExecutor):
        return 2, said_of(error)
    return 2, "".join(traceback.format_exception(error))


def _speak_plainly() -> None:
    """Warnings are one line; what a terminal cannot show is escaped."""
    warnings.showwarning = lambda message, *_: print(f"ar-interp: {said_of(message)}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def said_of(error: BaseException | str) -> str:
    """Text of an error or a warning, in one line."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    return " ".join(str(error).split()) or f"{type(error).__name__}."


def _flush() -> None:
    """Write what was printed; where that fails, nothing more is, also not when Python ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


def each(job: Callable[[S], T], subjects: Iterable[S], jobs: int) -> Iterator[T]:
    """The results of a job for every subject, in order, as they come; no more processes than subjects."""
    subjects = list(subjects)
    jobs = min(jobs, len(subjects))
    if jobs <= 1:
        yield from map(job, subjects)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        try:
            yield from pool.map(job, subjects)
        except (KeyboardInterrupt, GeneratorExit):
            for worker in active_children():
                worker.terminate()
            raise


def _begin_worker() -> None:
    """A worker is ended by the process that started it, leaves nothing to the system then, and speaks as that does."""
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    tqdm.set_lock(RLock())  # its own lock is a semaphore of the system, which outlives a process that is ended
    _speak_plainly()


def _end_with(parent: BaseProcess) -> None:
    """End this process as SIGTERM does once its parent is gone, also where that was killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def kept(write: Callable[[Path], Path], path: Path) -> Path:
    """Write what was computed; where that fails, into a place that can be written, which the error names."""
    try:
        return write(path)
    except OSError as error:
        refuge = write(refuge_of(path.name, error))
        raise OSError(f"{said_of(error)} What was computed is kept as {refuge}.") from error


def check_file(option: str, path: Path, ending: str) -> None:
    """Refuse what cannot be written before anything is measured."""
    if path.suffix.lower() != ending or path.is_dir():
        raise ValueError(f"--{option} must be a file that ends in {ending}, got {path}{' (a folder)' * path.is_dir()}.")
    if not path.parent.is_dir():
        raise ValueError(f"--{option}: there is no folder {path.parent}; make it first.")
    try_file(path)
