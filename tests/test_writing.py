"""What is written is there whole or not at all, whatever happens on the way, and so is all that lay beside it."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from ar_interp import _writing
from ar_interp._writing import LOCK, claimed, exchanged, refuge_of, try_file, try_folder, write_file, write_new

OURS = ("weights", "config")
OLD, NEW = (dict.fromkeys(OURS, text) for text in ("old", "new"))
THEIRS = {"notes.txt": "years of work", "plots/config": "theirs too"}
CALLS = ("open", "close", "write", "ftruncate", "fsync", "chmod", "utime", "stat", "lstat", "scandir")
CALLS += ("mkdir", "rename", "replace", "link", "unlink", "rmdir")


def write_folder(place, content=NEW) -> None:
    with exchanged(place, OURS.__contains__, lambda place: None) as folder:
        for name, text in content.items():
            write_new(folder / name, text.encode())


def content_of(place) -> dict[str, str]:
    return {str(file.relative_to(place)): file.read_text() for file in sorted(place.rglob("*")) if file.is_file()}


def make_old(place) -> None:
    write_folder(place, OLD)
    (place / "plots").mkdir()
    for name, text in THEIRS.items():
        (place / name).write_text(text)


@contextmanager
def fault_at_call(number, fault):
    """`fault()` before the system call of that number; whether it came to that."""
    came, left = [], [number]

    def faulty(call):
        def called(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                came.append(True)
                fault()
            return call(*arguments, **options)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, faulty(getattr(os, name)))
        patch.setattr(_writing, "_exchange", faulty(_writing._exchange))
        patch.setattr(_writing.fcntl, "flock", faulty(_writing.fcntl.flock))
        yield came


def interrupt():
    raise KeyboardInterrupt


def fill_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def killed_at_call(number, place) -> bool:
    """A process that writes the folder dies before the system call of that number; False where it ends before."""
    child = os.fork()
    if child == 0:
        with fault_at_call(number, lambda: os._exit(9)):
            write_folder(place)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(("there", "in_one_step"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("fault", [fill_disk, interrupt, None], ids=["disk full", "interrupt", "kill"])
def test_a_fault_between_any_two_system_calls_loses_nothing(fault, there, in_one_step, tmp_path):
    place = tmp_path / "parent" / "x"
    if fault is None:  # in a small process, which forks quickly
        lines = "from pathlib import Path", "from test_writing import nothing_is_lost"
        call = f"nothing_is_lost(None, {there}, {in_one_step}, Path({str(place)!r}))"
        subprocess.run([sys.executable, "-c", "; ".join([*lines, call])], cwd=Path(__file__).parent, check=True)
    else:
        nothing_is_lost(fault, there, in_one_step, place)


def nothing_is_lost(fault, there, in_one_step, place) -> None:
    """A folder is written again and again, each time with a fault one system call later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        if not in_one_step:
            patch.setattr(_writing, "_exchange", lambda one, other: False)
        before = {**OLD, **THEIRS} if there else None
        after = {**NEW, **THEIRS} if there else NEW
        for number in range(1, 10_000):
            shutil.rmtree(place.parent, ignore_errors=True)
            if there:
                make_old(place)
            if fault is None:
                came = killed_at_call(number, place)
            else:
                with fault_at_call(number, fault) as faults:
                    try:
                        write_folder(place)
                    except (OSError, KeyboardInterrupt):
                        assert faults
                came = bool(faults)
            if not came:
                break
            found = content_of(place) if place.exists() else None
            between_renames = fault is None and there and not in_one_step and found is None
            assert found in (before, after) or between_renames, number
            write_folder(place)
            assert content_of(place) == after, number
            assert os.listdir(place.parent) == ["x"], number
        assert number > 25
        assert content_of(place) == after


def test_what_is_not_ours_stays_the_same_file(tmp_path):
    make_old(tmp_path / "x")
    (tmp_path / "x" / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "x" / "pipe")
    before = (tmp_path / "x" / "notes.txt").stat()
    write_folder(tmp_path / "x")
    assert os.path.samestat((tmp_path / "x" / "notes.txt").stat(), before)
    assert os.readlink(tmp_path / "x" / "link") == "nowhere"
    assert stat.S_ISFIFO((tmp_path / "x" / "pipe").stat().st_mode)


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    make_old(tmp_path / "x")
    (tmp_path / "latest").symlink_to("x")
    write_folder(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert content_of(tmp_path / "x") == {**NEW, **THEIRS}


@pytest.mark.parametrize("name", ["somebody's.txt", "x/somebody's.txt"])
def test_a_folder_that_only_looks_like_a_leftover_is_left_alone(tmp_path, name):
    file = tmp_path / ".x.saving" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(FileExistsError, match=r"\.x\.saving is in the way: it was not left by a writer of x\. Move it"):
        write_folder(tmp_path / "x")
    assert file.read_text() == "precious"


def test_two_writers_take_turns(tmp_path):
    writers = [
        threading.Thread(target=write_folder, args=(tmp_path / "x", dict.fromkeys(OURS, str(k)))) for k in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(content_of(tmp_path / "x").values())) == 1
    assert os.listdir(tmp_path) == ["x"]


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    path, locked, others = tmp_path / "lock", _writing._locked, [b"another writer's"]

    def locked_late(descriptor):
        if others:
            path.unlink()
            path.write_bytes(others.pop())
        return locked(descriptor)

    monkeypatch.setattr(_writing, "_locked", locked_late)
    with _writing.alone(path) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())


def test_a_writer_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(_writing, "LONGEST_WAIT", 0.05)
    with (
        exchanged(tmp_path / "x", OURS.__contains__, lambda place: None),
        pytest.raises(TimeoutError, match="another process is writing it"),
    ):
        write_folder(tmp_path / "x")


def test_files_have_the_mode_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "x")
        write_file(tmp_path / "x" / "page", "text")
        private = tmp_path / "private"
        private.write_text("")
        private.chmod(0o600)
        write_file(private, "text")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "x").iterdir()} == {0o640}
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o750
    assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("fault", [fill_disk, interrupt])
def test_a_file_is_as_before_or_whole(tmp_path, fault, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    file = tmp_path / "page"
    for number in range(1, 1000):
        file.write_text("old")
        with fault_at_call(number, fault) as faults:
            try:
                write_file(file, "ŵ")
            except (OSError, KeyboardInterrupt):
                assert faults
        assert file.read_text("utf-8") in ("old", "ŵ")
        if not faults:
            break
    write_file(file, "ŵ")
    assert number > 10
    assert os.listdir(tmp_path) == ["page"]


def test_a_file_that_is_none_is_written_as_it_is(tmp_path):
    write_file("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "page").write_text("old")
    (tmp_path / "link").symlink_to("page")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page").read_text() == "new"


@pytest.mark.parametrize("attempt", [try_file, try_folder, lambda path: write_file(path, ""), write_folder])
@pytest.mark.parametrize(
    ("path", "kind"),
    [("file/x", "Not a directory"), ("n" * 300, "File name too long"), ("/proc/no/x", "No such file or directory")],
)
def test_a_place_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, path, kind, attempt):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=kind) as found:
        attempt(tmp_path / path)
    assert found.value.filename == str(tmp_path / path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    try_file(tmp_path / "page")
    try_folder(tmp_path / "a" / "b")
    try_file("/dev/null")
    assert os.listdir(tmp_path) == []


def test_the_refuge_is_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = refuge_of("x", OSError("full"))
    assert path.name == "x"
    assert path.parent.parent == tmp_path
    assert path.parent.is_dir()


def test_a_folder_is_one_process_at_a_time(tmp_path):
    place = tmp_path / "x"
    with claimed(place), pytest.raises(BlockingIOError, match=rf"process \({os.getpid()}\) is at work in it: .*x"):
        claimed(place).__enter__()
    assert os.listdir(place) == []
    (place / LOCK).write_text("12345")  # of one that was killed
    with claimed(place):
        pass
