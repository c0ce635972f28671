"""The wall clock and the memory of one process: a machine's own would be another, or gone, for everybody on it.

`preload.c` is put between a process and its C library. A C compiler makes it; where there is none, clocks cannot jump
and memory does not end.
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

_SOURCE = Path(__file__).with_name("preload.c")
_FILE = "FORERUN_SURROUNDINGS"
_PRELOAD = "LD_PRELOAD"
_NUMBER = struct.Struct("q")


@functools.cache
def library() -> Path | None:
    """What processes load first; None where nothing can make it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="forerun-preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / "preload.so"
    command = (compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(_SOURCE), "-ldl", "-lpthread")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return made


def preloaded() -> Mapping[str, str]:
    """The environment of processes that are to be told otherwise."""
    made = library()
    return {} if made is None else {_PRELOAD: str(made)}


@contextmanager
def in_environment() -> Iterator[None]:
    """Processes started by the body, and by them, load it first."""
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


class Surroundings:
    """What one process is told.

    Args:
        file: Where it is kept; made, and nothing is out of the ordinary.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(2 * _NUMBER.size))

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the process that lives in them."""
        return {_FILE: str(self._file)}

    def set_clock_ahead(self, seconds: float) -> None:
        """Let its wall clock jump to so long after the machine's time, or before it."""
        self._tell(0, int(seconds * 1e9))

    def limit_memory(self, most_bytes: int) -> None:
        """Refuse any larger piece to it; 0: none."""
        self._tell(1, most_bytes)

    def _tell(self, place: int, number: int) -> None:
        with self._file.open("r+b") as file:  # in place: the process has mapped it
            file.seek(place * _NUMBER.size)
            file.write(_NUMBER.pack(number))
