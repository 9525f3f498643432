"""The pages are built, or the last good ones stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_books import write_chapter

from kdrepro.book import BuildFailed, build, execute, pages


def test_the_pages_are_built_and_a_later_failure_leaves_them(root: Path) -> None:
    execute(root)
    html = build(root)
    assert html == root / "_build" / "html"
    assert "book/intro.html" in (html / "index.html").read_text(encoding="utf-8")
    front = (html / "book" / "intro.html").read_text(encoding="utf-8")
    assert 'class="kdrepro-table kdrepro-dashboard kdrepro-stacked"' in front
    assert "tex-chtml-full.js" in front
    assert (html / "_static" / "mathjax" / "tex-chtml-full.js").stat().st_size > 10**6
    chapter = (html / "notebooks" / "one.html").read_text(encoding="utf-8")
    assert "quick 3 auto" in chapter
    (root / "book" / "intro.md").write_text("# Front\n\n[nowhere](missing.md)\n", encoding="utf-8")
    with pytest.raises(BuildFailed, match=r"book/intro\.md:3: WARNING: .*missing\.md"):
        build(root)
    assert (html / "book" / "intro.html").read_text(encoding="utf-8") == front
    assert sorted(each.name for each in (root / "_build").iterdir() if each.name.startswith(".")) == []


def test_a_failed_chapter_is_built_with_its_banner(root: Path) -> None:
    write_chapter(root, "one", "1 / 0")
    assert [result.status for result in execute(root)] == ["failed"]
    page = (build(root, output=root / "site") / "notebooks" / "one.html").read_text(encoding="utf-8")
    assert re.search(r'<div class="[^"]*kdrepro-banner[^"]*danger|danger[^"]*kdrepro-banner', page)
    assert "ZeroDivisionError" in page


def test_complaints_are_the_lines_that_complain() -> None:
    log = "reading\n\x1b[91m/x/stage/book/intro.md:3: WARNING: no target\x1b[39;49;00m\nwriting\n"
    assert pages._complaints(log, Path("/x/stage")) == "book/intro.md:3: WARNING: no target"
    assert pages._complaints("all quiet\n", Path("/x")) == "all quiet\n"
