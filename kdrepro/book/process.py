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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# What a process of a chapter carries in its environment, to be found by.
_MARK = "KDREPRO_CHAPTER_PROCESS"


def run_papermill(
    source: Path,
    target: Path,
    *,
    parameters: Mapping[str, Any],
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    time_limit: float,
) -> int | None:
    """Execute a notebook with papermill and return its exit status, or None if it ran past `time_limit` seconds.

    Papermill waits for ever when a kernel dies at the wrong moment, hence a limit from outside. Whatever ends the
    waiting, an interrupt included, no process of the chapter outlives it.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="kdrepro-kernel-") as folder, log.open("wb") as stream:
        _write_kernel(Path(folder))
        command = [
            *(sys.executable, "-m", "papermill", str(source), str(target)),
            *("--kernel", "python3", "--cwd", str(cwd), "--parameters_yaml", json.dumps(dict(parameters))),
            *("--no-progress-bar", "--no-log-output", "--log-level", "WARNING"),
        ]
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment, **_own_jupyter(Path(folder)), _MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            return process.wait(timeout=time_limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process, mark)


def _die_with_parent() -> None:
    """Have Linux kill papermill when this process is killed; the kernel ends by itself when papermill is gone."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


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
    import psutil  # type: ignore[import-untyped]  # comes with ipykernel

    for other in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if other.environ().get(_MARK) == mark:
                other.kill()
