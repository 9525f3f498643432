"""Weights of classes in the loss on the true ones, and in the objectives that have it."""

import re

import pytest
import torch
from small_networks import network
from small_trainings import batches, train
from torch.nn.functional import cross_entropy

from kdrepro import Batch, Distiller, HintonKD, Outputs, Supervised, hard_target_loss

RANDOM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(4, 6, 5, generator=RANDOM, dtype=torch.float64)
TARGETS = torch.randint(5, (4, 6), generator=RANDOM)
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
MASK = torch.arange(24).reshape(4, 6) % 3 > 0


def test_each_loss_has_the_weight_of_its_class_as_in_torch():
    found = hard_target_loss(LOGITS, TARGETS, class_weights=WEIGHTS)
    expected = cross_entropy(LOGITS.movedim(-1, 1), TARGETS, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, WEIGHTS[TARGETS] * hard_target_loss(LOGITS, TARGETS))


def test_weights_of_1_change_no_bit():
    ones = torch.ones(5)
    assert torch.equal(
        hard_target_loss(LOGITS, TARGETS, class_weights=ones), hard_target_loss(LOGITS, TARGETS)
    )


def test_half_precision_is_weighed_in_float32():
    found = hard_target_loss(LOGITS.bfloat16(), TARGETS, class_weights=WEIGHTS.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, WEIGHTS.float()[TARGETS] * hard_target_loss(LOGITS.bfloat16(), TARGETS))


def test_they_compile_and_map():
    def weighed(logits, targets):
        return hard_target_loss(logits, targets, class_weights=WEIGHTS)

    expected = weighed(LOGITS, TARGETS)
    torch.testing.assert_close(torch.vmap(weighed)(LOGITS, TARGETS), expected)
    compiled = torch.compile(weighed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(LOGITS, TARGETS), expected)


@pytest.mark.parametrize(
    ("make", "share"),
    [
        (Supervised, 1.0),
        (lambda **weights: HintonKD(temperature=4.0, soft_weight=0.25, **weights), 0.75),
    ],
    ids=["supervised", "hinton"],
)
def test_the_mean_is_over_positions_and_not_divided_by_their_weights(make, share):
    batch = Batch(torch.zeros(4), TARGETS, MASK)
    outputs = Outputs(LOGITS)
    found = make(class_weights=WEIGHTS)(outputs, outputs, batch)
    rest = cross_entropy(LOGITS[MASK], TARGETS[MASK], weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(found["hard"], share * rest.mean())
    divided = cross_entropy(LOGITS[MASK], TARGETS[MASK], weight=WEIGHTS)
    assert not torch.isclose(found["hard"], share * divided)
    plain = make()(outputs, outputs, batch)
    assert found.keys() == plain.keys()
    torch.testing.assert_close(plain["hard"], share * cross_entropy(LOGITS[MASK], TARGETS[MASK]))
    if "soft" in found:
        assert torch.equal(found["soft"], plain["soft"])


def test_they_are_the_objectives_own_and_no_part_of_a_checkpoint():
    given = WEIGHTS.clone()
    objective = HintonKD(temperature=4.0, soft_weight=0.5, class_weights=given)
    given.zero_()
    assert torch.equal(objective.class_weights, WEIGHTS)
    distiller = Distiller(network(0), network(1), objective)
    assert not any("class_weights" in name for name in distiller.state_dict())
    assert list(distiller.parameters()) == list(distiller.student.parameters())
    assert distiller.to("meta").objective.class_weights.device.type == "meta"
    assert "class_weights of 5" in repr(objective)
    assert "class_weights" not in repr(HintonKD(temperature=4.0, soft_weight=0.5))
    assert repr(Supervised()) == "Supervised()"
    assert repr(Supervised(class_weights=WEIGHTS)) == "Supervised(class_weights of 5)"


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    options = {"teacher": None, "checkpoint": tmp_path / "weighed.pt", "batches": batches(), "epochs": 1}
    train(network(1), objective=Supervised(class_weights=WEIGHTS), **options)
    train(network(1), objective=Supervised(class_weights=WEIGHTS), **options)
    with pytest.raises(ValueError, match="objective's buffers"):
        train(network(1), objective=Supervised(class_weights=2 * WEIGHTS), **options)


@pytest.mark.parametrize(
    ("weights", "kind", "says"),
    [
        ([1.0] * 5, TypeError, "class_weights: got list, expected a tensor (K,), one for each class"),
        (torch.ones(5).long(), TypeError, "class_weights: got torch.int64, expected floating-point numbers"),
        (torch.ones(5, 1), ValueError, "class_weights: got shape (5, 1), expected (K,), one for each class"),
        (torch.tensor([1.0, -1.0]), ValueError, "class_weights: got NaN, infinity or a number below 0"),
        (torch.tensor([1.0, torch.nan]), ValueError, "class_weights: got NaN, infinity or a number below 0"),
    ],
)
def test_weights_of_another_kind_are_refused(weights, kind, says):
    for make in (
        lambda: hard_target_loss(LOGITS, TARGETS, class_weights=weights),
        lambda: Supervised(class_weights=weights),
        lambda: HintonKD(temperature=1.0, soft_weight=0.5, class_weights=weights),
    ):
        with pytest.raises(kind, match=re.escape(says)):
            make()


def test_one_weight_is_not_taken_for_all():
    with pytest.raises(ValueError, match="class_weights: got 1 of them, expected 5, one for each class"):
        hard_target_loss(LOGITS, TARGETS, class_weights=torch.ones(1))


def test_weights_that_would_weigh_nothing_are_refused():
    with pytest.raises(ValueError, match="class_weights: got them with soft_weight=1, expected None"):
        HintonKD(temperature=1.0, soft_weight=1.0, class_weights=WEIGHTS)
