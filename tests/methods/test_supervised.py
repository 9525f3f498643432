"""Plain training on the true classes."""

import torch

from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs


def batch_of(count: int, classes: int = 5, *, mask=None) -> tuple[Outputs, Batch]:
    random = torch.Generator().manual_seed(count)
    logits = torch.randn(count, classes, generator=random, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(classes, (count,), generator=random)
    return Outputs(logits), Batch(torch.zeros(count, 1), targets, mask)


def test_it_is_torchs_mean_cross_entropy():
    student, batch = batch_of(12)
    terms = Supervised()(student, None, batch)
    assert list(terms) == ["hard"]
    torch.testing.assert_close(
        terms["hard"], torch.nn.functional.cross_entropy(student.logits, batch.targets)
    )


def test_the_teacher_is_not_looked_at():
    student, batch = batch_of(4)
    nonsense = Outputs(torch.full((1, 2), torch.nan))
    assert Supervised()(student, nonsense, batch)["hard"] == Supervised()(student, None, batch)["hard"]


def test_masked_positions_get_no_gradient_whatever_their_target():
    mask = torch.tensor([True, False, True, False])
    student, batch = batch_of(4, mask=mask)
    batch.targets[~mask] = -100
    loss = Supervised()(student, None, batch)["hard"]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(student.logits, batch.targets))
    loss.backward()
    assert torch.equal(student.logits.grad.abs().sum(-1) > 0, mask)
