"""The report: the page is whole, safe and works offline; the JSON says the same; text is set as it should be."""

import base64
import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
import pytest
from cases import CHROMIUM, CHROMIUM_FLAGS
from jinja2 import UndefinedError
from plotly.offline import get_plotlyjs

import ar_interp as ari
from ar_interp.claims import Claim, Claims, Control, Estimate, subject_of
from ar_interp.claims.verdicts import VERDICTS
from ar_interp.report import Drawn, Part, Report, Section, build, words
from ar_interp.report.page import page as page_of
from ar_interp.report.plots import specification, widths
from ar_interp.report.typeset import figure_text, slug, typeset
from ar_interp.studies import exhibits_of

DATE = datetime.date(2026, 1, 31)
HOSTILE = '<script>alert("x")<&'
SHIPPED = "positional-mu100"
VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
pytestmark = pytest.mark.usefixtures("few_contexts", "known_function")


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.open = "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def targets(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A checkpoint that would be a script in every text that a stranger can choose."""
    folder = tmp_path_factory.mktemp("checkpoints") / HOSTILE
    shutil.copytree(ari.load(SHIPPED).path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["device"] = "</script><script>alert(2)</script><img src=x onerror=alert(1)>"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A model that has learned all that theory says."""
    config, training = ari.ModelConfig.diagonal(dim=4, n_heads=2, n_ctx=8), ari.TrainConfig(lr=0.04, steps=1000)
    run = ari.train(config, ari.CommutingUnitary(4), training, progress=False)
    return ari.checkpoints.save(run, tmp_path_factory.mktemp("checkpoints") / "trained")


@pytest.fixture(scope="module")
def report(trained, hostile) -> Report:
    return build([trained, hostile], date=DATE)


@pytest.fixture(scope="module")
def html(report) -> str:
    return report.to_html()


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def content(report) -> dict:
    return json.loads(report.to_json())


def rows_of(claims: Claims) -> list:
    (rows,) = json.loads(claims.to_json())["checkpoints"].values()
    return rows


def make_claim(
    name: str = "heads/cosine", *, evidence: str = "weights", verdict: str = "holds", text: str = "<orthogonal> heads"
) -> Claim:
    measured, control = {"holds": (0.0, 1.0), "void": (0.0, 0.0), "fails": (1.0, 1.0)}[verdict]
    return Claim(
        name=name, evidence=evidence, statement=text, source=text, predicted=0.0, estimate=Estimate(measured),
        tolerance=0.1, reason=text, control=Control(description=text, estimate=Estimate(control)),
    )  # fmt: skip


def make_exhibit(*, wide: bool) -> Drawn:
    return Drawn(structure="heads", evidence="weights", name="x", figure=go.Figure(), wide=wide, look="")


class TestPage:
    def test_is_well_formed_and_its_links_lead_somewhere(self, page):
        assert page.open == []
        assert len(page.targets) == len(set(page.targets))
        inside = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
        assert len(inside) > 50
        assert {href.removeprefix("#") for href in inside} <= set(page.targets)

    def test_loads_nothing(self, page):
        assert {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "embed", "base", "form"} == set()
        assert all("src" not in attributes for _, attributes in page.elements)
        outside = {a["href"] for a in page.all("a") if not a["href"].startswith("#")}
        assert outside == {"https://arxiv.org/abs/2402.05787"}

    def test_styles_load_nothing(self, html):
        styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
        assert len(styles) == 1
        assert "url(" not in styles[0]
        assert "@import" not in styles[0]

    def test_holds_plotly_once_and_allows_no_script_but_its_own(self, page):
        data, plotly_js, own = page.scripts
        assert [a.get("type") for a in page.all("script")] == ["application/json", None, None]
        assert plotly_js == get_plotlyjs()
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (plotly_js, own)]
        policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
        assert policy == f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
        assert "<" not in data

    def test_shows_text_of_checkpoints_as_text(self, page, hostile):
        assert str(hostile) in page.text
        assert "</script><script>alert(2)</script><img src=x onerror=alert(1)>" in page.text
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)

    def test_shows_text_of_claims_as_text(self, report):
        one = report.examined[0]
        strange = make_claim(f"{HOSTILE}/{HOSTILE}", verdict="fails", text=HOSTILE)
        changed = Page(replace(report, examined=(replace(one, claims=Claims(one.name, (strange,))),)).to_html())
        assert len(changed.scripts) == 3
        assert changed.open == []
        assert changed.text.count(HOSTILE) >= 6  # statement thrice, source, reason, name
        assert [a["title"] for a in changed.all("a") if "title" in a] == [f"fails: {HOSTILE}"]

    def test_needs_every_value_that_its_templates_name(self, report):
        with pytest.raises(UndefinedError, match="'words' is undefined"):
            page_of([], report=report)

    @pytest.mark.parametrize(
        ("name", "made"),
        [
            ("regression-high", "81 fourier functions with variances of its own.*Γ the identity; seed 0; on cpu"),
            ("chain-parity-none", r"n_bits = 16.*initial weights zeros.*Malach 2023, arXiv 2309\.06979"),
            ("emergence-anisotropic", r"first token gaussian, scales \(2\.0, 1\.0\).*from the gradient step a = 0\.01"),
        ],
    )
    def test_tells_how_models_of_every_task_were_made(self, report, name, made):
        checkpoint = ari.load(name)
        one = replace(report.examined[0], checkpoint=checkpoint)
        text = " ".join(Page(replace(report, examined=(one,)).to_html()).text.split())
        assert re.search(made, text)
        assert ("A prompt holds all that" in text) != (checkpoint.process.makes is ari.Sequences)

    def test_says_claims_first_then_evidence_then_methods(self, page):
        parts = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
        assert parts == ["about", "summary", "claims", "evidence", "methods"]

    def test_has_a_row_and_a_mark_for_every_claim(self, report, page):
        claims = [(one, claim) for one in report.examined for claim in one.claims]
        targets = [f"claim-{one.number}-{slug(claim.name)}" for one, claim in claims]
        assert [target for target in page.targets if target.startswith("claim-")] == targets
        marks = [a for a in page.all("a") if a.get("class") in words.VERDICTS]
        assert sorted(a["href"] for a in marks) == sorted(f"#{target}" for target in targets)
        assert {a["href"]: a["class"] for a in marks} == {
            f"#{target}": claim.verdict for target, (_, claim) in zip(targets, claims, strict=True)
        }
        for _, claim in claims:
            assert Page(typeset(claim.statement)).text in page.text
            assert Page(typeset(claim.reason)).text in page.text

    def test_draws_every_figure_beside_what_to_look_at(self, report, page):
        exhibits = [e for one in report.examined for s in one.sections for part in s.parts for e in part.exhibits]
        assert len(exhibits) == sum(len(one.exhibits) for one in report.examined) > 15
        drawn = json.loads(page.scripts[0])["figures"]
        assert drawn == [specification(exhibit) for exhibit in exhibits]
        assert [a["data-number"] for a in page.all("div") if a.get("class") == "plot"] == [
            str(i) for i in range(len(exhibits))
        ]
        for exhibit in exhibits:
            assert Page(typeset(exhibit.look)).text in page.text
            assert Page(figure_text(exhibit.figure.layout.title.text)).text in page.text

    def test_says_when_and_with_what(self, page, report):
        assert "31 January 2026" in page.text
        assert f"torch {report.versions['torch']}" in page.text
        assert f"--date {DATE}" in page.text

    def test_is_the_same_again_also_where_a_name_is_given_twice(self, report, hostile):
        first = replace(report, examined=(replace(report.examined[1], number=1),))
        second = build([hostile, hostile], date=DATE)
        assert first.to_html() == second.to_html()
        assert first.to_json() == second.to_json()

    def test_is_little_more_than_plotly(self, report, html):
        assert len(html) - len(get_plotlyjs()) < 0.4e6 * len(report.examined)


class TestFailures:
    def make(self, report: Report, *, known: bool) -> str:
        one = report.examined[0]
        failing = make_claim(verdict="fails")
        changed = replace(
            one, claims=Claims(one.name, (failing,)), known=frozenset({failing.name}) if known else frozenset()
        )
        return replace(report, examined=(changed, report.examined[1])).to_html()

    def test_are_loud(self, report, trained):
        html = self.make(report, known=False)
        notice = html.partition('<div class="notice loud">')[2].partition("</div>")[0]
        assert "1 claim fails." in notice
        assert f'<a href="#claim-1-heads-cosine">1.1</a> {trained}: &lt;orthogonal&gt; heads' in notice
        assert '<div class="notice known">' not in html

    def test_that_are_known_are_told_apart(self, report):
        html = self.make(report, known=True)
        assert '<div class="notice loud">' not in html
        assert "1 claim fails, as is known." in html.partition('<div class="notice known">')[2].partition("</div>")[0]
        assert "✗ fails (known)" in html

    def test_are_none_of_a_trained_model(self, report, page):
        assert [report.failures(known=known) for known in (True, False)] == [[], []]
        assert "No claim fails." in page.text


class TestContent:
    def test_json_has_the_claims_of_verify(self, content, report, trained, hostile):
        assert [one["name"] for one in content["checkpoints"]] == [str(trained), str(hostile)]
        for one, examined in zip(content["checkpoints"], report.examined, strict=True):
            claims = examined.claims
            assert one["claims"] == rows_of(claims)
            verdicts = [claim.verdict for claim in claims]
            assert one["verdicts"] == {name: verdicts.count(name) for name in VERDICTS}
        assert content["verdicts"]["holds"] == sum(one["verdicts"]["holds"] for one in content["checkpoints"])
        assert content["checkpoints"][1]["claims"] == rows_of(ari.verify(ari.load(SHIPPED), seed=0))
        assert content["date"] == "2026-01-31"

    def test_json_has_the_figures_of_the_page(self, content, page):
        drawn = iter(json.loads(page.scripts[0])["figures"])
        for one in content["checkpoints"]:
            for part in one["evidence"]:
                for shown in part["figures"]:
                    assert shown["figure"]["data"] == next(drawn)["data"]
                    figure = plotly.io.from_json(json.dumps(shown["figure"]))
                    assert figure.layout.title.text
                    assert "look" in shown["look"].lower()
        assert list(drawn) == []

    def test_each_claim_is_with_the_evidence_of_its_kind(self, content, report):
        for one, examined in zip(content["checkpoints"], report.examined, strict=True):
            found = {name: (part["structure"], part["evidence"]) for part in one["evidence"] for name in part["claims"]}
            assert found == {claim.name: (claim.structure, claim.evidence) for claim in examined.claims}

    def test_structures_without_words_come_last(self, report):
        one = report.examined[0]
        strange = make_claim("unheard/of", evidence="causal")
        changed = replace(one, claims=Claims(one.name, (strange, *one.claims)))
        assert [section.structure for section in changed.sections][-1] == "unheard"
        assert changed.sections[-1].parts == (Part(evidence="causal", claims=(strange,), exhibits=()),)
        assert '<h4 id="evidence-1-unheard">Unheard</h4>' in replace(report, examined=(changed,)).to_html()

    @pytest.mark.parametrize(
        ("verdicts", "n_ways"),
        [
            ({"weights": ["holds"], "behaviour": ["holds"], "causal": ["holds", "void"]}, 3),
            ({"activations": ["holds"], "behaviour": ["holds"]}, 1),
            ({"activations": ["holds"], "behaviour": ["fails"]}, 0),
            ({"weights": ["holds", "fails"], "causal": ["holds"]}, 1),
            ({"weights": ["void"], "training": ["holds"]}, 0),
        ],
    )
    def test_a_way_counts_where_a_claim_holds_and_none_fails(self, verdicts, n_ways):
        parts = [
            Part(evidence=kind, claims=tuple(make_claim(verdict=v) for v in found), exhibits=())
            for kind, found in verdicts.items()
        ]
        assert Section(structure="heads", parts=tuple(parts)).n_ways == n_ways

    def test_names_are_needed(self):
        with pytest.raises(ValueError, match="names is empty: name a checkpoint or its folder"):
            build([], date=DATE)

    def test_unknown_names_are_refused_before_anything_is_measured(self):
        with pytest.raises(
            ari.CheckpointError, match=r"no checkpoint 'positional-mu10'.*Did you mean 'positional-mu100'"
        ):
            build([SHIPPED, "positional-mu10"], date=DATE)

    def test_a_model_has_the_figures_that_the_studies_have_of_it(self, report):
        for examined in report.examined:
            exhibits = exhibits_of(subject_of(examined.checkpoint))
            assert [drawn.name for drawn in examined.exhibits] == [exhibit.name for exhibit in exhibits]

    def test_a_model_of_which_theory_is_silent_has_its_figures_and_the_reason(self, tmp_path):
        training = ari.TrainConfig(objective="sampled", lr=1e-3, steps=2, batch=8, n_seeds=2, device="cpu")
        config = ari.ModelConfig.diagonal(dim=4, n_heads=4, n_ctx=8)
        run = ari.train(config, ari.CommutingUnitary(4, noise=0.3), training)
        found = build([ari.checkpoints.save(run, tmp_path / "noisy")], date=DATE)
        assert found.examined[0].exhibits
        assert "Theory makes no claims about this model: noise is 0.3" in Page(found.to_html()).text
        titles = [drawn.figure.layout.title for drawn in found.examined[0].exhibits]
        assert not [title for title in titles if "In theory" in f"{title.text} {title.subtitle.text}"]


class TestLayout:
    @pytest.mark.parametrize(
        ("wide", "expected"),
        [
            ("h h", "half half"),
            ("h", "wide"),
            ("h w h", "wide wide wide"),
            ("w h h h", "wide half half wide"),
            ("h h h w", "half half wide wide"),
        ],
    )
    def test_halves_come_in_pairs(self, wide, expected):
        exhibits = tuple(make_exhibit(wide=letter == "w") for letter in wide.split())
        assert widths(exhibits) == expected.split()

    def test_figures_lose_their_titles_and_nothing_else(self, report):
        for exhibit in report.examined[0].exhibits:
            before, after = exhibit.to_dict(), specification(exhibit)
            assert after["data"] == before["data"]
            assert before["layout"].keys() - after["layout"].keys() == {"title"}
            plotted = [
                x["layout"]["height"] - x["layout"]["margin"]["t"] - x["layout"]["margin"]["b"] for x in (before, after)
            ]
            assert plotted[0] == plotted[1]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class TestInBrowser:
    @pytest.fixture
    def opened(self, browser, html, tmp_path):
        """The page without a network, and all that it complains about or asks for."""
        file = tmp_path / "report.html"
        file.write_text(html, "utf-8")
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("requestfailed", lambda request: page.complaints.append(request.url))
        page.on("dialog", lambda dialog: (page.complaints.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        yield page
        context.close()

    @pytest.mark.parametrize("width", [1400, 600])
    def test_draws_what_comes_near_and_fits_the_screen(self, opened, width):
        opened.set_viewport_size({"width": width, "height": 1000})
        opened.locator(".plot").first.scroll_into_view_if_needed()
        opened.locator(".plot .main-svg").first.wait_for(timeout=30_000)
        assert opened.locator(".plot:not([data-drawn])").count() > 0  # those far below wait
        opened.locator(".plot").last.scroll_into_view_if_needed()
        opened.locator(".plot").last.locator(".main-svg").first.wait_for(timeout=30_000)
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        assert opened.complaints == []

    def test_prints_every_figure_within_the_text(self, opened):
        count = "document.querySelectorAll('.plot .svg-container').length"
        opened.evaluate(f"addEventListener('beforeprint', () => {{ window.drawnForPrint = {count} }})")
        assert opened.evaluate(count) == 0  # none is near the top of the page
        n_pages = opened.pdf(format="A4", prefer_css_page_size=True).count(b"/Type /Page\n")
        assert 5 < n_pages < 60
        assert opened.evaluate("drawnForPrint") == opened.locator(".plot").count()

        opened.emulate_media(media="print")
        opened.set_viewport_size({"width": 680, "height": 1000})  # A4 less its margins, at 96 dots an inch
        opened.evaluate("dispatchEvent(new Event('beforeprint'))")
        badly_sized = """[...document.querySelectorAll(".plot")].filter((plot) => {
            const room = plot.getBoundingClientRect(), svg = plot.querySelector(".main-svg").getBoundingClientRect();
            return svg.right > room.right + 1 || svg.width < 0.9 * room.width;
        }).length"""
        assert opened.evaluate(badly_sized) == 0
        assert not opened.locator("nav").is_visible()
        assert opened.complaints == []
