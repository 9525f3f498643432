"""Tests of the answer in words: what the runs say about the paper's weight of the attention term."""

from __future__ import annotations

import re
from statistics import fmean

import pytest
from attention_transfer_rows import rows
from recorded_rows import write_ledger

from kdrepro.claims import paper
from kdrepro.exhibits.attention_answer import _BULLETS, _COMPARED, answer, how_wide
from kdrepro.verdicts import judge_paper


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), rows())


def test_the_answer_when_all_comes_out_as_the_arithmetic_says(ledger):
    text = answer(ledger)
    assert text.startswith(
        "**The paper's formula with β by group, as a sum over the batch, does about as well as the code's form with "
        "1,000, and better than with β = 0.1 as a mean.**\n\n- **β = 0.1"
    )
    assert text.count("\n- **") == len(_BULLETS)
    assert text.count(": reproduced") == len(_COMPARED)


def test_every_number_is_that_of_its_claim(ledger):
    text = answer(ledger).replace("−", "-").replace("\u00a0", " ")
    for each in judge_paper("zagoruyko2017", ledger):
        if each.claim.id not in _COMPARED:
            continue
        pattern = (
            rf"95 % interval (-?[\d,.]+) to (-?[\d,.]+); {each.claim.id}(?:, within 5 %)?: {each.verdict}"
        )
        (low, high), sign = re.search(pattern, text).groups(), _COMPARED[each.claim.id][2]
        told = sorted(float(bound.replace(",", "")) for bound in (low, high))
        ends = sorted(sign * bound for bound in each.interval)
        if sign * each.mean < 0:
            ends = sorted(-bound for bound in ends)
        assert told == pytest.approx(ends, abs=0.5)


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({"at": 1495, "at_norm_0.1": 1420}, "as a mean over the batch, does better than the code's form"),
        ({"at": 1495, "at_norm_0.1": 1420}, "fewer errors than the code's form with 1,000 (95 % interval"),
        ({"at": 1495, "at_norm_0.1": 1420}, "N2: contradicted"),
        (
            {"at_norm_by_group": 1200},
            "leaves more errors than the code's form with 1,000; a sum leaves fewer errors than that form.**",
        ),
        ({"at_norm_by_group": 1700}, "a sum leaves more errors than that form.**"),
        ({"at_norm_by_group": 1700}, "more errors than 0.1 as a mean (95 %"),
        ({"at_norm_by_group": 0}, "whether a sum does as well as that form is open.**"),
        ({"at_norm_by_group": 0}, "**β by group as a sum over the batch:** N3 is not run; N4 is not run."),
        ({"at": 0}, "which reading of the paper's β does what the code's form does.**"),
        ({"at_norm_0.1": 1200}, "off the 1,50"),
        ({"at_norm_0.1": 1800}, "it adds "),
        ({"at_norm_1000": 1300}, "fewer errors than in the code's form (95 % interval"),
        # As near to the code's form as N4 asks, but no better than the mean.
        (
            {"at": 1380, "at_norm_by_group": 1425, "at_norm_0.1": 1410, "student_alone": 1420},
            "1,000; a sum does about as well, but whether better than the mean is open.**",
        ),
    ],
)
def test_the_answer_follows_the_rows(tmp_path, levels, says):
    assert says in answer(write_ledger(tmp_path, rows(**levels))).replace("\u00a0", " ")


def test_a_small_difference_that_is_there_all_the_same_is_told(tmp_path):
    text = answer(write_ledger(tmp_path, rows(**{"at_norm_0.1": 1450}, spread=2.0)))
    assert text.count("reproduced, but not the same") == 3


def test_an_answer_that_is_not_settled_says_so(tmp_path):
    text = answer(write_ledger(tmp_path, rows(spread=200.0)))
    assert text.startswith("**The runs do not say yet")
    assert text.count(": inconclusive") >= 2


def test_what_similar_allows_stands_beside_what_the_maps_take_off(ledger, tmp_path):
    judged = {each.claim.id: each for each in judge_paper("zagoruyko2017", ledger)}
    assert f"take off {-judged['S1'].mean:,.0f} in all (S1)" in how_wide(ledger)
    least, most = map(int, re.search(r"within (\d+) to (\d+) errors", how_wide(ledger)).groups())
    errors = [
        fmean(row.metrics["test_errors"] for row in ledger.rows(arm=arm)) for arm in ("at", "at_norm_0.1")
    ]
    assert least <= 0.05 * min(errors) + 1
    assert most >= 0.05 * max(errors) - 1
    assert "take off none in all" in how_wide(write_ledger(tmp_path / "worse", rows(at=1600)))
    assert how_wide(write_ledger(tmp_path / "without", rows(student_alone=0))) == ""


def test_every_claim_of_ours_about_the_forms_has_its_words():
    ids = {each.id for each in paper("zagoruyko2017").claims if each.id.startswith("N")}
    assert set(_COMPARED) == ids
    assert sorted(name for names in _BULLETS.values() for name in names) == sorted(ids)
