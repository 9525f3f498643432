"""What is measured on sentences and on sequences of phonemes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from kdrepro import checks

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU


class Bleu(NamedTuple):
    """A BLEU score, from 0 to 100, and the signature that says how sacrebleu counted it."""

    score: float
    signature: str


@cache
def _counted(*, effective_order: bool) -> BLEU:
    # Loaded when it is needed: importing it takes a second.
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=effective_order)


def _one_each(hypotheses: Sequence[Any], references: Sequence[Any]) -> None:
    for name, values in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(values, str):
            raise TypeError(f"{name}: got one text, expected a list with one of each sentence")
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"hypotheses: got {len(hypotheses)} of them, expected one for each of the {len(references)} references, "
            "and at least one"
        )


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """Return the BLEU of translations, as sacrebleu counts it, case and punctuation included.

    Both are plain text, with punctuation where it usually stands: the references as they were published, the
    hypotheses put together by `data.text.sentence`. sacrebleu cuts both into words in its own way, so scores do not
    depend on the words of the model (Post 2018, A call for clarity in reporting BLEU scores). Those of the multi-bleu
    script, which Kim & Rush (2016) used, do: they compare within a paper only.

    >>> score, signature = bleu(["A dog runs on the grass."], ["A dog runs on the green grass."])
    >>> round(score, 1), signature.split("|version")[0]
    (61.3, 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp')
    """
    _one_each(hypotheses, references)
    metric = _counted(effective_order=False)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Return the smoothed BLEU of one sentence, from 0 to 100, which is 0 for no word in common only.

    It chooses the hypothesis nearest to the reference in sequence-level interpolation (Kim & Rush 2016, section 3.3).
    Of the ways of smoothing that Chen & Cherry (2014) compare it is the one that sacrebleu takes for sentences: where
    n-grams of a length have no match, half a match is counted, for the next such length a quarter, and so on; lengths
    that the hypothesis does not have are left out.
    """
    for name, value in (("hypothesis", hypothesis), ("reference", reference)):
        if not isinstance(value, str):
            raise TypeError(f"{name}: got {type(value).__name__}, expected one text")
    return float(_counted(effective_order=True).sentence_score(hypothesis, [reference]).score)


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many insertions, deletions and substitutions at least make `other` of `one` (Levenshtein).

    >>> edit_distance("N AY T".split(), "K N IH T".split())
    2
    """
    distances = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        diagonal, distances[0] = distances[0], row
        for column, right in enumerate(other, start=1):
            substituted = diagonal + (left != right)
            diagonal = distances[column]
            distances[column] = min(substituted, diagonal + 1, distances[column - 1] + 1)
    return distances[-1]


def phoneme_error_rate(hypotheses: Sequence[Sequence[Any]], references: Sequence[Sequence[Any]]) -> float:
    """Return the edits that all hypotheses need, per phoneme of the references: 0 is perfect, above 1 is possible.

    Sum over words of `edit_distance`, divided by the sum of the references' lengths: long words count for more.
    Raises `TypeError` for texts, which would be compared by letter, `ValueError` for references without a phoneme.
    """
    _one_each(hypotheses, references)
    for name, values in (("hypotheses", hypotheses), ("references", references)):
        if any(isinstance(value, str) for value in values):
            raise TypeError(f"{name}: got texts, expected lists of phonemes, such as ['N', 'IY']")
    length = sum(len(reference) for reference in references)
    if length == 0:
        raise ValueError("references: got no phoneme, expected at least one")
    return sum(edit_distance(*pair) for pair in zip(hypotheses, references, strict=True)) / length


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """Return exp(−log p / tokens) of all sentences together, given the sum of −log p, in nats, and how many tokens.

    The end of a sentence is a token, padding is not. Infinite where exp overflows.
    """
    total = checks.positive("negative_log_likelihood", negative_log_likelihood, or_zero=True)
    mean = total / checks.whole("tokens", tokens, least=1)
    return math.exp(mean) if mean < 700 else math.inf


def mode_mass(log_probs: Sequence[float]) -> float:
    """Return the mean over sentences of p(ŷ | source), given log p of each one's best hypothesis ŷ, in nats.

    Kim & Rush (2016), Table 1: how much of what a model thinks possible its most probable translation is, where beam
    search stands in for the search of it. The mean is of the probabilities, so peaked sentences count for most.
    Raises `ValueError` for none, or for a logarithm that is none of a probability.
    """
    if len(log_probs) == 0:
        raise ValueError("log_probs: got none, expected one for each sentence")
    # A sum of logarithms in float32 can end a little above 0.
    wrong = [value for value in log_probs if not value <= 1e-3]
    if wrong:
        raise ValueError(f"log_probs: got {wrong[0]!r}, expected logarithms of probabilities, 0 or less")
    return math.fsum(min(1.0, math.exp(value)) for value in log_probs) / len(log_probs)
