"""Where output goes: results to stdout, everything else to stderr, so that a pipe carries nothing but results."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from rich.console import Console
from rich.text import Text

from speculation.errors import (
    ConfigurationError,
    ForerunError,
    InvalidRequestError,
    ModelError,
    UnknownNameError,
)

WIDTH_OF_FILES = 160
"""Where nobody has said how wide a line may be, as in a file, tables of figures fit into this."""

PEOPLE = Console(
    stderr=True,
    highlight=False,
    width=None if sys.stderr.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES,
)
"""Tables, progress and remarks while a command runs."""

RESULT = Console(highlight=False, soft_wrap=True)
"""What a command was called for, when a person called it."""

CALLERS_MISTAKE = 2
FAILURE = 1


def emit(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    print(json.dumps(plain(value)), flush=True)


def plain(value: Any) -> Any:
    """Dataclasses, enums and mappings as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def run_commands(app: Callable[[], object]) -> None:
    """Run a command line; a deliberate error is one line and an exit status, never a traceback."""
    try:
        app()
    except ForerunError as error:
        sys.exit(report(error, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)


def report(error: ForerunError, *, as_json: bool) -> int:
    """Say in one line what went wrong; the status to exit with."""
    if as_json:
        emit({"error": {"reason": error.reason, "message": str(error), "metadata": error.metadata}})
    message = " ".join(str(error).split())
    if sys.stderr.isatty():
        PEOPLE.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    else:
        print(f"error: {message}", file=sys.stderr)
    mistakes = (InvalidRequestError, UnknownNameError, ConfigurationError, ModelError)
    return CALLERS_MISTAKE if isinstance(error, mistakes) else FAILURE
