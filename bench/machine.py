"""Where a measurement was made: without it a number cannot be compared with any other."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("torch", "transformers", "grpcio", "numpy")
_ROOT = Path(__file__).parent.parent


def describe_machine() -> dict[str, str | int | float]:
    """Processor, memory, system, versions, and how busy the machine was."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def describe_commit() -> str:
    """The commit this code stands at, "-dirty" added if files have changed since; "unknown" outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
