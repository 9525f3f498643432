"""A translator asked once for all: what is looked up is what it would have said."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from cached_teachers import SETTINGS, batches, cached, net

from kdrepro import Batches, cache_teacher, fit
from kdrepro.caching import CachedTranslator
from kdrepro.data.text import SentenceBatches
from kdrepro.methods.sequence_kd import WordLevelKD
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.teacher import FrozenTeacher

CHANCE = random.Random(0)
SOURCES = [[CHANCE.randrange(4, 12) for _ in range(CHANCE.randrange(1, 7))] for _ in range(23)]
SENTENCES = [[CHANCE.randrange(4, 10) for _ in range(CHANCE.randrange(0, 6))] for _ in range(23)]


def sentences(**changes) -> SentenceBatches:
    settings = {"sources": SOURCES, "targets": SENTENCES, "batch_size": 4, "seed": 3} | changes
    return SentenceBatches(**settings)


def translator(seed: int) -> LSTMSeq2Seq:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LSTMSeq2Seq(12, 10, hidden=8, layers=1, dropout=0.5)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_translators_logits_are_looked_up_by_the_pairs_positions(epoch):
    found = cache_teacher(translator(0), sentences(), **SETTINGS)
    assert found.logits.shape == (sum(len(each) + 1 for each in SENTENCES), 10)
    asked = FrozenTeacher(translator(0))
    for part in sentences(seed=5).epoch(epoch):
        one, other = found.look_up(part).logits, asked(part.inputs).logits
        assert one.shape == other.shape
        torch.testing.assert_close(one[part.mask], other[part.mask])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory is in use")
def test_the_memory_of_a_translators_logits_goes_back_where_freed_memory_is_kept():
    program = """
import resource, torch
from pathlib import Path
from kdrepro.caching import _outside_the_heap
from kdrepro.devices import keep_freed_memory

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

assert keep_freed_memory()
before = pages()
for make in (_outside_the_heap, lambda shape, like: like.new_empty(shape)):
    room = make((1000, 50_000), like=torch.ones(1, dtype=torch.bfloat16)).fill_(1.5)
    during, right = pages() - before, bool((room[::100] == 1.5).all())
    del room
    print(right, during > 80, pages() - before < 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # The second is the allocator's own, which keeps it: without that the first would prove nothing.
    assert done.stdout.split() == ["True", "True", "True", "True", "True", "False"], done.stderr


def test_a_cached_translator_knows_whose_it_is_and_an_ensemble_at_which_temperature():
    found = [cache_teacher(translator(seed), sentences(), **SETTINGS) for seed in (0, 0, 1)]
    assert found[0].teacher == found[1].teacher != found[2].teacher
    assert found[0].to("cpu").teacher == found[0].teacher
    assert found[0].temperature is None
    crowd = FrozenTeacher([translator(0), translator(1)])
    averaged = cache_teacher(crowd, sentences(), temperature=3.0, **SETTINGS)
    assert averaged.temperature == averaged.to("cpu").temperature == 3.0
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, **SETTINGS}
    with pytest.raises(ValueError, match="cached at temperature 3, expected 1"):
        fit(translator(2), WordLevelKD(soft_weight=0.5), sentences(), teacher=averaged, **options)


def test_a_student_of_a_cached_translator_learns_what_the_teacher_itself_would_teach():
    taught = {}
    for name, teacher in {
        "asked": translator(0),
        "cached": cache_teacher(translator(0), sentences(), **SETTINGS),
    }.items():
        student = translator(1)
        history = fit(
            student,
            WordLevelKD(soft_weight=0.5),
            sentences(),
            teacher=teacher,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
            epochs=3,
            **SETTINGS,
        )
        taught[name] = student, history.curves
    for name, curve in taught["asked"][1].items():
        assert taught["cached"][1][name] == pytest.approx(curve, rel=1e-5), name
    # In the first epoch the batches are those that the cache was made with.
    assert taught["asked"][1]["loss"][0] == taught["cached"][1]["loss"][0]
    torch.testing.assert_close(taught["asked"][0].state_dict(), taught["cached"][0].state_dict())


@pytest.mark.parametrize(
    ("teacher", "data", "error", "says"),
    [
        ("translator", batches(), TypeError, "got a translator's cached outputs with Batches, expected Sent"),
        ("classifier", sentences(), TypeError, "got cached outputs with SentenceBatches, expected Batches"),
        (
            "translator",
            sentences(targets=[*SENTENCES[:-1], [4] * 9]),
            ValueError,
            "got the cached outputs of another text (23 pairs, ",
        ),
    ],
)
def test_a_cache_of_other_data_is_refused(teacher, data, error, says):
    cache = (
        cached(net(0)) if teacher == "classifier" else cache_teacher(translator(0), sentences(), **SETTINGS)
    )
    student = net(1) if isinstance(data, Batches) else translator(1)
    with pytest.raises(error, match=re.escape(f"teacher: {says}")):
        fit(
            student,
            WordLevelKD(),
            data,
            teacher=cache,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            epochs=1,
            **SETTINGS,
        )


def test_logits_of_another_number_of_words_are_no_cache():
    with pytest.raises(ValueError, match="predictions: got 3 in all, expected 4"):
        CachedTranslator(torch.zeros(4, 7), torch.tensor([1, 2]))


def test_a_translators_cache_is_in_the_precision_that_is_asked_for_too():
    sure = cache_teacher(translator(0), sentences(), device="cpu", precision="bf16")
    assert sure.logits.dtype == torch.bfloat16


def test_sources_of_other_words_are_another_text_too():
    kept = cache_teacher(translator(0), sentences(), **SETTINGS)
    kept.check_fits(sentences(batch_size=5, seed=9))
    swapped = [*SOURCES[1:2], *SOURCES[:1], *SOURCES[2:]]
    with pytest.raises(ValueError, match="cached outputs of another text, as many words long"):
        kept.check_fits(sentences(sources=swapped))


def test_a_translators_outputs_in_another_precision_are_refused_too():
    kept = cache_teacher(translator(0), sentences(), device="cpu", precision="bf16")
    with pytest.raises(
        ValueError, match="teacher: got outputs cached in bf16, expected fp32, in which fit runs"
    ):
        fit(
            translator(1),
            WordLevelKD(),
            sentences(),
            teacher=kept,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            epochs=1,
            **SETTINGS,
        )
