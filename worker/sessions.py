"""Sessions: whose tokens this worker holds, and in which slots of the engine.

The controller owns every sequence. A session here is a copy that may be forgotten at any time; what a call then finds
missing is asked for again. Apart from opening, everything in this module happens on the engine's thread.
"""

import time
from collections.abc import Callable, Iterable

from speculation.errors import CapacityError, InvalidRequestError
from speculation.prefix import EMPTY_PREFIX, Context, extend_hash
from speculation.tree import ROOT
from worker.batching import Result, Steps
from worker.engine import Chunk, Engine
from worker.prefix_cache import CacheUse, Prefix, RetainedPrefixes
from worker.sampling import Sampler
from worker.slots import NoFreeSlotError, Slots
from worker.surprisal import PromptSurprisal

SLICE = 256
"""Most tokens run in one step, so that a long prompt delays the other sessions by no more than this."""

CPU_SLICE = 128
"""The same on a CPU: there a token costs hardly more than in larger slices, and the others wait half as long."""

BACKGROUND_SLICE = 32
"""The same where nobody waits: a request that comes meanwhile does so for one such step at most."""


class ContextNotHeldError(Exception):
    """Expected: the call builds on tokens that this worker does not hold. Send all after held_length and repeat."""

    def __init__(self, held_length: int) -> None:
        super().__init__(f"only {held_length} tokens are held")
        self.held_length = held_length


class Session:
    """The tokens of one stream, and how its request wants tokens chosen.

    Attributes:
        token_ids: Prompt and answer so far, as the last call gave them.
        surprisal: Gathers the prompt's surprisal while it is read; None where nobody asks for it.
        background: Nobody waits for it: it gives way to all sessions for which that is not so.
        salt: It shares what is computed for its prompt only with sessions of the same salt.
        whole_slice: Tokens of the slices that can be shared.
    """

    def __init__(
        self, sampler: Sampler, surprisal: PromptSurprisal | None = None, *, background: bool = False, salt: str = ""
    ) -> None:
        self.sampler, self.surprisal = sampler, surprisal
        self.background, self.salt = background, salt
        self.token_ids: list[int] = []
        self.whole_slice = CPU_SLICE if sampler.device.type == "cpu" else SLICE
        self._slot: int | None = None
        self._num_sliced = 0
        self._hashes = [EMPTY_PREFIX]

    @property
    def slice_size(self) -> int:
        """Most tokens run in one step."""
        return BACKGROUND_SLICE if self.background else self.whole_slice

    @property
    def has_slot(self) -> bool:
        """Whether keys and values of some of the tokens may be held."""
        return self._slot is not None

    @property
    def slot(self) -> int:
        """Where they are; only a session that has a slot may be asked."""
        if self._slot is None:
            raise RuntimeError("the session has no slot")
        return self._slot

    def move(self, slot: int | None, *, num_sliced: int = 0) -> None:
        """Be told where keys and values are from now on, and how many come from whole slices; None for nowhere."""
        self._slot, self._num_sliced = slot, num_sliced

    @property
    def prefix_hash(self) -> int:
        """Of all its tokens."""
        return self._hashes[-1]

    @property
    def prefix(self) -> Prefix:
        """What other sessions may take over; only a session that has a slot may be asked."""
        return Prefix(slot=self.slot, salt=self.salt, token_ids=self.token_ids[: self._num_sliced])

    @property
    def prefix_when_read(self) -> Prefix:
        """The same once all tokens have been read."""
        return Prefix(slot=self.slot, salt=self.salt, token_ids=self.token_ids)

    @property
    def reusable(self) -> list[int]:
        """The tokens to be taken over if they can be: neither the last one nor where a surprisal is heard."""
        end = len(self.token_ids) - 1
        if self.surprisal is not None and self.surprisal.pending:
            end = min(end, self.surprisal.first_position)
        return self.token_ids[:end]

    def sliced(self, start: int, stop: int) -> None:
        """Be told that these tokens were computed in one step."""
        if start == self._num_sliced and stop - start == self.whole_slice:
            self._num_sliced = stop

    def lose_from(self, length: int) -> None:
        """Be told that keys and values from this place on are no longer held."""
        self._num_sliced = min(self._num_sliced, length // self.whole_slice * self.whole_slice)

    def take(self, context: Context) -> int:
        """Make token_ids what the context says.

        Returns:
            How many tokens at the beginning are as before.

        Raises:
            ContextNotHeldError: The tokens before the context are not all held, or are others.
        """
        if context.base_length > len(self.token_ids):
            raise ContextNotHeldError(len(self.token_ids))
        if self._hashes[context.base_length] != context.prefix_hash:
            self.forget()
            raise ContextNotHeldError(0)
        kept = context.base_length
        for held, given in zip(self.token_ids[context.base_length :], context.token_ids, strict=False):
            if held != given:
                break
            kept += 1
        self._cut(kept)
        self.append(context.token_ids[kept - context.base_length :])
        return kept

    def append(self, token_ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        for token in token_ids:
            self.token_ids.append(token)
            self._hashes.append(extend_hash(self._hashes[-1], (token,)))

    def forget(self) -> None:
        """Hold nothing any more; the slot is not touched."""
        self._cut(0)

    def _cut(self, length: int) -> None:
        del self.token_ids[length:], self._hashes[length + 1 :]
        self.lose_from(length)
        if self.surprisal is not None:
            self.surprisal.forget_from(length)


class SessionTable:
    """Which sessions have slots, and which prefixes those have that are left.

    A session that needs a slot takes a free one, else that of the retained prefix used longest ago, else that of a
    session without a running call: those for which nobody waits before all others, and then the longest idle first.

    Args:
        engine: Whose slots they are.
        max_length: Tokens a session may hold.
        least_idle_s: Seconds that a session for which somebody waits keeps its slot after a call. Where more sessions
            go on than there are slots, each would otherwise find its slot lost in every round.
        now: A clock, in seconds.

    Attributes:
        use: How the cache is used; may be read on any thread.
    """

    def __init__(
        self, engine: Slots, *, max_length: int, least_idle_s: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._max_length = engine, max_length
        self._least_idle_s, self._now = least_idle_s, now
        self._placed: dict[Session, None] = {}
        self._idle_since: dict[Session, float] = {}
        self._retained = RetainedPrefixes(engine)
        self._looked_up = self._reused = self._evicted = 0
        self._account()

    @property
    def num_spare(self) -> int:
        """Slots that no open session has."""
        return self._engine.num_free + len(self._retained)

    def call(self, session: Session, context: Context, steps: Steps[Result]) -> Steps[Result]:
        """Run the steps of one call with the context taken and a slot held.

        What they forward and do not commit stays in the slot's scratch, however they end: drafted tokens often come
        true, and the next call then need not read them.

        Raises:
            ContextNotHeldError: See `Session.take`.
            InvalidRequestError: The context is empty, or too long.
            CapacityError: It can be done in the background, and then another session might lack the slot.
        """
        self._check(context)
        unchanged = session.take(context)
        if not session.has_slot:
            yield from self._claim(session)
            unchanged = len(session.token_ids)  # whatever the slot holds is of these tokens
        self._idle_since.pop(session, None)
        try:
            self._fit_cache(session, unchanged)
            return (yield from steps)
        finally:
            self._idle_since[session] = self._now()
            self._account()

    def close(self, session: Session) -> None:
        """Free the session's slot, if it has one, or retain what others may need of it."""
        self._idle_since.pop(session, None)
        if session.has_slot:
            prefix = session.prefix
            self._displace(session)
            if prefix.token_ids:
                self._retained.retain(prefix)
            else:
                self._engine.close(prefix.slot)
            self._account()

    def _check(self, context: Context) -> None:
        length = context.base_length + len(context.token_ids)
        if not 0 < length <= self._max_length:
            raise InvalidRequestError("context", f"{length} tokens; 1 to {self._max_length} can be held")

    def _claim(self, session: Session) -> Steps[None]:
        """Get the session a slot, as soon as there is one."""
        if session.background and self.num_spare < 2:
            raise CapacityError("there is no slot to spare")
        while self._is_read_by_another(session) or not (self.num_spare or self._next_to_go() is not None):
            yield None  # where all that have slots go on, wait until one has ended, or been idle for long enough
        self._place(session)

    def _is_read_by_another(self, session: Session) -> bool:
        """Whether another session is just reading more of the same first tokens than can be taken over now."""
        _, shared = self._longest_shared(session)
        wanted = session.reusable
        return any(
            other.prefix_when_read.num_shared(wanted, slice_size=session.whole_slice) > shared
            for other in self._placed
            if other.salt == session.salt
            and not (other.background or other in self._idle_since)
            and self._engine.length(other.slot) == len(other.prefix.token_ids)
        )

    def _place(self, session: Session) -> None:
        """Give the session a slot, and what others have computed of its tokens."""
        source, shared = self._longest_shared(session)
        slot = self._vacate()
        self._engine.truncate(slot, shared if slot == source else 0)
        if shared and slot != source:
            self._engine.copy(source, slot, shared)
        session.move(slot, num_sliced=0 if session.background else shared)
        self._placed[session] = None
        self._looked_up += len(session.token_ids)
        self._reused += shared

    def _longest_shared(self, session: Session) -> tuple[int, int]:
        """The slot that holds most of the session's first tokens, and how many."""
        wanted = session.reusable
        prefixes = [*self._retained, *(other.prefix for other in self._placed)]
        found = [
            (prefix.num_shared(wanted, slice_size=session.whole_slice), prefix.slot)
            for prefix in prefixes
            if prefix.salt == session.salt
        ]
        shared, slot = max(found, default=(0, -1))
        self._retained.use(slot)
        return slot, shared

    def _vacate(self) -> int:
        """A slot for another session, reserved, with whatever it held."""
        if self._engine.num_free:
            return self._engine.open()
        if len(self._retained):
            return self._retained.give_up()
        session = self._next_to_go()
        if session is None:
            raise NoFreeSlotError("all slots are in use")
        slot = session.slot
        self._displace(session)
        session.forget()
        self._evicted += 1
        return slot

    def _next_to_go(self) -> Session | None:
        """The session that makes room, if one must."""
        enough = self._now() - self._least_idle_s
        idle = (session for session, since in self._idle_since.items() if session.background or since <= enough)
        return min(idle, key=lambda session: not session.background, default=None)

    def _displace(self, session: Session) -> None:
        del self._placed[session]
        self._idle_since.pop(session, None)
        session.move(None)

    def _account(self) -> None:
        self.use = CacheUse(
            bytes=self._engine.cache_bytes,
            capacity_tokens=self._engine.cache_tokens,
            session_tokens=sum(self._engine.length(session.slot) for session in self._placed),
            retained_tokens=sum(len(prefix.token_ids) for prefix in self._retained),
            looked_up_tokens=self._looked_up,
            reused_tokens=self._reused,
            evicted_sessions=self._evicted,
        )

    def _fit_cache(self, session: Session, unchanged: int) -> None:
        """Keep of the cache what agrees with the session's tokens, all but the last: its logits are always needed."""
        slot, wanted = session.slot, len(session.token_ids) - 1
        committed = self._engine.length(slot)
        if committed <= min(unchanged, wanted):
            # Part of a prompt that a call left here was not counted for its surprisal: read it again.
            counted = session.surprisal is None or not session.surprisal.pending
            known = self._engine.scratch(slot) if counted else []
            self._engine.commit(slot, _path(known, session.token_ids[committed:wanted]))
        else:
            self._engine.truncate(slot, max(0, min(unchanged, wanted)))
            session.lose_from(max(0, min(unchanged, wanted)))


def _path(scratch: list[tuple[int, int]], token_ids: Iterable[int]) -> list[int]:
    """Indices of the scratch nodes that spell the tokens, as far as they go."""
    path = [ROOT]
    for token in token_ids:
        node = next((node for node, spelt in enumerate(scratch) if spelt == (token, path[-1])), None)
        if node is None:
            break
        path.append(node)
    return path[1:]


def read(engine: Engine, session: Session, end: int) -> Steps[None]:
    """Bring the cache to `end` tokens, a slice a step."""
    while (start := engine.length(session.slot)) < end:
        stop = min(end, start + session.slice_size)
        wanted = session.surprisal.wanted(start, stop) if session.surprisal is not None else []
        token_ids = session.token_ids[start:stop]
        logits = yield Chunk(slot=session.slot, token_ids=token_ids, wanted=[position - start for position in wanted])
        if session.surprisal is not None:
            session.surprisal.add(wanted, logits, session.token_ids)
        engine.commit(session.slot)
        session.sliced(start, stop)


def read_all(engine: Engine, session: Session) -> Steps[int]:
    """Read all but the last token, whose logits a later step will want; returns how many tokens the session holds."""
    yield from read(engine, session, len(session.token_ids) - 1)
    return len(session.token_ids)


def read_to_tail(engine: Engine, session: Session) -> Steps[list[int]]:
    """Read until what is left fits into one step, and return that: at least the last token."""
    length = len(session.token_ids)
    in_whole_slices = (length - engine.length(session.slot) - 1) // session.slice_size * session.slice_size
    if session.surprisal is not None and session.surprisal.pending:
        yield from read(engine, session, length - 1)
    else:
        yield from read(engine, session, engine.length(session.slot) + in_whole_slices)
    return session.token_ids[engine.length(session.slot) :]
