"""The pages of docs/: every one is in the index, links lead somewhere, and the commands they show exist."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from forerun.__main__ import app
from forerun.api_reference import reference
from speculation import errors
from speculation.rpc import STATUS_OF
from tests.reader import blocks_of
from tests.test_house import ROOT_FOLDER

DOCS = ROOT_FOLDER / "docs"
PAGES = (ROOT_FOLDER / "README.md", *sorted(DOCS.rglob("*.md")))
LIVING = [page for page in PAGES if page.parent.name != "decisions" and page.name != "log.md"]
"""Decisions and the log tell what was true when they were written."""

COMMANDS = typer.main.get_command(app)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT_FOLDER))


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", (DOCS / "index.md").read_text(encoding="utf-8")))
    pages = {str(page.relative_to(DOCS)) for page in LIVING if page.is_relative_to(DOCS)}

    assert pages - {"index.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert not anchor or there.suffix != ".md" or anchor in anchors_of(there), link


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of what a reader would type after `forerun`; lines that are continued are one."""
    shells = (block.code for block in blocks_of(page) if block.language in ("", "sh"))
    lines = (line for code in shells for line in code.replace("\\\n", " ").splitlines())
    for line in lines:
        if "forerun " not in line:
            continue
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        for operator, command in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")):
            program, *rest = command
            if not operator and program == "forerun":
                yield rest


@pytest.mark.parametrize("page", LIVING, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands_in(page):
        command: Any = COMMANDS
        line = " ".join(words)
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # it becomes another program, which has more of them
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known | {"--help"}, line


def test_the_reference_of_the_api_is_current() -> None:
    """After a change: `python -m forerun.api_reference`."""
    assert (DOCS / "api.md").read_text(encoding="utf-8").endswith(reference())


def test_the_reference_says_what_to_do_about_every_error() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| `\w+` \| (.+) \|$", reference(), re.MULTILINE)

    assert {kind.reason for kind in STATUS_OF} <= {reason for reason, _ in rows}
    assert all(": " in advice for _, advice in rows)


def test_every_error_has_a_status() -> None:
    raised = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}

    assert raised - {errors.ForerunError} == set(STATUS_OF)
