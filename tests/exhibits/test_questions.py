"""The questions that are asked on all data: each line compares the same, and none is left out."""

from __future__ import annotations

import dataclasses

import pytest
from born_again_rows import born_again_rows
from recorded_rows import write_ledger

from kdrepro import tables
from kdrepro.claims import Side, paper
from kdrepro.exhibits.questions import BORN_AGAIN, SEQUENCE_KD, question_table, tally

CLAIMS = paper("furlanello2018")


def asked(name: str) -> set[tuple[str, ...]]:
    """What a claim compares, without the data in the names of its arms."""
    claim = CLAIMS.claim(name)
    prefix = {"M": "mnist_", "E": "few_"}.get(name[0], "")

    def bare(side: Side | float | None) -> str:
        assert isinstance(side, Side)
        assert side.arms[0].startswith(prefix)
        return side.arms[0].removeprefix(prefix)

    if claim.kind == "recovery":
        return {tuple(sorted(each.removeprefix(prefix) for each in claim.needs))}
    return {(claim.metric, bare(each.lower), bare(each.higher)) for each in claim.comparisons}


def test_a_line_asks_the_same_on_all_data():
    for question, (pictures, mnist, few) in BORN_AGAIN.claims.items():
        assert asked(mnist) == asked(few), question
        # On pictures a gain is also asked for over the teacher.
        assert pictures is None or asked(few) <= asked(pictures), question


def test_no_question_about_digits_is_left_out():
    named = {name for names in BORN_AGAIN.claims.values() for name in names if name}
    ids = {each.id for each in CLAIMS.claims}
    assert named <= ids
    assert {each for each in ids if each[0] in "ME"} <= named
    left = {each.id for each in CLAIMS.claims if each.ours} - named
    # Of the stand-ins these have no counterpart on digits.
    assert left == {"N1", "S2b", "S3a", "S4a"}


def test_both_directions_of_the_captions_are_asked_the_same():
    claims = paper("kim2016")

    def rule(name: str) -> str:
        bare = dataclasses.replace(claims.claim(name), id="", statement="", instead=())
        return repr(bare).replace("ende_", "").replace("deen_", "")

    for question, (one, other) in SEQUENCE_KD.claims.items():
        assert (one[0], other[0], one[1:]) == ("E", "D", other[1:]), question
        assert rule(one) == rule(other), question
    captions = {each.id for each in claims.claims if each.ours}
    assert captions == {name for names in SEQUENCE_KD.claims.values() for name in names if name}


def test_the_verdicts_are_those_of_the_claims(tmp_path):
    ledger = write_ledger(tmp_path, born_again_rows("few_"))
    frame = question_table(BORN_AGAIN, ledger)
    assert list(frame.columns) == ["Question", *(f"Verdict, {each}" for each in BORN_AGAIN.data), "Claims"]
    verdicts = tables.claim_table("furlanello2018", ledger)
    verdicts.index = verdicts["Claim"].str.split().str[0]
    for (question, names), (_, line) in zip(BORN_AGAIN.claims.items(), frame.iterrows(), strict=True):
        assert line["Question"] == question
        found = [line[f"Verdict, {each}"] for each in BORN_AGAIN.data]
        assert found == [verdicts.at[name, "Verdict"] if name else "–" for name in names]
        assert found[1] == "not run"
        assert found[2] != "not run"
        assert line["Claims"] == ", ".join(filter(None, names))


@pytest.mark.parametrize("verdict", ["reproduced", "not run"])
def test_verdicts_of_several_columns_are_coloured(tmp_path, verdict):
    ledger = write_ledger(tmp_path, born_again_rows("few_"))
    html = tables.show(question_table(BORN_AGAIN, ledger), "questions")
    assert f'class="verdict verdict-{verdict.replace(" ", "-")}"' in html


def test_the_tally_counts_the_verdicts_of_the_table(tmp_path):
    ledger = write_ledger(tmp_path, born_again_rows("few_"))
    told = tally(BORN_AGAIN, ledger)
    few = question_table(BORN_AGAIN, ledger)["Verdict, embedded digits"]
    counts = few[few != "–"].value_counts()
    assert f"**embedded digits**, of {counts.sum()} questions: " in told
    for verdict, count in counts.items():
        assert f"{count} {verdict}" in told
    assert told.endswith("Not enough runs are recorded yet on CIFAR-10, short and on MNIST.")
