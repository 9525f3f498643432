"""Tests of the answer in words: which form of the attention term the paper's weight belongs to."""

from __future__ import annotations

import pytest
from attention_transfer_rows import rows
from recorded_rows import write_ledger

from kdrepro.claims import paper
from kdrepro.exhibits import attention_forms
from kdrepro.exhibits.attention_forms import (
    answer,
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), rows())


def test_the_answer_when_all_comes_out_as_the_arithmetic_says(ledger):
    text = answer(ledger)
    assert text.startswith(
        "**The paper's β fits a sum over the batch, and not a mean; 1,000 is the code's form's.**"
    )
    assert "as if the term were not there" in text
    assert "The code's 1,000 put into the paper's formula leaves more errors than in its own form." in text


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({"at": 1495, "at_norm_0.1": 1420}, "as a mean over the batch, does better than the code's form"),
        (
            {"at_norm_by_group": 1200},
            "**The paper's β does not fit a mean over the batch; summed it leaves fewer",
        ),
        ({"at_norm_by_group": 1700}, "summed it leaves more errors than the code's form.**"),
        ({"at_norm_by_group": 0}, "whether it fits a sum is open.** As a mean"),
        ({"at_norm_by_group": 0}, "Not enough runs yet for N3, N4."),
        ({"at": 0}, "**The runs do not say yet to which form the paper's β belongs.** As a mean over"),
        (
            {"at_norm_0.1": 1200},
            "As a mean over the batch, 0.1 in the paper's formula leaves fewer errors than",
        ),
        ({"at_norm_0.1": 1800}, "in the paper's formula leaves more errors than the labels alone, by more"),
        ({"at_norm_1000": 1300}, "The code's 1,000 put into the paper's formula leaves fewer errors"),
        (
            {"at_norm_by_group": 1600},
            "summed, the formula leaves more errors than with that mean",
        ),
        # As near to the code's form as N4 asks, but no better than the mean.
        (
            {"at": 1380, "at_norm_by_group": 1425, "at_norm_0.1": 1410, "student_alone": 1420},
            "**The paper's β does not fit a mean over the batch; whether it fits a sum is open.** As a mean",
        ),
    ],
)
def test_the_answer_follows_the_verdicts(tmp_path, levels, says):
    assert says in answer(write_ledger(tmp_path, rows(**levels)))


def test_an_answer_that_is_not_settled_says_so(tmp_path):
    text = answer(write_ledger(tmp_path, rows(spread=200.0)))
    assert text.startswith("**The runs do not say yet")
    assert text.count("do not decide") + text.count("cannot tell") >= 3


def test_there_is_a_sentence_for_every_verdict_on_every_claim_of_ours_about_the_forms():
    ids = {each.id for each in paper("zagoruyko2017").claims if each.id.startswith("N")}
    assert set(attention_forms._SENTENCES) == ids
    for sentences in attention_forms._SENTENCES.values():
        assert set(sentences) == {"reproduced", "contradicted", "inconclusive"}
