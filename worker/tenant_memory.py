"""What the texts of a tenant's earlier sessions said: others of the same tenant draft from it, and nobody else does.

It is bounded, and what is oldest goes first: each tenant's texts are held in two generations, and when the younger one
has had its half of the room, it takes the place of the older one.
"""

from collections.abc import Sequence

from speculation.prefix import EMPTY_PREFIX, extend_hash
from worker.suffix_index import END, LONGEST, MOST_MATCHES, Match, SuffixIndex

GRAMS = (8, 3)
"""Lengths of the runs that are looked up: a single token is found everywhere, and says nothing of what comes next."""

WORTH = 0.5
"""An agreement of n tokens with another text goes on as often as one of n / 2 within a text: seen on our zoo's answers
to tuning prompts (docs/log.md, "A tenant's earlier texts")."""

NOBODY = ""
"""The salt of requests that name no tenant. They may be anybody's, so that nothing is remembered of them."""


class TenantMemory:
    """Texts by salt.

    Args:
        tokens: Most that are remembered for each salt; 0: none.
        tenants: Most salts; the least recently used is forgotten first.
    """

    def __init__(self, *, tokens: int, tenants: int) -> None:
        self._tokens, self._most = tokens, tenants
        self._tenants: dict[str, _Generations] = {}

    @property
    def num_tokens(self) -> int:
        """How many are remembered, of all tenants."""
        return sum(texts.num_tokens for texts in tuple(self._tenants.values()))

    @property
    def tenants(self) -> tuple[str, ...]:
        """Of whom something is remembered, the most recently used last."""
        return tuple(self._tenants)

    def remember(self, salt: str, token_ids: Sequence[int]) -> None:
        """Remember a text for this salt. What was remembered as the beginning of another text is not held twice."""
        if not token_ids or not self._tokens or salt == NOBODY:
            return
        self._tenants[salt] = texts = self._tenants.pop(salt, None) or _Generations(self._tokens // 2)
        texts.add(token_ids)
        if len(self._tenants) > self._most:
            del self._tenants[next(iter(self._tenants))]

    def matches(self, salt: str, text: Sequence[int]) -> list[Match]:
        """Where the end of a text occurred in those of this salt, the latest first; lengths are by their WORTH."""
        if salt not in self._tenants:
            return []
        self._tenants[salt] = texts = self._tenants.pop(salt)
        return [match._replace(length=WORTH * match.length) for match in texts.matches(text)]


class _Generations:
    """Texts of one tenant.

    Args:
        room: Tokens of each generation.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._young, self._old = _Texts(room), _Texts(room)

    @property
    def num_tokens(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, token_ids: Sequence[int]) -> None:
        if not self._young.add(token_ids):
            self._young, self._old = _Texts(self._room), self._young
            self._young.add(token_ids)

    def matches(self, text: Sequence[int]) -> list[Match]:
        return [*self._young.matches(text), *self._old.matches(text)][:MOST_MATCHES]


class _Texts:
    """One generation: texts one after another, END behind each, so that no match runs from one into the next."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._index = SuffixIndex(GRAMS)
        self._prefixes: set[int] = set()

    def __len__(self) -> int:
        return len(self._index.token_ids)

    def matches(self, text: Sequence[int]) -> list[Match]:
        return self._index.matches(text)

    def add(self, token_ids: Sequence[int]) -> bool:
        """Add what is new of a text, and as much before it as an agreement is measured by; False if it has no room.

        Of a text for which there can never be room, the end is added.
        """
        prefixes = _prefixes(token_ids)
        known = next((length for length in range(len(prefixes), 0, -1) if prefixes[length - 1] in self._prefixes), 0)
        new = token_ids[max(0, known - LONGEST, len(token_ids) - self._room + 1) :]
        if known == len(token_ids) or not new:
            return True
        if len(self) + len(new) + 1 > self._room and len(self):
            return False
        self._index.append([*new, END])
        self._prefixes.update(prefixes[-len(new) :])
        return True


def _prefixes(token_ids: Sequence[int]) -> list[int]:
    """Hashes of the first token, the first two, and so on. Should two be equal, a text is not remembered whole."""
    hashes: list[int] = []
    for token in token_ids:
        hashes.append(extend_hash(hashes[-1] if hashes else EMPTY_PREFIX, (token,)))
    return hashes
