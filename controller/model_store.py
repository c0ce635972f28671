"""Versions of what a policy has learnt: kept, put in charge, taken back.

A version never changes. To promote one is to make it the shared snapshot: learner and replicas go on from there, and
the rounds that end from then on are folded into it. What was learnt until then is kept as a version of its own, so
that a rollback brings back exactly what served before, not what it once began with.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from time import time_ns
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

from controller.experience import LESSON_OF
from controller.snapshot import Keys, Snapshot, check_hash, ends, read_hash, read_snapshot
from router_models.model_state import ModelState
from router_models.policy import LearningPolicy
from speculation.errors import ConflictError, InvalidModelStateError, UnknownNameError

MOST_VERSIONS = 20
"""Kept of each policy; beyond that the oldest goes, unless it is in charge or a rollback would bring it back."""

MOST_TRIES = 20
"""The learner writes its snapshot twice a second; a change that met such a write is tried again."""


class Origin(Enum):
    """Where a version comes from."""

    ONLINE = "learnt online"
    RETRAINED = "retrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """What is known of a version.

    Attributes:
        version: Its number; a newer one has a higher one.
        policy: Whose state it is.
        created_ms: Unix time.
        origin: Where it comes from.
        parent: The version it was made from; 0 for none.
        sha256: Of its bytes.
        num_bytes: Their number.
        evaluation: What was measured of it, as JSON holds it.
    """

    version: int
    policy: str
    created_ms: int
    origin: Origin
    parent: int
    sha256: str
    num_bytes: int
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As written beside the state."""
        return json.dumps(asdict(self) | {"origin": self.origin.value})

    @classmethod
    def from_json(cls, text: bytes) -> "ModelVersion":
        """What was written; raises InvalidModelStateError if it was not by us."""
        try:
            about: dict[str, Any] = json.loads(text)
            return cls(**about | {"origin": Origin(about["origin"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidModelStateError(f"the description of a version cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The versions of one policy.

    Attributes:
        versions: The newest first.
        active: The one in charge, from which the learner goes on; 0 before the first promotion.
        before: What a rollback would put in charge; 0 if there is nothing.
    """

    versions: tuple[ModelVersion, ...]
    active: int
    before: int


class ModelStore:
    """The versions of one policy in one namespace.

    Args:
        redis: Where they are.
        namespace: Whose.
        make_policy: Makes a policy like the one that serves: a version that it cannot take up is not promoted.

    Attributes:
        policy: Whose versions they are.
    """

    def __init__(self, redis: Redis, *, namespace: str, make_policy: Callable[[], LearningPolicy]) -> None:
        self._redis, self._make_policy = redis, make_policy
        self.policy = make_policy().name
        self._keys = Keys(namespace, self.policy)

    async def publish(
        self, state: ModelState, *, origin: Origin, parent: int = 0, evaluation: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        """Keep a state as a new version. It is in charge of nothing.

        Raises:
            InvalidModelStateError: It is of another policy.
        """
        if state.policy != self.policy:
            raise InvalidModelStateError(f"is of the policy {state.policy}, not {self.policy}")
        made = await self._next_version(state.to_bytes(), origin=origin, parent=parent, evaluation=evaluation)
        async with self._redis.pipeline(transaction=True) as pipeline:
            self._add(pipeline, *made)
            await pipeline.execute()
        await self._forget_oldest()
        return made[0]

    async def history(self) -> History:
        """All versions that are kept."""
        numbers = await self._numbers(self._keys.versions)
        described: list[Any] = [await self._redis.hget(self._keys.model(number), "about") for number in numbers]
        *_, before, active = (0, 0, *await self._numbers(self._keys.active))
        return History(
            versions=tuple(ModelVersion.from_json(about) for about in reversed(described) if about is not None),
            active=active,
            before=before,
        )

    async def load(self, version: int) -> ModelState:
        """The state of a version.

        Raises:
            UnknownNameError: It is not kept.
            InvalidModelStateError: It is damaged.
        """
        return ModelState.from_bytes((await self._read(version))[1])

    async def learnt_until_now(self) -> ModelState:
        """What serves now: the version in charge, and all that was learnt on top of it; an empty state at first.

        Raises:
            InvalidModelStateError: It is damaged.
        """
        snapshot = await read_snapshot(self._redis, self._keys)
        return snapshot.model_state if snapshot is not None else ModelState(policy=self.policy)

    async def promote(self, version: int, *, replacing: int) -> None:
        """Put a version in charge.

        Args:
            version: Its number.
            replacing: The active version that the caller has seen; 0 for none.

        Raises:
            UnknownNameError: It is not kept.
            InvalidModelStateError: It is damaged, or this release cannot take it up.
            ConflictError: Another version has been put in charge meanwhile.
        """
        state = await self._tried(version)
        await self._switch(lambda pipeline: self._promoting(pipeline, version, state, replacing=replacing))
        await self._forget_oldest()

    async def rollback(self, *, replacing: int) -> int:
        """Put back in charge what was before the active version; the number of what is now in charge.

        Raises:
            InvalidModelStateError: It is damaged, or this release cannot take it up.
            ConflictError: There is nothing to go back to, or another version has been put in charge meanwhile.
        """
        history = await self.history()
        if not history.before:
            raise ConflictError("nothing that is still kept was in charge before: there is nothing to go back to")
        state = await self._tried(history.before)
        await self._switch(lambda pipeline: self._going_back(pipeline, history.before, state, replacing=replacing))
        return history.before

    async def _tried(self, version: int) -> bytes:
        """The bytes of a version that a policy of this release can take up."""
        _, state = await self._read(version)
        self._make_policy().restore(ModelState.from_bytes(state))
        return state

    async def _read(self, version: int) -> tuple[ModelVersion, bytes]:
        fields = await read_hash(self._redis, self._keys.model(version))
        about = ModelVersion.from_json(fields[b"about"]) if b"about" in fields else None
        if about is None or about.policy != self.policy:
            known = [str(number) for number in await self._numbers(self._keys.versions)]
            raise UnknownNameError(f"version of {self.policy}", str(version), known)
        check_hash(fields[b"state"], about.sha256)
        return about, fields[b"state"]

    async def _switch(self, change: Callable[[Pipeline], Any]) -> None:
        """Make a change that is void if snapshot or active version move while it is prepared; then prepare it anew."""
        for _ in range(MOST_TRIES):
            async with self._redis.pipeline(transaction=True) as pipeline:
                await pipeline.watch(self._keys.snapshot, self._keys.active)
                await change(pipeline)
                try:
                    await pipeline.execute()
                    return
                except WatchError:
                    continue
        raise ConflictError("the snapshot changes faster than it can be replaced; try again")

    async def _promoting(self, pipeline: Pipeline, version: int, state: bytes, *, replacing: int) -> None:
        await self._check_trail(pipeline, replacing)
        kept = await self._learnt_since(replacing)
        places = await ends(self._redis, self._keys, tuple(LESSON_OF))
        pipeline.multi()  # type: ignore[no-untyped-call]
        if kept is not None:
            self._add(pipeline, *kept)
            if replacing:
                pipeline.rpop(self._keys.active)
            pipeline.rpush(self._keys.active, kept[0].version)
        pipeline.rpush(self._keys.active, version)
        pipeline.ltrim(self._keys.active, -MOST_VERSIONS, -1)
        self._put_in_charge(pipeline, Snapshot.taken_now(state, places, base=version))

    async def _going_back(self, pipeline: Pipeline, version: int, state: bytes, *, replacing: int) -> None:
        await self._check_trail(pipeline, version, replacing)
        places = await ends(self._redis, self._keys, tuple(LESSON_OF))
        pipeline.multi()  # type: ignore[no-untyped-call]
        pipeline.rpop(self._keys.active)
        self._put_in_charge(pipeline, Snapshot.taken_now(state, places, base=version))

    async def _check_trail(self, pipeline: Pipeline, *expected: int) -> None:
        """Raise ConflictError unless these were the last to be put in charge."""
        trail = [int(number) for number in await pipeline.lrange(self._keys.active, -len(expected), -1)]
        if trail != [number for number in expected if number]:
            active = f"version {trail[-1]}" if trail else "no version"
            raise ConflictError(f"{active} is in charge by now; look at the history, and decide again")

    async def _learnt_since(self, active: int) -> tuple[ModelVersion, bytes] | None:
        """What was learnt since the active version was put in charge, as a version to be kept; None if nothing was."""
        try:
            snapshot = await read_snapshot(self._redis, self._keys)
        except InvalidModelStateError:  # nothing to go back to, and one more reason to put something else in charge
            return None
        if snapshot is None or (active and not snapshot.folded):
            return None
        return await self._next_version(snapshot.state, origin=Origin.ONLINE, parent=snapshot.base)

    def _put_in_charge(self, pipeline: Pipeline, snapshot: Snapshot) -> None:
        fields: dict[Any, Any] = {**snapshot.fields}  # redis-py's own type is invariant
        pipeline.hset(self._keys.snapshot, mapping=fields)

    async def _next_version(
        self, state: bytes, *, origin: Origin, parent: int, evaluation: Mapping[str, Any] | None = None
    ) -> tuple[ModelVersion, bytes]:
        about = ModelVersion(
            version=await self._redis.incr(self._keys.last_version),
            policy=self.policy,
            created_ms=time_ns() // 1_000_000,
            origin=origin,
            parent=parent,
            sha256=hashlib.sha256(state).hexdigest(),
            num_bytes=len(state),
            evaluation=evaluation or {},
        )
        return about, state

    def _add(self, pipeline: Pipeline, about: ModelVersion, state: bytes) -> None:
        pipeline.hset(self._keys.model(about.version), mapping={"state": state, "about": about.to_json()})
        pipeline.rpush(self._keys.versions, about.version)

    async def _forget_oldest(self) -> None:
        numbers = await self._numbers(self._keys.versions)
        needed = (await self._numbers(self._keys.active))[-2:]
        spare = [number for number in numbers if number not in needed][: max(len(numbers) - MOST_VERSIONS, 0)]
        async with self._redis.pipeline(transaction=True) as pipeline:
            for number in spare:
                pipeline.lrem(self._keys.versions, 1, str(number))
                pipeline.lrem(self._keys.active, 0, str(number))
                pipeline.delete(self._keys.model(number))
            await pipeline.execute()

    async def _numbers(self, key: str) -> list[int]:
        return [int(number) for number in await self._redis.lrange(key, 0, -1)]
