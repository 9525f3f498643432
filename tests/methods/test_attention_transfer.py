"""Attention transfer and the regression of full activations, as objectives."""

import copy

import pytest
import torch
from attention_objectives import case, every_tensor, renamed, rows_of
from small_networks import snapshot
from terms_and_gradients import total
from torch import Tensor, nn

from kdrepro.distiller import Distiller
from kdrepro.methods.attention_transfer import AttentionTransfer, FullActivationTransfer
from kdrepro.types import Batch, Outputs

OBJECTIVES = {
    "attention": AttentionTransfer(["wide", "deep"], attention_weight=10.0, form="paper", soft_weight=0.5),
    "activations": FullActivationTransfer(
        ["wide", "deep"], channels={"wide": (3, 5)}, activation_weight=2.0
    ).double(),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


@every_objective
def test_the_teacher_gets_no_gradient_and_every_part_of_the_student_does(objective):
    student, teacher, batch = case()
    total(objective(student, teacher, batch)).backward()
    assert all(value.grad is None for value in every_tensor(teacher))
    assert all(value.grad.abs().sum() > 0 for value in every_tensor(student))


@every_objective
def test_it_averages_over_the_batch_whatever_its_order(objective):
    student, teacher, batch = case(12)

    def over(rows) -> Tensor:
        part = Batch(batch.inputs[rows], batch.targets[rows])
        return total(objective(rows_of(student, rows), rows_of(teacher, rows), part))

    whole = over(slice(None))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(over(order), whole)
    torch.testing.assert_close((over(slice(0, 6)) + over(slice(6, 12))) / 2, whole)


@every_objective
def test_samples_that_do_not_count_change_nothing(objective):
    student, teacher, batch = case()
    mask = torch.tensor([True, False, True, True, False, True])
    masked = Batch(batch.inputs, batch.targets.masked_fill(~mask, -100), mask)
    counted = Batch(batch.inputs[mask], batch.targets[mask])
    terms = objective(student, teacher, masked)
    expected = objective(rows_of(student, mask), rows_of(teacher, mask), counted)
    assert set(terms) == set(expected)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])
        parts = torch.autograd.grad(value, every_tensor(student), retain_graph=True, allow_unused=True)
        assert all(part[~mask].abs().max() == 0 for part in parts if part is not None)


@every_objective
def test_features_in_half_precision_give_terms_in_float32(objective):
    # On the CPU, and from a net under autocast, features come in bfloat16 beside an objective in float32.
    student, teacher, batch = case(dtype=torch.bfloat16)
    terms = copy.deepcopy(objective).float()(student, teacher, batch)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    total(terms).backward()
    assert all(value.grad.isfinite().all() for value in every_tensor(student))


@every_objective
@pytest.mark.parametrize("missing", ["student", "teacher"])
def test_a_feature_that_is_not_there_names_the_side_what_is_there_and_taps(objective, missing):
    student, teacher, batch = case()
    bare = {"student": student, "teacher": teacher}
    bare[missing] = renamed(bare[missing], wide="layer1", deep="deep")
    with pytest.raises(
        ValueError, match=rf"^{missing}: got the features deep, layer1, expected 'wide': .*kdrepro\.Taps"
    ):
        objective(bare["student"], bare["teacher"], batch)
    bare[missing] = Outputs(bare[missing].logits)
    with pytest.raises(ValueError, match=rf"^{missing}: got the features none, expected 'wide'"):
        objective(bare["student"], bare["teacher"], batch)


def test_hyper_parameters_are_named():
    with pytest.raises(TypeError, match="positional argument"):
        AttentionTransfer(["deep"], 1000.0)
    with pytest.raises(TypeError, match="positional argument"):
        FullActivationTransfer(["deep"], 1.0)


class Net(nn.Module):
    """A small net with two stages, which gives its features itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 4, 3, stride=2, padding=1)
        self.classes = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Outputs:
        wide = self.first(inputs)
        deep = self.second(wide.relu())
        return Outputs(self.classes(deep.relu().mean((2, 3))), {"wide": wide, "deep": deep})


@pytest.mark.parametrize(
    ("objective", "learns"),
    [
        (AttentionTransfer(["wide", "deep"], attention_weight=50.0, form="paper"), "attention"),
        (
            FullActivationTransfer(["wide", "deep"], channels={"wide": (2, 6)}, activation_weight=5.0),
            "activation",
        ),
    ],
    ids=["attention", "activations"],
)
def test_training_brings_the_student_nearer_the_adapter_with_it_and_leaves_the_teacher(objective, learns):
    torch.manual_seed(0)
    teacher, student = Net(6), Net(2)
    before = snapshot(teacher)["bytes"]
    distiller = Distiller(teacher, student, copy.deepcopy(objective))
    own = [parameter.detach().clone() for parameter in distiller.objective.parameters()]
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.02)
    inputs, targets = torch.randn(16, 1, 8, 8), torch.randint(3, (16,))
    losses = []
    for _ in range(60):
        out = distiller(inputs, targets)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms[learns].item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(
        not torch.equal(now, then) for now, then in zip(distiller.objective.parameters(), own, strict=True)
    )
    assert snapshot(teacher)["bytes"] == before
