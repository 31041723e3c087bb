"""Times of the explorer in Chromium: how soon it can be used, and how soon it answers. `python benchmarks/explorer.py`.

Prints a table, and writes benchmarks/explorer.json. Times depend on what else the machine does: its load is noted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
PORT, N = 8598, 12  # key presses timed for each control
DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
SHIFTS = "new PerformanceObserver(l => l.getEntries().forEach(e => { window.shift = (window.shift ?? 0) + (e.hadRecentInput ? 0 : e.value); })).observe({type: 'layout-shift', buffered: true})"  # noqa: E501
WATCH = """id => {
  window.said = 0;
  addEventListener("keydown", event => { window.pressed = event.timeStamp; }, { once: true, capture: true });
  const caption = document.querySelector(`#${id} figcaption`);
  new MutationObserver((_, observer) => { window.said = performance.now(); observer.disconnect(); })
    .observe(caption, { subtree: true, childList: true, characterData: true });
}"""
CONTROLS = {  # what is moved -> page, slider, figure that answers, text of its title when it does
    "T, in-context W": ("in_context_w?checkpoint=augmented-haar-l2-keys", "Context length T", "prediction"),
    "T, swaps": ("interventions?checkpoint=positional-mu100", "Context length T", "swapped_prediction"),
    "edit of weights": ("interventions?checkpoint=positional-mu100", "Positional scale", "edit-positional-scale"),
    "head, circuits": ("circuits?checkpoint=diagonal-orthogonal-h5", "Head", "circuit_spectra"),
}
FIRST = {
    "story": ("", "#root canvas, #root svg"),
    "figures": ("in_context_w", ".ar-plot .main-svg"),
    "claims": ("overview", ".ar-group"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser to drive")
    chromium = parser.parse_args().chromium
    rows: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (address, there) in FIRST.items():
            server, rows["server answers"] = start()
            try:
                rows[f"first page usable: {name}"], rows[f"layout shift: {name}"] = first_page(browser, address, there)
            finally:
                server.terminate()
                server.wait(20)
        server, _ = start()
        try:
            for name, (address, slider, figure) in CONTROLS.items():
                times, rows[f"{name}: server CPU"] = answers(browser, server.pid, address, slider, figure)
                rows[f"{name}: median"], rows[f"{name}: longest"] = statistics.median(times), max(times)
        finally:
            server.terminate()
            server.wait(20)
        browser.close()
    for name, value in rows.items():
        print(f"{name:32} {value:.3g}")
    (ROOT / "benchmarks" / "explorer.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def cpu(process: int) -> float:
    """Seconds of processor time that a process has taken, where the system says it as Linux does."""
    times = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def start() -> tuple[subprocess.Popen[bytes], float]:
    """The server, and the seconds until it answers."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "streamlit", "run", ROOT / "apps" / "explorer.py", "--server.headless", "true"]
    elsewhere = tempfile.gettempdir()
    server = subprocess.Popen([*command, "--server.port", str(PORT)], cwd=elsewhere, stdout=subprocess.DEVNULL)
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5).close()
            return server, time.perf_counter() - began
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the explorer does not start")


def first_page(browser: Any, address: str, there: str) -> tuple[float, float]:
    """Seconds from the visit to a page that can be used, and how far its parts jumped until it was complete."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(SHIFTS)
    began = time.perf_counter()
    page.goto(f"http://127.0.0.1:{PORT}/{address}")
    page.wait_for_selector(there, timeout=60_000)
    usable = time.perf_counter() - began
    page.wait_for_selector(DONE, timeout=60_000)
    page.wait_for_timeout(1000)
    shift = page.evaluate("window.shift ?? 0")
    page.close()
    return usable, shift


def answers(browser: Any, server: int, address: str, slider: str, figure: str) -> tuple[list[float], float]:
    """Seconds from a key press on a slider until its figure answers, once each value has been seen.

    And the seconds of processor time that the server takes for one.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"http://127.0.0.1:{PORT}/{address}")
    page.wait_for_selector(f"#{figure} .main-svg", timeout=120_000)
    page.wait_for_selector(DONE, timeout=120_000)
    control = page.get_by_role("slider", name=slider)
    for key in ("ArrowRight", "ArrowLeft"):
        press(page, control, figure, key)
    before = cpu(server)
    times = [press(page, control, figure, key) for key in ("ArrowRight", "ArrowLeft") * (N // 2)]
    return times, (cpu(server) - before) / len(times)


def press(page: Page, control: Any, figure: str, key: str) -> float:
    """Seconds from one key press until the figure says something else, by the browser's own clock."""
    page.wait_for_selector(DONE)
    page.evaluate(WATCH, figure)
    control.press(key)
    page.wait_for_function("window.said > 0")
    return page.evaluate("window.said - window.pressed") / 1000


if __name__ == "__main__":
    main()
