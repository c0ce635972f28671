"""The systemd units, as systemd itself reads them where it is installed, and our own rules."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from controller.settings import TimeoutSettings
from tests.deploy.deployed import DEPLOY
from worker.settings import WorkerSettings

FOLDER = DEPLOY / "systemd"
SERVICES = ("forerun-controller.service", "forerun-worker@.service")
WORST_EXPOSURE = 20
"""Tenths, as systemd-analyze counts it; below 2 it calls a service well protected."""


def unit(name: str) -> dict[str, str]:
    """The section that says how a service runs; of what is said twice, the last."""
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FOLDER / name)
    return dict(parser["Service"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with our units among those of this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    root = tmp_path_factory.mktemp("root")
    units = root / "etc/systemd/system"
    drop_in = units / "forerun-worker@.service.d"
    drop_in.mkdir(parents=True)
    for file in FOLDER.glob("forerun*.[st][ea]r*"):
        shutil.copy(file, units)
    shutil.copy(FOLDER / "cuda.conf", drop_in)
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    for program in ("opt/forerun/bin/forerun", "bin/kill"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/sh\n")
        (root / program).chmod(0o755)
    return root


def analyze(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze about the units of a root folder."""
    return subprocess.run(
        ["systemd-analyze", f"--root={root}", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_understands_every_line(installed: Path) -> None:
    units = installed / "etc/systemd/system"
    names = ("forerun-controller.service", "forerun-worker@code.service", "forerun.target")

    done = analyze(installed, "verify", "--man=no", *(str(units / name) for name in names))

    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_that_systemd_does_not_know_would_be_noticed(installed: Path) -> None:
    wrong = installed / "etc/systemd/system/wrong.service"
    wrong.write_text("[Service]\nExecStart=/opt/forerun/bin/forerun up\nProtectSysten=strict\n")

    assert "ProtectSysten" in analyze(installed, "verify", "--man=no", str(wrong)).stderr


@pytest.mark.parametrize("name", ["forerun-controller.service", "forerun-worker@code.service"])
def test_systemd_finds_a_service_well_protected(installed: Path, name: str) -> None:
    done = analyze(installed, "security", "--offline=true", f"--threshold={WORST_EXPOSURE}", "--no-pager", name)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_nobody_in_particular_and_comes_back(name: str) -> None:
    service = unit(name)

    assert service["User"] == "forerun"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["Restart"] == "always"


def test_nobody_is_killed_who_would_end_by_himself() -> None:
    usual = WorkerSettings(role="draft", model="m", name="n")

    assert float(unit("forerun-controller.service")["TimeoutStopSec"]) > TimeoutSettings().drain_grace_s + 5
    assert float(unit("forerun-worker@.service")["TimeoutStopSec"]) > usual.grace_s + 5
