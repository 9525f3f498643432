"""What passes between the parts."""

import textwrap
from types import SimpleNamespace

import pytest
import torch
from terms_and_gradients import gradient, total
from torch import nn

from kdrepro.methods.attention_transfer import AttentionTransfer, FullActivationTransfer
from kdrepro.methods.born_again import (
    BornAgain,
    ConfidenceWeighted,
    LabelSmoothing,
    PermutedDarkKnowledge,
)
from kdrepro.methods.fitnets import FitNetKD, HintStage
from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.methods.sequence_kd import WordLevelKD
from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs, as_outputs, tapped

LOGITS = torch.arange(6.0).view(2, 3)


def test_outputs_pass_as_they_are_with_their_features():
    outputs = Outputs(LOGITS, {"hidden": torch.ones(2, 4)})
    assert as_outputs(outputs) is outputs


@pytest.mark.parametrize(
    "value",
    [LOGITS, SimpleNamespace(logits=LOGITS, loss=None), {"loss": None, "logits": LOGITS}],
    ids=["tensor", "with_logits", "mapping"],
)
def test_a_tensor_and_what_has_logits_are_taken(value):
    assert as_outputs(value).logits is LOGITS
    assert as_outputs(value).features == {}


@pytest.mark.parametrize(
    "value", [None, (LOGITS, LOGITS), {"out": LOGITS}, {"logits": [1.0]}, SimpleNamespace(logits=None)]
)
def test_anything_else_is_refused_and_the_side_named(value):
    with pytest.raises(TypeError, match=r"^teacher: its forward returned .*expected a tensor of logits"):
        as_outputs(value, side="teacher")


@pytest.mark.parametrize(
    "value",
    [(LOGITS, None), [None, LOGITS], {"out": LOGITS}, {"aux": None, 3: LOGITS}],
    ids=["tuple", "list", "out", "number"],
)
def test_the_wrapper_that_the_error_shows_picks_the_logits_out(value):
    class Net(nn.Module):
        def forward(self, inputs, *, scale):
            return value

    with pytest.raises(TypeError) as caught:
        as_outputs(value, side="student")
    _, _, code = str(caught.value).partition("\n\n")
    assert len(code.splitlines()) == 3
    space: dict = {"torch": torch}
    exec(textwrap.dedent(code), space)
    assert as_outputs(space["Logits"](Net())(LOGITS, scale=1)).logits is LOGITS


def test_each_outputs_has_features_of_its_own():
    assert Outputs(LOGITS).features is not Outputs(LOGITS).features


def test_targets_at_positions_that_do_not_count_become_class_0():
    targets = torch.tensor([[5, 2, -100], [1, -100, -100]])
    mask = targets >= 0
    batch = Batch(torch.zeros(2, 3), targets, mask)
    assert batch.counted_targets.tolist() == [[5, 2, 0], [1, 0, 0]]
    assert targets[0, 2] == -100


@pytest.mark.parametrize(
    "mask", [None, torch.ones(2, 3), torch.ones(3, dtype=torch.bool)], ids=["none", "float", "shape"]
)
def test_targets_stay_as_they_are_without_a_mask_that_fits(mask):
    targets = torch.tensor([[5, 2, -100], [1, -100, -100]])
    assert Batch(torch.zeros(2, 3), targets, mask).counted_targets is targets


def test_every_nth_example_keeps_all_that_is_its_own():
    given, mask, index = torch.arange(10).reshape(5, 2), torch.arange(5) > 1, torch.arange(5) + 7
    third = Batch(given, torch.arange(5), mask, index).every(3, first=1)
    assert third.inputs.tolist() == [[2, 3], [8, 9]]
    assert [each.tolist() for each in (third.targets, third.mask, third.index)] == [
        [1, 4],
        [False, True],
        [8, 11],
    ]
    named = Batch({"a": given, "b": -given}, torch.arange(5)).every(2, first=0)
    assert {name: each[:, 0].tolist() for name, each in named.inputs.items()} == {
        "a": [0, 4, 8],
        "b": [0, -4, -8],
    }
    assert (named.mask, named.index) == (None, None)


def test_a_feature_comes_by_name_and_a_missing_one_says_what_is_there():
    hidden = torch.ones(2, 4)
    outputs = Outputs(LOGITS, {"hidden": hidden, "deeper": hidden})
    assert tapped("student", outputs, "hidden") is hidden
    with pytest.raises(
        ValueError, match=r"^student: got the features deeper, hidden, expected 'stage': .*Taps"
    ):
        tapped("student", outputs, "stage")
    for nothing in (Outputs(LOGITS), None):
        with pytest.raises(ValueError, match=r"^teacher: got the features none, expected 'stage'"):
            tapped("teacher", nothing, "stage")


PADDED = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    "objective",
    [
        Supervised(),
        HintonKD(temperature=2.0, soft_weight=0.5),
        FitNetKD(temperature=2.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=2),
        FitNetKD(
            temperature=2.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=2, soften_student=False
        ),
        WordLevelKD(),
        BornAgain(label_weight=1.0),
        ConfidenceWeighted(),
        PermutedDarkKnowledge(),
        LabelSmoothing(smoothing=0.1),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_what_stands_in_padding_reaches_no_gradient(objective):
    """Attention over padding alone gives NaN, and NaN times a gradient of 0 is NaN."""
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 5, generator=chance).requires_grad_()
    inputs, taught = torch.randn(2, 3, 4, generator=chance), torch.randn(2, 3, 5, generator=chance)
    targets = torch.tensor([[0, 1, -100], [2, -100, -100]])
    found = []
    for padding in (0.0, float("nan")):
        torch.manual_seed(1)
        there = torch.zeros(2, 3, 1).masked_fill(~PADDED[..., None], padding)
        student, teacher = inputs @ weight + there, taught + there
        terms = objective(Outputs(student), Outputs(teacher), Batch(inputs, targets, PADDED))
        found.append((terms, gradient(total(terms), weight)))
    assert found[1][1].isfinite().all()
    torch.testing.assert_close(found[0], found[1])


MAPPED = {"hidden": (5, 5)}


@pytest.mark.parametrize(
    "objective",
    [
        AttentionTransfer(["hidden"], attention_weight=1.0, form="paper"),
        AttentionTransfer(["hidden"], attention_weight=1.0, form="code"),
        FullActivationTransfer(["hidden"], activation_weight=1.0, channels=MAPPED),
        HintStage(nn.Conv2d(5, 5, 1), student_tap="hidden", teacher_tap="hidden"),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_what_a_sample_that_does_not_count_has_for_features_reaches_no_gradient(objective):
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 5, generator=chance).requires_grad_()
    inputs, taught = torch.randn(3, 2, 2, 4, generator=chance), torch.randn(3, 5, 2, 2, generator=chance)
    batch = Batch(inputs, torch.tensor([0, 1, -100]), torch.tensor([True, True, False]))
    found = []
    for last in (0.0, float("nan")):
        there = torch.tensor([0.0, 0.0, last]).reshape(3, 1, 1, 1)
        sides = (inputs @ weight).permute(0, 3, 1, 2) + there, taught + there
        student, teacher = (Outputs(side.mean(dim=(2, 3)), {"hidden": side}) for side in sides)
        terms = objective(student, teacher, batch)
        gradients = torch.autograd.grad(sum(terms.values()), [weight, *objective.parameters()])
        found.append((terms, gradients))
    assert all(gradient.isfinite().all() and gradient.count_nonzero() for gradient in found[1][1])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_of_samples_that_count_stay_bit_for_bit_in_their_layout(layout):
    feature = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    batch = Batch(torch.zeros(3), torch.zeros(3).long(), torch.tensor([True, False, True]))
    others = {"words": torch.ones(7, 2), "loss": torch.tensor(0.3)}
    counted = batch.counted(Outputs(torch.zeros(3, 2), {"map": feature, **others}))
    assert counted.features["map"].is_contiguous(memory_format=layout)
    assert torch.equal(counted.features["map"][::2], feature[::2])
    assert counted.features["map"][1].count_nonzero() == 0
    assert counted.features["words"].all()
    assert counted.features["loss"] == others["loss"]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 3, 1)])
def test_one_logit_for_an_example_is_no_choice_between_classes(shape):
    with pytest.raises(
        ValueError, match=r"student: its logits have shape .*, expected .* two classes at least"
    ):
        as_outputs(torch.randn(shape), side="student")
    with pytest.raises(ValueError, match=r"student: its logits"):
        as_outputs(Outputs(torch.randn(shape)), side="student")


def test_a_mask_that_is_no_tensor_is_refused_by_name():
    with pytest.raises(TypeError, match=r"mask: got list, expected a tensor of torch.bool"):
        Supervised()(Outputs(LOGITS), None, Batch(LOGITS, torch.tensor([0, 1]), [True, False]))
