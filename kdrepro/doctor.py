"""Find the classic mistakes of a distillation on one batch, before the hours of training are spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdrepro import checks, diagnoses, objectives, taps
from kdrepro.diagnoses import Finding, error, warning
from kdrepro.teacher import (
    FrozenTeacher,
    mean_of_softened,
    members_of,
    run_module,
    temperature_of,
    untouched,
)
from kdrepro.types import Batch, Outputs


def check(
    teacher: nn.Module | Sequence[nn.Module],
    student: nn.Module,
    batch: Batch | Sequence[Any],
    *,
    objective: nn.Module | None = None,
    teacher_taps: Mapping[str, str] | None = None,
    student_taps: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look at teacher, student and one batch for the mistakes that spoil a distillation without a word.

    `teacher` is a network or a list of them, `batch` a `Batch` or (inputs, targets[, mask]) as a `DataLoader`
    gives it; inputs that are a mapping go to the networks as keyword arguments. With an `objective` its loss
    and its gradients are looked at too, and `teacher_taps` and `student_taps` give it features, as in
    `Distiller`. A finding of severity `error` stops or voids the training, a `warning` is worth a thought.
    `format_findings` makes text of them.

    Both networks run in eval mode, without gradient. Modes, buffers, gradients and torch's random state are
    afterwards what they were. Raises `TypeError` for arguments that are no modules or no batch, or an objective in a
    network's place, `ValueError` for taps that lead nowhere.

    >>> teacher, student = nn.Linear(4, 10).eval().requires_grad_(False), nn.Linear(4, 8)
    >>> findings = check(teacher, student, (torch.randn(2, 4), torch.tensor([0, 7])))
    >>> [(finding.code, finding.message) for finding in findings]
    [('classes_differ', 'the teacher gives 10 classes, the student 8')]
    """
    members = members_of(teacher)
    objectives.check_network("student", student)
    if objective is not None:
        objectives.check_objective("objective", objective)
    batch = _as_batch(batch)
    tapped = () if student_taps is None else taps.checked(student, student_taps, argument="student_taps")
    findings = list(_modes(members, student))
    with untouched(*members, student, *([] if objective is None else [objective])):
        frozen = [FrozenTeacher(member) for member in members]
        if teacher_taps is not None:
            frozen = [FrozenTeacher(members, teacher_taps=teacher_taps)]
        findings += _identity(members, student, objective)
        if batch.size == 0:
            return [*findings, error("empty_batch", "the batch holds no examples", "Take a batch with some.")]
        findings += diagnoses.in_inputs(batch.inputs)
        findings += _batch_of_one(batch.size, student)
        outputs = [
            _ask(_name(position, members), member, batch, findings) for position, member in enumerate(frozen)
        ]
        student.eval()
        answer = _attempt(
            "student", lambda: run_module(student, batch.inputs, side="student", tapped=tapped), findings
        )
        # An objective that needs them and gets none fails, and that is its own finding.
        if answer is not None:
            said = batch.targets is not None
            findings += (
                diagnoses.in_targets(batch, answer.logits) if said else diagnoses.in_axes(answer.logits)
            )
        answers = [each for each in outputs if each is not None]
        if answer is None or len(answers) < len(members):
            return findings
        try:
            together = _together(answers, objective)
        except ValueError as problem:
            return [
                *findings,
                error("members_differ", str(problem), "Let all members give logits of one shape."),
            ]
        findings += diagnoses.between(together.logits, answer.logits)
        # Beyond an error the numbers mean nothing.
        if not any(finding.severity == "error" for finding in findings):
            findings += diagnoses.in_accuracy(batch, together.logits)
            if objective is not None:
                # Whoever calls may be inside `no_grad`, or in inference mode.
                with torch.inference_mode(False), torch.enable_grad():
                    findings += diagnoses.in_objective(objective, answer, together, batch)
                    if not any(finding.severity == "error" for finding in findings):
                        findings += diagnoses.in_hints(objective.eval(), answer, together, batch)
    return findings


def format_findings(findings: Sequence[Finding]) -> str:
    """The findings as text, errors first, each with its advice.

    >>> print(format_findings([Finding("empty_batch", "error", "no examples", "Take another.")]))
    error    empty_batch: no examples
             Take another.
    """
    if not findings:
        return "No mistakes found."
    ordered = sorted(findings, key=lambda finding: finding.severity)
    return "\n".join(
        f"{each.severity:<8} {each.code}: {each.message}\n{'':<8} {each.advice}" for each in ordered
    )


def _as_batch(batch: Batch | Sequence[Any]) -> Batch:
    if not isinstance(batch, Batch):
        if not isinstance(batch, list | tuple) or not 2 <= len(batch) <= 3:
            raise TypeError(
                f"batch: got {type(batch).__name__}, expected a Batch or (inputs, targets[, mask])"
            )
        batch = Batch(*batch)
    if not isinstance(batch.inputs, Tensor | Mapping):
        raise TypeError(f"batch: got inputs of {type(batch.inputs).__name__}, expected a tensor or a mapping")
    return batch


def _modes(members: Sequence[nn.Module], student: nn.Module) -> Iterator[Finding]:
    awake = [
        path
        for member in members
        for path, module in member.named_modules()
        if module.training and _by_mode(module)
    ]
    if any(member.training for member in members):
        yield warning(
            "teacher_in_train_mode",
            "the teacher is in train mode: its BatchNorm drifts and its dropout makes the targets noisy",
            "kdrepro.fit and Distiller put it in eval mode at every step; in another loop call teacher.eval().",
        )
    elif awake:
        yield warning(
            "teacher_partly_in_train_mode",
            f"the teacher is in eval mode, but not its dropout or normalisation {', '.join(awake[:3])}",
            "Call teacher.eval() after whatever woke it.",
        )
    trains = sum(parameter.requires_grad for member in members for parameter in member.parameters())
    if trains:
        yield warning(
            "teacher_trains",
            f"{trains} of the teacher's parameter tensors require a gradient",
            "kdrepro.fit and Distiller ask it without gradient; in another loop call "
            "teacher.requires_grad_(False) and keep its parameters out of the optimizer.",
        )
    if not any(parameter.requires_grad for parameter in student.parameters()):
        yield error(
            "student_frozen",
            "no parameter of the student requires a gradient",
            "Call student.requires_grad_(True), or see whether teacher and student are swapped.",
        )
    if not student.training:
        yield warning(
            "student_in_eval_mode",
            "the student is in eval mode: its dropout is off and its BatchNorm frozen",
            "Call student.train() before each epoch, after any evaluation.",
        )


def _by_mode(module: nn.Module) -> bool:
    known = isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase)
    # Dropout of somebody's own: DropPath, DropBlock, WeightDrop.
    return known or "drop" in type(module).__name__.lower()


def _identity(
    members: Sequence[nn.Module], student: nn.Module, objective: nn.Module | None
) -> Iterator[Finding]:
    advice = "Give it weights of its own: copy.deepcopy(teacher), or a new network."
    if any(member is student for member in members):
        yield error("same_object", "teacher and student are one object: nothing would be distilled", advice)
        return
    frozen = FrozenTeacher(members)
    for name, other in {"student": student, "objective": objective}.items():
        try:
            if other is not None:
                frozen.check_apart(**{name: other})
        except ValueError as problem:
            yield error("shared_weights", str(problem), advice)
    held = {id(value) for member in members for value in member.parameters()}
    both = [name for name, value in student.named_parameters() if id(value) in held]
    if both and not any(student.get_parameter(name).requires_grad for name in both):
        yield warning(
            "shared_frozen",
            f"the student holds {len(both)} of the teacher's parameter tensors, the first as {both[0]!r}: they are "
            "frozen, so they stay as they are",
            f"Leave it where that is meant. {advice}",
        )


def _batch_of_one(size: int, student: nn.Module) -> Iterator[Finding]:
    if size == 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        yield warning(
            "batch_of_one",
            "the student holds BatchNorm and the batch one example, which leaves it nothing to compare with",
            "Use larger batches, and drop a last one of a single example.",
        )


def _name(position: int, members: Sequence[nn.Module]) -> str:
    return "teacher" if len(members) == 1 else f"teacher[{position}]"


def _ask(name: str, frozen: FrozenTeacher, batch: Batch, findings: list[Finding]) -> Outputs | None:
    answer = _attempt(name, lambda: frozen(batch.inputs), findings)
    # Twice, since some dropout does not listen to the mode. The tolerance leaves room for a GPU's order of sums.
    if answer is not None and not torch.allclose(
        answer.logits, frozen(batch.inputs).logits, rtol=1e-3, atol=1e-3, equal_nan=True
    ):
        findings.append(
            warning(
                "teacher_random",
                f"{name}: the same inputs gave two answers in eval mode",
                "Find the noise that ignores the mode, such as F.dropout(x) without training=self.training.",
            )
        )
    return answer


def _attempt(name: str, run: Callable[[], Outputs], findings: list[Finding]) -> Outputs | None:
    try:
        with torch.no_grad():
            outputs = run()
        logits = outputs.logits
        if not logits.numel() or not logits.is_floating_point():
            kind = f"{logits.dtype} of shape {tuple(logits.shape)}"
            raise ValueError(f"its logits are {kind}, expected floating-point (B, K) or (B, L, K)")
    # Whatever a stranger's forward raises is the finding.
    except Exception as problem:
        findings.append(
            error(
                f"{name.partition('[')[0]}_fails",
                f"{name}: failed on this batch with {type(problem).__name__}: {checks.told(problem)}",
                f"Call {name}(inputs) on this batch by hand: it must take the inputs and return logits.",
            )
        )
        return None
    findings += diagnoses.in_logits(name, logits)
    return outputs


def _together(outputs: Sequence[Outputs], objective: nn.Module | None) -> Outputs:
    if len(outputs) == 1:
        return outputs[0]
    temperature = 1.0 if objective is None else temperature_of(objective)
    return Outputs(mean_of_softened([each.logits for each in outputs], temperature=temperature))
