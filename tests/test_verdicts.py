"""Which rows judge a claim, and the verdicts on a whole paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_claims import ORDER, RECOVERY, SIMILAR, VALUE, claim
from recorded_rows import TEMPERATURES, hinton_rows, make_row, make_rows, write_ledger

from kdrepro.verdicts import VERDICTS, judge, judge_paper, paper, papers

# Which rows count


@pytest.mark.parametrize(
    "change",
    [
        {"dirty": True},
        {"protocol": "reduced"},
        {"protocol": "quick"},
        {"split": "select"},
        {"recipe": "fitnets"},
    ],
)
@pytest.mark.parametrize("base", [ORDER, VALUE, SIMILAR, RECOVERY])
def test_rows_that_do_not_count(base, change):
    rows = [
        make_row(arm, seed, 100.0 - 20 * seed + ord(arm[0]))
        for arm in ("a", "b", "c", "s", "t", "alone")
        for seed in range(3)
    ]
    before = judge(base, rows)
    assert before.verdict != "not run"
    more = [make_row(arm, seed, 5000.0, **change) for arm in "abcst" for seed in range(3, 9)]
    assert judge(base, rows + more) == before
    short = judge(base, [replace(row, **change) if row.seed == 2 else row for row in rows])
    assert (short.verdict, short.seeds_needed) == ("not run", 3)
    assert short.detail == "2 of 3 seeds at protocol paper."


def test_a_claim_may_be_judged_at_another_protocol_but_never_at_two():
    reduced = replace(ORDER, protocol="reduced")
    a, b = [1.0, 2.0, 3.0], [51.0, 52.0, 53.5]
    rows = make_rows("a", a, protocol="reduced") + make_rows("b", b, protocol="reduced")
    assert judge(reduced, rows).verdict == "reproduced"
    assert judge(reduced, rows).protocol == "reduced"
    mixed = make_rows("a", a, protocol="reduced") + make_rows("b", b)
    assert {judge(each, mixed).verdict for each in (ORDER, reduced)} == {"not run"}


def test_what_is_out_of_reach_stays_so_and_names_what_ran_instead():
    judgement = judge(claim("out of reach", reason="No data.", instead=("S1",)), hinton_rows())
    assert (judgement.verdict, judgement.detail) == ("out of reach", "No data. In its place: S1.")
    assert judge(claim("not run", reason="Future work."), []).verdict == "not run"


# Hinton's claims

ARMS = {
    *("teacher", "student_alone", "soft_targets_T20", "no_threes", "sevens_eights"),
    *("ensemble", "ensemble_student", "few_digits_hard", "few_digits_soft"),
    *(f"units{units}_{rest}" for units in (30, 300) for rest in ("alone", *(f"T{t}" for t in TEMPERATURES))),
}


def test_hintons_claims_are_all_there_and_read_arms_that_exist():
    found = paper("hinton2015")
    ids = [each.id for each in found.claims]
    assert {f"H{number}" for number in range(1, 27)} <= set(ids)
    assert {arm for each in found.claims for arm in each.needs} <= ARMS
    assert found.claim("H1").tolerance == pytest.approx(13.4)
    assert found.claim("H12").tolerance == pytest.approx(2.64)
    assert found.claim("H3").seeds >= 10
    assert all(each.reason for each in found.claims if each.kind in ("out of reach", "not run"))
    assert all(each.direction for each in found.claims if each.kind == "value")
    with pytest.raises(ValueError, match="claim: got 'H99', expected one of H1, H2"):
        found.claim("H99")


def test_hintons_own_figures_reproduce_his_claims(tmp_path):
    judgements = {
        each.claim.id: each for each in judge_paper("hinton2015", write_ledger(tmp_path, hinton_rows()))
    }
    expected_reproduced = {
        *(
            "H1",
            "H2",
            "H3",
            "H3a",
            "H3b",
            "H4",
            "H5",
            "H6",
            "H7",
            "H8",
            "H9",
            "H9a",
            "H9t",
            "H10",
            "H11",
            "H12",
        ),
        *("H12t", "S14", "S20", "S21"),
    }
    assert {key for key, each in judgements.items() if each.verdict == "reproduced"} == expected_reproduced
    assert judgements["H26"].verdict == "not run"
    assert {each.verdict for each in judgements.values()} <= set(VERDICTS)
    # One claim for each out of reach, by number.
    far = {*range(13, 20), *range(20, 26)}
    assert {key for key, each in judgements.items() if each.verdict == "out of reach"} == {
        f"H{n}" for n in far
    }


def test_without_rows_nothing_is_claimed():
    verdicts = [judge(each, []).verdict for each in paper("hinton2015").claims]
    assert set(verdicts) == {"not run", "out of reach"}


def test_papers_come_in_reading_order_and_a_wrong_key_lists_them():
    assert [each.key for each in papers()] == [
        *("hinton2015", "romero2015", "zagoruyko2017", "furlanello2018", "kim2016"),
    ]
    assert [each.status for each in papers()] == ["judged"] * 5
    assert paper("kim2016").cited_as == "Kim & Rush (2016)"
    with pytest.raises(ValueError, match="paper: got 'hinton', expected one of hinton2015, romero2015"):
        paper("hinton")
