"""Building the pages with Jupyter Book, strictly, and putting them in place as a whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from kdrepro.book.staging import stage


class BuildFailed(RuntimeError):
    """Jupyter Book complained; the message holds its warnings and errors. The earlier pages are still in place."""


def build(
    root: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Stage the book and build its pages into `output`, which is `<root>/_build/html` unless given; return it.

    `folder` is where `execute` left the chapters and where staging happens, `<root>/_build` unless given. Every warning
    is an error. The pages are always built anew, which takes seconds: what Sphinx keeps from an earlier build can hide
    a warning and leaves old tables of contents on pages that did not change. They replace those of an earlier build as
    a whole, and only if all went well.

    Raises BuildFailed with the complaints of Jupyter Book.
    """
    root = Path(root).resolve()
    folder = root / "_build" if folder is None else Path(folder).resolve()
    output = folder / "html" if output is None else Path(output).resolve()
    staged = stage(root, folder=folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, so that putting the pages in place is a rename.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".pages-") as temporary:
        log = _jupyter_book(staged, Path(temporary), config=root / "_config.yml")
        (folder / "build.log").write_text(log.stdout, encoding="utf-8")
        new = Path(temporary) / "_build" / "html"
        if log.returncode or not (new / "index.html").exists():
            raise BuildFailed(f"the book was not built:\n{_complaints(log.stdout, staged)}")
        if output.exists():
            output.rename(Path(temporary) / "old")
        new.rename(output)
    return output


def _jupyter_book(staged: Path, target: Path, *, config: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)),
        *("--config", str(config), "--toc", str(staged / "book" / "_toc.yml"), "--path-output", str(target)),
        *("-W", "-n", "--keep-going"),
    ]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _complaints(log: str, staged: Path) -> str:
    """The lines that say what is wrong, with paths as in the repository; all of a log that has none."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log).replace(f"{staged}{os.sep}", "")
    lines = [line for line in plain.splitlines() if re.search(r"WARNING|ERROR|CRITICAL|[Ee]xception", line)]
    return "\n".join(lines) or plain
