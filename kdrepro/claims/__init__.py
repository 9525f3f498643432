"""What each paper claims and the rule that judges each claim, from the TOML files beside this module."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kdrepro import checks
from kdrepro.claims.model import Claim, Comparison, Deviation, Fixed, Paper, Side
from kdrepro.claims.reading import CHECKED, KINDS, STATUSES, read_paper

__all__ = [
    "CHECKED",
    "CLAIMS",
    "KINDS",
    "STATUSES",
    "Claim",
    "Comparison",
    "Deviation",
    "Fixed",
    "Paper",
    "Side",
    "paper",
    "papers",
    "read_paper",
]

CLAIMS = Path(__file__).parent


@cache
def papers() -> tuple[Paper, ...]:
    """All papers, in reading order."""
    return tuple(sorted((read_paper(file) for file in CLAIMS.glob("*.toml")), key=lambda each: each.position))


def paper(key: str) -> Paper:
    """The paper of a key such as `hinton2015`; a wrong key gets a ValueError that lists the right ones."""
    there = {each.key: each for each in papers()}
    return there[checks.choice("paper", key, there)]
