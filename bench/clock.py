"""Wall clocks that can be set, one for each process: a machine's own would be set for everybody on it.

`clock.c` is put between a process and its C library. A C compiler makes it; where there is none, clocks cannot jump.
"""

import atexit
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")
_FILE = "FORERUN_CLOCK"
_PRELOAD = "LD_PRELOAD"


@functools.cache
def library() -> Path | None:
    """What processes load first; None where nothing can make it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="forerun-clock-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / "clock.so"
    command = (compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(_SOURCE), "-ldl", "-lpthread")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return made


def preloaded() -> Mapping[str, str]:
    """The environment of processes whose clock is to be settable."""
    made = library()
    return {} if made is None else {_PRELOAD: str(made)}


@contextmanager
def in_environment() -> Iterator[None]:
    """Processes started by the body, and by them, have a settable clock."""
    before = {name: os.environ.get(name) for name in preloaded()}
    os.environ.update(preloaded())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


class Clock:
    """The wall clock of one process.

    Args:
        file: Where it is kept; made, and set to the machine's time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("q", 0))

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the process that goes by it."""
        return {_FILE: str(self._file)}

    def set_ahead(self, seconds: float) -> None:
        """Let it jump to so long after the machine's time, or before it."""
        with self._file.open("r+b") as file:  # in place: the process has mapped it
            file.write(struct.pack("q", int(seconds * 1e9)))
