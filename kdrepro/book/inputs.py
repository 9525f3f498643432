"""What the results of a chapter depend on, and in words what of it has changed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdrepro.book.notebooks import Notebook, tags, text_of

# group -> name -> digest or value
Inputs = dict[str, dict[str, Any]]
_SHOWN = 3


def _digest(*contents: bytes) -> str:
    total = hashlib.sha256()
    for content in contents:
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()[:32]


def _files(root: Path, files: Iterable[Path]) -> dict[str, str]:
    return {file.relative_to(root).as_posix(): _digest(file.read_bytes()) for file in sorted(files)}


def _folder(folder: Path) -> str:
    files = sorted(folder.glob("*.json"))
    return _digest(*(part for file in files for part in (file.name.encode(), file.read_bytes())))


def inputs(
    root: Path, name: str, notebook: Notebook, parameters: Mapping[str, Any], data: Mapping[str, str]
) -> Inputs:
    """All that an execution of the chapter `name` looks at, as digests.

    That is notebook, parameters, package, pins, data and the rows of its own recipe. Of the notebook only the sources
    and tags of its cells count, so that opening it and saving it changes nothing.
    """
    cells = [(cell["cell_type"], text_of(cell), tags(cell)) for cell in notebook["cells"]]
    package, pins = root / "kdrepro", root / "constraints.txt"
    # A chapter and its recipe have one name.
    own = package / "results" / name
    rows = {name: _folder(own)} if own.is_dir() else {}
    return {
        "notebook": {f"notebooks/{name}.ipynb": _digest(json.dumps(cells).encode())},
        # Through JSON, because that is how the values come back from the executed notebook.
        "parameters": json.loads(json.dumps(dict(parameters))),
        "package sources": _files(root, package.rglob("*.py")),
        "claims": _files(root, (package / "claims").glob("*.toml")),
        "recorded rows": rows,
        "pins": _files(root, [pins] if pins.exists() else []),
        "data": dict(sorted(data.items())),
        "Python": {"version": platform.python_version()},
    }


def differences(old: Inputs, new: Inputs) -> str:
    """What differs, in words; empty if nothing does.

    >>> differences({"pins": {"constraints.txt": "00"}}, {"pins": {"constraints.txt": "11"}})
    'pins changed: constraints.txt'
    >>> differences({"parameters": {"seeds": 3}}, {"parameters": {"seeds": 5}})
    'parameters changed: seeds 3 → 5'
    """
    parts = []
    for group in [*new, *(old.keys() - new.keys())]:
        before, after = old.get(group, {}), new.get(group, {})
        names = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        if names:
            words = [_change(group, name, before, after) for name in names]
            more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
            parts.append(f"{group} changed: {', '.join(words[:_SHOWN])}{more}")
    return "; ".join(parts)


def _change(group: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if group in ("parameters", "Python") and name in before and name in after:
        return f"{name} {before[name]} → {after[name]}"
    if name not in before:
        return f"{name} (new)"
    return name if name in after else f"{name} (gone)"
