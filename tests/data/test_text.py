"""Words and vocabularies: cut by the rule, put together again, and numbered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro.data.text import SPECIAL, Vocabulary, check_same, sentence, words
from kdrepro.types import END, PAD, START, UNKNOWN

# -- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's T-shirt.", "A|man|'s|T-shirt|."),
        ("They're off, aren't they?", "They|'re|off|,|aren|'t|they|?"),
        ("Zwei junge weiße Männer", "Zwei|junge|weiße|Männer"),
        ("Ess- und Wohnzimmer", "Ess-|und|Wohnzimmer"),
        ("ein Schwarz-Weiß-Foto", "ein|Schwarz-Weiß-Foto"),
        ("L'homme d’un âge aujourd'hui", "L'|homme|d’|un|âge|aujourd'hui"),
        ("„Halt“, sagt er – laut …", "„|Halt|“|,|sagt|er|–|laut|…"),
        ('the "big" one (left)', 'the|"|big|"|one|(|left|)'),
        ("1,000 of 2.5 m, 50%", "1,000|of|2.5|m|,|50|%"),
        ("  spaces\tand\u00a0more  ", "spaces|and|more"),
        ("Ma\u0308nner", "Männer"),
        ("हिन्दी में", "हिन्दी|में"),
        ("a b - c", "a|b|-|c"),
        ("k n e e", "k|n|e|e"),
        ("", ""),
    ],
)
def test_words_are_cut_by_the_rule(text, expected):
    assert words(text) == [word for word in expected.split("|") if word]


@given(st.text())
def test_no_letter_is_lost_and_no_space_is_kept(text):
    import unicodedata

    cut = words(text)
    assert "".join(cut) == "".join(unicodedata.normalize("NFC", text).split())
    assert all(word and not any(letter.isspace() for letter in word) for word in cut)


@pytest.mark.parametrize(
    "text",
    [
        "A man's T-shirt, 1.5 m long (and red).",
        "They're off, aren't they?",
        'A "big" dog and a "small" one.',
        "Er sagt: „Halt“, und geht.",
        "He says “stop” and goes; then 50% stop!",
        "He read “Home” and “Garden”, and again “Home”.",
        "The boys' dog",
        "L'homme d’un âge aujourd'hui",
        "Ess- und Wohnzimmer – groß",
        "k n e e",
        "",
    ],
)
def test_words_are_put_together_as_they_were(text):
    assert sentence(words(text)) == text


@given(
    st.lists(st.sampled_from(["a", "dog", "'s", "l'", "don", "'t", ".", ",", '"', "„", "“", "(", ")", "-"]))
)
def test_putting_together_keeps_the_letters_in_their_order(several):
    assert sentence(several).replace(" ", "") == "".join(several)


# -- vocabularies


def test_a_vocabulary_starts_with_the_four_and_has_the_frequent_words_first():
    vocabulary = Vocabulary.from_texts(["a dog a cat", "a dog b", "bird"], at_least=1)
    assert vocabulary.words == (*SPECIAL, "a", "dog", "b", "bird", "cat")
    assert len(vocabulary) == 9
    assert [SPECIAL[number] for number in (PAD, START, END, UNKNOWN)] == ["<pad>", "<s>", "</s>", "⁇"]


def test_rare_words_and_those_beyond_the_most_are_left_out():
    texts = ["a a a b b c c d"]
    assert Vocabulary.from_texts(texts, at_least=2).words[4:] == ("a", "b", "c")
    assert Vocabulary.from_texts(texts, most=2).words[4:] == ("a", "b")
    assert Vocabulary.from_texts(texts, most=3, at_least=3).words[4:] == ("a",)


def test_the_order_of_the_texts_does_not_matter():
    texts = ["a dog runs", "a cat sleeps", "the dog sleeps"]
    one, other = Vocabulary.from_texts(texts), Vocabulary.from_texts(texts[::-1])
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest


def test_another_order_or_another_word_is_another_vocabulary():
    digests = {Vocabulary(each).digest for each in (["a", "b"], ["b", "a"], ["ab"], ["a", "c"])}
    assert len(digests) == 4
    assert Vocabulary(["a", "b"]) != Vocabulary(["b", "a"])
    assert Vocabulary(["a"]) != SPECIAL


def test_known_words_come_back_and_unknown_ones_as_the_sign_for_them():
    vocabulary = Vocabulary(["a", "dog"])
    assert vocabulary.encode(["a", "cat", "dog"]) == [4, UNKNOWN, 5]
    assert vocabulary.decode([4, UNKNOWN, 5]) == ["a", "⁇", "dog"]
    assert vocabulary.decode([START, 4, PAD, 5, END, 4, PAD]) == ["a", "dog"]


def test_text_that_writes_the_special_words_out_does_not_get_their_numbers():
    text = "<pad> <s> </s> ⁇ a"
    vocabulary = Vocabulary.from_texts([text])
    numbers = vocabulary.encode(words(text))
    assert min(numbers) == UNKNOWN
    assert numbers.count(UNKNOWN) == 1


@pytest.mark.parametrize("number", [-1, 6])
def test_a_number_that_no_word_has_is_refused(number):
    with pytest.raises(ValueError, match=f"numbers: got {number}, expected 0 to 5"):
        Vocabulary(["a", "dog"]).decode([4, number])


@pytest.mark.parametrize(
    ("given_words", "message"),
    [
        (["a", "b", "a"], "words: got 'a' 2 times"),
        (["<s>"], "words: got '<s>' 2 times"),
        (["a", ""], "words: got an empty one"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(given_words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(given_words)


def test_a_vocabulary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="texts: got no word that is there 2 times or more"):
        Vocabulary.from_texts(["a b c"], at_least=2)


def test_equal_vocabularies_pass_and_others_are_told_apart_by_the_first_difference():
    check_same(Vocabulary(["a", "b"]), Vocabulary(["a", "b"]))
    with pytest.raises(
        ValueError, match=r"target vocabulary: got 6 words .* 6 .*, of which 5 is 'c' and 'b'"
    ):
        check_same(Vocabulary(["a", "c"]), Vocabulary(["a", "b"]))
    with pytest.raises(
        ValueError, match=r"source vocabulary: got 5 words for the student and 6 for the teacher, exp"
    ):
        check_same(Vocabulary(["a"]), Vocabulary(["a", "b"]), side="source")
