"""A closed loop: each of several streams asks for its next answer when the last one is complete."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.asking import Ask, Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """What streams at once were answered.

    Attributes:
        began_s: When all of them began.
        full_until_s: When the first of them found nothing left to ask: from then on there were fewer.
        requests: All of them, those included that were under way then.
    """

    began_s: float
    full_until_s: float
    requests: tuple[Asked, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of all streams together, while all of them asked."""
        return tokens_within(self.requests, self.began_s, self.full_until_s) / (self.full_until_s - self.began_s)

    @property
    def tokens_per_request(self) -> float:
        """In the mean."""
        return sum(asked.tokens for asked in self.requests) / len(self.requests)


def tokens_within(requests: Sequence[Asked], began_s: float, ended_s: float) -> int:
    """Tokens that came between two moments."""
    return sum(arrival.tokens for asked in requests for arrival in asked.arrivals if began_s <= arrival.at_s <= ended_s)


async def burst(ask: Ask, *, streams: int, requests: int) -> Burst:
    """So many requests by so many streams, each of which asks one at a time.

    Args:
        ask: Sends the request of a number.
        streams: How many at once.
        requests: How many in all; at least as many as streams.
    """
    waiting = iter(range(requests))
    asked: list[Asked] = []
    idle_s: list[float] = []

    async def stream() -> None:
        for number in waiting:
            asked.append(await ask(number))
        idle_s.append(time.perf_counter())

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(stream())
    return Burst(began_s=began_s, full_until_s=min(idle_s), requests=tuple(asked))
