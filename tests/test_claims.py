"""Claims files: what is read from them, and what is wrong with a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdrepro.claims import CLAIMS, Comparison, Side, read_paper
from kdrepro.verdicts import papers

HEAD = """
[paper]
key = "short"
position = 1
title = "T"
authors = ["A B"]
year = 2020
venue = "V"
arxiv = "0000.00000"
recipe = "r"
notebook = "r"
status = "judged"
"""
ENTRY = """
[[claim]]
id = "C1"
statement = "S"
where = "section 1"
checked = "P"
"""
A_VALUE = (
    ENTRY
    + """kind = "value"
arm = "a"
metric = "m"
value = 1
tolerance = 0.5
seeds = 3
direction = { lower = "a", higher = "b" }
"""
)
AN_ORDER = (
    ENTRY
    + """kind = "order"
metric = "m"
comparisons = [{ lower = "a:x", higher = ["b", "c"] }]
seeds = 3
"""
)
A_SHARE = (
    ENTRY
    + """kind = "recovery"
metric = "m"
arm = "a"
from = "b"
to = "c"
at_least = 0.5
seeds = 3
"""
)
SIMILAR_ARMS = (
    ENTRY
    + """kind = "similar"
metric = "m"
arms = ["a", "b"]
margin_relative = 0.1
seeds = 3
"""
)
FAR = ENTRY + 'kind = "out of reach"\nreason = "R"\ninstead = ["C2"]\n'


def file_of(tmp_path: Path, text: str, name: str = "short.toml") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_claims_file_is_read(tmp_path):
    second = AN_ORDER.replace("C1", "C2")
    deviation = '[[deviation]]\ntopic = "t"\npaper = "p"\ncode = "c"\nours = "{a.epochs}"\n'
    found = read_paper(file_of(tmp_path, HEAD + A_VALUE + second + deviation))
    assert found.claims[0].direction == Comparison(Side(("a",), "m"), Side(("b",), "m"))
    assert found.claims[1].comparisons == (Comparison(Side(("a",), "x"), Side(("b", "c"), "m")),)
    assert found.claims[1].needs == ("a", "b", "c")
    assert found.deviations[0].ours == "{a.epochs}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "x = [", "short.toml: not TOML"),
        (A_VALUE, "short.toml: paper: missing"),
        (HEAD, "short.toml: paper: status: got 'judged', expected judged with claims"),
        (HEAD.replace("judged", "done") + A_VALUE, "short.toml: paper: status: got 'done', expected one of"),
        (
            HEAD.replace('"short"', '"long"') + A_VALUE,
            "short.toml: paper: key: got 'long', expected the name",
        ),
        (HEAD.replace("2020", "'x'") + A_VALUE, "short.toml: paper: year: got 'x'"),
        (HEAD.replace('["A B"]', "[]") + A_VALUE, "short.toml: paper: authors"),
        (HEAD + 'colour = "red"' + A_VALUE, "short.toml: paper: colour: unknown field"),
        (HEAD + A_VALUE + "[extra]\n", "short.toml: extra: unknown field"),
        (HEAD + A_VALUE + A_VALUE, "short.toml: claim C1: id: used 2 times"),
        (HEAD + A_VALUE.replace('id = "C1"', ""), "short.toml: claim number 1: id: missing"),
        (
            HEAD + A_VALUE.replace('"value"', '"valu"'),
            "short.toml: claim C1: kind: got 'valu', expected one of value",
        ),
        (HEAD + A_VALUE.replace("tolerance = 0.5", ""), "short.toml: claim C1: tolerance: got 0 of"),
        (HEAD + A_VALUE + "tolerance_relative = 0.1", "short.toml: claim C1: tolerance: got 2 of"),
        (HEAD + A_VALUE.replace("0.5", "-1"), "short.toml: claim C1: tolerance: got -1"),
        (HEAD + A_VALUE.replace("0.5", '"0.5"'), "short.toml: claim C1: tolerance: got '0.5'"),
        (HEAD + A_VALUE.replace("value = 1", "value = nan"), "short.toml: claim C1: value: got nan"),
        (
            HEAD + A_VALUE.replace("value = 1", "value = -inf"),
            "short.toml: claim C1: value: got -inf, expected a finite number",
        ),
        (
            HEAD + A_VALUE.replace("0.5", "inf"),
            "short.toml: claim C1: tolerance: got inf, expected a finite number",
        ),
        *(
            (
                HEAD + A_VALUE.replace('lower = "a"', f"lower = {number}"),
                f"short.toml: claim C1: direction: lower: got {number}, expected an arm, ",
            )
            for number in ("nan", "inf", "-inf")
        ),
        (HEAD + A_VALUE.replace("seeds = 3", "seeds = 1"), "short.toml: claim C1: seeds: got 1"),
        (HEAD + A_VALUE.replace("seeds = 3", ""), "short.toml: claim C1: seeds: missing"),
        (HEAD + A_VALUE.replace('arm = "a"', ""), "short.toml: claim C1: arm: missing"),
        (HEAD + A_VALUE.replace('arm = "a"', "arm = 1"), "short.toml: claim C1: arm: got 1"),
        (HEAD + A_VALUE.replace("seeds", "seed"), "short.toml: claim C1: seed: unknown field"),
        (
            HEAD + A_VALUE + 'protocol = "quick"',
            "short.toml: claim C1: protocol: got 'quick', expected one of",
        ),
        (HEAD + A_VALUE + 'ours = "yes"', "short.toml: claim C1: ours: got 'yes', expected true or false"),
        (HEAD + A_VALUE + "scale = 2\ncorrect_out_of = 3", "short.toml: claim C1: scale"),
        (HEAD + A_VALUE + "unit = 'x'\nscale = 0", "short.toml: claim C1: scale: got 0"),
        (HEAD + A_VALUE + "scale = 2", "short.toml: claim C1: scale: got no unit"),
        (HEAD + AN_ORDER + "scale = 2", "short.toml: claim C1: scale: got no unit"),
        (
            HEAD + A_VALUE + "one_run = ['z']",
            r"claim C1: one_run: got \['z'\], expected arms of the claim: a, b",
        ),
        (
            HEAD + A_VALUE.replace("tolerance = 0.5", "tolerance = -1"),
            "tolerance: got -1, expected .* at least 0",
        ),
        (HEAD + A_VALUE + "also = [{ arm = 'a' }]", "short.toml: claim C1: also: metric: missing"),
        (HEAD + A_VALUE + "also = 3", "short.toml: claim C1: also: got 3"),
        (
            HEAD + A_VALUE.replace('higher = "b"', 'hihger = "b"'),
            "claim C1: direction: hihger: unknown field",
        ),
        (HEAD + A_VALUE.replace('higher = "b"', 'higher = "a"'), "claim C1: direction: lower, higher"),
        (
            HEAD + A_VALUE.replace('lower = "a", higher = "b"', "lower = 1, higher = 2"),
            "claim C1: direction: lower",
        ),
        (HEAD + A_VALUE.replace('higher = "b"', "higher = []"), "claim C1: direction: higher: got"),
        (HEAD + A_VALUE.replace("direction = {", "direction = 3 # {"), "claim C1: direction: got 3"),
        (HEAD + A_VALUE.replace('checked = "P"', 'checked = "Q"'), "claim C1: checked: got 'Q'"),
        (HEAD + A_VALUE.replace('"section 1"', '""'), "claim C1: where: got ''"),
        (HEAD + AN_ORDER.replace("[{ l", "[] # [{ l"), "claim C1: comparisons: got \\[\\]"),
        (HEAD + AN_ORDER.replace('"b", "c"', '"b:x", "c:y"'), "claim C1: comparisons: higher"),
        (HEAD + AN_ORDER + "premise = []", "claim C1: premise: got \\[\\]"),
        (HEAD + AN_ORDER + 'premise = [{ lower = "a" }]', "claim C1: premise: higher: missing"),
        (HEAD + A_VALUE + 'premise = [{ lower = "a", higher = 2 }]', "claim C1: premise: unknown field"),
        (HEAD + AN_ORDER + "tolerance = 1", "claim C1: tolerance: unknown field"),
        (HEAD + A_SHARE.replace('to = "c"', 'to = "b"'), "claim C1: to: got 'b'"),
        (HEAD + A_SHARE.replace("0.5", "0"), "claim C1: at_least: got 0"),
        (HEAD + A_SHARE.replace('metric = "m"', ""), "claim C1: metric: missing"),
        (HEAD + SIMILAR_ARMS.replace('["a", "b"]', '["a"]'), "claim C1: arms: got"),
        (HEAD + SIMILAR_ARMS.replace('["a", "b"]', '["a", "a"]'), "claim C1: arms: got"),
        (HEAD + SIMILAR_ARMS.replace("margin_relative = 0.1", ""), "claim C1: margin_relative: missing"),
        (HEAD + FAR, "claim C1: instead: got 'C2', expected one of $"),
        (HEAD + FAR.replace("C2", "C1"), "claim C1: instead: got 'C1', expected one of $"),
        (HEAD + FAR.replace('reason = "R"', ""), "claim C1: reason: missing"),
        (HEAD + A_VALUE + "[[deviation]]\ntopic = 't'\n", "deviation number 1: code: missing"),
        (HEAD + A_VALUE.replace("[[claim]]", "[claim]"), "short.toml: claim: got one table"),
    ],
)
def test_a_wrong_claims_file_names_the_claim_and_the_field(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_paper(file_of(tmp_path, text))


def test_every_claims_file_of_the_package_is_right():
    files = sorted(CLAIMS.glob("*.toml"))
    assert len(files) == len(papers())
    for file in files:
        read_paper(file)
