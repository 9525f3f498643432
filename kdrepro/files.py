"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(file: Path, *, over: bool = True) -> Iterator[Path]:
    """Give a path beside `file` to write to; what is there at the end goes to the disk, and then takes the name.

    Folders that are missing are made. Whatever happens before the end, what `file` was stays as it was; the part is
    removed, unless the process is killed, which leaves `.<name>.<8 digits>.part`.

    Raises `FileExistsError` where the name is taken and `over` is False, by a faster process too (on a file system
    without links that is not seen, and the later one stays), and `OSError` where nothing was written or can be.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not by the number of the process, which may be the same in two containers on one folder.
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        if over:
            os.replace(beside, file)
        else:
            _take(beside, file)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _take(beside: Path, file: Path) -> None:
    # A link fails when the name is taken; os.replace would overwrite.
    try:
        os.link(beside, file)
    except FileExistsError:
        raise FileExistsError(f"{file}: another process has just written it") from None
    except OSError:  # a file system without links
        os.replace(beside, file)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk: without this a power cut can forget a new one."""
    # Some systems cannot open a folder, and do without.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
