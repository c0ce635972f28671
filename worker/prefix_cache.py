"""Beginnings of prompts that need not be computed again: what ended sessions leave behind, until its room is needed.

A token's keys and values are taken over only if they were computed in a whole slice, as were those of all tokens before
it. Slices are counted from the first token on, so that they follow from the sequence alone: what is taken over is, bit
for bit, what would be computed. What a verification committed was computed beside a tree, and is never taken over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.slots import Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Tokens from the first one on whose keys and values were computed in whole slices.

    Attributes:
        slot: Where they are.
        salt: They are only for sessions that were opened with the same one.
        token_ids: The tokens.
    """

    slot: int
    salt: str
    token_ids: Sequence[int]

    def num_shared(self, token_ids: Sequence[int], *, slice_size: int) -> int:
        """How many tokens, in whole slices, both begin with."""
        longest, shared = min(len(self.token_ids), len(token_ids)), 0
        while (end := shared + slice_size) <= longest and self.token_ids[shared:end] == token_ids[shared:end]:
            shared = end
        return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """What is held, and what that has saved so far. See the message of the same name in common.proto."""

    bytes: int = 0
    capacity_tokens: int = 0
    session_tokens: int = 0
    retained_tokens: int = 0
    looked_up_tokens: int = 0
    reused_tokens: int = 0
    evicted_sessions: int = 0
    remembered_tokens: int = 0


class RetainedPrefixes:
    """Slots of ended sessions, kept reserved for what they hold; least recently used first.

    Args:
        engine: Whose slots they are.
    """

    def __init__(self, engine: Slots) -> None:
        self._engine = engine
        self._prefixes: dict[int, Prefix] = {}

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes.values())

    def retain(self, prefix: Prefix) -> None:
        """Keep a slot for its prefix; if one of two holds the other's tokens, too, that one alone is kept."""
        for other in [other for other in self if other.salt == prefix.salt]:
            shared = min(len(other.token_ids), len(prefix.token_ids))
            if other.token_ids[:shared] != prefix.token_ids[:shared]:
                continue
            if shared == len(prefix.token_ids):
                self._engine.close(prefix.slot)
                self.use(other.slot)
                return
            self._engine.close(self._prefixes.pop(other.slot).slot)
        self._engine.truncate(prefix.slot, len(prefix.token_ids))
        self._prefixes[prefix.slot] = prefix

    def use(self, slot: int) -> None:
        """Note that the slot's prefix has been of use, if it has one."""
        if slot in self._prefixes:
            self._prefixes[slot] = self._prefixes.pop(slot)

    def give_up(self) -> int:
        """The slot, still reserved, of the least recently used prefix, which is no longer kept."""
        return self._prefixes.pop(next(iter(self._prefixes))).slot
