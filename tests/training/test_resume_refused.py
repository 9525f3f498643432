"""Checkpoints that are not a run's own are refused and kept."""

import pytest
import torch
from resumed_trainings import train
from small_pictures import IMAGES, TARGETS, images_net
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR, StepLR

from kdrepro import HintonKD, Supervised, fit
from kdrepro.data.batches import Jitter
from kdrepro.data.text import SentenceBatches
from kdrepro.models.seq2seq import LSTMSeq2Seq


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 5}, "epochs 4, here 5"),
        ({"batch_size": 6}, "batch_size 8, here 6"),
        ({"seed": 8}, "seed 7, here 8"),
        ({"precision": "bf16"}, "precision 'fp32', here 'bf16'"),
        (
            {"objective": HintonKD(temperature=3.0, soft_weight=0.9)},
            "here 'HintonKD(temperature=3.0, soft_weight=0.9)'",
        ),
        ({"optimizer": lambda parameters: SGD(parameters, lr=0.3, momentum=0.9)}, "initial_lr: 0.3"),
        ({"optimizer": lambda parameters: SGD(parameters, lr=0.2)}, "momentum: 0 "),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.2)}, "here 'Adam ("),
        ({"gradient_clip": 0.5}, "gradient_clip "),
        (
            {"schedule": lambda optimizer: StepLR(optimizer, 2, gamma=0.5)},
            "here \"StepLR {'step_size': 2, 'gamma': 0.5",
        ),
        ({"teacher": images_net(5)}, "teacher '"),
        ({"teacher": [images_net(0), images_net(5)]}, "teacher '"),
        ({"inputs": 2 * IMAGES}, "data '"),
        ({"targets": (TARGETS + 1) % 5}, "data '"),
        (
            {"inputs": torch.cat([IMAGES, IMAGES]), "targets": torch.cat([TARGETS, TARGETS])},
            "examples 30, here 60",
        ),
        ({"augment": Jitter(pixels=2)}, "here \"Jitter {'pixels': 2}\""),
        ({"mask": torch.arange(30) < 20}, "mask 'none', here '"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(changes, says, tmp_path):
    file = tmp_path / "state.pt"
    train(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint: .*state.pt was written by another run") as caught:
        train(file, **changes)
    assert says in str(caught.value)
    assert file.read_bytes() == before


def weighted(last: float) -> nn.Module:
    return Weighted(torch.tensor([1.0, 1.0, 1.0, 1.0, last]))


class Weighted(nn.Module):
    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, student, teacher, batch):
        return {"hard": nn.functional.cross_entropy(student.logits, batch.targets, self.weights)}


def with_dropout(share: float) -> nn.Module:
    student = images_net(1)
    student[1][3].p = share
    return student


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (
            {"schedule": lambda optimizer: MultiStepLR(optimizer, [3])},
            {"schedule": lambda optimizer: MultiStepLR(optimizer, [9])},
            "schedule's state '",
        ),
        ({"objective": weighted(1.0)}, {"objective": weighted(9.0)}, "objective's buffers '"),
        ({"student": with_dropout(0.0)}, {"student": with_dropout(0.9)}, "student '"),
    ],
)
def test_what_is_not_among_the_arguments_counts_too(one, other, says, tmp_path):
    file = tmp_path / "state.pt"
    train(file, **one)
    with pytest.raises(ValueError, match="was written by another run") as caught:
        train(file, **other)
    assert says in str(caught.value)


def strided(stride: tuple[int, int], *, second: bool = False) -> nn.Module:
    """A net with a setting that is a tuple, and a part that could stand elsewhere."""
    torch.manual_seed(0)
    pool, parts = nn.AvgPool2d((2, 2), stride=stride), [nn.Tanh(), nn.Identity()]
    wide = pool(IMAGES[:1]).numel()
    return nn.Sequential(
        pool,
        nn.Sequential(nn.Flatten(), *(parts[::-1] if second else parts), nn.Dropout(0.0), nn.Linear(wide, 5)),
    )


@pytest.mark.parametrize("other", [strided((1, 2)), strided((2, 1), second=True)])
def test_a_net_with_another_stride_or_another_order_is_another_net(tmp_path, other):
    file = tmp_path / "state.pt"
    train(file, student=strided((2, 1)))
    with pytest.raises(ValueError, match="student '"):
        train(file, student=other)


def test_what_a_newer_torch_prints_of_a_net_is_not_what_the_net_is(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    _, history = train(file)
    monkeypatch.setattr(nn.Linear, "extra_repr", lambda self: "in other words")
    assert train(file)[1].curves == history.curves


def test_a_checkpoint_from_before_these_were_noted_is_taken(tmp_path):
    file = tmp_path / "state.pt"
    _, history = train(file)
    state = torch.load(file, weights_only=True)
    for name in ("mask", "student", "objective's buffers", "schedule's state"):
        del state["signature"][name]
    torch.save(state, file)
    assert train(file)[1].curves == history.curves
    with pytest.raises(ValueError, match="was written by another run"):
        train(file, seed=8)


@pytest.mark.parametrize(("content", "says"), [({"weight": torch.zeros(2)}, "weight"), ({}, "nothing")])
def test_weights_that_somebody_saved_are_no_checkpoint_and_are_kept(content, says, tmp_path):
    file = tmp_path / "state.pt"
    torch.save(content, file)
    before = file.read_bytes()
    says = rf"checkpoint: .*state.pt holds no training of fit's \({says}\); name another file$"
    with pytest.raises(ValueError, match=says):
        train(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_by_name(kept, tmp_path):
    file = tmp_path / "state.pt"
    train(file)
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(
        ValueError, match=r"state.pt: not a readable checkpoint .*; delete it to start anew"
    ) as caught:
        train(file)
    assert "weights_only" not in str(caught.value)


class Hidden(nn.Module):
    """An objective whose repr shows none of its settings, as most are."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = self.start = weight
        self.seen = []

    def start_epoch(self, epoch: int) -> None:
        self.weight = self.start / (1 + epoch)

    def forward(self, student, teacher, batch):
        self.seen.append(len(batch.targets))
        return {"hard": self.weight * nn.functional.cross_entropy(student.logits, batch.targets)}


def test_settings_that_an_objective_does_not_show_and_late_labels_count_too(tmp_path):
    file = tmp_path / "state.pt"
    objective = Hidden(0.5)
    train(file, objective=objective)
    # One that has trained has another weight now, and is the same objective.
    assert objective.weight != 0.5
    train(file, objective=objective)
    train(file, objective=Hidden(0.5))
    with pytest.raises(ValueError, match="was written by another run"):
        train(file, objective=Hidden(0.9))
    inputs, targets = torch.cat([IMAGES] * 3), torch.cat([TARGETS] * 3)
    late = targets.clone()
    late[-1] = (late[-1] + 1) % 5
    more = {"inputs": inputs, "objective": Hidden(0.1)}
    train(tmp_path / "long.pt", targets=targets, **more)
    with pytest.raises(ValueError, match="was written by another run"):
        train(tmp_path / "long.pt", targets=late, **more)


def test_the_order_and_all_members_of_an_ensemble_are_its_own(tmp_path):
    file = tmp_path / "state.pt"
    train(file, teacher=[images_net(0), images_net(5)])
    for others in ([images_net(0), images_net(6)], [images_net(5), images_net(6)]):
        with pytest.raises(ValueError, match="teacher '"):
            train(file, teacher=others)


def test_a_text_whose_later_sentences_have_another_length_is_another(tmp_path):
    options = {"epochs": 1, "device": "cpu", "precision": "fp32", "optimizer": lambda each: SGD(each, lr=0.1)}

    def run(targets: list[list[int]]) -> None:
        net = LSTMSeq2Seq(8, 8, hidden=4, layers=1, dropout=0.0)
        data = SentenceBatches([[4, 5]] * 70, targets, batch_size=35, seed=0)
        fit(net, Supervised(), data, checkpoint=tmp_path / "state.pt", **options)

    run([[4]] * 70)
    with pytest.raises(ValueError, match="data '"):
        run([*[[4]] * 69, [4, 5]])
