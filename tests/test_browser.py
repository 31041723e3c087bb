"""The explorer in a real browser: no page shows an exception or an error."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import CHROMIUM, CHROMIUM_FLAGS

pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[1]
FAULTS = '[data-testid="stException"], [data-testid="stAlertContentError"], [role="dialog"]'
TITLES = ("In-context W", "Algorithm", "Heads", "Positional encoding", "Circuits", "Readout", "Interventions")
SECONDS = 1000  # playwright counts in milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", ROOT / "apps" / "explorer.py", "--server.headless", "true"]
    process = subprocess.Popen(
        [*command, "--server.port", str(port), "--", "--allow", tmp_path_factory.getbasetemp()],
        cwd=tmp_path_factory.mktemp("elsewhere"),
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


def _wait_for(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"the explorer does not answer at {address} (exit code {process.poll()})")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def settle(page: "sync_api.Page") -> None:
    """Wait until the first figure or message is there and the script has ended."""
    page.wait_for_selector('.js-plotly-plot .main-svg, [data-testid="stAlert"]', timeout=90 * SECONDS)
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=90 * SECONDS)


def test_no_page_shows_an_exception(server, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{server}/in_context_w?checkpoint=diagonal-orthogonal-h5&position=7")  # a shared link is opened first
    for title in (*TITLES, "Overview"):
        page.get_by_role("link", name=title).click()
        page.get_by_role("heading", name=title, exact=True).first.wait_for(timeout=60 * SECONDS)
        settle(page)
        assert page.locator(FAULTS).count() == 0, page.locator(FAULTS).all_inner_texts()
    assert faults == []
    page.close()


def test_the_url_follows_the_selection_through_the_pages(server, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{server}/in_context_w?checkpoint=diagonal-unitary-h5&position=7&sequence=2")
    settle(page)
    page.get_by_role("slider", name="Context length T").press("ArrowRight")
    page.wait_for_url("**position=8**")
    page.get_by_role("link", name="Heads").click()
    parts = ("/heads?", "checkpoint=diagonal-unitary-h5", "position=8")  # in whatever order
    page.wait_for_url(lambda url: all(part in url for part in parts))
    settle(page)
    page.get_by_role("link", name="In-context W").click()
    page.wait_for_url("**/in_context_w?*position=8*")
    settle(page)
    page.locator(".js-plotly-plot", has_text="at T = 8").first.wait_for(timeout=30 * SECONDS)
    page.close()


def test_an_edit_of_the_weights_is_in_the_url_and_in_the_figure(server, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{server}/interventions?checkpoint=positional-mu100&positional_scale=0.5")
    settle(page)
    page.locator(".js-plotly-plot", has_text="at 0.50: predicted").wait_for(timeout=30 * SECONDS)
    page.get_by_role("slider", name="Positional scale").press("ArrowRight")
    page.wait_for_url("**positional_scale=0.55**")
    page.locator(".js-plotly-plot", has_text="at 0.55: predicted").wait_for(timeout=30 * SECONDS)
    assert page.locator(FAULTS).count() == 0
    page.close()


def test_a_broken_checkpoint_shows_its_error(server, browser, tmp_path):
    page = browser.new_page()
    page.goto(f"{server}/heads?checkpoint={tmp_path}")
    settle(page)
    assert page.locator('[data-testid="stAlertContentError"]').count() == 1
    assert page.locator('[data-testid="stException"]').count() == 0
    page.close()
