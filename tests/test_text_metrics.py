"""What is measured on text, against sacrebleu's own functions, loops and numbers worked out by hand."""

import functools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from kdrepro import text_metrics

REFERENCES = [
    "A man in an orange hat is staring at something.",
    "A Boston Terrier runs on lush green grass in front of a white fence.",
    "Two women talk.",
]
HYPOTHESES = [
    "A man with an orange hat starring at something.",
    "A Boston Terrier is running over green grass in front of a fence.",
    "Two women are talking.",
]


def bleu_by_hand(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    """Papineni et al. (2002), sections 2.2 and 2.3, for text that is cut already."""
    precisions = []
    for order in range(1, 5):
        matched = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            grams = [
                Counter(tuple(each[place : place + order]) for place in range(len(each) - order + 1))
                for each in (hypothesis, reference)
            ]
            matched += sum(min(count, grams[1][gram]) for gram, count in grams[0].items())
            total += sum(grams[0].values())
        precisions.append(matched / total)
    length, wanted = sum(map(len, hypotheses)), sum(map(len, references))
    brevity = 1.0 if length > wanted else math.exp(1 - wanted / length)
    return 100 * brevity * math.exp(sum(map(math.log, precisions)) / 4)


def cut(text: str) -> list[str]:
    return text.replace(".", " .").split()


def test_bleu_is_that_of_the_paper_and_of_sacrebleu():
    found = text_metrics.bleu(HYPOTHESES, REFERENCES)
    assert found.score == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert found.score == pytest.approx(bleu_by_hand(list(map(cut, HYPOTHESES)), list(map(cut, REFERENCES))))


def test_its_signature_says_how_it_was_counted():
    signature = text_metrics.bleu(HYPOTHESES, REFERENCES).signature
    assert signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_bleu_of_the_reference_is_100_and_case_counts():
    assert text_metrics.bleu(REFERENCES, REFERENCES).score == pytest.approx(100)
    assert text_metrics.bleu([text.upper() for text in REFERENCES], REFERENCES).score < 10


def test_bleu_does_not_depend_on_the_order_of_the_sentences():
    assert text_metrics.bleu(HYPOTHESES[::-1], REFERENCES[::-1]) == text_metrics.bleu(HYPOTHESES, REFERENCES)


def test_an_unknown_word_is_one_wrong_word():
    for sign, count in (("⁇", 4), ("<unk>", 6)):
        assert len(sacrebleu.tokenizers.tokenizer_13a.Tokenizer13a()(f"A dog {sign}.").split()) == count


def smoothed_by_hand(hypothesis: list[str], reference: list[str]) -> float:
    logs, halvings = [], 0
    for order in range(1, 5):
        grams = [
            Counter(tuple(each[place : place + order]) for place in range(len(each) - order + 1))
            for each in (hypothesis, reference)
        ]
        total = sum(grams[0].values())
        matched = sum(min(count, grams[1][gram]) for gram, count in grams[0].items())
        if order == 1 and matched == 0:
            return 0.0
        if total == 0:
            break
        if matched == 0:
            halvings += 1
            matched = 0.5**halvings
        logs.append(math.log(matched / total))
    brevity = min(1.0, math.exp(1 - len(reference) / len(hypothesis)))
    return 100 * brevity * math.exp(sum(logs) / len(logs))


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9),
    st.lists(st.sampled_from("abcdef"), min_size=1),
)
def test_sentence_bleu_is_that_of_a_loop(hypothesis, reference):
    found = text_metrics.sentence_bleu(" ".join(hypothesis), " ".join(reference))
    assert found == pytest.approx(smoothed_by_hand(hypothesis, reference))


def test_sentence_bleu_tells_hypotheses_apart_that_match_in_single_words_only():
    reference = "A dog runs over the green grass."
    ranked = ["A dog runs over the grass.", "The dog ran over grass.", "A cat.", "Two women"]
    scores = [text_metrics.sentence_bleu(each, reference) for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
    assert scores[-1] == 0


def naive_distance(one: tuple, other: tuple) -> int:
    @functools.cache
    def distance(left: int, right: int) -> int:
        if left == 0 or right == 0:
            return left + right
        return min(
            distance(left - 1, right) + 1,
            distance(left, right - 1) + 1,
            distance(left - 1, right - 1) + (one[left - 1] != other[right - 1]),
        )

    return distance(len(one), len(other))


PHONEMES = st.lists(st.sampled_from(["AH", "B", "K", "IY"]), max_size=7)


@given(PHONEMES, PHONEMES)
def test_the_distance_is_that_of_the_recursion_and_a_distance(one, other):
    found = text_metrics.edit_distance(one, other)
    assert found == naive_distance(tuple(one), tuple(other)) == text_metrics.edit_distance(other, one)
    assert (found == 0) == (one == other)
    assert abs(len(one) - len(other)) <= found <= max(len(one), len(other))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_distances_that_are_known(one, other, expected):
    assert text_metrics.edit_distance(one, other) == expected


def test_phoneme_error_rate_is_all_edits_over_all_phonemes():
    chance = random.Random(0)
    sides = [
        [[chance.choice("ABCD") for _ in range(chance.randint(1, 8))] for _ in range(50)] for _ in range(2)
    ]
    edits = sum(naive_distance(tuple(one), tuple(other)) for one, other in zip(*sides, strict=True))
    assert text_metrics.phoneme_error_rate(*sides) == pytest.approx(edits / sum(map(len, sides[1])))
    assert text_metrics.phoneme_error_rate(sides[1], sides[1]) == 0
    # Not the mean of each word's rate, which is 1/2 here.
    assert text_metrics.phoneme_error_rate([["X"], list("abc")], [["A"], list("abc")]) == pytest.approx(1 / 4)
    assert text_metrics.phoneme_error_rate([list("abcd")], [["x"]]) == 4
    assert text_metrics.phoneme_error_rate([[], [7, 8]], [[7], [7, 8]]) == pytest.approx(1 / 3)


def test_perplexity_is_the_exponential_of_the_mean():
    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 9
    total = cross_entropy(logits, targets, reduction="sum").item()
    expected = cross_entropy(logits, targets).exp().item()
    assert text_metrics.perplexity(total, 40) == pytest.approx(expected, rel=1e-5)
    # A model that knows nothing is as perplexed as there are words.
    assert text_metrics.perplexity(17 * math.log(9), 17) == pytest.approx(9)
    assert text_metrics.perplexity(0, 3) == 1
    assert text_metrics.perplexity(1e9, 3) == math.inf


def test_mode_mass_is_the_mean_of_probabilities_not_of_their_logarithms():
    assert text_metrics.mode_mass([math.log(0.5), math.log(0.1)]) == pytest.approx(0.3)
    assert text_metrics.mode_mass([-1000.0, 0.0]) == pytest.approx(0.5)
    assert text_metrics.mode_mass([1e-6]) == 1
    assert text_metrics.mode_mass([-math.inf]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: text_metrics.bleu([], []),
            ValueError,
            "hypotheses: got 0 of them, expected one for each of the 0",
        ),
        (
            lambda: text_metrics.bleu(["a"], ["a", "b"]),
            ValueError,
            "hypotheses: got 1 of them, .* the 2 references",
        ),
        (lambda: text_metrics.bleu("a", ["a"]), TypeError, "hypotheses: got one text"),
        (
            lambda: text_metrics.sentence_bleu(["a"], "a"),
            TypeError,
            "hypothesis: got list, expected one text",
        ),
        (lambda: text_metrics.phoneme_error_rate(["N IY"], [["N"]]), TypeError, "hypotheses: got texts"),
        (lambda: text_metrics.phoneme_error_rate([["N"]], ["N"]), TypeError, "references: got texts"),
        (lambda: text_metrics.phoneme_error_rate([[]], [[]]), ValueError, "references: got no phoneme"),
        (lambda: text_metrics.perplexity(-1.0, 3), ValueError, "negative_log_likelihood: got -1.0"),
        (lambda: text_metrics.perplexity(float("nan"), 3), ValueError, "negative_log_likelihood: got nan"),
        (lambda: text_metrics.perplexity(1.0, 0), ValueError, "tokens: got 0"),
        (lambda: text_metrics.mode_mass([]), ValueError, "log_probs: got none"),
        (lambda: text_metrics.mode_mass([-1.0, 0.5]), ValueError, "log_probs: got 0.5, expected logarithms"),
        (lambda: text_metrics.mode_mass([float("nan")]), ValueError, "log_probs: got nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_sacrebleu_is_loaded_only_when_it_is_asked_for():
    code = "import sys, kdrepro.text_metrics as each; assert 'sacrebleu' not in sys.modules; each.bleu(['a'], ['a'])"
    subprocess.run([sys.executable, "-c", code], check=True)
