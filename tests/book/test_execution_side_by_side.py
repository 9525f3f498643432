"""Chapters that are executed at the same time: how many, on what, and what an interrupt or a full disk leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project_files import ROOT
from small_books import executed, outputs, processes_of, wait_until, write_chapter, write_toc

from kdrepro.book import execute, execution, notebooks


def test_chapters_run_side_by_side_and_share_the_processors(root: Path, capsys) -> None:
    # Each waits for the other to have begun, and the first for the results of the second.
    for name, other in (("one", "two"), ("two", "one")):
        write_chapter(
            root,
            name,
            f"import os, pathlib, time; folder = pathlib.Path({str(root)!r})",
            f"(folder / 'begun_{name}').touch(); end = time.monotonic() + 60",
            f"while not (folder / 'begun_{other}').exists(): assert time.monotonic() < end; time.sleep(0.1)",
            "print(os.environ['OMP_NUM_THREADS'])",
            f"awaited = pathlib.Path({str(executed(root, 'two'))!r}) if {name == 'one'} else folder",
            "while not awaited.exists(): assert time.monotonic() < end; time.sleep(0.1)",
            f"time.sleep({0.5 if name == 'one' else 0})",
        )
    write_toc(root, "one", "two")
    results = execute(root, jobs=2)
    assert [(each.chapter, each.status) for each in results] == [("one", "executed"), ("two", "executed")]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("2 chapters, 2 at a time, ")
    assert [line.partition(":")[0] for line in lines] == ["two", "one"], "each is told as it is done"
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, execution._processors() // 2))
    assert outputs(executed(root)).split() == [threads]


@pytest.mark.parametrize(
    ("asked", "chapters", "protocol", "says"),
    [
        (None, 5, "quick", "5 chapters, 4 at a time, each on 1 of 4 processors"),
        (None, 2, "smoke", "2 chapters, 2 at a time, each on 2 of 4 processors"),
        (None, 5, "paper", None),
        (2, 5, "paper", "5 chapters, 2 at a time, each on 2 of 4 processors"),
        (9, 5, "quick", "5 chapters, 5 at a time, each on 1 of 4 processors"),
        (1, 5, "quick", None),
    ],
)
def test_how_many_chapters_run_at_a_time(
    asked, chapters, protocol, says, root: Path, monkeypatch, capsys
) -> None:
    seen: list[dict[str, str]] = []

    def no_execution(self, environment, stop):
        seen.append(environment)
        return execution.ChapterResult(self.name, "executed", "", 0.0, None)

    monkeypatch.setattr(execution, "_processors", lambda: 4)
    monkeypatch.setattr(execution._Chapter, "execute", no_execution)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (root / "notebooks" / "one.ipynb").unlink()
    names = [f"chapter{number}" for number in range(chapters)]
    for name in names:
        write_chapter(root, name, "print('ran')")
    write_toc(root, *names)
    results = execute(root, protocol=protocol, jobs=asked)
    assert [each.chapter for each in results] == names
    first = capsys.readouterr().out.splitlines()[0]
    assert (first if first.startswith(f"{chapters} chapters") else None) == says
    assert {each.get("OMP_NUM_THREADS") for each in seen} == {says.split()[8] if says else None}


def test_what_is_up_to_date_takes_no_processor(root: Path, capsys) -> None:
    for name in ("one", "two", "three"):
        write_chapter(root, name, "import os; print(os.environ.get('OMP_NUM_THREADS'))")
    write_toc(root, "one", "two", "three")
    execute(root, chapters=["one", "three"], jobs=2)
    capsys.readouterr()
    results = execute(root, jobs=3)
    assert [each.status for each in results] == ["up to date", "executed", "up to date"]
    assert capsys.readouterr().out.splitlines()[:2] == ["one: up to date", "three: up to date"]
    assert outputs(executed(root, "two")).strip() == str(os.environ.get("OMP_NUM_THREADS"))


def test_a_disk_that_is_full_stops_no_other_chapter(root: Path, monkeypatch) -> None:
    write_chapter(root, "two", "print('two')")
    write_toc(root, "one", "two")
    write = notebooks.write

    def full(file: Path, content: dict[str, Any]) -> None:
        if file == executed(root, "one"):
            raise OSError(28, "No space left on device")
        write(file, content)

    monkeypatch.setattr(notebooks, "write", full)
    first, second = execute(root, jobs=2)
    assert (first.status, first.detail) == ("failed", "OSError: [Errno 28] No space left on device")
    assert second.status == "executed"


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True])
def test_fewer_than_one_at_a_time_is_refused(root: Path, jobs) -> None:
    with pytest.raises(
        (ValueError, TypeError), match=r"^jobs: got .*, expected a whole number of at least 1$"
    ):
        execute(root, jobs=jobs)


def test_an_interrupt_ends_all_chapters_and_leaves_no_failure(root: Path) -> None:
    for name in ("one", "two"):
        write_chapter(root, name, f"open({str(root / name)!r}, 'w').close()", "import time; time.sleep(60)")
    write_toc(root, "one", "two")
    # Whoever started the tests may have it ignored, as shells do for what runs in the background.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; from kdrepro.book import execute; execute({str(root)!r}, jobs=2)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: (root / "one").exists() and (root / "two").exists(), "both chapters run")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.strip().endswith("KeyboardInterrupt")
    assert processes_of(root) == []
    assert list((root / "_build" / "executed").glob("*.ipynb")) == []
