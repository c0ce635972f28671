"""What must never happen, whatever was asked."""

from collections.abc import Iterable, Iterator
from typing import ClassVar

WINDOW = 8
"""Letters of a secret that nobody says by chance."""


class FuzzError(Exception):
    """Something happened that never may."""

    kind: ClassVar[str]


class CrashError(FuzzError):
    """A process died, was started anew, lost a session, or gives another text than before."""

    kind = "crashes"


class HangError(FuzzError):
    """A call did not end within its time."""

    kind = "hangs"


class LeakError(FuzzError):
    """A caller was told what another tenant had said, or was let in without the right."""

    kind = "leaks"


class StatusError(FuzzError):
    """An answer without a proper status: the service did not know what to make of the request."""

    kind = "statuses"


KINDS: tuple[type[FuzzError], ...] = (CrashError, HangError, LeakError, StatusError)


class Secret:
    """What one tenant says and no other may hear.

    Args:
        text: Letters that nobody says by chance; some of them in a row are enough to recognise it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._pieces = [text[start : start + WINDOW] for start in range(len(text) - WINDOW + 1)]

    def require_absent(self, told: Iterable[str | bytes]) -> None:
        """Raise LeakError if a part of it was told."""
        for part in told:
            text = part if isinstance(part, str) else part.decode("utf-8", "replace")
            if any(piece in text for piece in self._pieces):
                raise LeakError(f"another tenant's text: {text[:200]!r}")


def paths(parents: Iterable[int], texts: Iterable[str]) -> Iterator[str]:
    """What a tree says from its root to each of its nodes; parents are 0 for the root, else 1 + the parent's index."""
    said: list[str] = [""]
    for parent, text in zip(parents, texts, strict=False):
        said.append(said[parent] + text if parent < len(said) else text)
        yield said[-1]
