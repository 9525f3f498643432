"""Hinton's soft targets, as an objective."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from kdrepro.methods.hinton_kd import HintonKD
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


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of, retain_graph=True)
    return result


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
