"""Requests of one class that wait for a place: tenants take turns, however many requests each of them sends.

Whose tenant has been served least goes first, counted in tokens of prompts and answers; within a tenant, who came
first. A tenant that comes back after a pause has saved up nothing: its count is lifted to that of whoever was served
last. (The virtual token counter of Sheng et al. 2024, "Fairness in Serving Large Language Models", arXiv:2401.00588.)
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from controller.latency_classes import LatencyClass
from router_models.recent import Recent

MOST_TENANTS = 10_000
"""Without tokens a tenant is whatever a caller says: the one that came longest ago is forgotten."""


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """A request that wants a place.

    Attributes:
        latency_class: Its class when it came.
        tenant: On whose behalf.
        tokens: Of its prompt and of the longest answer it may get.
        granted: Done once it has a place, or the error with which it is sent away.
    """

    latency_class: LatencyClass
    tenant: str
    tokens: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class WaitingLine:
    """The requests of one class that wait."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Waiting]] = {}
        self._served: Recent[str, float] = Recent(MOST_TENANTS)
        self._level = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def first(self) -> Waiting | None:
        """Whose turn it is."""
        tenant = min(self._waiting, key=lambda name: self._served.get(name, 0.0), default=None)
        return None if tenant is None else self._waiting[tenant][0]

    @property
    def last(self) -> Waiting | None:
        """Who is to go if somebody must: the newest of the tenant that has most requests here."""
        tenant = max(self._waiting, key=lambda name: len(self._waiting[name]), default=None)
        return None if tenant is None else self._waiting[tenant][-1]

    def length_of(self, tenant: str) -> int:
        """Requests of a tenant that wait."""
        return len(self._waiting.get(tenant, ()))

    def ahead_of(self, tenant: str) -> int:
        """Of the requests here, how many would be served before one of that tenant that came now, were all alike."""
        turns = self.length_of(tenant) + 1
        return sum(min(len(line), turns) for name, line in self._waiting.items() if name != tenant) + turns - 1

    def join(self, one: Waiting) -> None:
        """Wait behind the others of the same tenant."""
        self._lift(one.tenant)
        self._waiting.setdefault(one.tenant, deque()).append(one)

    def leave(self, one: Waiting) -> None:
        """Wait no longer."""
        line = self._waiting.get(one.tenant)
        if line is not None and one in line:
            line.remove(one)
            if not line:
                del self._waiting[one.tenant]

    def serve(self, one: Waiting) -> None:
        """It has a place now, whether it waited or not."""
        self.leave(one)
        self._lift(one.tenant)
        served = self._served.get(one.tenant, 0.0)
        self._level = max(self._level, served)
        self._served.put(one.tenant, served + one.tokens)

    def give_back(self, one: Waiting, tokens: int) -> None:
        """So many of its tokens it did not need in the end."""
        if one.tenant in self._served:
            self._served[one.tenant] -= tokens

    def _lift(self, tenant: str) -> None:
        """A tenant without waiting requests was not kept waiting: what it did not use meanwhile is gone."""
        if tenant not in self._waiting:
            self._served.put(tenant, max(self._served.get(tenant, 0.0), self._level))
