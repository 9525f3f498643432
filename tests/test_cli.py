"""The command line: what it prints, what it trains, and that it skips what is done. Its errors are in `malformed/`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
import torch
from command_line import mistaken, said
from recorded_rows import make_row, write_ledger
from typer.testing import CliRunner

from kdrepro import cli, recipes, runner
from kdrepro.claims import paper
from kdrepro.data import cifar, cmudict, mnist, multi30k
from kdrepro.data.examples import DataSet, Examples
from kdrepro.data.parallel import ParallelText
from kdrepro.ledger import Ledger


@pytest.mark.parametrize(
    "command", [[], ["run"], ["claims"], ["table"], ["data"], ["check"], ["book"], ["book", "execute"]]
)
def test_every_command_explains_itself(command: list[str]) -> None:
    assert "Usage" in said(*command, "--help")


def test_the_help_of_run_names_the_recipes() -> None:
    printed = " ".join(said("run", "--help").replace("│", " ").split())
    assert f"The program of one paper: {', '.join(recipes.names())}." in printed


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


def test_run_trains_the_arms_of_a_cohort_together(runs_folder) -> None:
    arms = "few_teacher,few_ban1,few_again"
    said("run", "born_again", "--protocol", "smoke", "--arms", arms, "--seeds", "0")
    rows = {row.arm: row for row in Ledger(runs_folder).rows(recipe="born_again")}
    assert (
        rows["few_ban1"].config["cohort"] == rows["few_again"].config["cohort"] == ["few_ban1", "few_again"]
    )
    assert "cohort" not in rows["few_teacher"].config


def test_run_says_what_recorded_runs_of_the_same_arms_took(runs_folder) -> None:
    assert "Cost: about" in said(
        "run", "hinton_kd", "--protocol", "paper", "--arms", "student_alone", "--plan"
    )


def test_run_does_not_take_the_seconds_of_another_kind_of_device(runs_folder, monkeypatch) -> None:
    rows = [
        make_row("student_alone", seed, seconds=60.0 * (1 + 9 * (seed > 2)), device=device)
        for seed, device in enumerate(
            ["cpu: a", "cpu: b", "cpu: b", "cuda: c", "cuda: c", "cuda: c", "cuda: c"]
        )
    ]
    monkeypatch.setattr("kdrepro.cli.training.recorded", lambda: write_ledger(runs_folder / "recorded", rows))
    words = ("run", "hinton_kd", "--protocol", "paper", "--seeds", "0", "--device", "cpu", "--plan", "--arms")
    assert "Cost: about 1.0 minutes" in said(*words, "student_alone")
    monkeypatch.setattr("kdrepro.cli.training.recorded", lambda: write_ledger(runs_folder / "gpu", rows[3:]))
    assert "Cost: not known; no row says what student_alone cost on cpu" in said(*words, "student_alone")


def test_run_names_a_few_of_the_arms_whose_cost_is_not_known(runs_folder) -> None:
    words = ("run", "hinton_kd", "--protocol", "quick", "--device", "cpu", "--plan")
    arms = len(recipes.load("hinton_kd").arms)
    (cost,) = (line for line in said(*words).splitlines() if line.startswith("Cost: "))
    assert re.fullmatch(r"Cost: not known; no row says what (\w+, ){3}\w+ and (\d+) more cost on cpu", cost)
    assert 20 < int(re.findall(r"\d+", cost)[-1]) < arms
    four = said(*words, "--arms", "teacher,student_alone,units30_T2.5,soft_targets_T20")
    assert "what soft_targets_T20, student_alone, teacher, units30_T2.5 cost on cpu" in four


def test_settings_are_tried_where_examples_can_be_held_out(runs_folder) -> None:
    assert "hinton_kd.paper.soft_targets_T20.try0.s0.select" in said("run", "hinton_kd", "--select", "--plan")


def test_a_terminal_without_the_letters_of_formulas_gets_all_the_rest() -> None:
    command = [
        sys.executable,
        "-c",
        "from kdrepro.cli import main; main()",
        "claims",
        "--paper",
        "zagoruyko2017",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    last = paper("zagoruyko2017").claims[-1].id
    assert f"\n  {last} " in done.stdout.decode("cp1252").replace("\r", "")


def test_claims_prints_a_verdict_for_each() -> None:
    printed = said("claims", "--paper", "hinton2015")
    for name in ("H1 ", "H3 ", "H13", "H26"):
        assert f"\n  {name}" in printed
    assert "out of reach" in printed


@pytest.mark.parametrize("words", [["hinton2015"], ["--paper", "hinton2015"], ["hinton2015"] * 2])
def test_claims_takes_a_paper_with_or_without_its_option(words) -> None:
    words = [words[0], "--paper", words[1]] if len({*words}) == 1 < len(words) else words
    printed = said("claims", *words)
    assert "\nhinton2015: " in printed
    assert "\nromero2015: " not in printed


def test_claims_says_by_which_rows_it_judges_and_how_to_judge_by_ones_own(runs_folder) -> None:
    assert f"recorded rows. By yours alone: kdrepro claims --ledger {runs_folder}\n" in said(
        "claims", "kim2016"
    )
    Ledger(runs_folder).write(make_row("teacher", 0))
    printed = said("claims", "hinton2015", "--ledger", str(runs_folder))
    assert f"Judged by the rows of {runs_folder} alone." in printed
    assert "reproduced" not in printed


def test_the_help_of_table_lists_the_recipes() -> None:
    printed = " ".join(said("table", "--help").replace("│", " ").split())
    assert f"rows to show: {', '.join(recipes.names())}." in printed


def test_table_shows_every_arm(runs_folder) -> None:
    printed = said("table", "--metrics", "test_errors")
    assert "soft_targets_T20" in printed
    assert "units30_T2.5" in printed


def test_table_shows_arms_that_the_recipe_does_not_list(runs_folder) -> None:
    ledger = Ledger(runs_folder)
    ledger.write(make_row("own_teacher", 0, protocol="quick"))
    assert "soft_targets_T20" not in said("table", "hinton_kd", "--protocol", "quick")
    ledger.write(make_row("teacher", 0, protocol="quick"))
    printed = said("table", "hinton_kd", "--protocol", "quick")
    assert all(name in printed for name in ("own_teacher", "soft_targets_T20"))
    assert f"hinton_kd, protocol quick, rows of {runs_folder} and the recorded ones" in printed


def test_table_says_how_many_rows_are_left_out(runs_folder) -> None:
    Ledger(runs_folder).write(make_row("teacher", 0, dirty=True))
    printed = said("table", "hinton_kd", "--metrics", "test_errors, test_nll")
    assert "Left out: 1 rows of code that was not committed" in printed
    # The recorded row of the same run is counted all the same.
    assert re.search(r"^ +teacher .* 5$", printed, flags=re.MULTILINE)


def test_data_lists_and_checks() -> None:
    listed = said("data")
    assert "KDREPRO_DATA" in listed
    names = [line.split()[0] for line in listed.splitlines()[1:]]
    assert names == [*mnist.SETS, *cifar.SETS, "multi30k", "cmudict"]
    assert "4,000 training and 1,000 test digits" in said("data", "mnist5k")


def test_data_says_what_pictures_there_are(monkeypatch) -> None:
    some = Examples(torch.zeros(3, 3, 32, 32), torch.zeros(3))
    monkeypatch.setattr(
        cifar, "load", lambda name: DataSet(name, "sha256:00", some, some.take(torch.arange(2)))
    )
    assert said("data", "cifar10-jpeg") == "cifar10-jpeg: 3 training and 2 test pictures, sha256:00\n"


def test_data_says_what_pairs_there_are(monkeypatch) -> None:
    loaded = cmudict.load()
    sizes = [f"{len(part):,}" for part in (loaded.train, loaded.valid, loaded.test)]
    assert said("data", "cmudict") == (
        f"cmudict: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test pairs, {loaded.digest}\n"
    )
    some = [("a", "b")]
    monkeypatch.setattr(
        multi30k, "load", lambda: ParallelText("multi30k-en-de", "sha256:00", 3 * some, some, some)
    )
    assert said("data", "multi30k") == (
        "multi30k-en-de: 3 training, 1 validation and 1 test pairs, sha256:00\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "hinton"], "hinton_kd, sequence_kd; did you mean 'hinton_kd'?"),
        (
            ["run", "hinton_kd", "--arms", "teacher,student"],
            "arm: got 'student', expected one of teacher, student_",
        ),
        (["run", "hinton_kd", "--protocol", "full"], "expected one of smoke, quick, reduced, paper"),
        (["run", "hinton_kd", "--device", "gpu"], "device: got 'gpu', expected one of auto, cpu, cuda, mps"),
        (
            ["run", "hinton_kd", "--seeds", "0-x"],
            "seeds: got '0-x' in '0-x', expected whole numbers and ranges",
        ),
        (["run", "hinton_kd", "--protocol", "quick", "--record"], "expected reduced or paper"),
        (["check", "torch.nn:Nothing", "torch.nn:Identity"], "teacher: module 'torch.nn' has no 'Nothing'"),
        (["check", "nn.torch:Nothing", "torch.nn:Identity"], "teacher: there is no module 'nn.torch'"),
        (
            ["check", "torch.nn:Identity", "torch.nn:Linear"],
            "student: torch.nn:Linear() failed with TypeError",
        ),
        (
            ["check", "torch.nn:Identity", "torch.nn:__name__"],
            "student: torch.nn:__name__ is a str, expected",
        ),
        (["run", "hinton_kd", "--seeds", "3-"], "seeds: got '3-' in '3-', expected whole numbers"),
        (["run", "hinton_kd", "--seeds", "0-4000000000"], "expected at most 10,000 seeds"),
        (["run", "hinton_kd", "--seeds", ""], "seeds: got '' in '', expected whole numbers"),
        (["run", "hinton_kd", "--arms", ""], "arm: got '', expected one of teacher, "),
        (["run", "fitnets", "--select"], "select: fitnets has no candidate settings to choose from"),
        (["run", "sequence_kd", "--arms", "own_teacher"], "give --source and --target"),
        (["claims", "--paper", ""], "paper: got '', expected one of hinton2015"),
        (["table", "hinton_kd", "--metrics", "test_error"], "did you mean 'test_errors'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(words, says, runs_folder, capsys, monkeypatch) -> None:
    mistaken(monkeypatch, *words)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kdrepro: ")
    assert err.count("\n") == 1
    assert says in err
    assert not runs_folder.exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no notes")
def test_the_notes_of_an_error_are_told_too(monkeypatch, capsys) -> None:
    def fails() -> None:
        error = ValueError("no room")
        error.add_note("in batch 7 of epoch 3, both counted from 0")
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "kdrepro: no room; in batch 7 of epoch 3, both counted from 0\n"


def test_a_mistake_has_its_traceback_where_it_is_asked_for(monkeypatch) -> None:
    monkeypatch.setenv("KDREPRO_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["kdrepro", "run", "hinton"])
    with pytest.raises(ValueError, match="recipe: got 'hinton'"):
        cli.main()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (("0" * 40, True), "the package's sources differ from the last commit"),
        ((None, False), "git names no commit of the package's sources"),
    ],
)
def test_nothing_is_recorded_from_sources_that_no_commit_has(state, says, monkeypatch, capsys) -> None:
    monkeypatch.setattr(runner, "source_state", lambda: state)
    mistaken(monkeypatch, "run", "hinton_kd", "--protocol", "paper", "--record", "--plan")
    assert f"--record: {says}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-2", [0, 1, 2]), ("4, 0-2 ,1", [4, 0, 1, 2]), ("5-5", [5])]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert cli.seeds_from(text) == seeds


def test_a_row_that_cannot_be_read_is_reported_beside_the_others(runs_folder) -> None:
    (runs_folder / "hinton_kd").mkdir(parents=True)
    (runs_folder / "hinton_kd" / "paper.teacher.s0.json").write_text("{", encoding="utf-8")
    printed = said("table", "--ledger", str(runs_folder))
    assert "paper.teacher.s0.json" in printed
    assert "student_alone" in printed


def test_the_version_is_printed():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"kdrepro {metadata.version('kdrepro')}\n")


@pytest.mark.parametrize("command", ["claims", "table"])
def test_a_folder_of_rows_that_is_not_there_is_an_error(command, tmp_path):
    result = CliRunner().invoke(cli.app, [command, "--ledger", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "does not exist" in " ".join(result.output.replace("│", " ").split())
