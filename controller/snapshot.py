"""What has been learnt from the log so far, in one Redis hash: a state, and the places in the log up to which it goes.

State and places change together or not at all. That is all it takes for every record to count once: whoever goes on
from a snapshot goes on from its places.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import time_ns
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from router_models.model_state import ModelState
from speculation.errors import InvalidModelStateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a stream has been read.

    Attributes:
        entry_id: Of the last entry read.
        number: How many entries had ever been written by then, as their writers count; tells how many are missing
            if the next ones are trimmed away.
    """

    entry_id: str = "0-0"
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was learnt, and from what.

    Attributes:
        state: Bytes of a ModelState.
        places: By stream, up to where its records are in the state; no entry: from the beginning.
        base: Version of the promoted model that the state began with; 0 if it began with nothing.
        folded: Records in the state since then.
        missed: Records since then that were trimmed from the log before they could be read.
        unreadable: Records since then that no release concerned could read.
        written_ms: Unix time.
        revision: Changes with every write, and never comes again.
    """

    state: bytes
    places: Mapping[str, Place]
    base: int = 0
    folded: int = 0
    missed: int = 0
    unreadable: int = 0
    written_ms: int
    revision: str

    @classmethod
    def taken_now(cls, state: bytes, places: Mapping[str, Place], **about: int) -> "Snapshot":
        """A snapshot with a revision of its own; `about` as the attributes."""
        return cls(state=state, places=places, written_ms=time_ns() // 1_000_000, revision=uuid4().hex, **about)

    @property
    def fields(self) -> dict[str, str | bytes]:
        """Of the Redis hash."""
        about = {name: value for name, value in asdict(self).items() if name not in ("state", "revision")}
        return {
            "revision": self.revision,
            "state": self.state,
            "sha256": hashlib.sha256(self.state).hexdigest(),
            "about": json.dumps(about),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> "Snapshot | None":
        """The snapshot of a Redis hash; None if nothing was written yet.

        Raises:
            InvalidModelStateError: It is damaged.
        """
        if b"revision" not in fields:
            return None
        try:
            check_hash(fields[b"state"], fields[b"sha256"].decode())
            about: dict[str, Any] = json.loads(fields[b"about"])
            about["places"] = {stream: Place(**place) for stream, place in about["places"].items()}
            return cls(state=fields[b"state"], revision=fields[b"revision"].decode(), **about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidModelStateError(f"the shared snapshot cannot be read: {error}") from error

    @property
    def model_state(self) -> ModelState:
        """What a policy takes up; raises InvalidModelStateError if it is none."""
        return ModelState.from_bytes(self.state)


def check_hash(data: bytes, sha256: str) -> None:
    """Raise InvalidModelStateError unless the data are those that were written."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidModelStateError("the state is not the one that was written: its SHA-256 differs")


@dataclass(frozen=True, slots=True)
class Keys:
    """Where everything about one namespace's learning lies in Redis."""

    namespace: str
    policy: str

    def stream(self, name: str) -> str:
        """A stream of the log."""
        return f"forerun:{self.namespace}:{name}"

    @property
    def written(self) -> str:
        """Hash: records ever written, by stream."""
        return written_key(self.namespace)

    @property
    def snapshot(self) -> str:
        """Hash: the snapshot, and the epoch of the last lease."""
        return f"forerun:{self.namespace}:learner:{self.policy}"

    @property
    def lease(self) -> str:
        """Epoch of the learner in charge, for as long as it is."""
        return f"{self.snapshot}:lease"

    def model(self, version: int) -> str:
        """Hash: state and description of one version."""
        return f"forerun:{self.namespace}:model:{version}"

    @property
    def last_version(self) -> str:
        """Counter: the newest version of any policy."""
        return f"forerun:{self.namespace}:model:last"

    @property
    def versions(self) -> str:
        """List: the policy's versions, the oldest first."""
        return f"forerun:{self.namespace}:models:{self.policy}"

    @property
    def active(self) -> str:
        """List: what was in charge before each promotion, the oldest first, and last what is in charge now."""
        return f"forerun:{self.namespace}:models:{self.policy}:active"


def shared_key(namespace: str) -> str:
    """String: name of the policy whose learning the controllers share now."""
    return f"forerun:{namespace}:shared-policy"


def written_key(namespace: str) -> str:
    """Hash: records ever written to each stream of the log."""
    return f"forerun:{namespace}:written"


async def read_snapshot(redis: Redis, keys: Keys) -> Snapshot | None:
    """What was learnt so far; None if there is nothing.

    Raises:
        InvalidModelStateError: It is damaged.
    """
    return Snapshot.from_fields(await read_hash(redis, keys.snapshot))


async def read_hash(redis: Redis, key: str) -> Mapping[bytes, bytes]:
    """All fields of a hash; none if there is no such key."""
    fields: Any = await redis.hgetall(key)  # redis-py's own type allows text, which our clients do not decode
    return dict(fields)


async def ends(redis: Redis, keys: Keys, streams: tuple[str, ...]) -> dict[str, Place]:
    """The places behind everything that is in these streams now."""
    async with redis.pipeline(transaction=True) as pipeline:
        for stream in streams:
            pipeline.xrevrange(keys.stream(stream), count=1)
        pipeline.hmget(keys.written, list(streams))
        *last, written = await pipeline.execute()
    return {
        stream: Place(entry_id=entries[0][0].decode() if entries else "0-0", number=int(number or 0))
        for stream, entries, number in zip(streams, last, written, strict=True)
    }
