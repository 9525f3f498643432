"""Hints and FitNets' soft targets, as objectives, and the two stages in training."""

import copy

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from small_networks import snapshot
from torch import Tensor, nn
from torch.optim import SGD, RMSprop

from kdrepro import Batches, Taps, fit
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet, regressor
from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.methods.supervised import Supervised
from kdrepro.models.maxout import Maxout
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

STUDENT_MAP, TEACHER_MAP = (3, 6, 5), (4, 4, 4)


def case(samples: int = 6) -> tuple[Outputs, Outputs, Batch]:
    """Student and teacher with the features `guided` and `hint`, in float64."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=random, dtype=torch.float64).requires_grad_()

    student = Outputs(drawn(7), {"guided": drawn(*STUDENT_MAP)})
    teacher = Outputs(drawn(7), {"hint": drawn(*TEACHER_MAP)})
    return student, teacher, Batch(torch.zeros(samples), torch.randint(7, (samples,), generator=random))


def hints(**changes) -> HintStage:
    torch.manual_seed(1)
    fitted = regressor(STUDENT_MAP, TEACHER_MAP, activation=Maxout(pieces=2), pieces=2).double()
    return HintStage(fitted, **{"student_tap": "guided", "teacher_tap": "hint", **changes})


def soft_targets(**changes) -> FitNetKD:
    settings = {"temperature": 3.0, "soft_weight": 4.0, "final_soft_weight": 1.0, "decay_epochs": 10}
    return FitNetKD(**(settings | changes))


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)


# The regressor.


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "kernel"),
    [
        ((16, 4, 4), (48, 4, 4), (1, 1)),
        ((16, 8, 8), (48, 7, 7), (2, 2)),
        ((3, 16, 12), (5, 6, 12), (11, 1)),
        (torch.Size((3, 5, 5)), torch.Size((1, 1, 1)), (5, 5)),
    ],
)
def test_the_regressor_brings_one_map_to_the_size_of_the_other(student_shape, teacher_shape, kernel, pieces):
    activation = Maxout(pieces=pieces) if pieces > 1 else nn.ReLU()
    fitted = regressor(student_shape, teacher_shape, activation=activation, pieces=pieces)
    convolution = fitted[0]
    assert convolution.kernel_size == kernel
    assert convolution.padding == (0, 0)
    assert convolution.out_channels == pieces * teacher_shape[0]
    assert fitted(torch.zeros(2, *student_shape)).shape == (2, *teacher_shape)
    assert fitted[1] is activation


def test_without_a_non_linearity_it_is_the_convolution_alone():
    assert [type(layer) for layer in regressor((2, 3, 3), (4, 3, 3))] == [nn.Conv2d]


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "says"),
    [
        ((16, 3, 4), (48, 4, 4), r"student_shape: got a map of \(3, 4\), expected none smaller .* \(4, 4\)"),
        ((16, 4), (48, 4, 4), r"got \(16, 4\) and \(48, 4, 4\), expected \(C, H, W\) each"),
        ((16, 4, 4), (2, 48, 4, 4), r"got .*, expected \(C, H, W\) each"),
    ],
)
def test_maps_that_no_regressor_fits_are_named(student_shape, teacher_shape, says):
    with pytest.raises(ValueError, match=says):
        regressor(student_shape, teacher_shape)


# Stage 1.


def test_stage_1_is_half_the_squared_distance_by_a_loop():
    student, teacher, batch = case()
    objective = hints()
    weight, bias = (
        objective.regressor[0].weight.detach().numpy(),
        objective.regressor[0].bias.detach().numpy(),
    )
    distances = []
    for guided, hint in zip(student.features["guided"], teacher.features["hint"], strict=True):
        values, sum_of_squares = guided.detach().numpy(), 0.0
        for channel in range(4):
            for y in range(4):
                for x in range(4):
                    window = values[:, y : y + 3, x : x + 2]
                    pieces = [(window * weight[c]).sum() + bias[c] for c in (channel, channel + 4)]
                    sum_of_squares += (hint[channel, y, x].item() - max(pieces)) ** 2
        distances.append(sum_of_squares / 2)
    terms = objective(student, teacher, batch)
    assert set(terms) == {"hint"}
    assert terms["hint"].item() == pytest.approx(np.mean(distances))


def test_the_gradient_of_stage_1_reaches_the_guided_feature_and_the_regressor_only():
    student, teacher, batch = case()
    objective = hints()
    loss = total(objective(student, teacher, batch))
    reached = gradients(loss, student.features["guided"], *objective.parameters())
    assert all(each is not None and each.any() for each in reached)
    assert gradients(loss, student.logits, teacher.logits, teacher.features["hint"]) == (None, None, None)


def test_stage_1_looks_at_no_labels():
    student, teacher, batch = case()
    assert hints()(student, teacher, Batch(batch.inputs, None)) == hints()(student, teacher, batch)


def test_stage_1_is_0_where_the_regressor_reaches_the_hint():
    student, _, batch = case()
    objective = hints()
    reached = Outputs(student.logits, {"hint": objective.guided(student).detach()})
    loss = total(objective(student, reached, batch))
    assert loss == 0
    assert not gradients(loss, student.features["guided"])[0].any()


def test_half_precision_features_are_compared_in_float32():
    student, teacher, batch = case()
    objective = hints().float()
    halved = Outputs(student.logits, {"guided": student.features["guided"].bfloat16()})
    term = objective(halved, teacher, batch)["hint"]
    assert term.dtype == torch.float64  # the teacher's
    wide = Outputs(student.logits, {"guided": student.features["guided"].bfloat16().float()})
    torch.testing.assert_close(term, objective(wide, teacher, batch)["hint"])


# Stage 2.


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
    assert objective.temperature == 3.0
    assert JointFitNet(hints(), Supervised(), hint_weight=1.0).temperature == 1.0


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
        # Decay and momentum would move even what has no gradient of its own, if it had one of 0.
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
    with pytest.raises(ValueError, match=r"teacher: got the features none, expected 'hint': .*kdrepro\.Taps"):
        objective(student, None, batch)
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


def test_samples_that_do_not_count_leave_no_trace_in_a_hint():
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, 2, 2, generator=chance), torch.randn(4, 3, 2, 2, generator=chance)
    features[0][3], features[1][3] = 100.0, -100.0
    logits, targets = torch.randn(4, 5, generator=chance), torch.tensor([0, 1, 2, -100])
    mask = torch.tensor([True, True, True, False])
    hints = HintStage(nn.Identity(), student_tap="s", teacher_tap="t")
    joint = JointFitNet(hints, Supervised(), hint_weight=2.0)
    for objective in (hints, joint):
        found = objective(
            Outputs(logits, {"s": features[0]}),
            Outputs(logits, {"t": features[1]}),
            Batch(logits, targets, mask),
        )
        expected = objective(
            Outputs(logits[:3], {"s": features[0][:3]}),
            Outputs(logits[:3], {"t": features[1][:3]}),
            Batch(logits[:3], targets[:3]),
        )
        torch.testing.assert_close(found, expected)


def test_a_hint_inside_a_hint_is_refused_rather_than_lost():
    hints = HintStage(nn.Identity(), student_tap="s", teacher_tap="t")
    nested = JointFitNet(hints, JointFitNet(hints, Supervised(), hint_weight=1.0), hint_weight=1.0)
    outputs = Outputs(torch.zeros(2, 5), {"s": torch.ones(2, 3), "t": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="objective: got JointFitNet, which has a term named 'hint' itself"):
        nested(outputs, outputs, Batch(torch.zeros(2), torch.tensor([0, 1])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_regressor_in_another_precision_takes_the_feature_in_its_own(dtype):
    hints = HintStage(regressor((3, 4, 4), (5, 2, 2)).to(dtype), student_tap="s", teacher_tap="t")
    student = Outputs(torch.zeros(2, 5), {"s": torch.randn(2, 3, 4, 4, dtype=torch.float64)})
    teacher = Outputs(torch.zeros(2, 5), {"t": torch.randn(2, 5, 2, 2)})
    (term,) = hints(student, teacher, Batch(torch.zeros(2), torch.tensor([0, 1]))).values()
    assert term.isfinite()
