"""What a step takes over from outside and what it leaves: gradients, learning rates, terms, random numbers."""

import numpy as np
import pytest
import torch
from small_cohorts import alone as train_alone
from small_cohorts import member, same, sgd, together
from small_networks import batch, network
from small_pictures import images_net
from small_trainings import batches, train, without_batch_norm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from kdrepro import Batches, Supervised, cache_teacher
from kdrepro.methods.fitnets import HintStage


def test_gradients_from_before_are_not_added_to_the_first_step():
    fresh, used = without_batch_norm(1), without_batch_norm(1)
    used(batch(50)[0]).square().sum().backward()
    for student in (fresh, used):
        train(student, objective=Supervised(), teacher=None)
    torch.testing.assert_close(used.state_dict(), fresh.state_dict(), rtol=0, atol=0)


def test_what_the_optimiser_was_not_given_is_neither_clipped_by_nor_left_with_a_gradient():
    student, by_hand = without_batch_norm(1), without_batch_norm(1)

    def later(parameters) -> SGD:
        return SGD(list(parameters)[2:], lr=0.05)

    data = batches()
    train(student, objective=Supervised(), teacher=None, optimizer=later, gradient_clip=0.5, batches=data)
    assert all(parameter.grad is None for parameter in student.parameters())
    optimizer = later(by_hand.parameters())
    for epoch in range(3):
        for part in data.epoch(epoch):
            by_hand.zero_grad()
            cross_entropy(by_hand(part.inputs), part.targets).backward()
            nn.utils.clip_grad_norm_(list(by_hand.parameters())[2:], 0.5)
            optimizer.step()
    torch.testing.assert_close(student.state_dict(), by_hand.state_dict())


def test_a_learning_rate_that_is_a_tensor_has_a_curve_of_its_own_values():
    history = train(
        network(1),
        optimizer=lambda parameters: Adam(parameters, lr=torch.tensor(0.1)),
        schedule=lambda optimizer: StepLR(optimizer, 4, gamma=0.5),
    )
    assert history.curves["learning_rate"] == pytest.approx([0.05, 0.025, 0.0125])


class Late(nn.Module):
    """A term that comes and goes, of which `start_epoch` draws a part."""

    def __init__(self, there: tuple[int, ...]) -> None:
        super().__init__()
        self.there, self.epoch, self.drawn = there, 0, torch.zeros(1)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.drawn = epoch, torch.rand(1)

    def forward(self, student, teacher, batch):
        terms = {"hard": cross_entropy(student.logits, batch.targets)}
        if self.epoch in self.there:
            terms["late"] = (self.drawn * student.logits.square()).mean()
        return terms


@pytest.mark.parametrize(("there", "missing"), [((1,), (0, 2)), ((0, 2), (1,)), ((2,), (0, 1))])
def test_a_term_is_zero_in_an_epoch_in_which_it_is_not_there(there, missing):
    curves = train(network(1), objective=Late(there), teacher=None).curves
    assert [curves["loss/late"][epoch] for epoch in missing] == [0.0] * len(missing)
    assert all(curves["loss/late"][epoch] > 0 for epoch in there)
    sums = [sum(each) for each in zip(curves["loss/hard"], curves["loss/late"], strict=True)]
    assert curves["loss"] == pytest.approx(sums)


def test_an_objective_that_draws_as_an_epoch_starts_is_the_same_in_company():
    first, other = (member("soft", objective=Late((0, 1, 2, 3))) for _ in range(2))
    history, _ = together([first, member("wide")])
    same(first, other, (history, train_alone(other)))


class Sensitivity(nn.Module):
    """An objective that asks for a gradient itself."""

    def forward(self, student, teacher, batch):
        hard = cross_entropy(student.logits, batch.targets)
        (slope,) = torch.autograd.grad(hard, student.logits, create_graph=True)
        return {"hard": hard, "slope": slope.square().sum()}


def test_an_objective_may_ask_for_gradients_itself():
    history = train(network(1), objective=Sensitivity(), teacher=None)
    assert history.curves["loss/slope"][-1] > 0


class Half(nn.Module):
    """An objective that leaves its term in what the net gives."""

    def forward(self, student, teacher, batch):
        return {"hard": cross_entropy(student.logits, batch.targets)}


def test_the_loss_of_a_long_epoch_in_half_precision_does_not_stand_still():
    inputs, targets = batch(1600)
    data = Batches(inputs, targets, batch_size=2, seed=0)
    kwargs = {"objective": Half(), "batches": data, "teacher": None, "epochs": 1}
    still = {"optimizer": lambda parameters: SGD(parameters, lr=0.0)}
    (fine,) = train(without_batch_norm(1), **kwargs, **still).curves["loss"]
    (half,) = train(without_batch_norm(1), **kwargs, **still, precision="bf16").curves["loss"]
    assert half == pytest.approx(fine, rel=0.01)


def test_batches_of_a_kind_of_ones_own_are_what_is_trained_on_and_not_answered_from_a_cache():
    class Mixed(Batches):
        asked = 0

        def epoch(self, number):
            type(self).asked += 1
            return super().epoch(number)

    inputs, targets = batch(30)
    data = Mixed(inputs, targets, batch_size=10, seed=0)
    train(network(1), batches=data)
    assert Mixed.asked == 3
    assert type(data.to("cpu")) is Mixed
    with pytest.raises(ValueError, match="batches: got augmented batches"):
        cache_teacher(network(0), data)
    kept = cache_teacher(network(0), Batches(inputs, targets, batch_size=10, seed=0), device="cpu")
    with pytest.raises(ValueError, match="teacher: got cached outputs with augmented batches"):
        train(network(1), batches=data, teacher=kept)


@pytest.mark.parametrize(
    "mask", [torch.ones(30), torch.ones(30, dtype=torch.long), torch.ones(30, 2, dtype=torch.bool)]
)
def test_a_mask_of_the_wrong_kind_is_named(mask):
    with pytest.raises(ValueError, match=r"mask: got torch\.\w+ of shape .*, expected torch\.bool"):
        Batches(*batch(30), batch_size=10, seed=0, mask=mask)


def test_members_that_share_a_regressor_or_a_checkpoint_are_refused(tmp_path):
    shared = HintStage(nn.Linear(8, 8), student_tap="hidden", teacher_tap="hidden")
    with pytest.raises(ValueError, match="members: got a parameter that both number 0 and number 2 train"):
        together([member("soft", objective=shared), member("wide"), member("labels", objective=shared)])
    same_file = {"checkpoint": tmp_path / "state.pt"}
    with pytest.raises(ValueError, match=r"checkpoint: got .*state.pt for number 0 and number 1"):
        together([member("soft", **same_file), member("wide", checkpoint=f"{tmp_path}/./state.pt")])
    nothing_of_its_own = Supervised()
    together([member(name, objective=nothing_of_its_own) for name in ("soft", "wide")], epochs=1)


def test_numbers_of_numpys_resume(tmp_path):
    file = tmp_path / "state.pt"

    def run(student: nn.Module, epochs: np.int64, stop: bool = False):
        def after(net: nn.Module) -> None:
            after.steps += 1
            if stop and after.steps == 10:
                raise KeyboardInterrupt

        after.steps = 0
        return train(
            student,
            epochs=epochs,
            optimizer=lambda parameters: SGD(parameters, lr=np.logspace(-2, -1, 3)[1]),
            schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / 12))
            ),
            gradient_clip=np.float64(1.0),
            checkpoint=file,
            checkpoint_seconds=0.0,
            after_step=after,
        )

    whole, stopped = network(1), network(1)
    expected = run(whole, np.int64(3))
    file.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, np.int64(3), stop=True)
    assert run(stopped, np.int64(3)).curves == expected.curves
    torch.testing.assert_close(stopped.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_student_in_training_leaves_the_callers_random_numbers_where_they_were():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together([member("labels", student=images_net(1), optimizer=sgd)], epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
