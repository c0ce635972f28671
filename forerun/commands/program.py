"""Becoming another program of the house: what `forerun worker`, `controller` and `bench` do."""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What a command does not know is for the program it becomes."""

PASS_ON_HELP: dict[str, Any] = {**PASS_ON, "help_option_names": []}
"""The same where the program's own help is the one to show."""


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m module`: same terminal, same process id, signals arrive undelayed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
