"""Is every record of the decision log in Redis, or counted as dropped?"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from controller.event_log import DroppedCount
from speculation.v1 import log_pb2

STREAMS = ("decisions", "rounds", "outcomes")
AT_ONCE = 1000


@dataclass(slots=True)
class Kept:
    """What is in the log, each record once: what may have been lost on the way is written again.

    Attributes:
        rounds: By request, numbers of its rounds.
        outcomes: Requests whose end is there.
        decisions: Their ids.
        referred: Ids of decisions that rounds name.
        dropped: Records that the log itself says were dropped.
        doubles: Entries of records that were there already.
    """

    rounds: set[tuple[str, int]] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    decisions: set[str] = field(default_factory=set)
    referred: set[str] = field(default_factory=set)
    dropped: DroppedCount = field(default_factory=DroppedCount)
    doubles: int = 0

    def uncounted(self, rounds: int, requests: int) -> int:
        """Records that are neither there nor counted, of so many rounds of so many requests.

        Of decisions it is known only that those which a round names were made: of others that were lost nobody here
        knows, and what was dropped may be more than what is missing.
        """
        missing = rounds - len(self.rounds) + requests - len(self.outcomes) + len(self.referred - self.decisions)
        return max(0, missing - self.num_dropped)

    @property
    def num_dropped(self) -> int:
        """Records that were dropped."""
        return self.dropped.total


def kept(redis: Redis, namespace: str = "default") -> Kept:
    """What a log holds."""
    found = Kept()
    for stream in STREAMS:
        for fields in _entries(redis, f"forerun:{namespace}:{stream}"):
            record = fields[b"record"]
            found.dropped.add(fields)
            found.doubles += not _add(found, stream, record)
    return found


def _entries(redis: Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    start = "-"
    while entries := _batch(redis, key, start):
        yield from (fields for _, fields in entries)
        start = "(" + entries[-1][0].decode()


def _batch(redis: Redis, key: str, start: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: Any = redis.xrange(key, min=start, count=AT_ONCE)
    return list(entries)


def _add(found: Kept, stream: str, record: bytes) -> bool:
    """Whether it is new."""
    match stream:
        case "decisions":
            return _new(found.decisions, log_pb2.DecisionRecord.FromString(record).event_id)
        case "outcomes":
            return _new(found.outcomes, log_pb2.OutcomeRecord.FromString(record).request_id)
    told = log_pb2.RoundRecord.FromString(record)
    found.referred.add(told.decision_event_id)
    return _new(found.rounds, (told.request_id, told.round))


def _new(known: "set[str] | set[tuple[str, int]]", entry: "str | tuple[str, int]") -> bool:
    before = len(known)
    known.add(entry)  # type: ignore[arg-type]
    return len(known) > before
