"""The explorer on a port of its own and a browser to visit it, for tests."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cases import CHROMIUM, CHROMIUM_FLAGS

EXPLORER = Path(__file__).parents[1] / "apps" / "explorer.py"
EXPECTED = ("_stcore/health", "_stcore/host-config")  # which Streamlit asks for beside the page of a link, in vain


@contextmanager
def explorer(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a running explorer that was started in a folder with these arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(EXPLORER), "--server.headless", "true"]
    process = subprocess.Popen(
        [*command, "--server.port", str(port), "--", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def faults_of(page: Any, address: str) -> list[str]:
    """A list that grows with every error of a page and every request that leaves this machine."""
    faults: list[str] = []

    def on_console(message: Any) -> None:
        if message.type == "error" and not message.location["url"].endswith(EXPECTED):
            faults.append(message.text)

    def on_request(request: Any) -> None:
        if not request.url.startswith((address, address.replace("http", "ws"), "blob:", "data:")):
            faults.append(f"request to {request.url}")

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", on_console)
    page.on("request", on_request)
    return faults


def _wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:  # refused, reset or slow
            time.sleep(0.2)
    pytest.fail(f"the explorer does not answer at {address} (exit code {process.poll()})")
