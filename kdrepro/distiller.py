"""Teacher, student and objective as one module, for a training loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, cast

from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from kdrepro import checks, objectives, taps, tensor_checks
from kdrepro.teacher import FrozenTeacher, run_module, temperature_of
from kdrepro.types import Batch, Outputs, as_outputs


@dataclass(frozen=True)
class Distilled:
    """What a `Distiller` gives: `loss` to call `.backward()` on, its `terms` by name (they sum to it, already
    weighted), the student's `logits` and `features`, and the `teacher`'s outputs (`None` without one), detached.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    logits: Tensor
    features: dict[str, Tensor]
    teacher: Outputs | None = None


register_pytree_node(
    Distilled,
    lambda out: ([out.loss, out.terms, out.logits, out.features, out.teacher], None),
    lambda parts, _: Distilled(*parts),
    serialized_type_name="kdrepro.Distilled",
)


class Distiller(nn.Module):
    """One module that runs teacher and student on a batch and gives the loss between them.

    `teacher` is a network, a list of them (an ensemble: their softmax at the objective's `temperature` is
    averaged), or `None` for an objective that needs none. `objective` is a module such as `HintonKD`, called
    with (student outputs, teacher outputs, batch).

    The teacher is used, never owned. `.parameters()` and `state_dict()` hold the student and what the
    objective learns, nothing of the teacher. Whatever `.train()` says, it runs in eval mode and without
    gradient, and its weights and buffers stay bitwise as they are. `.to()`, `.half()` and the like do move
    or convert it along.

    `teacher_taps` and `student_taps` name features of networks that do not give them themselves, as the taps of
    `Taps` do: `student_taps={"stage1": "layer1"}`. The names in `state_dict()` are the same with taps and without.
    An ensemble cannot be tapped: no one member's features stand for the rest.

    An objective whose weights depend on the epoch (`FitNetKD`, whatever is around it) has to be told of each:
    `distiller.start_epoch(epoch)`, counted from 0. `fit` does this, a loop of one's own must.

    DistributedDataParallel waits for a gradient of everything that requires one: freeze what the objective does not
    reach, as the layers above the guided one in the stage of hints.

    Raises `TypeError` for anything but modules, or an objective in a network's place; `ValueError` where student or
    objective share a part of the teacher that is not frozen or has buffers, for a tap that leads nowhere, or for taps
    on an ensemble or on no teacher.

    >>> import torch
    >>> from kdrepro import HintonKD
    >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> distiller = Distiller(teacher, student, HintonKD(temperature=4.0, soft_weight=0.9))
    >>> out = distiller(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> out.loss.backward()
    >>> sorted(out.terms), sorted(distiller.state_dict()), teacher.weight.grad
    (['hard', 'soft'], ['student.bias', 'student.weight'], None)
    """

    def __init__(
        self,
        teacher: nn.Module | Sequence[nn.Module] | None,
        student: nn.Module,
        objective: nn.Module,
        *,
        teacher_taps: Mapping[str, str] | None = None,
        student_taps: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        objectives.check_network("student", student)
        objectives.check_objective("objective", objective)
        self.student = student
        self.objective = objective
        if teacher is None and teacher_taps is not None:
            raise ValueError(
                "teacher_taps: got taps without a teacher, expected a teacher that they lead into"
            )
        # Not an nn.Module, so it is not registered: state_dict, parameters and train() pass it by.
        self.teacher = None if teacher is None else FrozenTeacher(teacher, teacher_taps=teacher_taps)
        if self.teacher is not None:
            self.teacher.check_apart(student=student, objective=objective)
        # Paths, not a Taps around the student, which would be in the names of the state_dict.
        self.student_taps: tuple[taps.Tap, ...] = ()
        if student_taps is not None:
            self.student_taps = taps.checked(student, student_taps, argument="student_taps")

    def forward(
        self,
        inputs: Tensor | Mapping[str, Any],
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        teacher_inputs: Tensor | Mapping[str, Any] | None = None,
        teacher_outputs: Tensor | Outputs | None = None,
    ) -> Distilled:
        """Loss of the student on one batch.

        `inputs` goes to both networks: a tensor as it is, a mapping as keyword arguments (as Hugging Face's
        models take them). `targets` (B,) or (B, L) may be left out where the objective does not look at them;
        `mask` is boolean and of their shape, True where a position counts.
        `teacher_inputs` is what the teacher gets instead: another view or tokenisation of the same examples.
        `teacher_outputs` is what it said already, logits (B, K) or `Outputs` such as `CachedTeacher.look_up` gives: it
        is not asked then, and there need be none. An ensemble's has to be averaged at the objective's temperature.
        Raises `TypeError` for inputs that are a tuple, a list or a `Batch`, naming the call that takes it apart;
        `ValueError` for both of `teacher_inputs` and `teacher_outputs`, inputs for a teacher that is not there, or
        outputs that say that they were averaged at another temperature.
        """
        _check_for_teacher(self.teacher, teacher_inputs, teacher_outputs)
        if isinstance(inputs, tuple | list | Batch):
            parts = "batch.inputs, batch.targets, batch.mask" if isinstance(inputs, Batch) else "*batch"
            raise TypeError(
                f"inputs: got {type(inputs).__name__}, expected a tensor or a mapping of them; where it is a whole "
                f"batch call distiller({parts})"
            )
        student = run_module(self.student, inputs, side="student", tapped=self.student_taps)
        teacher = None
        if teacher_outputs is not None:
            teacher = _detached(as_outputs(teacher_outputs, side="teacher"))
            _check_temperature(teacher.temperature, self.objective)
        elif self.teacher is not None:
            several = len(self.teacher.modules) > 1
            teacher = self.teacher(
                inputs if teacher_inputs is None else teacher_inputs,
                temperature=temperature_of(self.objective) if several else 1.0,
            )
        # An objective that reads what is not there says so itself.
        batch = Batch(cast(Tensor, inputs), targets, mask)
        terms = self.objective(student, teacher, batch)
        return Distilled(total(terms), dict(terms), student.logits, student.features, teacher)

    def __setattr__(self, name: str, value: Any) -> None:
        # As a module it would be registered, and trained.
        if name == "teacher" and not (value is None or isinstance(value, FrozenTeacher)):
            raise TypeError(
                f"teacher: got {type(value).__name__}, expected a new Distiller for another teacher: "
                "Distiller(teacher, distiller.student, distiller.objective)"
            )
        super().__setattr__(name, value)

    def start_epoch(self, epoch: int) -> None:
        """Tell the objective, and every part of it that asks, which epoch begins, counted from 0."""
        objectives.tell_epoch(self.objective, checks.whole("epoch", epoch))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        if self.teacher is not None and recurse:
            for member in self.teacher.modules:
                member._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _check_for_teacher(teacher: FrozenTeacher | None, inputs: object, outputs: object) -> None:
    """Raise `TypeError` or `ValueError` where what is for the teacher alone is of no use."""
    if outputs is not None and not isinstance(outputs, Tensor | Outputs):
        raise TypeError(
            f"teacher_outputs: got {type(outputs).__name__}, expected a tensor of logits or kdrepro.Outputs"
        )
    if inputs is None:
        return
    if outputs is not None:
        raise ValueError("teacher_inputs: got them with teacher_outputs, expected one of the two")
    if teacher is None:
        raise ValueError("teacher_inputs: got them without a teacher, expected a teacher that they are for")


def _check_temperature(averaged_at: float | None, objective: nn.Module) -> None:
    """Raise `ValueError` for an ensemble's outputs that were averaged at another temperature than the objective's."""
    if averaged_at is not None and averaged_at != (wanted := temperature_of(objective)):
        raise ValueError(
            f"teacher_outputs: got an ensemble's at temperature {averaged_at:g}, expected {wanted:g}, the objective's: "
            "its classes are averaged at it"
        )


def _detached(outputs: Outputs) -> Outputs:
    features = {name: value.detach() for name, value in outputs.features.items()}
    return replace(outputs, logits=outputs.logits.detach(), features=features)


def total(terms: object) -> Tensor:
    """The sum of an objective's terms, which are checked (`tensor_checks.terms`)."""
    return reduce(add, tensor_checks.terms(terms).values())
