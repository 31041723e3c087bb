"""The explorer on a port of its own and a browser to visit it, for tests."""

import os
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
SHIFTS = """window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => {
  window.shift += entry.hadRecentInput ? 0 : entry.value; })).observe({ type: "layout-shift", buffered: true });"""
FAINT = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (backs, ink = 'transparent', opacity = 1) => {
    for (const colour of ['#fff', ...backs, ink]) {
      canvas.globalAlpha = colour === ink ? opacity : 1;
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  };
  return [...document.querySelectorAll('.stApp *')].filter(node => {
    const style = getComputedStyle(node), box = node.getBoundingClientRect(), backs = [];
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()) || box.width < 2) return false;
    if (style.visibility !== 'visible') return false;
    if (node.closest('style, svg, :disabled, [data-testid=stSliderThumbValue]')) return false;
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) {
      backs.unshift(getComputedStyle(at).backgroundColor);
      opacity *= getComputedStyle(at).opacity;
    }
    const [dim, bright] = [luminance(backs), luminance(backs, style.color, opacity)].sort((a, b) => a - b);
    return opacity > 0.1 && (bright + 0.05) / (dim + 0.05) < 4.5;
  }).map(node => `${node.textContent} (${getComputedStyle(node).color})`);
}"""  # the texts of which the contrast is below 4.5
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
    page.add_init_script(SHIFTS)

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


def jumped(page: Any) -> float:
    """How far the parts of a page have jumped since it was opened: the layout shift of browsers."""
    return page.evaluate("window.shift")


def faint_texts(page: Any) -> list[str]:
    """The texts that do not stand out from the page, once its colours have changed and its script has run again."""
    for _ in range(60):
        if not (found := page.evaluate(FAINT)):
            break
        page.wait_for_timeout(500)
    return found


def photograph(page: Any, name: str) -> None:
    """Keep a picture of a page, in the folder that AR_INTERP_SCREENSHOTS names."""
    if folder := os.environ.get("AR_INTERP_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def _wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:  # refused, reset or slow
            time.sleep(0.2)
    pytest.fail(f"the explorer does not answer at {address} (exit code {process.poll()})")
