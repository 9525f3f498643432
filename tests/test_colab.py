"""The chapters as Colab runs them: the package from its wheel, an empty folder, no repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project_files import ROOT

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_a_chapter_runs_from_the_wheel(chapter: Path, installed_python: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    command = [str(installed_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    folder = tmp_path / "content"
    folder.mkdir()
    shutil.copy(chapter, folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("KDREPRO", "PYTHON"))
    }
    environment |= {"JUPYTER_PATH": str(tmp_path / "jupyter"), "OMP_NUM_THREADS": "1"}
    papermill = [
        sys.executable,
        "-m",
        "papermill",
        chapter.name,
        "done.ipynb",
        "-k",
        "colab",
        "-p",
        "protocol",
        "smoke",
    ]
    ran = subprocess.run(
        [*papermill, "--no-progress-bar"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    cells = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    # What it trained lies in its own folder, and the recorded rows came with the wheel.
    assert list((folder / "runs").rglob("*.smoke.*")) or list((folder / "runs").rglob("smoke.*.json"))
    assert "hinton_kd.paper" not in "".join(map(str, (folder / "runs").rglob("*")))
