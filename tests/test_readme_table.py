"""The table of the README: verdicts in Markdown, and what their numbers are in."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from made_claims import papers_with_a_planned_one
from recorded_rows import make_row, write_ledger
from translation_rows import translation_rows

from kdrepro import tables
from kdrepro.ledger import Row, recorded
from kdrepro.verdicts import judge, judge_paper, paper


def rows_of(recipe: str, arms: dict[str, float], measured: dict[str, float], **changes: Any) -> list[Row]:
    """Five seeds of each arm, whose number is added to what is measured, and a little for the seed."""
    return [
        make_row(
            arm,
            seed,
            recipe=recipe,
            metrics={name: value + up + 0.1 * seed for name, value in measured.items()},
            **changes,
        )
        for arm, up in arms.items()
        for seed in range(5)
    ]


def test_the_readme_table_is_markdown_with_every_verdict(monkeypatch, ledger):
    monkeypatch.setattr(tables, "papers", papers_with_a_planned_one)
    text = tables.readme_table(ledger)
    counts, _, folded = text.partition("\n\n")
    lines = [line for line in folded.splitlines() if line.startswith("|")]
    found = judge_paper("hinton2015", ledger)
    judged = [each for each in found if each.verdict not in ("not run", "out of reach")]
    assert len(lines) == len(judged) + 2
    (counted,) = (line for line in counts.splitlines() if line.startswith("| Hinton et al. (2015) |"))
    for verdict in {each.verdict for each in found}:
        said = re.findall(rf"(\d+) {verdict}", counted)
        assert sum(map(int, said)) == sum(each.verdict == verdict for each in found)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines)
    for line, each in zip(lines[2:], judged, strict=True):
        assert line.startswith(f"| {each.claim.id}")
        assert line.endswith(f"| {each.verdict} |")
    for verdict, words in (
        ("not run", "Not run, not often enough yet, or not to be judged"),
        ("out of reach", "Out of reach, with"),
    ):
        names = ", ".join(each.claim.id for each in found if each.verdict == verdict)
        assert names
        assert re.search(rf"^{words}[^:]*: {names}\.$", text, flags=re.MULTILINE)
    # Markdown inside HTML wants an empty line before it.
    assert re.search(r"^<details>\n<summary>.*</summary>\n\n\|", folded)
    chapters = [each for each in papers_with_a_planned_one() if each.status != "planned"]
    assert folded.count("<details>") == folded.count("</details>") == len(chapters)
    assert text.endswith("\nKim & Rush (2016): not yet judged.\n")


def test_the_readme_table_tells_of_first_verdicts(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "papers", papers_with_a_planned_one)
    text = tables.readme_table(write_ledger(tmp_path, translation_rows("ende", seeds=5)))
    assert text.endswith("\nKim & Rush (2016): being recorded, first verdicts in its chapter.\n")


def test_a_difference_says_what_it_is_in():
    text = tables.readme_table(recorded())
    assert re.search(r"\| difference [-\d. ()to]+ test errors \| reproduced \|", text)
    assert re.search(r"\| difference [-\d. ()to]+ nats \| reproduced \|", text)
    assert re.search(r"\| difference [-\d. ()to]+ BLEU, greedy \| reproduced \|", text)
    # Compared with a number, a half of the pictures here, which a claim shows in percent; a speed with ten.
    assert re.search(r"^\| S21c .*\| 2\d[\d. ()to]+ % test errors \| reproduced \|", text, re.MULTILINE)
    assert re.search(r"^\| E3 .*\| 10[\d. ()to]+ times as fast \|", text, re.MULTILINE)
    # Of two metrics that are counted in one unit.
    assert re.search(r"^\| H9t .*\| difference [-\d. ()to]+ test errors \| reproduced \|", text, re.MULTILINE)


def test_similar_arms_of_which_one_is_better_are_said_to_be_both(tmp_path):
    (claim,) = (each for each in paper("zagoruyko2017").claims if each.id == "N1")
    arms = {"student_alone": 1400.0, "at_norm_0.1": 1390.0}
    rows = rows_of("attention_transfer", arms, {"test_errors": 0.0}, protocol="reduced")
    assert tables._we_find(judge(claim, rows)).endswith(" test errors; similar, but not the same")


def test_the_readme_table_without_rows_lists_what_is_not_run(empty):
    text = tables.readme_table(empty)
    assert "| claim |" not in text
    assert "with the reason in the chapter: H1, H2, H3" in text


def test_a_difference_says_its_metric_where_a_claim_compares_several():
    (claim,) = (each for each in paper("kim2016").claims if each.id == "E7")
    measured = {"test_perplexity": 8.0, "bleu_greedy": 20.0, "bleu_beam5": 21.0}
    rows = rows_of("sequence_kd", {"ende_student_alone": 0.0, "ende_seq_kd": 3.0}, measured)
    said = tables._we_find(judge(claim, rows))
    assert said.startswith("difference -3 (")
    assert said.endswith((" perplexity", " BLEU, greedy", " BLEU, beam of 5"))
    one = dataclasses.replace(claim, comparisons=claim.comparisons[:1])
    assert tables._we_find(judge(one, rows)).endswith(" perplexity")
