"""Run a program that dies with the process that started it: tether.py PARENT_PID PROGRAM [ARGUMENT...]

The kernel keeps the promise, so it holds even when the parent is killed outright. A wrapper, and not a function run
between fork and exec: forking a process in which gRPC's threads run is what gRPC asks its users not to do.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # It died before we asked; nobody will ever signal us.
            sys.exit(1)
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
