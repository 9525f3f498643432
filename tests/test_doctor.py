"""The doctor finds nothing where there is none, leaves no trace, and says in words what it finds."""

import copy
import random

import numpy as np
import pytest
import torch
from doctor_findings import INPUTS, TARGETS, codes, right_teacher
from small_networks import LanguageModel, network, snapshot
from torch import nn

from kdrepro import Batch, HintonKD, check
from kdrepro.doctor import format_findings


def test_a_sound_pair_has_no_findings():
    assert (
        check(
            right_teacher(),
            network(1),
            (INPUTS, TARGETS),
            objective=HintonKD(temperature=4.0, soft_weight=0.9),
        )
        == []
    )


def test_a_sound_ensemble_and_networks_with_keyword_inputs_have_none():
    ensemble = [right_teacher(), right_teacher(wrong=2)]
    assert check(ensemble, network(1), Batch(INPUTS, TARGETS)) == []
    ids = torch.randint(7, (8, 5), generator=torch.Generator().manual_seed(0))
    teacher = LanguageModel().eval().requires_grad_(False)
    teacher.embedding.weight.data = torch.eye(7)[:, :6] * 20
    # It knows which token follows: the next number.
    teacher.head.weight.data = torch.eye(7)[:, :6].roll(1, dims=0) * 20
    teacher.head.bias.data = torch.zeros(7)
    objective = HintonKD(temperature=4.0, soft_weight=0.9)
    batch = ({"input_ids": ids}, (ids + 1) % 7, ids > 0)
    assert check(teacher, LanguageModel(), batch, objective=objective) == []


# Without a trace.


def test_it_leaves_modes_buffers_gradients_and_random_states_alone():
    class Counts(nn.Module):
        """Changes its buffers in every mode, by replacing one and writing into the other."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network(0)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, inputs):
            self.calls += 1
            self.last = torch.rand(1)
            return nn.functional.dropout(self.inner(inputs))

    teacher, student, objective = (
        Counts().train(),
        Counts(),
        HintonKD(temperature=2.0, soft_weight=0.5).eval(),
    )
    student.inner[3].eval()
    teacher.inner[0].weight.grad = torch.ones_like(teacher.inner[0].weight)
    buffers = [*teacher.buffers(), *student.buffers()]
    before = [snapshot(each) for each in (teacher, student, objective)]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    check(teacher, student, (inputs, targets), objective=objective)
    assert [snapshot(each) for each in (teacher, student, objective)] == before
    assert all(
        now is then for now, then in zip([*teacher.buffers(), *student.buffers()], buffers, strict=True)
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(targets, TARGETS)


def test_it_leaves_no_trace_where_a_network_fails():
    teacher, student = network(0, inputs=3), network(1, inputs=3)
    before = snapshot(teacher), snapshot(student)
    state = torch.get_rng_state()
    assert {"teacher_fails", "student_fails"} <= set(codes(check(teacher, student, (INPUTS, TARGETS))))
    assert (snapshot(teacher), snapshot(student)) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_asked_for_do_not_reach_the_weights():
    student = network(1)
    check(right_teacher(), student, (INPUTS, TARGETS), objective=HintonKD(temperature=2.0, soft_weight=0.5))
    assert all(parameter.grad is None for parameter in student.parameters())


# As text.


def test_findings_as_text_are_errors_first_each_with_its_advice():
    findings = check(copy.deepcopy(network(0)), network(1, classes=3), (INPUTS, TARGETS))
    lines = format_findings(findings).splitlines()
    assert [line.split()[0] for line in lines[::2]] == sorted(finding.severity for finding in findings)
    assert all(
        finding.advice in lines[2 * place + 1]
        for place, finding in enumerate(sorted(findings, key=lambda each: each.severity))
    )
    assert {finding.code for finding in findings} == {line.split()[1].rstrip(":") for line in lines[::2]}


def test_no_findings_as_text():
    assert format_findings([]) == "No mistakes found."


def test_targets_that_are_the_tokens_that_go_in_are_told():
    ids = torch.randint(1, 7, (2, 6), generator=torch.Generator().manual_seed(0))
    teacher = LanguageModel().eval().requires_grad_(False)
    mask = torch.ones_like(ids, dtype=torch.bool)
    (finding,) = check(teacher, LanguageModel(), ({"input_ids": ids}, ids, mask))
    assert (finding.code, finding.severity) == ("targets_are_inputs", "warning")
    mask[:, 2:] = False
    assert [each.code for each in check(teacher, LanguageModel(), ({"input_ids": ids}, ids, mask))] == [
        finding.code
    ]


def test_inference_mode_around_it_does_not_matter():
    objective = HintonKD(temperature=2.0, soft_weight=0.5)
    outside = check(right_teacher(), network(1), (INPUTS, TARGETS), objective=objective)
    with torch.inference_mode():
        inside = check(right_teacher(), network(1), (INPUTS, TARGETS), objective=objective)
    assert [each.code for each in inside] == [each.code for each in outside]


def test_lazy_layers_that_have_seen_nothing_are_named():
    student = nn.Sequential(nn.Linear(4, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 5))
    with pytest.raises(ValueError, match="Sequential: got a LazyBatchNorm1d that has not seen an input"):
        check(right_teacher(), student, (INPUTS, TARGETS))


def test_buffers_that_cannot_be_written_to_stay():
    student = network(1)
    student.register_buffer("same", torch.ones(1, 3).expand(4, 3))
    before = snapshot(student)
    check(right_teacher(), student, (INPUTS, TARGETS))
    assert snapshot(student) == before
