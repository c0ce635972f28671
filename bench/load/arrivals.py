"""An open loop: requests come when they come, whether or not earlier ones are answered, as in service."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.load.asking import Ask, Asked
from bench.load.streams import tokens_within


def poisson_arrivals(rate_per_s: float, how_many: int, *, seed: int) -> tuple[float, ...]:
    """Seconds from the beginning at which requests come that know nothing of each other."""
    if not rate_per_s > 0:
        raise ValueError(f"{rate_per_s} requests a second never come")
    gaps_s = np.random.default_rng(seed).exponential(1 / rate_per_s, size=how_many)
    return tuple(np.cumsum(gaps_s).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What came of requests that came at their own times.

    Attributes:
        began_s: When the first could have come.
        last_came_s: When the last one did: until then there was traffic.
        requests: All of them.
    """

    began_s: float
    last_came_s: float
    requests: tuple[Asked, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second while there was traffic."""
        return tokens_within(self.requests, self.began_s, self.last_came_s) / (self.last_came_s - self.began_s)

    @property
    def share_of_offered(self) -> float:
        """Of the tokens that were asked for while there was traffic, those that came meanwhile."""
        came = tokens_within(self.requests, self.began_s, self.last_came_s)
        return came / max(1, sum(asked.tokens for asked in self.requests))


async def traffic(ask: Ask, arrivals_s: Sequence[float]) -> Traffic:
    """Send each request at its time.

    Args:
        ask: Sends the request of a number.
        arrivals_s: Seconds from now, in order.
    """
    began_s = time.perf_counter()
    sent: list[asyncio.Task[Asked]] = []
    async with asyncio.TaskGroup() as group:
        for number, at_s in enumerate(arrivals_s):
            await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
            sent.append(group.create_task(_sent(ask, number)))
        last_came_s = time.perf_counter()
    return Traffic(began_s=began_s, last_came_s=last_came_s, requests=tuple(task.result() for task in sent))


async def _sent(ask: Ask, number: int) -> Asked:
    return await ask(number)
