"""Tests of the HTML of the tables."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd

from kdrepro import tables


class Reader(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("img", "input", "br", "meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_show_gives_a_whole_table_with_its_classes(ledger):
    html = tables.show(tables.claim_table("hinton2015", ledger), "Claims & verdicts")
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    classes = [attributes.get("class") for _, attributes in reader.seen]
    assert "kdrepro-table kdrepro-stacked" in classes
    assert "verdict verdict-reproduced" in classes
    assert "verdict verdict-out-of-reach" in classes
    assert "Claims &amp; verdicts" in html
    assert html._repr_html_() == html
    assert len(repr(html)) < 50
    assert all("scope" in attributes for tag, attributes in reader.seen if tag == "th")


def test_show_escapes_and_aligns():
    frame = pd.DataFrame({"<b>": ["<script>x</script>"], "n": [3], "x": [0.25], "gone": [None], "on": [True]})
    html = tables.show(frame, '"quoted" <i>')
    assert "<script>" not in html
    assert "<b>" not in html
    assert 'aria-label="&quot;quoted&quot; &lt;i&gt;"' in html
    assert '<td class="number">3</td><td class="number">0.25</td><td>–</td><td>True</td>' in html
    assert "kdrepro-stacked" not in html
    reader = Reader()
    reader.feed(html)
    assert reader.open == []


def test_long_texts_carry_their_headings_and_break_where_they_can():
    frame = pd.DataFrame({"Claim": ["a"], 'Said "so"': ["long " * 20 + "a|b"], "n": [2]})
    html = tables.show(frame, "c")
    assert 'class="kdrepro-table kdrepro-stacked"' in html
    assert '<td data-label="Said &quot;so&quot;">long long' in html
    assert "a|<wbr>b</td>" in html
    assert '<td data-label="n" class="number">2</td>' in html


def test_numbers_are_set_as_in_print():
    frame = pd.DataFrame({"T": [1, 20], "at 95 %": ["3 ± 1 (2 runs)", "-2 (-3 to 5) %"], "x": [-0.5, 2]})
    html = tables.show(frame, "From -1 on")
    assert "<td>3\u00a0±\u00a01 (2\u00a0runs)</td>" in html
    assert "<td>−2 (−3 to 5)\u00a0%</td>" in html
    assert '<td class="number">−0.5</td>' in html
    assert "<caption>From −1 on</caption>" in html
    assert '<th scope="col" class="text">at 95\u00a0%</th>' in html


def test_what_heads_the_rows_stands_at_the_left_with_its_heading():
    html = tables.show(pd.DataFrame({"T": [1, 20], "n": [3, 4]}), "Numbers")
    assert '<th scope="col" class="text">T</th><th scope="col" class="number">n</th>' in html
    assert '<th scope="row">20</th>' in html


def test_a_word_that_is_no_verdict_is_not_coloured():
    html = tables.show(pd.DataFrame({"Claim": ["a"], "Verdict": ["splendid"]}), "c")
    assert "<td>splendid</td>" in html


def test_an_empty_table_says_so(empty):
    html = tables.show(tables.cost_table("hinton_kd", empty), "Cost")
    assert '<td colspan="6">not run yet</td>' in html
