"""Files of weights and of training states, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdrepro import files

# What the archives of `torch.save` begin with.
_ZIP = b"PK\x03\x04"


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Have `file` written whole or not at all; what keeps it from being written is an `OSError` that names it."""
    try:
        with files.whole(file) as beside:
            write(beside)
    except OSError as error:
        raise OSError(
            error.errno, f"{file}: could not be written ({error}); what was there before is untouched"
        ) from error
    except (RuntimeError, SafetensorError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer, safetensors as an error of its own.
        raise OSError(
            f"{file}: could not be written ({error}); what was there before is untouched"
        ) from error


def save_state(state: Mapping[str, Any], file: Path) -> None:
    """Write a training state (tensors, numbers, strings, lists and dicts of them) to `file`, atomically.

    Raises `OSError` naming the file when it cannot be written; what was there before stays.
    """
    own = _without_numpy(dict(state))
    _replace(file, lambda beside: torch.save(own, beside))


def _without_numpy(value: Any) -> Any:
    """The same with Python's numbers for numpy's, which are written and then, as no plain data, not read."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        # A copy has the kind of the first: a counter, or in order.
        own = copy(value)
        own.clear()
        for name, each in value.items():
            own[_without_numpy(name)] = _without_numpy(each)
        return own
    return type(value)(_without_numpy(each) for each in value) if type(value) in (list, tuple) else value


def load_state(file: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; nothing but data is unpickled (`weights_only=True`).

    Raises `ValueError` naming the file when it is truncated or holds anything else. To delete it is advised only where
    `save_state` has written it.
    """
    if file.is_dir():
        raise ValueError(f"{file}: is a folder, expected the file of a checkpoint; name a file in it")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch goes on to advise reading the file without this protection.
        reason = f"{type(error).__name__}: {error}".partition(". ")[0]
        advice = "delete it to start anew" if _is_ours(file) else "name another file"
        raise ValueError(f"{file}: not a readable checkpoint ({reason}); {advice}") from error
    if isinstance(state, dict):
        return state
    raise ValueError(f"{file}: got {type(state).__name__}, expected a training state; name another file")


def _is_ours(file: Path) -> bool:
    """Say whether a file that cannot be read is the beginning of one that `save_state` has written."""
    if not file.exists():
        return False
    with file.open("rb") as stream:
        start = stream.read(400)
    # The archive has the name of the part beside the file that it was written to. What ends before that may be nothing.
    named = re.search(rb"\.[0-9a-f]{8}/data\.pkl", start) is not None
    return start.startswith(_ZIP) and named if len(start) > 40 else _ZIP.startswith(start[:4])


def save_weights(module: nn.Module, file: Path, *, metadata: Mapping[str, str]) -> None:
    """Write a module's `state_dict` to a safetensors file, atomically, with `metadata` beside it.

    Raises `OSError` as `save_state`.
    """
    save_tensors(module.state_dict(), file, metadata=metadata)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, *, metadata: Mapping[str, str]) -> None:
    """Write named tensors to a safetensors file, atomically. Raises `OSError` as `save_state`."""
    own: dict[str, Tensor] = {}
    there: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        # Layers may share a weight, which the file holds once for each.
        own[name] = value.clone() if place in there else value
        there.add(place)
    _replace(file, lambda beside: save_file(own, beside, metadata=dict(metadata)))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote. Raises `ValueError` naming the file when it is truncated or something else."""
    if file.is_dir():
        raise ValueError(f"{file}: is a folder, expected a safetensors file; name a file in it")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except Exception as error:
        raise ValueError(
            f"{file}: not a readable safetensors file ({error}); name another file, or delete it if it was written by "
            "this package"
        ) from error
    return tensors


def load_weights(module: nn.Module, file: Path) -> None:
    """Load what `save_weights` wrote into `module`, strictly.

    Raises `ValueError` naming the file when it is truncated or belongs to another net.
    """
    try:
        module.load_state_dict(load_file(file))
    except Exception as error:
        raise ValueError(
            f"{file}: its weights do not load into {type(module).__name__} ({error}); delete it to train again"
        ) from error


def metadata_of(file: Path) -> dict[str, str]:
    """Return what `save_tensors` wrote beside the tensors; nothing where there is no such file.

    Raises `ValueError` naming the file when it is truncated.
    """
    if not file.exists():
        return {}
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except Exception as error:
        raise ValueError(
            f"{file}: not a readable safetensors file ({error}); delete it to train again"
        ) from error
