"""Whether the sources that a row comes from are those of a commit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kdrepro import provenance


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package in it, from which `provenance` seems to be loaded."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    package = tmp_path / "kdrepro"
    (package / "results").mkdir(parents=True)
    shutil.copy(provenance.__file__, package / "provenance.py")
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path


def test_a_committed_package_is_clean(repository):
    commit, dirty = provenance.source_state()
    assert len(commit) == 40
    assert not dirty


@pytest.mark.parametrize("file", ["kdrepro/provenance.py", "kdrepro/new.py"])
def test_a_changed_or_new_source_is_dirty(file, repository):
    with (repository / file).open("a") as content:
        content.write("# changed\n")
    assert provenance.source_state()[1]


@pytest.mark.parametrize("file", ["kdrepro/results/row.json", "README.md"])
def test_rows_that_come_in_and_files_elsewhere_are_not_sources(file, repository):
    (repository / file).write_text("{}")
    assert not provenance.source_state()[1]


def test_a_package_that_lies_in_somebody_elses_repository_has_no_commit(repository):
    git(repository, "rm", "-q", "-r", "--cached", "kdrepro")
    assert provenance.source_state() == (None, False)


def test_a_clone_of_which_git_says_nothing_counts_as_changed(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.source_state() == (None, True)
    (repository / ".git").rename(repository / "kept")
    assert provenance.source_state() == (None, False)
