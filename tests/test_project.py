"""The files around the package agree with it and with one another."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented_commands import MAKE_TARGETS, problems_of_kdrepro, problems_of_make
from project_files import PROJECT, ROOT

import kdrepro
from kdrepro.claims import papers
from kdrepro.ledger import recorded

README = (ROOT / "README.md").read_text(encoding="utf-8")
REPOSITORY = "https://github.com/kdrepro/kdrepro"
COLAB = "https://colab.research.google.com/github/kdrepro/kdrepro/blob/main/"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout, so nothing says what is tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return set(filter(None, listed.split("\0")))


def _tracked_texts() -> Iterator[tuple[str, str]]:
    for name in sorted(_tracked()):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        except FileNotFoundError:  # deleted, not yet committed
            continue


# -- versions, names, licence


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == kdrepro.__version__
    assert importlib.metadata.version("kdrepro") == kdrepro.__version__
    headings = re.findall(
        r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert headings[0] == "Unreleased"


def test_the_address_of_the_repository_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert (
        PROJECT["urls"]["Source"] == citation["repository-code"] == config["repository"]["url"] == REPOSITORY
    )
    assert PROJECT["urls"]["Book"] == citation["url"]


def test_every_paper_is_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    assert {(each["title"], each["year"], each["url"]) for each in cited} == {
        (paper.title, paper.year, f"https://arxiv.org/abs/{paper.arxiv}") for paper in papers()
    }
    for paper in papers():
        (authors,) = [each["authors"] for each in cited if each["title"] == paper.title]
        assert [f"{each['given-names']} {each['family-names']}" for each in authors] == list(paper.authors)


def test_the_book_says_how_to_cite_it_as_the_citation_file_does() -> None:
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    page = (ROOT / "book" / "bibliography.md").read_text(encoding="utf-8")
    entry = " ".join(re.findall(r"```bibtex\n(.*?)```", page, flags=re.DOTALL)[0].split())
    assert f"title = {{{file['title']}}}" in entry
    assert f"author = {{{{{file['authors'][0]['name']}}}}}" in entry
    assert f"url = {{{file['url']}}}" in entry


def test_licence_is_mit_everywhere() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")
    assert PROJECT["license"]["text"] == "MIT"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["license"] == "MIT"


# -- README, CONTRIBUTING, make


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/running.md"])
def test_commands_in_the_text_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    spans = re.findall(r"`((?:make|kdrepro) [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + [
        " ".join(span.split()) for span in spans
    ]
    calls = [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    problems = {"make": problems_of_make, "kdrepro": problems_of_kdrepro}
    checked = [words for words in calls if words[0] in problems]
    assert len(checked) >= 5
    assert [found for words in checked for found in problems[words[0]](words[1:])] == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert problems_of_make(["boook"])
    assert problems_of_kdrepro(["rum"])
    assert problems_of_kdrepro(["run", "hinton_kd", "--protcol", "paper"])
    assert problems_of_kdrepro(["run", "hinton_kd", "--protocol", "paper"]) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if link not in _tracked()] == []


def test_readme_tree_shows_what_is_there() -> None:
    (tree,) = re.findall(r"```\n(kdrepro/.*?)```", README, flags=re.DOTALL)
    folder = Path()
    missing = []
    for line in tree.splitlines():
        names = [word for word in line.split("   ")[0].split() if re.fullmatch(r"[\w.]+/|\w+\.py", word)]
        folder = folder if line.startswith(" ") else Path(names[0])
        missing += [
            name for name in names if not (ROOT / (folder / name if line.startswith(" ") else name)).exists()
        ]
    assert missing == []


def test_readme_shows_the_verdicts_of_the_recorded_rows() -> None:
    from kdrepro.tables import readme_table

    (shown,) = re.findall(r"<!-- verdicts:start -->\n(.*?)<!-- verdicts:end -->", README, flags=re.DOTALL)
    assert shown.strip() == readme_table(recorded()).strip(), "renew it with `make readme`"


def test_make_alone_lists_every_command() -> None:
    command = ["make", "--no-print-directory"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\w+)", shown, flags=re.MULTILINE)) == MAKE_TARGETS
    assert {"book", "test", "lint", "bench", "clean"} <= MAKE_TARGETS


def test_files_that_make_names_exist() -> None:
    named = re.findall(r"tests/\w+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_ci_runs_lint_then_the_tests_of_the_readme_then_the_book() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^step make (\w+)$", script, flags=re.MULTILINE) == ["lint", "test", "book"]
    assert re.search(r"^make test ", README, flags=re.MULTILINE)
    assert "set -euo pipefail" in script
    assert "KDREPRO_REQUIRE_BROWSER=1" in script


# -- notebooks and Colab


def test_every_chapter_of_the_book_is_a_tracked_notebook() -> None:
    toc = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    chapters = re.findall(r"notebooks/(\w+)", toc)
    assert chapters
    assert sorted(chapters) == sorted(notebook.stem for notebook in NOTEBOOKS)
    assert {f"notebooks/{chapter}.ipynb" for chapter in chapters} <= _tracked()


def test_the_book_links_to_the_branch_and_folder_that_exist() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    # The folder is the repository's top, so that notebooks/x.ipynb in the table of contents is that path on Colab.
    assert config["repository"] == {
        **config["repository"],
        "url": REPOSITORY,
        "branch": "main",
        "path_to_book": "",
    }
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"


def test_every_colab_link_maps_to_a_tracked_file() -> None:
    tracked = _tracked()
    wrong = []
    for name, text in _tracked_texts():
        if name.startswith(("tests/", ".github/")):
            continue
        for link in re.findall(r"https://colab\.research\.google\.com/[^\s\"')<>\\]+", text):
            if not link.startswith(COLAB) or link.removeprefix(COLAB) not in tracked:
                wrong.append((name, link))
    assert wrong == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_is_a_source_without_outputs(notebook: Path) -> None:
    content: dict[str, Any] = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert (cell["outputs"], cell["execution_count"]) == ([], None), source
            assert len(source.splitlines()) <= 15, source
    metadata = content["metadata"]
    assert "widgets" not in metadata
    assert metadata["kernelspec"]["name"] == "python3"
    assert (metadata["accelerator"], metadata["colab"]["gpuType"]) == ("GPU", "T4")


# -- what no file may hold


def test_no_file_holds_a_path_of_the_machine_it_was_written_on() -> None:
    home = re.compile(r"(?<![\w.$}/-])/(?:home|Users|root|work)/\w")
    found = [
        name
        for name, text in _tracked_texts()
        if name != "tests/test_project.py" and (home.search(text) or f"{ROOT}/" in text)
    ]
    assert found == []


def test_only_what_is_made_by_hand_is_tracked() -> None:
    folders, endings = (
        r"_build|__pycache__|\.venv|\.ipynb_checkpoints|runs",
        r"pyc|pt|pth|safetensors|whl|tmp",
    )
    made = re.compile(rf"(^|/)({folders})/|\.({endings})$")
    assert [name for name in _tracked() if made.search(name)] == []
    assert [
        name for name in _tracked() if (ROOT / name).exists() and (ROOT / name).stat().st_size > 2**20
    ] == []
