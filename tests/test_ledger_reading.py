"""What a ledger reads: the rows that are asked for, from the first folder that has them, and none that is malformed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from recorded_rows import make_row

from kdrepro.ledger import Ledger, recorded, user_folder


def test_rows_are_chosen_and_sorted(tmp_path):
    ledger = Ledger(tmp_path)
    for row in (
        make_row("teacher", 10),
        make_row("teacher", 2),
        make_row("student_alone", 0, protocol="quick"),
        make_row("student_alone", 0, dirty=True),
        make_row("student_alone", 1, split="select"),
        make_row("teacher", 0, recipe="fitnets"),
    ):
        ledger.write(row)
    names = [row.run for row in ledger.rows(recipe="hinton_kd")]
    assert names == [
        "hinton_kd.paper.student_alone.s0",
        "hinton_kd.paper.teacher.s2",
        "hinton_kd.paper.teacher.s10",
        "hinton_kd.quick.student_alone.s0",
    ]
    assert [row.recipe for row in ledger.rows(arm="teacher", protocol="paper")] == ["fitnets"] + [
        "hinton_kd"
    ] * 2
    assert len(ledger.rows(arm=["teacher", "student_alone"])) == 5
    assert [row.seed for row in ledger.rows(split="select")] == [1]
    assert [row.arm for row in ledger.rows(recipe="hinton_kd", protocol="paper", clean=True)] == [
        "teacher"
    ] * 2
    with pytest.raises(
        ValueError, match="protocol: got 'papr', expected one of smoke, quick, reduced, paper"
    ):
        ledger.rows(protocol="papr")
    with pytest.raises(ValueError, match="split: got 'train'"):
        ledger.rows(split="train")


def test_the_first_folder_wins_and_is_written_into(tmp_path):
    Ledger(tmp_path / "b").write(make_row("teacher", 0, 1.0))
    Ledger(tmp_path / "b").write(make_row("teacher", 1, 1.0))
    both = Ledger(tmp_path / "a", tmp_path / "b")
    both.write(make_row("teacher", 0, 2.0))
    assert [row.metrics["test_errors"] for row in both.rows()] == [2.0, 1.0]
    assert (tmp_path / "a" / "hinton_kd" / "paper.teacher.s0.json").exists()
    assert both.get("hinton_kd.paper.teacher.s0").metrics["test_errors"] == 2.0


def test_a_row_that_is_left_out_does_not_hide_another(tmp_path):
    Ledger(tmp_path / "b").write(make_row("teacher", 0, 1.0))
    both = Ledger(tmp_path / "a", tmp_path / "b")
    both.write(make_row("teacher", 0, 2.0, dirty=True))
    assert [row.metrics["test_errors"] for row in both.rows()] == [2.0]
    assert [row.metrics["test_errors"] for row in both.rows(clean=True)] == [1.0]


def test_the_row_of_a_run_is_found_where_its_id_says(tmp_path):
    both = Ledger(tmp_path / "a", tmp_path / "b")
    rows = [make_row("at_norm_0.1", 3, 1.0), make_row("teacher", 0, 2.0, split="select")]
    for row in rows:
        Ledger(tmp_path / "b").write(row)
        assert both.get(row.run) == row
    assert both.get("hinton_kd.paper.teacher.s0") is None
    file = tmp_path / "a" / "hinton_kd" / "paper.at_norm_0.1.s3.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert both.get(rows[0].run) == rows[0]


def test_a_ledger_without_a_folder(tmp_path):
    with pytest.raises(ValueError, match="folders: got none"):
        Ledger()
    empty = Ledger(tmp_path / "nowhere")
    assert (empty.rows(), empty.problems(), empty.get("x")) == ([], [], None)


def test_every_recorded_row_can_be_read():
    assert recorded().problems() == []


def test_the_users_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("KDREPRO_RUNS", raising=False)
    assert user_folder() == Path("runs")
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    assert user_folder() == tmp_path


GOOD = "paper.teacher.s0.json"


def _changed(**changes):
    return json.dumps(asdict(make_row("teacher", 0)) | changes)


def _without(name):
    return json.dumps({key: value for key, value in asdict(make_row("teacher", 0)).items() if key != name})


MALFORMED = {
    "truncated": (GOOD, _changed()[:200], "not complete JSON"),
    "empty": (GOOD, "", "not complete JSON"),
    "not text": (GOOD, b"\xff\xfe\x00", "not complete JSON"),
    "a list": (GOOD, "[]", "got a JSON list"),
    "a number": (GOOD, "3", "got a JSON int"),
    "deep": (GOOD, "[" * 100_000 + "]" * 100_000, "nested too deeply|not complete JSON|got a JSON list"),
    "missing field": (GOOD, _without("commit"), "fields: missing commit"),
    "unknown field": (GOOD, _changed(colour="red"), "fields: unknown colour"),
    "wrong type": (GOOD, _changed(seed="0"), "seed: got '0', expected a whole number"),
    "NaN": (GOOD, _changed(seconds=float("nan")), "NaN is not a finite number"),
    "infinite": (GOOD, _changed(metrics={"test_errors": float("inf")}), "Infinity is not a finite number"),
    "too large": (GOOD, _changed(metrics={"test_errors": 10**400}), "expected a finite number"),
    "overflowing": (GOOD, _changed().replace("720.0", "1e999"), "expected a finite number"),
    "other schema": (GOOD, _changed(schema=2), "schema: got 2, expected 1"),
    "other schema, other fields": (GOOD, json.dumps({"schema": 9, "x": 1}), "schema: got 9, expected 1"),
    "name of another seed": (
        "paper.teacher.s1.json",
        _changed(),
        "belongs in hinton_kd/paper.teacher.s0.json",
    ),
    "name of another protocol": ("quick.teacher.s0.json", _changed(), "belongs in hinton_kd/paper"),
    "other recipe's folder": (GOOD, _changed(recipe="fitnets"), "belongs in fitnets/paper.teacher.s0.json"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_row_is_reported_and_does_not_disturb_the_others(tmp_path, case):
    name, content, reason = MALFORMED[case]
    ledger = Ledger(tmp_path)
    ledger.write(make_row("student_alone", 0))
    file = tmp_path / "hinton_kd" / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = ledger.problems()
    assert [problem.file for problem in problems] == [file]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(problems[0].message)
    assert [row.arm for row in ledger.rows()] == ["student_alone"]


def test_folders_dead_links_and_misplaced_files_are_reported(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(make_row("student_alone", 0))
    (tmp_path / "hinton_kd" / "x.json").mkdir()
    (tmp_path / "hinton_kd" / "y.json").symlink_to(tmp_path / "gone")
    (tmp_path / "z.json").write_text("{}")
    (tmp_path / "hinton_kd" / ".row-abc.tmp").write_text("{")
    found = {problem.file.name: problem.message for problem in ledger.problems()}
    assert found.keys() == {"x.json", "y.json", "z.json"}
    assert found["x.json"] == "a folder, expected a file"
    assert found["y.json"].startswith("cannot be read: No such file")
    assert found["z.json"] == "lies outside a recipe's folder"
    assert len(ledger.rows()) == 1


def test_a_recipe_with_a_dot_in_its_name_is_refused():
    with pytest.raises(ValueError, match=r"recipe: got 'my\.recipe', expected a name without a dot"):
        make_row("teacher", 0, recipe="my.recipe")
