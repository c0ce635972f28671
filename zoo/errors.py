"""What the zoo refuses, added to the errors of the whole system.

ForerunError
├── UnknownNameError            no model, profile or prompt set has that name: pick a listed one
├── ModelError
│   └── CorruptModelError       a model folder lacks a file: build the zoo, or check it out again
├── TamperedCorpusError         a corpus or archive is not the one recorded: delete it and fetch it again
└── ArchiveUnavailableError     pip could not fetch a source archive: look at the network
"""

from speculation.errors import CorruptModelError, ForerunError, UnknownNameError

__all__ = ["ArchiveUnavailableError", "CorruptModelError", "TamperedCorpusError", "UnknownNameError"]


class TamperedCorpusError(ForerunError):
    """The bytes are not those whose hash was recorded."""

    reason = "TAMPERED_CORPUS"

    def __init__(self, what: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{what} has sha256 {found[:16]}..., expected {expected[:16]}...", {"expected": expected, "found": found}
        )


class ArchiveUnavailableError(ForerunError):
    """A source archive could not be fetched."""

    reason = "ARCHIVE_UNAVAILABLE"

    def __init__(self, project: str, problem: str) -> None:
        super().__init__(f"{project}: {problem}", {"project": project})
