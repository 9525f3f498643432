"""Features under a mask with one value for each position: of samples, and of rows of positions."""

import pytest
import torch
from attention_objectives import case, rows_of
from torch import Tensor, nn

from kdrepro import Distiller
from kdrepro.methods.attention_transfer import AttentionTransfer, FullActivationTransfer
from kdrepro.methods.fitnets import HintStage, JointFitNet
from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs

# Of the six samples the second and the last count nowhere, and of each other one some positions do.
MASK = (torch.arange(6 * 8).reshape(6, 8) % 3 == 0) & torch.tensor([1, 0, 1, 1, 1, 0]).bool()[:, None]
SOME = MASK.any(dim=1)


def deep_hint() -> HintStage:
    torch.manual_seed(1)
    return HintStage(nn.Conv2d(4, 4, 1).double(), student_tap="deep", teacher_tap="deep")


@pytest.mark.parametrize(
    ("objective", "term"),
    [
        (AttentionTransfer(["wide", "deep"], attention_weight=10.0), "attention"),
        (
            FullActivationTransfer(
                ["deep", "wide"], channels={"wide": (3, 5)}, activation_weight=1.0
            ).double(),
            "activation",
        ),
        (deep_hint(), "hint"),
        (JointFitNet(deep_hint(), Supervised(), hint_weight=1.0), "hint"),
    ],
    ids=["attention", "activation", "hint", "joint"],
)
@pytest.mark.parametrize("form", ["rows", "maps"])
def test_a_sample_counts_if_any_position_of_it_does(objective, term, form):
    student, teacher, _ = case()
    logits = torch.randn(6, 8, 7, dtype=torch.float64)
    mask, targets = MASK, torch.randint(7, (6, 8)).masked_fill(~MASK, -100)
    if form == "maps":
        logits, mask, targets = (each.unflatten(1, (2, 4)) for each in (logits, mask, targets))
    student.features["deep"].data[1] = torch.nan
    student, teacher = (Outputs(logits, each.features) for each in (student, teacher))
    found = objective(student, teacher, Batch(torch.zeros(6), targets, mask))
    counted = Batch(torch.zeros(4), targets[SOME], mask[SOME])
    expected = objective(rows_of(student, SOME), rows_of(teacher, SOME), counted)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found[term], student.features["deep"])
    assert gradient[~SOME].abs().max() == 0
    assert gradient[SOME].abs().amax(dim=(1, 2, 3)).min() > 0


def rows(hint_weight: float | None = None, **changes) -> tuple[nn.Module, Outputs, Outputs]:
    """Hints between features (B, L, C), of 3 channels and of 5."""
    torch.manual_seed(2)
    hints = HintStage(nn.Linear(3, 5).double(), student_tap="row", teacher_tap="row")
    logits = torch.randn(6, 8, 7, dtype=torch.float64)
    student = Outputs(logits, {"row": torch.randn(6, 8, 3, dtype=torch.float64).requires_grad_()})
    teacher = Outputs(logits, {"row": torch.randn(6, 8, 5, dtype=torch.float64)})
    whole = hints if hint_weight is None else JointFitNet(hints, Supervised(), hint_weight=hint_weight)
    return whole, student, teacher


def squares(objective: HintStage, student: Outputs, teacher: Outputs) -> Tensor:
    """The squared distance at each position, by hand: (B, L)."""
    seen = student.features["row"] @ objective.regressor.weight.T + objective.regressor.bias
    return (seen - teacher.features["row"]).square().sum(-1)


def test_in_a_row_of_positions_those_that_do_not_count_do_not():
    objective, student, teacher = rows()
    expected = (squares(objective, student, teacher) * MASK).sum(1)[SOME].mean() / 2
    batch = Batch(torch.zeros(6), torch.zeros(6, 8).long(), MASK)
    torch.testing.assert_close(objective(student, teacher, batch)["hint"], expected)
    joint, student, teacher = rows(hint_weight=0.5)
    expected = squares(joint.hints, student, teacher)[MASK].mean() / 5
    torch.testing.assert_close(joint(student, teacher, batch)["hint"], 0.5 * expected)


@pytest.mark.parametrize("hint_weight", [None, 0.5])
def test_a_row_that_counts_everywhere_is_one_without_a_mask(hint_weight):
    objective, student, teacher = rows(hint_weight)
    targets = torch.zeros(6, 8).long()
    found = [
        objective(student, teacher, Batch(torch.zeros(6), targets, mask))["hint"]
        for mask in (None, torch.ones(6, 8, dtype=torch.bool))
    ]
    torch.testing.assert_close(found[1], found[0])


def test_what_stands_where_nothing_counts_reaches_no_gradient():
    objective, student, teacher = rows()
    batch = Batch(torch.zeros(6), None, MASK)
    found = []
    for filled in (1.0, torch.nan):
        student.features["row"].data[~MASK] = filled
        teacher.features["row"][~MASK] = filled
        loss = objective(student, teacher, batch)["hint"]
        found.append([loss, *torch.autograd.grad(loss, [student.features["row"], *objective.parameters()])])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert found[0][1][~MASK].abs().max() == 0


@pytest.mark.parametrize(
    ("feature", "mask", "says", "hint_says"),
    [
        (
            (6, 9, 5),
            (6, 8),
            r"mask: got shape \(6, 8\), expected \(6,\) like the values",
            r"mask: got shape \(6, 8\), expected \(6, 9\), the positions of the hint 'row', or \(6,\)",
        ),
        ((6, 5, 8), (6, 2, 4), *[r"mask: got shape \(6, 2, 4\), expected \(6,\) like the values"] * 2),
    ],
)
def test_a_row_of_other_positions_than_the_mask_has_is_refused(feature, mask, says, hint_says):
    objective = HintStage(nn.Identity(), student_tap="row", teacher_tap="row")
    outputs = Outputs(torch.zeros(*mask, 7), {"row": torch.randn(feature)})
    with pytest.raises(ValueError, match=hint_says):
        objective(outputs, outputs, Batch(torch.zeros(6), None, torch.ones(mask, dtype=torch.bool)))
    activations = FullActivationTransfer(["map", "row"], activation_weight=1.0)
    outputs.features["map"] = torch.randn(6, 2, 3, 3)
    with pytest.raises(ValueError, match=says):
        activations(
            outputs,
            outputs,
            Batch(torch.zeros(6), torch.zeros(mask).long(), torch.ones(mask, dtype=torch.bool)),
        )


def test_a_regressor_that_gives_another_shape_is_named_as_before():
    objective = HintStage(nn.Linear(3, 4), student_tap="row", teacher_tap="row")
    student, teacher = Outputs(torch.zeros(6, 8, 7), {"row": torch.ones(6, 8, 3)}), rows()[2]
    with pytest.raises(ValueError, match=r"student_feature: got shape \(6, 8, 4\), expected the teacher's"):
        objective(student, teacher, Batch(torch.zeros(6), None, MASK))


def test_a_segmentation_that_leaves_points_out_looks_where_its_teacher_looks():
    class Points(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 5, 1)

        def forward(self, inputs):
            hidden = self.body(inputs).relu()
            return Outputs(self.head(hidden).movedim(1, -1), {"body": hidden})

    inputs, targets = torch.randn(8, 3, 16, 16), torch.randint(5, (8, 16, 16))
    targets[:, :4] = 255
    distiller = Distiller(Points(8), Points(4), AttentionTransfer(["body"], attention_weight=10.0))
    out = distiller(inputs, targets, targets != 255)
    everywhere = distiller(inputs, targets.clamp(max=4))
    torch.testing.assert_close(out.terms["attention"], everywhere.terms["attention"])
    assert out.terms["hard"] != everywhere.terms["hard"]
