"""Files of translations that grow piece by piece, so that a search that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# What such a file starts with.
_BEGINNING = b'{"teacher": '
# In seconds: how long to wait for another process, which may only be reading what is there.
_PATIENCE = 30.0


@contextlib.contextmanager
def alone_with(file: Path | None) -> Iterator[None]:
    """Keep other processes off a file of translations: from reading what is there to writing what is found."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock", timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"{file}: another process writes the same translations; wait for it, and start again"
        ) from None
    except PermissionError:
        # A finished file in a folder that nobody can write to is read all the same.
        if not file.exists():
            raise
    try:
        yield
    finally:
        lock.release()


def append(file: Path, search: dict[str, Any], piece: list[Any]) -> None:
    """Write a piece behind what the file has, and before the first what search it belongs to."""
    with file.open("ab") as handle:
        lines = [search, piece] if handle.tell() == 0 else [piece]
        handle.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        handle.flush()
        os.fsync(handle.fileno())


def begun(file: Path, search: dict[str, Any], *, length: int) -> list[list[Any]]:
    """Read the pieces of `length` sentences that a file holds, and cut off one that was not written whole.

    Raises `ValueError` that names the file for one of another search, or one that holds no translations.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    # A line without its end was being written when the search was killed.
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        # Nothing, or the beginning of a first line; a text of somebody else's is not ours to delete.
        if content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise ValueError(f"{file}: not a file of translations; name another file")
        file.unlink()
        return []
    try:
        first, *pieces = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    # Of letters that are none, or of a line that is not JSON.
    except ValueError as error:
        raise ValueError(
            f"{file}: not a file of translations ({error}); delete it to search again"
        ) from error
    other = [name for name in search if not isinstance(first, dict) or first.get(name) != search[name]]
    # A search that is done is text, whatever computed it.
    if other and not (other == ["arithmetic"] and sum(map(len, pieces)) == search["sentences"]):
        raise ValueError(
            f"{file}: belongs to another search ({', '.join(other)} differ); delete it or name another file"
        )
    if not all(isinstance(piece, list) for piece in pieces):
        raise ValueError(f"{file}: holds a line that is no piece of translations; delete it to search again")
    done = sum(map(len, pieces))
    # All pieces have the same length, but for the last of a search that is done.
    if done > search["sentences"] or (done < search["sentences"] and done != len(pieces) * length):
        raise ValueError(
            f"{file}: holds {done} sentences in pieces of other lengths; delete it to search again"
        )
    if len(whole) < len(content):
        with file.open("r+b") as handle:
            handle.truncate(len(whole))
    return pieces
