"""Which workers there are, which of them belong to us, and which can be asked now."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from controller.outliers import EXCHANGES, Pace
from controller.tasks import Signal, owned_tasks
from controller.worker_client import (
    DraftStream,
    Opening,
    Role,
    VerifyStream,
    WorkerClient,
    WorkerDescription,
    WorkerTls,
)
from speculation.errors import DrainingError, ForerunError, IncompatibleWorkerError, WorkerUnavailableError
from speculation.profile import ForwardProfile
from speculation.retry_budget import RetryBudget

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 30.0

LONGEST_ALONE_S = 1.0
"""The same for a target without which there is none: to ask a bad one is better than to ask nobody."""

RETRIES_A_ROUND, RETRIES_IN_RESERVE = 0.1, 64
"""What sessions that find one worker after another lost may try, of all requests together; see `Roster.retries`."""

DESCRIBE_TIMEOUT_S = 2.0


class Health(Enum):
    """Whether a worker can be asked."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerIdentity:
    """What the tokenizers of all workers must agree on.

    Attributes:
        fingerprint: See speculation/fingerprint.py.
        vocab_size: Tokens that the tokenizer knows; models may have more, as padding.
    """

    fingerprint: str
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTimeouts:
    """How long the fleet waits, in seconds.

    Attributes:
        draft_timeout_s: A drafter that keeps a ready target waiting longer is late.
        verify_wait_s: How long a request waits for a verify worker to return or to have room.
        slow_factor: A worker that takes this many times as long as its peers is ejected; None: none is.
        health_interval_s: Between two health checks of a worker.
        health_timeout_s: A worker that does not answer a check within this is lost.
    """

    draft_timeout_s: float = 0.5
    verify_wait_s: float = 10.0
    slow_factor: float | None = 4.0
    health_interval_s: float = 1.0
    health_timeout_s: float = 2.0


class Worker:
    """One worker as this controller sees it.

    Attributes:
        address: host:port.
        role: What it is meant to do.
        description: What it says it is; None until it answered.
        health: Whether it can be asked.
        problem: In words, if it cannot.
        failures: Times it was ejected since it was last trusted.
        ejections: Times it was ejected at all.
        on_probation: Exchanges that must go well until it is trusted again; 0: it is.
        pace: How long its exchanges take.
    """

    def __init__(self, address: str, role: Role, *, changed: Signal, tls: WorkerTls | None = None) -> None:
        self.address = address
        self.role = role
        self.description: WorkerDescription | None = None
        self.health = Health.NOT_SERVING
        self.problem = "has not answered yet"
        self.failures = self.ejections = self.on_probation = 0
        self.pace = Pace()
        self.client = WorkerClient(address, role, tls)
        self._streams: set[DraftStream | VerifyStream] = set()
        self._changed = changed
        self._doubted = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether it can be asked."""
        return self.health is Health.SERVING

    @property
    def doubted(self) -> bool:
        """Whether it failed since it was last examined."""
        return self._doubted.is_set()

    @property
    def name(self) -> str:
        """Name of its drafter or target; its address until it answered."""
        return self.description.name if self.description else self.address

    def can_hold(self, length: int) -> bool:
        """Whether a sequence of that length leaves room for at least one more token."""
        return self.description is not None and length < self.description.max_length

    @property
    def host(self) -> str:
        """The machine that it runs on, by the name under which it is called."""
        return self.address.rpartition(":")[0]

    @property
    def open_sessions(self) -> int:
        """Sessions that this controller has open on it."""
        return len(self._streams)

    def in_use(self, *, beside: DraftStream | None = None) -> bool:
        """Whether this controller has a session open on it, beside one that does not count."""
        return any(stream is not beside for stream in self._streams)

    @property
    def takes_sessions(self) -> bool:
        """Whether it can be given one more; on probation, it is given one at a time."""
        return self.serving and not (self.on_probation and self._streams)

    @property
    def load(self) -> float:
        """Open sessions per slot."""
        return self.open_sessions / (self.description.slots if self.description else 1)

    def open_draft(self, opening: Opening, *, timeout_s: float) -> DraftStream:
        """A session on it."""
        stream = self.client.open_draft(opening, timeout_s=timeout_s)
        self._streams.add(stream)
        self._changed.fire()
        return stream

    def open_verify(self, opening: Opening, *, timeout_s: float) -> VerifyStream:
        """A session on it."""
        stream = self.client.open_verify(opening, timeout_s=timeout_s)
        self._streams.add(stream)
        self._changed.fire()
        return stream

    def close(self, stream: DraftStream | VerifyStream) -> None:
        """End a session on it."""
        self._streams.discard(stream)
        stream.close()
        self._changed.fire()

    def worked(self) -> None:
        """It did what it was asked. Earlier failures are forgiven once it has done so for a while."""
        if self.on_probation:
            self.on_probation -= 1
            if not self.on_probation:
                self.failures = 0
                logger.info("worker trusted again", extra=self._told)
                self._changed.fire()

    def eject(self, problem: str) -> None:
        """Ask it nothing more until it has been examined again, later each time it fails."""
        if self.health is Health.SERVING:
            self.failures += 1
            self.ejections += 1
        self._become(Health.NOT_SERVING, problem)
        self._doubted.set()

    def step_back(self, problem: str) -> None:
        """It says that it takes nothing new; sessions on it end in their own time."""
        self._become(Health.NOT_SERVING, problem)

    def lose(self, problem: str) -> None:
        """It does not answer: whoever waits for it is told so."""
        self._become(Health.NOT_SERVING, problem)
        for stream in tuple(self._streams):
            stream.give_up(problem)

    def admit(self, description: WorkerDescription) -> None:
        """It answered and belongs to the fleet."""
        self.description = description
        if self.failures:
            self.on_probation, self.pace = EXCHANGES, Pace()
        self._become(Health.SERVING, "")

    def refuse(self, problem: str) -> None:
        """It answered and does not belong to the fleet."""
        self._become(Health.REFUSED, problem)

    async def rest(self, interval_s: float, longest_backoff_s: Callable[[], float]) -> None:
        """Wait until it should be examined: after the interval, or at once when it is doubted, or after a backoff."""
        try:
            async with asyncio.timeout(interval_s):
                await self._doubted.wait()
        except TimeoutError:
            return
        self._doubted.clear()
        backoff_s = FIRST_BACKOFF_S * 2 ** (self.failures - 1) if self.failures else 0.0
        await asyncio.sleep(min(backoff_s, longest_backoff_s()))

    @property
    def _told(self) -> dict[str, str]:
        """Which worker, for the log."""
        return {"worker": self.address, "worker_name": self.name, "role": self.role.value}

    def _become(self, health: Health, problem: str) -> None:
        if (health, problem) != (self.health, self.problem):
            level = logging.INFO if health is Health.SERVING else logging.WARNING
            told = {**self._told, "problem": problem, "probation": bool(self.on_probation)}
            logger.log(level, "worker %s", health.value, extra=told)
        self.health, self.problem = health, problem
        self._changed.fire()


class Roster:
    """The workers of this controller. `run` keeps it up to date.

    Attributes:
        tokenizer: What they all share.
        timeouts: How long to wait for them.
        outcomes_ahead: Outcomes of a verification from which drafters draft on while the target judges; 0: none.
        changed: Fires when a worker's state changes.
        retries: Of sessions that have moved from one lost worker and find the next one lost, too. A session may move
            once in any case: a worker that dies with all its sessions must cost nothing but time.
    """

    def __init__(self, tokenizer: TokenizerIdentity, timeouts: FleetTimeouts, tls: WorkerTls | None = None) -> None:
        self.tokenizer = tokenizer
        self.timeouts = timeouts
        self.outcomes_ahead = 0
        self.changed = Signal()
        self.retries = RetryBudget(share=RETRIES_A_ROUND, reserve=RETRIES_IN_RESERVE)
        self._tls = tls
        self._workers: dict[str, Worker] = {}
        self._listed = Signal()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All of them, in the order in which they became known."""
        return tuple(self._workers.values())

    @property
    def drafters(self) -> list[Worker]:
        """Every admitted worker that drafts, whether it serves now or not."""
        return [
            worker
            for worker in self._workers.values()
            if worker.role is Role.DRAFT and worker.description is not None and worker.health is not Health.REFUSED
        ]

    @property
    def drafter_names(self) -> tuple[str, ...]:
        """Every admitted drafter, whether it serves now or not."""
        return self._names(self.drafters)

    def drafters_for(self, length: int) -> tuple[str, ...]:
        """Drafters that can be asked now to continue a sequence of that length, in a session to come."""
        return self._names(worker for worker in self.drafters if worker.takes_sessions and worker.can_hold(length))

    @property
    def drafter_profiles(self) -> Mapping[str, ForwardProfile]:
        """What the forwards of each drafter that serves took when it started."""
        return dict(self._profiles(Role.DRAFT))

    @property
    def target_profile(self) -> ForwardProfile | None:
        """The same of the target."""
        return next((profile for _, profile in self._profiles(Role.VERIFY)), None)

    def _profiles(self, role: Role) -> Iterable[tuple[str, ForwardProfile]]:
        for worker in self.workers:
            profile = worker.description.profile if worker.description is not None else None
            if worker.serving and worker.role is role and profile is not None:
                yield worker.name, profile

    @property
    def unavailable_drafters(self) -> tuple[str, ...]:
        """Drafters that cannot be asked now, each as "name: reason"."""
        return tuple(
            f"{worker.name}: {worker.problem}"
            for worker in self.workers
            if worker.role is Role.DRAFT and not worker.serving
        )

    @property
    def serves(self) -> bool:
        """Whether there is a target to ask."""
        return any(worker.serving for worker in self.workers if worker.role is Role.VERIFY)

    @property
    def verify_slots(self) -> int:
        """Sessions that the targets that serve can hold at once; 0 while none serves."""
        described = (worker.description for worker in self.workers if worker.serving and worker.role is Role.VERIFY)
        return sum(target.slots for target in described if target is not None)

    @staticmethod
    def _names(workers: Iterable[Worker]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(worker.name for worker in workers))

    def list_workers(self, addresses: Iterable[tuple[str, Role]]) -> None:
        """Exactly these workers there are, from now on."""
        wanted = dict(addresses)
        for address, worker in tuple(self._workers.items()):
            if wanted.get(address) is not worker.role:
                del self._workers[address]
                worker.lose("left the fleet")
        for address, role in wanted.items():
            if address not in self._workers:
                self._workers[address] = Worker(address, role, changed=self.changed, tls=self._tls)
        self._listed.fire()

    async def run(self) -> None:
        """Examine every worker, from the moment it is listed until it is no longer."""
        watched: dict[Worker, asyncio.Task[None]] = {}
        async with owned_tasks() as spawn:
            while True:
                for worker in set(self.workers) - set(watched):
                    watched[worker] = spawn(self._watch(worker))
                for worker in set(watched) - set(self.workers):
                    watched.pop(worker).cancel()
                await self._listed.wait()

    async def max_length(self) -> int:
        """Longest sequence that the target can hold; waits for one to be admitted.

        Raises:
            WorkerUnavailableError: None was, in time.
        """
        worker = await self.verifier(None)
        return worker.description.max_length if worker.description is not None else 0

    async def verifier(self, revision: str | None) -> Worker:
        """The least loaded verify worker of that model revision (None: of any); waits for one to return.

        Raises:
            WorkerUnavailableError: None did, in time.
        """
        try:
            async with asyncio.timeout(self.timeouts.verify_wait_s):
                while not (ready := self._serving(Role.VERIFY, lambda d: revision in (None, d.model_revision))):
                    await self.changed.wait()
        except TimeoutError:
            raise WorkerUnavailableError(
                f"no verify worker answered within {self.timeouts.verify_wait_s:g} s; retry with the same seed for the "
                "same text"
            ) from None
        trusted = [worker for worker in ready if worker.takes_sessions]
        return min(trusted or ready, key=lambda worker: worker.load)

    def drafter(self, name: str, length: int) -> Worker | None:
        """The least loaded serving worker of a drafter that can continue a sequence of that length, if there is one."""
        ready = self._serving(Role.DRAFT, lambda d: d.name == name and length < d.max_length)
        trusted = [worker for worker in ready if worker.takes_sessions]
        return min(trusted, key=lambda worker: worker.load, default=None)

    def worked(self, worker: Worker, took_s: float) -> None:
        """A worker did what it was asked. One that is much slower than its peers is ejected, never the last one."""
        self.retries.called()
        worker.pace.add(took_s)
        if worker.serving and worker.pace.may_be_outlier and self._lags(worker):
            worker.eject(f"takes more than {self.timeouts.slow_factor:g} times as long as its peers")
        else:
            worker.worked()

    def _lags(self, worker: Worker) -> bool:
        """Whether it is much slower than its peers: all targets are alike, and drafters of the same model."""
        factor = self.timeouts.slow_factor
        alike = self._serving(worker.role, lambda d: worker.role is Role.VERIFY or d.name == worker.name)
        peers = (other.pace for other in alike if other is not worker)
        return factor is not None and worker.pace.is_outlier(peers, factor=factor)

    def is_quiet(self, worker: Worker, *, beside: DraftStream | None = None) -> bool:
        """Whether no request of this controller has a session on a worker or its machine, one session not counted."""
        return not any(other.in_use(beside=beside) for other in self.workers if other.host == worker.host)

    def _serving(self, role: Role, suits: Callable[[WorkerDescription], bool]) -> list[Worker]:
        return [
            worker
            for worker in self.workers
            if worker.serving and worker.role is role and worker.description is not None and suits(worker.description)
        ]

    async def _watch(self, worker: Worker) -> None:
        try:
            while True:
                await self._examine(worker)
                await worker.rest(self.timeouts.health_interval_s, lambda: self._longest_backoff_s(worker))
        finally:
            await worker.client.close()

    def _longest_backoff_s(self, worker: Worker) -> float:
        alone = not any(other.serving and other.role is Role.VERIFY for other in self.workers if other is not worker)
        return LONGEST_ALONE_S if worker.role is Role.VERIFY and alone else LONGEST_BACKOFF_S

    async def _examine(self, worker: Worker) -> None:
        """Look whether a worker answers; one that did not before says anew what it is."""
        try:
            await worker.client.check(self.timeouts.health_timeout_s)
            if not worker.serving and not worker.doubted:
                description = await worker.client.describe(DESCRIBE_TIMEOUT_S)
                self._check_membership(worker, description)
                worker.admit(description)
        except IncompatibleWorkerError as error:
            worker.refuse(str(error))
        except DrainingError as error:
            worker.step_back(str(error))
        except (ForerunError, TimeoutError) as error:
            worker.lose(str(error))
        except Exception as error:  # whatever it is: who is not examined any more can never come back
            logger.exception("a worker could not be examined", extra={"worker": worker.address})
            worker.lose(f"could not be examined: {error}")

    def _check_membership(self, worker: Worker, description: WorkerDescription) -> None:
        """Raise IncompatibleWorkerError unless the worker may serve this fleet's requests."""
        if description.role is not worker.role:
            raise IncompatibleWorkerError(
                f"is a {description.role.value} worker, but listed as a {worker.role.value} worker"
            )
        if description.tokenizer_fingerprint != self.tokenizer.fingerprint:
            raise IncompatibleWorkerError(
                f"its tokenizer ({description.tokenizer_fingerprint[:12]}…) is not the fleet's "
                f"({self.tokenizer.fingerprint[:12]}…): its token ids would mean other words"
            )
        if description.vocab_size < self.tokenizer.vocab_size:
            raise IncompatibleWorkerError(
                f"its model knows {description.vocab_size} tokens, the fleet's tokenizer {self.tokenizer.vocab_size}"
            )
        if worker.role is Role.VERIFY:
            self._check_revision(worker, description)

    def _check_revision(self, worker: Worker, description: WorkerDescription) -> None:
        """All verify workers must give the same text: the first one to be admitted sets the revision."""
        for other in self.workers:
            known = other.description
            if other is worker or other.role is not Role.VERIFY or known is None or other.health is Health.REFUSED:
                continue
            if known.model_revision != description.model_revision:
                raise IncompatibleWorkerError(
                    f"its model revision {description.model_revision[:12]} is not {known.model_revision[:12]} of "
                    f"{other.address}: the text of a request would depend on who serves it"
                )
