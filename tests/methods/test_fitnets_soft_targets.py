"""FitNets' soft targets, which are stage 2, and their weight that falls."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from fitnet_objectives import case, gradients, soft_targets
from terms_and_gradients import total
from torch import nn

from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_stage_2_is_the_papers_sum_row_by_row_without_the_factor_of_the_temperature(temperature):
    student, teacher, batch = case()
    hard, soft = [], []
    for q, p, target in zip(
        student.logits.detach().numpy(), teacher.logits.detach().numpy(), batch.targets, strict=True
    ):
        hard.append(-scipy.special.log_softmax(q)[target])
        softened = scipy.special.softmax(p / temperature), scipy.special.softmax(q / temperature)
        soft.append(scipy.stats.entropy(*softened))
    terms = soft_targets(temperature=temperature)(student, teacher, batch)
    assert set(terms) == {"hard", "soft"}
    assert terms["hard"].item() == pytest.approx(np.mean(hard))
    assert terms["soft"].item() == pytest.approx(4 * np.mean(soft))


def test_its_gradient_is_that_of_the_papers_cross_entropy():
    student, teacher, batch = case()
    softened = (teacher.logits.detach() / 3).softmax(-1)
    cross_entropy = -(softened * (student.logits / 3).log_softmax(-1)).sum(-1).mean()
    hard = nn.functional.cross_entropy(student.logits, batch.targets)
    ours = total(soft_targets()(student, teacher, batch))
    torch.testing.assert_close(
        gradients(ours, student.logits), gradients(hard + 4 * cross_entropy, student.logits)
    )


def test_it_is_hintons_with_other_weights():
    student, teacher, batch = case()
    ours = soft_targets()(student, teacher, batch)
    theirs = HintonKD(temperature=3.0, soft_weight=0.5)(student, teacher, batch)
    torch.testing.assert_close(ours["hard"], 2 * theirs["hard"])
    torch.testing.assert_close(ours["soft"], 4 * 2 * theirs["soft"] / 3**2)


def test_without_softening_the_student_it_is_the_authors_code():
    student, teacher, batch = case()
    objective = soft_targets(soften_student=False)
    softened = (teacher.logits.detach() / 3).softmax(-1)
    theirs = -(softened * student.logits.log_softmax(-1)).sum(-1).mean()
    entropy = -(softened * softened.log()).sum(-1).mean()
    soft = objective(student, teacher, batch)["soft"]
    torch.testing.assert_close(soft, 4 * (theirs - entropy))
    torch.testing.assert_close(gradients(soft, student.logits), gradients(4 * theirs, student.logits))
    assert soft != soft_targets()(student, teacher, batch)["soft"]


def test_a_teacher_in_half_precision_is_softened_in_single():
    student, teacher, batch = case()
    narrow = teacher.logits.detach().bfloat16()
    objective = soft_targets(soften_student=False)
    soft = objective(student, Outputs(narrow), batch)["soft"]
    assert torch.equal(soft, objective(student, Outputs(narrow.float()), batch)["soft"])


def test_the_teacher_gets_no_gradient():
    student, teacher, batch = case()
    for soften_student in (True, False):
        loss = total(soft_targets(soften_student=soften_student)(student, teacher, batch))
        assert gradients(loss, teacher.logits) == (None,)


def test_the_soft_term_is_0_where_the_student_agrees():
    student, _, batch = case()
    soft = soft_targets()(student, Outputs(student.logits.detach().clone()), batch)["soft"]
    assert soft.abs() < 1e-12
    assert gradients(soft, student.logits)[0].abs().max() < 1e-12


def test_the_weight_falls_linearly_and_stays():
    student, teacher, batch = case()
    objective = soft_targets()
    first = objective(student, teacher, batch)
    for epoch in (0, 1, 5, 9, 10, 11, 500):
        objective.start_epoch(epoch)
        expected = max(1.0, 4 - 0.3 * epoch)
        now = objective(student, teacher, batch)
        torch.testing.assert_close(now["soft"], first["soft"] * expected / 4)
        assert now["hard"] == first["hard"]
        assert objective.weight_now == pytest.approx(expected)


def test_a_weight_of_0_in_the_end_leaves_the_labels():
    student, teacher, batch = case()
    objective = soft_targets(final_soft_weight=0.0)
    objective.start_epoch(10)
    terms = objective(student, teacher, batch)
    assert terms["soft"] == 0
    assert terms["hard"] == Supervised()(student, None, batch)["hard"]


def test_positions_that_do_not_count_are_left_out():
    student, teacher, batch = case()
    mask = torch.tensor([True, True, False, True, False, False])
    targets = batch.targets.masked_fill(~mask, -100)
    masked = soft_targets()(student, teacher, Batch(batch.inputs, targets, mask))
    rest = (Outputs(student.logits[mask]), Outputs(teacher.logits[mask]))
    expected = soft_targets()(*rest, Batch(batch.inputs[mask], batch.targets[mask]))
    torch.testing.assert_close(masked, expected)
