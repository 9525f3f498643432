"""FitNets' two stages in one and in training, and what they refuse."""

import copy

import pytest
import torch
from fitnet_objectives import case, hints, soft_targets
from small_networks import snapshot
from torch import Tensor, nn
from torch.optim import SGD, RMSprop

from kdrepro import Batches, Taps, fit
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet, regressor
from kdrepro.methods.supervised import Supervised
from kdrepro.teacher import FrozenTeacher, temperature_of
from kdrepro.types import Batch, Outputs

# Both in one stage.


@pytest.mark.parametrize("beside", [Supervised(), soft_targets()])
def test_in_one_stage_the_hint_is_a_weighted_mean_square_beside_the_rest(beside):
    student, teacher, batch = case()
    objective = JointFitNet(hints(), beside, hint_weight=100.0)
    terms = objective(student, teacher, batch)
    squares = nn.functional.mse_loss(objective.hints.guided(student), teacher.features["hint"])
    torch.testing.assert_close(terms["hint"], 100 * squares)
    assert {name: value for name, value in terms.items() if name != "hint"} == beside(student, teacher, batch)


def test_in_one_stage_the_hint_weighs_as_in_two_at_half_the_number_of_elements():
    student, teacher, batch = case()
    elements = teacher.features["hint"][0].numel()
    joint = JointFitNet(hints(), Supervised(), hint_weight=elements / 2)(student, teacher, batch)
    torch.testing.assert_close(joint["hint"], hints()(student, teacher, batch)["hint"])


def test_in_one_stage_the_weight_of_the_soft_targets_falls_too():
    soft = soft_targets()
    objective = JointFitNet(hints(), soft, hint_weight=1.0)
    objective.start_epoch(5)
    assert soft.weight_now == pytest.approx(2.5)
    JointFitNet(hints(), Supervised(), hint_weight=1.0).start_epoch(5)
    assert temperature_of(objective) == 3.0


# In training.


def net(seed: int, channels: int, side: int) -> nn.Sequential:
    """Three convolutions and a classifier; `side` is the kernel of the second."""
    torch.manual_seed(seed)
    layers = [
        ("layer1", nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU())),
        ("layer2", nn.Sequential(nn.Conv2d(channels, channels, side), nn.ReLU())),
        ("layer3", nn.Sequential(nn.Conv2d(channels, channels, 3), nn.ReLU())),
        ("classifier", nn.Sequential(nn.Flatten(), nn.LazyLinear(5))),
    ]
    made = nn.Sequential()
    for name, layer in layers:
        made.add_module(name, layer)
    made(torch.zeros(1, 1, 10, 10))
    return made


IMAGES = torch.randn(24, 1, 10, 10, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (24,), generator=torch.Generator().manual_seed(1))


def batches() -> Batches:
    return Batches(IMAGES, TARGETS, batch_size=8, seed=3)


def first_stage(**changes) -> tuple[nn.Sequential, HintStage, nn.Sequential, dict[str, Tensor]]:
    """Train stage 1; the student before it, as weights, comes last."""
    student, teacher = net(0, 3, 2), net(1, 6, 4)
    before = copy.deepcopy(student.state_dict())
    torch.manual_seed(2)
    fitted = regressor((3, 7, 7), (6, 5, 5), activation=nn.ReLU())
    objective = HintStage(fitted, student_tap="guided", teacher_tap="hint")
    settings = {"optimizer": lambda parameters: RMSprop(parameters, lr=0.003), "epochs": 4, "device": "cpu"}
    fit(
        Taps(student, {"guided": "layer2"}),
        objective,
        batches(),
        teacher=FrozenTeacher(Taps(teacher, {"hint": "layer2"})),
        **(settings | {"precision": "fp32"} | changes),
    )
    return student, objective, teacher, before


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: RMSprop(parameters, lr=0.003),
        # Decay would move even what has no gradient of its own, if it had one of 0.
        lambda parameters: SGD(parameters, lr=0.003, momentum=0.9, weight_decay=0.1),
    ],
)
def test_stage_1_moves_the_guided_layers_and_the_regressor_and_nothing_else(optimizer):
    student, objective, teacher, before = first_stage(optimizer=optimizer)
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layer1.0.weight", "layer1.0.bias", "layer2.0.weight", "layer2.0.bias"}
    torch.manual_seed(2)
    initial = regressor((3, 7, 7), (6, 5, 5), activation=nn.ReLU()).state_dict()
    assert all(
        not torch.equal(initial[name], value) for name, value in objective.regressor.state_dict().items()
    )
    fresh = snapshot(net(1, 6, 4))
    assert snapshot(teacher)["bytes"] == fresh["bytes"]


def test_stage_1_comes_nearer_to_the_hint():
    losses = {epochs: distance(*first_stage(epochs=epochs)[:3]) for epochs in (1, 40)}
    assert losses[40] < 0.8 * losses[1]


def distance(student: nn.Sequential, objective: HintStage, teacher: nn.Sequential) -> float:
    with torch.no_grad():
        ours = Taps(student, {"guided": "layer2"})(IMAGES)
        theirs = Taps(teacher, {"hint": "layer2"})(IMAGES)
        return objective(ours, theirs, Batch(IMAGES, TARGETS))["hint"].item()


def test_stage_2_moves_every_layer_and_leaves_the_regressor():
    student, objective, teacher, _ = first_stage()
    before, fitted = copy.deepcopy(student.state_dict()), copy.deepcopy(objective.state_dict())
    fit(
        student,
        soft_targets(),
        batches(),
        teacher=teacher,
        optimizer=lambda parameters: SGD(parameters, lr=0.1),
        epochs=1,
        device="cpu",
    )
    assert all(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    torch.testing.assert_close(objective.state_dict(), fitted, rtol=0, atol=0)


def test_the_engine_tells_the_objective_its_epoch():
    seen = []

    class Watched(FitNetKD):
        def start_epoch(self, epoch: int) -> None:
            super().start_epoch(epoch)
            seen.append((epoch, self.weight_now))

    objective = Watched(temperature=3.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=2)
    seen.clear()
    fit(
        net(0, 3, 2),
        objective,
        batches(),
        teacher=net(1, 6, 4),
        optimizer=lambda parameters: SGD(parameters, lr=0.01),
        epochs=4,
        device="cpu",
    )
    assert seen == [(0, 4.0), (1, 2.5), (2, 1.0), (3, 1.0)]


# What is refused.


@pytest.mark.parametrize("objective", [hints(), JointFitNet(hints(), Supervised(), hint_weight=1.0)])
def test_a_missing_feature_is_named_with_those_that_are_there(objective):
    student, teacher, batch = case()
    with pytest.raises(ValueError, match=r"^teacher: got None, expected the teacher's outputs"):
        objective(student, None, batch)
    with pytest.raises(ValueError, match=r"teacher: got the features none, expected 'hint': .*kdrepro\.Taps"):
        objective(student, Outputs(teacher.logits), batch)
    with pytest.raises(ValueError, match=r"teacher: got the features other, expected 'hint'"):
        objective(student, Outputs(teacher.logits, {"other": teacher.logits}), batch)
    with pytest.raises(
        ValueError, match=r"student: got the features none, expected 'guided': .*kdrepro\.Taps"
    ):
        objective(Outputs(student.logits), teacher, batch)


def test_a_hint_of_another_shape_is_named():
    student, teacher, batch = case()
    smaller = Outputs(teacher.logits, {"hint": teacher.features["hint"][..., 1:]})
    with pytest.raises(
        ValueError, match=r"student_feature: got shape \(6, 4, 4, 4\), expected the teacher's"
    ):
        hints()(student, smaller, batch)


def test_stage_2_without_a_teacher_is_refused():
    student, _, batch = case()
    with pytest.raises(ValueError, match="teacher: got None, expected the teacher's outputs"):
        soft_targets()(student, None, batch)


def test_they_say_how_they_are_set():
    assert "soften_student=False" in repr(soft_targets(soften_student=False))
    assert "student_tap='guided', teacher_tap='hint'" in repr(hints())
    assert "hint_weight=7.0" in repr(JointFitNet(hints(), Supervised(), hint_weight=7.0))


def test_a_hint_inside_a_hint_is_refused_rather_than_lost():
    hints = HintStage(nn.Identity(), student_tap="s", teacher_tap="t")
    nested = JointFitNet(hints, JointFitNet(hints, Supervised(), hint_weight=1.0), hint_weight=1.0)
    outputs = Outputs(torch.zeros(2, 5), {"s": torch.ones(2, 3), "t": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="objective: got JointFitNet, which has a term named 'hint' itself"):
        nested(outputs, outputs, Batch(torch.zeros(2), torch.tensor([0, 1])))


def test_what_is_no_module_or_no_hint_stage_is_refused_by_name():
    with pytest.raises(TypeError, match=r"regressor: got str, expected a module, such as .*make_regressor"):
        HintStage("nn.Conv2d(3, 4, 1)", student_tap="a", teacher_tap="b")
    with pytest.raises(
        TypeError, match="hints: got Supervised, expected a HintStage; the objective comes second"
    ):
        JointFitNet(Supervised(), hints(), hint_weight=1.0)
