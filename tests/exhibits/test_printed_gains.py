"""What the born-again paper prints, as it is read from the claims and drawn."""

from __future__ import annotations

import re

import pytest
from chart_texts import assert_readable, points, texts

from kdrepro.claims import paper
from kdrepro.exhibits import printed_gains as printed

CLAIMS = paper("furlanello2018")


def test_eight_nets_of_which_three_got_worse():
    gains = printed.printed_gains()
    assert [each.net for each in gains][:4] == ["WRN-28-1", "WRN-28-2", "WRN-28-5", "WRN-28-10"]
    assert len({each.net for each in gains}) == 8
    worse = [each.net for each in gains if each.points < 0]
    # The claim about the sentence in the text counts the same three.
    reason = CLAIMS.claim("B8a").reason
    assert len(worse) == 3
    assert all(f"{name} goes from" in reason or f"{name} from" in reason for name in worse)
    assert "lower in five of the eight rows of its own Table 1, higher in three" in CLAIMS.claim("B8a").says
    assert max(each.points for each in gains) == 0.31


def test_every_number_stands_in_the_claim_of_its_net():
    for gain, name in zip(
        printed.printed_gains(), ("B1", *(f"B{place}" for place in range(2, 9))), strict=True
    ):
        claim = CLAIMS.claim(name)
        assert gain.net in claim.statement
        assert f"{gain.millions:g}" in claim.statement
        if claim.kind != "value":
            assert f"{gain.teacher:g} to {gain.student:g}" in claim.says
        else:
            assert (gain.teacher, gain.student) == (claim.value, CLAIMS.claim(f"{name}a").value)
            assert f"a gain of {gain.points:g} points" in CLAIMS.claim(f"{name}b").says
            assert name in {"B1", "B2", "B5"}


def test_one_procedure_twice_lies_as_far_apart_as_the_claims_say():
    found = printed.printed_generations()
    pairs = re.findall(r"([\d.]+) and ([\d.]+)", CLAIMS.claim("C1").says)
    assert [(each.again, each.born[0]) for each in found] == [(float(a), float(b)) for a, b in pairs]
    assert [each.apart for each in found] == [0.66, 0.07, 0.10, 0.13]
    assert [len(each.born) for each in found] == [3, 3, 3, 2]
    for each, name in zip(found, ("T1", "T2", "T3", "T4"), strict=True):
        assert each.net in CLAIMS.claim(name).statement


def test_a_claim_that_says_something_else_is_named(monkeypatch):
    with pytest.raises(ValueError, match="claim B2: got 'about 5 %', expected something like"):
        printed._read(r"(\d) to (\d)", "about 5 %", claim="B2")


def test_the_gains_are_drawn_with_what_a_second_run_may_do():
    chart = printed.gains_chart()
    (axes,) = chart.axes
    gains = printed.printed_gains()
    assert points(axes, "o") == [(each.points, float(place)) for place, each in enumerate(gains)]
    ends = [x for x, _ in points(axes, "|")]
    assert sorted({abs(each) for each in ends}) == sorted(
        {each.apart for each in printed.printed_generations()}
    )
    words = texts(chart)
    assert "6.69 → 6.64 %" in words
    assert {"fewer errors than its teacher", "more"} <= set(words)
    assert_readable(chart)


def test_the_generations_are_drawn_with_the_first_one_twice():
    chart = printed.generations_chart()
    (axes,) = chart.axes
    found = printed.printed_generations()
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in lines] == [[each.teacher, *each.born] for each in found]
    open_circles = [
        line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [line.get_ydata()[0] for line in open_circles] == [each.again for each in found]
    assert_readable(chart)


def test_the_table_says_who_got_worse():
    frame = printed.gains_table()
    assert list(frame["Worse"]).count("worse") == 3
    assert frame.loc[3, "Gain in points"] == "−0.09"
    assert frame.loc[0, "Gain in points"] == "+0.05"


def test_changes_are_counted_against_the_widest_gaps():
    table = printed.gaps_table().set_index("Changes")
    assert list(table.columns) == ["How many", "Larger than 0.66 points", "Larger than 0.13 points"]
    gains = [abs(each.points) for each in printed.printed_gains()]
    assert list(table.loc["teacher to student, CIFAR-10"]) == [8, 0, sum(each > 0.13 for each in gains)]
    assert list(table["How many"]) == [
        8,
        4,
        sum(len(each.born) - 1 for each in printed.printed_generations()),
    ]
