"""Documentation prose of the same two libraries: what the docs drafter knows."""

import random
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from zoo.corpora.corpus import Corpus, Sample, is_held_out
from zoo.corpora.sources import DJANGO, SQLALCHEMY, fetch, read_texts

_LINK_TARGET = re.compile(r"\s*<https?://[^>\s]*(?:>|$)")
"""Prompts ship with the project, which points nobody to an address of somebody else."""
_CODE_DIRECTIVE = re.compile(r"\.\. (code|code-block|sourcecode|console|parsed-literal|literalinclude|toctree|image)::")
_LEAST_LETTERS = 0.8
_SHORTEST_FILE = 500
_PROMPTS_PER_FILE = 20


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph of a page, dedented, and whether it is shown verbatim (code, console output)."""

    text: str
    verbatim: bool


def docs_corpus(archives: Path) -> Corpus:
    """Training pages and held-out paragraph openings, verbatim blocks and markup dropped."""
    documents: list[str] = []
    held_out: list[Sample] = []
    for path, blocks in documentation_pages(archives):
        paragraphs = [block.text for block in blocks if not block.verbatim and is_prose(block.text)]
        page = "\n\n".join(paragraphs)
        if len(page) < _SHORTEST_FILE:
            continue
        if is_held_out(path):
            held_out.extend(_paragraph_openings(path, paragraphs))
        else:
            documents.append(page + "\n")
    return Corpus(name="docs", documents=tuple(documents), held_out=tuple(held_out))


def documentation_pages(archives: Path) -> Iterator[tuple[str, list[Block]]]:
    """Every page of both manuals, as (path, blocks); change logs are left out, they are lists of ticket numbers."""
    django = read_texts(fetch(DJANGO, archives), top="docs/", suffix=".txt")
    sqlalchemy = read_texts(fetch(SQLALCHEMY, archives), top="doc/build/", suffix=".rst")
    for pages in (django, sqlalchemy):
        for path, text in pages:
            if "/changelog/changelog_" not in path and "/unreleased_" not in path:
                yield path, list(blocks_of(text))


def blocks_of(page: str) -> Iterator[Block]:
    """Split reStructuredText into paragraphs, marking those a `::` or a code directive makes verbatim."""
    verbatim_beyond: int | None = None
    for paragraph in re.split(r"\n[ \t]*\n", page.expandtabs(4)):
        body = paragraph.strip("\n")
        if not body.strip():
            continue
        indent = len(body) - len(body.lstrip(" "))
        verbatim = verbatim_beyond is not None and indent > verbatim_beyond
        if not verbatim:
            opens = _CODE_DIRECTIVE.match(body.lstrip()) or body.rstrip().endswith("::")
            verbatim_beyond = indent if opens else None
        yield Block(textwrap.dedent(body).rstrip(), verbatim)


def is_prose(text: str) -> bool:
    """Whether a paragraph reads as sentences: mostly letters, and neither a directive nor a console session."""
    if text.startswith((".. ", ":", ">>>", "$ ")) or ">>> " in text:
        return False
    letters = sum(character.isalpha() or character == " " for character in text)
    return letters >= _LEAST_LETTERS * len(text)


def _paragraph_openings(path: str, paragraphs: list[str]) -> list[Sample]:
    """One paragraph and the start of the next, for the longer paragraphs of a page."""
    samples = []
    for before, after in pairwise(paragraphs):
        cut = after.find(" ", 70)
        if 40 < len(before) < 360 and len(after) > 160 and cut > 0:
            samples.append(Sample(_LINK_TARGET.sub("", f"{before}\n\n{after[:cut]}"), after[cut:]))
    random.Random(f"docs-{path}").shuffle(samples)
    return samples[:_PROMPTS_PER_FILE]
