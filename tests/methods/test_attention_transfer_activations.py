"""The regression of full activations, its adapters, and what it refuses."""

import pytest
import torch
from attention_objectives import case, renamed

from kdrepro.losses.features import hint_loss
from kdrepro.methods.attention_transfer import FullActivationTransfer
from kdrepro.methods.supervised import Supervised


def test_full_activations_are_regressed_through_the_adapter_of_the_student():
    student, teacher, batch = case()
    objective = FullActivationTransfer(
        ["wide", "deep"], channels={"wide": (3, 5)}, activation_weight=2.0
    ).double()
    weight, bias = (parameter.detach() for parameter in objective.parameters())
    expected = 0.0
    for ours, theirs in zip(student.features["wide"], teacher.features["wide"], strict=True):
        adapted = torch.einsum("oi,ihw->ohw", weight[:, :, 0, 0], ours) + bias.reshape(5, 1, 1)
        expected += 0.5 * (adapted - theirs).square().mean().item()
    for ours, theirs in zip(student.features["deep"], teacher.features["deep"], strict=True):
        expected += 0.5 * (ours - theirs).square().mean().item()
    terms = objective(student, teacher, batch)
    assert set(terms) == {"activation", "hard"}
    assert terms["activation"].item() == pytest.approx(2.0 * expected / 6)
    assert terms["hard"] == Supervised()(student, None, batch)["hard"]


def test_there_is_an_adapter_only_where_channels_differ_and_names_may_have_dots():
    student, teacher, batch = case()
    names = {"wide": "stage.0.out", "deep": "stage.1.out"}
    objective = FullActivationTransfer(
        {"stage.0.out": "wide", "stage.1.out": "deep"},
        channels={"stage.0.out": (3, 5)},
        activation_weight=1.0,
    ).double()
    assert [tuple(parameter.shape) for parameter in objective.parameters()] == [(5, 3, 1, 1), (5,)]
    terms = objective(renamed(student, **names), teacher, batch)
    terms["activation"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())
    deep = hint_loss(student.features["deep"], teacher.features["deep"]).mean() / 36
    assert terms["activation"].item() > deep.item()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"activation_weight": 0}, ValueError, "activation_weight: got 0, expected a finite number above 0"),
        (
            {"channels": {"wode": (3, 5)}},
            ValueError,
            "channels: got 'wode', expected one of wide, deep; did you",
        ),
        (
            {"channels": {"wide": 5}},
            TypeError,
            "channels['wide']: got 5, expected (the student's, the teacher's)",
        ),
        ({"channels": {"wide": (3,)}}, TypeError, "channels['wide']: got (3,), expected"),
        (
            {"channels": {"wide": (0, 5)}},
            ValueError,
            "channels['wide']: got 0, expected a whole number of at least 1",
        ),
        ({"pairs": "wide"}, TypeError, "pairs: got 'wide' (str), expected a list of feature names"),
    ],
)
def test_malformed_full_activations_are_refused(arguments, error, says):
    with pytest.raises(error) as caught:
        FullActivationTransfer(**{"pairs": ["wide", "deep"], "activation_weight": 1.0, **arguments})
    assert str(caught.value).startswith(says)


def test_features_that_do_not_fit_each_other_are_refused_with_what_would_help():
    student, teacher, batch = case()
    with pytest.raises(
        ValueError,
        match=r"^student feature 'wide': got shape \(6, 3, 6, 6\) .* \(6, 5, 6, 6\), expected the same; channels can",
    ):
        FullActivationTransfer(["wide"], activation_weight=1.0)(student, teacher, batch)
    with pytest.raises(
        ValueError,
        match=r"^student feature 'wide': got shape \(6, 3, 6, 6\), expected \(B, 4, H, W\) as channels",
    ):
        FullActivationTransfer(["wide"], channels={"wide": (4, 5)}, activation_weight=1.0)(
            student, teacher, batch
        )
