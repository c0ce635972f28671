"""What the deployments have in common: how a command line of theirs is read by the program that it is for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from worker.__main__ import settings_of
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


ENTRIES_A_GIB = 400_000
"""Of the log that surely fit: an embedded Redis keeps 200,000 in half a gigabyte."""


def gib(amount: str) -> float:
    """What a memory limit of Redis or Kubernetes says, such as 1gb, 1536m or 1536Mi."""
    units = {"gb": 1.0, "gi": 1.0, "g": 1.0, "mb": 1 / 1024, "mi": 1 / 1024, "m": 1 / 1024}
    number = amount.rstrip("gmiGMIbB")
    return float(number) * units[amount.removeprefix(number).lower()]


def redis_gib(command: Sequence[str]) -> float:
    """The memory that a Redis may fill with data."""
    return gib(command[command.index("--maxmemory") + 1])


def documents(file: Path) -> list[Any]:
    """What a YAML file holds."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document is not None]


def worker_settings(command: Sequence[str]) -> WorkerSettings:
    """The settings behind `worker ROLE --model ...`, as an image's entry point is told."""
    program, role, *options = command
    assert program == "worker"
    return settings_of(["--role", role, *options])
