"""What is read from rows, and which of them are paired."""

from __future__ import annotations

from dataclasses import replace

from made_claims import ORDER, errors_of
from recorded_rows import make_row, make_rows, teacher_run

from kdrepro.claims import Comparison
from kdrepro.judging.readings import independent, reading
from kdrepro.verdicts import judge


def test_values_without_a_teacher_are_apart():
    assert independent([1.0, 2.0, 3.0], [(), (), ("t",)]) == [1.0, 2.0, 3.0]
    assert independent([1.0, 3.0, 5.0], [("t",), ("t",), ()]) == [2.0, 5.0]
    assert independent([1.0, 2.0], [(), ()]) == [1.0, 2.0]
    assert independent([], []) == []


def test_values_that_share_one_of_several_teachers_or_are_linked_by_others_are_one():
    teachers = [("t0", "u0"), ("t0", "u1"), ("t1", "u2"), ("t1", "u3")]
    assert independent([1.0, 2.0, 3.0, 4.0], teachers) == [1.5, 3.5]
    assert independent([1.0, 2.0, 6.0, 9.0], [("a",), ("b",), ("a", "b"), ("c",)]) == [3.0, 9.0]
    assert independent([1.0, 2.0], [("a", "b"), ("a", "b")]) == [1.0, 2.0]


def test_yes_and_no_are_no_numbers():
    assert reading(make_row("a", 0, config={"flag": True}), "config.flag") is None


def test_of_an_arm_that_exists_once_the_first_run_counts_in_whatever_order_they_come():
    members = [f"hinton_kd.paper.b.s{seed}" for seed in range(4)]
    once, *again = [make_row("a", seed, 100.0 + seed, teacher=members) for seed in range(4)]
    others = make_rows("b", [110.0, 112.0, 111.0, 113.0])
    claim = replace(ORDER, one_run=("a",))
    one, several = judge(claim, [once, *others]), judge(claim, [*again, once, *others])
    assert (one.verdict, one.n) == (several.verdict, several.n) == ("reproduced", 4)
    assert one.interval == several.interval


def test_a_mean_of_arms_is_of_the_teachers_of_any_of_them():
    mean = replace(ORDER, comparisons=(Comparison(errors_of("b", "a"), errors_of("c")),))
    values = [8.0, 6.0, 3.0, 5.0, 2.0, 0.0]
    taught = [make_row("a", seed, each, teacher=teacher_run(seed // 2)) for seed, each in enumerate(values)]
    judgement = judge(mean, make_rows("b", [0.0] * 6) + taught + make_rows("c", [10.0] * 6))
    assert "6 pairs of 3 teachers" in judgement.detail
    assert (judgement.n, judgement.units) == (6, 3)
