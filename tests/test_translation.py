"""What is measured of a translator on a test set."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from kdrepro import devices
from kdrepro.data.parallel import EncodedText, ParallelText
from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.text_metrics import bleu
from kdrepro.translation import TranslationTest

PAIRS = [
    (f"the {one} {two}", f"der {one} {two} da") for one in ("dog", "cat") for two in ("ran", "sat", "ate")
]
TEXT = EncodedText.of(ParallelText("pairs", "sha256:0", PAIRS, [], PAIRS[:4]))


def net(seed: int) -> LSTMSeq2Seq:
    torch.manual_seed(seed)
    return LSTMSeq2Seq(len(TEXT.source), len(TEXT.target), hidden=8, layers=1, dropout=0.5)


def case(**changes) -> TranslationTest:
    given = {"width": 3, "max_length": 6, "device": torch.device("cpu"), "precision": "fp32"}
    return TranslationTest(TEXT, **(given | changes))


def test_the_numbers_of_a_text_are_those_of_its_words():
    assert TEXT.written(TEXT.targets[0]) == PAIRS[0][1]
    assert [len(each) for each in (TEXT.sources, TEXT.targets, TEXT.test_sources)] == [6, 6, 4]
    assert EncodedText.of(TEXT.data, at_least=4).target.words[4:] == ("da", "der")


def test_bleu_perplexity_and_mode_mass_are_those_of_the_net():
    model = net(0)
    found = case().measure(model)
    references = [target for _, target in PAIRS[:4]]
    ways = {
        "greedy": greedy(model, TEXT.test_sources, max_length=6),
        "beam3": [each[0] for each in beam_search(model, TEXT.test_sources, width=3, max_length=6)],
    }
    for name, translations in ways.items():
        written = [TEXT.written(each.tokens) for each in translations]
        assert found[f"bleu_{name}"] == pytest.approx(bleu(written, references).score)
    mass = sum(math.exp(each.log_prob) for each in ways["beam3"]) / 4
    assert found["mode_mass"] == pytest.approx(mass)
    assert found["mode_odds"] == pytest.approx(mass / (1 - mass))
    assert found["mode_odds_tenth"] == pytest.approx(mass / (1 - mass) / 10)
    assert found["beam_gain"] == pytest.approx(found["bleu_beam3"] - found["bleu_greedy"])
    assert found["bleu_greedy_missing"] == pytest.approx(100 - found["bleu_greedy"])
    total, count = 0.0, 0
    model.eval()
    for source, target in zip(TEXT.test_sources, TEXT.test_targets, strict=True):
        ends = torch.tensor([*target, 2])
        with torch.no_grad():
            logits = model(torch.tensor([source]), torch.tensor([[1, *target]]))[0]
        total += float(cross_entropy(logits, ends, reduction="sum"))
        count += len(ends)
    assert found["test_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_samples_are_what_the_net_writes():
    model = net(0)
    said = case().samples(model)
    assert said["source"] == [source for source, _ in PAIRS[:4]]
    assert said["reference"] == [target for _, target in PAIRS[:4]]
    written = greedy(model, TEXT.test_sources, max_length=6)
    assert said["greedy"] == [TEXT.written(each.tokens) for each in written]
    (beam,) = beam_search(model, TEXT.test_sources[:1], width=3, n_best=3, max_length=6)
    assert said["n_best"] == [TEXT.written(each.tokens) for each in beam]
    assert said["n_best"][0] == said["beam3"][0]
    for text, each in zip(said["n_best_probability"], beam, strict=True):
        assert float(text) == pytest.approx(math.exp(each.log_prob), rel=0.01)


def test_the_shares_by_mode_mass_are_those_of_the_beam():
    found = case().measure(net(0))
    shares = [value for name, value in found.items() if name.startswith("mode_mass_share_")]
    assert len(shares) == 8
    assert sum(shares) == pytest.approx(1)


def test_what_compares_with_the_teacher_needs_one():
    alone, taught, itself = (case().measure(net(0), teacher) for teacher in (None, net(1), net(0)))
    compared = {"teacher_agreement", "speedup_over_teacher_greedy", "speedup_over_teacher_beam3"}
    assert set(taught) - set(alone) == compared
    assert itself["teacher_agreement"] == 1
    assert 0 <= taught["teacher_agreement"] < 1
    assert all(value > 0 for name, value in taught.items() if "second" in name or "speedup" in name)


def test_speeds_are_ratios_of_one_run(monkeypatch):
    """With a clock that goes on by one second for each look, a way takes a second whatever it does."""
    ticks = iter(range(1000))
    monkeypatch.setattr("kdrepro.translation.time.perf_counter", lambda: float(next(ticks)))
    model = net(0)
    found = case()._speed(model, net(1))
    written = {
        # A net that writes nothing counts as one word.
        name: max(1, sum(len(each.tokens) for each in way(each_net, TEXT.test_sources)))
        for name, way, each_net in (
            ("greedy", case().greedy, model),
            ("beam3", case().beam, model),
            ("teacher", case().beam, net(1)),
        )
    }
    assert found["words_per_second_greedy"] == written["greedy"]
    assert found["greedy_speedup"] == pytest.approx(written["greedy"] / written["beam3"])
    assert found["speedup_over_teacher_beam3"] == pytest.approx(written["greedy"] / written["teacher"])


def test_the_speed_is_that_of_a_cpu_whatever_the_device(monkeypatch):
    seen = set()

    def written(test, model, sources):
        seen.add((test.device.type, test.precision, next(model.parameters()).device.type))
        return []

    monkeypatch.setattr(TranslationTest, "greedy", written)
    monkeypatch.setattr(TranslationTest, "beam", written)
    case(device=torch.device("meta"), precision="fp32")._speed(net(0), net(1))
    assert seen == {("cpu", devices.precision_for("auto", torch.device("cpu")), "cpu")}


def test_sounds_are_counted_by_their_edits():
    model = net(0)
    found = case(phonemes=True).measure(model)
    assert not any("bleu" in name or name == "beam_gain" for name in found)
    written = [TEXT.target.decode(each.tokens) for each in greedy(model, TEXT.test_sources, max_length=6)]
    right = sum(one == target.split() for one, (_, target) in zip(written, PAIRS[:4], strict=True))
    assert found["word_accuracy_greedy"] == right / 4
    assert found["phoneme_error_rate_greedy"] > 0


def test_the_net_is_measured_without_dropout():
    model = net(0).train()
    one, two = (case().measure(model)["test_perplexity"] for _ in range(2))
    assert one == two


UNEVEN = [
    ("the dog", "der"),
    ("a cat ran", "eine katze lief davon da"),
    ("the cat", "die katze"),
    ("a dog sat", "der sass da"),
]


def test_padding_counts_neither_in_the_perplexity_nor_in_the_agreement():
    text = EncodedText.of(ParallelText("uneven", "sha256:0", UNEVEN, [], UNEVEN))
    measured = TranslationTest(text, width=3, max_length=6, device=torch.device("cpu"), precision="fp32")
    for seed in range(1, 9):
        nets = [uneven_net(text, 0), uneven_net(text, seed)]
        found, total, agreed = measured._likelihood(*nets), 0.0, []
        for source, target in zip(text.test_sources, text.test_targets, strict=True):
            given = torch.tensor([source]), torch.tensor([[1, *target]])
            with torch.no_grad():
                own, other = (each(*given)[0] for each in nets)
            total += float(cross_entropy(own, torch.tensor([*target, 2]), reduction="sum"))
            agreed += (own.argmax(-1) == other.argmax(-1)).tolist()
        assert found["test_perplexity"] == pytest.approx(math.exp(total / len(agreed)), rel=1e-4)
        assert found["teacher_agreement"] == pytest.approx(sum(agreed) / len(agreed))


def uneven_net(text: EncodedText, seed: int) -> LSTMSeq2Seq:
    torch.manual_seed(seed)
    made = LSTMSeq2Seq(len(text.source), len(text.target), hidden=8, layers=1, dropout=0.0).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(8.0)  # or it says one word throughout
    return made


def test_shares_are_those_of_the_beam_and_greedy_has_a_mass_of_its_own(monkeypatch):
    for name, mass in (("greedy", 0.002), ("beam", 0.5)):
        said = [Hypothesis([4], math.log(mass), True)] * 4
        monkeypatch.setattr(TranslationTest, name, lambda its, model, sources, said=said: said)
    monkeypatch.setattr(TranslationTest, "_speed", lambda *_: {})
    found = case().measure(net(0))
    assert found["mode_mass_share_7"] == 1
    assert (found["mode_mass_greedy"], found["mode_mass"]) == pytest.approx((0.002, 0.5))
