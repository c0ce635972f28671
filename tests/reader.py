"""A reader of docs/: types what its pages tell him to, in their order, and looks whether it comes out as they say.

What a fence says behind its language is not shown where Markdown is:

    ```sh              typed into a shell, which lives as long as the reader; a status that is not 0 is a failure
    ```sh stays        typed into a terminal of its own, where it runs on; the next block waits for its first line
    ```python          run as a program that goes on from block to block
    ```text            what the block before shows, by doctest's rules: `...` stands for anything
    ```                for the eye: neither run nor compared
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from forerun.commands.controller_address import DEFAULT_ADDRESS
from forerun.commands.top import DEFAULT_METRICS
from tests.test_house import ROOT_FOLDER

STAYS = "stays"
ENDED = "--- the block has ended with status"
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
STOP_S = 90

SHIM = """#!/bin/sh
# What a page leaves to the defaults, a test must not: somebody else may listen there.
if [ "$1" = up ]; then shift; set -- up --listen "$FORERUN_CONTROLLER" "$@"; fi
exec {python} -P -m forerun "$@"
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fence of a page; `line` is that of its first line of code."""

    language: str
    words: tuple[str, ...]
    code: str
    line: int


def blocks_of(page: Path) -> tuple[Block, ...]:
    """Every fence of a page, in order."""
    fences = (token for token in MarkdownIt().parse(page.read_text(encoding="utf-8")) if token.type == "fence")
    blocks = []
    for fence in fences:
        language, *words = fence.info.split() or [""]
        assert fence.map is not None
        blocks.append(Block(language, tuple(words), fence.content, fence.map[0] + 2))
    return tuple(blocks)


class Reader:
    """Follows pages in a folder of his own.

    Args:
        folder: Where he works.
        controller: Where his controller listens, or is to listen, in place of the default address.
        metrics: Likewise where it serves metrics.
    """

    def __init__(self, folder: Path, *, controller: str, metrics: str) -> None:
        self._folder = folder
        self._addresses = {DEFAULT_ADDRESS: controller, DEFAULT_METRICS: metrics}
        self._environment = _environment(folder) | {"FORERUN_CONTROLLER": controller, "FORERUN_METRICS": metrics}
        self._stack = ExitStack()
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._shown = ""

    def __enter__(self) -> "Reader":
        self._stack.enter_context(contextlib.chdir(self._folder))
        self._shell = self._stack.enter_context(_shell(self._environment))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, page: Path, *, without: str = "") -> None:
        """Do what a page says; blocks that hold `without` (if it is not empty) are done already."""
        for block in blocks_of(page):
            if not (without and without in block.code):
                self._do(block, page)

    def _do(self, block: Block, page: Path) -> None:
        code = block.code
        for named, real in self._addresses.items():
            code = code.replace(named, real)
        place = f"{page.name}:{block.line}"
        if block.language == "python":
            self._shown = self._run(code, block.line, page)
        elif block.language == "sh" and STAYS in block.words:
            self._stack.enter_context(_terminal(code, self._environment, place))
        elif block.language == "sh":
            self._shown = self._type(code, place)
        elif block.language == "text":
            wanted = doctest.Example("", code)
            assert doctest.OutputChecker().check_output(code, self._shown, LOOSELY), (
                f"{place}: " + doctest.OutputChecker().output_difference(wanted, self._shown, LOOSELY)
            )

    def _run(self, code: str, line: int, page: Path) -> str:
        shown = io.StringIO()
        try:
            with contextlib.redirect_stdout(shown):
                # So that a traceback points to the page.
                exec(compile("\n" * (line - 1) + code, str(page), "exec"), self._names)
        finally:
            print(shown.getvalue(), end="")
        return shown.getvalue()

    def _type(self, code: str, place: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        Path("typed.sh").write_text(code)
        self._shell.stdin.write(f"source ./typed.sh </dev/null; echo; echo '{ENDED}' $?\n")
        self._shell.stdin.flush()
        shown = ""
        for line in self._shell.stdout:
            if line.startswith(ENDED):
                return shown.removesuffix("\n")
            shown += line
        raise AssertionError(f"{place}: a command failed; until then was shown:\n{shown}")


def _environment(folder: Path) -> dict[str, str]:
    """What commands see: `forerun` is that of this tree, whatever is installed."""
    programs = folder / "bin"
    programs.mkdir()
    shim = programs / "forerun"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT_FOLDER),
        "COLUMNS": "160",
    }


@contextmanager
def _shell(environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """One that ends at the first command that fails."""
    shell = subprocess.Popen(
        ["bash", "--norc", "-e", "-o", "pipefail"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with shell:
        yield shell
        assert shell.stdin is not None
        shell.stdin.close()


@contextmanager
def _terminal(command: str, environment: Mapping[str, str], place: str) -> Iterator[None]:
    """A command that runs on, once it has said something."""
    said = Path(re.sub(r"\W", "-", place) + ".log")
    with said.open("w") as remarks:
        # The shell becomes the command, as it is the only one: it is the command that the signal reaches.
        running = subprocess.Popen(
            ["bash", "-c", command], env=environment, stdout=subprocess.PIPE, stderr=remarks, text=True
        )
    with running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline(), f"{place}: it ended, and said {said.read_text()}"
            yield
        finally:
            running.terminate()
            running.communicate(timeout=STOP_S)
