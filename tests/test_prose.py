"""The code on the page about using kdrepro in a loop of one's own runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import Any

import pytest
from project_files import ROOT

import kdrepro

PAGE = (ROOT / "book" / "importing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_blocks(blocks: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Run the Python blocks in one namespace: of each the code, what it printed, and what the page shows below it."""
    space: dict[str, Any] = {"__name__": "__main__"}
    ran = []
    for place, (language, code) in enumerate(blocks):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"importing.md, block {place}", "exec"), space)
            shown = (
                blocks[place + 1][1]
                if blocks[place + 1 : place + 2] and blocks[place + 1][0] == "text"
                else ""
            )
            ran.append((code, printed.getvalue(), shown))
    return ran


def test_the_code_runs_and_prints_what_is_shown() -> None:
    ran = run_blocks(BLOCKS)
    checker = doctest.OutputChecker()
    wrong = [(printed, shown) for _, printed, shown in ran if not checker.check_output(shown, printed, FLAGS)]
    assert wrong == []
    assert sum(bool(shown) for _, _, shown in ran) >= 5


def test_every_output_belongs_to_code() -> None:
    languages = [language for language, _ in BLOCKS]
    assert all(languages[place - 1] == "python" for place, name in enumerate(languages) if name == "text")


def test_a_wrong_output_would_be_noticed() -> None:
    ((_, printed, shown),) = run_blocks([("python", "print(1 + 1)\n"), ("text", "3\n")])
    assert not doctest.OutputChecker().check_output(shown, printed, FLAGS)


def anchors(page: str) -> set[str]:
    """What the headings of a page are called in a link."""
    headings = re.findall(
        r"^#{1,3} (.*)$", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_public_name_is_listed_once_and_leads_to_where_it_is_shown() -> None:
    rows = re.findall(r"^\* (`\w+`(?:, `\w+`)*): (.*?) \(\[[^\]]*\]\((.*?)\)\)$", PAGE, flags=re.MULTILINE)
    names = [name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == [name for name in kdrepro.__all__ if name != "__version__"]
    for cell, what, link in rows:
        assert what, cell
        if link.startswith("#"):
            assert link[1:] in anchors(PAGE)
            # Below that heading, and before the next of its kind.
            sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
            (section,) = (each for each in sections if anchors(f"## {each}") & {link[1:]})
            assert any(re.search(rf"\b{name}\b", section) for name in re.findall(r"`(\w+)`", cell)), cell
        else:
            assert (ROOT / "book" / link).resolve().is_file(), link


@pytest.mark.parametrize("page", sorted((ROOT / "book").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_one_title_at_its_top(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1
