"""What is measured on logits, against scikit-learn, scipy, and loops."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.metrics import accuracy_score, log_loss

from kdrepro import metrics


def case(count: int = 500, classes: int = 7, *, scale: float = 2.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * scale
    targets = torch.randint(classes, (count,), generator=generator)
    # Half of them right, so that confidence and accuracy are not both at chance.
    targets[::2] = logits.argmax(dim=-1)[::2]
    return logits, targets


def calibration_by_hand(logits: torch.Tensor, targets: torch.Tensor, bins: int) -> float:
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=-1)
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [
            (row.max(), row.argmax() == target)
            for row, target in zip(probabilities, targets.numpy(), strict=True)
            if low < row.max() <= high
        ]
        if inside:
            confidence, right = np.mean([each for each, _ in inside]), np.mean([each for _, each in inside])
            total += len(inside) / len(targets) * abs(right - confidence)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_errors_accuracy_and_likelihood_are_scikit_learns(seed):
    logits, targets = case(seed=seed)
    share = accuracy_score(targets, logits.argmax(dim=-1))
    assert metrics.accuracy(logits, targets) == pytest.approx(share)
    assert metrics.errors(logits, targets) == round((1 - share) * 500)
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=-1)
    expected = log_loss(targets, probabilities, labels=range(7))
    assert metrics.negative_log_likelihood(logits, targets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bins", [1, 2, 15, 40])
@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
def test_calibration_error_is_that_of_a_loop_over_bins(scale, bins):
    logits, targets = case(scale=scale)
    expected = calibration_by_hand(logits, targets, bins)
    assert metrics.calibration_error(logits, targets, bins=bins) == pytest.approx(expected, abs=1e-5)


def test_calibration_has_15_bins_unless_told():
    logits, targets = case()
    assert metrics.calibration_error(logits, targets) == metrics.calibration_error(logits, targets, bins=15)


def test_calibration_of_the_certain_and_of_the_calibrated():
    certain = torch.tensor([[1000.0, 0.0]]).repeat(10, 1)
    assert metrics.calibration_error(certain, torch.zeros(10, dtype=torch.int64)) == 0
    assert metrics.calibration_error(certain, torch.ones(10, dtype=torch.int64)) == 1
    four_of_five = torch.tensor([[math.log(4.0), 0.0]]).repeat(5, 1)
    assert metrics.calibration_error(four_of_five, torch.tensor([0, 0, 1, 0, 0])) == pytest.approx(
        0, abs=1e-6
    )


def test_agreement_is_the_share_of_equal_classes():
    one, other = case(seed=0)[0], case(seed=1)[0]
    expected = np.mean([int(a.argmax()) == int(b.argmax()) for a, b in zip(one, other, strict=True)])
    assert metrics.agreement(one, other) == pytest.approx(expected)
    assert metrics.agreement(one, 3 * one + 7) == 1


def test_half_precision_is_measured_in_float32():
    logits, targets = case()
    half = logits.bfloat16()
    for measure in (metrics.errors, metrics.negative_log_likelihood, metrics.calibration_error):
        assert measure(half, targets) == measure(half.float(), targets)


def test_a_classifiers_metrics_have_the_names_of_rows():
    logits, targets = case()
    found = metrics.classification("test", logits, targets)
    assert found == {
        "test_errors": metrics.errors(logits, targets),
        "test_error_rate": metrics.errors(logits, targets) / 500,
        "test_accuracy": metrics.accuracy(logits, targets),
        "test_nll": metrics.negative_log_likelihood(logits, targets),
        "test_ece": metrics.calibration_error(logits, targets),
    }
    assert set(metrics.classification("bias", logits, targets)) == {
        name.replace("test", "bias") for name in found
    }


@pytest.mark.parametrize("measure", [metrics.errors, metrics.accuracy, metrics.calibration_error])
def test_targets_that_do_not_fit_are_refused(measure):
    logits, targets = case()
    with pytest.raises(ValueError, match=r"targets: got shape \(499,\), expected \(500,\)"):
        measure(logits, targets[:-1])
    with pytest.raises(ValueError, match="targets: got values from 0 to 7"):
        measure(logits, targets + (torch.arange(500) == 0) * (7 - targets))
    with pytest.raises(TypeError, match="targets"):
        measure(logits, targets.float())


def test_several_positions_an_example_are_so_many_examples():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    for measure in (metrics.accuracy, metrics.negative_log_likelihood, metrics.calibration_error):
        flat = measure(logits.flatten(0, 1), targets.flatten().long())
        assert measure(logits, targets) == pytest.approx(flat), measure.__name__


def test_a_confidence_between_two_bins_is_in_the_lower_one():
    # (0, ½] and (½, 1], as the paper has them.
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert metrics.calibration_error(logits, torch.tensor([0, 1]), bins=2) == pytest.approx((0.5 + 0.75) / 2)
