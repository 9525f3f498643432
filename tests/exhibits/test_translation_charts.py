"""The pictures of quality against speed, of mode masses and of pruning: every point is a mean of rows."""

from __future__ import annotations

import math

import pytest
from chart_texts import assert_readable, texts
from recorded_rows import write_ledger
from translation_rows import LEVELS, translation_row, translation_rows

from kdrepro.exhibits import translation_charts as drawn
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.recipes.sequence_kd import RECIPE


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def test_each_arm_goes_from_greedy_decoding_to_the_beam(tmp_path):
    chart = drawn.speed_and_quality(write_ledger(tmp_path, translation_rows()))
    (axes,) = chart.axes
    found = lines(axes)
    assert set(found) == {words for words, _ in drawn.ARMS.values()}
    # The teacher writes 202.5 words a second with the beam, on average of three seeds: 800, 810 and 820 over 4.
    for arm, (words, _) in drawn.ARMS.items():
        bleu, gain, rate, _mass = LEVELS[arm]
        speed = (rate + 10) / 200 * 202.5 if arm != "teacher" else 4 * 202.5
        # Three seeds: 0, 0.2 and 0.4 more BLEU, 0, 10 and 20 more words a second.
        greedy, beam = found[words]
        assert greedy == pytest.approx((speed, bleu + 0.2))
        assert beam == pytest.approx((speed / 4, bleu + 0.2 + gain))
    assert axes.get_xscale() == "log"
    assert "English to German, protocol paper" in texts(chart)
    assert_readable(chart)


def test_phonemes_are_judged_by_words_that_are_right(tmp_path):
    measured = {"word_accuracy_greedy": 0.4, "word_accuracy_beam5": 0.5, "greedy_speedup": 3.0}
    changes = {"words_per_second_beam5": 300.0}
    row = translation_row("cmu_teacher", 0, 0.0, metrics=measured | changes, protocol="quick")
    chart = drawn.speed_and_quality(write_ledger(tmp_path, [row]), "cmu", protocol="quick")
    assert lines(chart.axes[0]) == {"teacher": [(900.0, 0.4), (300.0, 0.5)]}
    assert "words right" in texts(chart)


def test_without_rows_the_pictures_say_so(tmp_path):
    ledger = write_ledger(tmp_path, [])
    assert "not run at protocol paper" in texts(drawn.speed_and_quality(ledger))
    for chart in (drawn.pruning_curve(ledger), drawn.what_is_pruned(ledger)):
        assert texts(chart).count("not run at\nprotocol paper") == 1


def test_a_wrong_family_is_named():
    with pytest.raises(ValueError, match="family: got 'enfr', expected one of ende, deen, cmu"):
        drawn.family("enfr")


def test_pruned_students_start_from_the_one_that_is_whole(tmp_path):
    chart = drawn.pruning_curve(write_ledger(tmp_path, translation_rows("deen")))
    (panel,) = chart.axes
    assert panel.get_title(loc="left") == "German to English"
    found = lines(panel)
    shares = [share for share, _ in panel.containers[0].lines[0].get_xydata()]
    assert shares == [0, 50, 80, 85, 90]
    beam = panel.containers[1].lines[0].get_xydata()[:, 1]
    wanted = [LEVELS[arm][0] + LEVELS[arm][1] + 0.2 for arm in (f"pruned_{share}" for share in drawn.PRUNED)]
    assert list(beam) == pytest.approx(wanted)
    assert found["teacher, beam"][0][1] == pytest.approx(37.7)
    assert {"greedy, n = 3", "beam, n = 3", "teacher, beam"} <= set(texts(chart))
    assert_readable(chart)


def test_a_part_of_small_weights_is_seen_to_lose_more(tmp_path):
    rows = [*translation_rows("ende"), *translation_rows("deen")]
    chart = drawn.what_is_pruned(write_ledger(tmp_path, rows))
    left, right = chart.axes
    names = list(drawn.PARTS)
    found = lines(left)
    assert lines(right) == found
    assert list(found) == ["50 % pruned", "80 % pruned", "85 % pruned", "90 % pruned"]
    for kept, points in zip((0.5, 0.2, 0.15, 0.1), found.values(), strict=True):
        assert points == [
            (pytest.approx(kept / 4), names.index("score")),
            (pytest.approx(kept), names.index("output")),
        ]
    assert_readable(chart)


BEFORE_AND_AFTER = {"student alone": "ende_student_alone", "Seq-KD": "ende_seq_kd"}


def test_one_panel_an_arm_with_its_mean(tmp_path):
    rows = [translation_row("ende_student_alone", seed, 30.0, mass=0.02) for seed in range(3)]
    rows += [translation_row("ende_seq_kd", seed, 30.0, mass=0.4 + 0.01 * seed) for seed in range(3)]
    chart = drawn.mode_mass_histogram(write_ledger(tmp_path, rows), BEFORE_AND_AFTER)
    assert [axes.get_title(loc="left") for axes in chart.axes] == list(BEFORE_AND_AFTER)
    assert [[bar.get_height() for bar in axes.patches] for axes in chart.axes] == [
        [0.25, 0, 0, 0, 0.75, 0, 0, 0],
        [0, 0, 0.25, 0, 0, 0, 0, 0.75],
    ]
    assert any("mean 2 %, 3 runs" in text for text in texts(chart))
    line = chart.axes[0].lines[-1].get_xdata()[0]
    assert line == pytest.approx(2 * (math.log10(0.02) + 4))
    assert_readable(chart)


def test_more_arms_than_colours_have_a_panel_each(tmp_path):
    arms = {f"all over again, {count}": "ende_seq_kd" for count in range(9)}
    chart = drawn.mode_mass_histogram(write_ledger(tmp_path, [translation_row("ende_seq_kd", 0, 30.0)]), arms)
    assert [axes.get_title(loc="left") for axes in chart.axes] == list(arms)
    assert len({len(axes.patches) for axes in chart.axes} - {0}) == 1
    assert all(axes.patches for axes in chart.axes)


def test_an_arm_that_was_not_run_says_so(tmp_path):
    chart = drawn.mode_mass_histogram(
        write_ledger(tmp_path, [translation_row("ende_seq_kd", 0, 30.0)]), BEFORE_AND_AFTER
    )
    assert "not run at protocol paper" in texts(chart)
    assert any("1 run" in text for text in texts(chart))


def test_what_is_drawn_are_arms_of_the_recipe():
    ends = [*drawn.ARMS, *(f"pruned_{share}" for share in drawn.PRUNED)]
    assert {f"{family}_{end}" for family in drawn.FAMILIES for end in ends} <= set(RECIPE.arms)


def test_the_parts_are_those_of_the_net():
    net = LSTMSeq2Seq(3, 3, hidden=2)
    assert set(drawn.PARTS) == {name for name, part in net.named_children()}


def test_a_student_without_others_has_its_own_speed(tmp_path):
    rows = [row for row in translation_rows("ende") if row.arm in ("ende_teacher", "ende_student_alone")]
    chart = drawn.speed_and_quality(write_ledger(tmp_path, rows), "ende")
    found = lines(chart.axes[0])
    rates = [row.metrics["words_per_second_greedy"] for row in rows if row.arm == "ende_student_alone"]
    assert found["student alone"][0][0] == pytest.approx(sum(rates) / len(rates))
