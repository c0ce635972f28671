"""The workers that announce themselves in Redis."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from controller.event_log import redis_client
from controller.fleet import WorkerFleet
from controller.worker_client import Role, announcements_from_hash
from speculation.cancellation import heed_cancellation
from speculation.redis_failures import REDIS_FAILURES

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0


class Registry:
    """Keeps a fleet's list of workers at what configuration and registry say together.

    A worker is in it for as long as its entry keeps changing. How old an entry is, by the worker's clock and ours, does
    not count: either clock may be wrong, or be set, and all workers would be gone at once. While Redis is away the last
    list stands: whether its workers live is seen by asking them.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        fleet: WorkerFleet,
        configured: Sequence[tuple[str, Role]],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._redis = redis_client(url)
        self._key = f"forerun:{namespace}:workers"
        self._fleet = fleet
        self._configured = tuple(configured)
        self._announced: tuple[tuple[str, Role], ...] = ()
        self._now = now
        self._renewed: dict[str, tuple[int, float]] = {}
        self._listed: tuple[tuple[str, Role], ...] = self._configured

    async def run(self) -> None:
        """Look into the registry about once a second, until cancelled."""
        reached = True
        try:
            while True:
                try:
                    await self.look()
                    reached = True
                except REDIS_FAILURES as error:
                    if reached:
                        logger.warning("worker registry out of reach", extra={"problem": str(error)})
                    reached = False
                heed_cancellation()
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            await self.close()

    async def close(self) -> None:
        """Drop the connection."""
        await self._redis.aclose()

    def configure(self, configured: Sequence[tuple[str, Role]]) -> None:
        """Another configuration lists these workers, from now on."""
        self._configured = tuple(configured)
        self._list()

    async def look(self) -> None:
        """Read the registry once."""
        entries = announcements_from_hash(await self._redis.hgetall(self._key))
        now_s, known = self._now(), self._renewed
        self._renewed = {}
        for entry in entries:
            heartbeat_ms, since_s = known.get(entry.address, (None, now_s))
            renewed_s = since_s if heartbeat_ms == entry.heartbeat_ms else now_s
            self._renewed[entry.address] = (entry.heartbeat_ms, renewed_s)
        self._announced = tuple(
            (entry.address, entry.role)
            for entry in entries
            if 1000 * (now_s - self._renewed[entry.address][1]) <= entry.ttl_ms
        )
        self._list()

    def _list(self) -> None:
        configured = dict(self._configured)
        listed = (*self._configured, *(entry for entry in self._announced if entry[0] not in configured))
        if listed != self._listed:
            self._listed = listed
            self._fleet.list_workers(listed)
