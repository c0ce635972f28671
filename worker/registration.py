"""Tells controllers through Redis that this worker is there, for as long as it is."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis

from speculation.cancellation import heed_cancellation
from speculation.errors import ConfigurationError
from speculation.redis_failures import REDIS_FAILURES
from speculation.v1 import common_pb2

HEARTBEATS_PER_TTL = 3
REDIS_TIMEOUT_S = 2.0
FIRST_RETRY_S = 0.1

_log = logging.getLogger(__name__)


def registry_key(namespace: str) -> str:
    """The hash that lists the workers of a fleet, by address."""
    return f"forerun:{namespace}:workers"


class Registration:
    """One worker's entry, renewed until it ends. A Redis that is away delays nothing but the entry.

    Args:
        redis_url: redis://, rediss:// or unix://.
        namespace: Which fleet.
        address: host:port where controllers reach the worker.
        worker: What it is.
        ttl_s: Age at which the entry lapses.
        now: Unix time in seconds.

    Raises:
        ConfigurationError: The URL is not one of Redis.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str,
        address: str,
        worker: common_pb2.DescribeResponse,
        ttl_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        try:
            self._redis = Redis.from_url(
                redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
            )
        except ValueError as error:
            raise ConfigurationError("redis", str(error)) from error
        self._key, self._address, self._worker = registry_key(namespace), address, worker
        self._ttl_s, self._now = ttl_s, now

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Registered while the body runs."""
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(self._beat())
            try:
                yield
            finally:
                heart.cancel()
                await self._leave()

    async def _beat(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._renew()
            except REDIS_FAILURES as error:
                _log.warning("cannot register in Redis, next try in %.1f s: %s", retry_s, error)
                heed_cancellation()
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, self._ttl_s / HEARTBEATS_PER_TTL)
            else:
                retry_s = FIRST_RETRY_S
                heed_cancellation()
                await asyncio.sleep(self._ttl_s / HEARTBEATS_PER_TTL)

    async def _renew(self) -> None:
        entry = common_pb2.WorkerRegistration(
            address=self._address,
            worker=self._worker,
            heartbeat_ms=int(self._now() * 1000),
            ttl_ms=int(self._ttl_s * 1000),
        )
        await self._redis.hset(self._key, self._address, entry.SerializeToString())

    async def _leave(self) -> None:
        with suppress(*REDIS_FAILURES):
            await self._redis.hdel(self._key, self._address)
        with suppress(*REDIS_FAILURES):
            await self._redis.aclose()
