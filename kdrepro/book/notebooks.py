"""Notebooks as files: which chapters there are, what parameters they take, reading and writing them."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdrepro import files

Notebook = dict[str, Any]
Cell = dict[str, Any]


def chapters(root: str | os.PathLike[str]) -> list[str]:
    """The stems of the chapters in `notebooks/`, in the order of `book/_toc.yml`.

    One that the table of contents leaves out comes last, and one that it names but that is not there is left out:
    the build of the pages complains about either.
    """
    root = Path(root)
    there = sorted(file.stem for file in (root / "notebooks").glob("*.ipynb"))
    toc = root / "book" / "_toc.yml"
    listed = _files(yaml.safe_load(toc.read_text(encoding="utf-8"))) if toc.exists() else iter(())
    order = [Path(file).stem for file in listed if Path(file).parent.name == "notebooks"]
    return [stem for stem in order if stem in there] + [stem for stem in there if stem not in order]


def _files(toc: Any) -> Iterator[str]:
    """Every `file:` and `root:` of a table of contents, from top to bottom."""
    if isinstance(toc, dict):
        for key, value in toc.items():
            if key in ("file", "root") and isinstance(value, str):
                yield value.removesuffix(".ipynb")
            else:
                yield from _files(value)
    elif isinstance(toc, list):
        for each in toc:
            yield from _files(each)


def read(file: Path) -> Notebook:
    """The notebook in a file; ValueError naming the file if there is none in it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: no complete notebook: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError(f"{file}: no notebook: it has no list of cells")
    return content


def write(file: Path, notebook: Notebook) -> None:
    """Write a notebook whole or not at all."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    with files.whole(file) as beside:
        beside.write_text(text + "\n", encoding="utf-8", newline="\n")


def text_of(cell: Cell) -> str:
    """The source of a cell, which a file holds as one text or as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags(cell: Cell) -> list[str]:
    """The tags of a cell."""
    found = cell.get("metadata", {}).get("tags", [])
    return list(found)


def parameters(notebook: Notebook) -> dict[str, Any]:
    """The names that the cell tagged `parameters` sets, with their values; none if there is no such cell.

    A value that is no literal is given as its source.
    """
    found: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "code" and "parameters" in tags(cell):
            for statement in ast.parse(text_of(cell)).body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        found[name] = _literal(value)
                    case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                        found[name] = _literal(value)
    return found


def _literal(expression: ast.expr) -> Any:
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return ast.unparse(expression)
