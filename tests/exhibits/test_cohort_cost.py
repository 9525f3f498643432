"""What a student costs in a cohort and alone."""

from __future__ import annotations

import pytest
from born_again_rows import born_again_row
from recorded_rows import write_ledger

from kdrepro.exhibits.cohort_cost import saving_table

PAIR = {"digits": ("few_ban1", "few_ban2")}


def record(folder, rows):
    (found,) = saving_table("born_again", write_ledger(folder, rows), PAIR).to_dict("records")
    return found


def both(seed: int, together: float, alone: float, **changes):
    return [
        born_again_row("few_", "ban1", seed, 50, seconds=together),
        born_again_row("few_", "ban2", seed, 50, seconds=alone, **changes),
    ]


def test_the_saving_is_a_share_of_the_time_alone(tmp_path):
    found = record(tmp_path, [*both(0, 60, 80), *both(1, 66, 88), *both(2, 54, 72)])
    assert found["Trained on"] == "digits"
    assert (found["Seconds each"], found["Seconds alone"], found["Pairs"]) == ("60", "80", 3)
    assert found["Students at once"] == "6"
    assert found["Saved"].startswith("25 (25 to 25) %")


def test_one_pair_has_no_interval(tmp_path):
    assert record(tmp_path, both(0, 60, 80))["Saved"] == "25 %"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        both(0, 60, 80)[:1],
        [*both(0, 60, 80)[:1], *both(1, 60, 80)[1:]],
        both(0, 60, 80, device="cuda: other"),
        both(0, 60, 80, config={"cohort": ["few_ban2", "few_dkpp"]}),
        both(0, 60, 80, dirty=True),
    ],
)
def test_only_like_is_compared_with_like(tmp_path, rows):
    found = record(tmp_path, rows)
    assert (found["Saved"], found["Pairs"]) == ("not run", 0)


def test_it_is_read_at_the_protocol_asked_for(tmp_path):
    rows = [born_again_row("few_", arm, 0, 50, "quick") for arm in ("ban1", "ban2")]
    frame = saving_table("born_again", write_ledger(tmp_path, rows), PAIR, protocol="quick")
    assert frame.at[0, "Saved"] == "40 %"
