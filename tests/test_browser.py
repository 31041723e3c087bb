"""The explorer in a real browser: every page, wide and narrow, light and dark, without a fault or a look elsewhere."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import chromium, explorer, faint_texts, faults_of, jumped, photograph
from cases import CHROMIUM

import ar_interp as ari

pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FAULTS = '[data-testid="stException"], [data-testid="stAlertContentError"], [role="dialog"]'
PAGES = {  # title in the navigation -> what is there once the page is
    "Models by question": "text=Every model was trained",
    "Claims of your own": '[data-testid="stFileUploader"]',
    "Landscapes": ".ar-plot .main-svg",
    "Glossary": ".ar-terms",
    "Overview": ".ar-plot .main-svg",
    "In-context W": ".ar-plot .main-svg",
    "Algorithm": ".ar-plot .main-svg",
    "Heads": ".ar-plot .main-svg",
    "Positional encoding": ".ar-plot .main-svg",
    "Circuits": ".ar-plot .main-svg",
    "Readout": ".ar-plot .main-svg",
}
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOOKS = (("dark", NARROW), ("light", WIDE))
SIDEBAR = (("dark", WIDE), ("light", NARROW))  # what is beside a page is the same for all
PLOTS_FIT = """() => [...document.querySelectorAll('.ar-plot')].filter(plot => plot._fullLayout).every(plot =>
  plot.scrollWidth <= plot.clientWidth &&
  plot._fullLayout.font.color === getComputedStyle(plot).getPropertyValue('--st-text-color').trim())"""
SECONDS = 1000  # playwright counts in milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with explorer(tmp_path_factory.mktemp("elsewhere"), "--allow", str(tmp_path_factory.getbasetemp())) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, server) -> Iterator["sync_api.Page"]:
    """A visitor; what goes wrong in the browser, or is asked of another host, fails the test."""
    context = browser.new_context(viewport=WIDE, color_scheme="light", base_url=server, accept_downloads=True)
    page = context.new_page()
    faults = faults_of(page, server)
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A model that every page has figures of, which are drawn quickly."""
    config, training = ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8), ari.TrainConfig(lr=1e-3, steps=2)
    run = ari.train(config, ari.CommutingOrthogonal(4), training, progress=False)
    return ari.checkpoints.save(run, tmp_path_factory.mktemp("small") / "pairs")


def settle(page: "sync_api.Page", there: str = ".ar-plot .main-svg") -> None:
    """Wait until what should be there is, and the script has ended."""
    page.wait_for_selector(there, timeout=90 * SECONDS)
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=90 * SECONDS)
    assert page.locator(FAULTS).count() == 0, page.locator(FAULTS).all_inner_texts()


def test_every_page_is_whole_wide_and_narrow_in_both_themes(page, small):
    page.goto(f"/in_context_w?checkpoint={small}&position=7")  # a shared link is opened first
    settle(page)
    assert jumped(page) < 0.1
    for title, there in PAGES.items():
        page.get_by_role("link", name=title, exact=True).click()
        page.get_by_role("heading", name=title, exact=True).first.wait_for(timeout=60 * SECONDS)
        settle(page, there)
        for theme, view in (*SIDEBAR, *LOOKS) if title == "Overview" else LOOKS:
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size(view)
            page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=view["width"])
            page.wait_for_function(PLOTS_FIT)
            assert faint_texts(page) == []
            photograph(page, f"{title}-{view['width']}-{theme}")


def test_the_url_follows_the_selection_through_the_pages_and_zoom_is_kept(page):
    page.goto("/in_context_w?checkpoint=diagonal-unitary-h5&position=7&sequence=2")
    settle(page)
    plot = page.locator(".ar-figure", has_text="the estimate of W errs").locator(".ar-plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    zoomed = "node => node._fullLayout.xaxis.range"
    before = plot.evaluate(zoomed)
    page.get_by_role("slider", name="Context length T").press("ArrowRight")
    page.wait_for_url("**position=8**")
    page.locator(".ar-figure", has_text="At T = 8 ").first.wait_for(timeout=30 * SECONDS)
    assert plot.evaluate(zoomed) == before
    page.get_by_role("link", name="Heads", exact=True).click()
    parts = ("/heads?", "checkpoint=diagonal-unitary-h5", "position=8")  # in whatever order
    page.wait_for_url(lambda url: all(part in url for part in parts))
    settle(page)
    page.get_by_role("link", name="In-context W", exact=True).click()
    page.wait_for_url("**/in_context_w?*position=8*")
    settle(page)


def test_a_figure_is_taken_away_as_image_table_page_lines_and_link(page, tmp_path):
    page.goto("/positional_encoding?checkpoint=positional-mu100")
    settle(page)
    figure = page.locator(".ar-figure").nth(1)

    def take(label: str) -> Path:
        with page.expect_download(timeout=30 * SECONDS) as saved:
            figure.locator(".ar-take button", has_text=label).click()
        saved.value.save_as(tmp_path / saved.value.suggested_filename)
        return tmp_path / saved.value.suggested_filename

    assert take("SVG").read_text("utf-8").startswith("<svg")
    assert take("PNG").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(take("CSV").read_text("utf-8").splitlines()))
    assert {row["trace"] for row in rows} >= {"T = 30", "T = 29", "T = 28"}
    assert all(row["x"] and row["y"] for row in rows)
    alone = take("HTML")
    page.context.new_page().goto(alone.as_uri(), wait_until="load")
    page.context.pages[-1].wait_for_selector(".main-svg")
    page.context.pages[-1].close()
    figure.locator("button", has_text="Python").click()
    assert "ari.figures.positional_rows" in figure.locator(".ar-code").inner_text()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    figure.locator("button", has_text="Link").click()
    figure.locator("button", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").endswith("#positional_rows")
    figure.locator("button", has_text="Keep").click()
    figure.locator("button", has_text="Keep").wait_for(state="hidden")
    page.get_by_role("link", name="Basket", exact=True).click()
    settle(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Take it away as one page").click()
    saved.value.save_as(tmp_path / "report.html")
    page.context.new_page().goto((tmp_path / "report.html").as_uri(), wait_until="load")
    page.context.pages[-1].wait_for_selector(".main-svg")
    page.context.pages[-1].close()
    page.get_by_role("button", name="Leave it out").click()
    page.get_by_text("Nothing is kept yet").wait_for()


def test_panels_that_would_be_too_narrow_stack(page):
    page.set_viewport_size(NARROW)
    page.goto("/in_context_w?checkpoint=diagonal-unitary-h5")
    settle(page)
    assert jumped(page) < 0.1
    upper, lower = page.locator(".ar-plot").first.evaluate(
        "node => ['yaxis', 'yaxis2'].map(name => node._fullLayout[name].domain)"
    )
    assert upper[0] > lower[1]


def test_an_edit_of_the_weights_is_in_the_url_and_in_the_figure(page):
    page.goto("/interventions?checkpoint=positional-mu100&positional_scale=0.5")
    page.locator(".ar-figure", has_text="Positional scale at 0.50").wait_for(timeout=60 * SECONDS)
    settle(page)
    assert jumped(page) < 0.1
    page.get_by_role("slider", name="Positional scale").press("ArrowRight")
    page.wait_for_url("**positional_scale=0.55**")
    page.locator(".ar-figure", has_text="Positional scale at 0.55").wait_for(timeout=30 * SECONDS)
    assert page.locator(FAULTS).count() == 0


def test_a_broken_checkpoint_shows_its_error(page, tmp_path):
    page.goto(f"/heads?checkpoint={tmp_path}")
    page.wait_for_selector('[data-testid="stAlertContentError"]', timeout=60 * SECONDS)
    assert page.locator('[data-testid="stException"]').count() == 0
