"""The staging folder: the pages and executed chapters as Jupyter Book reads them, at the paths of the repository."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kdrepro import checks, tables
from kdrepro.book import notebooks
from kdrepro.book.dashboard import dashboard
from kdrepro.book.execution import RECORD, executed, failed
from kdrepro.book.notebooks import Cell, Notebook
from kdrepro.ledger import recorded

# Cells that papermill adds: the parameters of this execution, and on an error two that point at it.
PAPERMILL_TAGS = {"injected-parameters", "papermill-error-cell-tag"}


def stage(root: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> Path:
    """Set up `stage/` below `folder` (`<root>/_build` unless given) and return it.

    It mirrors the repository: `book/` with the generated parts filled in, and `notebooks/` with each chapter as it was
    last executed. A path in it is a path of the repository, so with an empty `path_to_book` every link to a source or
    to Colab leads to a tracked file. The folder of an earlier call is replaced as a whole.

    Raises FileNotFoundError if MathJax, which comes with the extra `book`, is not installed.
    """
    root = Path(root).resolve()
    folder = root / "_build" if folder is None else Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "stage"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".stage-") as temporary:
        new = Path(temporary) / "new"
        shutil.copytree(root / "book", new / "book")
        for page in (new / "book").rglob("*.md"):
            text = page.read_text(encoding="utf-8")
            page.write_text(_filled(unbroken(text), _parts(root)), encoding="utf-8")
        _copy_mathjax(new / "book" / "assets" / "mathjax")
        colab = _colab(root / "_config.yml")
        for name in notebooks.chapters(root):
            notebook = chapter(root, folder, name)
            _add_colab(notebook, colab.format(name=name))
            notebooks.write(new / "notebooks" / f"{name}.ipynb", notebook)
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)
    return target


def chapter(root: Path, folder: Path, name: str) -> Notebook:
    """The chapter as the book shows it: its last good results, or its source; with a banner where that must be said."""
    source = notebooks.read(root / "notebooks" / f"{name}.ipynb")
    good, attempt = executed(folder, name), failed(folder, name)
    notebook = notebooks.read(good) if good.exists() else source
    record = notebook["metadata"].get(RECORD, {})
    shown = tidied(notebook)
    shown["metadata"]["kernelspec"] = source["metadata"].get("kernelspec", {})
    if attempt.exists():
        failure = notebooks.read(attempt)["metadata"].get(RECORD, {})
        _add_banner(shown, *_failure_banner(failure, record))
    elif not good.exists():
        text = "It has not been executed where this book was built, so it shows no results."
        _add_banner(shown, "warning", "This chapter was not executed", text)
    if record.get("inputs", {}).get("parameters", {}).get("protocol") == "smoke":
        text = "It ran for seconds, to test the book itself. What it trained means nothing."
        _add_banner(shown, "warning", "This chapter was executed at protocol smoke", text)
    return shown


def tidied(notebook: Notebook) -> Notebook:
    """The notebook without what papermill adds, what went to stderr, and widgets that would need a kernel."""
    cells = [
        _tidied_cell(cell)
        for cell in notebook["cells"]
        if not PAPERMILL_TAGS.intersection(notebooks.tags(cell))
    ]
    hidden = ("papermill", "widgets", RECORD)
    metadata = {key: value for key, value in notebook["metadata"].items() if key not in hidden}
    return {**notebook, "cells": cells, "metadata": metadata}


def _tidied_cell(cell: Cell) -> Cell:
    metadata = {
        key: value for key, value in cell.get("metadata", {}).items() if key not in ("papermill", "execution")
    }
    tidy = {**cell, "metadata": metadata}
    if cell["cell_type"] == "markdown":
        tidy["source"] = unbroken(notebooks.text_of(cell))
    if "outputs" in cell:
        tidy["outputs"] = [_tidied_output(output) for output in cell["outputs"] if not _is_noise(output)]
    return tidy


def _tidied_output(output: Mapping[str, Any]) -> Mapping[str, Any]:
    said = output.get("data", {}).get("text/markdown")
    if said is None:
        return output
    text = said if isinstance(said, str) else "".join(said)
    return {**output, "data": {**output["data"], "text/markdown": unbroken(text)}}


def unbroken(markdown: str) -> str:
    """The text with no line break between a number and its per cent; what is code stays as it is.

    >>> unbroken("a 95 % interval, `95 % 7`")
    'a 95\\xa0% interval, `95 % 7`'
    """
    parts = re.split(r"(```.*?```|`[^`\n]*`)", markdown, flags=re.DOTALL)
    return "".join(
        part if at % 2 else re.sub(r"(?<=\d)\s%", "\u00a0%", part) for at, part in enumerate(parts)
    )


def _is_noise(output: Mapping[str, Any]) -> bool:
    widget = any("widget-view" in kind for kind in output.get("data", {}))
    return widget or (output.get("output_type") == "stream" and output.get("name") == "stderr")


def _failure_banner(failure: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, str, str]:
    reason = str(failure.get("failure", "for a reason that it did not leave")).replace("`", "'")
    if record:
        kept = f"What follows are its last good results, of {record.get('ended', 'an earlier time')}."
    else:
        kept = "It has never been executed to its end, so what follows is its source without results."
    text = f"The attempt of {failure.get('ended', 'an unknown time')} ended with `{reason}`. {kept}"
    return "danger", "This chapter failed", text


def _after_title(notebook: Notebook, text: str) -> None:
    """Put Markdown below the first heading, which has to stay the first thing of the page."""
    for place, cell in enumerate(notebook["cells"]):
        source = notebooks.text_of(cell)
        if cell["cell_type"] == "markdown" and (match := re.search(r"^# .*$", source, flags=re.MULTILINE)):
            before, after = source[: match.end()], source[match.end() :]
            notebook["cells"][place] = {**cell, "source": f"{before}\n\n{text}\n{after}"}
            return
    raise ValueError(
        "notebook: it has no heading `# ...` in a Markdown cell, expected one as the title of its page"
    )


def _add_banner(notebook: Notebook, kind: str, title: str, text: str) -> None:
    _after_title(notebook, f":::{{admonition}} {title}\n:class: {kind} kdrepro-banner\n{text}\n:::\n")


def _add_colab(notebook: Notebook, address: str) -> None:
    link = f'<a class="kdrepro-colab" href="{escape(address, quote=True)}">Open in Colab</a>'
    _after_title(notebook, f'<p class="kdrepro-launch">{link}</p>\n')


def _colab(config: Path) -> str:
    """The address of a chapter on Colab, with `{name}` for its stem."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    repository, colab = settings["repository"], settings["launch_buttons"]["colab_url"]
    path = repository["url"].removeprefix("https://github.com/")
    return f"{colab}/github/{path}/blob/{repository['branch']}/notebooks/{{name}}.ipynb"


def _parts(root: Path) -> dict[str, Callable[[str], str]]:
    def claims(asked: str) -> str:
        caption, _, names = asked.partition(": ")
        return tables.across(*re.split(r",\s+", names), ledger=recorded(), caption=caption)

    return {
        "dashboard": lambda _: dashboard(recorded(), chapters=notebooks.chapters(root)),
        "claims": claims,
    }


def _filled(text: str, parts: Mapping[str, Callable[[str], str]]) -> str:
    """The text with each marker replaced by what is made of claims and rows.

    A marker is a comment: `<!-- dashboard -->`, or `<!-- claims The caption: hinton2015 H3b, kim2016 E2 -->`.
    """

    def part(match: re.Match[str]) -> str:
        if match[1] not in parts:
            raise checks.wrong_name("marker", match[1], parts)
        return f"```{{raw}} html\n{parts[match[1]](' '.join((match[2] or '').split()))}\n```"

    filled = re.sub(r"^<!-- (\w+)(?:\s+([^>]+?))? -->$", part, text, flags=re.MULTILINE)
    for name in parts:
        # What is written a little otherwise would be a comment, and its table nowhere.
        if left := re.search(rf"<!--\s*{name}\b.*", filled):
            raise ValueError(f"marker: got {left[0]!r}, expected `<!-- {name} … -->` on lines of its own")
    return filled


def _copy_mathjax(target: Path) -> None:
    """Copy the script and the fonts of MathJax: 1.7 of the 24 MB of the package that brings it."""
    # The full script has every TeX extension in it; the plain one would fetch some when a page uses them.
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("sphinx-mathjax-offline is not installed: pip install 'kdrepro[book]'")
    source = Path(spec.submodule_search_locations[0]) / "static" / "mathjax"
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    target.mkdir(parents=True)
    shutil.copy2(source / "tex-chtml-full.js", target)
    shutil.copytree(source / fonts, target / fonts)
