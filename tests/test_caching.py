"""A teacher asked once for all: what is looked up is what it would have said."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdrepro import AttentionTransfer, Batches, HintonKD, Taps, cache_teacher, fit
from kdrepro.caching import CachedTeacher, CachedTranslator
from kdrepro.data.batches import Jitter
from kdrepro.data.text import SentenceBatches
from kdrepro.engine import fit_cohort
from kdrepro.members import Member
from kdrepro.methods.sequence_kd import WordLevelKD
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

IMAGES = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))
SETTINGS = {"device": "cpu", "precision": "fp32"}


def batches(**changes) -> Batches:
    return Batches(**{"inputs": IMAGES, "targets": TARGETS, "batch_size": 8, "seed": 7, **changes})


def net(seed: int) -> nn.Sequential:
    """With a map in the middle, BatchNorm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 5)
        )


def tapped(seed: int) -> Taps:
    return Taps(net(seed), {"early": "0", "map": "2"})


def cached(
    teacher: nn.Module | FrozenTeacher | None = None, data: Batches | None = None, **changes
) -> CachedTeacher:
    return cache_teacher(teacher or tapped(0), data or batches(), **(SETTINGS | changes))


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_features_are_looked_up_by_the_examples_positions(epoch, frozen):
    teacher = FrozenTeacher(tapped(0)) if frozen else tapped(0)
    found = cached(teacher)
    asked = FrozenTeacher(tapped(0))
    seen = []
    for part in batches().epoch(epoch):
        one, other = found.look_up(part), asked(part.inputs)
        torch.testing.assert_close(one.logits, other.logits)
        assert set(one.features) == {"early", "map"}
        for name, feature in one.features.items():
            torch.testing.assert_close(feature, other.features[name])
        seen += part.index.tolist()
    assert sorted(seen) == list(range(30))
    assert seen != sorted(seen), "the order of an epoch is not that of the data"


def test_an_objective_of_features_is_trained_as_with_the_teacher_itself():
    ends, curves = [], []
    for teacher in (tapped(0), cached()):
        student = tapped(1)
        objective = AttentionTransfer(["map"], attention_weight=100.0, soft_weight=0.5)
        history = fit(
            student,
            objective,
            batches(),
            teacher=teacher,
            optimizer=lambda each: torch.optim.SGD(each, lr=0.1, momentum=0.9),
            epochs=3,
            **SETTINGS,
        )
        ends.append(student.state_dict())
        curves.append(history.curves)
    torch.testing.assert_close(ends[0], ends[1])
    assert set(curves[0]) == {"loss", "loss/attention", "loss/soft", "loss/hard", "learning_rate"}
    for name, curve in curves[0].items():
        assert curve == pytest.approx(curves[1][name], rel=1e-5), name


def test_a_cohort_looks_its_teacher_up_too():
    ends = []
    for teacher in (tapped(0), cached()):
        students = [tapped(1), tapped(2)]
        members = [
            Member(
                student=student,
                objective=AttentionTransfer(["map"], attention_weight=100.0),
                optimizer=lambda each: torch.optim.SGD(each, lr=0.1),
            )
            for student in students
        ]
        fit_cohort(members, batches(), teacher=teacher, epochs=2, **SETTINGS)
        ends.append([student.state_dict() for student in students])
    torch.testing.assert_close(ends[0], ends[1])


def test_the_cache_is_of_a_teacher_in_eval_mode():
    asked: list[bool] = []
    teacher = tapped(0)
    teacher.register_forward_hook(lambda module, inputs, output: asked.append(module.training))
    first, second = cached(teacher), cached(teacher)
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    assert asked
    assert not any(asked)


def test_no_gradient_reaches_what_is_cached():
    found = cached()
    assert not found.logits.requires_grad
    assert not any(feature.requires_grad for feature in found.features.values())


def test_an_ensembles_logits_are_cached_at_its_temperature():
    crowd = FrozenTeacher([net(0), net(1)])
    for temperature in (1.0, 4.0):
        found = cached(crowd, temperature=temperature)
        for part in batches().epoch(0):
            torch.testing.assert_close(
                found.look_up(part).logits, crowd(part.inputs, temperature=temperature).logits
            )
        assert found.features == {}


def test_an_ensemble_that_was_cached_at_another_temperature_than_the_objectives_is_refused(tmp_path):
    crowd = FrozenTeacher([net(0), net(1)])
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, **SETTINGS}
    objective = HintonKD(temperature=4.0, soft_weight=1.0)
    found = cached(crowd)
    found.save(tmp_path / "cached.safetensors")
    for each in (found, CachedTeacher.load(tmp_path / "cached.safetensors")):
        with pytest.raises(
            ValueError, match="teacher: got an ensemble's outputs cached at temperature 1, expected 4"
        ):
            fit(net(2), objective, batches(), teacher=each, **options)
    fit(net(2), objective, batches(), teacher=cached(crowd, temperature=4.0), **options)
    # For one network the temperature of the cache does not matter.
    fit(net(2), objective, batches(), teacher=cached(net(0), temperature=2.0), **options)


def test_a_cache_knows_whose_it_is(tmp_path):
    found = [cached(net(seed)).teacher for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    cached(net(0)).save(tmp_path / "cached.safetensors")
    assert CachedTeacher.load(tmp_path / "cached.safetensors").to("cpu").teacher == found[0]


def test_a_run_goes_on_under_the_same_teacher_cached_or_not_and_under_no_other(tmp_path):
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, **SETTINGS}
    objective = HintonKD(temperature=4.0, soft_weight=0.5)
    file = tmp_path / "state.pt"
    fit(net(2), objective, batches(), teacher=cached(net(0)), checkpoint=file, **options)
    for same in (cached(net(0)), net(0)):
        fit(net(2), objective, batches(), teacher=same, checkpoint=file, **options)
    for other in (cached(net(5)), net(5)):
        with pytest.raises(ValueError, match=r"written by another run .teacher '"):
            fit(net(2), objective, batches(), teacher=other, checkpoint=file, **options)


def test_a_cache_is_in_the_precision_that_is_asked_for():
    found = cached(net(0), precision="bf16")
    assert found.logits.dtype == torch.bfloat16
    asked = FrozenTeacher(net(0))
    with torch.autocast("cpu", torch.bfloat16):
        for part in batches().epoch(0):
            torch.testing.assert_close(found.look_up(part).logits, asked(part.inputs).logits)
    sure = cache_teacher(translator(0), sentences(), device="cpu", precision="bf16")
    assert sure.logits.dtype == torch.bfloat16


def test_a_cache_moves_with_all_that_it_holds():
    moved = cached().to("meta")
    held: list[Tensor] = [moved.logits, *moved.features.values()]
    assert len(held) == 3
    assert {each.device.type for each in held} == {"meta"}


def test_augmented_batches_are_refused_when_it_is_made_and_when_it_is_used():
    jittered = batches(augment=Jitter(pixels=1))
    with pytest.raises(ValueError, match="batches: got augmented batches, expected none"):
        cached(data=jittered)
    with pytest.raises(ValueError, match="teacher: got cached outputs with augmented batches"):
        cached().check_fits(jittered)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="teacher: got cached outputs of 30 examples, expected 20"):
        cached().check_fits(batches(inputs=IMAGES[:20], targets=TARGETS[:20]))
    with pytest.raises(ValueError, match=r"batch\.index: got None"):
        cached().look_up(Batch(IMAGES, TARGETS))


def test_a_feature_that_was_not_cached_is_named():
    plain = cached(net(0))
    assert plain.features == {}
    objective = AttentionTransfer(["map"], attention_weight=1.0)
    student = Outputs(torch.zeros(8, 5), {"map": torch.rand(8, 4, 4, 4)})
    (part, *_) = batches().epoch(0)
    with pytest.raises(ValueError, match="map"):
        objective(student, plain.look_up(part), part)


# A translator.

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


@pytest.mark.parametrize("other", [IMAGES.flip(0), 2 * IMAGES])
def test_outputs_of_other_inputs_are_refused_although_there_are_as_many(other, tmp_path):
    cached = cache_teacher(net(1), batches(), **SETTINGS)
    file = str(tmp_path / "cached.safetensors")
    cached.save(file)
    for each in (cached, CachedTeacher.load(file)):
        each.check_fits(batches())
        with pytest.raises(
            ValueError, match=r"teacher: got cached outputs of other inputs .* in another order"
        ):
            each.check_fits(batches(inputs=other))
    CachedTeacher(cached.logits).check_fits(batches(inputs=other))
