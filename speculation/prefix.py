"""A running hash over token ids, by which controller and worker tell whether they speak of the same prefix."""

from collections.abc import Iterable
from dataclasses import dataclass

EMPTY_PREFIX = 0xCBF29CE484222325
_MULTIPLIER = 0x9E3779B97F4A7C15
_LOW_64 = 0xFFFFFFFFFFFFFFFF


def extend_hash(prefix_hash: int, token_ids: Iterable[int]) -> int:
    """Hash of the prefix extended by these tokens; start from EMPTY_PREFIX.

    Not cryptographic: it guards against mistakes, not against forgers. Each step xors, multiplies by an odd constant
    and folds the high half down, so every token moves every bit within two steps.
    """
    for token in token_ids:
        prefix_hash = ((prefix_hash ^ (token + 1)) * _MULTIPLIER) & _LOW_64
        prefix_hash ^= prefix_hash >> 32
    return prefix_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Tokens of a session from a given place on, as a controller sends them to a worker.

    Attributes:
        base_length: Tokens before token_ids, which the worker is expected to hold.
        prefix_hash: Hash over those base_length tokens.
        token_ids: The tokens that follow.
    """

    base_length: int
    prefix_hash: int
    token_ids: tuple[int, ...]
