"""How a teacher is asked in training: at which temperature, from a cache, or by replaying a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdrepro import devices, digests
from kdrepro.caching import CachedTeacher, CachedTranslator, check_asked_for
from kdrepro.teacher import FrozenTeacher, temperature_of
from kdrepro.training.cuda_graphs import Replay
from kdrepro.training.members import Member
from kdrepro.training.preflight import Ask
from kdrepro.types import Batch, Outputs

Asked = FrozenTeacher | CachedTeacher | CachedTranslator


def teacher_outputs(
    teacher: Asked | None, members: Sequence[Member], precision: str, device: torch.device
) -> Ask | None:
    """Return what gives the teacher's outputs for a batch, by asking it or looking them up; `None` without one.

    Raises `ValueError` for objectives that want an ensemble averaged at different temperatures, and for outputs cached
    at another temperature or in another precision.
    """
    if teacher is None:
        return None
    if isinstance(teacher, CachedTeacher | CachedTranslator):
        temperatures = _temperatures(members) if teacher.temperature is not None else set()
        check_asked_for(teacher, temperatures=temperatures, precision=precision)
        return teacher.to(device).look_up
    frozen = teacher.to(device)
    several = len(frozen.modules) > 1
    if several and len(temperatures := _temperatures(members)) > 1:
        raise ValueError(
            f"members: got objectives at the temperatures {', '.join(map(str, sorted(temperatures)))}, expected one: "
            "the ensemble's classes are averaged at it"
        )

    def ask(batch: Batch) -> Outputs:
        # An objective may change its temperature as it goes.
        with devices.autocast(precision, device):
            return frozen(batch.inputs, temperature=min(_temperatures(members)) if several else 1.0)

    return ask


def replayed(ask: Ask, device: torch.device) -> Ask:
    """Return what asks a single network by replaying a CUDA graph."""
    replay = Replay(lambda batch, _: ask(batch), device)
    return lambda batch: replay(batch, None)


def _temperatures(members: Sequence[Member]) -> set[float]:
    return {temperature_of(member.objective) for member in members}


def name_of(teacher: Asked | None) -> str:
    """Return the digest of a teacher's weights, for the checkpoints of those that learn from it."""
    if isinstance(teacher, FrozenTeacher):
        return digests.of_modules(*teacher.modules)
    return "none" if teacher is None else teacher.teacher
