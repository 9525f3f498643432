"""The dashboard of the front page: each paper, and how many of its claims have which verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from html import escape

from kdrepro.claims import Paper, papers
from kdrepro.judgement import VERDICTS, Judgement, unfinished
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper


def dashboard(ledger: Ledger, *, chapters: Collection[str]) -> str:
    """The verdicts on the claims of all papers as an HTML table; a paper that has a chapter links to it."""
    rows = "".join(_row(each, judge_paper(each.key, ledger), chapters) for each in papers())
    return (
        '<div class="kdrepro-table-wrap" role="region" aria-label="Verdicts by paper" tabindex="0">'
        '<table class="kdrepro-table kdrepro-dashboard kdrepro-stacked"><thead><tr><th scope="col">Paper</th>'
        '<th scope="col">Its claims</th><th scope="col">Our stand-ins and additions</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(paper: Paper, judgements: list[Judgement], chapters: Collection[str]) -> str:
    name = escape(paper.cited_as)
    if paper.notebook in chapters:
        name = f'<a href="../notebooks/{escape(paper.notebook)}.html">{name}</a>'
    head = f'<th scope="row">{name}<span class="kdrepro-title">{escape(paper.title)}</span></th>'
    if paper.status == "planned":
        return f'<tr>{head}<td colspan="2" class="kdrepro-planned">{escape(unfinished(judgements))}</td></tr>'
    own = _counts(each for each in judgements if not each.claim.ours)
    ours = _counts(each for each in judgements if each.claim.ours)
    # The labels take the place of the headings where the columns are stacked.
    return f'<tr>{head}<td data-label="Its claims">{own}</td><td data-label="Ours">{ours}</td></tr>'


def _counts(judgements: Iterable[Judgement]) -> str:
    found = Counter(each.verdict for each in judgements)
    pills = (
        f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{found[verdict]} {verdict}</span>'
        for verdict in VERDICTS
        if found[verdict]
    )
    return " ".join(pills) or "–"
