"""The doctor finds what is wrong with an objective, and with the features that it compares."""

from typing import Any

import pytest
import torch
from doctor_findings import INPUTS, TARGETS, codes, only, right_teacher
from small_networks import network, snapshot
from torch import nn

from kdrepro import Batch, HintonKD, Supervised, check, hint_loss

# The objective.


class Objective(nn.Module):
    def __init__(self, terms) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, student, teacher, batch):
        return self.terms(student.logits, teacher.logits)


@pytest.mark.parametrize(
    ("terms", "code", "severity"),
    [
        (
            lambda student, teacher: {"soft": (teacher - teacher.detach()).square().mean()},
            "student_gets_no_gradient",
            "error",
        ),
        (
            lambda student, teacher: {"soft": (student - teacher).square().mean()},
            "gradient_to_teacher",
            "warning",
        ),
        (lambda student, teacher: {"soft": (student * 0).log().sum()}, "loss_not_finite", "error"),
        (lambda student, teacher: {"soft": (student * 0).sqrt().sum()}, "gradient_not_finite", "error"),
        (lambda student, teacher: {"soft": student.square()}, "objective_fails", "error"),
        (lambda student, teacher: student.sum(), "objective_fails", "error"),
        (lambda student, teacher: {}, "objective_fails", "error"),
        (lambda student, teacher: {"soft": student.nothing()}, "objective_fails", "error"),
    ],
)
def test_an_objective_that_is_wrong(terms, code, severity):
    findings = check(right_teacher(), network(1), (INPUTS, TARGETS), objective=Objective(terms))
    assert only(findings, code, severity).message.startswith("objective: ")


def test_targets_that_the_objective_does_not_need_may_be_left_out():
    assert (
        check(
            right_teacher(),
            network(1),
            Batch(INPUTS, None),
            objective=HintonKD(temperature=2.0, soft_weight=1.0),
        )
        == []
    )
    wrong = Objective(lambda student, teacher: {"soft": teacher.square().mean()})
    findings = check(right_teacher(), network(1), Batch(INPUTS, None), objective=wrong)
    assert codes(findings) == ["student_gets_no_gradient", "gradient_to_teacher"]
    findings = check(right_teacher(), network(1), Batch(INPUTS, None), objective=Supervised())
    only(findings, "objective_fails")


def test_it_finds_the_same_inside_no_grad():
    with torch.no_grad():
        assert check(right_teacher(), network(1), (INPUTS, TARGETS), objective=Supervised()) == []
        assert not torch.is_grad_enabled()


def test_p_log_p_with_a_certain_teacher():
    def p_log_p(student, teacher):
        probs = torch.softmax(teacher / 2, -1)
        return {"soft": (probs * (probs.log() - torch.log_softmax(student / 2, -1))).sum()}

    findings = check(right_teacher(size=300.0), network(1), (INPUTS, TARGETS), objective=Objective(p_log_p))
    assert "soft nan" in only(findings, "loss_not_finite").message


# Features.


class Hint(nn.Module):
    """The hint loss between features, after a regressor."""

    def __init__(self, regressor: nn.Module, weight: float = 1.0, loss=hint_loss) -> None:
        super().__init__()
        self.regressor, self.weight, self.loss = regressor, weight, loss

    def forward(self, student, teacher, batch):
        guided = self.regressor(student.features["hidden"])
        return {"hint": self.weight * self.loss(guided, teacher.features["hidden"]).mean()}


def tapped_pair(*, signed: bool, width: int = 8) -> dict[str, Any]:
    """A teacher that is right, and what else `check` needs to see its hidden layer."""
    torch.manual_seed(0)
    last = nn.Linear(5, 5, bias=False)
    last.weight.data = 8 * torch.eye(5)
    hidden = [nn.Linear(4, width), nn.Identity() if signed else nn.ReLU(), Answer(TARGETS)]
    teacher = nn.Sequential(*hidden, last).eval().requires_grad_(False)
    return {
        "teacher": teacher,
        "student": network(1),
        "batch": (INPUTS, TARGETS),
        "teacher_taps": {"hidden": "1"},
        "student_taps": {"hidden": "2"},
    }


class Answer(nn.Module):
    """Knows the right classes, and looks at what is below it a little."""

    def __init__(self, targets) -> None:
        super().__init__()
        self.targets = targets

    def forward(self, hidden):
        return nn.functional.one_hot(self.targets, 5).float() + 0.01 * hidden[:, :5]


@pytest.mark.parametrize(("signed", "width"), [(False, 8), (True, 8), (False, 12), (True, 12)])
def test_a_regressor_that_fits_is_no_mistake(signed, width):
    pair = tapped_pair(signed=signed, width=width)
    assert check(**pair, objective=Hint(nn.Linear(8, width))) == []


def test_features_of_different_shape_are_named_where_the_objective_fails_with_them():
    pair = tapped_pair(signed=False, width=12)
    findings = check(**pair, objective=Hint(nn.Identity()))
    assert codes(findings) == ["objective_fails", "features_differ"]
    assert findings[1].message == (
        "features['hidden']: the teacher's has shape (64, 12), the student's (64, 8), and the objective failed "
        "with them"
    )
    assert codes(check(**tapped_pair(signed=False, width=8), objective=Hint(nn.Linear(5, 5)))) == [
        "objective_fails"
    ]


def test_a_tap_that_is_not_called_is_a_finding():
    pair = tapped_pair(signed=False)
    pair["student"].forward = lambda inputs: pair["student"][4](inputs.repeat(1, 2))
    finding = only(check(**pair, objective=Hint(nn.Linear(8, 8))), "student_fails")
    assert "student_taps['hidden']: '2' was not called" in finding.message


@pytest.mark.parametrize("weight", [1.0, 1e-6])
def test_a_regressor_that_ends_in_a_relu_while_the_hint_is_signed(weight):
    ends_in_relu = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    finding = only(
        check(**tapped_pair(signed=True), objective=Hint(ends_in_relu, weight)),
        "hint_out_of_reach",
        "warning",
    )
    assert "of the teacher's values are below 0, none of the output of objective.regressor" in finding.message
    assert finding.message.startswith("features['hidden']: ")
    assert check(**tapped_pair(signed=False), objective=Hint(ends_in_relu, weight)) == []


def test_hints_are_looked_at_with_the_objective_in_eval_mode_and_its_mode_is_put_back():
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modes: list[bool] = []

        def forward(self, student, teacher, batch):
            self.modes.append(self.training)
            return {"hint": hint_loss(student.features["hidden"], teacher.features["hidden"]).mean()}

    objective = Watching()
    pair = tapped_pair(signed=True)
    check(**pair | {"objective": objective})
    # The loss as it will be trained, and then what is compared with the hint.
    assert objective.modes[0]
    assert len(objective.modes) > 1
    assert not any(objective.modes[1:])
    assert objective.training


def test_a_feature_that_ends_in_a_relu_while_the_hint_is_signed():
    class Direct(nn.Module):
        def forward(self, student, teacher, batch):
            return {"hint": hint_loss(student.features["hidden"], teacher.features["hidden"]).mean()}

    finding = only(check(**tapped_pair(signed=True), objective=Direct()), "hint_out_of_reach", "warning")
    assert "none of the student's 'hidden', which is compared with it" in finding.message
    assert check(**tapped_pair(signed=False), objective=Direct()) == []


def test_a_loss_that_does_not_look_at_signs_may_have_any():
    def energies(student_feature, teacher_feature):
        apart = student_feature.square() - teacher_feature.detach().square()
        return apart.square().sum(-1)

    pair = tapped_pair(signed=True)
    assert check(**pair, objective=Hint(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), loss=energies)) == []


def test_of_two_hints_the_one_out_of_reach_is_named():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
            self.second = nn.Linear(8, 8)

        def forward(self, student, teacher, batch):
            return {
                name: hint_loss(part(student.features["hidden"]), teacher.features[name]).mean()
                for name, part in self.named_children()
            }

    pair = tapped_pair(signed=True) | {"teacher_taps": {"first": "1", "second": "0"}}
    finding = only(check(**pair, objective=Two()), "hint_out_of_reach", "warning")
    assert finding.message.startswith("features['first']")
    assert "objective.first" in finding.message


def test_with_taps_it_leaves_no_trace():
    pair, objective = tapped_pair(signed=True), Hint(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    objective.regressor.append(nn.BatchNorm1d(8))
    nets = (pair["teacher"].train(), pair["student"], objective)
    before = [snapshot(each) for each in nets]
    check(**pair, objective=objective)
    assert [snapshot(each) for each in nets] == before
    assert not any(part._forward_hooks for net in nets for part in net.modules())


class Terms(nn.Module):
    """Gives terms made of the student's logits."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, student, teacher, batch):
        return self.make(student.logits.sum())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda loss: {"a": loss, "b": 0.0}, "its term 'b' is 0.0 (float), expected a scalar tensor"),
        (lambda loss: {"a": loss * torch.nan, "b": 0.0}, "its term 'b' is 0.0 (float)"),
        (lambda loss: loss, "it returned Tensor, expected a dict of scalar tensors"),
        (lambda loss: {}, "it returned no terms, expected at least one"),
    ],
)
def test_terms_are_asked_for_as_they_are_in_training(make, says):
    found = check(right_teacher(), network(), (INPUTS, TARGETS), objective=Terms(make))
    (failed,) = [finding for finding in found if finding.code == "objective_fails"]
    assert says in failed.message


def test_a_mask_that_is_a_list_is_a_finding():
    found = check(right_teacher(), network(), (INPUTS, TARGETS, [True] * len(TARGETS)))
    (invalid,) = [finding for finding in found if finding.code == "mask_invalid"]
    assert "mask: got list, expected torch.bool of" in invalid.message
