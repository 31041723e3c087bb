"""The story in a real browser: its arithmetic is torch's, and every screen can be moved by mouse, finger and keys."""

import json
import re
from math import cos, pi, sin
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import torch
from browsing import chromium, explorer, faults_of, photograph
from cases import CHROMIUM

import ar_interp as ari

pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ASSETS = Path(__file__).parents[1] / "apps" / "storyboard" / "assets"
PAYLOAD = json.loads((ASSETS.parent / "payload.json").read_text("utf-8"))
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SECONDS = 1000  # playwright counts in milliseconds
LAST = 9
PARTS = ("contract.js", "params.js", "model.js", "draw.js", "screens/*.js", "main.js")  # see storyboard/__init__.py
KINDS = ("you", "model", "truth", "quiet")  # of text in colours

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.usefixtures("without_type_checks"),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with explorer(tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


@pytest.fixture
def visit(server, browser, tmp_path):
    """Open a page at a link; errors of any page that was opened fail the test."""
    contexts, faults = [], []

    def visit(query="", *, viewport=WIDE, theme="light", touch=False):
        context = browser.new_context(
            viewport=viewport, color_scheme=theme, has_touch=touch, reduced_motion="reduce", locale="en-GB"
        )
        contexts.append(context)
        page = context.new_page()
        faults.append(faults_of(page, server))
        page.goto(f"{server}/{query}")
        title(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [fault for each in faults for fault in each] == []


# ---- arithmetic


@pytest.mark.parametrize(("part", "mirrors"), [("pairs", True), ("swap", False)])
def test_javascript_computes_what_torch_computes(browser, part, mirrors):
    sent = PAYLOAD[part]["model"]
    checkpoint = ari.load(sent["name"])
    free = sent["dim"] // 2 if mirrors else sent["dim"]
    angles = 2 * pi * torch.rand(3, free, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    phases = torch.stack([angles, -angles], -1).flatten(1) if mirrors else angles
    found = run(
        browser,
        """([model, angles, mirrors, T]) => angles.map((each) => {
            const tokens = tokensOf(mirrors ? withMirrors(each) : each, T);
            return [patternOf(model, tokens), predict(model, tokens), relativeError(predict(model, tokens), tokens[0])];
        })""",
        [sent, angles.tolist(), mirrors, 7],
    )
    tokens = checkpoint.process.rollout(phases, 7).tokens
    predictions, cache = checkpoint.model.run_with_cache(tokens)
    pattern = cache["blocks.0.attn.hook_pattern"][:, :, -1]
    for b, (pattern_found, predicted, error) in enumerate(found):
        theirs = torch.tensor(
            [[complex(w["re"], w["im"]) for w in head] for head in pattern_found], dtype=torch.complex128
        )
        torch.testing.assert_close(theirs, pattern[b], rtol=1e-12, atol=1e-12)
        vector = torch.complex(*(torch.tensor(predicted[name], dtype=torch.float64) for name in ("re", "im")))
        torch.testing.assert_close(vector, predictions[b, -1], rtol=1e-12, atol=1e-12)
        expected = (predictions[b, -1] - tokens[b, 0]).abs().square().sum() / sent["dim"]
        assert error == pytest.approx(expected.item(), abs=1e-12)


def test_javascript_takes_heads_apart_as_theory_does(browser):
    pairs = PAYLOAD["pairs"]
    circuit, overlaps, errors = run(
        browser,
        """([model, H]) => [circuitOf(model, Array(H).fill(true)), overlapsOf(model),
            model.A.map((_, off) => meanError(model, model.A.map((_, h) => h !== off)))]""",
        [pairs["model"], len(pairs["model"]["A"])],
    )
    torch.testing.assert_close(torch.tensor(circuit), torch.tensor(pairs["C"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(overlaps), torch.tensor(pairs["M"]), rtol=1e-5, atol=1e-6)
    assert errors == pytest.approx(pairs["cut_head"], rel=0.15)  # 400 sequences: a standard error of about 4 %


def test_numbers_of_another_version_are_refused_with_a_sentence(browser):
    said = run(
        browser,
        """(html) => {
            const parentElement = document.createElement("div");
            parentElement.innerHTML = html;
            story({ parentElement, data: { version: 0 }, setTriggerValue() {} });
            return parentElement.textContent.trim();
        }""",
        (ASSETS / "story.html").read_text("utf-8"),
    )
    assert said == "The story needs numbers of version 1, not 0: reload the page."


def run(browser, function, argument):
    """A function of JavaScript, among those of the story, on an empty page."""
    parts = [file for pattern in PARTS for file in sorted(ASSETS.glob(pattern))]
    script = "\n".join(part.read_text("utf-8") for part in parts).replace("export default function", "function story")
    page = browser.new_page()
    try:
        return page.evaluate(f"(argument) => {{ {script}\nreturn ({function})(argument); }}", argument)
    finally:
        page.close()


# ---- the walk


def title(page) -> str:
    heading = page.locator(".story h1:not(:empty)")
    heading.wait_for(timeout=60 * SECONDS)
    return heading.inner_text()


def place(page) -> dict[str, str]:
    """What the URL says."""
    return {name: values[-1] for name, values in parse_qs(page.evaluate("location.search.slice(1)")).items()}


def told(page) -> str:
    return page.locator(".side .reveal").first.inner_text()


def turn(page, label: str, angle: float, *, extent: float) -> None:
    """Drag the handle of a circle to an angle in degrees."""
    circle = page.get_by_role("group", name=label)
    circle.get_by_role("slider").hover()  # once nothing moves any more
    box = circle.bounding_box()
    unit = box["width"] / (2 * extent)
    page.mouse.down()
    x, y = (box[a] + box[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    page.mouse.move(x + unit * cos(angle * pi / 180), y - unit * sin(angle * pi / 180), steps=6)
    page.mouse.up()


def look(page, theme: str) -> None:
    """A screen fits, its colours are legible in both themes, and pictures of it are kept."""
    width = page.viewport_size["width"]
    for shade in ("dark" if theme == "light" else "light", theme):
        page.emulate_media(color_scheme=shade)
        page.locator(".story.dark" if shade == "dark" else ".story:not(.dark)").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert min(contrast(page, kind) for kind in KINDS) >= 4.5
        photograph(page, f"story-{place(page).get('screen', 0)}-{width}-{shade}")


@pytest.mark.parametrize(("viewport", "theme"), [(WIDE, "light"), (PHONE, "dark")])
def test_walk_by_keys_and_mouse(visit, viewport, theme):
    page = visit(viewport=viewport, theme=theme)
    first = title(page)
    page.get_by_role("group", name=re.compile("A circle with six places")).click(position={"x": 150, "y": 60})
    assert "off. The model lands" in told(page)
    guess = place(page)["guess"]
    page.reload()
    title(page)
    assert "off. The model lands" in told(page)
    assert place(page)["guess"] == guess

    look(page, theme)
    page.keyboard.press("ArrowRight")
    assert place(page) == {"screen": "1"}
    turn(page, "The tokens of one circle", 100, extent=1.45)
    assert abs(int(place(page)["angles"].split("_")[0]) - 100) <= 2
    page.get_by_role("button", name="Circle 4").click()
    page.get_by_role("slider", name="Angle of W").press("ArrowUp")  # keys of a handle do not turn pages
    assert place(page)["clock"] == "3"
    assert place(page)["angles"].split("_")[3] == "17"

    look(page, theme)
    page.get_by_role("button", name="Next →").click()
    page.get_by_role("button", name="worse").click()
    for _ in range(4):
        page.get_by_role("button", name="New sequence").click()
    assert place(page) == {"screen": "2", "draw": "5", "guess": "more"}
    assert "Mean error over 4 new sequences" in page.locator(".stage").inner_text()

    look(page, theme)
    page.keyboard.press("ArrowRight")
    tokens = page.get_by_role("slider", name="Tokens seen")
    tokens.press("ArrowRight")
    assert place(page)["T"] == "5"
    page.get_by_role("button", name="two steps").click()
    assert "gradient steps" in told(page)

    look(page, theme)
    page.get_by_role("button", name="Next →").click()
    turn(page, "The prediction as two arrows", -50 + 120, extent=1.75)
    assert abs(int(place(page)["angle"]) - 120) <= 2
    page.get_by_role("button", name="key sT−1").click()
    assert place(page)["keys"] == "last"
    assert "misses by exactly one radius" in told(page)

    look(page, theme)
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="no", exact=True).click()
    page.get_by_role("button", name="head 2").click()
    assert place(page) == {"screen": "5", "heads": "10111", "guess": "no"}
    assert f"in theory {PAYLOAD['pairs']['cut_head'][1]:.2f}" in page.locator(".readout").inner_text()

    look(page, theme)
    page.keyboard.press("ArrowRight")
    turn(page, "Sequence B.", 45, extent=1.4)
    page.get_by_role("button", name="B’s estimate").click()
    assert place(page)["state"] == "moved"
    assert "its tip is 0 from the ring" in told(page)
    page.get_by_role("button", name="control: another sequence").click()
    assert "the arrow has moved by 0" in told(page)

    look(page, theme)
    page.keyboard.press("ArrowRight")
    for test in PAYLOAD["experiments"]:
        page.locator(f'[data-key="{test["key"]}"]').click()
        assert page.locator(".curve.theory").is_hidden()  # until the visitor has guessed
        page.get_by_role("slider", name="Your guess").press("End")
        page.get_by_role("button", name="Draw theory").click()
        assert page.locator(".curve.theory").is_visible()
        assert page.locator("circle.dot.model").first.is_hidden()  # until it is measured
        page.get_by_role("button", name="Measure the model").click()
        assert page.locator("circle.dot.model").first.is_visible()
    assert place(page)["measured"] == "yes"

    look(page, theme)
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="16").click()
    assert f"{PAYLOAD['depth'][3]['steps']:.1f} steps" in told(page)
    assert page.locator("details").count() == len(PAYLOAD["depth"][3]["not_held"])

    look(page, theme)
    page.keyboard.press("ArrowRight")
    page.get_by_text("Which two keys does it use?").click()
    assert "the two newest tokens" in page.locator(".stage").inner_text()
    look(page, theme)
    page.keyboard.press("ArrowRight")
    assert place(page) == {"screen": str(LAST)}

    page.go_back()
    page.wait_for_url("**screen=8**")
    assert title(page) == "Depth"
    page.get_by_role("button", name="Screen 0").click()
    assert title(page) == first
    assert "off. The model lands" in told(page)  # what was moved stays


def test_finger_drags_the_handle_and_does_not_scroll(visit):
    page = visit("?screen=4", viewport=PHONE, touch=True)
    circle = page.get_by_role("group", name="The prediction as two arrows")
    circle.scroll_into_view_if_needed()
    knob, box = circle.locator('[role="slider"]').bounding_box(), circle.bounding_box()
    x, y = (knob[a] + knob[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    touch = page.context.new_cdp_session(page)
    scrolled = page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop")
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for k in range(1, 6):
        to = {"x": x - 10 * k, "y": y - 0.1 * box["height"] * k / 2}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [to]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_url("**angle=**")
    assert int(place(page)["angle"]) > 60
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == scrolled


def test_who_comes_back_from_another_page_goes_on(visit):
    page = visit("?screen=8&layers=2")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Glossary").click()
    page.wait_for_url("**/glossary**")
    page.get_by_text("in context", exact=True).first.wait_for(timeout=60 * SECONDS)
    assert not {"screen", "layers"} & set(place(page))
    page.get_by_role("link", name="The story").click()
    page.wait_for_url(f"**screen={LAST}**")
    page.wait_for_timeout(SECONDS)  # in which Streamlit has its say on the URL
    assert title(page) == "Take it with you"
    assert place(page)["screen"] == str(LAST)


def test_link_that_says_nonsense_opens_the_default(visit, server):
    page = visit("?screen=99")
    for query in ("", "?screen=1&angles=1_2_x&clock=77", "?screen=7&test=none", "story?guess=9e9", "no-page?T=1"):
        if query:
            page.goto(f"{server}/{query}")
            title(page)
        assert page.locator(".stage svg").first.is_visible()
        assert page.locator('[role="dialog"]').count() == 0
        assert page.get_by_text("There is no page no-page").count() == query.startswith("no-page")


def contrast(page, kind: str) -> float:
    """Of text of a kind against the page."""
    return page.locator(".story").evaluate(
        """(story, kind) => {
        const text = document.createElement('b');
        text.className = kind;
        story.append(text);
        const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const light = (colour) => {
            canvas.fillStyle = getComputedStyle(story).backgroundColor;
            canvas.fillRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
        };
        const [a, b] = [light(getComputedStyle(text).color), light(getComputedStyle(story).backgroundColor)];
        text.remove();
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }""",
        kind,
    )
