"""One answer of a peer, and how fast it was decoded."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One answer.

    Attributes:
        token_ids: An end token included.
        decode_rate: Tokens a second after the first that came.
    """

    token_ids: tuple[int, ...]
    decode_rate: float


def decode_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Tokens a second after the first arrival: (seconds, tokens) of each; nan if all came at once."""
    waited_s = arrivals[-1][0] - arrivals[0][0]
    return sum(count for _, count in arrivals[1:]) / waited_s if waited_s > 0.0 else float("nan")
