"""Shared learning: of all controllers of a namespace one folds the log into a snapshot, and all of them serve by it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from redis.asyncio import Redis

from controller.event_log import redis_client
from controller.experience import LESSON_OF
from controller.snapshot import Keys, Place, Snapshot, read_snapshot, shared_key
from router_models.policy import LearningPolicy, Policy
from speculation.cancellation import heed_cancellation
from speculation.errors import InvalidModelStateError, UnknownNameError
from speculation.redis_failures import REDIS_FAILURES

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
"""Between two looks at the log and the snapshot, and so between two snapshots."""

LEASE_S = 3.0
"""A learner that has not been heard of for so long is replaced."""

DEFAULT_LEARNER = "planner"
"""Learns from the log where the policy in charge learns nothing, so that it is no beginner when it is put in charge."""


class LearnsForAll(Protocol):
    """A learner in charge, or one that waits to be."""

    async def step(self) -> bool:
        """Learn, or see that it is done; whether this is the learner in charge."""

    async def close(self) -> None:
        """Let another one learn."""


class SharedLearning:
    """One controller's part: it serves by the shared snapshot, and writes it if it holds the lease.

    While it can do neither, its policy learns for itself: an outage must not leave a router that no longer follows its
    traffic. What it learnt alone is replaced, not added to, once the snapshot can be read again; the log brings the
    same rounds, as far as it could keep them. A policy that is put in charge later is shared from then on; the one
    before it learns for itself, and the log will teach it what it missed when its turn comes again.

    Attributes:
        policy: The policy that is shared.
        leads: Whether this controller learns for all.
        problem: In words, why it does not serve by the snapshot; empty if it does.
        snapshot: The one it serves by, or served by last; None if there was none yet.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        to_share: Callable[[], LearningPolicy | None],
        learner_of: Callable[[Redis, Keys], "LearnsForAll"],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """
        Args:
            url: redis://, rediss:// or unix://.
            namespace: Whose log.
            to_share: Whose learning is to be shared now; None changes nothing.
            learner_of: Makes who may learn for all.
            interval_s: Between two looks at the snapshot.
        """
        self._redis, self._namespace = redis_client(url), namespace
        self._to_share, self._learner_of = to_share, learner_of
        self._interval_s = interval_s
        policy = to_share()
        if policy is None:
            raise ValueError("there is no policy whose learning could be shared")
        self._begin(policy)

    def _begin(self, policy: LearningPolicy) -> None:
        """Share a policy from now on."""
        self.policy = policy
        self.leads = False
        self.problem = "the shared snapshot has not been read yet"
        self.snapshot: Snapshot | None = None
        self._keys = Keys(self._namespace, policy.name)
        self._learner = self._learner_of(self._redis, self._keys)

    async def run(self) -> None:
        """Learn and follow until cancelled; then let another controller learn."""
        try:
            while True:
                await self.step()
                heed_cancellation()
                await asyncio.sleep(self._interval_s)
        finally:
            self.leads, self.problem = False, "shared learning has ended"
            self.policy.learns_across_requests = True
            await self.close()

    async def step(self) -> None:
        """See to the learner, then serve by the newest snapshot."""
        try:
            await self._change()
            self._lead(await self._learner.step())
            await self._follow()
        except (*REDIS_FAILURES, InvalidModelStateError) as error:
            self._go_alone(str(error))

    async def _change(self) -> None:
        """Turn to the policy that is in charge by now."""
        policy = self._to_share()
        if policy is None or policy is self.policy:
            return
        logger.info("another policy is shared from now on", extra={"policy": policy.name, "before": self.policy.name})
        before, learner = self.policy, self._learner
        self._begin(policy)
        before.learns_across_requests = True
        await learner.close()

    def model_version(self, policy: str) -> str:
        """The promoted version that a policy's learning went on from; empty if there is none."""
        base = self.snapshot.base if self.snapshot is not None and policy == self.policy.name else 0
        return str(base) if base else ""

    def learnt(self) -> tuple[int, int]:
        """Records in the snapshot we serve by, and the promoted version it went on from; 0 where there is none."""
        return (self.snapshot.folded, self.snapshot.base) if self.snapshot is not None else (0, 0)

    async def unlearnt(self) -> int | None:
        """Records in the log that the snapshot we serve by knows nothing of yet; None if Redis does not say."""
        try:
            written = await self._redis.hmget(self._keys.written, list(LESSON_OF))
        except REDIS_FAILURES:
            return None
        places = self.snapshot.places if self.snapshot is not None else {}
        behind = (
            int(number or 0) - places.get(stream, Place()).number
            for stream, number in zip(LESSON_OF, written, strict=True)
        )
        return sum(max(records, 0) for records in behind)

    def _lead(self, leads: bool) -> None:
        if leads is not self.leads:
            logger.info("learning for all" if leads else "another one learns", extra={"policy": self.policy.name})
        self.leads = leads

    async def _follow(self) -> None:
        revision = await self._redis.hget(self._keys.snapshot, "revision")
        served = self.snapshot.revision.encode() if self.snapshot is not None else None
        if revision is not None and (self.problem or revision != served):
            self.snapshot = await read_snapshot(self._redis, self._keys)
            if self.snapshot is not None:
                self.policy.restore(self.snapshot.model_state)
        if self.problem:
            await self._redis.set(shared_key(self._namespace), self.policy.name)
            logger.info("serving by the shared snapshot", extra={"policy": self.policy.name})
        self.problem = ""
        self.policy.learns_across_requests = False

    def _go_alone(self, problem: str) -> None:
        if not self.problem:
            logger.warning("learning alone", extra={"policy": self.policy.name, "problem": problem})
        self._lead(False)
        self.problem = problem
        self.policy.learns_across_requests = True

    async def close(self) -> None:
        """Let another controller learn, and drop the connection."""
        try:
            await self._learner.close()
        except REDIS_FAILURES:
            pass  # then the lease lapses
        finally:
            await self._redis.aclose()


def learners(policies: Mapping[str, Policy]) -> dict[str, LearningPolicy]:
    """Those whose learning can be shared."""
    return {name: policy for name, policy in policies.items() if isinstance(policy, LearningPolicy)}


def policy_to_share(policies: Mapping[str, Policy], in_charge: str) -> LearningPolicy | None:
    """The policy in charge if it learns, or else the default learner; None if neither does."""
    known = learners(policies)
    return known.get(in_charge) or known.get(DEFAULT_LEARNER)


def learner_named(name: str, policies: Mapping[str, Policy]) -> LearningPolicy:
    """A policy that learns.

    Raises:
        UnknownNameError: None of them is called that.
    """
    known = learners(policies)
    if name not in known:
        raise UnknownNameError("learning policy", name, known)
    return known[name]
