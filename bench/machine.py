"""Where a measurement was made, and with what: without it a number cannot be compared with any other."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("torch", "transformers", "grpcio", "numpy", "forerun")
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What makes a machine fast or slow; two runs can be compared if all of it is the same.

    Attributes:
        cpu: Model of its processors.
        cores: Processors that this process may use.
        memory_gib: Memory, in GiB.
        system: Operating system and architecture.
        accelerator: How many of which, and the memory of one; None without.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    accelerator: str | None

    def __str__(self) -> str:
        parts = [self.cpu, f"{self.cores} cores", f"{self.memory_gib:g} GiB", self.system, self.accelerator]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Which code was measured.

    Attributes:
        commit: Its hash; "unknown" outside a checkout.
        dirty: Whether files had changed since.
    """

    commit: str
    dirty: bool

    def __str__(self) -> str:
        return self.commit[:12] + (" with changes" if self.dirty else "")


def this_machine() -> Machine:
    """The one that this process runs on."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        accelerator=_accelerator(),
    )


def these_versions() -> dict[str, str]:
    """Of the kernel, of Python, and of the packages that take the time."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"kernel": platform.release(), "python": platform.python_version(), **packages}


def this_checkout() -> Checkout:
    """What this code stands at."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return Checkout(commit="unknown", dirty=False)
    return Checkout(commit=commit, dirty=bool(changed))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _accelerator() -> str | None:
    import torch  # seconds, which only a report has to spend

    if not torch.cuda.is_available():
        return None
    first = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {first.name}, {first.total_memory / 2**30:.0f} GiB"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
