"""The doctor finds each classic mistake, finds nothing where there is none, and leaves no trace."""

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from small_networks import Fixed, LanguageModel, WithFeatures, batch, network, snapshot
from torch import nn

from kdrepro import Batch, HintonKD, check, hint_loss
from kdrepro.diagnoses import Finding, in_accuracy
from kdrepro.doctor import format_findings

INPUTS, TARGETS = batch(64)


def right_teacher(*, wrong: int = 0, size: float = 6.0) -> nn.Module:
    """A sleeping, frozen teacher that is right on all but the first `wrong` of the 64."""
    logits = nn.functional.one_hot(TARGETS, 5).float() * size + torch.linspace(0, 0.5, 5)
    logits[:wrong] = logits[:wrong].roll(1, -1)
    return Fixed(logits).eval().requires_grad_(False)


def codes(findings: list[Finding]) -> list[str]:
    assert all(finding.message and finding.advice.endswith(".") for finding in findings)
    return [finding.code for finding in findings]


def only(findings: list[Finding], code: str, severity: str = "error") -> Finding:
    assert codes(findings) == [code]
    assert findings[0].severity == severity
    return findings[0]


def test_a_sound_pair_has_no_findings():
    assert (
        check(
            right_teacher(),
            network(1),
            (INPUTS, TARGETS),
            objective=HintonKD(temperature=4.0, soft_weight=0.9),
        )
        == []
    )


def test_a_sound_ensemble_and_networks_with_keyword_inputs_have_none():
    ensemble = [right_teacher(), right_teacher(wrong=2)]
    assert check(ensemble, network(1), Batch(INPUTS, TARGETS)) == []
    ids = torch.randint(7, (8, 5), generator=torch.Generator().manual_seed(0))
    teacher = LanguageModel().eval().requires_grad_(False)
    teacher.embedding.weight.data = torch.eye(7)[:, :6] * 20
    teacher.head.weight.data, teacher.head.bias.data = torch.eye(7)[:, :6] * 20, torch.zeros(7)
    objective = HintonKD(temperature=4.0, soft_weight=0.9)
    assert check(teacher, LanguageModel(), ({"input_ids": ids}, ids, ids > 0), objective=objective) == []


# The networks themselves.


def test_a_teacher_in_train_mode():
    teacher = right_teacher().train()
    assert (
        "train mode"
        in only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_in_train_mode", "warning").message
    )


@pytest.mark.parametrize(("index", "kind"), [(1, "BatchNorm"), (3, "Dropout")])
def test_a_teacher_with_one_layer_awake(index, kind):
    teacher = network(0).eval().requires_grad_(False)
    teacher[index].train()
    findings = check(teacher, network(1), (INPUTS[:2], TARGETS[:2]))
    assert kind in type(teacher[index]).__name__
    assert f" {index}" in only(findings, "teacher_partly_in_train_mode", "warning").message


def test_a_teacher_with_dropout_of_its_own_awake():
    class DropPath(nn.Module):
        def forward(self, inputs):
            return inputs

    teacher = nn.Sequential(network(0), DropPath()).eval().requires_grad_(False)
    teacher[1].train()
    only(check(teacher, network(1), (INPUTS[:2], TARGETS[:2])), "teacher_partly_in_train_mode", "warning")


def test_a_teacher_that_still_trains():
    teacher = right_teacher().requires_grad_()
    finding = only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_trains", "warning")
    assert finding.message.startswith("1 of the teacher's parameter tensors")


def test_a_student_that_does_not_train():
    student = network(1).requires_grad_(False)
    only(check(right_teacher(), student, (INPUTS, TARGETS)), "student_frozen")


def test_a_student_in_eval_mode():
    only(check(right_teacher(), network(1).eval(), (INPUTS, TARGETS)), "student_in_eval_mode", "warning")


def test_a_teacher_whose_dropout_ignores_the_mode():
    class AlwaysDrops(nn.Module):
        def forward(self, inputs):
            return nn.functional.dropout(inputs @ torch.eye(4, 5) * 5 + 1)

    findings = check(AlwaysDrops().eval(), network(1), (INPUTS, (INPUTS @ torch.eye(4, 5)).argmax(-1)))
    assert "teacher_random" in codes(findings)


def test_one_object_as_teacher_and_student():
    net = network(0)
    findings = check(net, net, (INPUTS[:2], TARGETS[:2]))
    assert "same_object" in codes(findings)
    assert "same_object" in codes(check([right_teacher(), net], net, (INPUTS, TARGETS)))


def test_shared_weights():
    teacher = network(0).eval().requires_grad_(False)
    student = nn.Sequential(teacher[0], nn.Linear(8, 5))
    finding = next(
        each for each in check(teacher, student, (INPUTS, TARGETS)) if each.code == "shared_weights"
    )
    assert finding.message.startswith("student: got a submodule '0'")


def test_batch_norm_with_a_batch_of_one():
    findings = check(right_teacher(), network(1), (INPUTS[:1], TARGETS[:1]))
    assert "batch_of_one" in codes(findings)
    # The networks run in eval mode here, where one example is enough.
    assert "student_fails" not in codes(findings)
    no_norm = check(
        Fixed(torch.tensor([[3.0, 1, 2, 0, 0]])).eval(), WithFeatures(), (INPUTS[:1], TARGETS[:1])
    )
    assert "batch_of_one" not in codes(no_norm)


# What they give.


def test_class_counts_and_vocabularies_that_differ():
    finding = only(check(right_teacher(), network(1, classes=8), (INPUTS, TARGETS)), "classes_differ")
    assert finding.message == "the teacher gives 5 classes, the student 8"
    ids = torch.tensor([[1, 2, 3]])
    teacher = LanguageModel(vocabulary=9).eval().requires_grad_(False)
    finding = only(check(teacher, LanguageModel(), ({"input_ids": ids}, ids)), "classes_differ")
    assert "tokenizer" in finding.advice


def test_shapes_that_do_not_match():
    findings = check(Fixed(torch.randn(64, 2, 5)).eval().requires_grad_(False), network(1), (INPUTS, TARGETS))
    assert "(64, 2, 5)" in only(findings, "shapes_differ").message


def test_members_of_an_ensemble_that_differ():
    members = [right_teacher(), network(0, classes=6).eval().requires_grad_(False)]
    assert "teacher[1]" in only(check(members, network(1), (INPUTS, TARGETS)), "members_differ").message


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_logits_that_are_not_finite_and_which_side(side, wrong):
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    logits[3, 2] = wrong
    broken = Fixed(logits)
    pair = (
        (broken.eval().requires_grad_(False), network(1)) if side == "teacher" else (right_teacher(), broken)
    )
    finding = only(check(*pair, (INPUTS, TARGETS)), f"{side}_not_finite")
    assert finding.message == f"{side}: 1 of 320 logits are NaN or infinite, the first at (3, 2) is {wrong}"


def test_which_member_is_not_finite():
    broken = Fixed(torch.full((64, 5), math.nan)).eval().requires_grad_(False)
    finding = only(check([right_teacher(), broken], network(1), (INPUTS, TARGETS)), "teacher_not_finite")
    assert finding.message.startswith("teacher[1]: 320 of 320")


def test_a_class_left_out_with_minus_infinity_is_no_mistake():
    lowest = torch.full((64, 1), -math.inf)
    teacher = Fixed(torch.cat([right_teacher().logits, lowest], -1)).eval().requires_grad_(False)
    student = Fixed(torch.cat([torch.randn(64, 5), lowest], -1))
    objective = HintonKD(temperature=4.0, soft_weight=0.9)
    assert check(teacher, student, (INPUTS, TARGETS), objective=objective) == []


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_probabilities_in_place_of_logits(side):
    teacher = Fixed(right_teacher().logits.softmax(-1)) if side == "teacher" else right_teacher()
    student = nn.Sequential(network(1), nn.Softmax(-1)) if side == "student" else network(1)
    findings = check(teacher.eval().requires_grad_(False), student, (INPUTS, TARGETS))
    assert only(findings, f"{side}_gives_probabilities", "warning").message.startswith(f"{side}: every row")


def test_a_student_that_says_what_the_teacher_says():
    teacher = right_teacher()
    only(check(teacher, Fixed(teacher.logits), (INPUTS, TARGETS)), "same_outputs", "warning")


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_network_that_does_not_take_the_batch(side):
    narrow = network(0, inputs=3)
    pair = (
        (narrow.eval().requires_grad_(False), network(1)) if side == "teacher" else (right_teacher(), narrow)
    )
    finding = only(check(*pair, (INPUTS, TARGETS)), f"{side}_fails")
    assert "RuntimeError: mat1 and mat2" in finding.message


@pytest.mark.parametrize(
    "logits", [torch.zeros(64), torch.zeros(64, 5, dtype=torch.int64)], ids=["flat", "integers"]
)
def test_a_network_whose_outputs_are_no_logits(logits):
    teacher = Fixed(logits).eval().requires_grad_(False)
    assert (
        "expected floating-point (B, K)"
        in only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_fails").message
    )


# The batch.


def test_an_empty_batch():
    only(check(right_teacher(), network(1), (INPUTS[:0], TARGETS[:0])), "empty_batch")
    only(check(right_teacher(), network(1), ({}, TARGETS[:0])), "empty_batch")


def test_inputs_that_are_not_finite():
    inputs = INPUTS.clone()
    inputs[2, 1] = math.nan
    finding = check(right_teacher(), network(1), (inputs, TARGETS))[0]
    assert (finding.code, finding.message) == (
        "inputs_not_finite",
        "inputs: 1 of 256 values are NaN or infinite",
    )


@pytest.mark.parametrize(
    ("targets", "mask", "code", "message"),
    [
        (TARGETS.float(), None, "targets_type", "got torch.float32, expected integer class numbers"),
        (nn.functional.one_hot(TARGETS, 5).bool(), None, "targets_type", "got torch.bool"),
        (TARGETS.tolist(), None, "targets_type", "got list"),
        (TARGETS[:-1], None, "targets_shape", "got shape (63,), expected (64,)"),
        (nn.functional.one_hot(TARGETS, 5), None, "targets_shape", "got shape (64, 5), expected (64,)"),
        (
            TARGETS + 1,
            None,
            "targets_out_of_range",
            "got values from 1 to 5, expected class numbers from 0 to 4",
        ),
        (TARGETS - 101, None, "targets_out_of_range", "got values from -101 to -97"),
        (TARGETS, torch.ones(64), "mask_invalid", "got torch.float32 of shape (64,)"),
        (
            TARGETS,
            torch.ones(32, dtype=torch.bool),
            "mask_invalid",
            "got torch.bool of shape (32,), expected torch.bool of (64,)",
        ),
        (TARGETS, torch.zeros(64, dtype=torch.bool), "mask_empty", "no position counts"),
    ],
)
def test_targets_and_masks_that_do_not_go_with_the_logits(targets, mask, code, message):
    assert message in only(check(right_teacher(), network(1), (INPUTS, targets, mask)), code).message


def test_padding_that_is_masked_may_be_any_number():
    mask = torch.arange(64) % 8 != 0
    objective = HintonKD(temperature=4.0, soft_weight=0.9)
    padded = TARGETS.masked_fill(~mask, -100)
    assert check(right_teacher(), network(1), (INPUTS, padded, mask), objective=objective) == []


# A teacher at chance.


def test_a_teacher_at_chance():
    teacher = right_teacher(wrong=52)
    finding = only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_at_chance")
    assert "right on 12 of 64 positions, no more than guessing among 5 classes" in finding.message


def test_only_positions_that_count_decide_whether_it_is_at_chance():
    mask = torch.arange(64) >= 32
    assert check(right_teacher(wrong=32), network(1), (INPUTS, TARGETS, mask)) == []
    findings = check(right_teacher(wrong=64), network(1), (INPUTS, TARGETS, mask))
    assert "right on 0 of 32" in only(findings, "teacher_at_chance").message


def test_a_small_batch_cannot_tell():
    teacher = Fixed(right_teacher(wrong=64).logits[:6]).eval().requires_grad_(False)
    assert check(teacher, network(1), (INPUTS[:6], TARGETS[:6])) == []


@pytest.mark.parametrize(("count", "classes"), [(64, 10), (200, 2), (1000, 100), (30, 5), (20000, 3)])
def test_the_line_between_chance_and_not_is_scipys_binomial(count, classes):
    least = next(
        hits for hits in range(count + 1) if scipy.stats.binom.sf(hits - 1, count, 1 / classes) <= 0.01
    )
    for correct, expected in ((least, []), (least - 1, ["teacher_at_chance"])):
        logits = torch.zeros(count, classes)
        logits[:correct, 0] = 1
        logits[correct:, 1] = 1
        findings = list(
            in_accuracy(Batch(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64)), logits)
        )
        assert codes(findings) == expected


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


# Without a trace.


def test_it_leaves_modes_buffers_gradients_and_random_states_alone():
    class Counts(nn.Module):
        """Changes its buffers in every mode, by replacing one and writing into the other."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network(0)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, inputs):
            self.calls += 1
            self.last = torch.rand(1)
            return nn.functional.dropout(self.inner(inputs))

    teacher, student, objective = (
        Counts().train(),
        Counts(),
        HintonKD(temperature=2.0, soft_weight=0.5).eval(),
    )
    student.inner[3].eval()
    teacher.inner[0].weight.grad = torch.ones_like(teacher.inner[0].weight)
    buffers = [*teacher.buffers(), *student.buffers()]
    before = [snapshot(each) for each in (teacher, student, objective)]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    check(teacher, student, (inputs, targets), objective=objective)
    assert [snapshot(each) for each in (teacher, student, objective)] == before
    assert all(
        now is then for now, then in zip([*teacher.buffers(), *student.buffers()], buffers, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(targets, TARGETS)


def test_it_leaves_no_trace_where_a_network_fails():
    teacher, student = network(0, inputs=3), network(1, inputs=3)
    before = snapshot(teacher), snapshot(student)
    state = torch.get_rng_state()
    assert {"teacher_fails", "student_fails"} <= set(codes(check(teacher, student, (INPUTS, TARGETS))))
    assert (snapshot(teacher), snapshot(student)) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_asked_for_do_not_reach_the_weights():
    student = network(1)
    check(right_teacher(), student, (INPUTS, TARGETS), objective=HintonKD(temperature=2.0, soft_weight=0.5))
    assert all(parameter.grad is None for parameter in student.parameters())


# As text.


def test_findings_as_text_are_errors_first_each_with_its_advice():
    findings = check(copy.deepcopy(network(0)), network(1, classes=3), (INPUTS, TARGETS))
    lines = format_findings(findings).splitlines()
    assert [line.split()[0] for line in lines[::2]] == sorted(finding.severity for finding in findings)
    assert all(
        finding.advice in lines[2 * place + 1]
        for place, finding in enumerate(sorted(findings, key=lambda each: each.severity))
    )
    assert {finding.code for finding in findings} == {line.split()[1].rstrip(":") for line in lines[::2]}


def test_no_findings_as_text():
    assert format_findings([]) == "No mistakes found."
