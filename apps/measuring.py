"""Claims measured anew, in a process of their own: pages stay free, progress is shown, and it can be ended.

Run as a script it is that process: `python measuring.py CHECKPOINT SEED RESULT`.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

import ar_interp as ari
from ar_interp import records
from ar_interp.seeds import DRAWN_LIMIT

MOST = 2  # at once, for all visitors; the others stand in line
EVERY = 1.0  # seconds between two looks at the progress
PATIENCE = 10.0  # seconds after which a visitor who has not looked is passed over


@dataclass
class Job:
    """A measurement: the process that makes it, once its turn has come, and the file that says how far it is."""

    command: list[str]
    folder: tempfile.TemporaryDirectory[str] = field(repr=False)
    process: subprocess.Popen[bytes] | None = None
    seen: float = field(default_factory=time.monotonic)  # when its visitor last looked

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def state(self) -> dict[str, Any]:
        try:
            return json.loads((Path(self.folder.name) / "state.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {"done": 0}

    def begin(self) -> None:
        """Start the process."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self.command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL
        )

    def end(self) -> None:
        """End the process, if it runs."""
        if self.process is not None and self.runs:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(5)


_jobs: dict[str, Job] = {}  # by session and folder, in the order asked for; they outlive pages
_lock = threading.Lock()


def start(key: str, checkpoint: ari.Checkpoint, seed: int) -> None:
    """Measure as soon as there is room, see `place`."""
    folder = tempfile.TemporaryDirectory(prefix="ar-interp-")
    command = [sys.executable, __file__, str(checkpoint.path), str(seed), str(Path(folder.name) / "state.json")]
    with _lock:
        _jobs[key] = Job(command, folder)
    place(key)


def place(key: str) -> int:
    """The place in line of a job, from 1, or 0 once it has begun; the first one begins as soon as there is room."""
    with _lock:
        job, now = _jobs[key], time.monotonic()
        job.seen = now
        line = [one for one in _jobs.values() if one.process is None and now - one.seen < PATIENCE]
        if line and line[0] is job and sum(one.runs for one in _jobs.values()) < MOST:
            job.begin()
        return line.index(job) + 1 if job.process is None else 0


@atexit.register
def _end_all() -> None:
    for job in _jobs.values():
        job.end()


def found(checkpoint: ari.Checkpoint) -> dict[str, Any] | None:
    """The record that this session has measured of a checkpoint, or None."""
    return st.session_state.get(_key(checkpoint))


def _key(checkpoint: ari.Checkpoint) -> str:
    return f"measured {checkpoint.path}"


def show(checkpoint: ari.Checkpoint) -> None:
    """The button that measures, then its progress and the one that ends it."""
    session = st.session_state.setdefault("session", secrets.token_hex(8))
    key = f"{session} {checkpoint.path}"
    job = _jobs.get(key)
    st.fragment(run_every=EVERY if job is not None else None)(_panel)(checkpoint, key)


def _panel(checkpoint: ari.Checkpoint, key: str) -> None:
    job = _jobs.get(key)
    if job is None:
        if fault := st.session_state.pop("fault", ""):
            st.error(fault)
        found_here = found(checkpoint)
        if found_here:
            st.caption(
                f"Measured here with seed {found_here['seed']}; the same from Python: "
                f"ari.verify(checkpoint, seed={found_here['seed']})"
            )
        if st.button("Measure every claim again, on fresh contexts", help="In the background; it takes a while."):
            start(key, checkpoint, secrets.randbelow(DRAWN_LIMIT))
            st.rerun()
        return
    if in_line := place(key):
        st.info(
            f"{MOST} measurements run for other visitors. Yours is number {in_line} in line and begins by itself while "
            "this page is open."
        )
        if st.button("Leave the line"):
            _forget(key)
            st.rerun()
        return
    state = job.state
    if job.runs:
        done, of = state["done"], max(state.get("of", 0), 1)
        st.progress(
            min(done / of, 1.0), text=f"{done} of about {of} claims measured" if done else "The model is read …"
        )
        if st.button("Stop measuring"):
            job.end()
            _forget(key)
            st.rerun()
        return
    _forget(key)
    if "rows" in state:
        st.session_state[_key(checkpoint)] = {"weights": records.fingerprint(checkpoint), **state}
    else:
        st.session_state["fault"] = state.get("error", "The measurement ended before it was done.")
    st.rerun()


def _forget(key: str) -> None:
    with _lock:
        job = _jobs.pop(key, None)
    if job is not None:
        job.folder.cleanup()


def measure(path: str, seed: int, result: Path) -> None:
    """Measure every claim about a checkpoint; the file says how far it is, and then what was found."""
    done, of = 0, 0

    def say(**state: Any) -> None:
        scratch = result.with_suffix(".new")
        scratch.write_text(json.dumps(state), encoding="utf-8")
        os.replace(scratch, result)

    def one_more(claim: Any) -> None:
        nonlocal done
        done += 1
        say(done=done, of=of)

    try:
        checkpoint = ari.load(path)
        record = records.read(checkpoint)
        of = len(record.rows) if record else 0
        claims = ari.verify(checkpoint, seed=seed, each=one_more)
    except Exception as error:
        return say(done=done, error=str(error)[:500])
    return say(done=done, seed=seed, rows=[claim.to_dict() for claim in claims], why_not=claims.why_not)


if __name__ == "__main__":
    os.nice(5)
    measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
