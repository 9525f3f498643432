"""The teacher of a distillation: run in eval mode, without gradient, and left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdrepro import checks, objectives, taps, tensor_checks
from kdrepro.modes import modes_kept
from kdrepro.types import Outputs, as_outputs, at_least_float32


def run_module(
    module: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    *,
    side: str,
    tapped: Sequence[taps.Tap] = (),
) -> Outputs:
    """Call a network and take what it gives as `Outputs`, with the features that are `tapped` on the way.

    A mapping of inputs becomes keyword arguments. An error of torch's gets a note that says whose it is.
    """
    if torch.compiler.is_compiling():
        return _run(module, inputs, side, tapped)
    try:
        return _run(module, inputs, side, tapped)
    except RuntimeError as problem:
        # Python 3.10 has no notes.
        if hasattr(problem, "add_note"):
            given = inputs.values() if isinstance(inputs, Mapping) else [inputs]
            weights = _kinds([*module.parameters(), *module.buffers()])
            problem.add_note(f"{side}: its weights are {weights}, its inputs {_kinds(given)}")
        raise


def _run(
    module: nn.Module, inputs: Tensor | Mapping[str, Any], side: str, tapped: Sequence[taps.Tap]
) -> Outputs:
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else ((inputs,), {})
    if tapped:
        return taps.run_tapped(module, tapped, args, kwargs, side=side)
    return as_outputs(module(*args, **kwargs), side=side)


def _kinds(values: Iterable[object]) -> str:
    found = (f"{each.dtype} on {each.device}" for each in values if isinstance(each, Tensor))
    return ", ".join(dict.fromkeys(found)) or "no tensors"


def members_of(
    teacher: nn.Module | Sequence[nn.Module], *, argument: str = "teacher"
) -> tuple[nn.Module, ...]:
    """The networks of a teacher: itself, or those of a list, a tuple or an `nn.ModuleList`."""
    # A ModuleList is a module, but not one that can be called: its members are meant.
    if isinstance(teacher, nn.Module) and not isinstance(teacher, nn.ModuleList):
        objectives.check_network(argument, teacher)
        return (teacher,)
    if not isinstance(teacher, list | tuple | nn.ModuleList):
        cached = "; outputs looked up are given at each step: teacher_outputs=cached.look_up(index)"
        raise TypeError(
            f"{argument}: got {type(teacher).__name__}, expected an nn.Module or a list of them"
            + (cached if hasattr(teacher, "look_up") else "")
        )
    for position, member in enumerate(teacher):
        objectives.check_network(f"{argument}[{position}]", member)
    if not len(teacher):
        raise ValueError(f"{argument}: got an empty list, expected at least one nn.Module")
    if len({id(member) for member in teacher}) < len(teacher):
        raise ValueError(f"{argument}: got the same nn.Module more than once, expected different members")
    return tuple(teacher)


class FrozenTeacher:
    """One network, or an ensemble of several, that is asked and never changed.

    Not an `nn.Module`, so that a module may hold it without owning its parameters, mode or `state_dict`.
    Every call runs all members in eval mode (whoever woke them in between) and without gradient, so that
    weights, BatchNorm buffers and `.grad` stay bitwise as they are (buffers that a forward writes in eval mode too, as
    those of fake quantisation, do not).

    An ensemble's logits are those whose softmax at `temperature` is the mean of the members' softmax at it,
    T log mean_i softmax(z_i / T): the arithmetic mean of Hinton, Vinyals & Dean (2015), section 1.
    They come without features: no one member's would stand for the rest.

    `teacher_taps` names features of a teacher that does not give them itself, as `Taps` does.

    Raises `TypeError` for anything but modules, `ValueError` for an empty list, a member named twice, or taps on an
    ensemble.
    """

    def __init__(
        self, teacher: nn.Module | Sequence[nn.Module], *, teacher_taps: Mapping[str, str] | None = None
    ) -> None:
        self.modules = members_of(teacher)
        self.taps: tuple[taps.Tap, ...] = ()
        if teacher_taps is not None:
            if len(self.modules) > 1:
                raise ValueError(
                    f"teacher_taps: got taps on an ensemble of {len(self.modules)}, expected one teacher: "
                    "no one member's features stand for the rest"
                )
            self.taps = taps.checked(self.modules[0], teacher_taps, argument="teacher_taps")
        self._sleep()

    def _sleep(self) -> None:
        for member in self.modules:
            # Asking first spares most steps a walk that sets what is set.
            if any(module.training for module in member.modules()):
                member.eval()

    def __call__(self, inputs: Tensor | Mapping[str, Any], *, temperature: float = 1.0) -> Outputs:
        """Ask the teacher; `temperature` matters to an ensemble only, whose softened classes are averaged."""
        self._sleep()
        # Not inference_mode: a loss may save the teacher's tensors for its backward pass.
        with torch.no_grad():
            outputs = [
                run_module(member, inputs, side="teacher", tapped=self.taps) for member in self.modules
            ]
            if len(outputs) == 1:
                features = {name: value.detach() for name, value in outputs[0].features.items()}
                return Outputs(outputs[0].logits.detach(), features)
            averaged = mean_of_softened([each.logits for each in outputs], temperature=temperature)
            return Outputs(averaged, temperature=temperature)

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Move all members to a device, in place; returns itself."""
        for member in self.modules:
            member.to(device)
        return self

    def check_apart(self, **others: nn.Module) -> None:
        """Raise `ValueError` if one of `others`, by argument name, is the teacher or shares weights with it.

        Training it would change the teacher too; a network that is its own teacher learns nothing from it. A part of
        the teacher in which nothing requires a gradient may be in both, if it has no buffers: training may change
        those (running statistics). Once the teacher was asked it is in eval mode.
        """
        own = {id(module) for member in self.modules for module in member.modules() if _may_change(module)}
        own |= {id(member) for member in self.modules}
        weights = {_place(value) for member in self.modules for value in member.parameters()}
        advice = "expected a network of its own (copy.deepcopy makes one)"
        frozen = f"{advice}, or to share what is frozen and has no buffers"
        for name, other in others.items():
            if any(other is member for member in self.modules):
                raise ValueError(f"{name}: got the same object as the teacher, {advice}")
            for path, module in other.named_modules():
                if id(module) in own:
                    raise ValueError(f"{name}: got a submodule {path!r} that the teacher holds too, {frozen}")
            for path, value in other.named_parameters():
                place = _place(value)
                if value.requires_grad and any(_overlap(place, weight) for weight in weights):
                    raise ValueError(f"{name}: got a parameter {path!r} that the teacher holds too, {frozen}")


def _is_lazy(module: nn.Module) -> bool:
    own = [*module._parameters.values(), *module._buffers.values()]
    return any(is_lazy(value) for value in own if value is not None)


@contextmanager
def untouched(*roots: nn.Module) -> Iterator[None]:
    """Put the modes and buffers of networks, and torch's random state, back afterwards.

    Raises `ValueError` for a network with lazy layers that have not seen an input: nothing could be put back.
    """
    for root in roots:
        lazy = next((part for part in root.modules() if _is_lazy(part)), None)
        if lazy is not None:
            raise ValueError(
                f"{type(root).__name__}: got a {type(lazy).__name__} that has not seen an input, expected a network "
                "that was run once"
            )
    buffers = [
        (module, name, value, value.clone())
        for root in roots
        for module in root.modules()
        for name, value in module._buffers.items()
        if value is not None
    ]
    places = {value.device for root in roots for value in [*root.parameters(), *root.buffers()]}
    cuda = sorted(place.index for place in places if place.type == "cuda")
    try:
        with modes_kept(*roots), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        with torch.no_grad():
            for module, name, value, copy in buffers:
                module._buffers[name] = value
                # Not every buffer can be written to: an expanded one, or one of inference mode.
                if not torch.equal(value, copy):
                    value.copy_(copy)


def temperature_of(objective: nn.Module) -> float:
    """Return the temperature at which a teacher of several networks is averaged for an objective.

    It is the objective's own, or that of what is inside it, 1 if there is none. Raises `ValueError` for several.
    """
    own = getattr(objective, "temperature", None)
    if own is not None:
        return float(own)
    parts = (getattr(part, "temperature", None) for part in objective.modules())
    found = sorted({float(each) for each in parts if each is not None})
    if len(found) > 1:
        raise ValueError(
            f"objective: got parts at the temperatures {', '.join(map(str, found))}, expected one: the ensemble's "
            "classes are averaged at it"
        )
    return found[0] if found else 1.0


def mean_of_softened(member_logits: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Logits whose softmax at `temperature` is the mean of the members' softmax at it.

    Shapes: a list of (*batch, K) → (*batch, K), computed in float32 or wider.
    Raises `ValueError` for members whose shapes differ.
    """
    temperature = checks.positive("temperature", temperature)
    first = tensor_checks.logits("teacher[0] logits", member_logits[0])
    for position, logits in enumerate(member_logits):
        if tensor_checks.logits(f"teacher[{position}] logits", logits).shape != first.shape:
            raise ValueError(
                f"teacher[{position}] logits: got shape {tuple(logits.shape)}, expected {tuple(first.shape)} "
                "like the first member's"
            )
    stacked = torch.stack(list(member_logits))
    wide = at_least_float32(stacked)
    log_probs = torch.log_softmax(wide / temperature, dim=-1)
    return temperature * (log_probs.logsumexp(dim=0) - math.log(len(member_logits)))


def _may_change(module: nn.Module) -> bool:
    trains = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    return trains or next(module.buffers(recurse=False), None) is not None


def _place(parameter: nn.Parameter) -> tuple[str, int, int]:
    """Where a parameter's memory lies, from byte to byte; nowhere for one without any (empty, meta, lazy)."""
    device = str(parameter.device)
    strided = not is_lazy(parameter) and parameter.layout == torch.strided
    if not strided or parameter.device.type == "meta" or parameter.numel() == 0:
        return device, 0, 0
    last = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    start = parameter.data_ptr()
    return device, start, start + (last + 1) * parameter.element_size() if start else 0


def _overlap(one: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
