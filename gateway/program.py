"""A program whose options are its settings: the gateway, and what is served as it is."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop
from pydantic import ValidationError

from gateway.settings import HTTPSettings
from speculation.errors import ConfigurationError, ForerunError
from speculation.logs import log_to_stderr

SomeSettings = TypeVar("SomeSettings", bound=HTTPSettings)


def run(
    name: str,
    settings: type[SomeSettings],
    serve: Callable[[SomeSettings], Coroutine[Any, Any, None]],
    arguments: Sequence[str] | None,
    *,
    about: str | None,
) -> int:
    """Read the settings, serve until told to stop; 1 if that is impossible.

    Args:
        name: Of the program.
        settings: What it takes as options.
        serve: What it is.
        arguments: The command line; None: that of this process.
        about: What it is, in words.
    """
    parser = _parser(name, settings, about)
    given = {option: value for option, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        checked = _checked(settings, given)
        log_to_stderr(checked.log_format)
        uvloop.run(serve(checked))
    except ForerunError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


def _checked(settings: type[SomeSettings], given: dict[str, Any]) -> SomeSettings:
    try:
        return settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"--{str(first['loc'][0]).replace('_', '-')}", first["msg"]) from error


def _parser(name: str, settings: type[HTTPSettings], about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"forerun {name}", description=about)
    for option, field in settings.model_fields.items():
        shown = "" if field.default in (None, "") else f" (default: {field.default})"
        parser.add_argument(f"--{option.replace('_', '-')}", metavar="VALUE", help=f"{field.description}{shown}")
    return parser
