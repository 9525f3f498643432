"""Translations that are shown to be read: which hypothesis is whose, and whose line is which."""

from __future__ import annotations

import dataclasses

import pytest
from recorded_rows import write_ledger
from translation_rows import SAID, translation_row

from kdrepro.exhibits.beam_tables import beam_table, recorded_beam, recorded_lesson, side_by_side
from kdrepro.methods.sequence_kd import closest_to_reference
from kdrepro.tables import show
from kdrepro.text_metrics import sentence_bleu

BEAM = ["the dog is running .", "a dog runs .", "the dog runs ."]


def test_the_likeliest_is_for_seq_kd_and_the_nearest_for_seq_inter():
    frame = beam_table(BEAM, [0.5, 0.25, 0.0125], "the dog runs .", score=sentence_bleu)
    assert list(frame["Translation"]) == [*BEAM, "the dog runs ."]
    assert list(frame["Probability"]) == ["50 %", "25 %", "1.25 %", "–"]
    assert list(frame["A student of"])[:3] == ["Seq-KD", "–", "Seq-Inter"]
    assert frame["BLEU with the reference"][2] == "100.0"
    # The same choice as the one that students are trained on.
    assert list(frame["A student of"]).index("Seq-Inter") == closest_to_reference(BEAM, "the dog runs .")


def test_one_hypothesis_may_be_for_both():
    frame = beam_table(BEAM[1:], [0.5, 0.25], "a dog runs .", score=sentence_bleu)
    assert frame["A student of"][0] == "Seq-KD and Seq-Inter"


@pytest.mark.parametrize(("beam", "odds"), [([], []), (["a"], []), (["a"], [0.5, 0.5])])
def test_a_beam_needs_a_probability_for_each(beam, odds):
    with pytest.raises(
        ValueError, match=r"probabilities: got \d of them for \d hypotheses, expected one each"
    ):
        beam_table(beam, odds, "a", score=sentence_bleu)


def test_a_recorded_lesson_shows_who_learns_which_line_of_a_training_beam(tmp_path):
    lesson = {
        "training_pair": ["der Hund läuft .", "the dog is running fast ."],
        "training_beam": BEAM,
        "training_beam_probability": ["0.5", "0.25", "0.0125"],
    }
    rows = [translation_row("ende_seq_inter", seed, 30.0) for seed in range(2)]
    without = write_ledger(tmp_path / "without", rows)
    assert recorded_lesson(without, "ende", score=sentence_bleu)[0] == ""
    rows[1] = dataclasses.replace(rows[1], samples=rows[1].samples | lesson)
    ledger = write_ledger(tmp_path / "with", rows)
    source, frame = recorded_lesson(ledger, "ende", score=sentence_bleu)
    assert source == "der Hund läuft ."
    assert list(frame["Translation"]) == [*BEAM, "the dog is running fast ."]
    assert frame["A student of"][0] == "Seq-KD and Seq-Inter"
    assert recorded_lesson(ledger, "deen", score=sentence_bleu)[1].empty


def test_a_recorded_beam_is_that_of_the_first_sentence(tmp_path):
    ledger = write_ledger(tmp_path, [translation_row("ende_teacher", seed, 40.0) for seed in (0, 1)])
    frame = recorded_beam(ledger, "ende_teacher", score=sentence_bleu)
    assert frame["Translation"][0] == SAID["source"][0]
    assert list(frame["Translation"])[1:-1] == SAID["n_best"]
    assert frame["Translation"][len(frame) - 1] == SAID["reference"][0]
    nothing = recorded_beam(ledger, "deen_teacher", score=sentence_bleu)
    assert nothing.empty
    assert "not run yet" in show(nothing, "beam")


def test_arms_stand_side_by_side_and_those_without_a_run_are_left_out(tmp_path):
    ledger = write_ledger(
        tmp_path, [translation_row("ende_teacher", 0, 40.0), translation_row("ende_seq_kd", 2, 38.0)]
    )
    arms = {"teacher": "ende_teacher", "word level": "ende_word_kd", "Seq-KD": "ende_seq_kd"}
    frame = side_by_side(ledger, arms)
    assert list(frame["Of"]) == 2 * ["source", "reference", "teacher", "Seq-KD"]
    assert list(frame["Text"])[:4] == [SAID["source"][0], SAID["reference"][0], *2 * SAID["greedy"][:1]]
    assert side_by_side(ledger, arms, search="beam7").empty
