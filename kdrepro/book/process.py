"""One chapter in a process of its own: papermill with this Python as kernel, ended for certain at its time limit."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

# What a process of a chapter carries in its environment, to be found by.
_MARK = "KDREPRO_CHAPTER_PROCESS"
# Opened here, as little is safe between fork and exec where there are threads; and one process starts at a time.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_STARTS = threading.Lock()


def run_papermill(
    source: Path,
    target: Path,
    *,
    parameters: Mapping[str, Any],
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    time_limit: float,
    stop: threading.Event,
) -> int | None:
    """Execute a notebook with papermill and return its exit status, or None if it ran past `time_limit` seconds.

    Papermill waits for ever when a kernel dies at the wrong moment, hence a limit from outside. Whatever ends the
    waiting, no process of the chapter outlives it. Raises `InterruptedError` once another thread has set `stop`.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="kdrepro-kernel-") as folder, log.open("wb") as stream:
        _write_kernel(Path(folder))
        command = [
            *(sys.executable, "-m", "papermill", str(source), str(target)),
            *("--kernel", "python3", "--cwd", str(cwd), "--parameters_yaml", json.dumps(dict(parameters))),
            *("--no-progress-bar", "--no-log-output", "--log-level", "WARNING"),
        ]
        with _STARTS:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **environment, **_own_jupyter(Path(folder)), _MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if _LIBC is not None else None,
            )
        try:
            return _wait(process, time_limit, stop)
        finally:
            _end(process, mark)


def _wait(process: subprocess.Popen[bytes], time_limit: float, stop: threading.Event) -> int | None:
    """Return the exit status, or None if there is none after so many seconds."""
    end = time.monotonic() + time_limit
    while not stop.is_set():
        try:
            return process.wait(timeout=max(0.0, min(0.5, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                return None
    raise InterruptedError("stopped, as another thread was interrupted")


def _die_with_parent() -> None:
    """Have Linux kill papermill when the thread that waits for it is gone, as when this process is killed.

    The kernel ends by itself when papermill is gone.
    """
    parent_death_signal = 1
    assert _LIBC is not None
    _LIBC.prctl(parent_death_signal, signal.SIGKILL)


def _write_kernel(folder: Path) -> None:
    """A kernel that is the running Python, under the name that every chapter asks for."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    content = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(content), encoding="utf-8")


def _own_jupyter(folder: Path) -> dict[str, str]:
    """Keeps kernels, start-up files and settings of the user out of what a chapter prints."""
    return {
        "JUPYTER_PATH": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "settings"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill what is left of a chapter: papermill, and its kernel, which leads a process group of its own."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for other in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if other.environ().get(_MARK) == mark:
                other.kill()
