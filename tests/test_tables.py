"""Tests of the tables: what is in their cells, and of which rows it is told."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from recorded_rows import make_row, make_rows, teacher_run, write_ledger
from scipy import stats
from translation_rows import translation_row

from kdrepro import tables
from kdrepro.verdicts import judge_paper, paper, papers


def test_the_claim_table_says_what_the_verdicts_say(ledger):
    frame = tables.claim_table("hinton2015", ledger)
    judgements = judge_paper("hinton2015", ledger)
    assert list(frame["Verdict"]) == [each.verdict for each in judgements]
    by_claim = frame.set_index("Claim")
    assert by_claim.loc["H1", "Paper"] == "67 test errors"
    mean = np.mean([row.metrics["test_errors"] for row in ledger.rows(arm="teacher", protocol="paper")])
    assert by_claim.loc["H1", "Ours, with 95 % interval"].startswith(f"{mean:.1f}".rstrip("0").rstrip("."))
    assert by_claim.loc["H3", "Ours, with 95 % interval"].startswith("share 0.")
    assert by_claim.loc["H13", "Ours, with 95 % interval"] == "–"
    assert {"S14 (our stand-in)", "S16 (our stand-in)", "H9t (our addition)"} <= set(frame["Claim"])


def test_a_headline_has_the_verdict_and_sets_numbers_as_print_does(ledger):
    claims = tables.claim_table("hinton2015", ledger)
    verdict, because = claims.loc["H2", "Verdict"], claims.loc["H2", "Because"]
    text = tables.headline(claims, "H2", "Soft targets help")
    assert text.startswith(f"**Soft targets help (H2): {verdict}.** ")
    assert text.replace("\u00a0", " ").replace("−", "-").endswith(because)
    claims.loc["H2", "Because"] = "a minus b: -3 %"
    assert tables.headline(claims, "H2", "They help").endswith(".** a minus b: −3\u00a0%")


def test_claims_are_shown_by_id_with_the_verdict_beside_the_statement(empty):
    claims = tables.claim_table("hinton2015", empty)
    html = tables.show_claims(claims, "H3", "H1", caption="Two", because=False)
    assert re.findall(r"<th scope=.col. class=.\w+.>([^<]*)", html) == [
        "Claim",
        "Statement",
        "Verdict",
        "Ours, with 95\u00a0% interval",
        "Paper",
        "Seeds",
    ]
    assert re.findall(r"<th scope=.row.>([^<]*)", html) == ["H3", "H1"]
    unfolded = tables.show_claims(claims, "H3", caption="One")
    assert re.search(
        r"<td data-label=.Statement.>[^<]+<details><summary>why</summary>0 of 10 seeds", unfolded
    )
    assert "Because" not in unfolded
    alone = tables.show(claims.loc[["H3"], ["Claim", "Because"]], "Reasons")
    assert ">Because</th>" in alone
    assert "0 of 10 seeds" in alone
    digits = tables.claim_table("furlanello2018", empty)
    assert "Paper" not in tables.show_claims(digits, "M1", "E2", caption="Ours")
    assert "Paper" in tables.show_claims(digits, "M1", "S1", caption="Both")
    with pytest.raises(ValueError, match="names: got 'H33', expected some of H1, H2, H3, "):
        tables.show_claims(claims, "H33", caption="None")


def test_the_caption_says_which_sign_of_a_difference_is_as_claimed(tmp_path):
    rows = [*make_rows("student_alone", [146.0] * 10), *make_rows("soft_targets_T20", [74.0, 75.0] * 5)]
    rows += make_rows("teacher", [67.0, 68.0] * 5)
    claims = tables.claim_table("hinton2015", write_ledger(tmp_path, rows))
    assert claims.loc["H3b", "Ours, with 95 % interval"].startswith("difference -")
    caption = "<caption[^>]*>Two. Below zero a difference is as claimed</caption>"
    assert re.search(caption, tables.show_claims(claims, "H3b", "H1", caption="Two"))
    assert not re.search("Below zero", tables.show_claims(claims, "H1", "H3", caption="Two"))


def test_a_claim_table_without_rows(empty):
    frame = tables.claim_table("hinton2015", empty)
    assert set(frame["Verdict"]) == {"not run", "out of reach"}
    assert "0 of 10 seeds at protocol paper." in set(frame["Because"])


def test_a_result_is_a_mean_with_half_the_interval(tmp_path):
    values = [67.0, 71.0, 64.0]
    ledger = write_ledger(tmp_path, [*make_rows("teacher", values), make_row("student_alone", 0, 146)])
    frame = tables.result_table(
        "hinton_kd", ledger, ["teacher", "student_alone", "soft_targets_T20"], {"test_errors": "errors"}
    )
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert list(frame["errors"]) == [f"67.3 ± {(high - low) / 2:.1f}", "146 (1 run)", "not run"]
    assert list(frame["Seeds"]) == [3, 1, 0]
    # A metric that runs do not have is none that was not run.
    missing = tables.result_table("hinton_kd", ledger, ["teacher", "soft_targets_T20"], ["test_ece"])
    assert list(missing["test_ece"]) == ["–", "not run"]


def test_the_size_of_a_net_is_no_estimate(tmp_path):
    rows = [make_row("whole", seed, 1.0, parameters=2_626_518) for seed in range(2)]
    rows += [make_row("pruned", seed, 1.0, parameters=532_990 + 10 * seed) for seed in range(2)]
    rows += [make_row("once", 0, 1.0, parameters=271_308)]
    frame = tables.result_table(
        "hinton_kd", write_ledger(tmp_path, rows), ["whole", "pruned", "once"], {"parameters": "Size"}
    )
    assert list(frame["Size"]) == ["2,626,518", "532,995 ± 64", "271,308"]


def test_corrections_are_rows_of_one_arm_with_their_shift(tmp_path, empty):
    values = {"bias_test": 3.5, "test_errors_bias_test": 109.0}
    rows = [make_row("no_threes", seed, 206, metrics=values) for seed in range(2)]
    metrics = {"test_errors": "Errors"}
    corrections = {"": "none", "_bias_test": "on the test set", "_bias_train": "from frequencies"}
    frame = tables.correction_table(
        "hinton_kd", write_ledger(tmp_path, rows), "no_threes", metrics, corrections
    )
    assert list(frame.columns) == ["Biases", "Shift", "Errors", "Seeds"]
    assert frame.to_numpy().tolist() == [
        ["none", "–", "206 ± 0", 2],
        ["on the test set", "3.5 ± 0", "109 ± 0", 2],
        ["from frequencies", "not run", "not run", 2],
    ]
    unrun = tables.correction_table("hinton_kd", empty, "no_threes", metrics, corrections)
    assert set(unrun["Errors"]) == {"not run"}


def test_rows_of_uncommitted_code_are_shown_in_demonstrations_only(tmp_path):
    rows = make_rows("teacher", [1.0, 2.0], dirty=True) + make_rows(
        "teacher", [3.0, 4.0], dirty=True, protocol="quick"
    )
    ledger = write_ledger(tmp_path, rows)
    assert list(tables.result_table("hinton_kd", ledger, ["teacher"], ["test_errors"])["Seeds"]) == [0]
    quick = tables.result_table("hinton_kd", ledger, ["teacher"], ["test_errors"], protocol="quick")
    assert list(quick["Seeds"]) == [2]
    lines = tables.stamp("hinton_kd", ledger).set_index("What")["Value"]
    assert lines["Left out"] == "2 rows of uncommitted code, 0 unreadable files"


def test_select_rows_never_reach_a_result(ledger):
    frame = tables.result_table("hinton_kd", ledger, ["teacher"], ["test_errors"])
    assert list(frame["Seeds"]) == [5]


def test_differences_are_paired_as_in_the_verdicts(tmp_path):
    a, b = [70.0, 75.0, 71.0], [80.0, 79.0, 83.0]
    ledger = write_ledger(tmp_path, make_rows("a", a) + make_rows("b", b) + [make_row("c", 0, 1.0)])
    frame = tables.paired_table("hinton_kd", ledger, [("a", "b"), ("a", "c"), ("a", "d"), ("c", "a")])
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert list(frame["Mean"]) == ["-8.67", "69", "not run", "-69"]
    assert frame["95 % interval"][0] == f"{low:.3g} to {high:.3g}"
    assert list(frame["95 % interval"][1:]) == ["–", "–", "–"]
    assert list(frame["Pairs"]) == [3, 1, 0, 1]
    once = tables.paired_table("hinton_kd", ledger, [("c", "a")], one_run=["c"])
    assert (once["Pairs"][0], once["Mean"][0]) == (3, "-71")


def test_costs_add_up(tmp_path):
    rows = [*make_rows("teacher", [1.0, 2.0], seconds=1800.0), make_row("teacher", 4, 1.0, seconds=3600.0)]
    rows += make_rows("student_alone", [1.0], seconds=900.0, device="cuda (H100)")
    frame = tables.cost_table("hinton_kd", write_ledger(tmp_path, rows))
    assert list(frame["Arm"]) == ["student_alone", "teacher", "all", "all"]
    assert list(frame["Hours"]) == ["0.25", "2", "2", "0.25"]
    assert list(frame["Minutes a run"]) == ["15", "40", "40", "15"]
    assert frame["Seeds"][1] == "0 to 1, 4"
    assert list(frame["Device"]) == ["cuda (H100)", "cpu", "cpu", "cuda (H100)"]


def test_costs_in_words_keep_devices_and_protocols_apart(tmp_path):
    rows = make_rows("teacher", [1.0, 2.0], seconds=1800.0, device="cpu: EPYC, 1 threads")
    rows += make_rows("student_alone", [1.0], seconds=900.0, device="cuda (H100)")
    rows += make_rows(
        "student_alone", [1.0], seconds=360.0, device="cpu: EPYC, 11 threads", protocol="reduced"
    )
    words = tables.cost_words("hinton_kd", write_ledger(tmp_path, rows), "paper", "reduced", "quick")
    assert words == (
        "At protocol paper 2 runs, 1 hour on cpu: EPYC, 1 thread; 1 run, 0.25 hours on cuda (H100). "
        "At protocol reduced 1 run, 0.1 hours on cpu: EPYC, 11 threads."
    )


def test_costs_of_no_runs_say_so(empty):
    assert tables.cost_words("hinton_kd", empty, "paper", "reduced") == "Not run yet."


def test_deviations_take_our_figures_from_the_rows(tmp_path, empty):
    unset = tables.deviations_table("hinton2015", empty)
    assert len(unset) == len(paper("hinton2015").deviations) > 10
    assert any("[not run yet]" in text for text in unset["We do"])
    assert not any("{" in text for text in unset["We do"])
    rows = make_rows(
        "teacher", [1.0, 2.0], config={"epochs": 300, "input_dropout": 0.2, "hidden_dropout": 0.5}
    )
    rows += [
        make_row("student_alone", 0, config={"epochs": 40}),
        make_row("student_alone", 1, config={"epochs": 12_000}),
    ]
    frame = tables.deviations_table("hinton2015", write_ledger(tmp_path, rows)).set_index("Topic")
    assert frame.loc["epochs", "We do"].startswith("300 for the teacher, 40 or 12,000 for the students")
    assert frame.loc["dropout rates", "We do"].startswith("0.2 on the input and 0.5 on the hidden layers")
    assert "[max_norm not recorded]" in frame.loc["weight constraint", "We do"]


def test_no_deviation_types_what_a_row_could_say():
    for each in paper("hinton2015").deviations:
        assert not re.search(r"\d", re.sub(r"\{[^}]*\}|fp32|bf16", "", each.ours)), each.topic
    # Others name nets, data sets and weights that have numbers in their names, but no length of a training.
    for each in (deviation for other in papers() for deviation in other.deviations):
        said = re.sub(r"\{[^}]*\}", "", each.ours)
        assert not re.search(r"\d[\d,.]* (?:epochs?|steps|runs|for the)\b", said), each.topic


def test_of_a_metric_that_is_better_when_higher_the_highest_comes_first(tmp_path):
    rows = [
        make_row(f"a.try{n}", 0, 100.0 - n, split="select", config={"learning_rate": 0.1 * n})
        for n in (1, 3, 2)
    ]
    ledger = write_ledger(tmp_path, rows)
    for higher, order in ((False, ["97", "98", "99"]), (True, ["99", "98", "97"])):
        frame = tables.selection_table("hinton_kd", ledger, higher_is_better=higher)
        assert [cell.split(" ")[0] for cell in frame["test_errors"]] == order


def test_the_selection_shows_the_settings_that_differ_and_the_best_first(tmp_path, empty):
    rows = [
        make_row(f"teacher.try{number}", seed, errors + seed, split="select", config=config)
        for number, (errors, config) in enumerate(
            [
                (90.0, {"learning_rate": 0.1, "epochs_run": 7}),
                (70.0, {"learning_rate": 0.01, "gradient_clip": 1.0}),
            ]
        )
        for seed in (0, 1)
    ]
    rows.append(make_row("student_alone.try0", 0, 150.0, split="select"))
    frame = tables.selection_table("hinton_kd", write_ledger(tmp_path, rows)).set_index("Arm")
    assert frame.loc["teacher", "Settings"].tolist() == [
        "learning rate 0.01, gradient clip 1",
        "learning rate 0.1, gradient clip none",
    ]
    assert frame.loc["teacher", "test_errors"].str.startswith(("70.5 ±", "90.5 ±")).all()
    assert frame["Runs"].tolist() == [1, 2, 2]
    assert frame.loc["student_alone", "Settings"] == "–"
    assert len(tables.selection_table("hinton_kd", empty)) == 0


def test_the_stamp_says_where_the_numbers_come_from(ledger, empty):
    lines = tables.stamp("hinton_kd", ledger).set_index("What")["Value"]
    assert lines["Protocol"] == "paper"
    assert lines["Seeds"] == "0 to 9"
    assert lines["Commits"] == "0123456789ab"
    assert "torch 2.9.0" in lines["Versions"]
    assert float(lines["Hours"]) == pytest.approx(len(ledger.rows(protocol="paper")) * 0.2, rel=0.01)
    assert tables.stamp("hinton_kd", empty).set_index("What")["Value"]["Devices"] == "not run"


def test_students_that_share_a_teacher_are_averaged_in_tables_too(tmp_path):
    rows = [
        make_row("a", s, value, teacher=teacher_run(s // 2)) for s, value in enumerate([8, 6, 3, 5, 2, 0])
    ]
    frame = tables.result_table("hinton_kd", write_ledger(tmp_path, rows), ["a"], ["test_errors"])
    low, high = stats.ttest_1samp([7.0, 4.0, 1.0], 0).confidence_interval(0.95)
    assert frame["test_errors"][0] == f"4.0 ± {(high - low) / 2:.1f}"


def test_the_ledgers_side_needs_no_torch():
    code = "import sys, kdrepro.tables, kdrepro.plots; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_what_depends_on_the_machine_is_shown_by_machine(tmp_path):
    on_gpu = {"device": "cuda: NVIDIA H200"}
    rows = [
        translation_row("ende_seq_inter", seed, 35.0, rate=rate, **changes)
        for seed, rate, changes in ((0, 2_000.0, {}), (1, 2_400.0, {}), (2, 1_600.0, on_gpu))
    ]
    headings = {"speedup_over_teacher_beam5": "Times its teacher", "unknown": "Unknown"}
    arms = ["ende_seq_inter", "deen_seq_inter"]
    frame = tables.machine_table("sequence_kd", write_ledger(tmp_path, rows), arms, headings)
    assert list(frame["Times its teacher"]) == ["10.0 to 12.0", "8.0"]
    assert list(frame["Seeds"]) == ["0 to 1", "2"]
    assert set(frame["Unknown"]) == {"–"}
    assert frame["Net trained on"].str.contains("H200").tolist() == [False, True]
    assert set(frame["Arm"]) == {"ende_seq_inter"}
