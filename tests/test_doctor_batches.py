"""The doctor finds what is wrong with a batch, and a teacher that is at chance on it."""

import math

import pytest
import scipy.stats
import torch
from doctor_findings import INPUTS, TARGETS, codes, only, right_teacher
from small_networks import Fixed, network
from torch import nn

from kdrepro import Batch, HintonKD, check
from kdrepro.diagnoses import in_accuracy

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
        (
            TARGETS.to(torch.complex64),
            None,
            "targets_type",
            "got torch.complex64, expected integer class numbers",
        ),
        (TARGETS.tolist(), None, "targets_type", "got list, expected a tensor of class numbers"),
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


@pytest.mark.parametrize(("number", "advised"), [(-100, True), (-101, False), (5, False)])
def test_padding_that_is_not_masked_is_told_how_to_be(number, advised):
    targets = TARGETS.masked_fill(torch.arange(64) % 8 == 0, number)
    advice = only(check(right_teacher(), network(1), (INPUTS, targets)), "targets_out_of_range").advice
    assert ("mask=targets != -100" in advice) == advised


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


def test_logits_of_pictures_without_targets_may_have_their_classes_elsewhere():
    teacher, student = (nn.Conv2d(3, 5, 1) for _ in range(2))
    teacher.eval().requires_grad_(False)
    images = torch.randn(2, 3, 4, 4)
    (finding,) = check(teacher, student, (images, None))
    assert (finding.code, finding.severity) == ("classes_last", "warning")
    assert "(2, 5, 4, 4), of which the last, 4, is the classes" in finding.message
