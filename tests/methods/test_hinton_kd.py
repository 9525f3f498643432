"""Hinton's soft targets, as an objective."""

import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from terms_and_gradients import gradient, total
from torch import Tensor

from kdrepro.methods.hinton_kd import HintonKD, frequency_bias, tuned_bias, with_bias
from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs


def case(*leading: int, classes: int = 6, seed: int = 0) -> tuple[Outputs, Outputs, Batch]:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *leading, classes, generator=random, dtype=torch.float64) * 3
    targets = torch.randint(classes, leading, generator=random)
    return (
        Outputs(student.requires_grad_()),
        Outputs(teacher.requires_grad_()),
        Batch(torch.zeros(leading), targets),
    )


@pytest.mark.parametrize(("temperature", "soft_weight"), [(1.0, 0.5), (4.0, 0.9), (20.0, 0.1), (0.5, 0.3)])
def test_it_is_the_papers_sum_row_by_row(temperature, soft_weight):
    student, teacher, batch = case(9)
    soft, hard = [], []
    for q, p, target in zip(
        student.logits.detach().numpy(), teacher.logits.detach().numpy(), batch.targets, strict=True
    ):
        softened = scipy.special.softmax(p / temperature), scipy.special.softmax(q / temperature)
        soft.append(temperature**2 * scipy.stats.entropy(*softened))
        hard.append(-scipy.special.log_softmax(q)[target])
    terms = HintonKD(temperature=temperature, soft_weight=soft_weight)(student, teacher, batch)
    assert set(terms) == {"soft", "hard"}
    assert terms["soft"].item() == pytest.approx(soft_weight * np.mean(soft))
    assert terms["hard"].item() == pytest.approx((1 - soft_weight) * np.mean(hard))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_weight_is_continuous_at_either_end_value_and_gradient(end):
    student, teacher, batch = case(9)
    at_end = total(HintonKD(temperature=7.0, soft_weight=end)(student, teacher, batch))
    near = total(HintonKD(temperature=7.0, soft_weight=abs(end - 1e-9))(student, teacher, batch))
    torch.testing.assert_close(near, at_end, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        gradient(near, student.logits), gradient(at_end, student.logits), rtol=0, atol=1e-7
    )


def test_at_weight_0_it_is_supervised_and_asks_for_no_teacher():
    student, _, batch = case(9)
    terms = HintonKD(temperature=7.0, soft_weight=0.0)(student, None, batch)
    assert terms == Supervised()(student, None, batch)


def test_at_weight_1_it_asks_for_no_targets():
    student, teacher, batch = case(9)
    objective = HintonKD(temperature=7.0, soft_weight=1.0)
    unlabelled = Batch(batch.inputs, None)
    assert set(objective(student, teacher, unlabelled)) == {"soft"}
    assert total(objective(student, teacher, unlabelled)) == total(objective(student, teacher, batch))


def test_it_does_not_depend_on_order_and_averages_over_the_batch():
    student, teacher, batch = case(12)
    objective = HintonKD(temperature=3.0, soft_weight=0.7)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))

    def over(rows) -> Tensor:
        part = Batch(batch.inputs[rows], batch.targets[rows])
        return total(objective(Outputs(student.logits[rows]), Outputs(teacher.logits[rows]), part))

    whole = over(slice(None))
    torch.testing.assert_close(over(order), whole)
    torch.testing.assert_close((over(slice(0, 6)) + over(slice(6, 12))) / 2, whole)
    torch.testing.assert_close(over(torch.arange(12).repeat(3)), whole)


def test_the_teacher_gets_no_gradient():
    student, teacher, batch = case(9)
    total(HintonKD(temperature=3.0, soft_weight=0.7)(student, teacher, batch)).backward()
    assert teacher.logits.grad is None
    assert student.logits.grad.abs().sum() > 0


def test_both_terms_leave_out_padding_and_reach_the_rest():
    student, teacher, batch = case(2, 5)
    mask = torch.tensor([[False, True, True, True, False], [False, True, False, False, False]])
    targets = batch.targets.masked_fill(~mask, -100)
    masked = Batch(batch.inputs, targets, mask)
    terms = HintonKD(temperature=3.0, soft_weight=0.7)(student, teacher, masked)
    for term in terms.values():
        assert torch.equal(gradient(term, student.logits).abs().sum(-1) > 0, mask)
    rows = (
        Outputs(student.logits[mask]),
        Outputs(teacher.logits[mask]),
        Batch(batch.inputs[mask], batch.targets[mask]),
    )
    torch.testing.assert_close(total(terms), total(HintonKD(temperature=3.0, soft_weight=0.7)(*rows)))


def test_the_gradient_is_that_of_finite_differences():
    _, teacher, batch = case(4)
    student, objective = case(4, seed=1)[0], HintonKD(temperature=2.0, soft_weight=0.6)
    assert torch.autograd.gradcheck(
        lambda logits: total(objective(Outputs(logits), teacher, batch)), student.logits
    )


def test_it_learns_nothing_itself_and_says_what_it_is():
    objective = HintonKD(temperature=4, soft_weight=1)
    assert list(objective.parameters()) == []
    assert repr(objective) == "HintonKD(temperature=4.0, soft_weight=1.0)"


def test_hyper_parameters_are_named():
    with pytest.raises(TypeError, match="positional argument"):
        HintonKD(4.0, 0.9)


def biased(count: int = 300, classes: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than not, except that classes 2 and 4 come out too low."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random) + 2 * torch.nn.functional.one_hot(targets, classes)
    logits[:, [2, 4]] -= 1.5
    return logits, targets


def errors_by_hand(logits: Tensor, targets: Tensor, classes: list[int], amount: float) -> int:
    wrong = 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        raised = [value + amount if place in classes else value for place, value in enumerate(row)]
        wrong += raised.index(max(raised)) != target
    return wrong


@pytest.mark.parametrize(("classes", "seed"), [([2], 0), ([4], 1), ([2, 4], 2), ([0], 3)])
def test_the_tuned_bias_leaves_the_fewest_errors_and_is_the_one_nearest_0(classes, seed):
    logits, targets = biased(seed=seed)
    amounts = [step / 10 for step in range(-200, 201)]
    errors = {amount: errors_by_hand(logits, targets, classes, amount) for amount in amounts}
    fewest = min(errors.values())
    expected = min((amount for amount in amounts if errors[amount] == fewest), key=abs)
    assert tuned_bias(logits, targets, classes=classes) == pytest.approx(expected, abs=1e-5)


def test_the_tuned_bias_of_what_needs_none_is_0():
    targets = torch.tensor([0, 1, 2])
    assert tuned_bias(5 * torch.eye(3), targets, classes=[1]) == 0


@pytest.mark.parametrize("frequency", [0.02, 0.1, 0.35, 0.9])
@pytest.mark.parametrize("classes", [[2], [2, 4]])
def test_the_frequency_bias_gives_the_classes_their_frequency(classes, frequency):
    logits, _ = biased()
    amount = frequency_bias(logits, classes=classes, frequency=frequency)
    raised = logits.double().numpy()
    raised[:, classes] += amount
    share = scipy.special.softmax(raised, axis=-1)[:, classes].sum(axis=-1).mean()
    assert share == pytest.approx(frequency, abs=1e-9)


def test_the_frequency_bias_of_what_is_already_so_is_0():
    logits, _ = biased()
    share = logits.double().softmax(-1)[:, 2].mean().item()
    assert frequency_bias(logits, classes=[2], frequency=share) == pytest.approx(0, abs=1e-9)


def test_a_frequency_that_no_amount_gives_is_refused():
    for frequency in (0, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf"frequency: got {frequency}, expected a number in \(0, 1\)"):
            frequency_bias(biased()[0], classes=[2], frequency=frequency)


def test_an_amount_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="amount: got nan, expected a finite number"):
        with_bias(biased()[0], classes=[2], amount=float("nan"))


def test_no_amount_changes_the_probability_of_all_classes():
    with pytest.raises(ValueError, match="classes: got all 6, expected fewer"):
        frequency_bias(biased()[0], classes=range(6), frequency=0.5)


CORRECTIONS = {
    "tuned_bias": lambda logits, classes: tuned_bias(logits, biased()[1], classes=classes),
    "frequency_bias": lambda logits, classes: frequency_bias(logits, classes=classes, frequency=0.1),
    "with_bias": lambda logits, classes: with_bias(logits, classes=classes, amount=1.0),
}


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"classes: got \[\], expected different class numbers from 0 to 5, at least one"),
        ([2, 2], r"classes: got \[2, 2\], expected different class numbers from 0 to 5"),
        ([2, 6], r"classes: got \[2, 6\], expected different class numbers from 0 to 5"),
        ([-1], "classes: got -1, expected a whole number of at least 0"),
        ([2.0], r"classes: got 2\.0 \(float\), expected a whole number"),
    ],
    ids=str,
)
def test_a_correction_is_of_different_classes_that_there_are(name, classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CORRECTIONS[name](biased()[0], classes)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_is_of_logits_of_examples(name):
    for shape in ((6,), (2, 150, 6)):
        with pytest.raises(
            ValueError, match=rf"logits: got shape {re.escape(str(shape))}, expected \(N, K\)"
        ):
            CORRECTIONS[name](torch.zeros(shape), [2])
    with pytest.raises(TypeError, match=r"logits: got torch\.int64, expected floating-point logits"):
        CORRECTIONS[name](torch.zeros(300, 6, dtype=torch.int64), [2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda targets: targets[:1], r"targets: got shape \(1,\), expected \(300,\)"),
        (lambda targets: targets.float(), r"targets: got torch\.float32, expected integer class numbers"),
        (lambda targets: targets + 1, "targets: got values from 1 to 6, expected class numbers from 0 to 5"),
    ],
    ids=["shape", "kind", "range"],
)
def test_the_bias_is_tuned_on_the_classes_of_the_examples(change, message):
    logits, targets = biased()
    with pytest.raises((TypeError, ValueError), match=message):
        tuned_bias(logits, change(targets), classes=[2])


def test_a_bias_is_added_to_the_classes_and_to_nothing_else():
    logits, _ = biased()
    before = logits.clone()
    raised = with_bias(logits, classes=[2, 4], amount=1.5)
    assert torch.equal(logits, before)
    assert torch.equal(raised[:, [0, 1, 3, 5]], logits[:, [0, 1, 3, 5]])
    torch.testing.assert_close(raised[:, [2, 4]], logits[:, [2, 4]] + 1.5)
