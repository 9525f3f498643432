"""What the headers of the recipes say of cost and evidence is what the recorded rows say."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from kdrepro import recipes, tables
from kdrepro.claims import papers
from kdrepro.ledger import recorded

JUDGED = [found.recipe for found in papers() if found.status == "judged"]
EVIDENCE = re.compile(r"([\w.]+) (\d[\d.]* ± \d[\d.]*)")


def header(name: str) -> str:
    """The docstring of a recipe in one line."""
    return " ".join(str(import_module(f"{recipes.__name__}.{name}").__doc__).split())


def protocols(name: str) -> list[str]:
    """The protocols at which a recipe has recorded runs."""
    return sorted({row.protocol for row in recorded().rows(recipe=name)})


@pytest.mark.parametrize("name", JUDGED)
def test_the_evidence_is_that_of_the_rows(name):
    said = EVIDENCE.findall(header(name))
    assert len(said) >= 3
    metric = "bleu_beam5" if name == "sequence_kd" else "test_errors"
    for arm, mean in said:
        found = [
            tables.result_table(name, recorded(), [arm], [metric], protocol=protocol).iloc[0]
            for protocol in protocols(name)
        ]
        (row,) = (each for each in found if each["Seeds"])
        assert row[metric] == mean, arm
        # The number of seeds stands behind it, or before a list of arms that have as many.
        behind = f"{arm} {mean} (n = {row['Seeds']})"
        assert behind in header(name) or f"n = {row['Seeds']}:" in header(name), arm


@pytest.mark.parametrize("name", JUDGED)
def test_the_costs_and_commits_are_those_of_the_rows(name):
    for protocol in protocols(name):
        said = tables.cost_words(name, recorded(), protocol)
        assert said.removeprefix(f"At protocol {protocol} ").removesuffix(".") in header(name)
    commits = {str(row.commit)[:7] for row in recorded().rows(recipe=name)}
    assert {commit for commit in commits if commit not in header(name)} == set()
