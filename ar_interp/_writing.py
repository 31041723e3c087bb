"""Files and folders that are written whole or not at all, by one writer at a time."""

import ctypes
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two writers apart
    fcntl = None

LONGEST_WAIT = 30.0  # seconds for another writer to be done
LOCK = ".lock"  # names the file by which a process has a folder to itself; its number is in it
SCRATCH = ".writing"  # ends the name of a file that is about to take another's place
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # exchanges, on some file systems


def write_file(path: str | Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8; until it is whole the path holds what was there before.

    A file that is replaced keeps its mode. What is no regular file (/dev/stdout, a pipe) is written to as it is.
    """
    path, data = Path(path), as_bytes(content) if isinstance(content, str) else content
    place = Path(os.path.realpath(path))
    with _faults_at(path):
        if _written_as_it_is(path):
            path.write_bytes(data)
            return path
        _replace(place, data)
    return path


def as_bytes(text: str) -> bytes:
    """The text in UTF-8; what came of a file's name and is no letter is escaped."""
    return text.encode(errors="backslashreplace")


def write_new(path: Path, data: bytes) -> None:
    """Write a file that nobody reads yet, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write(descriptor, data)
    finally:
        os.close(descriptor)


def try_file(path: str | Path) -> None:
    """Raise the OSError that writing a file would, as far as it can be known beforehand; nothing is changed."""
    path = Path(path)
    place = Path(os.path.realpath(path))
    with _faults_at(path):
        if _written_as_it_is(path):
            path.open("ab").close()
            return
        with suppress(FileNotFoundError):
            place.lstat()
        _try_folder(place.parent)


def try_folder(path: str | Path) -> None:
    """Raise the OSError that `exchanged` would, as far as it can be known beforehand; nothing is changed."""
    place = Path(os.path.realpath(path))
    with _faults_at(path):
        for each in (place, _saving(place)):
            with suppress(FileNotFoundError):
                each.lstat()
        if place.exists():
            _try_folder(place)
        _try_folder(next(parent for parent in place.parents if os.path.lexists(parent)))


@contextmanager
def exchanged(path: str | Path, is_ours: Callable[[str], bool], check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` once the block ends without an error.

    At every moment `path` is as it was or new and whole, and has the files in it that are not ours. A writer that was
    killed leaves a hidden folder beside it, which the next one clears away. Another writer is waited for.

    Args:
        path: the folder; those above it are made where they are missing.
        is_ours: whether a file of that name in it is ours, to be replaced.
        check: raises an error where what is there must stay.
    """
    place = Path(os.path.realpath(path))
    with _faults_at(path), _lock_beside(place):
        new, old = _saving(place) / place.name, _saving(place) / f"{place.name}.old"
        _clear(new, old, place, is_ours)
        check(place)
        try:
            new.mkdir(parents=True)
            yield new
            if place.exists():
                _keep(place, new, is_ours)
            _sync_folder(new)
            _swap(new, old, place)
            _sync_folder(place.parent)
        finally:
            _clear(new, old, place, is_ours)


@contextmanager
def claimed(folder: str | Path) -> Iterator[None]:
    """A folder, made where it is missing, that only this process works in; one that was killed holds it no longer.

    Raises:
        BlockingIOError: another process works in it; nothing is waited for.
    """
    lock = Path(folder) / LOCK
    with ExitStack() as stack:
        with _faults_at(folder):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = stack.enter_context(alone(lock, wait=0))
            except TimeoutError as error:
                owner = lock.read_bytes()[:20].decode(errors="replace")
                said = f"another process{f' ({owner})' * owner.isdecimal()} is at work in it"
                raise BlockingIOError(errno.EWOULDBLOCK, said) from error
            with suppress(OSError):  # the number is for that message alone
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
        yield


@contextmanager
def alone(path: Path, *, wait: float | None = None) -> Iterator[int]:
    """The descriptor of a file that only one process at a time has, while it lives; the file is removed afterwards.

    Args:
        wait: seconds for another process to let go of it; LONGEST_WAIT if left out.
    Raises:
        TimeoutError: it does not.
    """
    end = time.monotonic() + (LONGEST_WAIT if wait is None else wait)
    while True:
        with open(path, "r+b", buffering=0, opener=_open_or_make) as file:
            locked = _locked(file.fileno())
            if locked and _is_at(file.fileno(), path):
                try:
                    yield file.fileno()
                finally:
                    if _is_at(file.fileno(), path):
                        path.unlink()
                return
        if not locked and time.monotonic() >= end:
            raise TimeoutError(errno.ETIMEDOUT, "another process is writing it, for longer than usual", str(path))
        time.sleep(0.01)


def refuge_of(name: str, error: OSError) -> Path:
    """A path of this name in a new folder that can be written, for what cannot be written where it belongs.

    Raises:
        OSError: `error`, if there is no such place.
    """
    for folder in (tempfile.gettempdir, Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):  # also where there is no such folder
            return Path(tempfile.mkdtemp(prefix="ar-interp-", dir=folder())) / name
    raise error


@contextmanager
def _faults_at(path: str | Path) -> Iterator[None]:
    """Errors of the system name the path that was asked for, not a scratch file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _lock_beside(place: Path) -> Iterator[None]:
    with suppress(FileExistsError):
        place.parent.mkdir(parents=True)
    with alone(place.with_name(f".{place.name}.lock")):
        yield


def _replace(place: Path, data: bytes) -> None:
    with alone(_scratch_of(place)) as descriptor:
        if place.exists():
            shutil.copymode(place, _scratch_of(place))
        os.ftruncate(descriptor, 0)
        _write(descriptor, data)
        os.replace(_scratch_of(place), place)
        _sync_folder(place.parent)


def _written_as_it_is(path: Path) -> bool:
    return path.absolute().parts[:2] == ("/", "dev") or (path.exists() and not path.is_file())


def _scratch_of(place: Path) -> Path:
    return place.with_name(f".{place.name[:200]}{SCRATCH}")


def _saving(place: Path) -> Path:
    return place.with_name(f".{place.name}.saving")


def _try_folder(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".ar-interp-", dir=folder):
        pass


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _locked(descriptor: int) -> bool:
    """The lock is ours, until the descriptor is closed; also where the file system has none."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """The open file is the one at this path still, not one that was removed or took another's place."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _keep(place: Path, new: Path, is_ours: Callable[[str], bool]) -> None:
    """Put everything in a folder that is not ours into the new one too, as it is."""

    def ours(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder) == place and is_ours(name)}

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(place, new, symlinks=True, ignore=ours, copy_function=link, dirs_exist_ok=True)


def _swap(new: Path, old: Path, place: Path) -> None:
    """Put the new folder in its place, and what is there in the place of the new one, or aside, see `_clear`."""
    if not place.exists():
        new.rename(place)
    elif not _exchange(new, place):
        place.rename(old)
        new.rename(place)


def _exchange(one: Path, other: Path) -> bool:
    """Two folders change places in one step, where the system can do that."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_THERE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _clear(new: Path, old: Path, place: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove what a writer left, once the folder and all in it that is not ours is back in its place.

    Raises:
        FileExistsError: a folder that has the name of such a leftover and is none.
    """
    scratch = new.parent
    if not os.path.lexists(scratch):
        return
    if old.exists() and not place.exists():
        old.rename(place)
    left = [] if scratch.is_symlink() or not scratch.is_dir() else list(scratch.iterdir())
    inside = [entry for folder in left if folder in (new, old) for entry in folder.iterdir() if not is_ours(entry.name)]
    for entry in inside:
        if place.is_dir() and not os.path.lexists(place / entry.name):
            entry.rename(place / entry.name)
    theirs = [entry for entry in inside if not os.path.lexists(place / entry.name)]
    if scratch.is_symlink() or not scratch.is_dir() or set(left) - {new, old} or theirs:
        raise FileExistsError(f"{scratch} is in the way: it was not left by a writer of {place.name}. Move it.")
    shutil.rmtree(scratch, ignore_errors=True)
