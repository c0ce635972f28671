"""`python -m gateway`: OpenAI-compatible HTTP in front of one controller."""

import argparse
import sys
from collections.abc import Sequence

import uvloop
from pydantic import ValidationError

from gateway.serve import serve
from gateway.settings import GatewaySettings
from speculation.errors import ConfigurationError, ForerunError
from speculation.logs import log_to_stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, serve until told to stop; 1 if that is impossible."""
    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    try:
        settings = _settings(given)
        log_to_stderr(settings.log_format)
        uvloop.run(serve(settings))
    except ForerunError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return 0


def _settings(given: dict[str, str]) -> GatewaySettings:
    try:
        return GatewaySettings(**given)  # type: ignore[arg-type] # pydantic reads the numbers
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"--{str(first['loc'][0]).replace('_', '-')}", first["msg"]) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forerun gateway", description=__doc__)
    for name, field in GatewaySettings.model_fields.items():
        shown = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=f"{field.description}{shown}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
