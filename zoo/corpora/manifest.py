"""The recorded fingerprint of every corpus, so that a build from other text is refused and not merely different."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from zoo.corpora.corpus import Corpus
from zoo.errors import TamperedCorpusError

MANIFEST: Final = Path(__file__).with_name("manifest.json")


def describe(corpora: Iterable[Corpus]) -> dict[str, dict[str, str | int]]:
    """What the manifest records of each corpus."""
    return {
        corpus.name: {
            "documents": len(corpus.documents),
            "characters": sum(map(len, corpus.documents)),
            "sha256": corpus.sha256(),
        }
        for corpus in corpora
    }


def check(corpora: Iterable[Corpus], recorded: Mapping[str, Mapping[str, str | int]] | None = None) -> None:
    """Raise TamperedCorpusError unless every corpus is the recorded one."""
    recorded = load() if recorded is None else recorded
    for corpus in corpora:
        expected, found = str(recorded[corpus.name]["sha256"]), corpus.sha256()
        if found != expected:
            raise TamperedCorpusError(f"the {corpus.name} corpus", expected=expected, found=found)


def load() -> dict[str, dict[str, str | int]]:
    recorded: dict[str, dict[str, str | int]] = json.loads(MANIFEST.read_text())
    return recorded
