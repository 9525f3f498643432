"""The command line: what it prints, what it trains, and that it skips what is done. Its errors are in `malformed/`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from kdrepro import cli
from kdrepro.ledger import Ledger


def said(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "command", [[], ["run"], ["claims"], ["table"], ["data"], ["check"], ["book"], ["book", "execute"]]
)
def test_every_command_explains_itself(command: list[str]) -> None:
    assert "Usage" in said(*command, "--help")


def test_run_trains_leaves_rows_and_skips_what_is_done(runs_folder) -> None:
    words = (
        "run",
        "hinton_kd",
        "--protocol",
        "smoke",
        "--arms",
        "teacher,soft_targets_T20",
        "--seeds",
        "0-1",
    )
    planned = said(*words, "--plan")
    assert "4 runs to do at protocol smoke" in planned
    assert "Cost: not known" in planned
    assert not list(runs_folder.rglob("*.json"))
    assert "[4/4] hinton_kd.smoke.soft_targets_T20.s1" in said(*words)
    found = {(row.arm, row.seed, row.teacher) for row in Ledger(runs_folder).rows(protocol="smoke")}
    taught = "hinton_kd.smoke.teacher.s0"
    assert found == {
        ("teacher", 0, None),
        ("teacher", 1, None),
        ("soft_targets_T20", 0, taught),
        ("soft_targets_T20", 1, taught),
    }
    assert "0 runs to do" in said(*words)


def test_run_says_what_recorded_runs_of_the_same_arms_took(runs_folder) -> None:
    assert "Cost: about" in said(
        "run", "hinton_kd", "--protocol", "paper", "--arms", "student_alone", "--plan"
    )


def test_claims_prints_a_verdict_for_each() -> None:
    printed = said("claims", "--paper", "hinton2015")
    for name in ("H1 ", "H3 ", "H13", "H26"):
        assert f"\n  {name}" in printed
    assert "out of reach" in printed
    assert "not yet done" in said("claims", "--paper", "kim2016")


def test_table_shows_every_arm(runs_folder) -> None:
    printed = said("table", "--metrics", "test_errors")
    assert "soft_targets_T20" in printed
    assert "units30_T2.5" in printed


def test_data_lists_and_checks() -> None:
    assert "KDREPRO_DATA" in said("data")
    assert "4,000 training and 1,000 test digits" in said("data", "mnist5k")


def test_check_finds_a_student_with_other_classes(tmp_path, monkeypatch) -> None:
    lines = "from torchvision.models import resnet18\ndef ten():\n    return resnet18(num_classes=10)\n"
    (tmp_path / "small_nets.py").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(cli.app, ["check", "torchvision.models:resnet18", "small_nets:ten"])
    assert result.exit_code == 1
    assert "error" in result.output
    assert "1000" in result.output
