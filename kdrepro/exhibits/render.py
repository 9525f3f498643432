"""Tables as HTML that is legible in light and dark pages, with or without the book's style sheet."""

from __future__ import annotations

import re
from html import escape
from numbers import Real

import pandas as pd

from kdrepro.judging.judgement import VERDICTS
from kdrepro.judging.wording import number

# Colours are mixed from the page's own, so that one rule serves light and dark.
_STYLE = """
.kdrepro-table-wrap{overflow-x:auto;margin:1em 0}
.kdrepro-table{border-collapse:collapse;width:100%;font-size:.9em;color:inherit;background:transparent}
.kdrepro-table caption{caption-side:top;text-align:left;font-weight:600;padding:.3em 0;color:inherit}
.kdrepro-table th,.kdrepro-table td{padding:.35em .6em;text-align:left;vertical-align:top;color:inherit;
background:transparent;border-bottom:1px solid rgba(128,128,128,.35)}
.kdrepro-table thead th{border-bottom:2px solid rgba(128,128,128,.8);vertical-align:bottom}
.kdrepro-table .wide{min-width:9em}
.kdrepro-table summary{cursor:pointer}
.kdrepro-table details[open]{min-width:12em}
.kdrepro-table .number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.verdict{display:inline-block;white-space:nowrap;padding:0 .5em;border-radius:.6em;color:inherit;
border:1px solid rgba(128,128,128,.6);background:rgba(128,128,128,.12)}
.verdict-reproduced{border-color:#009e73;background:rgba(0,158,115,.22)}
.verdict-direction-holds{border-color:#56b4e9;background:rgba(86,180,233,.22)}
.verdict-inconclusive{border-color:#e69f00;background:rgba(230,159,0,.2)}
.verdict-contradicted{border-color:#d55e00;background:rgba(213,94,0,.25)}
.verdict-not-run,.verdict-out-of-reach{border-style:dashed}
""".replace("\n", "")


class Html(str):
    """Text that a notebook shows as HTML."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<HTML of {len(self)} characters>"


def verdict_span(verdict: str) -> str:
    """A verdict with the classes that colour it.

    >>> verdict_span("direction holds")
    '<span class="verdict verdict-direction-holds">direction holds</span>'
    """
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{escape(verdict)}</span>'


def typeset(text: str) -> str:
    """Numbers as print has them: a minus that is no hyphen, no line break before a per cent, around a ± or in (1 run).

    >>> typeset("-0.5 (-1 to 0.1) %, T-20, 784-800"), typeset("3 ± 1")
    ('−0.5 (−1 to 0.1)\\xa0%, T-20, 784-800', '3\\xa0±\\xa01')
    """
    text = re.sub(r"(?<![\w.)-])-(?=[\d∞])|(?<=\d )-(?= \d)", "−", text)
    text = re.sub(r"(?<=[\d)]) %", "\u00a0%", text).replace(" ± ", "\u00a0±\u00a0")
    return re.sub(r"(?<=\(\d) (?=runs?\))", "\u00a0", text)


def _text(value: object) -> str:
    # What sacrebleu calls its signature is one long word without places to break it.
    return escape(typeset(str(value))).replace("|", "|<wbr>")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real)


def _cell(value: object, column: str, *, stacked: bool, reason: object = None) -> str:
    # The label takes the place of the heading where a page is narrow.
    label = f' data-label="{escape(column, quote=True)}"' if stacked else ""
    unfolds = f"<details><summary>why</summary>{_text(reason)}</details>" if reason is not None else ""
    if value is None or (isinstance(value, float) and value != value):
        return f"<td{label}>–{unfolds}</td>"
    if column.startswith("Verdict") and value in VERDICTS:
        return f"<td{label}>{verdict_span(str(value))}</td>"
    if not isinstance(value, bool) and isinstance(value, Real):
        return f'<td{label} class="number">{typeset(number(float(value)))}</td>'
    return f"<td{label}>{_text(value)}{unfolds}</td>"


def _width(values: pd.Series, *, heads: bool) -> str:
    """The class of a column: long texts get room, numbers stand at the right unless they head their rows."""
    if len(values) and not heads and all(_is_number(value) for value in values):
        return "number"
    return "wide" if any(len(str(value)) > 60 for value in values) else "text"


def show(frame: pd.DataFrame, caption: str) -> Html:
    """The frame as an HTML table with a caption; its index is left out, and all text is escaped.

    The first column heads its row. A column whose name begins with `Verdict` is coloured, and the text of one named
    `Because` unfolds below the row's `Statement`.
    """
    reasons: list[object] = [None] * len(frame)
    if {"Statement", "Because"} <= set(frame.columns):
        reasons, frame = list(frame["Because"]), frame.drop(columns="Because")
    columns = [str(column) for column in frame.columns]
    widths = [_width(frame.iloc[:, at], heads=at == 0) for at in range(len(columns))]
    # Long texts, whose columns the book's style sheet puts below one another where a page is narrow.
    stacked = "wide" in widths
    head = "".join(
        f'<th scope="col" class="{width}">{_text(column)}</th>'
        for width, column in zip(widths, columns, strict=True)
    )
    body = []
    for values, reason in zip(frame.itertuples(index=False, name=None), reasons, strict=True):
        first = f'<th scope="row">{_text(values[0])}</th>' if values else ""
        rest = "".join(
            _cell(value, column, stacked=stacked, reason=reason if column == "Statement" else None)
            for value, column in zip(values[1:], columns[1:], strict=True)
        )
        body.append(f"<tr>{first}{rest}</tr>")
    if not body:
        body.append(f'<tr><td colspan="{max(len(columns), 1)}">not run yet</td></tr>')
    label = escape(typeset(caption), quote=True)
    kind = " kdrepro-stacked" if stacked else ""
    return Html(
        f"<style>{_STYLE}</style>"
        f'<div class="kdrepro-table-wrap" role="region" aria-label="{label}" tabindex="0">'
        f'<table class="kdrepro-table{kind}"><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
