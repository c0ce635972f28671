"""`python -m page`: a controller seen and steered in a browser."""

import sys
from collections.abc import Sequence

from gateway.program import run
from page.serve import serve
from page.settings import PageSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, serve until told to stop; 1 if that is impossible."""
    return run("page", PageSettings, serve, arguments, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
