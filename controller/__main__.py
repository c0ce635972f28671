"""`python -m controller --config FILE`: one controller process."""

import argparse
import sys
from pathlib import Path

import uvloop

from controller.serve import serve
from controller.settings import Settings
from speculation.errors import ForerunError
from speculation.logs import LogFormat, log_to_stderr


def main() -> int:
    """Read the settings, serve until told to stop; 1 if that is impossible."""
    parser = argparse.ArgumentParser(prog="python -m controller", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file; see docs/configuration.md")
    parser.add_argument("--log-format", choices=list(LogFormat), help="one line an event on stderr (default json)")
    arguments = parser.parse_args()
    try:
        log_to_stderr(arguments.log_format)
        uvloop.run(serve(Settings.load(arguments.config), file=arguments.config))
    except ForerunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
