"""What the pages are made from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_claims import papers_with_a_planned_one
from recorded_rows import hinton_rows, write_ledger
from small_books import code, executed, write_chapter

from kdrepro import tables
from kdrepro.book import execute, notebooks, stage, staging
from kdrepro.book.dashboard import dashboard
from kdrepro.judging.judgement import UNJUDGED
from kdrepro.ledger import recorded
from kdrepro.verdicts import judge_paper


def test_what_papermill_adds_and_stderr_do_not_show(root: Path) -> None:
    write_chapter(root, "one", "import sys; print('a ' + 'warning', file=sys.stderr); print('a result')")
    execute(root, seeds=4)
    assert "injected-parameters" in executed(root).read_text(encoding="utf-8")
    text = (stage(root) / "notebooks" / "one.ipynb").read_text(encoding="utf-8")
    assert "a result" in text
    assert re.findall("injected-parameters|a warning|papermill|kdrepro.results|sha256", text) == []
    assert (
        notebooks.read(stage(root) / "notebooks" / "one.ipynb")["metadata"]["kernelspec"]["name"] == "python3"
    )


def test_widgets_that_need_a_kernel_do_not_show() -> None:
    view = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}
    text = {"output_type": "display_data", "data": {"text/plain": "kept"}}
    cell = code("bar()", outputs=[view, text])
    tidy = staging.tidied({"cells": [cell], "metadata": {"widgets": {}, "title": "kept"}})
    assert (tidy["cells"][0]["outputs"], tidy["metadata"]) == ([text], {"title": "kept"})


def test_no_line_ends_between_a_number_and_its_per_cent() -> None:
    said = {"output_type": "display_data", "data": {"text/markdown": ["a 95 %", " interval"]}}
    source = "At 95\n% `5 % 2`\n```python\n7 % 3\n```\n3 %."
    cells = [{"cell_type": "markdown", "source": source}, code("8 % 3", outputs=[said])]
    first, second = staging.tidied({"cells": cells, "metadata": {}})["cells"]
    assert first["source"] == "At 95\u00a0% `5 % 2`\n```python\n7 % 3\n```\n3\u00a0%."
    assert second["source"] == "8 % 3"
    assert second["outputs"][0]["data"] == {"text/markdown": "a 95\u00a0% interval"}
    assert said["data"] == {"text/markdown": ["a 95 %", " interval"]}


def test_errors_that_papermill_marks_do_not_come_before_the_title(root: Path) -> None:
    write_chapter(root, "one", "1 / 0")
    execute(root)
    attempt = notebooks.read(root / "_build" / "executed" / "one.failed.ipynb")
    assert "papermill-error-cell-tag" in notebooks.tags(attempt["cells"][0])
    assert notebooks.text_of(staging.tidied(attempt)["cells"][0]).startswith("# ")


def test_staged_paths_are_those_of_the_repository(root: Path) -> None:
    execute(root)
    staged = stage(root)
    there = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    made = {name for name in there if name.startswith("book/assets/mathjax/")}
    assert there - made == {
        "book/intro.md",
        "book/_toc.yml",
        "book/references.bib",
        "book/assets/kdrepro.css",
        "notebooks/one.ipynb",
    }
    assert all((root / name).exists() for name in there - made)
    address = "https://colab.research.google.com/github/kdrepro/kdrepro/blob/main/notebooks/one.ipynb"
    assert address in (staged / "notebooks" / "one.ipynb").read_text(encoding="utf-8")


def test_a_staged_page_that_is_gone_is_gone(root: Path) -> None:
    extra = root / "book" / "extra.md"
    extra.write_text("# Extra\n", encoding="utf-8")
    assert (stage(root) / "book" / "extra.md").exists()
    extra.unlink()
    assert not (stage(root) / "book" / "extra.md").exists()
    assert sorted(each.name for each in (root / "_build").iterdir()) == ["stage"]


def test_an_unexecuted_chapter_and_one_at_protocol_smoke_say_so(root: Path) -> None:
    def banner() -> str:
        notebook = notebooks.read(stage(root) / "notebooks" / "one.ipynb")
        return notebooks.text_of(notebook["cells"][0])

    assert "This chapter was not executed" in banner()
    execute(root, protocol="smoke")
    assert "executed at protocol smoke" in banner()
    execute(root)
    assert "admonition" not in banner()


def test_a_chapter_without_a_title_is_refused(root: Path) -> None:
    file = root / "notebooks" / "one.ipynb"
    file.write_text(file.read_text(encoding="utf-8").replace("# Chapter", "Chapter"), encoding="utf-8")
    with pytest.raises(ValueError, match="it has no heading"):
        stage(root)


def test_an_unknown_marker_is_refused(root: Path) -> None:
    (root / "book" / "intro.md").write_text("# Front\n\n<!-- dashbord -->\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match="marker: got 'dashbord', expected one of dashboard, claims; did you mean 'dashboard"
    ):
        stage(root)


@pytest.mark.parametrize(
    "marker", ["<!--dashboard-->", "<!-- dashboard -->  ", "Here: <!-- claims A: kim2016 E2 -->"]
)
def test_a_marker_that_would_be_a_comment_is_refused(marker: str, root: Path) -> None:
    (root / "book" / "intro.md").write_text(f"# Front\n\n{marker}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"marker: got '<!--.*on lines of its own"):
        stage(root)


def test_a_marker_lists_claims_of_several_papers(root: Path) -> None:
    page = root / "book" / "intro.md"
    page.write_text("# Front\n\n<!-- claims Who wins?: hinton2015 H3b,\nkim2016 E2 -->\n", encoding="utf-8")
    shown = (stage(root) / "book" / "intro.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```\{raw\} html\n(.*?)\n```", shown, re.DOTALL)
    assert "<caption>Who wins? Below zero a difference is as claimed</caption>" in table
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == [
        "Hinton et al. (2015)",
        "Kim &amp; Rush (2016)",
    ]
    assert "H3b" in table
    assert "E2 (our stand-in)" in table
    assert "10 pairs of 5 teachers" in table
    page.write_text("# Front\n\n<!-- claims None: hinton2015 H99 -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="claim: got 'H99', expected one of H1, H2"):
        stage(root)


def test_the_dashboard_counts_the_claims_of_the_papers_apart_from_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = papers_with_a_planned_one()
    monkeypatch.setattr("kdrepro.book.dashboard.papers", lambda: shown)
    ledger = write_ledger(tmp_path, hinton_rows())
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", dashboard(ledger, chapters=["hinton_kd"]))
    assert ">13 out of reach<" in rows[0]
    for row, paper in zip(rows, shown, strict=True):
        assert paper.cited_as.replace("&", "&amp;") in row
        cells = re.findall(r"<td.*?</td>", row)
        if paper.status == "planned":
            assert "not yet judged" in cells[0]
            continue
        claims = tables.claim_table(paper.key, ledger)
        ours = [
            claims["Claim"].str.contains(f"(our {kind})", regex=False) for kind in ("stand-in", "addition")
        ]
        for cell, some in zip(cells, (~(ours[0] | ours[1]), *ours), strict=True):
            verdicts = claims["Verdict"][some]
            told = re.findall(r">(\d+) ([a-z ]+)<", cell)
            assert {verdict: int(count) for count, verdict in told} == verdicts.value_counts().to_dict()
    assert '<a href="../notebooks/hinton_kd.html">' in rows[0]
    judged = [each for paper in shown for each in judge_paper(paper.key, ledger)]
    own = [each.verdict in UNJUDGED for each in judged if not each.claim.ours]
    said = f"Of {len(own)} claims of the papers themselves, {own.count(False)} are judged;"
    assert own.count(False) > 0
    assert said in dashboard(ledger, chapters=[])
    assert "<a " not in dashboard(recorded(), chapters=[])
