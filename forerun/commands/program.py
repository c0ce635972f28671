"""Becoming another program of the house: what `forerun worker`, `controller` and `bench` do."""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

PASS_ON: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    # The program's own help is the one to show.
    "help_option_names": [],
}


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m module`: same terminal, same process id, signals arrive undelayed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
