"""Tests of the rows and of how the ledger writes them: whole or not at all, and never over another."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from recorded_rows import make_row

from kdrepro import ledger as ledger_module
from kdrepro.ledger import Ledger, Row, run_id


def test_a_row_comes_back_as_it_was_written(tmp_path):
    row = make_row(
        "soft_targets_T20",
        3,
        74.0,
        teacher="hinton_kd.paper.teacher.s1",
        config={"hidden": (800, 800), "note": "ä", "schedule": None, "nested": {"on": True}},
        curves={"loss": [2.3, 1e-17, 0.1 + 0.2]},
        samples={"greedy": ("ein Hund", "zwei\u2028Männer")},
    )
    file = Ledger(tmp_path).write(row)
    assert file == tmp_path / "hinton_kd" / "paper.soft_targets_T20.s3.json"
    assert Ledger(tmp_path).get("hinton_kd.paper.soft_targets_T20.s3") == row
    assert row.config["hidden"] == [800, 800]
    assert Ledger(tmp_path).problems() == []


def test_a_row_without_samples_is_written_as_before_and_read(tmp_path):
    file = Ledger(tmp_path).write(make_row("teacher", 0))
    assert "samples" not in json.loads(file.read_text(encoding="utf-8"))
    assert Ledger(tmp_path).rows()[0].samples == {}


def test_run_ids_name_the_select_split():
    assert run_id(recipe="r", arm="units300_T2.5", protocol="quick", seed=0, split="select") == (
        "r.quick.units300_T2.5.s0.select"
    )
    assert make_row("teacher", 2).run == "hinton_kd.paper.teacher.s2"


def test_teachers_are_none_one_or_several():
    assert make_row("a", 0).teachers == ()
    assert make_row("a", 0, teacher="t").teachers == ("t",)
    assert make_row("a", 0, teacher=["t", "u"]).teachers == ("t", "u")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipe", ""),
        ("recipe", "../up"),
        ("recipe", "..."),
        ("arm", "two words"),
        ("arm", "a/b"),
        ("arm", "x" * 200),
        ("arm", 3),
        ("protocol", "full"),
        ("split", "train"),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("parameters", -5),
        ("parameters", "many"),
        ("seconds", float("nan")),
        ("seconds", -1.0),
        ("seconds", None),
        ("device", ""),
        ("device", None),
        ("commit", 7),
        ("dirty", "no"),
        ("dirty", 0),
        ("metrics", {"test_errors": float("inf")}),
        ("metrics", {"test_errors": "67"}),
        ("metrics", {"test_errors": True}),
        ("metrics", {"test_errors": 10**400}),
        ("metrics", {"": 1.0}),
        ("metrics", [67]),
        ("config", {"a": float("nan")}),
        ("config", {"a": {1, 2}}),
        ("config", {"a": {"b": [object()]}}),
        ("config", {1: "a"}),
        ("versions", {"torch": 2}),
        ("data", {"name": None}),
        ("data", None),
        ("teacher", []),
        ("teacher", [""]),
        ("teacher", 3),
        ("started", "yesterday"),
        ("started", "2025-03-01T12:00:00"),
        ("started", "2025-03-01T12:00:00+02:00"),
        ("started", None),
        ("curves", {"loss": 1.0}),
        ("curves", {"loss": [1.0, float("nan")]}),
        ("samples", {"greedy": "ein Hund"}),
        ("samples", {"greedy": ["ein Hund", 2]}),
        ("schema", 2),
        ("schema", "1"),
        ("schema", True),
    ],
)
def test_a_wrong_field_is_named(field, value):
    fields = asdict(make_row("teacher", 0)) | {field: value}
    with pytest.raises(ValueError, match=rf"^{field}.*: got .*, expected "):
        Row(**fields)


def test_changing_the_dictionary_that_was_given_does_not_change_the_row():
    config = {"layers": [1, 2]}
    row = replace(make_row("teacher", 0), config=config)
    config["layers"].append(3)
    assert row.config == {"layers": [1, 2]}


def test_a_row_is_not_overwritten_unless_asked(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(make_row("teacher", 0, 67.0))
    with pytest.raises(FileExistsError, match="replace=True"):
        ledger.write(make_row("teacher", 0, 99.0))
    assert ledger.get("hinton_kd.paper.teacher.s0").metrics["test_errors"] == 67
    ledger.write(make_row("teacher", 0, 99.0), replace=True)
    assert ledger.get("hinton_kd.paper.teacher.s0").metrics["test_errors"] == 99


def test_a_process_that_was_faster_keeps_its_row(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.write(make_row("teacher", 0, 67.0))
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.suffix != ".json" and real(path))
    with pytest.raises(FileExistsError, match="another process"):
        ledger.write(make_row("teacher", 0, 99.0))
    monkeypatch.undo()
    assert ledger.get("hinton_kd.paper.teacher.s0").metrics["test_errors"] == 67
    assert len(list(tmp_path.rglob("*"))) == 2


def test_a_full_disk_leaves_the_old_row_and_no_litter(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.write(make_row("teacher", 0, 67.0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.write(make_row("teacher", 0, 99.0), replace=True)
    assert ledger.get("hinton_kd.paper.teacher.s0").metrics["test_errors"] == 67
    assert [file.name for file in (tmp_path / "hinton_kd").iterdir()] == ["paper.teacher.s0.json"]


def test_a_file_system_without_links_still_takes_rows(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(ledger_module.os, "link", refuse)
    Ledger(tmp_path).write(make_row("teacher", 0))
    assert len(Ledger(tmp_path).rows()) == 1
    with pytest.raises(FileExistsError):
        Ledger(tmp_path).write(make_row("teacher", 0))


WRITER = """
import os, sys
from dataclasses import replace
from kdrepro.ledger import Ledger
sys.path.insert(0, sys.argv[3])
from recorded_rows import make_row
ledger, name = Ledger(sys.argv[1]), sys.argv[2]
row = make_row(f"arm_{name}", 0, curves={"loss": [0.5] * 2000})
log = os.open(os.path.join(sys.argv[1], f"log_{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
seed = 0
while True:
    ledger.write(replace(row, seed=seed))
    os.write(log, f"{seed}\\n".encode())
    seed += 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.timeout(120)
def test_eight_killed_writers_lose_and_garble_nothing(tmp_path):
    chance = random.Random(7)
    here = str(Path(__file__).parent)
    path = os.pathsep.join([str(Path(here).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(number), here], env=os.environ | {"PYTHONPATH": path})
        for number in range(8)
    ]
    logs = [tmp_path / f"log_{number}" for number in range(8)]
    try:
        deadline = time.monotonic() + 60
        while not all(log.exists() and log.stat().st_size > 20 for log in logs):
            assert time.monotonic() < deadline, "the writers did not start"
            assert all(writer.poll() is None for writer in writers), "a writer failed"
            time.sleep(0.05)
        for writer in chance.sample(writers, 8):
            time.sleep(chance.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    ledger = Ledger(tmp_path)
    assert ledger.problems() == []
    found = {(row.arm, row.seed) for row in ledger.rows()}
    written = {(f"arm_{n}", int(seed)) for n, log in enumerate(logs) for seed in log.read_text().split()}
    assert len(written) >= 80
    assert written <= found
    # A killed writer may have finished one row that it could not log, and no more than one.
    assert len(found - written) <= 8
    assert all(row.curves["loss"] == [0.5] * 2000 for row in ledger.rows())
