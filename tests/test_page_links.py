"""The links of the built pages: none is broken, and nothing of a page comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from book_pages import CHAPTERS, PAGES
from project_files import ROOT

# The chapters are executed for this: seconds of training each, and some seconds for the pages.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


class Links(HTMLParser):
    """The ids of a page and where its links and parts lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if name in ("href", "src") and value and (tag, name) != ("a", "src"):
                self.targets.add(value)


@pytest.fixture(scope="module")
def links(site: Path) -> dict[str, Links]:
    """The links of every page of the site, by its path."""
    files = [file for file in site.rglob("*.html") if "_static" not in file.parts]
    return {file.relative_to(site).as_posix(): Links(file.read_text(encoding="utf-8")) for file in files}


def test_every_page_is_there(links: dict[str, Links]) -> None:
    assert {*PAGES, "index.html"} <= links.keys()


def test_no_link_inside_the_book_is_broken(site: Path, links: dict[str, Links]) -> None:
    broken = []
    for page, found in links.items():
        for target in found.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(urlsplit(urljoin(page, parts.path)).path) if parts.path else page
            if not (site / path).is_file():
                broken.append((page, target, "no such file"))
            elif parts.fragment and path in links and unquote(parts.fragment) not in links[path].ids:
                broken.append((page, target, "no such anchor"))
    assert broken == []


def test_links_to_sources_and_to_colab_lead_to_tracked_files(links: dict[str, Links]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout, so nothing says what is tracked")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    repository = settings["repository"]["url"].removeprefix("https://github.com/")
    for page in PAGES:
        source = page.removesuffix(".html") + (".ipynb" if page in CHAPTERS else ".md")
        assert source in tracked
        edit = [each for each in links[page].targets if f"github.com/{repository}/edit/" in each]
        assert edit == [f"https://github.com/{repository}/edit/main/{source}"]
        colab = {each for each in links[page].targets if "colab.research.google.com" in each}
        address = f"https://colab.research.google.com/github/{repository}/blob/main/{source}"
        assert colab == ({address} if page in CHAPTERS else set())


def test_nothing_of_a_page_comes_from_elsewhere(site: Path, links: dict[str, Links]) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe|link(?![^>]*rel=\"(?:canonical|author)\"))[^>]*(?:src|href)=\"(?:https?:)?//"
    )
    for page in links:
        assert loaded.findall((site / page).read_text(encoding="utf-8")) == []
