"""Attention transfer and the regression of full activations, as objectives."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from small_networks import snapshot
from torch import Tensor, nn

from kdrepro.distiller import Distiller
from kdrepro.losses.attention import attention_transfer_loss
from kdrepro.losses.features import hint_loss
from kdrepro.methods.attention_transfer import AttentionTransfer, FullActivationTransfer
from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.methods.supervised import Supervised
from kdrepro.types import Batch, Outputs


def case(samples: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Outputs, Outputs, Batch]:
    """Student and teacher with features `wide` (3 channels and 5) and `deep` (4 and 4)."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()

    student = Outputs(drawn(7), {"wide": drawn(3, 6, 6), "deep": drawn(4, 3, 3)})
    teacher = Outputs(drawn(7), {"wide": drawn(5, 6, 6), "deep": drawn(4, 3, 3)})
    return student, teacher, Batch(torch.zeros(samples), torch.randint(7, (samples,), generator=random))


def renamed(outputs: Outputs, **names: str) -> Outputs:
    return Outputs(outputs.logits, {names[name]: value for name, value in outputs.features.items()})


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def every_tensor(outputs: Outputs) -> list[Tensor]:
    return [outputs.logits, *outputs.features.values()]


def rows_of(outputs: Outputs, rows) -> Outputs:
    return Outputs(outputs.logits[rows], {name: value[rows] for name, value in outputs.features.items()})


# Attention transfer.


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("power", "pool"), [(2, "sum"), (1, "max")])
@pytest.mark.parametrize("soft_weight", [0.0, 0.9, 1.0])
def test_it_is_the_weighted_sum_over_the_pairs_beside_soft_and_hard_targets(form, power, pool, soft_weight):
    student, teacher, batch = case()
    objective = AttentionTransfer(
        ["wide", "deep"],
        attention_weight=50.0,
        form=form,
        power=power,
        pool=pool,
        temperature=3.0,
        soft_weight=soft_weight,
    )
    terms = objective(student, teacher, batch)

    def unit_map(feature: Tensor) -> Tensor:
        energies = feature.detach().abs() ** power
        energy = energies.sum(0) if pool == "sum" else energies.max(0).values
        return energy / energy.norm()

    expected = 0.0
    for name in ("wide", "deep"):
        for ours, theirs in zip(student.features[name], teacher.features[name], strict=True):
            difference = unit_map(ours) - unit_map(theirs)
            distance = difference.norm() if form == "paper" else difference.square().mean()
            expected += 50.0 * distance.item() / len(batch.targets)
    assert terms["attention"].item() == pytest.approx(expected)
    others = HintonKD(temperature=3.0, soft_weight=soft_weight)(student, teacher, batch)
    assert {name: value for name, value in terms.items() if name != "attention"} == others


def test_the_defaults_are_the_authors_program():
    # cifar.py of the authors: beta · Σ_j mean over batch and positions, with alpha = 0 cross-entropy alone.
    student, teacher, batch = case()

    def at(feature: Tensor) -> Tensor:
        return nn.functional.normalize(feature.pow(2).mean(1).view(feature.size(0), -1))

    groups = [(at(student.features[j]) - at(teacher.features[j])).pow(2).mean() for j in ("wide", "deep")]
    theirs = nn.functional.cross_entropy(student.logits, batch.targets) + 1e3 * sum(groups)
    ours = AttentionTransfer(["wide", "deep"], attention_weight=1e3)(student, teacher, batch)
    assert set(ours) == {"attention", "hard"}
    torch.testing.assert_close(total(ours), theirs)


def test_with_soft_targets_it_is_the_authors_program_too():
    student, teacher, batch = case()
    soft = nn.functional.kl_div(
        (student.logits / 4).log_softmax(1), (teacher.logits / 4).softmax(1), reduction="sum"
    ) * (16 * 0.9 / len(batch.targets))
    hard = nn.functional.cross_entropy(student.logits, batch.targets) * 0.1
    ours = AttentionTransfer(["deep"], attention_weight=1e3, soft_weight=0.9)(student, teacher, batch)
    torch.testing.assert_close(ours["soft"] + ours["hard"], soft + hard)


def test_in_the_papers_form_the_weight_is_half_of_beta():
    student, teacher, batch = case()
    beta = 0.1
    distances = [
        np.linalg.norm(
            [
                a / math.sqrt(sum(x * x for x in first)) - b / math.sqrt(sum(x * x for x in second))
                for a, b in zip(first, second, strict=True)
            ]
        )
        for ours, theirs in zip(student.features["deep"], teacher.features["deep"], strict=True)
        for first, second in [
            (ours.square().sum(0).flatten().tolist(), theirs.square().sum(0).flatten().tolist())
        ]
    ]
    terms = AttentionTransfer(["deep"], attention_weight=beta / 2, form="paper")(student, teacher, batch)
    assert terms["attention"].item() == pytest.approx(beta / 2 * np.mean(distances))


def test_each_feature_may_have_a_weight_of_its_own():
    student, teacher, batch = case()
    weights = {"deep": 3.0, "wide": 0.5}
    terms = AttentionTransfer(["wide", "deep"], attention_weight=weights)(student, teacher, batch)
    alone = {
        name: AttentionTransfer([name], attention_weight=weight)(student, teacher, batch)["attention"]
        for name, weight in weights.items()
    }
    torch.testing.assert_close(terms["attention"], alone["wide"] + alone["deep"])


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            {"wide": 1.0},
            "attention_weight: got weights for ['wide'], expected one for each of ['deep', 'wide']",
        ),
        (
            {"wide": 1.0, "deep": 1.0, "top": 1.0},
            "attention_weight: got weights for ['deep', 'top', 'wide'], expected one for each",
        ),
        ({"wide": 1.0, "deep": 0.0}, "attention_weight['deep']: got 0.0, expected a finite number above 0"),
    ],
)
def test_weights_that_do_not_go_with_the_features_are_refused(weights, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        AttentionTransfer(["wide", "deep"], attention_weight=weights)


def test_a_mapping_pairs_features_of_other_names_student_first():
    student, teacher, batch = case()
    objective = AttentionTransfer({"wide": "layer1", "deep": "layer2"}, attention_weight=10.0)
    named_otherwise = renamed(teacher, wide="layer1", deep="layer2")
    same_names = AttentionTransfer(["wide", "deep"], attention_weight=10.0)
    torch.testing.assert_close(
        total(objective(student, named_otherwise, batch)), total(same_names(student, teacher, batch))
    )


def test_one_layer_of_the_teacher_may_teach_two_of_the_student():
    student, teacher, batch = case()
    both = AttentionTransfer({"wide": "deep", "deep": "deep"}, attention_weight=1.0)(student, teacher, batch)
    expected = [
        attention_transfer_loss(student.features[name], teacher.features["deep"]).mean()
        for name in ("wide", "deep")
    ]
    torch.testing.assert_close(both["attention"], sum(expected))


def test_the_terms_are_zero_where_the_student_looks_and_answers_like_the_teacher():
    _, teacher, batch = case()
    twin = Outputs(
        teacher.logits.detach().clone(), {k: v.detach().clone() for k, v in teacher.features.items()}
    )
    for value in every_tensor(twin):
        value.requires_grad_()
    for form in ("paper", "code"):
        objective = AttentionTransfer(["wide", "deep"], attention_weight=1e3, form=form, soft_weight=1.0)
        terms = objective(twin, teacher, batch)
        assert terms["attention"].item() == 0
        assert terms["soft"].item() == pytest.approx(0, abs=1e-12)
        slopes = torch.autograd.grad(total(terms), every_tensor(twin))
        assert max(slope.abs().max() for slope in slopes) < 1e-12


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


def test_attention_says_what_it_is_and_learns_nothing_itself():
    objective = AttentionTransfer({"deep": "layer3"}, attention_weight=1000, soft_weight=0.9)
    assert list(objective.parameters()) == []
    assert repr(objective) == (
        "AttentionTransfer({'deep': 'layer3'}, attention_weight=1000.0, form='code', power=2.0, pool='sum', "
        "temperature=4.0, soft_weight=0.9)"
    )


def test_hyper_parameters_are_named():
    with pytest.raises(TypeError, match="positional argument"):
        AttentionTransfer(["deep"], 1000.0)
    with pytest.raises(TypeError, match="positional argument"):
        FullActivationTransfer(["deep"], 1.0)


# Full activations.


def test_full_activations_are_regressed_through_the_adapter_of_the_student():
    student, teacher, batch = case()
    objective = FullActivationTransfer(
        ["wide", "deep"], channels={"wide": (3, 5)}, activation_weight=2.0
    ).double()
    weight, bias = (parameter.detach() for parameter in objective.parameters())
    expected = 0.0
    for ours, theirs in zip(student.features["wide"], teacher.features["wide"], strict=True):
        adapted = torch.einsum("oi,ihw->ohw", weight[:, :, 0, 0], ours) + bias.reshape(5, 1, 1)
        expected += 0.5 * (adapted - theirs).square().mean().item()
    for ours, theirs in zip(student.features["deep"], teacher.features["deep"], strict=True):
        expected += 0.5 * (ours - theirs).square().mean().item()
    terms = objective(student, teacher, batch)
    assert set(terms) == {"activation", "hard"}
    assert terms["activation"].item() == pytest.approx(2.0 * expected / 6)
    assert terms["hard"] == Supervised()(student, None, batch)["hard"]


def test_there_is_an_adapter_only_where_channels_differ_and_names_may_have_dots():
    student, teacher, batch = case()
    names = {"wide": "stage.0.out", "deep": "stage.1.out"}
    objective = FullActivationTransfer(
        {"stage.0.out": "wide", "stage.1.out": "deep"},
        channels={"stage.0.out": (3, 5)},
        activation_weight=1.0,
    ).double()
    assert [tuple(parameter.shape) for parameter in objective.parameters()] == [(5, 3, 1, 1), (5,)]
    terms = objective(renamed(student, **names), teacher, batch)
    terms["activation"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())
    deep = hint_loss(student.features["deep"], teacher.features["deep"]).mean() / 36
    assert terms["activation"].item() > deep.item()


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


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"activation_weight": 0}, ValueError, "activation_weight: got 0, expected a finite number above 0"),
        (
            {"channels": {"wode": (3, 5)}},
            ValueError,
            "channels: got 'wode', expected one of wide, deep; did you",
        ),
        (
            {"channels": {"wide": 5}},
            TypeError,
            "channels['wide']: got 5, expected (the student's, the teacher's)",
        ),
        ({"channels": {"wide": (3,)}}, TypeError, "channels['wide']: got (3,), expected"),
        (
            {"channels": {"wide": (0, 5)}},
            ValueError,
            "channels['wide']: got 0, expected a whole number of at least 1",
        ),
        ({"pairs": "wide"}, TypeError, "pairs: got 'wide' (str), expected a list of feature names"),
    ],
)
def test_malformed_full_activations_are_refused(arguments, error, says):
    with pytest.raises(error) as caught:
        FullActivationTransfer(**{"pairs": ["wide", "deep"], "activation_weight": 1.0, **arguments})
    assert str(caught.value).startswith(says)


def test_features_that_do_not_fit_each_other_are_refused_with_what_would_help():
    student, teacher, batch = case()
    with pytest.raises(
        ValueError,
        match=r"^student feature 'wide': got shape \(6, 3, 6, 6\) .* \(6, 5, 6, 6\), expected the same; channels can",
    ):
        FullActivationTransfer(["wide"], activation_weight=1.0)(student, teacher, batch)
    with pytest.raises(
        ValueError,
        match=r"^student feature 'wide': got shape \(6, 3, 6, 6\), expected \(B, 4, H, W\) as channels",
    ):
        FullActivationTransfer(["wide"], channels={"wide": (4, 5)}, activation_weight=1.0)(
            student, teacher, batch
        )
