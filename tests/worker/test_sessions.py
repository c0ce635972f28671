"""Sessions: a worker holds copies, says what it misses, and shares its slots fairly."""

import random
from collections.abc import Sequence

import pytest

from speculation.errors import CapacityError, InvalidRequestError
from speculation.prefix import Context
from speculation.tree import EMPTY_TREE, chain
from tests.architectures import VOCAB_SIZE
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_sampler,
    new_session,
    reference_scores,
    reference_text,
    tiny_engine,
    work,
)
from worker import sessions
from worker.engine import Engine
from worker.sessions import ContextNotHeldError, Session, SessionTable, read_all
from worker.verification import verify


@pytest.fixture
def engine() -> Engine:
    return tiny_engine(slots=2)


@pytest.fixture
def table(engine: Engine) -> SessionTable:
    return SessionTable(engine, max_length=MAX_LENGTH)


def extend(engine: Engine, table: SessionTable, session: Session, context: Context) -> int:
    """Give the session its context; the length it holds then."""
    return work(engine, table.call(session, context, read_all(engine, session)))


def next_token(engine: Engine, table: SessionTable, session: Session, context: Context) -> int:
    """What the target emits after the context."""
    return work(engine, table.call(session, context, verify(engine, session, EMPTY_TREE))).token_ids[0]


def test_a_context_that_builds_on_what_is_held_is_taken(engine: Engine, table: SessionTable) -> None:
    session = new_session()

    assert extend(engine, table, session, context_of(PROMPT[:4])) == 4
    assert extend(engine, table, session, context_of(PROMPT, 4)) == len(PROMPT)
    assert session.token_ids == list(PROMPT)


def test_a_context_beyond_what_is_held_is_asked_for(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    extend(engine, table, session, context_of(PROMPT[:4]))

    with pytest.raises(ContextNotHeldError) as missing:
        extend(engine, table, session, context_of(PROMPT, 6))

    assert missing.value.held_length == 4
    assert extend(engine, table, session, context_of(PROMPT, 4)) == len(PROMPT)


def test_a_context_upon_other_tokens_makes_the_session_forget(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    extend(engine, table, session, context_of(PROMPT[:4]))

    with pytest.raises(ContextNotHeldError) as missing:
        extend(engine, table, session, context_of((1, *PROMPT[1:]), 4))

    assert missing.value.held_length == 0
    assert extend(engine, table, session, context_of((1, *PROMPT[1:]))) == len(PROMPT)


def test_a_shorter_context_cuts_the_session(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    extend(engine, table, session, context_of(PROMPT))

    assert extend(engine, table, session, context_of((*PROMPT[:3], 1, 2), 3)) == 5
    assert session.token_ids == [*PROMPT[:3], 1, 2]


@pytest.mark.parametrize("length", [0, MAX_LENGTH + 1])
def test_a_context_of_impossible_length_is_refused(engine: Engine, table: SessionTable, length: int) -> None:
    with pytest.raises(InvalidRequestError):
        extend(engine, table, new_session(), context_of([1] * length))


def test_whatever_was_asked_before_the_next_token_is_that_of_a_new_session(engine: Engine) -> None:
    """Random cuts, extensions, repeats and rivals for the slots leave no trace in the answer."""
    rng, table = random.Random(1), SessionTable(engine, max_length=MAX_LENGTH)
    sampling = SAMPLINGS["everything"]
    ours, rivals = new_session(sampling, prompt_length=3), [new_session() for _ in range(2)]
    for _ in range(60):
        held = ours.token_ids
        tokens = [*held[: rng.randrange(len(held) + 1)], *(rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(4)))]
        base_length = rng.randrange(min(len(held), len(tokens)) + 1)
        if not tokens or held[:base_length] != tokens[:base_length]:
            continue
        expected = int(reference_scores(sampling, tokens, 3).argmax())

        assert next_token(engine, table, ours, context_of(tokens, base_length)) == expected
        if rng.random() < 0.3:
            for rival in rivals:
                next_token(engine, table, rival, context_of(PROMPT))


def test_the_longest_idle_session_makes_room(engine: Engine, table: SessionTable) -> None:
    first, second, third = (new_session() for _ in range(3))
    for session in (first, second, first, third):
        extend(engine, table, session, context_of(PROMPT))

    assert [session.has_slot for session in (first, second, third)] == [True, False, True]
    assert second.token_ids == []


def test_an_evicted_session_asks_for_its_context_and_goes_on_with_the_same_text(
    engine: Engine, table: SessionTable
) -> None:
    sampling = SAMPLINGS["everything"]
    text = reference_text(sampling, 8)
    session, rivals = new_session(sampling), [new_session() for _ in range(2)]
    steps = table.call(session, context_of(PROMPT), verify(engine, session, chain(text[:3])))
    token_ids = [*PROMPT, *work(engine, steps).token_ids]
    for rival in rivals:
        extend(engine, table, rival, context_of(PROMPT))

    with pytest.raises(ContextNotHeldError) as missing:
        next_token(engine, table, session, context_of(token_ids, len(token_ids)))
    assert missing.value.held_length == 0

    steps = table.call(session, context_of(token_ids), verify(engine, session, chain(text[4:7])))
    assert [*token_ids, *work(engine, steps).token_ids] == [*PROMPT, *text]


def test_a_session_in_the_background_takes_no_slot_that_another_one_may_need(
    engine: Engine, table: SessionTable
) -> None:
    extend(engine, table, new_session(), context_of(PROMPT))

    with pytest.raises(CapacityError):
        extend(engine, table, new_session(background=True), context_of(PROMPT))


def test_a_session_in_the_background_is_the_first_to_make_room(engine: Engine, table: SessionTable) -> None:
    first, second = new_session(), new_session()
    behind = new_session(background=True)
    for session in (behind, first, behind, second):
        extend(engine, table, session, context_of(PROMPT))

    assert [session.has_slot for session in (behind, first, second)] == [False, True, True]


def test_a_session_that_goes_on_keeps_its_slot_and_others_wait_until_one_is_idle_for_long_enough(
    engine: Engine,
) -> None:
    time_s = 0.0
    table = SessionTable(engine, max_length=MAX_LENGTH, least_idle_s=5.0, now=lambda: time_s)
    first, second, waiting = (new_session() for _ in range(3))
    extend(engine, table, first, context_of(PROMPT))
    time_s = 3.0
    extend(engine, table, second, context_of(PROMPT))
    steps = table.call(waiting, context_of(PROMPT), read_all(engine, waiting))

    time_s = 4.9
    assert next(steps) is None
    extend(engine, table, first, context_of(PROMPT))
    time_s = 7.9
    assert next(steps) is None
    time_s = 8.0
    assert next(steps) is not None
    assert [session.has_slot for session in (first, second, waiting)] == [True, False, True]
    steps.close()


def test_a_session_in_the_background_makes_room_at_once(engine: Engine) -> None:
    table = SessionTable(engine, max_length=MAX_LENGTH, least_idle_s=5.0)
    first, behind, second = new_session(), new_session(background=True), new_session()
    for session in (behind, first, second):
        extend(engine, table, session, context_of(PROMPT))

    assert [session.has_slot for session in (first, behind, second)] == [True, False, True]


def test_a_session_with_a_running_call_keeps_its_slot_and_others_wait(engine: Engine, table: SessionTable) -> None:
    pinned = [new_session(), new_session()]
    running = [table.call(session, context_of(PROMPT), verify(engine, session, EMPTY_TREE)) for session in pinned]
    chunks = [next(steps) for steps in running]
    waiting = new_session()
    steps = table.call(waiting, context_of(PROMPT), verify(engine, waiting, EMPTY_TREE))

    assert None not in chunks
    assert next(steps) is None
    assert next(steps) is None
    running[0].close()
    assert next(steps) is not None
    for job in (*running, steps):
        job.close()


def test_a_call_given_up_leaves_the_session_as_good_as_new(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    steps = table.call(session, context_of(PROMPT), verify(engine, session, chain([1, 2, 3])))
    chunk = next(steps)
    assert chunk is not None
    engine.forward([chunk])  # the forward was under way when the caller left

    steps.close()

    assert next_token(engine, table, session, context_of(PROMPT)) == reference_text(SAMPLINGS["greedy"], 1)[0]


def test_a_closed_session_frees_its_slot(engine: Engine, table: SessionTable) -> None:
    for _ in range(5):
        session = new_session()
        extend(engine, table, session, context_of(PROMPT))
        table.close(session)

    assert [engine.open() for _ in range(2)]


def test_a_long_context_is_read_in_slices(engine: Engine, table: SessionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", 16)
    prompt = [index % VOCAB_SIZE for index in range(0, 7 * 50, 7)]
    sizes: list[int] = []

    def forward(chunks: Sequence[sessions.Chunk]) -> list[object]:
        sizes.extend(len(chunk.token_ids) for chunk in chunks)
        return plain_forward(chunks)

    plain_forward = engine.forward
    monkeypatch.setattr(engine, "forward", forward)
    session = Session(new_sampler(SAMPLINGS["greedy"], prompt_length=len(prompt)))
    token = next_token(engine, table, session, context_of(prompt))

    assert sizes == [16, 16, 16, 2]
    assert token == reference_text(SAMPLINGS["greedy"], 1, prompt)[0]
