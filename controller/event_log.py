"""The decision log: records to Redis Streams, off the hot path. Redis may be slow or gone; no request ever notices."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError

from controller.snapshot import written_key
from speculation.cancellation import heed_cancellation
from speculation.redis_failures import REDIS_FAILURES

logger = logging.getLogger(__name__)

GATHER_S = 0.03
"""Records of this long go out together."""

RECORDS_PER_TRIP = 256

APPEND = """
for place = 4, #ARGV do
    local fields = {'record', ARGV[place]}
    if place == 4 and ARGV[3] ~= '0' then fields = {'record', ARGV[place], 'dropped', ARGV[3]} end
    local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(fields))
    if type(added) == 'table' and added.err then return added end
end
return redis.call('HINCRBY', KEYS[2], ARGV[1], #ARGV - 3)
"""
"""Records of one stream and their number: whoever reads a stream can tell how many were trimmed unread. A command and
a reply for each record would take several times as long here."""

REDIS_TIMEOUT_S = 1.0
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0


class DroppedCount:
    """How many records were dropped, by what the entries of a log say.

    Of a record that is there twice the larger count includes the smaller, whichever comes first: what a slow line held
    back can arrive after what was written again.

    Attributes:
        by_record: What was told, by the record that told it.
    """

    def __init__(self) -> None:
        self.by_record: dict[bytes, int] = {}

    def add(self, fields: Mapping[bytes, bytes]) -> None:
        """Take in an entry."""
        if told := int(fields.get(b"dropped", 0)):
            record = fields.get(b"record", b"")
            self.by_record[record] = max(told, self.by_record.get(record, 0))

    @property
    def total(self) -> int:
        """Of all of them."""
        return sum(self.by_record.values())


class EventLog:
    """A bounded queue, and one writer that empties it.

    What does not fit is dropped and counted. The count itself is logged: the next entry that is written carries it in
    the field `dropped` (`DroppedCount` reads it). Entries that may not have arrived are written again.

    Attributes:
        url: Of Redis, without its password.
        namespace: Whose streams.
        connected: Whether the last trip arrived.
        written: Records that Redis has taken.
        dropped: Records lost because the log could not be reached in time.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        most_entries: int,
        most_waiting: int = 10_000,
        may_make_room: bool = False,
    ) -> None:
        """
        Args:
            url: redis://, rediss:// or unix://.
            namespace: Whose streams.
            most_entries: About how many entries each stream keeps.
            most_waiting: Records kept while Redis is away.
            may_make_room: Whether the older half of the log goes when Redis is full. Not where somebody else may have
                filled it: the log would vanish, and Redis be full all the same.
        """
        self.url = without_password(url)
        self.connected = False
        self.written = 0
        self.dropped = 0
        self._redis = redis_client(url)
        self.namespace = namespace
        self._most_entries = most_entries
        self._most_waiting = most_waiting
        self._may_make_room = may_make_room
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._filled = asyncio.Event()
        self._dropped_told = 0

    @property
    def waiting(self) -> int:
        """Records that Redis has not taken yet."""
        return len(self._waiting)

    def append(self, stream: str, record: bytes) -> None:
        """Take a record for the stream forerun:{NAMESPACE}:stream; never waits, never fails."""
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
            return
        self._waiting.append((stream, record))
        self._filled.set()

    async def run(self) -> None:
        """Write what waits, until cancelled; then once more what is left."""
        retry_s = FIRST_RETRY_S
        try:
            while True:
                await self._filled.wait()
                await asyncio.sleep(GATHER_S)
                written = await self._write()
                heed_cancellation()
                if written:
                    retry_s = FIRST_RETRY_S
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, LONGEST_RETRY_S)
        finally:
            await self._close()

    async def _write(self) -> bool:
        """One trip; false if Redis could not be reached. What may have been lost on the way is written again."""
        trip = [self._waiting[place] for place in range(min(len(self._waiting), RECORDS_PER_TRIP))]
        dropped = self.dropped - self._dropped_told
        try:
            async with asyncio.timeout(2 * REDIS_TIMEOUT_S):
                await self._send_or_make_room(trip, dropped)
        except REDIS_FAILURES as error:
            self._note(connected=False, why=str(error))
            return False
        for _ in trip:
            self._waiting.popleft()
        self.written += len(trip)
        self._dropped_told += dropped
        if not self._waiting:
            self._filled.clear()
        self._note(connected=True, lost=dropped)
        return True

    async def _send_or_make_room(self, trip: list[tuple[str, bytes]], dropped: int) -> None:
        try:
            await self._send(trip, dropped)
        except OutOfMemoryError:
            if not self._may_make_room:
                raise
            await self._drop_older_half()
            await self._send(trip, dropped)

    async def _drop_older_half(self) -> None:
        """Of every stream; whoever had yet to read it can tell how many entries are gone."""
        names: list[Any] = await self._redis.hkeys(written_key(self.namespace))
        for name in names:
            stream = f"forerun:{self.namespace}:{name.decode()}"
            kept = await self._redis.xlen(stream) // 2
            await self._redis.xtrim(stream, maxlen=kept, approximate=False)
            logger.warning("redis was full: the older half of a stream is gone", extra={"stream": stream, "kept": kept})

    async def _send(self, trip: list[tuple[str, bytes]], dropped: int) -> None:
        """The records of each stream at once; the first of all carries the number of those that were dropped."""
        by_stream: dict[str, list[bytes]] = {}
        for stream, record in trip:
            by_stream.setdefault(stream, []).append(record)
        async with self._redis.pipeline(transaction=True) as pipeline:
            for stream, records in by_stream.items():
                keys = f"forerun:{self.namespace}:{stream}", written_key(self.namespace)
                pipeline.eval(APPEND, 2, *keys, stream, self._most_entries, dropped, *records)
                dropped = 0
            await pipeline.execute()

    def _note(self, *, connected: bool, why: str = "", lost: int = 0) -> None:
        if connected is not self.connected or lost:
            logger.log(
                logging.INFO if connected and not lost else logging.WARNING,
                "decision log %s",
                "reached" if connected else "out of reach",
                extra={"redis": self.url, "written": self.written, "dropped": self.dropped, "problem": why},
            )
        self.connected = connected

    async def _close(self) -> None:
        while self._waiting and await self._write():
            pass
        await self._redis.aclose()


def redis_client(url: str) -> Redis:
    """A client that fails fast: whoever uses it has better things to do than to wait.

    Raises:
        ValueError: The URL is not one of Redis.
    """
    return Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def without_password(url: str) -> str:
    """Where a Redis is, for people to read: who calls it by which name and password, and with which options, is not."""
    scheme, separator, place = url.partition("?")[0].partition("://")
    host, slash, path = place.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
