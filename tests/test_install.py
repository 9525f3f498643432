"""The package as a stranger has it: from the wheel, in a new environment, in an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from project_files import ROOT

from kdrepro.ledger import recorded
from kdrepro.verdicts import papers


def _run(*command: str | Path, folder: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("KDREPRO", "PYTHON"))
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _python(python: Path, code: str, folder: Path) -> str:
    return _run(python, "-c", code, folder=folder)


def _readme_example() -> str:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    (example,) = (block for block in blocks if "kdrepro.Distiller(" in block)
    assert len(example.splitlines()) == 3
    return example


def test_wheel_holds_the_package_with_its_claims_and_rows_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        file.relative_to(ROOT).as_posix()
        for pattern in ("**/*.py", "claims/*.toml", "results/**/*.json", "py.typed")
        for file in (ROOT / "kdrepro").glob(pattern)
    }
    assert {"kdrepro/claims/hinton2015.toml", "kdrepro/py.typed"} <= expected
    assert expected <= names
    assert {name.split("/")[0] for name in names - expected} <= {
        "kdrepro",
        f"{wheel.name.split('-py3')[0]}.dist-info",
    }
    assert not [
        name for name in names if "__pycache__" in name or name.endswith((".ipynb", ".safetensors", ".tmp"))
    ]


def test_wheel_asks_for_lower_bounds_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    needed = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert any(line.startswith("torch") for line in needed)
    assert not [line for line in needed if re.search(r"[<~!]|==", line.split(";")[0])]
    assert metadata["Requires-Python"] == ">=3.10"


def test_kdrepro_comes_from_the_wheel(installed_python: Path, tmp_path: Path) -> None:
    file = _python(installed_python, "import kdrepro; print(kdrepro.__file__)", tmp_path).strip()
    assert Path(file).is_relative_to(installed_python.parents[1])


def test_readme_example_runs_with_torchvision_networks(installed_python: Path, tmp_path: Path) -> None:
    code = f"""
import torch, torchvision, kdrepro
torch.set_num_threads(1)
torch.manual_seed(0)
teacher = torchvision.models.resnet18(num_classes=10)
student = torchvision.models.mobilenet_v3_small(num_classes=10)
before = {{name: value.clone() for name, value in teacher.state_dict().items()}}
inputs, targets = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
{_readme_example()}
assert sorted(out.terms) == ["hard", "soft"], out.terms
assert torch.allclose(sum(out.terms.values()), out.loss)
assert all(parameter.grad is not None for parameter in student.parameters())
assert all(parameter.grad is None for parameter in teacher.parameters())
assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
print(out.loss.item())
"""
    assert float(_python(installed_python, code, tmp_path)) > 0
    assert not list(tmp_path.iterdir())


def test_claims_and_recorded_rows_are_found_without_the_checkout(
    installed_python: Path, tmp_path: Path
) -> None:
    code = """
import json
from kdrepro.ledger import recorded
from kdrepro.verdicts import papers
ledger = recorded()
print(json.dumps([[paper.key for paper in papers()], [row.run for row in ledger.rows()], len(ledger.problems())]))
"""
    keys, runs, problems = json.loads(_python(installed_python, code, tmp_path))
    assert keys == [paper.key for paper in papers()]
    assert runs == [row.run for row in recorded().rows()]
    assert problems == 0


@pytest.mark.parametrize(
    "module", ["kdrepro", "kdrepro.ledger", "kdrepro.verdicts", "kdrepro.tables", "kdrepro.plots"]
)
def test_what_reads_rows_loads_no_torch(module: str, installed_python: Path, tmp_path: Path) -> None:
    code = f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] == 'torch'][:3])"
    assert _python(installed_python, code, tmp_path).strip() == "[]"


def test_command_line_works_in_an_empty_folder(installed_python: Path, tmp_path: Path) -> None:
    kdrepro = installed_python.with_name("kdrepro")
    assert "run" in _run(kdrepro, "--help", folder=tmp_path)
    shown = _run(kdrepro, "claims", "--paper", "hinton2015", folder=tmp_path)
    (paper,) = (paper for paper in papers() if paper.key == "hinton2015")
    assert [claim.id for claim in paper.claims if not re.search(rf"\b{claim.id}\b", shown)] == []
    assert not list(tmp_path.iterdir())
