"""A repository with a small book, and what its chapters printed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from kdrepro.book import notebooks

PARAMETERS = 'protocol = "quick"\nseeds: int = 3\ndevice = "auto"'
Cell = dict[str, Any]


def code(source: str, *tags: str, **fields: Any) -> Cell:
    cell = {"cell_type": "code", "source": source, "outputs": [], "execution_count": None}
    return cell | {"metadata": {"tags": list(tags)} if tags else {}} | fields


def write_chapter(root: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    """A chapter with a title, a parameters cell and so many cells of code."""
    title = {"cell_type": "markdown", "metadata": {}, "source": f"# Chapter {name}\n\nWhat it is about."}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [title, code(parameters, "parameters"), *map(code, sources)]
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    file = root / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def outputs(file: Path) -> str:
    """What the cells of a notebook printed."""
    found = [output for cell in notebooks.read(file)["cells"] for output in cell.get("outputs", ())]
    return "".join("".join(output.get("text", ())) for output in found)


def write_toc(root: Path, *names: str) -> None:
    toc = {
        "format": "jb-book",
        "root": "book/intro",
        "chapters": [{"file": f"notebooks/{name}"} for name in names],
    }
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")


def executed(root: Path, name: str = "one") -> Path:
    return root / "_build" / "executed" / f"{name}.ipynb"


def processes_of(root: Path) -> list[str]:
    """The processes that know this repository from their environment: its chapters and what they started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(root) in process.environ().get("PYTHONPATH", ""):
                found.append(" ".join(process.cmdline()))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)
