"""The pictures of the explorer's cards and of the README, taken from the explorer itself: `python docs/pictures.py`.

Needs Chromium and playwright. A card's picture is a figure of the study without its words.
"""

import argparse
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "apps" / "assets" / "studies"
PORT = 8599
FIGURES = {  # study -> page, checkpoint, exhibit
    "diagonal-heads": ("heads", "diagonal-orthogonal-h5", "head_matrices"),
    "unfinished-descent": ("positional_encoding", "positional-mu100", "filter_profile"),
    "gradient-step": ("circuits", "augmented-unitary", "block_shares"),
    "depth": ("algorithm", "augmented-haar-l4-keys", "error_by_position"),
    "head-count": ("interventions", "plain-haar-h5", "head_costs"),
    "first-token": ("in_context_w", "initial-gaussian", "context_error"),
    "general-models": ("algorithm", "figure5-l2", "error_by_position"),
    "emergence": ("overview", "emergence-gaussian", "phase_portrait"),
    "noise": ("algorithm", "noisy-haar-l4", "noisy_errors"),
    "regression": ("others", "regression-high", "learned_features"),
    "chains": ("others", "chain-parity-joint", "read_positions"),
}
SCREENS = {  # of the README: name -> address, width, height, theme
    "explorer-story": ("/", 1280, 860, "light"),
    "explorer-figures": ("/in_context_w?checkpoint=diagonal-orthogonal-h5&position=4&sequence=0", 1280, 1000, "light"),
    "algorithm": ("/algorithm?checkpoint=augmented-haar-l4-keys", 1280, 800, "dark"),
    "explorer-phone": ("/positional_encoding?checkpoint=diagonal-orthogonal-h5", 390, 844, "dark"),
}
SMALL = """plot => {
  const layout = JSON.parse(JSON.stringify(plot.layout));
  for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name))
    Object.assign(layout[name], {title: {text: ""}, showticklabels: false, showgrid: false, ticks: ""});
  if (layout.coloraxis) layout.coloraxis.showscale = false;
  Object.assign(layout, {margin: {l: 4, r: 4, t: 4, b: 4}, showlegend: false, annotations: []});
  return Plotly.toImage({data: plot.data, layout}, {format: "svg", imageDataOnly: true, width: 340, height: 120});
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser to drive")
    browser_path = parser.parse_args().chromium
    command = [sys.executable, "-m", "streamlit", "run", ROOT / "apps" / "explorer.py", "--server.headless", "true"]
    server = subprocess.Popen([*command, "--server.port", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{PORT}/_stcore/health")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            CARDS.mkdir(exist_ok=True)
            for study, (page, checkpoint, exhibit) in FIGURES.items():
                visited = open_page(browser, f"/{page}?checkpoint={checkpoint}", 1280, 1000, "light")
                plot = visited.locator(f"#{exhibit} .ar-plot")
                plot.locator(".main-svg").first.wait_for(timeout=120_000)
                (CARDS / f"{study}.svg").write_text(without_words(plot.evaluate(SMALL)), encoding="utf-8")
                visited.close()
            for name, (address, width, height, theme) in SCREENS.items():
                visited = open_page(browser, address, width, height, theme)
                visited.screenshot(path=ROOT / "docs" / f"{name}.png")
                visited.close()
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address: str) -> None:
    """Until the server answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"nothing answers at {address}")


def open_page(browser: Any, address: str, width: int, height: int, theme: Any) -> Page:
    """A page of the explorer, once it stands still."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=1.5)
    page.goto(f"http://127.0.0.1:{PORT}{address}")
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=180_000)
    page.wait_for_function("!document.querySelector('.ar-figure[aria-busy=true]')", timeout=180_000)
    page.wait_for_timeout(2500)
    return page


def without_words(svg: str) -> str:
    """Only what is drawn; ink becomes a grey that is seen in both themes."""
    svg = re.sub(r"<text.*?</text>|<title.*?</title>", "", svg, flags=re.S)
    svg = re.sub(r"rgb\(34, 34, 34\)|rgb\(0, 0, 0\)|#222222|#000000", "#888888", svg)
    return re.sub(r"(\d\.\d{2})\d+", r"\1", svg)


if __name__ == "__main__":
    main()
