"""Inputs that are a mapping of tensors, in batches, in training and in predicting; and several networks as one."""

import pytest
import torch
from small_networks import WithFeatures, network, snapshot
from small_trainings import batches, train
from torch import Tensor, nn

from kdrepro import Batches, Taps, cache_teacher, predict
from kdrepro.data.batches import CropFlip, Jitter
from kdrepro.engine import outputs
from kdrepro.teacher import FrozenTeacher, mean_of_softened

INPUTS, TARGETS = batches().inputs, batches().targets


class Scaled(nn.Module):
    """Takes what `network` takes, in two parts by name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = network(seed)

    def forward(self, *, numbers: Tensor, scale: Tensor) -> Tensor:
        return self.net(numbers * scale[:, None])


NAMED = {"numbers": INPUTS, "scale": torch.ones(50)}


def named(**changes) -> Batches:
    return batches(inputs=NAMED, **changes)


def test_batches_of_a_mapping_are_those_of_its_tensors():
    plain, by_name = batches(), named()
    assert (by_name.examples, len(by_name)) == (50, 4)
    for one, other in zip(plain.epoch(1), by_name.epoch(1), strict=True):
        assert torch.equal(one.inputs, other.inputs["numbers"])
        assert torch.equal(one.index, other.index)
        assert len(other.inputs["scale"]) == len(other.targets)
    assert torch.equal(by_name.first(3).inputs["numbers"], INPUTS[:3])
    assert by_name.to("meta").inputs["scale"].device.type == "meta"
    assert NAMED["scale"].device.type == "cpu"


@pytest.mark.parametrize("cached", [False, True])
def test_training_by_name_is_training(cached, tmp_path):
    found = []
    for data, make in ((batches(), network), (named(), Scaled)):
        student, teacher = make(1), make(0)
        asked = cache_teacher(teacher, data, device="cpu", precision="fp32") if cached else teacher
        history = train(student, batches=data, teacher=asked, checkpoint=tmp_path / make.__name__)
        found.append((history.curves, [*snapshot(student)["bytes"].values()]))
    assert found[0] == found[1]


def test_a_cache_of_other_inputs_by_name_is_refused():
    cached = cache_teacher(Scaled(0), named(), device="cpu", precision="fp32")
    other = batches(inputs={"numbers": INPUTS, "scale": torch.full((50,), 2.0)})
    with pytest.raises(ValueError, match="teacher: got cached outputs of other inputs"):
        train(Scaled(1), batches=other, teacher=cached)


def test_what_augments_gets_the_mapping():
    def augment(inputs, generator):
        return {**inputs, "scale": inputs["scale"] + torch.rand(1, generator=generator)}

    data = named(augment=augment)
    scales = {float(part.inputs["scale"][0]) for part in data.epoch(0)}
    assert len(scales) == 4
    assert scales == {float(part.inputs["scale"][0]) for part in data.epoch(0)}


@pytest.mark.parametrize("augment", [Jitter(), CropFlip()])
def test_pictures_by_name_are_not_moved_by_what_moves_a_tensor(augment):
    with pytest.raises(TypeError, match=r"inputs: got dict, expected a tensor \(B, C, H, W\)"):
        next(named(augment=augment).epoch(0))


@pytest.mark.parametrize(
    "use",
    [
        lambda inputs: Batches(inputs, TARGETS, batch_size=4, seed=0),
        lambda inputs: predict(Scaled(0), inputs, device="cpu"),
    ],
    ids=["batches", "predict"],
)
@pytest.mark.parametrize(
    ("inputs", "kind", "says"),
    [
        ([INPUTS], TypeError, "inputs: got list, expected a tensor, or a mapping of tensors"),
        ({}, ValueError, "inputs: got an empty .*, expected at least one example"),
        ({"numbers": torch.zeros(0, 4)}, ValueError, "inputs: got an empty .*, expected at least one"),
        (torch.tensor(1.0), ValueError, r"inputs: got a tensor without dimensions, expected \(N, ...\)"),
        (
            {**NAMED, "flag": True},
            TypeError,
            r"inputs\['flag'\]: got bool, expected a tensor",
        ),
        (
            {"numbers": INPUTS, "scale": torch.ones(1)},
            ValueError,
            r"inputs\['scale'\]: got 1 examples, expected 50 as in inputs\['numbers'\]",
        ),
    ],
)
def test_inputs_of_another_kind_are_refused_by_name(use, inputs, kind, says):
    with pytest.raises(kind, match=says):
        use(inputs)


def test_numbers_that_are_not_finite_are_named():
    with pytest.raises(
        ValueError, match=r"inputs\['scale'\]: got NaN or infinity in some of 50 examples, expected finite"
    ):
        batches(inputs={"numbers": INPUTS, "scale": torch.full((50,), torch.nan)})


@pytest.mark.parametrize("size", [7, 50, 1000])
def test_predicting_by_name_is_predicting(size):
    options = {"batch_size": size, "device": "cpu"}
    assert torch.equal(predict(Scaled(0), NAMED, **options), predict(network(0), INPUTS, **options))


@pytest.mark.parametrize("kind", [list, tuple, nn.ModuleList, FrozenTeacher])
def test_several_networks_are_averaged_as_in_fit_and_wake_up_again(kind):
    nets = [network(seed) for seed in (0, 1, 2)]
    nets[1].eval()
    modes = [net.training for net in nets]
    each = [predict(net, INPUTS, device="cpu") for net in nets]
    found = predict(kind(nets), INPUTS, device="cpu", batch_size=7)
    torch.testing.assert_close(found, mean_of_softened(each, temperature=1.0))
    if kind is not FrozenTeacher:
        assert [net.training for net in nets] == modes


def test_a_list_of_one_is_that_one_with_its_features():
    net = WithFeatures()
    found = outputs([net], INPUTS, device="cpu")
    assert torch.equal(found.logits, predict(net, INPUTS, device="cpu"))
    assert found.features["hidden"].shape == (50, 8)
    assert outputs([Taps(network(0), {"act": "2"}), network(1)], INPUTS, device="cpu").features == {}


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        (3, TypeError, "model: got int, expected an nn.Module or a list of them"),
        ([], ValueError, "model: got an empty list"),
        ([network(0), "other"], TypeError, r"model\[1\]: got str, expected an nn.Module"),
    ],
)
def test_a_model_of_another_kind_is_refused(model, kind, says):
    with pytest.raises(kind, match=says):
        predict(model, INPUTS, device="cpu")
