"""The teacher is asked in eval mode, without gradient, and never changed."""

import copy
import sys

import pytest
import scipy.special
import torch
from small_networks import LanguageModel, WithFeatures, batch, network, snapshot
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from kdrepro import BornAgain, ConfidenceWeighted, Distiller, HintonKD, Outputs, PermutedDarkKnowledge
from kdrepro.methods.sequence_kd import WordLevelKD
from kdrepro.teacher import FrozenTeacher, mean_of_softened, members_of, temperature_of

INPUTS, TARGETS = batch()


def test_whoever_wakes_it_it_answers_in_eval_mode_and_stays_bitwise_the_same():
    teacher = network()
    frozen = FrozenTeacher(teacher)
    before = snapshot(teacher)
    expected = copy.deepcopy(teacher).eval()(INPUTS)
    for wake in (lambda: None, teacher.train, lambda: teacher[1].train(), lambda: teacher[3].train()):
        wake()
        answer = frozen(INPUTS).logits
        assert torch.equal(answer, expected)
        assert not answer.requires_grad
    assert snapshot(teacher) == before


def test_a_forward_that_enables_gradients_sends_none():
    class Insistent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = WithFeatures()

        def forward(self, inputs):
            with torch.enable_grad():
                return self.inner(inputs)

    answer = FrozenTeacher(Insistent())(INPUTS)
    assert not answer.logits.requires_grad
    assert not answer.features["hidden"].requires_grad


def test_its_answer_may_be_saved_for_a_backward_pass():
    student = torch.randn(16, 5, requires_grad=True)
    (student * FrozenTeacher(network())(INPUTS).logits).sum().backward()
    assert student.grad is not None


def test_features_of_one_network_pass_those_of_an_ensemble_do_not():
    members = [WithFeatures(), WithFeatures()]
    assert set(FrozenTeacher(members[0])(INPUTS).features) == {"hidden"}
    assert FrozenTeacher(members)(INPUTS).features == {}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_ensembles_softened_classes_are_the_mean_of_its_members(temperature):
    members = [network(seed) for seed in range(3)]
    answer = FrozenTeacher(members)(INPUTS, temperature=temperature).logits
    each = [member.eval()(INPUTS).detach().double().numpy() for member in members]
    expected = sum(scipy.special.softmax(logits / temperature, -1) for logits in each) / 3
    torch.testing.assert_close(torch.softmax(answer / temperature, -1), torch.from_numpy(expected).float())


def test_an_ensemble_averages_probabilities_not_logits():
    logits = [torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])]
    probs = torch.softmax(mean_of_softened(logits, temperature=1.0), -1)
    assert probs[0, 0].item() == pytest.approx(sum(scipy.special.softmax(each[0])[0] for each in logits) / 2)
    assert (probs - torch.softmax(sum(logits) / 2, -1)).abs().max() > 0.1


def test_over_the_temperature_an_ensembles_logits_are_log_probabilities():
    logits = torch.randn(6, 5, dtype=torch.float64)
    answer = mean_of_softened([logits, logits, logits], temperature=3.0)
    torch.testing.assert_close(answer, 3 * torch.log_softmax(logits / 3, -1))


def test_an_ensemble_keeps_padded_classes_and_huge_logits():
    lowest = -torch.inf
    logits = [torch.tensor([[1e4, -1e4, lowest]]), torch.tensor([[-1e4, 1e4, lowest]])]
    answer = mean_of_softened(logits, temperature=2.0)
    torch.testing.assert_close(torch.softmax(answer / 2.0, -1), torch.tensor([[0.5, 0.5, 0.0]]))


def test_a_list_of_one_and_a_module_list_are_taken():
    teacher = network()
    alone = FrozenTeacher(teacher)(INPUTS).logits
    assert torch.equal(FrozenTeacher([teacher])(INPUTS).logits, alone)
    several = nn.ModuleList([network(1), network(2)])
    assert members_of(several) == tuple(several)
    assert torch.equal(FrozenTeacher(several)(INPUTS).logits, FrozenTeacher(tuple(several))(INPUTS).logits)


def test_inputs_by_name_reach_the_network_by_name():
    teacher, ids = LanguageModel(), torch.tensor([[1, 2, 3]])
    hidden = torch.tensor([[1, 0, 1]])
    answer = FrozenTeacher(teacher)({"input_ids": ids, "attention_mask": hidden}).logits
    assert torch.equal(answer, teacher(ids, hidden).logits)
    assert not torch.equal(answer, teacher(ids).logits)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes before Python 3.11")
@pytest.mark.parametrize("tapped", [False, True])
def test_an_error_of_torchs_is_noted_with_whose_it_is(tapped):
    teacher = network().half()
    with pytest.raises(RuntimeError) as caught:
        FrozenTeacher(teacher, teacher_taps={"first": "0"} if tapped else None)(INPUTS.double())
    assert caught.value.__notes__ == [
        "teacher: its weights are torch.float16 on cpu, torch.int64 on cpu, its inputs torch.float64 on cpu"
    ]
    by_name = {"input_ids": torch.tensor([[1.5]])}
    with pytest.raises(RuntimeError) as caught:
        FrozenTeacher(LanguageModel())(by_name)
    assert caught.value.__notes__[0].endswith("its inputs torch.float32 on cpu")


def test_it_moves_in_place():
    teacher = network()
    frozen = FrozenTeacher(teacher)
    assert frozen.to("meta") is frozen
    assert {value.device.type for value in teacher.state_dict().values()} == {"meta"}


def shares_nothing(teacher: nn.Module) -> nn.Module:
    return network(1)


def itself(teacher: nn.Module) -> nn.Module:
    return teacher


def around_it(teacher: nn.Module) -> nn.Module:
    return nn.Sequential(teacher, nn.Identity())


def with_its_first_layer(teacher: nn.Module) -> nn.Module:
    return nn.Sequential(teacher[0], nn.Linear(8, 5))


def with_its_normalisation(teacher: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), teacher[1], nn.Linear(8, 5))


def with_tied_weights(teacher: nn.Module) -> nn.Module:
    student = network(1)
    student[4].weight = teacher[4].weight
    return student


def with_the_same_memory(teacher: nn.Module) -> nn.Module:
    student = network(1)
    student[4].weight = nn.Parameter(teacher[4].weight.data)
    return student


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (itself, r"^student: got the same object as the teacher, expected a network of its own"),
        (around_it, r"^student: got a submodule '0' that the teacher holds too"),
        (with_its_first_layer, r"^student: got a submodule '0' that the teacher holds too"),
        (with_its_normalisation, r"^student: got a submodule '1' that the teacher holds too"),
        (with_tied_weights, r"^student: got a parameter '4.weight' that the teacher holds too"),
        (with_the_same_memory, r"^student: got a parameter '4.weight' that the teacher holds too"),
    ],
)
@pytest.mark.parametrize("ensemble", [False, True])
def test_a_student_that_shares_weights_or_state_is_refused(make, message, ensemble):
    teacher = network()
    frozen = FrozenTeacher([network(2), teacher] if ensemble else teacher)
    with pytest.raises(ValueError, match=message):
        frozen.check_apart(student=make(teacher))


def test_a_copy_and_shared_layers_without_state_are_fine():
    teacher, rectifier = network(), nn.ReLU()
    teacher[2] = rectifier
    frozen = FrozenTeacher(teacher)
    frozen.check_apart(student=copy.deepcopy(teacher), objective=nn.Sequential(nn.Linear(4, 5), rectifier))


def test_a_slice_of_the_teachers_weights_is_shared_memory_too():
    teacher, student = nn.Linear(4, 6), nn.Linear(4, 3)
    student.weight.data = teacher.weight.data[3:]
    with pytest.raises(ValueError, match="student: got a parameter 'weight' that the teacher holds too"):
        FrozenTeacher(teacher).check_apart(student=student)


def test_two_parts_of_one_flat_memory_are_apart():
    flat = torch.randn(24)
    teacher, student = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    teacher.weight.data, student.weight.data = flat[:12].view(3, 4), flat[12:].view(3, 4)
    FrozenTeacher(teacher).check_apart(student=student)


class Inside(nn.Module):
    """An objective around others."""

    def __init__(self, *temperatures: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList(HintonKD(temperature=each, soft_weight=1.0) for each in temperatures)

    def forward(self, student, teacher, batch):
        return self.parts[0](student, teacher, batch)


def test_an_ensemble_is_averaged_at_the_temperature_of_what_is_inside_an_objective():
    teachers, student = [network(seed) for seed in (1, 2, 3)], network(0)
    losses = [
        Distiller(teachers, student.eval(), objective)(INPUTS, TARGETS).loss
        for objective in (HintonKD(temperature=4.0, soft_weight=1.0), Inside(4.0), Inside(4.0, 4.0))
    ]
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(
        ValueError, match=r"objective: got parts at the temperatures 2\.0, 4\.0, expected one"
    ):
        Distiller(teachers, student, Inside(4.0, 2.0))(INPUTS, TARGETS)
    # Of one network it does not matter.
    Distiller(teachers[0], student, Inside(4.0, 2.0))(INPUTS, TARGETS)


@pytest.mark.parametrize("other", [BornAgain(), WordLevelKD(), PermutedDarkKnowledge(), ConfidenceWeighted()])
def test_objectives_that_read_an_ensemble_at_1_do_not_go_with_others_at_4(other):
    assert temperature_of(nn.ModuleList([other])) == 1.0
    with pytest.raises(
        ValueError, match=r"objective: got parts at the temperatures 1\.0, 4\.0, expected one"
    ):
        temperature_of(nn.ModuleList([other, HintonKD(temperature=4.0, soft_weight=1.0)]))


def test_what_a_module_returned_is_looked_into():
    out = Distiller(network(1), network(0), HintonKD(temperature=4.0, soft_weight=0.5))(INPUTS, TARGETS)
    leaves, form = tree_flatten(out)
    assert all(isinstance(each, torch.Tensor) for each in leaves)
    assert tree_unflatten(leaves, form) == out
    leaves, _ = tree_flatten(Outputs(INPUTS, {"a": INPUTS}))
    assert len(leaves) == 2
