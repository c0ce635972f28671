"""What one session computed of a prompt serves the next one, and nothing but time can tell."""

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from speculation.tree import EMPTY_TREE, chain
from speculation.verdict import Verdict
from tests.architectures import VOCAB_SIZE
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    SAMPLINGS,
    context_of,
    new_sampler,
    reference_scores,
    tiny_engine,
    work,
)
from worker import sessions, surprisal
from worker.engine import Engine
from worker.sessions import Session, SessionTable, read_all
from worker.surprisal import PromptSurprisal
from worker.verification import verify

SLICE = 16

SYSTEM = tuple(index * 7 % VOCAB_SIZE for index in range(50))
"""Three whole slices, and two tokens."""

FIRST, SECOND = (*SYSTEM, *range(60, 100)), (*SYSTEM, *range(120, 150))


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", SLICE)


def worker(slots: int) -> tuple[Engine, SessionTable]:
    engine = tiny_engine(slots=slots)
    return engine, SessionTable(engine, max_length=MAX_LENGTH)


def target_session(prompt: Sequence[int], *, salt: str = "", background: bool = False) -> Session:
    sampler = new_sampler(SAMPLINGS["everything"], prompt_length=len(prompt))
    return Session(sampler, salt=salt, background=background)


def judged(engine: Engine, table: SessionTable, session: Session, tokens: Sequence[int]) -> Verdict:
    """The target's verdict on a short draft after the tokens, all but the last of which are read before."""
    if len(tokens) > 1:
        work(engine, table.call(session, context_of(tokens[:-1]), read_all(engine, session)))
    return work(engine, table.call(session, context_of(tokens), verify(engine, session, chain([1, 2]))))


def rows(engine: Engine, slot: int) -> list[Tensor]:
    """All keys and values of the tokens that a slot holds."""
    first = slot * engine.max_length
    return [group[:, first : first + engine.length(slot)].clone() for group in engine._pool._groups]


def alone(prompt: Sequence[int]) -> tuple[Verdict, list[Tensor]]:
    """The verdict and the rows of a worker that has never read anything else."""
    engine, table = worker(slots=1)
    session = target_session(prompt)
    return judged(engine, table, session, prompt), rows(engine, session.slot)


@pytest.mark.parametrize(
    ("slots", "ended"),
    [
        pytest.param(1, True, id="its slot is taken over"),
        pytest.param(2, True, id="its rows are copied"),
        pytest.param(2, False, id="it is still open"),
    ],
)
def test_what_an_earlier_session_computed_is_used_and_not_one_bit_differs(slots: int, ended: bool) -> None:
    engine, table = worker(slots)
    earlier, later = target_session(FIRST), target_session(SECOND)
    judged(engine, table, earlier, FIRST)
    if ended:
        table.close(earlier)

    verdict = judged(engine, table, later, SECOND)

    expected, expected_rows = alone(SECOND)
    assert table.use.reused_tokens == 3 * SLICE
    assert verdict == expected
    assert all(map(torch.equal, rows(engine, later.slot), expected_rows))


def test_the_last_token_is_always_computed() -> None:
    """Its logits are wanted, although its keys and values are there."""
    engine, table = worker(slots=2)
    judged(engine, table, target_session(FIRST), FIRST)
    prompt = FIRST[: 3 * SLICE]
    session = target_session(prompt)

    verdict = work(engine, table.call(session, context_of(prompt), verify(engine, session, chain([1, 2]))))

    assert table.use.reused_tokens == 2 * SLICE
    lonely, rival = worker(slots=1)
    session = target_session(prompt)
    assert verdict == work(lonely, rival.call(session, context_of(prompt), verify(lonely, session, chain([1, 2]))))


def test_a_last_token_that_a_round_computed_anew_is_no_longer_used() -> None:
    engine, table = worker(slots=1)
    session, later = target_session(FIRST), target_session(FIRST)
    judged(engine, table, session, FIRST)
    work(engine, table.call(session, context_of(FIRST[: 3 * SLICE]), verify(engine, session, chain([1, 2]))))
    table.close(session)

    verdict = judged(engine, table, later, FIRST)

    assert table.use.reused_tokens == 2 * SLICE
    assert verdict == alone(FIRST)[0]


def test_only_what_was_computed_in_slices_is_used() -> None:
    """What rounds have committed was computed beside trees."""
    engine, table = worker(slots=1)
    session, text = target_session(SYSTEM[: SLICE + 4]), list(SYSTEM[: SLICE + 4])
    while len(text) < 3 * SLICE:
        text += judged(engine, table, session, text).token_ids
    table.close(session)

    later = target_session(text)
    verdict = judged(engine, table, later, text)

    assert table.use.reused_tokens == SLICE
    assert verdict == alone(text)[0]


def test_a_prompt_that_is_cut_and_told_anew_leaves_no_more_than_was_kept() -> None:
    engine, table = worker(slots=1)
    session = target_session(FIRST)
    judged(engine, table, session, FIRST)
    judged(engine, table, session, SECOND[: SLICE + 2])
    table.close(session)

    judged(engine, table, target_session(FIRST), FIRST)

    assert table.use.reused_tokens == SLICE


def test_salts_keep_sessions_apart() -> None:
    engine, table = worker(slots=4)
    for salt in ("ours", "theirs", ""):
        judged(engine, table, target_session(FIRST, salt=salt), FIRST)
    assert table.use.reused_tokens == 0

    judged(engine, table, target_session(FIRST, salt="ours"), FIRST)
    assert table.use.reused_tokens == 5 * SLICE


def test_a_background_session_uses_what_is_there_and_leaves_nothing() -> None:
    engine, table = worker(slots=2)
    for _ in range(2):
        session = target_session(FIRST, background=True)
        work(engine, table.call(session, context_of(FIRST), read_all(engine, session)))
        table.close(session)
    assert table.use.reused_tokens == table.use.retained_tokens == 0

    earlier = target_session(FIRST)
    judged(engine, table, earlier, FIRST)
    table.close(earlier)
    session = target_session(FIRST, background=True)
    work(engine, table.call(session, context_of(FIRST), read_all(engine, session)))

    assert table.use.reused_tokens == 5 * SLICE


@pytest.mark.parametrize("window", [5, 20, 256])
def test_the_surprisal_is_the_same_to_the_last_bit(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surprisal, "WINDOW", window)
    engine, table = worker(slots=2)
    told = []
    for prompt in (SECOND, FIRST, SECOND):
        session = Session(new_sampler(SAMPLINGS["greedy"]), PromptSurprisal(len(prompt)))
        work(engine, table.call(session, context_of(prompt), read_all(engine, session)))
        assert session.surprisal is not None
        told.append(session.surprisal.value)
        table.close(session)

    assert told[0] == told[2] is not None
    assert (table.use.reused_tokens > 0) == (window < 256)


def test_retained_prefixes_make_room_before_open_sessions_and_least_recently_used_first() -> None:
    engine, table = worker(slots=3)
    prompts = [tuple((start + index * 3) % VOCAB_SIZE for index in range(2 * SLICE + 1)) for start in range(4)]

    def read(prompt: Sequence[int]) -> Session:
        session = target_session(prompt)
        work(engine, table.call(session, context_of(prompt), read_all(engine, session)))
        return session

    staying = read(prompts[0])
    table.close(read(prompts[1]))
    table.close(read(prompts[2]))
    table.close(read(prompts[1]))  # used again, so that the other one goes first
    table.close(read(prompts[3]))

    assert staying.has_slot
    before = table.use
    table.close(read(prompts[1]))
    assert table.use.reused_tokens == before.reused_tokens + 2 * SLICE
    table.close(read(prompts[2]))
    assert table.use.reused_tokens == before.reused_tokens + 2 * SLICE
    assert (table.use.evicted_sessions, staying.has_slot) == (0, True)


def test_of_two_prefixes_of_which_one_begins_with_the_other_the_longer_is_retained() -> None:
    engine, table = worker(slots=3)
    for prompt in (SYSTEM, FIRST, SYSTEM):
        session = target_session(prompt)
        judged(engine, table, session, prompt)
        table.close(session)

    assert table.use.retained_tokens == 5 * SLICE
    assert engine.num_free == 2


def test_the_use_of_the_cache_adds_up() -> None:
    engine, table = worker(slots=2)
    first, second, third = target_session(FIRST), target_session(SECOND), target_session(SYSTEM)
    judged(engine, table, first, FIRST)
    table.close(first)
    judged(engine, table, second, SECOND)

    use = table.use
    assert use.bytes == sum(group.nbytes for group in engine._pool._groups)
    assert use.capacity_tokens == 2 * engine.max_length
    assert use.session_tokens == engine.length(second.slot)
    assert use.retained_tokens == 5 * SLICE
    assert use.looked_up_tokens == len(FIRST) + len(SECOND) - 2  # told without the last token first
    assert use.reused_tokens == 3 * SLICE

    judged(engine, table, first, FIRST)  # the retained prefix goes, and then the session idle for longest
    judged(engine, table, third, SYSTEM)
    assert table.use.evicted_sessions == 1
    assert not second.has_slot


def test_a_prompt_that_another_session_is_reading_waits_for_it_and_is_read_if_that_one_leaves() -> None:
    engine, table = worker(slots=2)
    first, second = target_session(FIRST), target_session(SECOND)
    reading = table.call(first, context_of(FIRST), read_all(engine, first))
    waiting = table.call(second, context_of(SECOND), read_all(engine, second))

    chunk = next(reading)
    assert chunk is not None
    assert next(waiting) is None
    (logits,) = engine.forward([chunk])
    reading.send(logits)
    assert next(waiting) is None
    reading.close()

    chunk = next(waiting)
    assert chunk is not None
    assert list(chunk.token_ids) == list(SECOND[SLICE : 2 * SLICE])
    waiting.close()


def test_nobody_waits_for_what_is_read_in_the_background_or_by_others() -> None:
    engine, table = worker(slots=3)
    at_once = [target_session(FIRST, salt="theirs"), target_session(FIRST, background=True), target_session(FIRST)]
    reading = [table.call(session, context_of(FIRST), read_all(engine, session)) for session in at_once]

    assert all(next(steps) is not None for steps in reading)


def random_prompts(rng: random.Random) -> Iterator[list[int]]:
    """Prompts that often begin alike."""
    known: list[list[int]] = [list(SYSTEM)]
    while True:
        begun = rng.choice(known)
        kept = rng.randrange(SLICE, len(begun) + 1)
        prompt = [*begun[:kept], *(rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(40)))]
        if len(prompt) < MAX_LENGTH - 20:
            known.append(prompt)
            yield prompt


@pytest.mark.parametrize("seed", range(3))
def test_whatever_was_opened_read_closed_and_evicted_the_next_token_is_the_models(seed: int) -> None:
    rng = random.Random(seed)
    engine, table = worker(slots=3)
    prompts, open_sessions = random_prompts(rng), list[tuple[Session, int, list[int]]]()
    for _ in range(60):
        if not open_sessions or (len(open_sessions) < 5 and rng.random() < 0.4):
            prompt = next(prompts)
            open_sessions.append((target_session(prompt, salt=rng.choice("aab")), len(prompt), list(prompt)))
        place = rng.randrange(len(open_sessions))
        session, prompt_length, tokens = open_sessions[place]
        if rng.random() < 0.2:
            table.close(session)
            del open_sessions[place]
            continue
        if rng.random() < 0.5:
            work(engine, table.call(session, context_of(tokens), read_all(engine, session)))
            continue
        expected = int(reference_scores(SAMPLINGS["everything"], tokens, prompt_length).argmax())
        verdict = work(engine, table.call(session, context_of(tokens), verify(engine, session, EMPTY_TREE)))
        assert verdict.token_ids == (expected,)
        tokens += verdict.token_ids

    assert table.use.reused_tokens > 0
    assert table.use.evicted_sessions > 0
