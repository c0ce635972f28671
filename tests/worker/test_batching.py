"""The engine's thread: jobs share forwards, never fates."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from speculation.errors import CapacityError, DrainingError, InvalidRequestError
from speculation.tree import EMPTY_TREE
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_sampler,
    new_session,
    reference_text,
    run,
    tiny_engine,
)
from worker import batching, sessions
from worker.batching import EngineThread, GaveWayError, SpareProcessor, Steps
from worker.engine import Chunk, Engine
from worker.sessions import Session, SessionTable, read_all
from worker.verification import verify


@pytest.fixture
def engine() -> Engine:
    return tiny_engine(slots=8)


@pytest.fixture
def thread(engine: Engine) -> Iterator[EngineThread]:
    thread = EngineThread(engine, max_jobs=16)
    yield thread
    thread.close()


def reading(engine: Engine, token_ids: list[int], times: int) -> Steps[list[int]]:
    """Run these tokens, that many times, in a slot of its own; the likeliest next token of each time."""
    slot = engine.open()
    try:
        best = []
        for _ in range(times):
            logits = yield Chunk(slot=slot, token_ids=token_ids, wanted=[len(token_ids) - 1])
            best.append(int(logits[0].argmax()))
            engine.commit(slot)
        return best
    finally:
        engine.close(slot)


async def answer(engine: Engine, thread: EngineThread, table: SessionTable, name: str, count: int) -> list[int]:
    """A request served token by token."""
    session = new_session(SAMPLINGS[name])
    token_ids, base_length = list(PROMPT), 0
    while len(token_ids) < len(PROMPT) + count:
        steps = table.call(session, context_of(token_ids, base_length), verify(engine, session, EMPTY_TREE))
        verdict, _ = await thread.run(steps)
        token_ids += verdict.token_ids
        base_length = len(token_ids)
    return token_ids[len(PROMPT) :]


def test_eight_sessions_at_once_give_the_texts_of_each_alone(engine: Engine, thread: EngineThread) -> None:
    names = list(SAMPLINGS)[:8]

    async def together() -> list[list[int]]:
        table = SessionTable(engine, max_length=MAX_LENGTH)
        return await asyncio.gather(*(answer(engine, thread, table, name, 12) for name in names))

    assert run(together()) == [reference_text(SAMPLINGS[name], 12) for name in names]


def test_more_sessions_than_slots_take_turns() -> None:
    engine = tiny_engine(slots=2)
    thread, table = EngineThread(engine), SessionTable(engine, max_length=MAX_LENGTH)

    async def one() -> int:
        session = new_session(SAMPLINGS["everything"])
        verdict, _ = await thread.run(table.call(session, context_of(PROMPT), verify(engine, session, EMPTY_TREE)))
        return verdict.token_ids[0]

    async def together() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(7)))

    assert run(together()) == reference_text(SAMPLINGS["everything"], 1) * 7
    thread.close()


def test_a_call_that_waits_for_an_idle_session_goes_on_though_nothing_else_happens() -> None:
    engine = tiny_engine(slots=1)
    thread, table = EngineThread(engine), SessionTable(engine, max_length=MAX_LENGTH, least_idle_s=0.2)

    async def one_after_the_other() -> list[tuple[int, ...]]:
        told = []
        for _ in range(2):
            session = new_session()
            verdict, _ = await thread.run(table.call(session, context_of(PROMPT), verify(engine, session, EMPTY_TREE)))
            told.append(verdict.token_ids)
        return told

    assert run(one_after_the_other()) == [tuple(reference_text(SAMPLINGS["greedy"], 1))] * 2
    thread.close()


def test_calls_that_wait_for_a_slot_go_on_when_all_that_ran_have_ended() -> None:
    """Nobody orders anything more: the end of the running calls alone must wake those that wait."""
    engine = tiny_engine(slots=2)
    thread, table = EngineThread(engine), SessionTable(engine, max_length=MAX_LENGTH)
    queued = threading.Event()

    async def together() -> int:
        thread.post(lambda: queued.wait(10) and None)
        ours = [new_session() for _ in range(6)]
        calls = [table.call(each, context_of(PROMPT), verify(engine, each, EMPTY_TREE)) for each in ours]
        jobs = [asyncio.create_task(thread.run(call)) for call in calls]
        await asyncio.sleep(0)
        queued.set()
        return len(await asyncio.gather(*jobs))

    assert run(together()) == 6
    thread.close()


def test_a_call_ordered_while_another_begins_is_not_lost(engine: Engine, thread: EngineThread) -> None:
    began, ordered = threading.Event(), threading.Event()

    def slow_to_begin() -> Steps[list[int]]:
        began.set()
        ordered.wait(10)
        return (yield from reading(engine, [1, 2, 3], 1))

    async def overlap() -> int:
        first = asyncio.create_task(thread.run(slow_to_begin()))
        await asyncio.to_thread(began.wait, 10)
        second = asyncio.create_task(thread.run(reading(engine, [4, 5], 1)))
        await asyncio.sleep(0)
        ordered.set()
        return len(await asyncio.gather(first, second))

    assert run(overlap()) == 2


def test_what_waits_when_a_forward_ends_is_the_next_batch(engine: Engine, thread: EngineThread) -> None:
    """The first job holds the thread until the others are queued; nothing waits for a timer."""
    queued = threading.Event()

    async def together() -> list[int]:
        thread.post(lambda: queued.wait(10) and None)
        jobs = [asyncio.create_task(thread.run(reading(engine, [1, 2, 3], 3))) for _ in range(5)]
        await asyncio.sleep(0)
        queued.set()
        return [(await job)[1].batch_size for job in jobs]

    assert run(together()) == [5] * 5


def test_a_job_is_told_how_many_positions_its_forwards_judged(engine: Engine, thread: EngineThread) -> None:
    """What a forward costs is learnt from all that was judged in it, whoever's it was."""
    queued = threading.Event()

    def judging(token_ids: list[int], wanted: list[int] | None) -> Steps[None]:
        slot = engine.open()
        yield Chunk(slot=slot, token_ids=token_ids, wanted=wanted)
        engine.close(slot)

    async def together() -> list[int]:
        thread.post(lambda: queued.wait(10) and None)
        steps = (judging([1], None), judging([1, 2, 3], None), judging([4] * 9, [8]))
        jobs = [asyncio.create_task(thread.run(one)) for one in steps]
        await asyncio.sleep(0)
        queued.set()
        return [(await job)[1].batch_positions for job in jobs]

    assert run(together()) == [1 + 3 + 1] * 3


def test_a_job_is_told_whose_nodes_shared_all_of_its_forwards(engine: Engine, thread: EngineThread) -> None:
    """What drafting takes from those who decode on by themselves is seen on them."""
    queued = threading.Event()

    def running_on() -> Steps[None]:
        slot = engine.open()
        yield Chunk(slot=slot, token_ids=[1])
        for token in range(3):
            yield Chunk(slot=slot, token_ids=[token], in_run=True)
        engine.close(slot)

    def judging(trees: int) -> Steps[None]:
        slot = engine.open()
        for _ in range(trees):
            yield Chunk(slot=slot, token_ids=[1, 2, 3])
        engine.close(slot)

    async def together() -> list[tuple[int, int]]:
        thread.post(lambda: queued.wait(10) and None)
        jobs = [asyncio.create_task(thread.run(one)) for one in (running_on(), judging(2), judging(1))]
        await asyncio.sleep(0)
        queued.set()
        timings = [(await job)[1] for job in jobs]
        return [(one.nodes_beside, one.trees_beside) for one in timings]

    assert run(together()) == [(3 * 2, 3), (2, 1), (2, 1)]


def test_with_whom_a_run_is_shared_says_nothing_of_the_judgement(engine: Engine, thread: EngineThread) -> None:
    def running_on(others: list[Callable[[], None]]) -> Steps[None]:
        slot = engine.open()
        yield Chunk(slot=slot, token_ids=[1])
        for begin in others:
            begin()
        while thread.num_jobs < 1 + len(others):
            yield None
        for token in range(20):
            yield Chunk(slot=slot, token_ids=[token], in_run=True)
        engine.close(slot)

    async def together() -> tuple[Any, Any]:
        loop, begun = asyncio.get_running_loop(), []
        begin = partial(
            loop.call_soon_threadsafe,
            lambda: begun.append(asyncio.create_task(thread.run(reading(engine, [1, 2, 3], 30)))),
        )
        alone = (await thread.run(running_on([begin])))[1]
        return alone, (await begun[0])[1]

    alone, other = run(together())

    assert alone.forwards == 21
    assert (alone.batch_size, alone.batch_positions) == (1, 1)
    assert other.batch_size == 2, "they did share one"


def test_timings_count_the_forwards_of_a_job(engine: Engine, thread: EngineThread) -> None:
    best, timings = run(thread.run(reading(engine, [1, 2], 4)))

    assert len(best) == timings.forwards == 4
    assert timings.batch_size == 1
    assert timings.compute_ns > 0
    assert timings.queue_ns > 0


def raising(engine: Engine) -> Steps[None]:
    """A job with a fault of its own."""
    slot = engine.open()
    try:
        yield Chunk(slot=slot, token_ids=[1])
        raise ZeroDivisionError("a job's own fault")
    finally:
        engine.close(slot)


def overflowing(engine: Engine) -> Steps[None]:
    """A job whose chunk no forward can take, so that the shared forward fails for all."""
    slot = engine.open()
    try:
        yield Chunk(slot=slot, token_ids=[10**6])
    finally:
        engine.close(slot)


def test_a_bad_job_fails_alone(engine: Engine, thread: EngineThread) -> None:
    async def together() -> list[object]:
        good = [thread.run(reading(engine, [1, 2, 3], 3)) for _ in range(3)]
        bad = [thread.run(raising(engine)), thread.run(overflowing(engine))]
        return list(await asyncio.gather(good[0], bad[0], good[1], bad[1], good[2], return_exceptions=True))

    alone, _ = run(thread.run(reading(engine, [1, 2, 3], 3)))
    first, fault, second, overflow, third = run(together())

    for outcome in (first, second, third):
        assert isinstance(outcome, tuple)
        assert outcome[0] == alone
    assert isinstance(fault, ZeroDivisionError)
    assert isinstance(overflow, InvalidRequestError)
    assert len([engine.open() for _ in range(engine.slots)]) == engine.slots


def test_a_cancelled_call_ends_its_job_and_frees_what_it_held(engine: Engine, thread: EngineThread) -> None:
    async def cancel_amid() -> list[int]:
        begun = threading.Event()
        call = asyncio.create_task(thread.run(endless(engine, begun)))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        best, _ = await thread.run(reading(engine, [1, 2, 3], 1))
        return best

    assert len(run(cancel_amid())) == 1
    assert len([engine.open() for _ in range(engine.slots)]) == engine.slots


def test_calls_beyond_the_bound_are_refused(engine: Engine, thread: EngineThread) -> None:
    released = threading.Event()

    async def crowd() -> None:
        thread.post(lambda: released.wait(10) and None)
        waiting = [asyncio.create_task(thread.run(reading(engine, [1], 1))) for _ in range(8)]
        held = [asyncio.create_task(thread.run(_nothing())) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(CapacityError):
            await thread.run(_nothing())
        released.set()
        await asyncio.gather(*waiting, *held)
        await thread.run(_nothing())

    run(crowd())


def _nothing() -> Steps[None]:
    return
    yield


def test_a_long_prompt_does_not_hold_up_others(
    engine: Engine, thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", 4)
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 6)
    table, queued = SessionTable(engine, max_length=MAX_LENGTH), threading.Event()
    ended: list[str] = []
    plain_forward = engine.forward

    def forward(chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        assert queued.wait(10)
        return plain_forward(chunks)

    async def ask(name: str, session: Session, length: int) -> None:
        await thread.run(table.call(session, context_of([5] * length), verify(engine, session, EMPTY_TREE)))
        ended.append(name)

    async def together() -> None:
        long_ones = [asyncio.create_task(ask("long", new_session(), 160)) for _ in range(3)]
        await asyncio.sleep(0)
        short_one = asyncio.create_task(ask("short", new_session(prompt_length=1), 1))
        await asyncio.sleep(0)
        queued.set()
        await asyncio.gather(short_one, *long_ones)

    monkeypatch.setattr(engine, "forward", forward)

    run(together())
    assert ended == ["short", "long", "long", "long"]


def test_rounds_share_a_forward_with_one_slice_of_a_prompt_at_a_time(
    engine: Engine, thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts alone share forwards, and each is cut as it would be if nothing else ran."""
    monkeypatch.setattr(sessions, "CPU_SLICE", 8)
    monkeypatch.setattr(batching, "LONG", 6)
    table, batches, queued = SessionTable(engine, max_length=MAX_LENGTH), list[list[Chunk]](), threading.Event()
    plain_forward = engine.forward

    def forward(chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        batches.append(list(chunks))
        return plain_forward(chunks)

    async def read_a_prompt(token: int) -> None:
        session = new_session(prompt_length=1)
        await thread.run(table.call(session, context_of([token] * 41), read_all(engine, session)))

    async def together() -> None:
        thread.post(lambda: queued.wait(10) and None)
        monkeypatch.setattr(engine, "forward", forward)
        calls = [*(read_a_prompt(token) for token in (1, 2, 3)), answer(engine, thread, table, "greedy", 4)]
        jobs = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        queued.set()
        await asyncio.gather(*jobs)

    run(together())

    slices = [[chunk for chunk in batch if chunk.parents is None] for batch in batches]
    beside_rounds = [len(read) for read, batch in zip(slices, batches, strict=True) if len(read) < len(batch)]
    assert beside_rounds[0] == max(beside_rounds) == 1
    assert max(map(len, slices)) > 1
    for token in (1, 2, 3):
        cut = [len(chunk.token_ids) for read in slices for chunk in read if chunk.token_ids[0] == token]
        assert cut == [8] * 5


def test_prompts_that_begin_alike_and_come_at_once_are_read_once(
    thread: EngineThread, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", 16)
    table = SessionTable(engine, max_length=MAX_LENGTH)
    prompts = [[*range(1, 100), *(number * 7 for _ in range(20))] for number in range(6)]

    async def next_token(prompt: list[int]) -> int:
        session = Session(new_sampler(SAMPLINGS["greedy"], prompt_length=len(prompt)))
        await thread.run(table.call(session, context_of(prompt[:-1]), read_all(engine, session)))
        verdict, _ = await thread.run(table.call(session, context_of(prompt), verify(engine, session, EMPTY_TREE)))
        return verdict.token_ids[0]

    async def together() -> list[int]:
        return await asyncio.gather(*map(next_token, prompts))

    expected = [reference_text(SAMPLINGS["greedy"], 1, prompt)[0] for prompt in prompts]
    assert run(together()) == expected
    assert table.use.reused_tokens == 5 * 96


def test_what_runs_in_the_background_waits_for_all_others_and_shares_no_forward_with_them(
    engine: Engine, thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []
    plain_forward, queued = engine.forward, threading.Event()

    def forward(chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        sizes.append([len(chunk.token_ids) for chunk in chunks])
        return plain_forward(chunks)

    monkeypatch.setattr(engine, "forward", forward)

    async def together() -> None:
        thread.post(lambda: queued.wait(10) and None)
        behind = asyncio.create_task(thread.run(reading(engine, [1, 2, 3], 2), background=True))
        await asyncio.sleep(0)
        others = [asyncio.create_task(thread.run(reading(engine, [1], times))) for times in (2, 3)]
        await asyncio.sleep(0)
        queued.set()
        await asyncio.gather(behind, *others)

    run(together())

    assert sizes == [[1, 1], [1, 1], [1], [3], [3]]


def test_closing_fails_the_calls_that_are_not_done(engine: Engine) -> None:
    thread = EngineThread(engine)

    async def close_amid() -> None:
        begun = threading.Event()
        call = asyncio.create_task(thread.run(endless(engine, begun)))
        await asyncio.to_thread(begun.wait, 10)
        await asyncio.to_thread(thread.close)
        with pytest.raises(DrainingError):
            await call
        with pytest.raises(DrainingError):
            await thread.run(_nothing())

    run(close_amid())


def test_torch_never_runs_on_the_event_loop(engine: Engine, thread: EngineThread) -> None:
    threads: set[int] = set()

    def noting() -> Steps[None]:
        threads.add(threading.get_ident())
        slot = engine.open()
        yield Chunk(slot=slot, token_ids=[1])
        threads.add(threading.get_ident())
        assert torch.is_inference_mode_enabled()
        engine.close(slot)

    run(thread.run(noting()))

    assert len(threads) == 1
    assert threading.get_ident() not in threads


def endless(engine: Engine, begun: threading.Event) -> Steps[None]:
    """Work that never ends by itself."""
    slot = engine.open()
    try:
        while True:
            begun.set()
            yield Chunk(slot=slot, token_ids=[1])
            engine.truncate(slot, 0)
    finally:
        engine.close(slot)


def test_work_for_idle_time_ends_when_there_is_other_work(engine: Engine, thread: EngineThread) -> None:
    """It shares no forward with it, and gives back what it held."""
    begun = threading.Event()

    async def interrupt() -> int:
        idle = asyncio.create_task(thread.run(endless(engine, begun), gives_way=True))
        await asyncio.to_thread(begun.wait, 10)
        _, timings = await thread.run(reading(engine, [1, 2, 3], 2))
        with pytest.raises(GaveWayError):
            await idle
        return timings.batch_size

    assert run(interrupt()) == 1
    assert len([engine.open() for _ in range(engine.slots)]) == engine.slots


def test_work_for_idle_time_that_comes_amid_other_work_is_begun_but_not_forwarded(
    engine: Engine, thread: EngineThread
) -> None:
    """A session must take its context even if there is no time for more: the next call builds on it."""
    busy, begun, queued = threading.Event(), threading.Event(), threading.Event()

    async def interrupt() -> None:
        long = asyncio.create_task(thread.run(endless(engine, busy)))
        await asyncio.to_thread(busy.wait, 10)
        thread.post(lambda: queued.wait(10) and None)
        idle = asyncio.create_task(thread.run(endless(engine, begun), gives_way=True))
        await asyncio.sleep(0)
        queued.set()
        with pytest.raises(GaveWayError):
            await idle
        long.cancel()

    run(interrupt())
    assert begun.is_set()


def test_work_for_idle_time_is_not_counted_among_the_calls_that_wait(engine: Engine, thread: EngineThread) -> None:
    begun = threading.Event()

    async def crowd() -> list[object]:
        idle = [asyncio.create_task(thread.run(endless(engine, begun), gives_way=True)) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 10)
        calls = [thread.run(_nothing()) for _ in range(16)]
        await asyncio.gather(*calls)
        return await asyncio.gather(*idle, return_exceptions=True)

    assert all(isinstance(ended, GaveWayError) for ended in run(crowd()))


def test_where_no_processor_is_spare_idle_work_is_tried_less_and_less_often() -> None:
    """And as before once there has been one for a while."""
    spare = SpareProcessor()

    def tried(pieces: int, share: float) -> int:
        asked = left = 0
        for _ in range(pieces):
            if left:
                left -= 1
                continue
            asked += 1
            spare.learn(share)
            left = spare.rest
        return asked

    assert tried(100, 1.0) == 100
    assert tried(2000, 0.5) <= 2000 // batching.LONGEST_REST + 8
    assert tried(4 * batching.LONGEST_REST + 100, 1.0) >= 100
    assert tried(100, 1.0) == 100
