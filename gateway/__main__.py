"""`python -m gateway`: OpenAI-compatible HTTP in front of one controller."""

import sys
from collections.abc import Sequence

from gateway.program import run
from gateway.serve import serve
from gateway.settings import GatewaySettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, serve until told to stop; 1 if that is impossible."""
    return run("gateway", GatewaySettings, serve, arguments, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
