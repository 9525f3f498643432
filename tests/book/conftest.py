"""What the tests of the book share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project_files import ROOT
from small_books import write_chapter, write_toc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small repository: a package with one source, pins, configuration, a page and a table of contents."""
    for folder in ("kdrepro/losses", "kdrepro/claims", "kdrepro/results/one", "book/assets", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kdrepro/losses/logits.py").write_text("WEIGHT = 1\n", encoding="utf-8")
    (tmp_path / "kdrepro/claims/paper.toml").write_text("[paper]\n", encoding="utf-8")
    (tmp_path / "kdrepro/results/one/paper.teacher.s0.json").write_text("{}", encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("numpy==1\n", encoding="utf-8")
    for name in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "kdrepro/__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "book/assets/kdrepro.css").write_text("", encoding="utf-8")
    (tmp_path / "book/intro.md").write_text("# Front\n\n$T^2$\n\n<!-- dashboard -->\n", encoding="utf-8")
    write_toc(tmp_path, "one")
    write_chapter(tmp_path, "one", "print(protocol, seeds, device)")
    return tmp_path
