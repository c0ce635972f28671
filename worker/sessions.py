"""Sessions: whose tokens this worker holds, and in which slots of the engine.

The controller owns every sequence. A session here is a copy that may be forgotten at any time; what a call then finds
missing is asked for again. Apart from opening, everything in this module happens on the engine's thread.
"""

from collections.abc import Iterable

from speculation.errors import CapacityError, InvalidRequestError
from speculation.prefix import EMPTY_PREFIX, Context, extend_hash
from speculation.tree import ROOT
from worker.batching import Result, Steps
from worker.engine import Chunk, Engine
from worker.sampling import Sampler
from worker.slots import NoFreeSlotError, Slots
from worker.surprisal import PromptSurprisal

SLICE = 256
"""Most tokens run in one step, so that a long prompt delays the other sessions by no more than this."""

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
    """

    def __init__(self, sampler: Sampler, surprisal: PromptSurprisal | None = None, *, background: bool = False) -> None:
        self.sampler, self.surprisal = sampler, surprisal
        self.background = background
        self.token_ids: list[int] = []
        self._slot: int | None = None
        self._hashes = [EMPTY_PREFIX]

    @property
    def slice_size(self) -> int:
        """Most tokens run in one step."""
        return BACKGROUND_SLICE if self.background else SLICE

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

    def move(self, slot: int | None) -> None:
        """Be told where keys and values are from now on; None for nowhere."""
        self._slot = slot

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
        if self.surprisal is not None:
            self.surprisal.forget_from(length)


class SessionTable:
    """Which sessions have slots. One without a running call loses its slot when others need it: those for which nobody
    waits before all others, and then the longest idle first.

    Args:
        engine: Whose slots they are.
        max_length: Tokens a session may hold.
    """

    def __init__(self, engine: Slots, *, max_length: int) -> None:
        self._engine, self._max_length = engine, max_length
        self._idle: dict[Session, None] = {}

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
        yield from self._claim(session)
        try:
            self._fit_cache(session, unchanged)
            return (yield from steps)
        finally:
            self._idle[session] = None

    def close(self, session: Session) -> None:
        """Free the session's slot, if it has one."""
        self._idle.pop(session, None)
        if session.has_slot:
            self._engine.close(session.slot)
            session.move(None)

    def _check(self, context: Context) -> None:
        length = context.base_length + len(context.token_ids)
        if not 0 < length <= self._max_length:
            raise InvalidRequestError("context", f"{length} tokens; 1 to {self._max_length} can be held")

    def _claim(self, session: Session) -> Steps[None]:
        if session.background and not session.has_slot and self._engine.num_free < 2:
            raise CapacityError("there is no slot to spare")
        while not session.has_slot:
            try:
                session.move(self._engine.open())
            except NoFreeSlotError:
                if self._idle:
                    self._evict(min(self._idle, key=lambda idle: not idle.background))
                else:  # every slot has a running call: wait for one to end
                    yield None
        self._idle.pop(session, None)

    def _evict(self, session: Session) -> None:
        self.close(session)
        session.forget()

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
