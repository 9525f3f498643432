"""Which chapters there are, and their parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_books import write_chapter, write_toc

from kdrepro.book import chapters, execute, notebooks


def test_chapters_come_in_the_order_of_the_table_of_contents(root: Path) -> None:
    for name in ("two", "three", "unlisted"):
        write_chapter(root, name)
    write_toc(root, "three", "planned", "one", "two")
    assert chapters(root) == ["three", "one", "two", "unlisted"]


def test_parameters_are_those_of_the_tagged_cell(root: Path) -> None:
    text = 'protocol = "quick"  # how big\nseeds: int = 3\nrates = [0.1, 0.2]\nlimit = 60 * minutes\nprint(1)'
    notebook = notebooks.read(write_chapter(root, "two", "other = 1", parameters=text))
    assert notebooks.parameters(notebook) == {
        "protocol": "quick",
        "seeds": 3,
        "rates": [0.1, 0.2],
        "limit": "60 * minutes",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chapters": ["onne"]}, "chapters: got 'onne', expected one of one, two; did you mean 'one'?"),
        ({"protocol": "papr"}, "protocol: got 'papr', expected one of smoke, quick, reduced, paper"),
        (
            {"parameters": {"temprature": 4}},
            "temprature: notebooks/one.ipynb has no such parameter, expected one of protocol, seeds, device",
        ),
        ({"seeds": 2}, "seeds: notebooks/two.ipynb has no such parameter, expected one of protocol"),
        ({"time_limit": 0}, "time_limit: got 0, expected a finite number of seconds above 0"),
        ({"time_limit": float("inf")}, "time_limit: got inf, expected"),
        ({"chapters": ["one"], "seeds": {1, 2}}, "seeds: got {1, 2}, expected a JSON value"),
        ({"chapters": ["one"], "seeds": float("nan")}, "seeds: got nan, expected a JSON value"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(
    root: Path, arguments: dict[str, Any], message: str
) -> None:
    write_chapter(root, "two", parameters='protocol = "quick"')
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        execute(root, **arguments)
    assert not (root / "_build").exists()


def test_a_chapter_without_parameters_says_so(root: Path) -> None:
    file = root / "notebooks" / "one.ipynb"
    file.write_text(file.read_text(encoding="utf-8").replace('"parameters"', '"other"'), encoding="utf-8")
    with pytest.raises(ValueError, match="expected none: no cell is tagged `parameters`"):
        execute(root)


@pytest.mark.parametrize("content", ["", '{"cells": [', "[]", '{"cells": 3}'])
def test_a_truncated_notebook_is_named(root: Path, content: str) -> None:
    (root / "notebooks" / "one.ipynb").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.ipynb: no (complete )?notebook"):
        execute(root)
