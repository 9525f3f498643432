"""The command line on two text files of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import mistaken, said


def two_files(folder: Path, *, lines: int = 60, fewer: int = 0) -> list[str]:
    files = folder / "a.en", folder / "a.de"
    texts = [[f"a dog {number}" for number in range(lines)], [f"ein Hund {n}" for n in range(lines - fewer)]]
    for file, text in zip(files, texts, strict=True):
        file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return ["--source", str(files[0]), "--target", str(files[1])]


def test_run_trains_on_two_text_files_of_ones_own(runs_folder, tmp_path) -> None:
    words = ["run", "sequence_kd", "--protocol", "smoke", "--arms", "own_seq_kd", *two_files(tmp_path)]
    printed = said(*words)
    assert "2 runs to do at protocol smoke" in printed
    assert "sequence_kd.smoke.own_seq_kd.s0: 0.0 BLEU" in printed
    assert printed.endswith("To translate: kdrepro.own_text.translator; the chapter shows how\n")
    assert "0 runs to do" in said(*words)
    (folder,) = runs_folder.glob("text-*")
    assert len(list(folder.glob("sequence_kd/*.json"))) == 2
    assert len(list(folder.glob("translations/*.target.txt"))) == 1
    # Another text has a folder of its own, and is trained on.
    assert "2 runs to do" in said("run", "sequence_kd", "--plan", *words[2:6], *two_files(tmp_path, lines=70))


def test_a_text_of_ones_own_is_trained_on_whole_unless_told_otherwise(runs_folder, tmp_path) -> None:
    printed = said("run", "sequence_kd", "--plan", "--device", "cpu", *two_files(tmp_path))
    assert "5 runs to do at protocol paper" in printed
    assert "own_seq_inter" in printed
    assert "pruned" not in printed
    # 54 pairs of a few words, of what 29,000 took.
    assert re.search(
        r"^Cost: an estimate, \d minutes by the words of the text, ", printed, flags=re.MULTILINE
    )
    words = ("run", "sequence_kd", "--plan", *two_files(tmp_path), "--protocol", "smoke")
    assert "Cost: not known; no row says what own_" in said(*words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sequence_kd", "--source", "{0}"], "target: got --source alone, expected --target with it"),
        (["sequence_kd", "--target", "{0}"], "source: got --target alone, expected --source with it"),
        (["hinton_kd", "--source", "{0}", "--target", "{1}"], "recipe: got 'hinton_kd' with --source"),
        (
            ["sequence_kd", "--source", "{0}", "--target", "{1}", "--record"],
            "record: got --record with a text of one's own",
        ),
        (
            ["sequence_kd", "--source", "{0}", "--target", "{1}", "--select"],
            "select: got --select with a text of one's own, expected none: its settings are tried in Python",
        ),
        (["sequence_kd", "--source", "{0}", "--target", "{1}"], "a.de: got 50 lines, expected the 60 of"),
        (
            ["sequence_kd", "--source", "{0}", "--target", "nothing.de"],
            "kdrepro: --target: got 'nothing.de', expected a text file that can be read: No such file",
        ),
        (
            ["sequence_kd", "--source", ".", "--target", "{1}"],
            "kdrepro: --source: got '.', expected a text file that can be read: Is a directory",
        ),
    ],
)
def test_run_says_what_is_wrong_with_two_text_files(
    words, says, runs_folder, tmp_path, capsys, monkeypatch
) -> None:
    files = two_files(tmp_path, fewer=10)[1::2]
    mistaken(monkeypatch, "run", *(word.format(*files) for word in words))
    _, err = capsys.readouterr()
    assert err.startswith("kdrepro: ")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_mistyped_arm_of_a_text_of_ones_own_is_named(runs_folder, tmp_path, capsys, monkeypatch) -> None:
    mistaken(monkeypatch, "run", "sequence_kd", *two_files(tmp_path), "--arms", "own_seqkd")
    assert "arm: got 'own_seqkd', expected one of own_teacher, " in capsys.readouterr().err
