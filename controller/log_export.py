"""From the Redis streams of the log to a folder of Parquet files."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from time import time_ns
from typing import Any

from redis.asyncio import Redis

from controller.event_log import DroppedCount
from controller.learner import REMEMBERED_RECORDS, Entry, record_of
from controller.log_columns import ENTRY_ID, RECORD, TABLES, Row
from controller.log_folder import Manifest, Part, RowWriter, new_folder
from controller.snapshot import Keys, written_key
from router_models.recent import Recent
from speculation.errors import InvalidRequestError

ENTRIES_PER_READ = 500

Step = Callable[[], None]


async def count_entries(redis: Redis, namespace: str) -> int:
    """Entries in all streams of the log now."""
    return sum([int(await redis.xlen(_key(namespace, stream))) for stream in TABLES])


async def export_log(
    redis: Redis,
    namespace: str,
    folder: Path,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    step: Step = lambda: None,
) -> Manifest:
    """Write down what the log holds; nothing is taken out of it.

    Args:
        redis: Where the log is.
        namespace: Whose.
        folder: New or empty.
        since_ms: Only entries written from this time on.
        until_ms: Only entries written before this time.
        step: Called for each entry.

    Raises:
        ConfigurationError: The folder cannot be used.
        RedisError: Redis is out of reach; the folder then has no manifest and is not used.
    """
    new_folder(folder)
    tally = _Tally()
    parts = {}
    for stream in TABLES:
        entries = _entries(redis, _key(namespace, stream), since_ms, until_ms)
        with RowWriter(folder, stream) as rows:
            part = await _written(entries, stream, rows, tally, step)
        parts[stream] = replace(part, trimmed=await _trimmed(redis, namespace, stream))
    manifest = Manifest(
        namespace=namespace,
        exported_ms=time_ns() // 1_000_000,
        since_ms=since_ms,
        until_ms=until_ms,
        parts=parts,
        config_hashes=dict(tally.config_hashes),
        schema_versions=dict(tally.schema_versions),
    )
    manifest.save(folder)
    return manifest


class _Tally:
    """What the manifest says of the records."""

    def __init__(self) -> None:
        self.config_hashes: Counter[str] = Counter()
        self.schema_versions: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        if "config_hash" in row:
            self.config_hashes[row["config_hash"]] += 1
        if "schema_version" in row:
            self.schema_versions[str(row["schema_version"])] += 1


async def _written(entries: AsyncIterator[Entry], stream: str, rows: RowWriter, tally: _Tally, step: Step) -> Part:
    part = Part()
    known: Recent[str, bytes] = Recent(REMEMBERED_RECORDS)
    dropped = DroppedCount()
    async for entry in entries:
        step()
        row = _row(stream, entry)
        event_id, record = row.get("event_id"), row[RECORD.name]
        dropped.add(entry[1])
        if event_id is not None and known.get(event_id) == record:
            part = replace(part, written_twice=part.written_twice + 1)
            continue
        if event_id is not None:
            known.put(event_id, record)
        rows.write(row)
        tally.add(row)
        entry_id = row[ENTRY_ID.name]
        part = replace(part, rows=part.rows + 1, first_id=part.first_id or entry_id, last_id=entry_id)
    return replace(part, dropped=dropped.total)


def _row(stream: str, entry: Entry) -> Row:
    """All columns; of a record that cannot be read only its id and its bytes."""
    record = record_of(entry)
    try:
        values = TABLES[stream].row(record)
    except InvalidRequestError:
        values = {}
    return {ENTRY_ID.name: entry[0].decode(), **values, RECORD.name: record}


async def _entries(redis: Redis, key: str, since_ms: int | None, until_ms: int | None) -> AsyncIterator[Entry]:
    begin = "-" if since_ms is None else f"{since_ms}-0"
    end = "+" if until_ms is None else f"({until_ms}-0"
    while True:
        entries: Any = await redis.xrange(key, min=begin, max=end, count=ENTRIES_PER_READ)
        for entry in entries:
            yield entry
        if len(entries) < ENTRIES_PER_READ:
            return
        begin = f"({entries[-1][0].decode()}"


async def _trimmed(redis: Redis, namespace: str, stream: str) -> int:
    written: Any = await redis.hget(written_key(namespace), stream)
    return max(int(written or 0) - int(await redis.xlen(_key(namespace, stream))), 0)


def _key(namespace: str, stream: str) -> str:
    return Keys(namespace, "").stream(stream)
