"""A teacher asked once for all: what is looked up is what it would have said."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cached_teachers import SETTINGS, batches, cached, net, tapped
from small_networks import network, snapshot
from small_pictures import IMAGES, TARGETS
from torch import Tensor

from kdrepro import AttentionTransfer, HintonKD, cache_teacher, fit
from kdrepro.caching import CachedTeacher
from kdrepro.checkpoints import load_tensors, save_tensors
from kdrepro.data.batches import Jitter
from kdrepro.engine import fit_cohort
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.members import Member
from kdrepro.types import Batch, Outputs

KD = HintonKD(temperature=4.0, soft_weight=0.5)


def swapped(one: int, other: int) -> Tensor:
    images = IMAGES.clone()
    images[[one, other]] = IMAGES[[other, one]]
    return images


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


def test_a_cache_moves_with_all_that_it_holds():
    moved = cached().to("meta")
    held: list[Tensor] = [moved.logits, *moved.features.values()]
    assert len(held) == 3
    assert {each.device.type for each in held} == {"meta"}


def test_a_cache_without_features_is_the_same_but_for_them():
    logits, features = torch.rand(4, 3), {"middle": torch.rand(4, 2)}
    whole = CachedTeacher(logits, features, temperature=2.0, teacher="t", inputs="i", precision="bf16")
    bare = whole.without_features()
    assert bare.features == {}
    assert bare.logits is logits
    assert (bare.temperature, bare.teacher, bare.inputs, bare.precision) == (2.0, "t", "i", "bf16")


def test_a_precision_that_there_is_not_is_named():
    with pytest.raises(
        ValueError, match="precision: got 'fp16', expected one of fp32, bf16; did you mean 'bf16'"
    ):
        CachedTeacher(torch.rand(4, 3), precision="fp16")


def test_what_is_no_batches_is_refused_before_the_teacher_is_moved():
    teacher = network(1)
    before = snapshot(teacher)
    with pytest.raises(TypeError, match=r"batches: got list, expected kdrepro\.Batches or SentenceBatches"):
        cache_teacher(teacher, [(torch.zeros(2, 4), torch.zeros(2))])
    assert snapshot(teacher) == before


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


@pytest.mark.parametrize("other", [IMAGES.flip(0), 2 * IMAGES, swapped(12, 13)])
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


def test_a_feature_that_was_not_cached_is_named():
    plain = cached(net(0))
    assert plain.features == {}
    objective = AttentionTransfer(["map"], attention_weight=1.0)
    student = Outputs(torch.zeros(8, 5), {"map": torch.rand(8, 4, 4, 4)})
    (part, *_) = batches().epoch(0)
    with pytest.raises(ValueError, match="map"):
        objective(student, plain.look_up(part), part)


@pytest.mark.parametrize(("asked", "trained"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_outputs_in_another_precision_than_fit_runs_in_are_refused_from_a_file_too(asked, trained, tmp_path):
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, "device": "cpu"}
    found = cached(net(0), precision=asked)
    assert found.precision == asked
    found.save(tmp_path / "cached.safetensors")
    for each in (found, found.to("cpu"), CachedTeacher.load(tmp_path / "cached.safetensors")):
        says = (
            rf"teacher: got outputs cached in {asked}, expected {trained}, in which fit runs: .*'{trained}'"
        )
        with pytest.raises(ValueError, match=says):
            fit(net(2), KD, batches(), teacher=each, precision=trained, **options)
        fit(net(2), KD, batches(), teacher=each, precision=asked, **options)


@pytest.mark.parametrize(("precision", "said"), [("fp32", ""), ("bf16", "bf16")])
def test_a_file_from_before_precisions_were_noted_says_what_its_numbers_tell(precision, said, tmp_path):
    file = tmp_path / "cached.safetensors"
    cached(net(0), precision=precision).save(file)
    tensors = load_tensors(file)
    del tensors["precision"]
    save_tensors(tensors, file, metadata={})
    assert CachedTeacher.load(file).precision == said


def test_outputs_of_ones_own_are_taken_in_any_precision(tmp_path):
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, "device": "cpu"}
    own = CachedTeacher(cached(net(0)).logits.bfloat16())
    own.save(tmp_path / "own.safetensors")
    for each in (own, CachedTeacher.load(tmp_path / "own.safetensors")):
        for precision in ("fp32", "bf16"):
            fit(net(2), KD, batches(), teacher=each, precision=precision, **options)
    with pytest.raises(ValueError, match="precision: got 'fp16', expected one of fp32, bf16"):
        CachedTeacher(own.logits, precision="fp16")
