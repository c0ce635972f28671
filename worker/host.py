"""What both services stand on: the engine's thread, the sessions of all streams, and the end of the day."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic

from speculation.errors import CapacityError, DrainingError, InvalidRequestError
from speculation.prefix import Context
from speculation.sampling import SamplingParameters
from speculation.tree import MAX_NODES
from speculation.verdict import WorkerTimings
from worker.batching import EngineThread, GaveWayError, Result, Steps
from worker.meter import EngineMeter
from worker.prefix_cache import CacheUse
from worker.sampling import Sampler
from worker.sessions import ContextNotHeldError, Session, SessionTable
from worker.slots import Slots
from worker.surprisal import PromptSurprisal
from worker.tenant_memory import TenantMemory

TREE_ROOM = MAX_NODES
"""Tokens a slot needs beyond the longest session: a tree is as deep as it reaches, but takes a row for every node."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A call that was answered."""

    result: Result
    timings: WorkerTimings


@dataclass(frozen=True, slots=True)
class NeedContext:
    """A call that builds on tokens this worker does not hold; it holds the first held_length."""

    held_length: int


@dataclass(frozen=True, slots=True)
class Busy:
    """A call for which there was no room."""


@dataclass(frozen=True, slots=True)
class Draining:
    """A call that came after the worker had been told to end."""


@dataclass(frozen=True, slots=True)
class GaveWay:
    """A call for idle time that was ended in favour of others. Its context was taken."""


Outcome = Done[Result] | NeedContext | Busy | Draining | GaveWay
"""How a call ended, when nothing was wrong with it."""

_NAMES = {Done: "done", NeedContext: "need_context", Busy: "busy", Draining: "draining", GaveWay: "gave_way"}


class Stream:
    """One stream, and its session once that is open.

    Attributes:
        top_logprobs: Alternatives it wants reported with each emitted token.
        stop_token_ids: Tokens that end a run.
    """

    def __init__(self) -> None:
        self.top_logprobs = 0
        self.stop_token_ids: frozenset[int] = frozenset()
        self._session: Session | None = None

    @property
    def is_open(self) -> bool:
        """Whether the session was opened."""
        return self._session is not None

    @property
    def session(self) -> Session:
        """The session; only an open stream may be asked."""
        if self._session is None:
            raise RuntimeError("the stream has no session yet")
        return self._session

    def open(self, session: Session) -> None:
        """Begin the session.

        Raises:
            InvalidRequestError: There is one already.
        """
        if self._session is not None:
            raise InvalidRequestError("open", "the session is open already")
        self._session = session


class Host:
    """Sessions over one engine.

    Args:
        engine: With room for TREE_ROOM more tokens a slot than max_length.
        max_length: Tokens a session may hold.
        max_streams: Streams open at once.
        max_calls: Calls waiting or running at once.
        least_idle_s: See `SessionTable`.
        memory: Is told the texts of sessions that end; None: nobody is.

    Attributes:
        streams: Open now.
        opened: Streams since the start.
        refused: Of these, for want of a place.
        ended_calls: Calls by how they ended: the names of `Outcome`, "cancelled" or "error".
    """

    def __init__(
        self,
        engine: Slots,
        *,
        max_length: int,
        max_streams: int = 1024,
        max_calls: int = 256,
        least_idle_s: float = 0.0,
        memory: TenantMemory | None = None,
    ) -> None:
        self.engine, self.max_length = engine, max_length
        self.draining = False
        self._table = SessionTable(engine, max_length=max_length, least_idle_s=least_idle_s)
        self._memory = memory
        self._thread = EngineThread(engine, max_jobs=max_calls)
        self._max_streams, self.streams = max_streams, 0
        self.opened = self.refused = 0
        self.ended_calls: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def cache_use(self) -> CacheUse:
        """How the cache is used."""
        remembered = 0 if self._memory is None else self._memory.num_tokens
        return replace(self._table.use, remembered_tokens=remembered)

    @property
    def engine_meter(self) -> EngineMeter:
        """What the engine has done."""
        return self._thread.meter

    @property
    def calls(self) -> int:
        """Calls waiting or running, without work for idle time."""
        return self._thread.num_jobs

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A place for one stream; its slot is freed when it ends, however it ends.

        Raises:
            CapacityError: Too many streams are open.
        """
        self.opened += 1
        if self.streams >= self._max_streams:
            self.refused += 1
            raise CapacityError(f"{self._max_streams} sessions are open")
        stream = Stream()
        self.streams += 1
        self._empty.clear()
        try:
            yield stream
        finally:
            self.streams -= 1
            if not self.streams:
                self._empty.set()
            if stream.is_open:
                self._thread.post(partial(self._end, stream.session))

    def _end(self, session: Session) -> None:
        if self._memory is not None:
            self._memory.remember(session.salt, session.token_ids)
        self._table.close(session)

    def new_session(
        self,
        sampling: SamplingParameters,
        *,
        prompt_length: int,
        coupled: bool = True,
        surprised: bool = False,
        background: bool = False,
        salt: str = "",
    ) -> Session:
        """A session that holds nothing yet.

        Args:
            sampling: How tokens are chosen.
            prompt_length: Tokens of the prompt.
            coupled: Whether the request's noise counts.
            surprised: Whether to gather the prompt's surprisal.
            background: Whether its calls give way to those of all other sessions.
            salt: With which sessions it shares what is computed for its prompt.

        Raises:
            InvalidRequestError: A parameter does not fit the model.
        """
        if prompt_length > self.max_length:
            raise InvalidRequestError("prompt_length", f"{prompt_length} tokens; {self.max_length} can be held")
        sampler = Sampler(
            sampling,
            vocab_size=self.engine.vocab_size,
            prompt_length=prompt_length,
            device=self.engine.device,
            coupled=coupled,
        )
        surprisal = PromptSurprisal(prompt_length) if surprised else None
        return Session(sampler, surprisal, background=background, salt=salt)

    async def call(
        self, session: Session, context: Context, steps: Steps[Result], *, gives_way: bool = False
    ) -> Outcome[Result]:
        """Run the steps over the context.

        Args:
            session: Whose context.
            context: What the call builds on.
            steps: What to do with it.
            gives_way: It is work for idle time: other calls, of any session, end it.

        Raises:
            InvalidRequestError: What was asked for cannot be.
        """
        ended = "error"
        try:
            outcome = await self._outcome(session, context, steps, gives_way=gives_way)
            ended = _NAMES[type(outcome)]
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        finally:
            self.ended_calls[ended] += 1
        return outcome

    async def _outcome(
        self, session: Session, context: Context, steps: Steps[Result], *, gives_way: bool
    ) -> Outcome[Result]:
        try:
            steps = self._table.call(session, context, steps)
            result, timings = await self._thread.run(steps, background=session.background, gives_way=gives_way)
        except ContextNotHeldError as missing:
            return NeedContext(missing.held_length)
        except CapacityError:
            return Busy()
        except DrainingError:
            return Draining()
        except GaveWayError:
            return GaveWay()
        return Done(result, timings)

    @property
    def rest(self) -> int:
        """See `EngineThread.rest`."""
        return self._thread.rest

    def end_idle_work(self) -> None:
        """End all calls that give way."""
        self._thread.end_idle_work()

    async def drain(self, grace_s: float) -> None:
        """Take no new calls, and wait for the streams to end, but no longer than this."""
        self.draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """End the engine's thread."""
        self._thread.close()
