"""Which device and which precision a run uses, through Hugging Face Accelerate."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from kdrepro import checks

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


def available() -> list[str]:
    """Return the devices that this machine has, by name; the CPU is always one."""
    found = ["cpu"]
    found += ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return found


def place(device: torch.device | str = "auto") -> torch.device:
    """Return where `device` is: `auto` takes CUDA, then MPS, then the CPU; a launched process has its own.

    One of several GPUs is `cuda:1`, or a `torch.device`. Raises `ValueError` for an unknown device, one that this
    machine does not have, or in a launched process the GPU of another.
    """
    wanted = _wanted(device)
    if PartialState._shared_state or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        own = torch.device(PartialState().device)
        _check_own(wanted, own)
        if own.type == wanted.type and wanted.index in (None, own.index):
            return own
    return wanted


def _wanted(device: object) -> torch.device:
    name = str(device) if isinstance(device, torch.device) else device
    kind, colon, number = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in DEVICES or (colon and (kind == "auto" or not number.isdecimal())):
        raise checks.wrong_name("device", device, DEVICES)
    kind = available()[-1] if kind == "auto" else kind
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in available() or (colon and int(number) >= count):
        some = f" (of which it has {count})" if kind == "cuda" and count else ""
        raise ValueError(
            f"device: got {name!r}, expected one that this machine has: auto, {', '.join(available())}{some}"
        )
    # Of the others there is only one.
    return torch.device(kind, int(number)) if colon and kind == "cuda" else torch.device(kind)


def _check_own(wanted: torch.device, own: torch.device) -> None:
    if PartialState().num_processes > 1 and own.type == wanted.type and wanted.index not in (None, own.index):
        raise ValueError(
            f"device: got '{wanted}' in the process of {own}, expected '{own.type}': of several processes each has its "
            "own"
        )


@contextlib.contextmanager
def accelerator(device: torch.device | str = "auto") -> Iterator[Accelerator]:
    """Give an `Accelerator` on `device`, as in `place`, and leave one that the caller has as it was.

    Under `accelerate launch` the processes and their devices are the launcher's. Raises as `place` does.
    """
    wanted = _wanted(device)
    # Accelerate keeps one state for the whole process, in which another precision or device is refused.
    shared = [each._shared_state for each in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    if shared[0] and PartialState().device.type != wanted.type and PartialState().num_processes == 1:
        shared[0].clear()
    shared[1].clear()
    shared[2].clear()
    try:
        # Precision is ours (`autocast`), so that the losses stay in float32 and one process can use both.
        # In a step of several processes an objective may leave out layers of the student, as a hint does those above.
        spread = DistributedDataParallelKwargs(find_unused_parameters=True)
        run = Accelerator(cpu=wanted.type == "cpu", mixed_precision="no", kwargs_handlers=[spread])
        _check_own(wanted, run.device)
        if wanted.index is None or run.num_processes > 1:
            yield run
        else:
            # Accelerate knows the first GPU only; parts of torch ask which is the current one.
            for state in shared[:2]:
                state["device"] = wanted
            with torch.cuda.device(wanted):
                yield run
    finally:
        for state, old in zip(shared, before, strict=True):
            # The processes of a launch stay as they are.
            if state is not shared[0] or old or PartialState().num_processes == 1:
                state.clear()
                state.update(old)


def has_bf16(device: torch.device) -> bool:
    """Say whether the processor multiplies bfloat16 matrices itself, rather than in emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # The public call that would say this does not exist yet.
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return False


def precision_for(precision: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`: what `precision` names, and for `auto` bf16 where the processor has it."""
    checks.choice("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the nets, not the losses, are computed, in `fp32` or `bf16`.

    Raises `ValueError` for another precision: what `auto` means on a device, `precision_for` says.
    """
    checks.choice("precision", precision, ("fp32", "bf16"))
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def full_fp32() -> None:
    """Let float32 on CUDA be float32 in this process: torch's default rounds what goes into convolutions to TF32.

    TF32 has ten bits of mantissa, bf16 seven, float32 23: what a row calls fp32 would be nearer to bf16. It is
    a switch of the whole process, as backward passes look at it too, so programs that train and then end set it
    (`kdrepro run` does), and `fit` leaves it to its caller.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@cache
def keep_freed_memory() -> bool:
    """Let the process keep what it frees rather than hand it back to the system; say whether its allocator could.

    Training frees and takes the same large blocks in every step. GNU's allocator gives those above some size back, and
    each comes again as empty pages, which the system has to clear one by one: on a CPU that is a tenth of the time of a
    convolutional net and a quarter of that of a translator. What is computed is the same. For programs that train and
    then end, such as `kdrepro run`: the process holds on to the most that it ever had.
    """
    if platform.system() != "Linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Of malloc.h: how many bytes may stay free at the top of the heap (-1: all), how many it grows by at the least, and
    # how many blocks may live outside it.
    options = {"trim_threshold": (-1, -1), "top_pad": (-2, 2**28), "mmap_max": (-4, 0)}
    return mallopt is not None and all(mallopt(*option) for option in options.values())


def prefers_channels_last(module: nn.Module, *, precision: str, device: torch.device) -> bool:
    """Say whether a net runs faster with the channels last in memory.

    One with 2-D convolutions does, but for float32 on CUDA, whose kernels for that order are those of tensor cores.
    """
    if device.type == "cuda" and precision == "fp32":
        return False
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules())


class ChannelsLast:
    """A net with the channels last in memory, until `undo`: every weight and buffer of four dimensions, in place."""

    def __init__(self, module: nn.Module) -> None:
        self.moved = [
            value
            for value in (*module.parameters(), *module.buffers())
            if value.ndim == 4 and value.is_contiguous()
        ]
        for value in self.moved:
            value.data = value.data.to(memory_format=torch.channels_last)

    def undo(self) -> None:
        """Put what was moved back as it was: others may need it in one piece, `safetensors` for instance."""
        for value in self.moved:
            # With a single channel both orders are contiguous, and only the strides tell.
            value.data = value.data.clone(memory_format=torch.contiguous_format)
        self.moved = []


def seed(number: int, device: torch.device) -> None:
    """Start the random numbers of the CPU and of `device` from `number`, and those of no other device."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def random_state(device: torch.device) -> list[Tensor]:
    """Return where the random numbers of the CPU are, and those of `device` if that is another."""
    own = {"cuda": lambda: torch.cuda.get_rng_state(device), "mps": torch.mps.get_rng_state}
    return [torch.get_rng_state(), *([own[device.type]()] if device.type in own else [])]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put the random numbers back to where `random_state` found them."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers, those of the CPU and of `device`, where they were."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)


def describe(device: torch.device) -> str:
    """Return the device in words, for rows: the kind, the model, and the number of threads on a CPU."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return device.type
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"cpu: {model}, {torch.get_num_threads()} threads"
