"""The one learner of a namespace: it folds the log into a snapshot.

The learner in charge holds a lease. Its writes carry the epoch of the lease and the revision that they replace, so
that one who has lost the lease without noticing, or has been overtaken by a promotion, writes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from redis.asyncio import Redis

from controller.experience import LESSON_OF, Lesson
from controller.snapshot import Keys, Place, Snapshot, read_snapshot
from router_models.policy import LearningPolicy
from router_models.recent import Recent
from speculation.errors import InvalidModelStateError, InvalidRequestError

logger = logging.getLogger(__name__)

RECORDS_PER_READ = 256
LESSONS_A_LOOK = 16
"""Lessons between two looks at the lease: it must not lapse where a processor is hard to get, for then all that was
learnt under it is lost."""

REMEMBERED_RECORDS = 1024
"""Records of a stream that a learner knows by their id. The log writes again what may have been lost on its way, within
seconds."""

ACQUIRE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[1])
return epoch
"""

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

WRITE = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
if (redis.call('HGET', KEYS[1], 'revision') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""

READ = """
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
local read = {redis.call('HGET', KEYS[2], ARGV[1]) or '0', redis.call('XLEN', KEYS[1]), ARGV[2]}
for _, entry in ipairs(entries) do
    local record = ''
    for place = 1, #entry[2], 2 do
        if entry[2][place] == 'record' then record = entry[2][place + 1] end
    end
    read[3] = entry[1]
    table.insert(read, record)
end
return read
"""
"""The next records of a stream alone: with ids and fields there would be five times as much to parse."""

Entry = tuple[bytes, Mapping[bytes, bytes]]
"""Of a stream: its id, and its fields."""


class Lease:
    """The right to be the one learner.

    Attributes:
        epoch: Number of the lease that is held; 0 for none. Every lease has a higher one than all before it.
    """

    def __init__(self, redis: Redis, keys: Keys, *, lease_s: float) -> None:
        self.epoch = 0
        self._redis, self._keys, self._lease_s = redis, keys, lease_s
        self._renew_at = 0.0

    async def hold(self) -> bool:
        """Keep the lease, or take it if nobody has it; whether it is held."""
        if not await self._renewed():
            keys, lease_ms = self._keys, int(1000 * self._lease_s)
            self.epoch = int(await self._redis.eval(ACQUIRE, 2, keys.lease, keys.snapshot, lease_ms))
        return self.epoch > 0

    async def keep(self) -> None:
        """Keep the lease through long work, if there is one to be kept."""
        if asyncio.get_running_loop().time() >= self._renew_at:
            await self._renewed()

    async def _renewed(self) -> bool:
        """A lease that has lapsed is void even if nobody has taken it."""
        self._renew_at = asyncio.get_running_loop().time() + self._lease_s / 4
        if self.epoch:
            arguments = (self.epoch, int(1000 * self._lease_s))
            renewed = await self._redis.eval(RENEW, 1, self._keys.lease, *arguments)
            self.epoch = self.epoch if renewed else 0
        return self.epoch > 0

    async def release(self) -> None:
        """Let another one take it at once."""
        if self.epoch:
            await self._redis.eval(RELEASE, 1, self._keys.lease, self.epoch)
            self.epoch = 0


@dataclass(slots=True)
class Fold:
    """A policy under instruction, and what it has been taught since the last snapshot.

    Attributes:
        policy: The learner's own: no request is served by it.
        snapshot: What it goes on from; None: from nothing.
        places: Up to where the streams have been folded.
        folded: As in Snapshot, like the two that follow.
    """

    policy: LearningPolicy
    snapshot: Snapshot | None
    places: dict[str, Place]
    folded: int
    missed: int
    unreadable: int
    _known: dict[str, Recent[str, None]] = field(
        default_factory=lambda: {stream: Recent(REMEMBERED_RECORDS) for stream in LESSON_OF}
    )

    @property
    def changed(self) -> bool:
        """Whether there is something to write down."""
        return self.places != (dict(self.snapshot.places) if self.snapshot is not None else {})

    def take(self, stream: str, record: bytes) -> Lesson | None:
        """The lesson of a record, unless it has been taken already or cannot be read."""
        try:
            lesson = LESSON_OF[stream](record)
        except InvalidRequestError as error:
            if not self.unreadable:
                logger.warning("a record of the log cannot be learnt from", extra={"problem": str(error)})
            self.unreadable += 1
            return None
        known = self._known[stream]
        if lesson.event_id in known:
            return None
        known.put(lesson.event_id, None)
        return lesson

    def move(self, stream: str, *, to: str, read: int, trimmed: int) -> None:
        """Note that `read` entries up to `to` were read when `trimmed` had ever been trimmed.

        A stream that was never read before is begun wherever it begins.
        """
        before = self.places[stream].number if stream in self.places else trimmed
        missed = max(trimmed - before, 0)
        if missed:
            logger.warning("records were trimmed before they were learnt from", extra={"missed": missed})
        self.missed += missed
        self.places[stream] = Place(entry_id=to, number=before + missed + read)


class Learner:
    """Folds the log into a policy of its own for as long as it holds the lease.

    Args:
        redis: Where the log is.
        keys: Whose.
        make_policy: Makes a policy that has learnt nothing.
        lease_s: A learner that has not been heard of for so long is replaced.
    """

    def __init__(self, redis: Redis, keys: Keys, make_policy: Callable[[], LearningPolicy], *, lease_s: float) -> None:
        self._lease = Lease(redis, keys, lease_s=lease_s)
        self._redis, self._keys, self._make_policy = redis, keys, make_policy
        self._fold: Fold | None = None

    async def step(self, *, longest_s: float = inf) -> bool:
        """Fold what is new, for no longer than a time, and write it down; whether this is the learner in charge.

        Raises:
            RedisError: Redis is out of reach, like OSError and TimeoutError. What was not written will be folded again.
            InvalidModelStateError: The snapshot is damaged or not for this release. It is not touched.
        """
        fold, self._fold = self._fold, None  # whatever goes wrong below, the snapshot is the truth
        if not await self._lease.hold():
            return False
        try:
            fold = fold or await self._begin()
        except InvalidModelStateError:
            await self._lease.release()  # another release may be able to read it
            raise
        ends_at = asyncio.get_running_loop().time() + longest_s
        while await self._read(fold) and asyncio.get_running_loop().time() < ends_at:
            pass
        self._fold = await self._written(fold) if fold.changed else fold
        return True

    async def close(self) -> None:
        """Give the lease back."""
        await self._lease.release()

    async def _begin(self) -> Fold:
        """Take up the snapshot.

        The records before its places are gone through once more, so that a record written twice is known and the
        policy knows the requests under way; then the snapshot replaces what that taught across requests.
        """
        policy, snapshot = self._make_policy(), await read_snapshot(self._redis, self._keys)
        if snapshot is None:
            return Fold(policy, None, {}, folded=0, missed=0, unreadable=0)
        fold = Fold(policy, snapshot, dict(snapshot.places), folded=0, missed=0, unreadable=0)
        for stream, place in snapshot.places.items():
            entries: Any = await self._redis.xrevrange(
                self._keys.stream(stream), max=place.entry_id, count=REMEMBERED_RECORDS
            )
            await self._teach(fold, ((stream, record_of(entry)) for entry in reversed(entries)))
        policy.restore(snapshot.model_state)
        fold.folded, fold.missed, fold.unreadable = snapshot.folded, snapshot.missed, snapshot.unreadable
        return fold

    async def _read(self, fold: Fold) -> bool:
        """Fold the next records of every stream; whether there may be more."""
        records: list[tuple[str, bytes]] = []
        more = False
        for stream in LESSON_OF:
            after = fold.places.get(stream, Place()).entry_id
            arguments = (stream, after, RECORDS_PER_READ)
            written, length, last, *read = await self._redis.eval(
                READ, 2, self._keys.stream(stream), self._keys.written, *arguments
            )
            if read:
                records += [(stream, record) for record in read]
                # By the writers' own count: Redis itself keeps one of what was trimmed only from 7.0 on.
                fold.move(stream, to=last.decode(), read=len(read), trimmed=int(written) - length)
            more |= len(read) == RECORDS_PER_READ
        await self._teach(fold, records)
        return more

    async def _teach(self, fold: Fold, records: Iterable[tuple[str, bytes]]) -> None:
        for number, (stream, record) in enumerate(records):
            lesson = fold.take(stream, record)
            if lesson is not None:
                try:
                    lesson.teach(fold.policy)
                    fold.folded += 1
                except Exception:  # the next learner would meet the same record: none may stop the learning of all
                    logger.exception("a record could not be learnt from", extra={"stream": stream})
                    fold.unreadable += 1
            if number % LESSONS_A_LOOK == 0:
                await self._lease.keep()

    async def _written(self, fold: Fold) -> Fold | None:
        """Write the snapshot; None if it was not this fold's turn: the lease is lost, or a model was promoted."""
        base = fold.snapshot.base if fold.snapshot is not None else 0
        revision = fold.snapshot.revision if fold.snapshot is not None else ""
        snapshot = Snapshot.taken_now(
            fold.policy.state().to_bytes(),
            dict(fold.places),
            base=base,
            folded=fold.folded,
            missed=fold.missed,
            unreadable=fold.unreadable,
        )
        fields = [part for entry in snapshot.fields.items() for part in entry]
        if not await self._redis.eval(WRITE, 1, self._keys.snapshot, self._lease.epoch, revision, *fields):
            logger.info("the shared snapshot has changed hands", extra={"epoch": self._lease.epoch})
            return None
        fold.snapshot = snapshot
        return fold


def record_of(entry: Entry) -> bytes:
    """The record in an entry of a stream; an entry without one is none that can be read."""
    return entry[1].get(b"record", b"")
