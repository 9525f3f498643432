"""Which chapters are executed and why, and what a failure and a kill leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from project_files import ROOT
from small_books import executed, outputs, processes_of, wait_until, write_chapter, write_toc

from kdrepro.book import execute, notebooks, stage
from kdrepro.book.inputs import differences

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
        ({"kdrepro/results/two/paper.teacher.s1.json": "{}"}, ""),
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
            file.parent.mkdir(exist_ok=True)
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
    # Nor one that was asked for on another device.
    executed(root).unlink()
    execute(root, protocol="paper", device="cpu")
    (again,) = execute(root)
    assert str(again) == "up to date (executed at protocol paper)"
    executed(root).unlink()
    execute(root, protocol="paper")
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


def test_nor_does_it_after_a_larger_one_that_failed(root: Path) -> None:
    write_chapter(root, "one", "assert seeds != 9", "print(protocol)")
    execute(root, protocol="paper")
    (failed_one,) = execute(root, protocol="paper", seeds=9)
    assert failed_one.status == "failed"
    (again,) = execute(root)
    assert str(again) == "up to date (executed at protocol paper)"
    assert outputs(executed(root)).split() == ["paper"]


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
