"""Chapters: which are executed and why, what a failure and a kill leave behind, and what the pages are made from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from recorded_rows import hinton_rows, write_ledger

from kdrepro import tables
from kdrepro.book import BuildFailed, build, chapters, execute, notebooks, pages, stage, staging
from kdrepro.book.dashboard import dashboard
from kdrepro.book.inputs import differences
from kdrepro.judgement import VERDICTS
from kdrepro.ledger import recorded

ROOT = Path(__file__).resolve().parents[1]
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


def write_toc(root: Path, *names: str) -> None:
    toc = {
        "format": "jb-book",
        "root": "book/intro",
        "chapters": [{"file": f"notebooks/{name}"} for name in names],
    }
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")


def executed(root: Path, name: str = "one") -> Path:
    return root / "_build" / "executed" / f"{name}.ipynb"


# -- which chapters there are, and their parameters


def test_chapters_come_in_the_order_of_the_table_of_contents(root: Path) -> None:
    for name in ("two", "three", "unlisted"):
        write_chapter(root, name)
    write_toc(root, "three", "planned", "one", "two")
    assert chapters(root) == ["three", "one", "two", "unlisted"]


def test_parameters_are_those_of_the_tagged_cell(root: Path) -> None:
    text = 'protocol = "quick"  # how big\nseeds: int = 3\nrates = [0.1, 0.2]\nlimit = 60 * minutes\nprint(1)'
    notebook = notebooks.read(write_chapter(root, "two", "other = 1", parameters=text))
    assert notebooks.parameters(notebook) == {
        "protocol": "quick",
        "seeds": 3,
        "rates": [0.1, 0.2],
        "limit": "60 * minutes",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chapters": ["onne"]}, "chapters: got 'onne', expected one of one, two; did you mean 'one'?"),
        ({"protocol": "papr"}, "protocol: got 'papr', expected one of smoke, quick, reduced, paper"),
        (
            {"parameters": {"temprature": 4}},
            "temprature: notebooks/one.ipynb has no such parameter, expected one of protocol, seeds, device",
        ),
        ({"seeds": 2}, "seeds: notebooks/two.ipynb has no such parameter, expected one of protocol"),
        ({"time_limit": 0}, "time_limit: got 0, expected a finite number of seconds above 0"),
        ({"time_limit": float("inf")}, "time_limit: got inf, expected"),
        ({"chapters": ["one"], "seeds": {1, 2}}, "seeds: got {1, 2}, expected a JSON value"),
        ({"chapters": ["one"], "seeds": float("nan")}, "seeds: got nan, expected a JSON value"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(
    root: Path, arguments: dict[str, Any], message: str
) -> None:
    write_chapter(root, "two", parameters='protocol = "quick"')
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        execute(root, **arguments)
    assert not (root / "_build").exists()


def test_a_chapter_without_parameters_says_so(root: Path) -> None:
    file = root / "notebooks" / "one.ipynb"
    file.write_text(file.read_text(encoding="utf-8").replace('"parameters"', '"other"'), encoding="utf-8")
    with pytest.raises(ValueError, match="expected none: no cell is tagged `parameters`"):
        execute(root)


@pytest.mark.parametrize("content", ["", '{"cells": [', "[]", '{"cells": 3}'])
def test_a_truncated_notebook_is_named(root: Path, content: str) -> None:
    (root / "notebooks" / "one.ipynb").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"one\.ipynb: no (complete )?notebook"):
        execute(root)


# -- execution, and when it is needed


def test_a_chapter_runs_with_the_parameters_given_and_this_python(root: Path) -> None:
    lines = ["print(protocol, seeds, device)", "import sys, os; print(sys.prefix)", "print(os.getcwd())"]
    write_chapter(root, "one", *lines, "from kdrepro.losses.logits import WEIGHT; print(WEIGHT)")
    (result,) = execute(root, seeds=5, device="cpu", protocol="smoke")
    assert (result.status, result.notebook) == ("executed", executed(root))
    printed = outputs(executed(root)).splitlines()
    assert printed[:2] == ["smoke 5 cpu", sys.prefix]
    assert not Path(printed[2]).is_relative_to(ROOT), "as on Colab, there is no repository around it"
    assert printed[3] == "1", "the package of this root, not another one that is installed"


def test_nothing_is_executed_again_unless_something_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**arguments: Any) -> str:
        (result,) = execute(root, **arguments)
        assert result.status == ("up to date" if "up to date" in str(result) else "executed")
        shown = capsys.readouterr().out
        assert shown == f"one: {result}\n"
        return re.sub(r"executed in \d+ s", "executed", shown.strip())

    assert run() == "one: executed (never executed before)"
    before = executed(root).read_bytes()
    assert run() == "one: up to date"
    assert executed(root).read_bytes() == before
    # Opened, executed and saved elsewhere, the notebook is still the same source.
    file = root / "notebooks" / "one.ipynb"
    content = notebooks.read(file)
    content["cells"][2] |= {"execution_count": 7, "outputs": [], "metadata": {"collapsed": True}}
    notebooks.write(file, content)
    assert run() == "one: up to date"
    (root / "kdrepro/losses/logits.py").write_text("WEIGHT = 2\n", encoding="utf-8")
    assert run() == "one: executed (package sources changed: kdrepro/losses/logits.py)"
    assert run(force=True) == "one: executed (forced)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"notebooks/one.ipynb": "print(protocol, seeds)"}, "notebook changed: notebooks/one.ipynb"),
        ({"kdrepro/losses/new.py": ""}, "package sources changed: kdrepro/losses/new.py (new)"),
        ({"kdrepro/losses/logits.py": None}, "package sources changed: kdrepro/losses/logits.py (gone)"),
        ({"kdrepro/claims/paper.toml": "[claim]"}, "claims changed: kdrepro/claims/paper.toml"),
        ({"kdrepro/results/one/paper.teacher.s1.json": "{}"}, "recorded rows changed: one"),
        ({"constraints.txt": "numpy==2"}, "pins changed: constraints.txt"),
        ({"kdrepro/notes.txt": "not a source"}, ""),
        ({"parameters": {"seeds": 4}}, "parameters changed: seeds 3 → 4"),
        ({"parameters": {"device": "cpu"}}, "parameters changed: device (new)"),
        ({"data": {"mnist5k": "sha256:11"}}, "data changed: mnist5k"),
    ],
)
def test_what_is_stale_is_said_in_words(root: Path, change: dict[str, Any], words: str) -> None:
    from kdrepro.book.inputs import inputs

    def now(parameters: dict[str, Any], data: dict[str, str]) -> Any:
        source = notebooks.read(root / "notebooks" / "one.ipynb")
        return inputs(root, "one", source, {"protocol": "quick", "seeds": 3} | parameters, data)

    old = now({}, {"mnist5k": "sha256:00"})
    for name, content in change.items():
        if name == "notebooks/one.ipynb":
            write_chapter(root, "one", content)
        elif name not in ("parameters", "data"):
            file = root / name
            file.unlink() if content is None else file.write_text(content, encoding="utf-8")
    new = now(change.get("parameters", {}), change.get("data", {"mnist5k": "sha256:00"}))
    assert differences(old, new) == words


def test_many_changes_are_counted() -> None:
    names = [f"{letter}.py" for letter in "abcde"]
    old, new = ({"package sources": dict.fromkeys(names, digest)} for digest in ("00", "11"))
    assert differences(old, new) == "package sources changed: a.py, b.py, c.py and 2 more"


def test_a_demonstration_does_not_replace_the_results_of_a_larger_protocol(root: Path) -> None:
    execute(root, protocol="paper")
    (again,) = execute(root)
    assert str(again) == "up to date (executed at protocol paper)"
    (smoke,) = execute(root, protocol="smoke")
    assert smoke.detail == "parameters changed: protocol paper → smoke"
    (quick,) = execute(root)
    assert quick.detail == "parameters changed: protocol smoke → quick"


def test_a_demonstration_sees_and_leaves_no_rows_of_the_user(
    root: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os, pathlib; folder = pathlib.Path(os.environ['KDREPRO_RUNS']); print(folder.exists(), folder)"
    runs_folder.mkdir()
    write_chapter(root, "one", text, "folder.mkdir(exist_ok=True)")
    for _ in range(2):
        execute(root, force=True)
        exists, folder = outputs(executed(root)).split()
        assert (exists, Path(folder) == runs_folder) == ("False", False)
    execute(root, protocol="paper")
    assert outputs(executed(root)).split()[1] == str(runs_folder)


# -- failures


def test_a_failed_chapter_keeps_its_last_good_results_and_stops_no_other(root: Path) -> None:
    write_chapter(root, "two", "print('two')")
    write_toc(root, "one", "two")
    execute(root, chapters=["one"])
    good = executed(root).read_bytes()
    write_chapter(root, "one", "print('again')", "raise RuntimeError('no such digit')")
    first, second = execute(root)
    assert (first.status, first.notebook) == ("failed", executed(root))
    assert "RuntimeError: no such digit" in first.detail
    assert "its last good results stay" in str(first)
    assert second.status == "executed"
    assert executed(root).read_bytes() == good
    shown = notebooks.read(stage(root) / "notebooks" / "one.ipynb")
    title = notebooks.text_of(shown["cells"][0])
    assert title.startswith("# Chapter one\n")
    assert re.search(r"This chapter failed\n:class: danger kdrepro-banner\n.*`.*no such digit`", title)
    assert "quick 3 auto" in json.dumps(shown), "the last good results are shown"
    # Repaired it is executed although nothing else changed, and the banner goes.
    write_chapter(root, "one", "print(protocol, seeds, device)")
    assert [result.detail for result in execute(root)] == ["the last attempt failed", ""]
    staged = stage(root) / "notebooks" / "one.ipynb"
    assert "This chapter failed" not in staged.read_text(encoding="utf-8")


def test_a_chapter_that_never_succeeded_is_shown_as_source_with_a_banner(root: Path) -> None:
    write_chapter(root, "one", "1 / 0", "print('later')")
    (result,) = execute(root)
    assert (result.status, result.notebook) == ("failed", None)
    assert "ZeroDivisionError: division by zero; it has no earlier results" in str(result)
    shown = notebooks.read(stage(root) / "notebooks" / "one.ipynb")
    assert "never been executed to its end" in notebooks.text_of(shown["cells"][0])
    assert [cell["outputs"] for cell in shown["cells"] if cell["cell_type"] == "code"] == [[], [], []]


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


def test_a_chapter_past_its_time_limit_is_killed_with_its_kernel(root: Path) -> None:
    # The kernel leads a process group of its own, and starts another process.
    write_chapter(
        root,
        "one",
        "import subprocess, sys",
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])",
    )
    seen: list[list[str]] = []
    watch = threading.Timer(4, lambda: seen.append(processes_of(root)))
    watch.start()
    start = time.monotonic()
    (result,) = execute(root, time_limit=6)
    watch.join()
    assert time.monotonic() - start < 30
    assert (result.status, result.detail) == ("failed", "it ran past its time limit of 6 s")
    assert any("ipykernel_launcher" in line for line in seen[0]), "there was a kernel to kill"
    assert processes_of(root) == []


def test_a_kernel_that_dies_is_a_failure(root: Path) -> None:
    write_chapter(root, "one", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (result,) = execute(root, time_limit=60)
    assert result.status == "failed"
    assert "papermill ended with status" in result.detail


def test_a_kill_during_an_execution_leaves_the_last_good_results(root: Path) -> None:
    execute(root)
    good = executed(root).read_bytes()
    started = root / "started"
    write_chapter(root, "one", f"open({str(started)!r}, 'w').close()", "import time; time.sleep(60)")
    program = f"from kdrepro.book import execute; execute({str(root)!r})"
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_until(started.exists, "the chapter runs")
    assert processes_of(root)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert executed(root).read_bytes() == good
    if sys.platform == "linux":
        wait_until(lambda: processes_of(root) == [], "nothing trains on for nobody")
    assert "quick 3 auto" in (stage(root) / "notebooks" / "one.ipynb").read_text(encoding="utf-8")
    write_chapter(root, "one", "print('after the kill')")
    assert [result.status for result in execute(root)] == ["executed"]
    assert "after the kill" in outputs(executed(root))


def test_a_notebook_is_written_whole_or_not_at_all(root: Path) -> None:
    file = root / "notebooks" / "one.ipynb"
    before = file.read_bytes()
    with pytest.raises(TypeError):
        notebooks.write(file, {"cells": [], "metadata": {"not JSON": object()}})
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == ["one.ipynb"]


# -- staging


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
    with pytest.raises(ValueError, match="marker: got 'dashbord', expected one of dashboard; did you mean"):
        stage(root)


def test_the_dashboard_counts_what_the_table_of_verdicts_counts(tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path, hinton_rows())
    frame = tables.dashboard(ledger)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", dashboard(ledger, chapters=["hinton_kd"]))
    assert len(rows) == len(frame)
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        assert str(expected["Paper"]).replace("&", "&amp;") in row
        cells = re.findall(r"<td.*?</td>", row)
        if expected["Status"] == "not yet recorded":
            assert "not yet recorded" in cells[0]
        else:
            own, ours = (dict(re.findall(r">(\d+) ([a-z ]+)<", cell)[::1]) for cell in cells)
            counts = {verdict: int(number) for number, verdict in own.items()}
            assert counts == {name: int(expected[name]) for name in VERDICTS if int(expected[name])}
            assert ", ".join(f"{n} {verdict}" for n, verdict in ours.items()) == expected["Our own claims"]
    assert '<a href="../notebooks/hinton_kd.html">' in rows[0]
    assert "<a " not in dashboard(recorded(), chapters=[])


# -- pages


def test_the_pages_are_built_and_a_later_failure_leaves_them(root: Path) -> None:
    execute(root)
    html = build(root)
    assert html == root / "_build" / "html"
    assert "book/intro.html" in (html / "index.html").read_text(encoding="utf-8")
    front = (html / "book" / "intro.html").read_text(encoding="utf-8")
    assert 'class="kdrepro-table kdrepro-dashboard"' in front
    assert "tex-chtml-full.js" in front
    assert (html / "_static" / "mathjax" / "tex-chtml-full.js").stat().st_size > 10**6
    chapter = (html / "notebooks" / "one.html").read_text(encoding="utf-8")
    assert "quick 3 auto" in chapter
    (root / "book" / "intro.md").write_text("# Front\n\n[nowhere](missing.md)\n", encoding="utf-8")
    with pytest.raises(BuildFailed, match=r"book/intro\.md:3: WARNING: .*missing\.md"):
        build(root)
    assert (html / "book" / "intro.html").read_text(encoding="utf-8") == front
    assert sorted(each.name for each in (root / "_build").iterdir() if each.name.startswith(".")) == []


def test_a_failed_chapter_is_built_with_its_banner(root: Path) -> None:
    write_chapter(root, "one", "1 / 0")
    assert [result.status for result in execute(root)] == ["failed"]
    page = (build(root, output=root / "site") / "notebooks" / "one.html").read_text(encoding="utf-8")
    assert re.search(r'<div class="[^"]*kdrepro-banner[^"]*danger|danger[^"]*kdrepro-banner', page)
    assert "ZeroDivisionError" in page


def test_complaints_are_the_lines_that_complain() -> None:
    log = "reading\n\x1b[91m/x/stage/book/intro.md:3: WARNING: no target\x1b[39;49;00m\nwriting\n"
    assert pages._complaints(log, Path("/x/stage")) == "book/intro.md:3: WARNING: no target"
    assert pages._complaints("all quiet\n", Path("/x")) == "all quiet\n"
