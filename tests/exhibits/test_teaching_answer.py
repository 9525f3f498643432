"""What is said of word level and Seq-KD follows the rows."""

from __future__ import annotations

from recorded_rows import write_ledger
from translation_rows import translation_row

from kdrepro.exhibits.teaching_answer import answer, printed_differences


def _ledger(folder, *, seq_kd, seeds=3):
    levels = {"teacher": 34.0, "word_kd": 33.0, "seq_kd": seq_kd}
    rows = [
        translation_row(f"ende_{kind}", seed, level + 0.1 * seed * (kind == "seq_kd"))
        for kind, level in levels.items()
        for seed in range(seeds)
    ]
    return write_ledger(folder, rows)


def test_the_papers_differences_are_those_of_its_table():
    assert {where: round(gain, 6) for where, gain in printed_differences().items()} == {
        "from English to German": 3.5,
        "from Thai to English": 1.0,
    }


def test_the_means_are_told_and_which_of_the_papers_differences_fits(tmp_path):
    said = answer(_ledger(tmp_path / "near", seq_kd=33.9), "ende", "English to German")
    assert said.startswith(
        "**English to German.** Greedily decoded, the student of word-level distillation has 33 BLEU"
    )
    assert "that of Seq-KD 34, and their teacher 34. Seq-KD minus word level is 1 (0.75 to 1.25)" in said
    assert said.endswith(
        "the paper's 3.5 from English to German lies outside of that interval, "
        "its 1 from Thai to English lies inside of that interval."
    )
    said = answer(_ledger(tmp_path / "far", seq_kd=36.4), "ende", "English to German")
    assert "3.5 from English to German lies inside" in said
    assert "1 from Thai to English lies outside" in said


def test_nothing_is_said_before_all_three_are_there(tmp_path):
    assert answer(_ledger(tmp_path, seq_kd=33.0), "deen", "German to English") == ""
