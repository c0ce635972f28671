"""Admission: who gets one of the places, who waits for one, and who is turned away at once with a time to come back.

A request that finds no place waits in the line of its class. Places that become free go to the highest class that
waits, and within it to tenants in turn. Nobody is kept waiting in vain: who would wait longer than his class or his
deadline allows is turned away when he comes, and so is who finds the lines full, unless somebody of a lower class, or
of a tenant with more requests in the same line, can go in his stead.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from random import Random

from controller.concurrency import ConcurrencyLimit
from controller.generation import Round
from controller.latency_classes import DEFAULT_PRECEDENCE, LatencyClass, Precedence
from controller.tasks import Signal
from controller.waiting_line import Waiting, WaitingLine
from speculation.errors import CapacityError, DrainingError, ForerunError
from speculation.metrics import Histogram, Labels

WAIT_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

PAUSE_S = 1.0
"""When to call again where nobody can tell."""

MOST_JITTER = 0.5
"""Share by which the times to call again differ: those turned away together must not come back together."""

NEWEST = 0.1
"""Weight of the newest request in the mean time that a place is taken."""

NEWEST_GRANT = 0.03
"""Weight of the newest place given away, in the shares that the classes get of them."""

LEAST_SHARE = 0.01
"""Of the places for which a class waits, however many go to higher ones."""


class Cause(Enum):
    """Why a request was turned away; `told` is for its caller."""

    FULL = "full"
    """The lines are as long as they may be."""
    HOPELESS = "hopeless"
    """It would have waited longer than its class or its deadline allows."""
    WAITED = "waited"
    """It did wait as long as its class allows."""
    DISPLACED = "displaced"
    """It waited, and its place in the full lines was given to a request that goes before it."""

    @property
    def told(self) -> str:
        """As a sentence about the request."""
        return _TOLD[self]


_TOLD = {
    Cause.FULL: "all places are taken and the lines are full",
    Cause.HOPELESS: "all places are taken, and it would have to wait for too long",
    Cause.WAITED: "all places stayed taken for as long as it may wait",
    Cause.DISPLACED: "the lines are full, and it made way for a request that goes before it",
}


class Ticket:
    """A request inside: being read, waiting, or running."""

    def __init__(self, reception: "Reception", latency_class: LatencyClass, tenant: str, deadline: float) -> None:
        self.latency_class = latency_class
        self._reception = reception
        self._tenant = tenant
        self._deadline = deadline
        self._taken: tuple[Waiting, float] | None = None

    async def turn(self, *, tokens: int) -> None:
        """Wait for a place, which is this request's until it leaves.

        Args:
            tokens: Of its prompt and of the longest answer it may get.

        Raises:
            CapacityError: It was turned away.
            DrainingError: The controller shuts down.
        """
        one = Waiting(latency_class=self.latency_class, tenant=self._tenant, tokens=tokens)
        self._taken = one, await self._reception.seat(one, self._deadline)

    def note(self, done: Round) -> None:
        """Be told of a round of this request."""
        reception = self._reception
        objective_ms = self.latency_class.token_objective_ms
        if reception.limit.note(done, objective_ms=objective_ms, running=reception.inside):
            reception.look()

    def used(self, tokens: int) -> None:
        """So many tokens prompt and answer had in the end."""
        if self._taken is not None:
            one, _ = self._taken
            self._reception.line(one.latency_class.name).give_back(one, max(0, one.tokens - tokens))

    def leave(self) -> None:
        """Give the place to somebody else."""
        if self._taken is not None:
            self._reception.free(*self._taken)


class Reception:
    """Lets requests in, in their order, and closes the door when it is time to go.

    Attributes:
        precedence: Who goes before whom.
        limit: How many may run at once.
        inside: Requests that run.
        draining: Whether the door is closed.
        waits: Seconds from a request's arrival in line to its place, by class.
        shed: Requests turned away, by class and cause.
    """

    def __init__(
        self,
        limit: ConcurrencyLimit,
        precedence: Precedence = DEFAULT_PRECEDENCE,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self.precedence = precedence
        self.limit = limit
        self.inside = 0
        self.draining = False
        self.waits: dict[Labels, Histogram] = {}
        self.shed: Counter[Labels] = Counter()
        self._guests = 0
        self._running: Counter[str] = Counter()
        self._lines: dict[str, WaitingLine] = {}
        self._mean_stay_s = 0.0
        self._granted: dict[str, float] = {}
        self._now = now
        self._rng = rng or Random()
        self._left = Signal()

    @property
    def capacity(self) -> int:
        """Most requests that may run at once, now."""
        return self.limit.value

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(map(len, self._lines.values()))

    def waiting_of(self, name: str) -> int:
        """The same of one class."""
        return len(self.line(name))

    def obey(self, precedence: Precedence, *, most: int, adaptive: bool) -> None:
        """Other rules, for requests to come; those that wait keep the times they were promised."""
        self.precedence = precedence
        self.limit.most, self.limit.adaptive = most, adaptive
        self.look()

    @contextmanager
    def ticket(self, latency_class: LatencyClass, tenant: str, *, deadline: float) -> Iterator[Ticket]:
        """Be let in, to be read, and later to wait for a turn; what is hopeless is turned away before it is read.

        Args:
            latency_class: Of the request.
            tenant: On whose behalf.
            deadline: Until when it must be answered, in seconds of the event loop's clock.

        Raises:
            CapacityError: It is turned away.
            DrainingError: The controller shuts down.
        """
        self._require_hope(latency_class, tenant, deadline)
        if self._guests - self.inside - self.waiting >= self.precedence.most_waiting + self.capacity:
            raise self._shed(latency_class, Cause.FULL, self._expected_wait_s(latency_class, tenant))
        ticket = Ticket(self, latency_class, tenant, deadline)
        self._guests += 1
        try:
            yield ticket
        finally:
            self._guests -= 1
            ticket.leave()
            self._left.fire()

    async def seat(self, one: Waiting, deadline: float) -> float:
        """Wait until a request has a place; since when it has it. For tickets."""
        self._require_hope(one.latency_class, one.tenant, deadline)
        came, line = self._now(), self.line(one.latency_class.name)
        if self._may_enter(one.latency_class):
            self._take(one)
        else:
            self._make_room(one.latency_class, one.tenant)
            line.join(one)
            await self._turn_of(one, line)
        now = self._now()
        self.waits.setdefault((one.latency_class.name,), Histogram(WAIT_S)).observe(now - came)
        return now

    def free(self, one: Waiting, since: float) -> None:
        """A request has left its place. For tickets."""
        stay_s = self._now() - since
        self._mean_stay_s += (stay_s - self._mean_stay_s) * (NEWEST if self._mean_stay_s else 1.0)
        self._release(one)

    def look(self) -> None:
        """Give away the places that are free."""
        while (one := self._next()) is not None:
            self._take(one)
            one.granted.set_result(None)

    async def follow(self, changed: Signal) -> None:
        """Look whenever the fleet changes: it may have room for more."""
        while True:
            await changed.wait()
            self.look()

    def line(self, name: str) -> WaitingLine:
        """Those of one class that wait."""
        return self._lines.setdefault(name, WaitingLine())

    def close(self) -> None:
        """Let nobody in any more; who has not begun is sent elsewhere."""
        self.draining = True
        for line in self._lines.values():
            while (one := line.last) is not None:
                self._send_away(one, _draining())

    async def drained(self) -> None:
        """Wait until everybody has left."""
        while self._guests:
            await self._left.wait()

    async def _turn_of(self, one: Waiting, line: WaitingLine) -> None:
        most_wait_s = one.latency_class.most_wait_s
        try:
            async with asyncio.timeout(most_wait_s):
                await asyncio.wait((one.granted,))
        except TimeoutError:
            if not one.granted.done():
                raise self._shed(one.latency_class, Cause.WAITED, most_wait_s) from None
        except asyncio.CancelledError:
            if one.granted.done() and one.granted.exception() is None:
                self._release(one)
            raise
        finally:
            line.leave(one)
        one.granted.result()

    def _release(self, one: Waiting) -> None:
        self.inside -= 1
        self._running[one.latency_class.name] -= 1
        self.look()

    def _next(self) -> Waiting | None:
        """Whose turn it is, if there is a place. No class goes before a higher one that waits."""
        for name in self._by_rank():
            if (one := self.line(name).first) is not None:
                return one if self._has_place(one.latency_class) else None
        return None

    def _by_rank(self) -> list[str]:
        """Classes, the highest first; those that are no more come last."""
        ranked = [one.name for one in self.precedence.classes]
        return [*ranked, *(name for name in self._lines if name not in ranked)]

    def _at_or_above(self, latency_class: LatencyClass) -> list[str]:
        ranked = self._by_rank()
        return ranked[: ranked.index(latency_class.name) + 1]

    def _may_enter(self, latency_class: LatencyClass) -> bool:
        """Whether there is a place, and nobody who goes first."""
        queued = any(len(self.line(name)) for name in self._at_or_above(latency_class))
        return not queued and self._has_place(latency_class)

    def _has_place(self, latency_class: LatencyClass) -> bool:
        above = self._at_or_above(latency_class)[:-1]
        here_and_below = self.inside - sum(self._running[name] for name in above)
        capacity = self.capacity
        return self.inside < capacity and here_and_below < max(1, int(latency_class.most_share * capacity))

    def _take(self, one: Waiting) -> None:
        self.inside += 1
        self._running[one.latency_class.name] += 1
        self.line(one.latency_class.name).serve(one)
        for name in self._lines:
            share = self._granted.get(name, 0.0)
            self._granted[name] = share + NEWEST_GRANT * ((name == one.latency_class.name) - share)

    def _require_hope(self, latency_class: LatencyClass, tenant: str, deadline: float) -> None:
        """Turn a request away that would not be served in time."""
        if self.draining:
            raise _draining()
        if self._may_enter(latency_class):
            return
        wait_s = self._expected_wait_s(latency_class, tenant)
        if wait_s > min(latency_class.most_wait_s, deadline - asyncio.get_running_loop().time()):
            raise self._shed(latency_class, Cause.HOPELESS, wait_s)
        if self._lines_are_full and self._victim(latency_class, tenant) is None:
            raise self._shed(latency_class, Cause.FULL, wait_s)

    def _expected_wait_s(self, latency_class: LatencyClass, tenant: str) -> float:
        """What those who go first need until one more can go, if all goes on as lately; 0 where nobody has left yet.

        A place becomes free every mean stay / places (Little 1961). Those who are in higher lines go first, and so do
        those who will come there meanwhile: to a class is left what they do not take (Cobham 1954).
        """
        above = self._at_or_above(latency_class)[:-1]
        ahead = sum(len(self.line(name)) for name in above) + self.line(latency_class.name).ahead_of(tenant)
        left = max(LEAST_SHARE, 1.0 - sum(self._granted.get(name, 0.0) for name in above))
        return (ahead + 1) * self._mean_stay_s / (self.capacity * left)

    @property
    def _lines_are_full(self) -> bool:
        return self.waiting >= self.precedence.most_waiting

    def _make_room(self, latency_class: LatencyClass, tenant: str) -> None:
        """Let somebody make way where the lines are full; that there is somebody was made sure of."""
        victim = self._victim(latency_class, tenant) if self._lines_are_full else None
        if victim is not None:
            wait_s = self._expected_wait_s(victim.latency_class, victim.tenant)
            self._send_away(victim, self._shed(victim.latency_class, Cause.DISPLACED, wait_s))

    def _victim(self, latency_class: LatencyClass, tenant: str) -> Waiting | None:
        """Who makes way: the lowest class first; in the same class only a tenant that has more requests there."""
        not_below = self._at_or_above(latency_class)
        below = (self.line(name).last for name in reversed(self._by_rank()) if name not in not_below)
        if (victim := next((last for last in below if last is not None), None)) is not None:
            return victim
        line = self.line(latency_class.name)
        last = line.last
        return last if last is not None and line.length_of(last.tenant) > line.length_of(tenant) + 1 else None

    def _send_away(self, one: Waiting, error: ForerunError) -> None:
        self.line(one.latency_class.name).leave(one)
        one.granted.set_exception(error)

    def _shed(self, latency_class: LatencyClass, cause: Cause, wait_s: float) -> CapacityError:
        self.shed[latency_class.name, cause.value] += 1
        retry_after_s = (wait_s or PAUSE_S) * self._rng.uniform(1.0, 1.0 + MOST_JITTER)
        error = CapacityError(
            f"{cause.told}; call again in {retry_after_s:.3g} s",
            {"latency_class": latency_class.name, "cause": cause.value},
        )
        error.retry_after_s = retry_after_s
        return error


def _draining() -> DrainingError:
    error = DrainingError("this controller shuts down; call another one with the same seed for the same text")
    error.retry_after_s = PAUSE_S
    return error
