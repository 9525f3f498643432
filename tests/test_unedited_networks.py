"""Taps, Distiller and the suggestions work on networks of torchvision, timm and Hugging Face as they come.

All are built small and without weights.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from small_networks import snapshot
from torch import Tensor, nn

from kdrepro import Distiller, Outputs, Taps, check, hint_loss, mean, suggest_pairs

CLASSES = 5


class Pair(NamedTuple):
    """Teacher and student, the paths that a suggestion should find, and inputs as the two take them."""

    teacher: nn.Module
    student: nn.Module
    teacher_paths: list[str]
    student_paths: list[str]
    inputs: Tensor | dict[str, Tensor]


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def torchvision_resnets() -> Pair:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    stages = [f"layer{number}" for number in (1, 2, 3, 4)]
    teacher = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, width_per_group=16)
    student = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    return Pair(teacher, student, stages, stages, images())


def timm_vision_transformers() -> Pair:
    from timm.models.vision_transformer import VisionTransformer

    def make(depth: int, width: int) -> nn.Module:
        return VisionTransformer(
            img_size=64, patch_size=16, num_classes=CLASSES, embed_dim=width, depth=depth, num_heads=2
        )

    return Pair(
        make(6, 16),
        make(3, 8),
        [f"blocks.{number}" for number in (1, 3, 5)],
        [f"blocks.{number}" for number in (0, 1, 2)],
        images(),
    )


def hugging_face_resnets() -> Pair:
    from transformers import ResNetConfig, ResNetForImageClassification

    def make(kind: str, *sizes: int) -> nn.Module:
        shape = {
            "embedding_size": 8,
            "hidden_sizes": list(sizes),
            "depths": [1] * len(sizes),
            "layer_type": kind,
        }
        return ResNetForImageClassification(ResNetConfig(**shape, num_labels=CLASSES))

    stages = ["resnet.embedder.embedder", *(f"resnet.encoder.stages.{number}" for number in (0, 1, 2))]
    return Pair(
        make("bottleneck", 16, 24, 32), make("basic", 8, 12, 16), stages, stages, {"pixel_values": images()}
    )


PAIRS = [torchvision_resnets, timm_vision_transformers, hugging_face_resnets]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param()


def call(module: nn.Module, inputs: Any) -> Any:
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


class Hints(nn.Module):
    """The hint loss of each pair, behind its regressor."""

    def __init__(self, regressors: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.regressors = nn.ModuleDict(regressors)

    def forward(self, student: Outputs, teacher: Outputs, batch: Any) -> dict[str, Tensor]:
        return {
            name: mean(hint_loss(regressor(student.features[name]), hint)) / hint[0].numel()
            for (name, regressor), hint in zip(
                self.regressors.items(), (teacher.features[name] for name in self.regressors), strict=True
            )
        }


def test_taps_give_what_the_submodules_gave(pair: Pair) -> None:
    net = pair.teacher.eval()
    seen: dict[str, Tensor] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            value = output if isinstance(output, Tensor) else output[0]
            seen[path] = value.detach().clone()

        return hook

    handles = [net.get_submodule(path).register_forward_hook(note(path)) for path in pair.teacher_paths]
    expected = call(net, pair.inputs)
    for handle in handles:
        handle.remove()
    out = call(Taps(net, {path: path for path in pair.teacher_paths}), pair.inputs)
    assert torch.equal(out.logits, getattr(expected, "logits", expected))
    assert {path: torch.equal(value, seen[path]) for path, value in out.features.items()} == dict.fromkeys(
        pair.teacher_paths, True
    )
    assert hooks(net) == 0


def test_pairs_are_suggested_and_a_distiller_trains_with_their_regressors(pair: Pair) -> None:
    teacher, student, inputs = pair.teacher, pair.student, pair.inputs
    before = snapshot(teacher), snapshot(student)
    pairs = suggest_pairs(teacher, student, inputs)
    assert (snapshot(teacher), snapshot(student)) == before
    assert [each.teacher for each in pairs] == pair.teacher_paths
    assert [each.student for each in pairs] == pair.student_paths
    assert not any(each.problem for each in pairs)

    torch.manual_seed(0)
    objective = Hints({each.name: each.make_regressor() for each in pairs})
    taps = {
        "teacher_taps": {each.name: each.teacher for each in pairs},
        "student_taps": {each.name: each.student for each in pairs},
    }
    teacher.eval().requires_grad_(False)
    batch = (inputs, torch.arange(4))
    assert check(teacher, student, batch, objective=objective, **taps) == []
    distiller = Distiller(teacher, student, objective, **taps)
    names = {f"student.{name}" for name in student.state_dict()}
    assert set(distiller.state_dict()) == names | {f"objective.{name}" for name in objective.state_dict()}

    kept, losses = snapshot(teacher), []
    optimizer = torch.optim.Adam(distiller.parameters(), lr=3e-3)
    for _ in range(8):
        out = distiller(*batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert sorted(out.features) == sorted(objective.regressors)
    assert losses[-1] < 0.9 * losses[0]
    assert snapshot(teacher) == kept
    assert hooks(teacher) + hooks(student) == 0
