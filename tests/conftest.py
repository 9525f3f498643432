"""What all tests share: one thread per worker, no data or rows of the user, the wheel, the pages, the browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from project_files import ROOT

if TYPE_CHECKING:
    from kdrepro.ledger import Ledger

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: with a thread pool each they would only wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

# Derandomised, so that a failure is the same on every machine; no deadline, because two cores do much else.
settings.register_profile("kdrepro", deadline=None, derandomize=True, database=None)
settings.load_profile("kdrepro")


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the data or writes among the rows of whoever runs it."""
    for name in ("KDREPRO_DATA", "KDREPRO_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Rows from which the paper of Hinton et al. comes out as it should; not to be written to."""
    # Not above, where torch would start before it is told how many threads it has.
    from recorded_rows import hinton_rows, write_ledger

    return write_ledger(tmp_path_factory.mktemp("rows"), hinton_rows())


@pytest.fixture
def empty(tmp_path: Path) -> Ledger:
    """A ledger without rows."""
    from kdrepro.ledger import Ledger

    return Ledger(tmp_path / "none")


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for rows and weights, as $KDREPRO_RUNS."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("KDREPRO_RUNS", str(folder))
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as others install it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="session")
def installed_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has kdrepro from the wheel and borrows everything else.

    A .pth file lends it the packages of the environment that runs the tests, so that torch is not fetched again.
    The checkout stays out of sight: an editable installation is a .pth file of its own, and those of a lent
    folder are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    lent = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site_packages / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    # Otherwise pip finds the lent kdrepro and thinks that there is nothing to do.
    done = subprocess.run([*command, "--ignore-installed"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the book with the chapters executed at protocol smoke, built once for all workers."""
    from filelock import FileLock

    from kdrepro.book import build, execute

    parent = tmp_path_factory.getbasetemp()
    folder = (parent.parent if parent.name.startswith("popen-") else parent) / "book"
    with FileLock(f"{folder}.lock"):
        if not (folder / "html" / "index.html").exists():
            results = execute(ROOT, protocol="smoke", folder=folder)
            assert [str(result) for result in results if result.status != "executed"] == []
            build(ROOT, folder=folder)
    return folder / "html"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: the system's, else Playwright's own; without one the test is skipped.

    With KDREPRO_REQUIRE_BROWSER=1 it fails instead, so that a build server cannot pass by having no browser.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).exists() else None
    if found is None:
        reason = f"no browser: none of {', '.join(names)} is on the PATH, and `make browser` was not run"
        if os.environ.get("KDREPRO_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
