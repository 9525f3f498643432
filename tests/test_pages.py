"""The built pages as a reader has them: from a folder, in Chromium without a network, wide, narrow, light, dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from book_pages import CHAPTERS, PAGES

from kdrepro.claims import papers

SCHEMES = ("light", "dark")

# The chapters are executed for this: seconds of training each, and some seconds for the pages.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what went wrong or over the network since it was opened."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def ask(self, script: str, *arguments: Any) -> Any:
        return self.page.evaluate(script, *arguments)

    def shown(self, *, width: int = 1400, scheme: str = "light") -> Opened:
        """The same page in a window of that width, for a reader whose system is light or dark."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        return self

    def unfold(self) -> None:
        self.ask("document.querySelectorAll('details').forEach(each => each.open = true)")


def opened(browser: Any, file: Path) -> Opened:
    """The page without any network, after its scripts and formulas are done."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    # A machine that does much else is slow, and that is no fault of the page.
    context.set_default_timeout(200_000)
    seen = Opened(context.new_page())
    say = seen.complaints.append
    seen.page.on("console", lambda each: each.type == "error" and say(f"console: {each.text}"))
    seen.page.on("pageerror", lambda each: say(f"script: {each}"))
    seen.page.on("requestfailed", lambda each: say(f"failed: {each.url}"))
    local = ("file:", "data:")
    seen.page.on("request", lambda each: each.url.startswith(local) or say(f"asked for: {each.url}"))
    seen.page.goto(file.as_uri(), wait_until="load")
    if file.name == "index.html":
        seen.page.wait_for_url("**/book/intro.html", wait_until="load")
    seen.ask("() => window.MathJax?.startup?.promise")
    # Otherwise a colour that is measured may be on its way to another.
    seen.page.add_style_tag(content="* {transition: none !important}")
    seen.page.wait_for_timeout(300)
    return seen


@pytest.fixture(scope="module")
def pages(browser: Any, site: Path) -> Callable[[str], Opened]:
    """Opens a page of the book by its path; one that is open already is given again."""
    return cache(lambda name: opened(browser, site / name))


# -- what every page has to be


@pytest.mark.parametrize("name", [*PAGES, "index.html", "search.html", "genindex.html"])
def test_page_opens_without_an_error_and_without_a_network(pages: Callable[[str], Opened], name: str) -> None:
    seen = pages(name).shown()
    assert seen.page.title()
    assert seen.ask("document.body.innerText.length") > 100
    assert seen.complaints == []


def test_a_request_to_another_host_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<script src='https://example.org/a.js'></script><script>nonsense()</script>", encoding="utf-8"
    )
    seen = opened(browser, page)
    assert {each.split(":")[0] for each in seen.complaints} == {"asked for", "failed", "console", "script"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_narrow_window(pages: Callable[[str], Opened], name: str, scheme: str) -> None:
    seen = pages(name).shown(width=390, scheme=scheme)
    seen.unfold()
    assert seen.ask("document.documentElement.scrollWidth") <= 390
    cut = """() => [...document.querySelectorAll('.bd-article table, .bd-article pre')].filter(each => {
        let box = each;
        while (box && !/auto|scroll/.test(getComputedStyle(box).overflowX)) box = box.parentElement;
        return each.getBoundingClientRect().right > innerWidth + 1 && !box;
    }).length"""
    assert seen.ask(cut) == 0, "what is too wide scrolls in its own box"


# The colours of an element's text and of what is behind it, with transparency taken into account.
CONTRAST = """(selector) => {
    const parse = text => {
        const found = text.match(/[\\d.]+/g).map(Number);
        const unit = text.startsWith('color(') ? 255 : 1;
        return [found[0] * unit, found[1] * unit, found[2] * unit, found[3] ?? 1];
    };
    const over = (top, below) => [0, 1, 2].map(k => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
    const behind = each => {
        const layers = [];
        for (; each; each = each.parentElement) layers.push(parse(getComputedStyle(each).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
    };
    const light = colour => {
        const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const each of document.querySelectorAll(selector)) {
        const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !each.getClientRects().length) continue;
        const back = behind(each), front = over(parse(getComputedStyle(each).color), back);
        const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
        found.push([(high + 0.05) / (low + 0.05), each.textContent.trim().slice(0, 40), each.className]);
    }
    return found;
}"""
READ = (
    ".bd-article :is(table, figcaption, .admonition, .sd-card) *, .bd-article p, .kdrepro-colab, "
    ".cell_output .text_html *, .cell_output pre"
)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_text_stands_out_from_what_is_behind_it(
    pages: Callable[[str], Opened], name: str, scheme: str
) -> None:
    seen = pages(name).shown(scheme=scheme)
    seen.unfold()
    measured = seen.ask(CONTRAST, READ)
    assert measured
    assert [each for each in measured if each[0] < 4.5] == []


def test_grey_on_grey_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    texts = "<p style='color:#777'>weak</p><p style='color:#000'>strong</p><p style='color:rgba(0,0,0,.4)'>thin</p>"
    page.write_text(f"<body style='background:#ddd'>{texts}", encoding="utf-8")
    seen = opened(browser, page)
    weak, strong, thin = (each[0] for each in seen.ask(CONTRAST, "p"))
    assert weak == pytest.approx(3.30, abs=0.02)
    assert strong == pytest.approx(15.4, abs=0.1)
    assert thin < 4.5


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_says_what_it_shows(pages: Callable[[str], Opened], name: str) -> None:
    seen = pages(name).shown()
    images = seen.ask(
        "[...document.querySelectorAll('img')].map(each => [each.src, each.alt, each.naturalWidth])"
    )
    for source, text, width in images:
        assert width > 0, source
        # Without one, Sphinx takes the name of the file.
        assert len(text) > 3, source
        assert not re.search(r"\.(png|svg|jpe?g)$|/", text), f"{source}: {text}"


# -- formulas


@pytest.mark.parametrize("name", PAGES)
def test_formulas_are_typeset(pages: Callable[[str], Opened], name: str) -> None:
    seen = pages(name).shown()
    formulas = seen.ask("document.querySelectorAll('.math').length")
    done = seen.ask("document.querySelectorAll('.math mjx-container').length")
    wrong = seen.ask("document.querySelectorAll('mjx-merror, [data-mjx-error]').length")
    text = seen.ask(
        """() => { const copy = document.querySelector('.bd-article').cloneNode(true);
        copy.querySelectorAll('code, pre, script, style, mjx-container').forEach(each => each.remove());
        return copy.textContent; }"""
    )
    fonts = seen.ask(
        "[...document.fonts].filter(f => f.family.startsWith('MJX') && f.status == 'error').length"
    )
    assert (done, wrong, fonts) == (formulas, 0, 0)
    assert re.findall(r"\$\$|\\\(|\\\[|\\frac|\$[a-zA-Z]+\$", text) == []


def test_there_are_formulas(site: Path) -> None:
    for name in ("book/notation.html", *CHAPTERS):
        assert 'class="math' in (site / name).read_text(encoding="utf-8")


# -- tables, figures, the slider


def test_the_front_page_says_what_became_of_every_paper(pages: Callable[[str], Opened]) -> None:
    seen = pages("book/intro.html").shown()
    rows = seen.ask(
        "[...document.querySelectorAll('.kdrepro-dashboard tbody tr')].map(each => each.innerText)"
    )
    height = seen.ask("document.querySelector('.kdrepro-ways').getBoundingClientRect().bottom")
    assert len(rows) == len(papers())
    for row, paper in zip(rows, papers(), strict=True):
        assert paper.cited_as in row
        assert paper.title in row
        assert bool(re.search("not yet judged|being recorded", row)) == (paper.status == "planned")
        assert bool(re.search(r"\d+ (reproduced|not run|out of reach)", row)) == (paper.status != "planned")
    assert height < 1100, "one screen, or little more"


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_tables_with_something_in_them(pages: Callable[[str], Opened], name: str) -> None:
    seen = pages(name).shown()
    seen.unfold()
    tables = seen.ask(
        """() => [...document.querySelectorAll('.kdrepro-table')].map(table => [
        table.caption?.innerText ?? '', table.tHead.rows[0].cells.length, table.tBodies[0].rows.length,
        [...table.tBodies[0].rows].filter(row => row.innerText.trim().length > 1).length])"""
    )
    assert len(tables) >= 5
    for caption, columns, rows, filled in tables:
        assert caption
        assert columns >= 2, caption
        assert rows == filled > 0, caption


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize("width", [390, 1280])
def test_long_texts_need_no_scrolling_sideways(pages: Callable[[str], Opened], name: str, width: int) -> None:
    seen = pages(name).shown(width=width)
    seen.unfold()
    boxes = seen.ask(
        """() => [...document.querySelectorAll('table.kdrepro-stacked')].map(table => [table.caption.innerText,
        table.parentElement.scrollWidth, table.parentElement.clientWidth])"""
    )
    assert boxes
    for caption, needed, there in boxes:
        assert needed <= there, caption


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_shows_no_trace_of_the_machinery(pages: Callable[[str], Opened], name: str) -> None:
    seen = pages(name).shown()
    text = seen.ask("document.querySelector('.bd-article').textContent")
    title = seen.ask("document.querySelector('.bd-article > section').firstElementChild.tagName")
    assert title == "H1"
    assert "executed at protocol smoke" in text
    assert re.findall(r"papermill|Traceback|UserWarning|FutureWarning|it/s\]", text) == []


HEIGHTS = """[...document.querySelectorAll('.bars')].map(
    set => [...set.querySelectorAll('i')].map(bar => bar.offsetHeight))"""


def test_the_slider_softens_the_bars_without_a_kernel(pages: Callable[[str], Opened]) -> None:
    seen = pages("notebooks/hinton_kd.html").shown()
    slider = seen.page.locator("input[type=range]").first
    cold = seen.ask(HEIGHTS)
    slider.fill("30")
    hot = seen.ask(HEIGHTS)
    assert seen.page.locator("output").first.inner_text() == "T = 30.0"
    slider.fill("1")
    assert seen.ask(HEIGHTS) == cold
    assert len(cold) >= 3
    for before, after in zip(cold, hot, strict=True):
        assert max(after) - min(after) < max(before) - min(before)
    assert seen.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_figures_are_on_a_white_card(pages: Callable[[str], Opened], scheme: str) -> None:
    seen = pages("notebooks/hinton_kd.html").shown(scheme=scheme)
    cards = seen.ask(
        """() => [...document.querySelectorAll('.cell_output img')].map(each => {
        const style = getComputedStyle(each);
        return [style.backgroundColor, style.filter, each.getBoundingClientRect().width]; })"""
    )
    assert cards
    for colour, change, width in cards:
        assert change == "none"
        assert colour == "rgb(255, 255, 255)" or (scheme == "light" and colour == "rgba(0, 0, 0, 0)")
        assert width <= 1000
