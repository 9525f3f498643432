"""Where a row comes from: the commit of the sources, and the versions of what computed it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def source_state() -> tuple[str | None, bool]:
    """Return the commit that the package runs from, and whether its sources differ from it; (None, False) if installed.

    In a clone that git does not answer about, the commit is None and the sources count as changed.

    Recorded rows do not count as sources: they come in while a recording goes on.
    """
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed package may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":(exclude)results"))
    except (OSError, subprocess.CalledProcessError) as error:
        # 1: git knows nothing of this file. Else there is no repository, or no git, or one that trusts nobody here.
        unknown = isinstance(error, subprocess.CalledProcessError) and error.returncode == 1
        return None, not unknown and (folder.parent / ".git").exists()


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("kdrepro", "torch", "torchvision", "accelerate", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
